//! The folder of what was fetched, laid out as Python's `huggingface_hub` does, so that each finds what the other
//! fetched:
//!
//! ```text
//! models--OWNER--NAME/
//!   blobs/ETAG                  content, by its hash
//!   blobs/ETAG.incomplete       what has arrived of it so far
//!   snapshots/COMMIT/FILE       link to ../../blobs/ETAG
//!   refs/REVISION               the commit that a branch or a tag stood at
//! .locks/models--OWNER--NAME/ETAG.lock
//! ```
//!
//! Files from plain addresses are laid out alike, in `urls--HOST`, with a hash of the address for the commit.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Event, Settings, Watch,
    names::{Repo, is_commit, is_plain},
};
use crate::{
    atomic,
    error::{Error, Result},
};

/// Time between two looks at a lock that another holds.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// The folder of one repository.
#[derive(Debug)]
pub(super) struct Place {
    folder: PathBuf,
    locks: PathBuf,
    symlinks: bool,
}

impl Place {
    /// The place of a repository.
    pub(super) fn of_repo(settings: &Settings, repo: &Repo) -> Self {
        Self::new(settings, &repo.folder())
    }

    /// The place of what a host has under plain addresses.
    pub(super) fn of_host(settings: &Settings, host: &str) -> Self {
        Self::new(settings, &format!("urls--{host}"))
    }

    fn new(settings: &Settings, name: &str) -> Self {
        let locks = settings.cache.join(".locks").join(name);
        Self { folder: settings.cache.join(name), locks, symlinks: settings.symlinks }
    }

    pub(super) fn blob(&self, key: &str) -> PathBuf {
        self.folder.join("blobs").join(key)
    }

    pub(super) fn partial(&self, key: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{key}.incomplete"))
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The file at a commit, if its content is there.
    pub(super) fn find(&self, commit: &str, file: &str) -> Option<PathBuf> {
        let path = self.snapshot(commit).join(file);
        path.is_file().then_some(path)
    }

    /// The commit that a revision stood at when it was last asked for; a commit stands at itself.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_plain(commit))
    }

    /// Notes the commit that a revision stands at.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(super) fn set_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit || self.commit_of(revision).is_some_and(|known| known == commit) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        create_parent(&path)?;
        atomic::write(&path, commit.as_bytes())
    }

    /// Puts the blob `key` into a snapshot as `file`: a link, or a copy where links are impossible.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(super) fn link(&self, commit: &str, file: &str, key: &str) -> Result<PathBuf> {
        let path = self.snapshot(commit).join(file);
        create_parent(&path)?;
        let up = "../".repeat(2 + file.matches('/').count());
        let target = format!("{up}blobs/{key}");
        if self.symlinks && replace_with_link(&path, Path::new(&target)).is_ok() {
            return Ok(path);
        }
        let blob = self.blob(key);
        atomic::write_with(&path, |beside| {
            fs::copy(&blob, beside).map(drop).map_err(|source| Error::Write { path: path.clone(), source })
        })?;
        Ok(path)
    }

    /// Takes the lock of a blob, so that no two programs write it at a time; waits for it as long as it takes. It ends
    /// with the file that is returned, and with the program, however that ends.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Interrupted`].
    pub(super) fn lock(&self, key: &str, file: &str, watch: &mut Watch<'_>) -> Result<File> {
        let path = self.locks.join(format!("{key}.lock"));
        create_parent(&path)?;
        let fail = |source| Error::Write { path: path.clone(), source };
        let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(fail)?;
        let mut told = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) if !told => {
                    (watch.report)(Event::Locked { file });
                    told = true;
                }
                Err(TryLockError::WouldBlock) => watch.sleep(LOCK_POLL)?,
                // Some network file systems have no locks. Then nothing keeps two programs apart, but each verifies
                // what it has before it gets its name.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => return Ok(lock),
                Err(TryLockError::Error(source)) => return Err(fail(source)),
            }
        }
    }

    /// Creates the folder of the blobs.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(super) fn create(&self) -> Result<()> {
        create_parent(&self.blob("any"))
    }
}

fn create_parent(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.into(), source })
}

/// Makes `path` a link to `target`, in one step: whoever looks sees what stood there before or the link.
fn replace_with_link(path: &Path, target: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    let beside = tempfile::Builder::new().prefix(".linking-").make_in(folder, |beside| link(target, beside))?;
    beside.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(unix)]
fn link(target: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(windows)]
fn link(target: &Path, path: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, path)
}

#[cfg(not(any(unix, windows)))]
fn link(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
