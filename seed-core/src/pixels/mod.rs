//! Step 1 of 6: image file bytes -> normalized pixels `[batch, 3, size, size]`.
//!
//! ```text
//! file bytes -> RGB [height, width, 3] -> resized [size, size, 3] -> (x / 255 - mean) / std [3, size, size]
//!    decode            resize                         Preprocessor::apply
//! ```
//! Reference: what the official implementation does with Pillow and torchvision, `Image.open(f).convert("RGB")`,
//! `Resize((size, size))`, `ToTensor()`, `Normalize(mean, std)`, bit for bit. So images are squashed to a square, EXIF
//! rotation is not applied, and alpha is dropped, not composited. Differences from Pillow: formats other than PNG,
//! JPEG, WebP, GIF, BMP and TIFF are refused, and so are some TIFF encodings (see `tiff`).

mod bmp;
mod bytes;
mod decode;
mod gif;
mod jpeg;
mod png;
mod resize;
pub mod sheet;
mod tiff;
mod webp;

use std::{fmt, ops::Deref, path::Path, str::FromStr};

use serde::{Deserialize, Serialize};

pub use decode::{Limits, decode, open};
pub use image::RgbImage;
pub use png::{to_png, write_png, write_png_with_text};
pub use resize::{Filter, RgbBuffer, resize};

use crate::error::{Error, Result};

/// Endings of the files that are taken from folders and archives; a file given by name may end as it likes.
pub const ENDINGS: [&str; 10] = ["png", "jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp", "tif", "tiff"];
/// Endings of pictures in formats that [`decode`] refuses.
const REFUSED_ENDINGS: [&str; 6] = ["avif", "heic", "heif", "jp2", "jxl", "qoi"];

/// Whether a file in a folder is an image by its name. One of a format that [`decode`] refuses is: an input that fails, not a file
/// to pass over.
pub fn is_image_name(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    ENDINGS.iter().chain(&REFUSED_ENDINGS).any(|known| known.eq_ignore_ascii_case(ending))
}

/// Mean of each channel in the training data of CLIP, in units of 0 to 1.
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Standard deviation of each channel in the training data of CLIP, in units of 0 to 1.
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// The two preprocessings in use for SEED; their pixels differ by up to 22 levels, so their tokens differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Bicubic: the official `encode_image`, and SEED-1.
    #[default]
    Seed,
    /// Bilinear: the official scripts, the demo and the dataset pre-tokenizer.
    SeedScripts,
}

impl Preset {
    /// Every preset, the default first.
    pub const ALL: [Self; 2] = [Self::Seed, Self::SeedScripts];

    /// The name in configuration files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seed => "seed",
            Self::SeedScripts => "seed-scripts",
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|preset| preset.name() == text).ok_or_else(|| Error::Argument {
            name: "preprocess",
            value: text.to_owned(),
            reason: "expected seed (bicubic) or seed-scripts (bilinear)".to_owned(),
        })
    }
}

/// Turns RGB images into the normalized square pixels that the vision transformer reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessor {
    /// Width and height of the result; 224 in every released model.
    pub size: u32,
    /// Filter of the resize.
    pub filter: Filter,
    /// Subtracted from each channel, in units of 0 to 1.
    pub mean: [f32; 3],
    /// Divides each channel after that.
    pub std: [f32; 3],
}

impl Preprocessor {
    /// A preset for images of `size` x `size` pixels, with CLIP's mean and standard deviation.
    pub fn new(size: u32, preset: Preset) -> Self {
        let filter = match preset {
            Preset::Seed => Filter::Bicubic,
            Preset::SeedScripts => Filter::Bilinear,
        };
        Self { size, filter, mean: CLIP_MEAN, std: CLIP_STD }
    }

    /// The first half of [`apply`](Self::apply), which does nothing more to what it gives: an image of `size` x `size` pixels.
    pub fn resize<P: Deref<Target = [u8]>>(&self, image: &RgbBuffer<P>) -> RgbImage {
        resize(image, self.size, self.size, self.filter)
    }

    /// Resizes and normalizes one image -> `[3, size, size]`, channel after channel.
    ///
    /// The float32 operations are torchvision's, in its order: `x / 255`, then `- mean`, then `/ std`.
    pub fn apply<P: Deref<Target = [u8]>>(&self, image: &RgbBuffer<P>) -> Vec<f32> {
        let resized = self.resize(image);
        let area = (resized.width() * resized.height()) as usize;
        let mut values = Vec::with_capacity(3 * area);
        for channel in 0..3 {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            let table: [f32; 256] = std::array::from_fn(|level| (level as f32 / 255.0 - mean) / std);
            values.extend(resized.as_raw().chunks_exact(3).map(|pixel| table[usize::from(pixel[channel])]));
        }
        values
    }
}

/// An image from values in 0 to 1, `[3, height, width]`: clamped, scaled by 255 and rounded half to even as numpy does.
///
/// # Panics
/// When `values` does not hold `3 * height * width` values.
pub fn from_unit(values: &[f32], width: u32, height: u32) -> RgbImage {
    let area = width as usize * height as usize;
    assert_eq!(values.len(), 3 * area, "values of a {width} x {height} image");
    let level = |value: f32| (value.clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
    RgbImage::from_fn(width, height, |x, y| {
        let at = y as usize * width as usize + x as usize;
        image::Rgb([level(values[at]), level(values[area + at]), level(values[2 * area + at])])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_read_what_they_show() {
        for preset in Preset::ALL {
            assert_eq!(preset.to_string().parse::<Preset>().unwrap(), preset);
            assert_eq!(serde_json::to_string(&preset).unwrap(), format!("\"{preset}\""));
        }
        let error = "clip".parse::<Preset>().unwrap_err().to_string();
        assert!(error.contains("seed-scripts"), "{error}");
    }

    #[test]
    fn normalization_is_planar_and_in_the_order_of_torchvision() {
        let image = RgbImage::from_raw(2, 1, vec![0, 127, 255, 10, 20, 30]).unwrap();
        let values = Preprocessor { size: 1, ..Preprocessor::new(1, Preset::Seed) }.apply(&image);
        assert_eq!(values.len(), 3);
        let image = RgbImage::from_pixel(2, 2, image::Rgb([7, 100, 255]));
        let values = Preprocessor::new(2, Preset::SeedScripts).apply(&image);
        for (channel, level) in [7.0_f32, 100.0, 255.0].into_iter().enumerate() {
            let expected = (level / 255.0 - CLIP_MEAN[channel]) / CLIP_STD[channel];
            assert!(values[4 * channel..][..4].iter().all(|v| v.to_bits() == expected.to_bits()));
        }
    }

    #[test]
    fn unit_values_are_clamped_and_rounded_half_to_even() {
        let values = [-1.0, 2.0, 0.5 / 255.0, 1.5 / 255.0, f32::NAN, 1.0];
        assert_eq!(from_unit(&values, 2, 1).into_raw(), [0, 0, 0, 255, 2, 255]);
    }
}
