//! What an output was made of and from, and what of it is done. Lies in the output's folder `__seed__`, whose name keeps
//! it out of what readers of datasets take for data:
//!
//! | file | holds |
//! |---|---|
//! | `manifest.json` | the [`Manifest`]: one for the whole output, written before the first shard |
//! | `shards/00000.json` | the [`ShardReport`]: written last, so a shard that has one is done |
//! | `failures/00000.jsonl` | the inputs of the shard that are no rows, a [`Skipped`](super::Skipped) a line |

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Filters, Shape, ShardInput};
use crate::{
    atomic,
    error::{Error, Result},
    pixels::Preset,
};

/// Folder of what is not data.
pub(super) const FOLDER: &str = "__seed__";
/// Version of the manifest's layout.
const VERSION: u32 = 1;

/// What made the codes of an output. All of it decides which codes an image gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeBy {
    /// Name of the model.
    pub model: String,
    /// SHA-256 of its weights.
    pub weights: String,
    /// How images become pixels.
    pub preprocess: Preset,
    /// DType of computation.
    pub dtype: String,
    /// Version of the program.
    pub version: String,
}

/// What an output is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this layout.
    pub manifest: u32,
    /// What made the codes.
    pub tokenizer: MadeBy,
    /// What the rows look like.
    pub shape: Shape,
    /// Format of the output, as it describes itself.
    pub format: Value,
    /// What was left out.
    pub filters: Filters,
    /// Images of more pixels are failures.
    pub max_pixels: u64,
    /// Inputs after which each process stopped.
    pub limit: Option<u64>,
    /// The inputs of each shard.
    pub inputs: Vec<ShardInput>,
}

impl Manifest {
    pub(super) fn new(tokenizer: MadeBy, shape: Shape, format: Value, filters: Filters) -> Self {
        let (max_pixels, limit, inputs) = (0, None, Vec::new());
        Self { manifest: VERSION, tokenizer, shape, format, filters, max_pixels, limit, inputs }
    }

    /// Reads the manifest of an output.
    ///
    /// # Errors
    /// [`Error::Input`] for a folder that has none, or one that cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FOLDER).join("manifest.json");
        let name = folder.display().to_string();
        let bytes = std::fs::read(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => {
                let reason = format!("it holds no {FOLDER}/manifest.json, so it is no output of seed tokenize");
                Error::Input { name, reason }
            }
            _ => Error::Read { path: path.clone(), source },
        })?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::Input { name: path.display().to_string(), reason: error.to_string() })
    }

    /// Makes `folder` this manifest's, or makes sure that it is. Of several processes that begin at once, one writes it.
    pub(super) fn claim(&self, folder: &Path) -> Result<()> {
        let own = folder.join(FOLDER);
        let fail = |source| Error::Write { path: own.clone(), source };
        let path = own.join("manifest.json");
        if !path.exists() {
            if let Some(name) = stranger(folder)? {
                return Err(Error::FolderInUse { path: folder.to_owned(), name });
            }
            std::fs::create_dir_all(&own).map_err(fail)?;
            let bytes = serde_json::to_vec_pretty(self).expect("a manifest of numbers and names is JSON");
            match atomic::write_new(&path, &bytes) {
                Ok(true) => return Ok(()),
                Err(error) if !path.exists() => return Err(error),
                Ok(false) | Err(_) => {} // another process was faster
            }
        }
        clear_leftovers(&own);
        let recorded = Self::read(folder)?;
        match self.difference(&recorded) {
            None => Ok(()),
            Some((what, recorded, asked)) => Err(Error::OtherRun { folder: folder.to_owned(), what, recorded, asked }),
        }
    }

    /// The first thing in which `recorded` differs: its name, what is recorded, and what it is now.
    fn difference(&self, recorded: &Self) -> Option<(String, String, String)> {
        if let Some(i) =
            (0..self.inputs.len().max(recorded.inputs.len())).find(|&i| self.inputs.get(i) != recorded.inputs.get(i))
        {
            let describe = |manifest: &Self| match manifest.inputs.get(i) {
                Some(input) => format!(
                    "shard {i} from {}{}, fingerprint {}",
                    input.name,
                    input.samples.map(|samples| format!(", {samples} samples")).unwrap_or_default(),
                    input.fingerprint
                ),
                None => format!("no more than {} shards", manifest.inputs.len()),
            };
            return Some(("inputs".to_owned(), describe(recorded), describe(self)));
        }
        let json = |manifest: &Self| serde_json::to_value(manifest).expect("a manifest is JSON");
        first_difference("", &json(recorded), &json(self))
    }
}

/// Removes what processes left that were killed while they wrote a manifest.
fn clear_leftovers(own: &Path) {
    let files = std::fs::read_dir(own).into_iter().flatten().flatten();
    let left = files.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b".writing-"));
    for entry in left.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())) {
        let _ = std::fs::remove_file(entry.path());
    }
}

/// Depth first, in the order of the names.
fn first_difference(name: &str, recorded: &Value, asked: &Value) -> Option<(String, String, String)> {
    match (recorded, asked) {
        _ if recorded == asked => None,
        (Value::Object(one), Value::Object(two)) if one.keys().eq(two.keys()) => one.iter().find_map(|(key, value)| {
            let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            first_difference(&name, value, &two[key])
        }),
        _ => Some((name.to_owned(), recorded.to_string(), asked.to_string())),
    }
}

/// Something in `folder` that is not of an output; nothing when there is no such folder.
fn stranger(folder: &Path) -> Result<Option<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Read { path: folder.to_owned(), source }),
    };
    for entry in entries {
        let entry = entry.map_err(|source| Error::Read { path: folder.to_owned(), source })?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != FOLDER {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// A file of a finished shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenFile {
    /// From the output's folder on.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes.
    pub sha256: String,
}

/// What became of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardReport {
    /// Name of its input.
    pub input: String,
    /// Inputs in it: rows, failed and filtered together.
    pub inputs: u64,
    /// Samples that became rows.
    pub rows: u64,
    /// Images in the rows.
    pub images: u64,
    /// Inputs that could not be read.
    pub failed: u64,
    /// Inputs that the filters left out.
    pub filtered: u64,
    /// Its files, the record of failures among them.
    pub files: Vec<WrittenFile>,
}

impl ShardReport {
    pub(super) fn path(folder: &Path, shard: usize) -> PathBuf {
        folder.join(FOLDER).join("shards").join(format!("{shard:05}.json"))
    }

    /// The report of a shard, if it is done.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::Input`] for what is no report.
    pub fn read(folder: &Path, shard: usize) -> Result<Option<Self>> {
        let path = Self::path(folder, shard);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| Error::Input { name: path.display().to_string(), reason: error.to_string() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Read { path, source }),
        }
    }

    /// As it is written.
    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a report of numbers and names is JSON")
    }
}

/// The record of failures of a shard, from the output's folder on.
pub(super) fn failures_path(shard: usize) -> PathBuf {
    Path::new(FOLDER).join("failures").join(format!("{shard:05}.jsonl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named() {
        let one = serde_json::json!({"a": {"b": 1, "c": [1]}, "d": 2});
        let mut two = one.clone();
        assert_eq!(first_difference("", &one, &two), None);
        two["a"]["c"] = serde_json::json!([2]);
        assert_eq!(first_difference("", &one, &two), Some(("a.c".into(), "[1]".into(), "[2]".into())));
    }
}
