//! What a hub says about a file and about a repository, before anything is fetched.

use serde::Deserialize;

use super::{
    Event, Hub, Watch,
    client::{Answer, Failure, Request, Subject, shown},
    digest::Digest,
    names::{Repo, check_path, encode, is_commit, is_plain},
    patience::Patience,
};
use crate::error::{Error, Result};

/// Longest list of files that is read, in bytes.
const LONGEST_LIST: u64 = 64 << 20;

/// What a hub says about one file.
pub(super) struct Metadata {
    pub(super) commit: String,
    /// Name of the blob.
    pub(super) etag: String,
    pub(super) size: Option<u64>,
    pub(super) digest: Option<Digest>,
}

/// What a hub says about a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The commit that the revision stands at.
    pub commit: String,
    /// The files, as relative paths with `/`.
    pub files: Vec<String>,
    /// The licence that the model card names.
    pub license: Option<String>,
}

/// The part of the hub's answer that is read.
#[derive(Deserialize)]
struct Model {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
    #[serde(rename = "cardData")]
    card: Option<Card>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

#[derive(Default, Deserialize)]
struct Card {
    #[serde(default)]
    license: serde_json::Value,
    #[serde(default)]
    license_name: serde_json::Value,
}

impl Card {
    /// The licence: a name, a list of names, or "other" with a name of its own.
    fn license(&self) -> Option<String> {
        use serde_json::Value;
        let license = match &self.license {
            Value::String(name) if name == "other" => self.license_name.as_str().unwrap_or(name).to_owned(),
            Value::String(name) => name.clone(),
            Value::Array(names) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            _ => return None,
        };
        Some(license.chars().filter(|c| !c.is_control()).take(200).collect()).filter(|name: &String| !name.is_empty())
    }
}

impl Hub {
    /// The files of a repository and its licence.
    ///
    /// # Errors
    /// [`Error::Network`], [`Error::HttpStatus`], [`Error::NeedsToken`], [`Error::Gated`], [`Error::NotOnHub`] and
    /// [`Error::NotAHub`]; [`Error::NotCached`] when only what is on disk may be used; [`Error::Interrupted`].
    pub fn list(&self, repo: &Repo, watch: &mut Watch<'_>) -> Result<Listing> {
        if self.settings.offline {
            let (name, cache) = (format!("the list of files of {}", repo.id()), self.settings.cache.clone());
            return Err(Error::NotCached { name, cache });
        }
        Patience::new(&self.settings).run(repo.id(), watch, || self.ask_list(repo))
    }

    /// The licence that a repository's model card names, asked for once: nothing depends on it.
    pub fn license(&self, repo: &Repo) -> Option<String> {
        if self.settings.offline {
            return None;
        }
        self.ask_list(repo).ok()?.license
    }

    fn ask_list(&self, repo: &Repo) -> Result<Listing, Failure> {
        let revision = encode(repo.revision(), "");
        let url = format!("{}/api/models/{}/revision/{revision}", self.settings.endpoint, repo.id());
        let not_a_hub = |reason: String| Failure::Lasting(Error::NotAHub { url: shown(&url), reason });
        let mut answer = self.client.send(&Request {
            url: &url,
            head: false,
            from: 0,
            stay: false,
            timeout: self.settings.metadata_timeout,
            subject: Subject::Hub { repo, file: None },
        })?;
        let text = answer.body.with_config().limit(LONGEST_LIST).read_to_vec();
        let text =
            text.map_err(|e| Failure::Passing(Error::Network { url: shown(&url), source: e.into_io() }, None))?;
        let model: Model =
            serde_json::from_slice(&text).map_err(|e| not_a_hub(format!("it is not a list of files: {e}")))?;
        if !is_commit(&model.sha) {
            return Err(not_a_hub(format!("its sha is {:?}, which is no commit", model.sha)));
        }
        let files: Vec<String> = model.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        for file in &files {
            check_path("file in the hub's list", file)?;
        }
        Ok(Listing { commit: model.sha, files, license: model.card.unwrap_or_default().license() })
    }

    /// Commit, hash and size of a file.
    pub(super) fn metadata(&self, repo: &Repo, file: &str, watch: &mut Watch<'_>) -> Result<Metadata> {
        let url = self.address(repo, file);
        let request = Request {
            url: &url,
            head: true,
            from: 0,
            stay: true,
            timeout: self.settings.metadata_timeout,
            subject: Subject::Hub { repo, file: Some(file) },
        };
        (watch.report)(Event::Ask { file });
        let answer = Patience::new(&self.settings).run(file, watch, || self.client.send(&request))?;
        let not_a_hub = |reason: &str| Error::NotAHub { url: shown(&url), reason: reason.to_owned() };
        // A plain copy of a hub's files does not say which commit they are of; whoever asks for a commit knows it.
        let own = Some(repo.revision()).filter(|revision| is_commit(revision));
        let commit = answer.header("X-Repo-Commit").or(own).filter(|commit| is_plain(commit));
        let commit = commit.ok_or_else(|| not_a_hub("it lacks the commit (X-Repo-Commit)"))?;
        let etag = answer.etag().filter(|etag| is_plain(etag));
        let etag = etag.ok_or_else(|| not_a_hub("it lacks the content's hash (ETag)"))?;
        Ok(Metadata {
            commit: commit.to_owned(),
            etag: etag.to_owned(),
            size: size(&answer),
            digest: Digest::of_etag(etag),
        })
    }

    /// The address of a file.
    pub(super) fn address(&self, repo: &Repo, file: &str) -> String {
        let (revision, file) = (encode(repo.revision(), ""), encode(file, "/"));
        format!("{}/{}/resolve/{revision}/{file}", self.settings.endpoint, repo.id())
    }
}

/// The size of the content. A redirection's own length is not it.
pub(super) fn size(answer: &Answer) -> Option<u64> {
    let own = || if answer.is_content() { answer.number("Content-Length") } else { None };
    answer.number("X-Linked-Size").or_else(own)
}
