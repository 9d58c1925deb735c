//! Names that come from people and servers, checked before they become paths and addresses.
//!
//! What a hub lists is written below the cache's folder, so no name may lead out of it: no `..`, nothing absolute, no
//! backslash, colon or control character, on any system.

use crate::error::{Error, Result};

/// The branch that a repository is read from when nothing else is said.
pub const MAIN: &str = "main";

/// A repository of a hub at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    id: String,
    revision: String,
}

impl Repo {
    /// A repository `OWNER/NAME` (or `NAME`, as the oldest have it) at a branch, a tag or a commit.
    ///
    /// # Errors
    /// [`Error::Argument`]: a name that no repository or revision can have.
    pub fn new(id: &str, revision: &str) -> Result<Self> {
        let letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let part = |part: &str| {
            let ends = |c: char| part.starts_with(c) || part.ends_with(c);
            !part.is_empty() && part.len() <= 96 && part.chars().all(letter) && !ends('.') && !ends('-')
        };
        let parts: Vec<&str> = id.split('/').collect();
        if parts.len() > 2 || !parts.into_iter().all(part) || id.contains("..") || id.contains("--") {
            let reason = "a repository is named OWNER/NAME, of letters, digits, single -, _ and .".to_owned();
            return Err(Error::Argument { name: "repository", value: id.to_owned(), reason });
        }
        check_path("revision", revision)?;
        Ok(Self { id: id.to_owned(), revision: revision.to_owned() })
    }

    /// `OWNER/NAME`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The same repository at another revision, of a name that was checked.
    pub(super) fn at(&self, commit: &str) -> Self {
        Self { id: self.id.clone(), revision: commit.to_owned() }
    }

    /// The name of its folder in the cache.
    pub(super) fn folder(&self) -> String {
        format!("models--{}", self.id.replace('/', "--"))
    }
}

/// Whether a revision is a whole commit hash: what it names never changes.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && is_hex(revision)
}

/// Whether all characters are hexadecimal digits as hashes are written.
pub(super) fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A relative path with `/` between its parts that stays below the folder that it is joined to.
///
/// # Errors
/// [`Error::Argument`] that says what `what` may be.
pub(super) fn check_path(what: &'static str, path: &str) -> Result<()> {
    let part = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= 255;
    let letter = |c: char| !c.is_control() && c != '\\' && c != ':';
    if path.len() <= 1024 && path.split('/').all(part) && path.chars().all(letter) {
        return Ok(());
    }
    let reason = "it must be a relative path with / between its parts, without ., .., \\, : and control characters";
    Err(Error::Argument { name: what, value: path.escape_debug().to_string(), reason: reason.to_owned() })
}

/// Whether a name from a server (a commit, an etag) can be the name of a file.
pub(super) fn is_plain(name: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=128).contains(&name.len()) && name.bytes().all(letter) && !name.starts_with('.')
}

/// Percent-encodes all but the characters that stand for themselves anywhere in an address, and those in `keep`.
pub(super) fn encode(text: &str, keep: &str) -> String {
    let stays = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || keep.as_bytes().contains(&b);
    let letter = |b: u8| if stays(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_have_two_plain_parts() {
        for good in ["gpt2", "AILab-CVC/seed-tokenizer-2", "a/b.c_d"] {
            assert_eq!(Repo::new(good, MAIN).unwrap().id(), good);
        }
        for bad in ["", "/", "a/", "/b", "a/b/c", "../b", "a/..", "a b/c", "a\\b", "a--b/c", "a/.b", "a/b\0", "a/b?c"] {
            assert!(matches!(Repo::new(bad, MAIN), Err(Error::Argument { name: "repository", .. })), "{bad:?}");
        }
    }

    #[test]
    fn paths_stay_inside() {
        for good in ["config.json", "unet/config.json", "refs/pr/1", "ä b.txt", "...json"] {
            check_path("file", good).unwrap();
        }
        for bad in ["", "/etc/passwd", "..", "a/../b", "a//b", "a/", "./a", "a\\b", "C:a", "a\0b", "a\nb"] {
            assert!(check_path("file", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn addresses_are_encoded() {
        assert_eq!(encode("a b/ä+%.txt", "/"), "a%20b/%C3%A4%2B%25.txt");
        assert_eq!(encode("refs/pr/1", ""), "refs%2Fpr%2F1");
    }
}
