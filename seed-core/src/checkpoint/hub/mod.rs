//! Fetching published weights: a repository of a model hub, or a plain address -> files on disk, whole and verified.
//!
//! | file | holds |
//! |---|---|
//! | `settings` | [`Settings`]: endpoint, cache, token, patience; from the environment, as Python's `huggingface_hub` reads it |
//! | `names` | [`Repo`], and what files and repositories may be named |
//! | `known` | [`Known`]: the models that have a name of their own, with their licences |
//! | `metadata` | [`Hub::list`]: what a hub says before anything is fetched |
//! | `select` | [`Selection`]: the files of a repository that are worth fetching |
//! | `cache` | where files lie, links, locks |
//! | `client` | one request: token, redirections, refusals |
//! | `patience` | when to try again |
//! | `download` | an address to a blob, resumed where it broke off |
//! | `digest` | what content must hash to |
//! | `watch` | [`Watch`]: whether to go on, and [`Event`]: what happens |
//!
//! Source: `huggingface_hub` (`file_download.py`, `constants.py`) for the protocol, the cache's layout and the variables.
//! What differs from it: content is hashed as it arrives and refused when it is not what the etag says; files that are
//! not there are not noted (`.no_exist`); content goes over plain HTTP, never by the protocol of the hub's chunk store.

mod cache;
mod client;
mod digest;
mod download;
mod known;
mod metadata;
mod names;
mod patience;
mod select;
mod settings;
mod watch;

use std::{
    fs,
    path::{Path, PathBuf},
};

use cache::Place;
use client::{Client, Failure, Origin, Request, Subject};
use digest::Digest;
use download::Wanted;
use names::{check_path, is_commit, is_hex, is_plain};
use patience::Patience;

pub use known::{Content, KNOWN, Known, Licence};
pub use metadata::Listing;
pub use names::{MAIN, Repo};
pub use select::Selection;
pub use settings::{ENDPOINT, Settings, Token};
pub use watch::{Event, Watch};

use crate::error::{Error, Result};

/// How far a file is known to be what its source announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Check {
    /// It was on disk; it was verified when it was fetched.
    OnDisk,
    /// Its SHA-256 is the announced one.
    Sha256,
    /// Its git hash is the announced one.
    Git,
    /// No hash is known; its size is the announced one.
    Size,
    /// Neither a hash nor a size is known.
    Nothing,
}

/// A file on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its name in the repository.
    pub file: String,
    /// Where it is.
    pub path: PathBuf,
    /// Folder of the snapshot that it belongs to; `path` is this and `file`.
    pub folder: PathBuf,
    /// The commit that it is of; for a plain address, a hash of that.
    pub commit: String,
    /// Its size.
    pub bytes: u64,
    /// How far it is verified.
    pub check: Check,
}

/// A file at a plain address, without a hub that would say what it hashes to.
#[derive(Clone, Copy, Debug)]
pub struct UrlFile<'a> {
    /// The address.
    pub url: &'a str,
    /// Its name on disk.
    pub file: &'a str,
    /// Its size, if known.
    pub size: Option<u64>,
    /// Its SHA-256 as 64 lower-case hexadecimal digits, if known. Without it, it is not checksummed.
    pub sha256: Option<&'a str>,
}

/// A model hub and the folder of what was fetched from it.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    client: Client,
}

