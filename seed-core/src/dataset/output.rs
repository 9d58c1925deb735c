//! One shard of the output: written beside its place, then renamed into it, its report last.

use std::{
    fs::{File, TryLockError},
    io::Write as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{
    Row, Shape, ShardInput, Sink, SinkFormat, Skipped, Why,
    manifest::{FOLDER, ShardReport, WrittenFile, failures_path},
};
use crate::error::{Error, Result};

/// Names of the folders of shards that are being written begin with this.
const BESIDE: &str = ".writing-";

/// A shard that is being written.
pub(super) struct OpenShard {
    folder: PathBuf,
    shard: usize,
    /// Where its files are until they are whole.
    beside: PathBuf,
    /// Held while it is written, so that no other process writes the same.
    _lock: File,
    files: Vec<PathBuf>,
    sink: Option<Box<dyn Sink>>,
    failures: Option<File>,
    report: ShardReport,
}

impl OpenShard {
    /// Begins a shard; nothing when it was finished meanwhile.
    ///
    /// # Errors
    /// [`Error::Busy`] while another process writes it; [`Error::Write`].
    pub(super) fn begin(
        folder: &Path,
        shard: usize,
        input: &ShardInput,
        format: &dyn SinkFormat,
        shape: &Shape,
    ) -> Result<Option<Self>> {
        let beside = folder.join(FOLDER).join(format!("{BESIDE}{shard:05}"));
        let fail = |source| Error::Write { path: beside.clone(), source };
        std::fs::create_dir_all(&beside).map_err(fail)?;
        let lock = File::create(beside.join("lock")).map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { folder: folder.to_owned(), shard }),
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        if ShardReport::read(folder, shard)?.is_some() {
            let _ = std::fs::remove_dir_all(&beside);
            return Ok(None);
        }
        let files = format.files(shard);
        let names: Vec<PathBuf> = (0..files.len()).map(|i| beside.join(i.to_string())).collect();
        let sink = Some(format.create(shape, &names)?);
        let report = ShardReport {
            input: input.name.clone(),
            inputs: 0,
            rows: 0,
            images: 0,
            failed: 0,
            filtered: 0,
            files: Vec::new(),
        };
        let (folder, failures) = (folder.to_owned(), None);
        Ok(Some(Self { folder, shard, beside, _lock: lock, files, sink, failures, report }))
    }

    pub(super) fn write(&mut self, row: &Row) -> Result<()> {
        self.report.inputs += 1;
        self.report.rows += 1;
        self.report.images += row.codes().count() as u64;
        self.sink.as_mut().expect("it is taken when the shard ends").write(row)
    }

    pub(super) fn skip(&mut self, skipped: &Skipped) -> Result<()> {
        let path = self.beside.join("failures");
        let fail = |source| Error::Write { path: path.clone(), source };
        if self.failures.is_none() {
            self.failures = Some(File::create(&path).map_err(fail)?);
        }
        let mut line = serde_json::to_vec(skipped).expect("texts are JSON");
        line.push(b'\n');
        let file = self.failures.as_mut().expect("it was opened just now");
        file.write_all(&line).map_err(fail)?;
        self.report.inputs += 1;
        match skipped.why {
            Why::Failed => self.report.failed += 1,
            Why::Filtered => self.report.filtered += 1,
        }
        Ok(())
    }

    /// Ends its files, moves them to their places and says that it is done. A shard without rows has no files of data.
    pub(super) fn finish(mut self) -> Result<ShardReport> {
        self.sink.take().expect("a shard ends once").finish()?;
        let mut moves: Vec<(PathBuf, PathBuf)> = Vec::new();
        for (i, file) in self.files.iter().enumerate() {
            match self.report.rows {
                // Readers stumble over files without rows: an empty tar, an array that cannot be mapped.
                0 => drop(std::fs::remove_file(self.folder.join(file))), // of an attempt before
                _ => moves.push((self.beside.join(i.to_string()), file.clone())),
            }
        }
        match self.failures.take() {
            Some(_) => moves.push((self.beside.join("failures"), failures_path(self.shard))),
            None => drop(std::fs::remove_file(self.folder.join(failures_path(self.shard)))), // of an attempt before
        }
        for (from, to) in &moves {
            self.report.files.push(written(from, to)?);
        }
        for (from, to) in &moves {
            let place = self.folder.join(to);
            let fail = |source| Error::Write { path: place.clone(), source };
            std::fs::create_dir_all(place.parent().unwrap_or(&self.folder)).map_err(fail)?;
            std::fs::rename(from, &place).map_err(fail)?;
        }
        // Under a name of this shard's, so that nothing is left of it when the process is killed right here.
        let (beside, place) = (self.beside.join("report"), ShardReport::path(&self.folder, self.shard));
        let fail = |source| Error::Write { path: place.clone(), source };
        std::fs::create_dir_all(place.parent().unwrap_or(&self.folder)).map_err(fail)?;
        let mut file = File::create(&beside).map_err(fail)?;
        file.write_all(&self.report.to_json()).and_then(|()| file.sync_all()).map_err(fail)?;
        std::fs::rename(&beside, &place).map_err(fail)?;
        let _ = std::fs::remove_dir_all(&self.beside);
        Ok(self.report)
    }
}

/// Removes what processes left that were killed between a shard's report and the end of cleaning up.
pub(super) fn clear_finished(folder: &Path) {
    for entry in std::fs::read_dir(folder.join(FOLDER)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let shard = name.strip_prefix(BESIDE).and_then(|number| number.parse::<usize>().ok());
        if !shard.is_some_and(|shard| ShardReport::path(folder, shard).exists()) {
            continue;
        }
        // A process that holds the lock cleans up itself.
        if File::create(entry.path().join("lock")).is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Makes sure that `from` is on disk, and describes it as `to`.
fn written(from: &Path, to: &Path) -> Result<WrittenFile> {
    let file = File::open(from).map_err(|source| Error::Read { path: from.to_owned(), source })?;
    file.sync_all().map_err(|source| Error::Write { path: from.to_owned(), source })?;
    let (bytes, sha256) = digest(from)?;
    Ok(WrittenFile { path: to.to_owned(), bytes, sha256 })
}

/// Size and SHA-256 of a file.
pub(super) fn digest(path: &Path) -> Result<(u64, String)> {
    let fail = |source| Error::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(fail)?;
    let mut hash = Sha256::new();
    let bytes = std::io::copy(&mut file, &mut hash).map_err(fail)?;
    Ok((bytes, hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}
