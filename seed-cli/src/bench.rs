//! `seed bench`: how fast a model of a released size is here, and what memory it takes, without a download.

mod decoder;
mod encoder;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};
use seed_core::{
    DType, Device,
    tokenizer::{SeedConfig, random_bundle, random_decoder},
};

use crate::{options::Global, outcome::Outcome};

/// Measure a model of a released size with random weights.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The weights are written to a temporary folder (2.3 GB in half precision), read as any model is, and removed again.
Peak memory is that of the whole process, of a step the highest while it ran.

Examples:
  seed bench --preset seed-2
  seed bench --preset seed-2 --batch-size 1 --rounds 5 --json
  seed bench --preset decoder --steps 2 --dtype f16"
)]
pub(crate) struct Args {
    /// Sizes of the model
    #[arg(long, value_enum, default_value_t = Preset::Seed2)]
    preset: Preset,
    /// Images that are encoded at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = crate::options::positive)]
    batch_size: usize,
    /// Batches that are measured, after one that is not
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = crate::options::positive)]
    rounds: usize,
    /// Sampling steps of the decoder, which decodes one image with guidance
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = crate::options::positive)]
    steps: usize,
    /// Height and width of the decoder's image in pixels [default: 768]
    #[arg(long, value_name = "PIXELS", value_parser = crate::options::positive)]
    size: Option<usize>,
    /// Device to compute on: cpu, cuda or wgpu, with a number if there are several (wgpu:1)
    #[arg(long, default_value_t)]
    device: Device,
    /// Numbers that weights are kept in: f32, half the memory with f16 or bf16, a quarter with int8
    #[arg(long, default_value_t)]
    dtype: DType,
    /// Numbers that the weights' file holds, as published models hold f16; those of the same kind as --dtype are not converted
    #[arg(long, value_name = "DTYPE", default_value_t = DType::F16)]
    stored: DType,
    /// Where the weights are written for the time being [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    /// Write the weights to this folder and do nothing else
    #[arg(long, value_name = "BUNDLE", hide = true)]
    write: Option<PathBuf>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Preset {
    #[value(name = "seed-2")]
    Seed2,
    #[value(name = "seed-1")]
    Seed1,
    /// SEED-2's diffusion decoder, 768 x 768 pixels, behind an encoder of one block
    Decoder,
}

impl Preset {
    fn name(self) -> &'static str {
        match self {
            Self::Seed2 => "seed-2",
            Self::Seed1 => "seed-1",
            Self::Decoder => "decoder",
        }
    }

    fn config(self) -> SeedConfig {
        match self {
            Self::Seed2 => SeedConfig::seed_2(),
            Self::Seed1 => SeedConfig::seed_1(),
            Self::Decoder => SeedConfig { vit_depth: 1, qformer_depth: 1, ..SeedConfig::seed_2() },
        }
    }
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    if let Some(bundle) = &args.write {
        return write(args.preset, args.stored, bundle);
    }
    args.stored.check_for_files()?;
    args.device.check()?; // before gigabytes are written
    let scratch = match &args.scratch {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let scratch = scratch.context("cannot make a temporary folder; choose another with --scratch")?;
    let bundle = scratch.path().join(args.preset.name());
    global.note(|| format!("writing random weights of {} to {}", args.preset.name(), bundle.display()));
    write_elsewhere(args.preset, args.stored, &bundle)?;
    match args.preset {
        Preset::Decoder => decoder::run(args, bundle, global),
        Preset::Seed2 | Preset::Seed1 => encoder::run(args, bundle, global),
    }
}

fn write(preset: Preset, stored: DType, bundle: &Path) -> anyhow::Result<Outcome> {
    random_bundle(&preset.config(), 0, stored, bundle)?;
    if preset == Preset::Decoder {
        random_decoder(stored, bundle)?;
    }
    Ok(Outcome::Done)
}

/// Writes the weights in a process of its own: memory that drawing them takes is not the model's.
fn write_elsewhere(preset: Preset, stored: DType, bundle: &Path) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program to write weights with")?;
    let mut writer = Command::new(program);
    writer.args(["bench", "--preset", preset.name(), "--stored", &stored.to_string(), "--write"]).arg(bundle);
    let status = writer.status();
    match status.context("cannot start this program again to write weights with")?.success() {
        true => Ok(()),
        false => bail!("the weights could not be written; choose a folder with more room with --scratch"),
    }
}
