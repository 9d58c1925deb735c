//! Proof that an output is whole: checksums, counts, codes and keys.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::BufRead as _,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{Manifest, ShardReport, SinkFormat, Skipped, Why, manifest::failures_path, output::digest};
use crate::error::Result;

/// Most problems that are kept in words.
const MOST_PROBLEMS: usize = 100;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Verification {
    /// Shards that the output has in the end.
    pub shards: usize,
    /// Shards that are not done.
    pub missing: Vec<usize>,
    /// Inputs of the shards that are done.
    pub inputs: u64,
    /// Rows.
    pub rows: u64,
    /// Images in the rows.
    pub images: u64,
    /// Inputs in the record of failures that could not be read.
    pub failed: u64,
    /// Inputs in it that the filters left out.
    pub filtered: u64,
    /// Rows whose key another row has too: several captions of an image, or keys that count from 0 in every shard.
    pub keys_again: u64,
    /// How many problems there are.
    pub problems: usize,
    /// The first of them in words.
    pub first_problems: Vec<String>,
}

impl Verification {
    /// Whether everything is there and right.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty() && self.problems == 0
    }

    fn problem(&mut self, text: String) {
        self.problems += 1;
        if self.first_problems.len() < MOST_PROBLEMS {
            self.first_problems.push(text);
        }
    }
}

/// Reads everything that `format` wrote into `folder` and holds it against the manifest and the shards' reports.
/// `progress` is called with the number of shards looked at and that of all.
///
/// # Errors
/// For a folder without a manifest. What is wrong with the output is in the result.
pub fn verify(folder: &Path, format: &dyn SinkFormat, progress: &mut dyn FnMut(usize, usize)) -> Result<Verification> {
    let manifest = Manifest::read(folder)?;
    let mut found = Verification { shards: manifest.inputs.len(), ..Verification::default() };
    let mut keys: Vec<u64> = Vec::new();
    for shard in 0..manifest.inputs.len() {
        progress(shard, manifest.inputs.len());
        match ShardReport::read(folder, shard) {
            Ok(None) => found.missing.push(shard),
            Ok(Some(report)) => {
                let mut check =
                    Check { folder, format, manifest: &manifest, shard, found: &mut found, keys: &mut keys };
                check.shard(&report);
            }
            Err(error) => found.problem(error.to_string()),
        }
    }
    keys.sort_unstable();
    found.keys_again = keys.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
    progress(manifest.inputs.len(), manifest.inputs.len());
    Ok(found)
}

struct Check<'a> {
    folder: &'a Path,
    format: &'a dyn SinkFormat,
    manifest: &'a Manifest,
    shard: usize,
    found: &'a mut Verification,
    keys: &'a mut Vec<u64>,
}

impl Check<'_> {
    fn shard(&mut self, report: &ShardReport) {
        let shard = self.shard;
        if report.input != self.manifest.inputs[shard].name {
            self.found.problem(format!(
                "shard {shard} is of {}, the manifest says {}",
                report.input, self.manifest.inputs[shard].name
            ));
        }
        if report.inputs != report.rows + report.failed + report.filtered {
            self.found.problem(format!("shard {shard}: its {} inputs are not its rows and failures", report.inputs));
        }
        let wanted = if report.rows > 0 { self.format.files(shard) } else { Vec::new() };
        for file in wanted.iter().filter(|wanted| !report.files.iter().any(|file| file.path == **wanted)) {
            self.found.problem(format!("shard {shard}: its report does not know {}", file.display()));
        }
        let mut whole = true;
        for file in &report.files {
            match digest(&self.folder.join(&file.path)) {
                Ok((bytes, sha256)) if bytes == file.bytes && sha256 == file.sha256 => {}
                Ok((bytes, _)) => {
                    whole = false;
                    let kept = file.bytes;
                    self.found.problem(format!(
                        "{} is damaged: {bytes} bytes, {kept} were written, or others",
                        file.path.display()
                    ));
                }
                Err(error) => {
                    whole = false;
                    self.found.problem(error.to_string());
                }
            }
        }
        self.found.inputs += report.inputs;
        if whole && report.rows > 0 {
            self.rows(report);
        }
        if whole {
            self.failures(report);
        }
    }

    fn rows(&mut self, report: &ShardReport) {
        let shape = &self.manifest.shape;
        let paths: Vec<PathBuf> = self.format.files(self.shard).iter().map(|file| self.folder.join(file)).collect();
        let (mut rows, mut images) = (0, 0);
        let mut problems = Vec::new();
        let read = self.format.read(shape, &paths, &mut |key, codes| {
            rows += 1;
            images += codes.len() as u64;
            let mut hash = DefaultHasher::new();
            key.hash(&mut hash);
            self.keys.push(hash.finish());
            for codes in codes {
                if codes.len() != shape.tokens {
                    problems.push(format!("{key} has {} codes, not {}", codes.len(), shape.tokens));
                }
                if let Some(code) = codes.iter().find(|&&code| code >= shape.codebook_size as u64) {
                    problems
                        .push(format!("{key} has the code {code}, outside the codebook of {}", shape.codebook_size));
                }
            }
            Ok(())
        });
        if let Err(error) = read {
            problems.push(error.to_string());
        }
        if (rows, images) != (report.rows, report.images) {
            problems.push(format!("it holds {rows} rows, {} were written", report.rows));
        }
        for problem in problems {
            self.found.problem(format!("shard {}: {problem}", self.shard));
        }
        self.found.rows += rows;
        self.found.images += images;
    }

    fn failures(&mut self, report: &ShardReport) {
        let path = failures_path(self.shard);
        let (mut failed, mut filtered) = (0, 0);
        if report.files.iter().any(|file| file.path == path) {
            let file = std::fs::File::open(self.folder.join(&path)).map(std::io::BufReader::new);
            for line in file.into_iter().flat_map(std::io::BufReader::lines) {
                match line.ok().and_then(|line| serde_json::from_str::<Skipped>(&line).ok()).map(|skipped| skipped.why)
                {
                    Some(Why::Failed) => failed += 1,
                    Some(Why::Filtered) => filtered += 1,
                    None => self.found.problem(format!("{} holds a line that is no failure", path.display())),
                }
            }
        }
        if (failed, filtered) != (report.failed, report.filtered) {
            let (shard, all) = (self.shard, report.failed + report.filtered);
            self.found.problem(format!("shard {shard}: {} lines of failures, {all} were written", failed + filtered));
        }
        self.found.failed += failed;
        self.found.filtered += filtered;
    }
}
