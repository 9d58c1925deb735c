//! How often a code changes when the same images are encoded in another way: one table in Markdown on standard output.
//!
//! `cargo run --release -p seed-benches --bin seed-exactness`; see `README.md` beside this crate.

mod machine;

use std::path::PathBuf;

use clap::Parser;
use rayon::prelude::*;
use seed_core::{
    Codes, DType, Device, Model, SeedTokenizer,
    scenes::{Scene, Split},
    tokenizer::{SeedConfig, random_bundle},
};

/// Counts codes that differ from those of float32 on the CPU in batches of 8.
#[derive(Parser, Debug)]
#[command(name = "seed-exactness", version)]
struct Args {
    /// Folder of a model bundle [default: the model that is built in]
    #[arg(long, value_name = "BUNDLE")]
    model: Option<PathBuf>,
    /// Random weights of SEED-2's size in float32, 4.6 GB in the temporary folder, instead of a bundle
    #[arg(long, conflicts_with = "model")]
    random: bool,
    /// Scenes to encode
    #[arg(long, value_name = "N", default_value_t = 1000)]
    images: usize,
    /// Devices to compare besides, as in `seed encode --device`
    #[arg(long, value_name = "DEVICE")]
    device: Vec<Device>,
}

/// One way to encode.
struct Way {
    name: String,
    device: Device,
    dtype: DType,
    batch: usize,
    threads: Option<usize>,
}

impl Way {
    fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), device: Device::Cpu, dtype: DType::F32, batch: 8, threads: None }
    }
}

/// Codes and margins, row by row.
type Encoded = (Codes, Vec<f32>);

fn main() -> anyhow::Result<()> {
    let Args { model, random, images, device } = Args::parse();
    let scratch = tempfile::tempdir()?;
    let model = match (model, random) {
        (Some(bundle), _) => Model::Folder(bundle),
        (None, true) => {
            let bundle = scratch.path().join("random");
            random_bundle(&SeedConfig::seed_2(), 0, DType::F32, &bundle)?;
            Model::Folder(bundle)
        }
        (None, false) => Model::Bundled,
    };
    let reference = Way::new("as it is");
    let tokenizer = seed_core::open(&model, reference.device, reference.dtype, None)?;
    let size = tokenizer.preprocessor().size;
    let pixels: Vec<Vec<f32>> = (0..images as u64)
        .into_par_iter()
        .map(|index| tokenizer.preprocessor().apply(&Scene::sample(0, index, Split::HeldOut).render(size)))
        .collect();
    let (codes, margins) = encode(tokenizer.as_ref(), &pixels, &reference)?;
    println!("{}\n", machine::describe());
    println!(
        "{}, {} codes of {images} scenes: f32 on cpu in batches of 8, against\n",
        tokenizer.config().name,
        margins.len()
    );
    println!("| instead | codes that differ | % | images with one | largest margin of one |");
    println!("|---|---:|---:|---:|---:|");
    drop(tokenizer);
    let mut ways = vec![
        Way { batch: 1, ..Way::new("batches of 1") },
        Way { batch: 32, ..Way::new("batches of 32") },
        Way { threads: Some(1), ..Way::new("1 thread") },
        Way { dtype: DType::F16, ..Way::new("f16") },
        Way { dtype: DType::BF16, ..Way::new("bf16") },
        Way { dtype: DType::Int8, ..Way::new("int8") },
    ];
    ways.extend(device.into_iter().map(|device| Way { device, ..Way::new(device.to_string()) }));
    for way in ways {
        let tokenizer = seed_core::open(&model, way.device, way.dtype, None)?;
        let (found, _) = match way.threads {
            Some(threads) => {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
                pool.install(|| encode(tokenizer.as_ref(), &pixels, &way))?
            }
            None => encode(tokenizer.as_ref(), &pixels, &way)?,
        };
        let differs: Vec<bool> = codes.as_slice().iter().zip(found.as_slice()).map(|(a, b)| a != b).collect();
        let count = differs.iter().filter(|&&differs| differs).count();
        let touched = differs.chunks(codes.tokens()).filter(|image| image.contains(&true)).count();
        let largest =
            margins.iter().zip(&differs).filter(|(_, differs)| **differs).map(|(margin, _)| *margin).reduce(f32::max);
        println!(
            "| {} | {count} | {:.3} | {touched} | {} |",
            way.name,
            100.0 * count as f64 / differs.len() as f64,
            largest.map_or("-".to_owned(), |margin| format!("{margin:.1e}"))
        );
    }
    let mut sorted = margins;
    sorted.sort_by(f32::total_cmp);
    let quantile = |share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize];
    println!(
        "\nMargins: {:.1e} at 0.1 %, {:.1e} at 1 %, {:.1e} in the middle.",
        quantile(0.001),
        quantile(0.01),
        quantile(0.5)
    );
    Ok(())
}

fn encode(tokenizer: &dyn SeedTokenizer, pixels: &[Vec<f32>], way: &Way) -> anyhow::Result<Encoded> {
    let model = &tokenizer.config().model;
    let (mut rows, mut margins) = (Vec::new(), Vec::new());
    for batch in pixels.chunks(way.batch) {
        let (codes, leads) = tokenizer.encode_pixels_with_margins(batch)?;
        rows.extend(codes.rows().map(<[u16]>::to_vec));
        margins.extend(leads);
    }
    Ok((Codes::from_rows(rows, model.num_queries, model.codebook_size)?, margins))
}
