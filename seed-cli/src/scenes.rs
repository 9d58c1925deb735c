//! `seed scenes`: procedural images with captions.

use std::{ops::ControlFlow, path::PathBuf};

use seed_core::{
    Error,
    scenes::{self, CAPTIONS, Split},
};

use crate::{interrupt, options::Global, outcome::Outcome, progress::Progress};

/// Draw procedural images with captions: data for training, tests and demonstrations.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The same seed gives the same scenes on every machine. A folder that holds a part of them is completed.

Example:
  seed scenes --count 100 --seed 7 --out scenes"
)]
pub(crate) struct Args {
    /// Number of images
    #[arg(long, value_name = "N")]
    count: u64,
    /// Seed of the scenes
    #[arg(long, value_name = "N", default_value_t)]
    seed: u64,
    /// Folder for the images and their captions
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Width and height in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 64)]
    size: u32,
    /// Draw from the scenes that no training uses
    #[arg(long)]
    held_out: bool,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    let split = if args.held_out { Split::HeldOut } else { Split::Train };
    let progress = Progress::new(usize::try_from(args.count).unwrap_or(usize::MAX), "images", global);
    let mut done = 0;
    let watch = |finished| {
        progress.advance(1);
        done = finished;
        match interrupt::requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let written = scenes::write_folder(&args.out, args.count, args.seed, split, args.size, watch);
    drop(progress);
    match written {
        Ok(()) => {
            global.note(|| format!("{done} images and {CAPTIONS} are in {}", args.out.display()));
            Ok(Outcome::Done)
        }
        Err(Error::Interrupted) => {
            eprintln!("interrupted: {done} of {} images are done; the same command goes on", args.count);
            Ok(Outcome::Interrupted)
        }
        Err(error) => Err(error.into()),
    }
}
