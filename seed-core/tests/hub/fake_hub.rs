//! A hub with one repository and a host for its large files, and a folder to fetch into.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest as _, Sha256};

use crate::server::{Reply, Request, Server};

pub(crate) const REPO: &str = "owner/model";
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The content of a large file: longer than one read, and no part of it like another.
pub(crate) fn large() -> Vec<u8> {
    (0..400_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 8).to_le_bytes()).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The hash that git gives a file.
pub(crate) fn git(bytes: &[u8]) -> String {
    let mut hasher = sha1::Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hex(&hasher.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn is_large(name: &str) -> bool {
    [".safetensors", ".bin", ".pt", ".pth"].iter().any(|ending| name.ends_with(ending))
}

/// The servers and the folder of one test.
pub(crate) struct FakeHub {
    pub(crate) hub: Server,
    /// Where large files are kept; the hub redirects there.
    pub(crate) store: Server,
    pub(crate) folder: tempfile::TempDir,
}

impl FakeHub {
    /// A hub with these files, whose answers are changed by `tweak`, and whose store's by `tweak_store`.
    pub(crate) fn tweaked(
        files: &[(&str, &[u8])],
        tweak: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
        tweak_store: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let files: BTreeMap<String, Vec<u8>> =
            files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        let files = Arc::new(files);
        let stored = Arc::clone(&files);
        let store = Server::start(move |request| {
            let key = request.path.trim_start_matches('/').split('?').next().unwrap();
            let file = stored.values().find(|bytes| sha256(bytes) == key);
            tweak_store(request, file.map_or(Reply::new(404), |bytes| part(request, bytes)))
        });
        let at = store.url();
        let hub = Server::start(move |request| tweak(request, answer(request, &files, &at)));
        Self { hub, store, folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn new(files: &[(&str, &[u8])]) -> Self {
        Self::tweaked(files, |_, reply| reply, |_, reply| reply)
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// A path in the repository's folder of the cache.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.cache().join("models--owner--model").join(name)
    }
}

/// What a well-behaved hub answers.
fn answer(request: &Request, files: &BTreeMap<String, Vec<u8>>, store: &str) -> Reply {
    if request.path.starts_with(&format!("/api/models/{REPO}/revision/")) {
        let names: Vec<String> = files.keys().map(|name| format!("{{\"rfilename\": \"{name}\"}}")).collect();
        let names = names.join(", ");
        let body =
            format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{names}], \"cardData\": {{\"license\": \"mit\"}}}}");
        return Reply::new(200).body(body.as_bytes());
    }
    let name = request.path.strip_prefix(&format!("/{REPO}/resolve/")).and_then(|rest| rest.split_once('/'));
    let Some((name, bytes)) = name.and_then(|(_, name)| files.get_key_value(name)) else {
        return Reply::new(404).header("X-Error-Code", "EntryNotFound");
    };
    if !is_large(name) {
        return part(request, bytes).header("X-Repo-Commit", COMMIT).header("ETag", format!("\"{}\"", git(bytes)));
    }
    let hash = sha256(bytes);
    Reply::new(302)
        .header("X-Repo-Commit", COMMIT)
        .header("X-Linked-Etag", format!("\"{hash}\""))
        .header("X-Linked-Size", bytes.len())
        .header("Location", format!("{store}/{hash}?signature=secret"))
        .body(b"Found. Redirecting")
}

/// All of it, or what follows the first byte that is asked for.
pub(crate) fn part(request: &Request, bytes: &[u8]) -> Reply {
    let size = bytes.len();
    match request.from() {
        None => Reply::new(200).body(bytes),
        Some(from) if from >= size => Reply::new(416).header("Content-Range", format!("bytes */{size}")),
        Some(from) => {
            Reply::new(206).header("Content-Range", format!("bytes {from}-{}/{size}", size - 1)).body(&bytes[from..])
        }
    }
}
