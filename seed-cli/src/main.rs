//! The binary `seed`; [`seed_cli`] is what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(seed_cli::main_from(std::env::args_os()))
}
