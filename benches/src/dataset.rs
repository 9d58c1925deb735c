//! A folder of images to shards of tokens, beside what bounds it: reading and decoding alone, and the network alone.

use std::{path::Path, sync::atomic::AtomicBool};

use rayon::prelude::*;
use seed_core::{
    SeedTokenizer,
    dataset::{self, OutputFormat, SourceOptions, TokenizeOptions, Watch, source},
    pixels::{self, Limits},
    scenes::{self, Split},
};

use crate::measure::Row;

/// Images of the folder.
const IMAGES: usize = 2000;
/// Images of an output shard.
const SHARD: usize = 500;

pub(crate) fn run(tokenizer: &dyn SeedTokenizer, repeats: u32) -> anyhow::Result<Vec<Row>> {
    let folder = tempfile::tempdir()?;
    let images = folder.path().join("images");
    let size = tokenizer.preprocessor().size;
    let go_on = |_| std::ops::ControlFlow::Continue(());
    scenes::write_folder(&images, IMAGES as u64, 0, Split::HeldOut, size, go_on)?;
    let paths: Vec<_> = (0..IMAGES).map(|index| images.join(format!("{index:06}.png"))).collect();
    let read = || -> seed_core::Result<Vec<Vec<f32>>> {
        let limits = Limits::default();
        paths.par_iter().map(|path| Ok(tokenizer.preprocessor().apply(&pixels::open(path, &limits)?))).collect()
    };
    let pixels = read()?;
    let name = &tokenizer.config().name;
    let mut rows = vec![
        Row::images("dataset: read, decode, resize alone", IMAGES, repeats, || read().map(drop))?,
        Row::images(format!("dataset: network alone, {name}"), IMAGES, repeats, || {
            tokenizer.encode_pixels(&pixels).map(drop)
        })?,
    ];
    for format in OutputFormat::ALL {
        rows.push(Row::images(format!("dataset: folder to {}", format.name()), IMAGES, repeats, || {
            tokenize(tokenizer, &images, format)
        })?);
    }
    Ok(rows)
}

fn tokenize(tokenizer: &dyn SeedTokenizer, images: &Path, format: OutputFormat) -> anyhow::Result<()> {
    let options = SourceOptions { shard_size: SHARD, ..SourceOptions::default() };
    let source = source::open(&[images.display().to_string()], &options)?;
    let out = tempfile::tempdir()?;
    let mut watch = Watch { progress: &mut |_| {}, stop: &AtomicBool::new(false) };
    let options = TokenizeOptions::default();
    let done = dataset::tokenize(tokenizer, source.as_ref(), &format, out.path(), &options, &mut watch)?;
    anyhow::ensure!(done.rows == IMAGES as u64, "{} of {IMAGES} images became rows", done.rows);
    Ok(())
}
