//! Tables of comma-separated values, and of values that tabs separate.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

use super::{files, unreadable};
use crate::error::{Error, Result};

/// A reader of the table that a file is. Rows of another length than the header's are for the caller to refuse.
pub(super) fn reader(path: &Path) -> Result<csv::Reader<File>> {
    options(path).from_path(path).map_err(|error| unreadable(path, error))
}

fn options(path: &Path) -> csv::ReaderBuilder {
    let delimiter = if files::ends_in(&path.to_string_lossy(), &["tsv"]) { b'\t' } else { b',' };
    let mut options = csv::ReaderBuilder::new();
    options.delimiter(delimiter).flexible(true);
    options
}

/// What is wrong with the length of a row.
///
/// # Errors
/// That it is not the header's.
pub(super) fn check_length(row: usize, header: usize) -> Result<(), String> {
    match row == header {
        true => Ok(()),
        false => Err(format!(
            "the row has {row} fields and the header {header}; a text with commas, quotes or line breaks needs quotes around it"
        )),
    }
}

/// Refuses a table whose last row begins at `last` and does not end: behind a quote that is never closed, all rows to the end of
/// the file are part of a text.
///
/// # Errors
/// [`Error::Input`], [`Error::Read`].
pub(super) fn check_end(path: &Path, last: &csv::Position) -> Result<()> {
    let fail = |source| Error::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(fail)?;
    file.seek(SeekFrom::Start(last.byte())).map_err(fail)?;
    let with_a_row_more = file.chain(&b"\nrow\n"[..]);
    let rows = options(path).has_headers(false).from_reader(with_a_row_more).into_byte_records().count();
    match rows > 1 {
        true => Ok(()),
        false => {
            let line = last.line();
            Err(unreadable(
                path,
                format!(
                    "a quote in the row that begins in line {line} is never closed; the rows behind it would be lost"
                ),
            ))
        }
    }
}
