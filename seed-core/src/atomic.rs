//! Files that appear whole or not at all: written beside their place, then renamed into it.

use std::{fs::File, io, path::Path};

use crate::error::{Error, Result};

/// A new file in the folder of `path`. Created by our own call rather than tempfile's: it shall have the permissions of any
/// new file.
fn beside(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let new = |path: &Path| File::options().write(true).create_new(true).open(path);
    tempfile::Builder::new().prefix(".writing-").make_in(folder, new)
}

/// Writes `path` through `fill`, which gets the path of a new file beside it. Whatever stood at `path` stays until the
/// new file is whole and on disk.
///
/// # Errors
/// [`Error::Write`], and whatever `fill` returns.
pub(crate) fn write_with(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let fail = |source: io::Error| Error::Write { path: path.into(), source };
    let beside = beside(path).map_err(fail)?;
    fill(beside.path())?;
    beside.as_file().sync_all().map_err(fail)?;
    beside.persist(path).map_err(|error| fail(error.error))?;
    Ok(())
}

/// Writes `bytes` to `path` unless something is there already; whether nothing was.
///
/// # Errors
/// [`Error::Write`].
#[allow(dead_code)] // datasets alone ask for it
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<bool> {
    let fail = |source: io::Error| Error::Write { path: path.into(), source };
    let beside = beside(path).map_err(fail)?;
    std::fs::write(beside.path(), bytes).map_err(fail)?;
    beside.as_file().sync_all().map_err(fail)?;
    match beside.persist_noclobber(path) {
        Ok(_) => Ok(true),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(fail(error.error)),
    }
}

/// Writes `bytes` to `path`.
///
/// # Errors
/// [`Error::Write`].
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |beside| {
        std::fs::write(beside, bytes).map_err(|source| Error::Write { path: path.into(), source })
    })
}
