//! What a run's folder keeps of its data: `data.json`, what they are and how long an epoch is, and `failures.jsonl`, every
//! sample that was no image with a caption, once, with its reason.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    atomic,
    dataset::{ShardInput, Skipped},
    error::{Error, Result},
};

/// What the data are.
const DATA: &str = "data.json";
/// What of them could not be used, one JSON object a line.
pub(super) const FAILURES: &str = "failures.jsonl";
/// Failures that an error names.
const NAMED: usize = 3;

/// The two files of a run.
#[derive(Debug)]
pub(super) struct Record {
    /// What the user calls the data.
    name: String,
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    known: Known,
    /// Hashes of the keys that are recorded: tens of millions of keys would not be kept.
    recorded: HashSet<u64>,
    /// The first of this process.
    named: Vec<Skipped>,
}

/// The content of [`DATA`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Known {
    shards: usize,
    fingerprint: String,
    /// Images with captions, once an epoch was read to its end.
    samples: Option<u64>,
}

impl Record {
    /// Opens or begins the record of the data `name` in a run's folder.
    ///
    /// # Errors
    /// [`Error::OtherRun`] when the run was begun with other data; reading and writing.
    pub(super) fn open(folder: &Path, name: String, shards: &[ShardInput]) -> Result<Self> {
        let mut hash = Sha256::new();
        shards.iter().for_each(|shard| hash.update(&shard.fingerprint));
        let fingerprint = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let mut known = Known { shards: shards.len(), fingerprint, samples: None };
        if let Some(text) = read(&folder.join(DATA))? {
            let before: Known = serde_json::from_str(&text).map_err(|error| Error::Config {
                file: folder.join(DATA).display().to_string(),
                reason: error.to_string(),
            })?;
            if (&before.fingerprint, before.shards) != (&known.fingerprint, known.shards) {
                let says =
                    |known: &Known| format!("{} shards with the fingerprint {}", known.shards, known.fingerprint);
                let (recorded, asked) = (says(&before), says(&known));
                return Err(Error::OtherRun {
                    folder: folder.to_owned(),
                    what: format!("the data {name}"),
                    recorded,
                    asked,
                });
            }
            known = before;
        }
        let before = read(&folder.join(FAILURES))?.unwrap_or_default();
        let recorded = before.lines().filter_map(|line| serde_json::from_str::<Skipped>(line).ok());
        let recorded = recorded.map(|skipped| hash_of(&skipped.key)).collect();
        let record =
            Self { name, folder: folder.to_owned(), state: Mutex::new(State { known, recorded, named: Vec::new() }) };
        record.write(&record.lock().known)?;
        Ok(record)
    }

    /// Samples of an epoch, if that is known.
    pub(super) fn samples(&self) -> Option<u64> {
        self.lock().known.samples
    }

    /// Keeps the samples of an epoch that was read to its end. Positions count by the first of them; that a later one differs
    /// is recorded as a failure, because a run that is resumed then gets other images.
    pub(super) fn set_samples(&self, samples: u64) -> Result<()> {
        let mut state = self.lock();
        match state.known.samples {
            Some(before) if before == samples => Ok(()),
            Some(before) => {
                drop(state);
                let reason = format!("an epoch had {samples} samples, the first had {before}: files changed or failed");
                self.skip(&Skipped::failed(&self.name, reason))
            }
            None => {
                state.known.samples = Some(samples);
                self.write(&state.known)
            }
        }
    }

    /// Records a sample that cannot be used, unless that is known already.
    pub(super) fn skip(&self, skipped: &Skipped) -> Result<()> {
        let mut state = self.lock();
        if state.named.len() < NAMED && !state.named.contains(skipped) {
            state.named.push(skipped.clone());
        }
        if !state.recorded.insert(hash_of(&skipped.key)) {
            return Ok(());
        }
        let mut line = serde_json::to_string(skipped).expect("names and reasons are JSON");
        line.push('\n');
        let path = self.folder.join(FAILURES);
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.map_err(|source| Error::Write { path, source })
    }

    /// That nothing can be learned from the data, with the first failures.
    pub(super) fn unusable(&self, what: &str) -> Error {
        let state = self.lock();
        let first: Vec<String> =
            state.named.iter().map(|skipped| format!("{}: {}", skipped.key, skipped.reason)).collect();
        let reason = match first.is_empty() {
            true => what.to_owned(),
            false => format!("{what} ({}); all are in {}", first.join("; "), self.folder.join(FAILURES).display()),
        };
        Error::Input { name: self.name.clone(), reason }
    }

    fn write(&self, known: &Known) -> Result<()> {
        atomic::write(&self.folder.join(DATA), &serde_json::to_vec_pretty(known).expect("numbers and a name are JSON"))
    }

    /// A thread that broke off has left the state whole: it changes in single steps.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash_of(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// A file's text; nothing where there is no file.
fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}
