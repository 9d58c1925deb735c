//! Step 1: JPEG files in memory -> normalized pixels, an image at a time.

use std::path::Path;

use anyhow::Context as _;
use seed_core::pixels::{self, Limits, Preprocessor, Preset};

use crate::measure::Row;

/// Photographs of the golden data, relative to this crate.
pub(crate) const PHOTOS: [&str; 2] =
    ["../tests/golden/preprocess/photo-420.jpg", "../tests/golden/preprocess/photo-444.jpg"];

/// Width and height of the released models' pixels.
const SIZE: u32 = 224;

pub(crate) fn run(repeats: u32) -> anyhow::Result<Vec<Row>> {
    let limits = Limits::default();
    let mut rows = Vec::new();
    for photo in PHOTOS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(photo);
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let image = pixels::decode(&bytes, &name, &limits)?;
        let (width, height) = image.dimensions();
        rows.push(Row::images(format!("decode {name}, {width} x {height}"), 1, repeats, || {
            pixels::decode(&bytes, &name, &limits).map(drop)
        })?);
        for preset in Preset::ALL {
            let preprocessor = Preprocessor::new(SIZE, preset);
            let what = format!("decode {name}, resize to {SIZE} x {SIZE} as {preset}, normalize");
            rows.push(Row::images(what, 1, repeats, || {
                pixels::decode(&bytes, &name, &limits).map(|image| drop(preprocessor.apply(&image)))
            })?);
        }
    }
    Ok(rows)
}
