//! What a file must hash to, and the hashing of what arrives.

use std::{fs::File, io::Read as _, path::Path};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::{super::files::hexadecimal, Watch, names::is_hex};
use crate::error::{Error, Result};

/// Bytes that are read at once.
pub(super) const CHUNK: usize = 1 << 18;

/// What a file must hash to. A hub's etag is such a hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Digest {
    /// SHA-256 of the content, for files in a hub's large file storage.
    Sha256(String),
    /// SHA-1 of `blob`, the length and the content, as git names a file.
    Git(String),
}

impl Digest {
    /// The hash that an etag is, if it is one: 64 or 40 hexadecimal digits.
    pub(super) fn of_etag(etag: &str) -> Option<Self> {
        match etag.len() {
            64 if is_hex(etag) => Some(Self::Sha256(etag.to_owned())),
            40 if is_hex(etag) => Some(Self::Git(etag.to_owned())),
            _ => None,
        }
    }

    /// The name of the hash, for messages.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha256",
            Self::Git(_) => "git hash",
        }
    }

    /// The hash as hexadecimal digits.
    pub(super) fn value(&self) -> &str {
        let (Self::Sha256(value) | Self::Git(value)) = self;
        value
    }

    /// Hashes nothing yet. Git's hash begins with the length, so a file of unknown size has none while it arrives.
    pub(super) fn hasher(&self, size: Option<u64>) -> Option<Hasher> {
        match (self, size) {
            (Self::Sha256(_), _) => Some(Hasher::Sha256(Sha256::new())),
            (Self::Git(_), Some(size)) => Some(Hasher::Git(Sha1::new_with_prefix(format!("blob {size}\0")))),
            (Self::Git(_), None) => None,
        }
    }
}

/// A hash of what came so far.
pub(super) enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Git(hasher) => hasher.update(bytes),
        }
    }

    /// Takes in a whole file.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Interrupted`].
    pub(super) fn update_from(&mut self, path: &Path, watch: &Watch<'_>) -> Result<()> {
        let fail = |source| Error::Read { path: path.into(), source };
        let mut file = File::open(path).map_err(fail)?;
        let mut chunk = vec![0; CHUNK];
        loop {
            watch.go_on()?;
            match file.read(&mut chunk).map_err(fail)? {
                0 => return Ok(()),
                count => self.update(&chunk[..count]),
            }
        }
    }

    /// The hash as hexadecimal digits.
    pub(super) fn finish(self) -> String {
        match self {
            Self::Sha256(hasher) => hexadecimal(&hasher.finalize()),
            Self::Git(hasher) => hexadecimal(&hasher.finalize()),
        }
    }
}

/// SHA-256 of a text, as hexadecimal digits.
pub(super) fn sha256(text: &str) -> String {
    let mut hasher = Hasher::Sha256(Sha256::new());
    hasher.update(text.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `git hash-object` and `sha256sum`.
    #[test]
    fn hashes_are_those_of_git_and_sha256sum() {
        let git = Digest::of_etag("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        let mut hasher = git.hasher(Some(6)).unwrap();
        hasher.update(b"hel");
        hasher.update(b"lo\n");
        assert_eq!((git.name(), hasher.finish().as_str()), ("git hash", git.value()));
        assert_eq!(sha256("hello\n"), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
        assert_eq!(Digest::of_etag(&sha256("")).unwrap().name(), "sha256");
        for other in ["", "d41d8cd98f00b204e9800998ecf8427e", &"A".repeat(64), &"z".repeat(40)] {
            assert_eq!(Digest::of_etag(other), None);
        }
    }
}
