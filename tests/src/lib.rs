//! Tests of the workspace as a whole.
//!
//! | where | what |
//! |---|---|
//! | `tests/import_law.rs` | which module may import which, by [`imports`] and [`law`] |
//! | `tests/repository.rs` | sizes of files; that the README names nothing that is not there |
//! | `golden/` | inputs, intermediates and outputs of the reference implementations; the tests that read them stand beside the code |

use std::path::{Path, PathBuf};

pub mod imports;
pub mod law;

/// Compiles the README's Rust.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is a folder of the workspace")
}

/// All Rust files under `folder` of the repository, in order, as paths from the root with `/` between the parts.
///
/// # Panics
/// When the folder cannot be read.
pub fn rust_files(folder: &str) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for path in entries.map(|entry| entry.expect("an entry of a folder").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                files.push(from_root(path));
            }
        }
    }
    files.sort();
    files
}

fn from_root(path: PathBuf) -> String {
    let path = path.strip_prefix(root()).expect("a file of the repository");
    path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// The text of a file of the repository.
///
/// # Panics
/// When it cannot be read.
pub fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}