impl Hub {
    /// A hub with these settings.
    ///
    /// # Errors
    /// [`Error::Argument`]: an endpoint that is no address.
    pub fn new(mut settings: Settings) -> Result<Self> {
        settings.endpoint = settings::check_endpoint(&settings.endpoint)?;
        Ok(Self { client: Client::new(&settings), settings })
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A file of a repository, from the disk or else from the hub.
    ///
    /// # Errors
    /// [`Error::NeedsToken`], [`Error::Gated`], [`Error::NotOnHub`]; [`Error::Network`], [`Error::HttpStatus`] and
    /// [`Error::NotAHub`]; [`Error::Damaged`] when it arrived wrong twice; [`Error::NotCached`] when only what is on
    /// disk may be used; [`Error::Argument`] for a name that leads out of the repository; [`Error::Read`] and
    /// [`Error::Write`]; [`Error::Interrupted`].
    pub fn file(&self, repo: &Repo, file: &str, watch: &mut Watch<'_>) -> Result<Fetched> {
        check_path("file", file)?;
        watch.go_on()?;
        let place = Place::of_repo(&self.settings, repo);
        // What a commit holds never changes, so there is nothing to ask.
        if (self.settings.offline || is_commit(repo.revision()))
            && let Some(commit) = place.commit_of(repo.revision())
            && let Some(path) = place.find(&commit, file)
        {
            return on_disk(&place, &commit, file, path);
        }
        if self.settings.offline {
            let name = format!("{file} of {} at {}", repo.id(), repo.revision());
            return Err(Error::NotCached { name, cache: self.settings.cache.clone() });
        }
        let metadata = self.metadata(repo, file, watch)?;
        let there = place.find(&metadata.commit, file).map(|path| on_disk(&place, &metadata.commit, file, path));
        let fetched = match there.transpose()?.filter(|there| metadata.size.is_none_or(|size| size == there.bytes)) {
            Some(there) => there,
            None => {
                let url = self.address(&repo.at(&metadata.commit), file);
                let wanted = Wanted {
                    file,
                    url: &url,
                    subject: Subject::Hub { repo, file: Some(file) },
                    key: &metadata.etag,
                    size: metadata.size,
                    digest: metadata.digest,
                    resumable: true,
                };
                self.fetch(&place, &metadata.commit, &wanted, watch)?
            }
        };
        place.set_ref(repo.revision(), &metadata.commit)?;
        Ok(fetched)
    }

    /// The files of a repository that SEED reads, all of one commit; in the order of the hub's list.
    ///
    /// From the disk alone, they are those of the snapshot, which for a diffusion model must have every part that
    /// `selection` names and its `model_index.json` lists.
    ///
    /// # Errors
    /// As [`Hub::file`]; [`Error::NotOnHub`] also when nothing of the repository is wanted.
    pub fn folder(&self, repo: &Repo, selection: &Selection<'_>, watch: &mut Watch<'_>) -> Result<Vec<Fetched>> {
        let place = Place::of_repo(&self.settings, repo);
        let (commit, files) = if self.settings.offline {
            self.on_disk_listing(&place, repo, selection)?
        } else {
            let listing = self.list(repo, watch)?;
            (listing.commit, selection.choose(&listing.files))
        };
        if let Some(name) = selection.lack(&files) {
            let endpoint = self.settings.endpoint.clone();
            let page = format!("{endpoint}/{}/tree/{}", repo.id(), repo.revision());
            return Err(Error::NotOnHub { what: "file", name: format!("{name} in {}", repo.id()), endpoint, page });
        }
        let at = repo.at(&commit);
        let fetched = files.iter().map(|file| self.file(&at, file, watch)).collect::<Result<Vec<_>>>()?;
        // Only now: until all of it is here, the revision stands where it stood for those who look at the disk alone.
        place.set_ref(repo.revision(), &commit)?;
        Ok(fetched)
    }

    fn on_disk_listing(&self, place: &Place, repo: &Repo, selection: &Selection<'_>) -> Result<(String, Vec<String>)> {
        let lacks = |what: String| {
            let name = format!("{what} of {} at {}", repo.id(), repo.revision());
            Error::NotCached { name, cache: self.settings.cache.clone() }
        };
        let commit = place.commit_of(repo.revision()).filter(|commit| place.snapshot(commit).is_dir());
        let commit = commit.ok_or_else(|| lacks("a snapshot".to_owned()))?;
        let folder = place.snapshot(&commit);
        let mut files = Vec::new();
        walk(&folder, "", &mut files).map_err(|source| Error::Read { path: folder.clone(), source })?;
        files.sort();
        let files = selection.choose(&files);
        match selection.missing_part(&files, fs::read(folder.join(select::DIFFUSERS)).ok().as_deref()) {
            Some(part) => Err(lacks(part)),
            None => Ok((commit, files)),
        }
    }

    /// A file from a plain address, which gets no token. Once fetched, it is not asked for again.
    ///
    /// # Errors
    /// As [`Hub::file`].
    pub fn url(&self, wanted: &UrlFile<'_>, watch: &mut Watch<'_>) -> Result<Fetched> {
        let &UrlFile { url, file, size, sha256 } = wanted;
        check_path("file", file)?;
        watch.go_on()?;
        let argument = |name, value: &str, reason: &str| Error::Argument {
            name,
            value: value.to_owned(),
            reason: reason.to_owned(),
        };
        let origin = Origin::of(url).ok_or_else(|| argument("url", url, "it must begin with http:// or https://"))?;
        if let Some(wrong) = sha256.filter(|hash| hash.len() != 64 || !is_hex(hash)) {
            return Err(argument("sha256", wrong, "it must be 64 hexadecimal digits in lower case"));
        }
        let place = Place::of_host(&self.settings, &origin.folder());
        let commit = &digest::sha256(url)[..40];
        if let Some(path) = place.find(commit, file) {
            let there = on_disk(&place, commit, file, path)?;
            if size.is_none_or(|size| size == there.bytes) {
                return Ok(there);
            }
        }
        if self.settings.offline {
            return Err(Error::NotCached { name: url.to_owned(), cache: self.settings.cache.clone() });
        }
        let (etag, found) = self.url_metadata(url, file, watch)?;
        let known = sha256.map(str::to_owned).or(etag);
        let blob = Wanted {
            file,
            url,
            subject: Subject::Url,
            resumable: known.is_some(),
            key: &known.unwrap_or_else(|| digest::sha256(url)),
            size: size.or(found),
            digest: sha256.map(|hash| Digest::Sha256(hash.to_owned())),
        };
        self.fetch(&place, commit, &blob, watch)
    }

    /// Etag and size of what is at a plain address, as far as it says.
    fn url_metadata(&self, url: &str, file: &str, watch: &mut Watch<'_>) -> Result<(Option<String>, Option<u64>)> {
        let timeout = self.settings.metadata_timeout;
        let request = Request { url, head: true, from: 0, stay: false, timeout, subject: Subject::Url };
        let answer = Patience::new(&self.settings).run(file, watch, || match self.client.send(&request) {
            Ok(answer) => Ok(Some(answer)),
            // Some hosts sign addresses for one method alone.
            Err(Failure::Lasting(Error::HttpStatus { status: 403 | 405 | 501, .. })) => Ok(None),
            Err(failure) => Err(failure),
        })?;
        let Some(answer) = answer else { return Ok((None, None)) };
        let etag = answer.etag().filter(|etag| is_plain(etag)).map(str::to_owned);
        Ok((etag, metadata::size(&answer)))
    }

    /// Fetches a blob and puts it into a snapshot.
    fn fetch(&self, place: &Place, commit: &str, wanted: &Wanted<'_>, watch: &mut Watch<'_>) -> Result<Fetched> {
        let bytes = download::fetch(&self.client, &self.settings, place, wanted, watch)?;
        let path = place.link(commit, wanted.file, wanted.key)?;
        let check = match (&wanted.digest, wanted.size) {
            (Some(Digest::Sha256(_)), _) => Check::Sha256,
            (Some(Digest::Git(_)), _) => Check::Git,
            (None, Some(_)) => Check::Size,
            (None, None) => Check::Nothing,
        };
        let (file, folder, commit) = (wanted.file.to_owned(), place.snapshot(commit), commit.to_owned());
        Ok(Fetched { file, path, folder, commit, bytes, check })
    }
}

fn on_disk(place: &Place, commit: &str, file: &str, path: PathBuf) -> Result<Fetched> {
    let bytes = fs::metadata(&path).map_err(|source| Error::Read { path: path.clone(), source })?.len();
    let (file, folder, commit) = (file.to_owned(), place.snapshot(commit), commit.to_owned());
    Ok(Fetched { file, path, folder, commit, bytes, check: Check::OnDisk })
}

/// Lists the files below a folder whose content is there, as paths with `/`.
fn walk(folder: &Path, prefix: &str, files: &mut Vec<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().map(|name| format!("{prefix}{name}")) else { continue };
        // Folders are never links here; a link to a folder would let this go in circles.
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &format!("{name}/"), files)?;
        } else if entry.path().is_file() {
            files.push(name);
        }
    }
    Ok(())
}
