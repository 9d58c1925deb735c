//! Count, seed, split, size -> a folder of PNG files with captions, as Hugging Face's `imagefolder` reads it.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::scene::{Scene, Split};
use crate::error::{Error, Result};
use crate::pixels;

/// The file with the captions: a line `{"file_name": "000000.png", "text": "a small ..."}` an image.
pub const CAPTIONS: &str = "metadata.jsonl";

/// Ending of a file that is not yet whole.
const PARTIAL: &str = ".partial";

/// Sides that can be written: below, attributes cannot be told; above, one image takes hundreds of megabytes.
const SIDES: std::ops::RangeInclusive<u32> = 16..=8192;

/// Writes the scenes 0 to `count` - 1 of `split` in the world of `seed` to `dir`: `000000.png` and so on, `size` x `size`
/// pixels, and last [`CAPTIONS`], so that a folder with captions is whole. The folder is made if need be.
///
/// A folder that already holds a part of the same files is completed: the same call goes on after an interruption, and
/// changes nothing when all is there. `progress` is called with the number of finished images; on
/// [`ControlFlow::Break`] the call ends and what is written stays.
///
/// # Errors
/// [`Error::Argument`] for a `count` of 0 or a `size` that cannot be written, [`Error::FolderInUse`] when `dir` holds
/// anything else, before any file is written, [`Error::Read`] and [`Error::Write`] from the file system, and
/// [`Error::Interrupted`] when `progress` asked to stop.
pub fn write_folder(
    dir: &Path,
    count: u64,
    seed: u64,
    split: Split,
    size: u32,
    mut progress: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<()> {
    if count == 0 {
        let reason = "at least one scene must be written".to_owned();
        return Err(Error::Argument { name: "count", value: count.to_string(), reason });
    }
    if !SIDES.contains(&size) {
        let reason = format!("an image's side can be {} to {} pixels", SIDES.start(), SIDES.end());
        return Err(Error::Argument { name: "size", value: size.to_string(), reason });
    }
    fs::create_dir_all(dir).map_err(|source| Error::Write { path: dir.to_owned(), source })?;
    let folder = Folder { dir, count, seed, split, size };
    folder.check()?;
    for index in 0..count {
        let path = dir.join(file_name(index));
        if !exists(&path)? {
            write_whole(&path, &folder.png(index))?;
        }
        if progress(index + 1).is_break() {
            return Err(Error::Interrupted);
        }
    }
    write_whole(&dir.join(CAPTIONS), folder.captions().as_bytes())
}

/// What a folder should hold.
struct Folder<'a> {
    dir: &'a Path,
    count: u64,
    seed: u64,
    split: Split,
    size: u32,
}

impl Folder<'_> {
    /// Holds when everything in the folder is a file of this very content, or an unfinished one.
    fn check(&self) -> Result<()> {
        let cannot_read = |path: PathBuf| move |source| Error::Read { path, source };
        for entry in fs::read_dir(self.dir).map_err(cannot_read(self.dir.to_owned()))? {
            let entry = entry.map_err(cannot_read(self.dir.to_owned()))?;
            let in_use = |name: String| Error::FolderInUse { path: self.dir.to_owned(), name };
            let name = entry.file_name().into_string().map_err(|name| in_use(name.to_string_lossy().into_owned()))?;
            let is_file = entry.file_type().map_err(cannot_read(entry.path()))?.is_file();
            let (whole_name, partial) = match name.strip_suffix(PARTIAL) {
                Some(whole_name) => (whole_name, true),
                None => (name.as_str(), false),
            };
            let expected = match (whole_name, self.index_of(whole_name)) {
                _ if !is_file => return Err(in_use(name)),
                (CAPTIONS, _) | (_, Some(_)) if partial => continue,
                (CAPTIONS, _) => self.captions().into_bytes(),
                (_, Some(index)) => self.png(index),
                (_, None) => return Err(in_use(name)),
            };
            if fs::read(entry.path()).map_err(cannot_read(entry.path()))? != expected {
                return Err(in_use(name));
            }
        }
        Ok(())
    }

    /// The image that a file name stands for, if it is one of this folder's.
    fn index_of(&self, name: &str) -> Option<u64> {
        let index = name.strip_suffix(".png")?.parse().ok()?;
        (index < self.count && file_name(index) == name).then_some(index)
    }

    fn scene(&self, index: u64) -> Scene {
        Scene::sample(self.seed, index, self.split)
    }

    fn png(&self, index: u64) -> Vec<u8> {
        pixels::to_png(&self.scene(index).render(self.size))
    }

    fn captions(&self) -> String {
        let mut lines = String::new();
        for index in 0..self.count {
            // Captions are words and commas: nothing in them needs an escape.
            let (file_name, text) = (file_name(index), self.scene(index).caption());
            let _ = writeln!(lines, r#"{{"file_name": "{file_name}", "text": "{text}"}}"#);
        }
        lines
    }
}

/// Six digits, so that names sort as numbers up to a million images.
fn file_name(index: u64) -> String {
    format!("{index:06}.png")
}

fn exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

/// Writes beside the place and renames into it: the file is either whole or not there.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(PARTIAL);
    let partial = PathBuf::from(partial);
    let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path));
    written.map_err(|source| Error::Write { path: path.to_owned(), source })
}
