//! Two images -> how near their pixels are. An image is compared with another at the other's size.

use image::RgbImage;

use crate::pixels::{Filter, resize};

/// Width of SSIM's window, and the standard deviation of its weights.
const WINDOW: usize = 11;
const SIGMA: f64 = 1.5;
/// SSIM's constants, as squares of shares of the range of values.
const C1: f64 = (0.01 * 255.0) * (0.01 * 255.0);
const C2: f64 = (0.03 * 255.0) * (0.03 * 255.0);

/// How near the pixels of two images are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Nearness {
    /// Peak signal-to-noise ratio in dB, at most 100.
    pub(super) psnr: f64,
    /// Structural similarity of the grey values, 1 for equal images.
    pub(super) ssim: f64,
    /// Mean absolute difference of the channels, 0 to 255.
    pub(super) absolute: f64,
}

impl Nearness {
    /// Of `decoded` and `image`, resized to its size if need be.
    pub(super) fn new(image: &RgbImage, decoded: &RgbImage) -> Self {
        let (width, height) = decoded.dimensions();
        let image = resize(image, width, height, Filter::Bicubic);
        let count = image.as_raw().len().max(1) as f64;
        let differences = || image.as_raw().iter().zip(decoded.as_raw()).map(|(a, b)| f64::from(a.abs_diff(*b)));
        let squared = differences().map(|d| d * d).sum::<f64>() / count;
        Self {
            psnr: (10.0 * (255.0f64.powi(2) / squared.max(1e-10)).log10()).min(100.0),
            ssim: ssim(&Plane::grey(&image), &Plane::grey(decoded)),
            absolute: differences().sum::<f64>() / count,
        }
    }
}

/// Values `[height, width]`.
struct Plane {
    width: usize,
    values: Vec<f64>,
}

impl Plane {
    /// Grey values by the weights of ITU-R BT.601.
    fn grey(image: &RgbImage) -> Self {
        let grey = |p: &image::Rgb<u8>| 0.299 * f64::from(p[0]) + 0.587 * f64::from(p[1]) + 0.114 * f64::from(p[2]);
        Self { width: image.width() as usize, values: image.pixels().map(grey).collect() }
    }

    fn product(&self, other: &Self) -> Self {
        Self { width: self.width, values: self.values.iter().zip(&other.values).map(|(a, b)| a * b).collect() }
    }

    /// Means under the weights of a window, wherever it lies inside as a whole; an image that is smaller than it has a
    /// smaller window.
    fn blurred(&self) -> Self {
        let height = self.values.len() / self.width.max(1);
        let across = weights(self.width);
        let rows = self.values.chunks(self.width.max(1));
        let narrow: Vec<f64> = rows.flat_map(|row| row.windows(across.len()).map(|part| dot(part, &across))).collect();
        let width = self.width + 1 - across.len();
        let down = weights(height);
        let column = |top: usize, x: usize| (0..down.len()).map(|i| narrow[(top + i) * width + x] * down[i]).sum();
        let tops = 0..height + 1 - down.len();
        Self {
            width,
            values: tops.flat_map(|top| (0..width).map(move |x| (top, x))).map(|(t, x)| column(t, x)).collect(),
        }
    }
}

/// Weights of a Gaussian window within `side` pixels, which sum to 1.
fn weights(side: usize) -> Vec<f64> {
    let count = WINDOW.min(side.max(1));
    let middle = (count - 1) as f64 / 2.0;
    let weights: Vec<f64> = (0..count).map(|i| (-0.5 * ((i as f64 - middle) / SIGMA).powi(2)).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Mean structural similarity. Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility
/// to structural similarity", IEEE TIP 13(4), 2004, equation 13, with its window and constants.
fn ssim(a: &Plane, b: &Plane) -> f64 {
    let (mean_a, mean_b) = (a.blurred(), b.blurred());
    let (square_a, square_b, product) = (a.product(a).blurred(), b.product(b).blurred(), a.product(b).blurred());
    let at = |i: usize| {
        let (ma, mb) = (mean_a.values[i], mean_b.values[i]);
        let (va, vb) = (square_a.values[i] - ma * ma, square_b.values[i] - mb * mb);
        let covariance = product.values[i] - ma * mb;
        (2.0 * ma * mb + C1) * (2.0 * covariance + C2) / ((ma * ma + mb * mb + C1) * (va + vb + C2))
    };
    let count = mean_a.values.len();
    (0..count).map(at).sum::<f64>() / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn flat(value: u8) -> RgbImage {
        RgbImage::from_pixel(16, 16, Rgb([value; 3]))
    }

    fn stripes(low: u8, high: u8) -> RgbImage {
        RgbImage::from_fn(16, 16, |x, _| Rgb([if x % 2 == 0 { low } else { high }; 3]))
    }

    #[test]
    fn known_differences() {
        let near = Nearness::new(&flat(100), &flat(110));
        assert!((near.psnr - 20.0 * 25.5f64.log10()).abs() < 1e-9);
        assert_eq!(near.absolute, 10.0);
        // Without structure only the means are left of the formula.
        let means = (2.0 * 100.0 * 110.0 + C1) / (100.0f64.powi(2) + 110.0f64.powi(2) + C1);
        assert!((near.ssim - means).abs() < 1e-9, "{near:?}");
        let equal = Nearness::new(&stripes(0, 255), &stripes(0, 255));
        assert_eq!((equal.psnr, equal.absolute), (100.0, 0.0));
        assert!((equal.ssim - 1.0).abs() < 1e-9);
    }

    #[test]
    fn structure_is_what_counts() {
        let original = stripes(80, 120);
        let inverted = Nearness::new(&original, &stripes(120, 80));
        let brighter = Nearness::new(&original, &stripes(120, 160));
        assert_eq!(inverted.absolute, brighter.absolute);
        assert!(inverted.ssim < 0.0 && brighter.ssim > 0.9, "{inverted:?} {brighter:?}");
    }

    #[test]
    fn other_and_tiny_sizes() {
        assert!(Nearness::new(&RgbImage::from_pixel(40, 30, Rgb([9; 3])), &flat(9)).psnr == 100.0);
        for side in [1, 2, 10] {
            let image = RgbImage::from_pixel(side, side, Rgb([7; 3]));
            assert!((Nearness::new(&image, &image).ssim - 1.0).abs() < 1e-9, "{side}");
        }
    }
}
