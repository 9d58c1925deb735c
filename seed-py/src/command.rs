//! The command line `seed`, as the wheel installs it.

use std::ffi::OsString;

use pyo3::prelude::*;

/// Runs the command line `seed`, the program's name first. The process is the command's from then on: it listens for
/// signals itself.
///
/// Args:
///     arguments (Sequence[str]): The program's name and its arguments.
///
/// Returns:
///     int: The exit code.
#[pyfunction]
pub(crate) fn main(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    const PANICKED: u8 = 101; // as of any program in Rust, which has said why on standard error
    py.detach(|| std::panic::catch_unwind(|| seed_cli::main_from(arguments))).unwrap_or(PANICKED)
}
