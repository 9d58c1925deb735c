//! What a run's folder keeps of its data: `data.json` (or `validation.json`), what they are and how long an epoch is, and `failures.jsonl`, every
//! sample that was no image with a caption, once, with its reason.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    atomic,
    dataset::{ShardInput, Skipped},
    error::{Error, Result},
};

use super::super::FAILURES;

/// Failures that an error names.
const NAMED: usize = 3;

/// The two files of a run.
#[derive(Debug)]
pub(super) struct Record {
    /// What the user calls the data.
    name: String,
    folder: PathBuf,
    /// Which of the two files says what the data are.
    file: &'static str,
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

/// What the data are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Known {
    shards: usize,
    fingerprint: String,
    /// Images with captions of each shard, once an epoch was read to its end.
    samples: Option<Vec<u64>>,
}

impl Record {
    /// The record of the data `name` in the file `file` of a run's folder; nothing is written yet.
    ///
    /// # Errors
    /// [`Error::OtherRun`] when the run was begun with other data; [`Error::Read`].
    pub(super) fn open(folder: &Path, file: &'static str, name: String, shards: &[ShardInput]) -> Result<Self> {
        let mut hash = Sha256::new();
        shards.iter().for_each(|shard| hash.update(&shard.fingerprint));
        let fingerprint = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let mut known = Known { shards: shards.len(), fingerprint, samples: None };
        if let Some(text) = read(&folder.join(file))? {
            let before: Known = serde_json::from_str(&text).map_err(|error| Error::Config {
                file: folder.join(file).display().to_string(),
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
            // A list that somebody cut would misplace every sample.
            let whole = before.samples.filter(|counts| counts.len() == before.shards && counts.iter().sum::<u64>() > 0);
            known.samples = whole;
        }
        let before = read(&folder.join(FAILURES))?.unwrap_or_default();
        let recorded = before.lines().filter_map(|line| serde_json::from_str::<Skipped>(line).ok());
        let recorded = recorded.map(|skipped| hash_of(&skipped.key)).collect();
        Ok(Self {
            name,
            folder: folder.to_owned(),
            file,
            state: Mutex::new(State { known, recorded, named: Vec::new() }),
        })
    }

    /// Writes what the data are, so that no others take their place.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(super) fn begin(&self) -> Result<()> {
        let fail = |source| Error::Write { path: self.folder.clone(), source };
        std::fs::create_dir_all(&self.folder).map_err(fail)?;
        self.write(&self.lock().known)
    }

    /// Images with captions of each shard, if that is known.
    pub(super) fn counts(&self) -> Option<Arc<[u64]>> {
        self.lock().known.samples.clone().map(Into::into)
    }

    /// Keeps the images with captions of each shard, once an epoch was read to its end.
    pub(super) fn set_counts(&self, counts: Vec<u64>) -> Result<()> {
        let mut state = self.lock();
        state.known.samples = Some(counts);
        self.write(&state.known)
    }

    /// The file that says what the data are.
    pub(super) fn file(&self) -> PathBuf {
        self.folder.join(self.file)
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
        atomic::write(&self.file(), &serde_json::to_vec_pretty(known).expect("numbers and a name are JSON"))
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
