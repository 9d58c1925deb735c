//! What training reads: a folder of JPEG photographs with captions -> decoded, cut at random, resized, mirrored; in a random
//! order, by one thread and by two.

use std::{path::Path, sync::atomic::AtomicBool};

use anyhow::Context as _;
use seed_core::train::data::{PairOptions, Pairs};

use crate::{measure::Row, pixels::PHOTOS};

/// Photographs of the folder.
const PHOTOGRAPHS: usize = 512;
/// Images that are asked for at a time.
const BATCH: usize = 128;
/// Width and height of the released models' pixels.
const SIZE: usize = 224;
/// Threads that decode.
const WORKERS: [usize; 2] = [1, 2];

pub(crate) fn run(repeats: u32) -> anyhow::Result<Vec<Row>> {
    let folder = tempfile::tempdir()?;
    let images = folder.path().join("images");
    std::fs::create_dir(&images)?;
    for number in 0..PHOTOGRAPHS {
        let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join(PHOTOS[number % PHOTOS.len()]);
        let image = images.join(format!("{number:04}.jpg"));
        std::fs::copy(&photo, &image).with_context(|| format!("cannot copy {}", photo.display()))?;
        std::fs::write(image.with_extension("txt"), format!("photograph {number}"))?;
    }
    let mut rows = Vec::new();
    for workers in WORKERS {
        let options = PairOptions { workers: Some(workers), ..PairOptions::new(vec![images.display().to_string()]) };
        let stop = AtomicBool::new(false);
        let pairs = Pairs::open(&options, 0, SIZE, folder.path(), &stop)?;
        let mut first = 0;
        let threads = if workers == 1 { "1 thread".to_owned() } else { format!("{workers} threads") };
        rows.push(Row::images(format!("pairs: decode and augment to {SIZE}, {threads}"), BATCH, repeats, || {
            first += BATCH;
            pairs.augmented(first - BATCH, BATCH).map(drop)
        })?);
    }
    Ok(rows)
}
