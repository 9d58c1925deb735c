//! `seed`: images to tokens and back, from the command line.
//!
//! Arguments become validated options, options become one call of `seed_core`. Data goes to standard output, everything
//! else to standard error.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done, or whoever read the output had enough |
//! | 1 | an error |
//! | 2 | wrong usage |
//! | 3 | done, but some images failed |
//! | 130 | interrupted; what was finished is kept |

mod bench;
mod convert;
mod decode;
mod encode;
mod eval;
mod fetch;
mod input;
mod inspect;
mod interrupt;
mod lines;
mod memory;
mod minigpt;
mod names;
mod options;
mod outcome;
mod peak;
mod progress;
mod reconstruct;
mod scenes;
mod tokenize;
mod train;
mod verify;

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use options::Global;
use outcome::Outcome;

/// Turns an image into 32 discrete tokens that read left to right like words, and such tokens back into an image.
#[derive(Parser)]
#[command(name = "seed", version, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

#[derive(Subcommand)]
enum Command {
    Encode(encode::Args),
    Decode(decode::Args),
    Reconstruct(reconstruct::Args),
    Tokenize(tokenize::Args),
    Verify(verify::Args),
    Scenes(scenes::Args),
    Train(train::Args),
    Eval(eval::Args),
    Convert(convert::Args),
    Bench(bench::Args),
    Fetch(fetch::Args),
    Inspect(inspect::Args),
    Minigpt(minigpt::Args),
}

/// Runs the command line `arguments`, the program's name first, and returns its exit code. The process is the command's from
/// then on: it listens for signals, and keeps freed memory.
pub fn main_from<A: Into<OsString> + Clone>(arguments: impl IntoIterator<Item = A>) -> u8 {
    memory::keep();
    let Cli { command, global } = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(usage) => {
            let _ = usage.print(); // nobody is left to tell
            return u8::try_from(usage.exit_code()).unwrap_or(2);
        }
    };
    match run(command, &global) {
        Ok(outcome) => outcome.code(),
        Err(error) if outcome::is_broken_pipe(&error) => Outcome::Done.code(),
        Err(error) => {
            outcome::report(&error);
            Outcome::Failed.code()
        }
    }
}

fn run(command: Command, global: &Global) -> anyhow::Result<Outcome> {
    interrupt::listen()?;
    global.use_threads()?;
    match command {
        Command::Encode(args) => encode::run(&args, global),
        Command::Decode(args) => decode::run(&args, global),
        Command::Reconstruct(args) => reconstruct::run(&args, global),
        Command::Tokenize(args) => tokenize::run(&args, global),
        Command::Verify(args) => verify::run(&args, global),
        Command::Scenes(args) => scenes::run(&args, global),
        Command::Train(args) => train::run(&args, global),
        Command::Eval(args) => eval::run(&args, global),
        Command::Bench(args) => bench::run(&args, global),
        Command::Convert(args) => convert::run(&args, global),
        Command::Fetch(args) => fetch::run(&args, global),
        Command::Inspect(args) => inspect::run(&args, global),
        Command::Minigpt(args) => minigpt::run(&args, global),
    }
}
