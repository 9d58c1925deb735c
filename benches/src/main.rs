//! How fast the tokenizer is on this machine: one table in Markdown on standard output.
//!
//! `cargo run --release -p seed-benches -- [NAME...]`; see `README.md` beside this crate. Nothing here is a test: no time
//! is asserted.

mod dataset;
mod decode;
mod encode;
mod loader;
mod machine;
mod measure;
// The command line's own: numbers with memory handled otherwise would be of another program.
#[path = "../../seed-cli/src/memory.rs"]
mod memory;
mod pixels;
mod train;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use seed_core::{DType, Device, Model, SeedTokenizer};

use measure::Row;

/// Measures the tokenizer on this machine and prints a table in Markdown.
#[derive(Parser, Debug)]
#[command(name = "seed-bench", version)]
struct Args {
    /// What to measure [default: everything]
    #[arg(value_enum)]
    names: Vec<Name>,
    /// Folder of a model bundle [default: the model that is built in]
    #[arg(long, value_name = "BUNDLE")]
    model: Option<PathBuf>,
    /// Measurements of each row, of which the median is shown
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Threads to compute with [default: one for each core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    /// Step 1: JPEG files to normalized pixels.
    Pixels,
    /// Steps 2 to 4: normalized pixels to codes.
    Encode,
    /// Steps 4 to 6: codes to images.
    Decode,
    /// A folder to shards of tokens.
    Dataset,
    /// A folder of photographs with captions to what training learns from.
    Pairs,
    /// One optimizer step of the diffusion model.
    Train,
}

fn main() -> anyhow::Result<()> {
    memory::keep();
    let Args { names, model, repeats, threads } = Args::parse();
    if let Some(threads) = threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    let names = if names.is_empty() { Name::value_variants() } else { &names };
    let model = model.map_or(Model::Bundled, Model::Folder);
    let open = || seed_core::open(&model, Device::Cpu, DType::F32, None);
    println!("{}\n", machine::describe());
    println!("| what | batch | median | fastest | slowest | a second |");
    println!("|---|---:|---:|---:|---:|---:|");
    for name in names {
        let rows: Vec<Row> = match name {
            Name::Pixels => pixels::run(repeats)?,
            Name::Encode => encode::run(&*open()?, repeats)?,
            Name::Decode => decode::run(&*open()?, repeats)?,
            Name::Dataset => dataset::run(&*open()?, repeats)?,
            Name::Pairs => loader::run(repeats)?,
            Name::Train => train::run(repeats)?,
        };
        for row in rows {
            println!("{row}");
        }
    }
    Ok(())
}

/// Scenes that no model was trained on, as `tokenizer` reads them.
fn scenes(tokenizer: &dyn SeedTokenizer, count: usize) -> Vec<seed_core::pixels::RgbImage> {
    use seed_core::scenes::{Scene, Split};
    let size = tokenizer.preprocessor().size;
    (0..count as u64).map(|index| Scene::sample(0, index, Split::HeldOut).render(size)).collect()
}
