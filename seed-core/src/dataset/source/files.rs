//! Paths that records name, and files that sources list.

use std::path::{Path, PathBuf};

use crate::{
    dataset::sample::Image,
    error::{Error, Result},
};

/// Whether `path` ends in one of `endings`, in any case.
pub(super) fn ends_in(path: &str, endings: &[&str]) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    endings.iter().any(|ending| name.strip_suffix(ending).is_some_and(|rest| rest.ends_with('.')))
}

/// The image that a record calls `name`.
pub(super) fn image_at(root: &Path, name: &str) -> Image {
    if name.starts_with("http://") || name.starts_with("https://") {
        return Image::Missing(format!("{name} is an address; fetch the images first, with img2dataset for example"));
    }
    match name.strip_prefix("file://").unwrap_or(name) {
        "" => Image::Missing("it names no image".to_owned()),
        name => Image::File(root.join(name)),
    }
}

/// The folder that relative paths in `file` start from.
pub(super) fn root_of(file: &Path, root: Option<&Path>) -> PathBuf {
    root.map_or_else(|| file.parent().unwrap_or(Path::new("")).to_owned(), Path::to_owned)
}

/// All files in a folder and the folders in it, by path; hidden ones are left out, links to folders not followed, pipes and
/// sockets, which have no end, not read.
pub(super) fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        let fail = |source| Error::Read { path: folder.clone(), source };
        for entry in std::fs::read_dir(&folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let kind = entry.file_type().map_err(fail)?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() || kind.is_symlink() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// A path as text with `/`, from `root` on where it lies in it.
pub(super) fn relative(path: &Path, root: &Path) -> String {
    let path = path.strip_prefix(root).unwrap_or(path);
    path.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/").replacen("//", "/", 1)
}
