//! `seed verify`: what tokenize wrote is whole.

use std::path::PathBuf;

use anyhow::Context as _;
use seed_core::dataset::{self, Manifest, OutputFormat};

use crate::{options::Global, outcome::Outcome, progress::Progress};

/// Prove that an output of tokenize is whole: checksums, counts, codes, keys.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Exit code 0: whole. 1: something is damaged. 3: all that is there is right, but shards are missing."
)]
pub(crate) struct Args {
    /// Folder of the output
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    let manifest = Manifest::read(&args.folder)?;
    let format: OutputFormat = serde_json::from_value(manifest.format.clone())
        .with_context(|| format!("{} is of a format that this program does not know", args.folder.display()))?;
    let progress = Progress::new(manifest.inputs.len(), "shards", global);
    let found = dataset::verify(&args.folder, &format, &mut |done, _| progress.set(done))?;
    drop(progress);
    if args.json {
        println!("{}", serde_json::to_string(&found)?);
    } else {
        println!(
            "{} of {} shards, {} inputs: {} rows with {} images, {} failed, {} left out",
            found.shards - found.missing.len(),
            found.shards,
            found.inputs,
            found.rows,
            found.images,
            found.failed,
            found.filtered
        );
        if found.keys_again > 0 {
            println!("{} rows have a key that a row of another shard has too", found.keys_again);
        }
    }
    for problem in &found.first_problems {
        eprintln!("error: {problem}");
    }
    if found.problems > found.first_problems.len() {
        eprintln!("error: and {} more", found.problems - found.first_problems.len());
    }
    Ok(match () {
        () if found.problems > 0 => {
            eprintln!(
                "{} is damaged; delete the reports of the shards named (__seed__/shards) and tokenize again",
                args.folder.display()
            );
            Outcome::Failed
        }
        () if !found.missing.is_empty() => {
            let missing: Vec<String> = found.missing.iter().take(8).map(ToString::to_string).collect();
            let more = if found.missing.len() > 8 { " ..." } else { "" };
            eprintln!("shards not done: {}{more}; the same tokenize command goes on from here", missing.join(", "));
            Outcome::SomeFailed
        }
        () => {
            global.note(|| format!("{} is whole", args.folder.display()));
            Outcome::Done
        }
    })
}
