//! How much of the codebook is used, and how evenly.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::codes::Codes;

/// Usage of the codebook over a set of images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CodeUsage {
    /// Number of images.
    pub images: usize,
    /// Rows of the codebook.
    pub codebook_size: usize,
    /// Rows that occur at least once.
    pub used: usize,
    /// `used / codebook_size`.
    pub usage: f64,
    /// `exp` of the entropy of the codes, between 1 and `codebook_size`.
    pub perplexity: f64,
    /// Mean number of different codes among those of one image: near 1 when the tokens of an image all say the same, which
    /// neither usage nor entropies show.
    pub distinct_per_image: f64,
    /// Entropy of the codes at each position, in bits.
    pub position_bits: Vec<f64>,
    /// How clearly the codes were chosen, where that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margins: Option<Margins>,
}

/// How much larger the squared distance of a latent to the runner-up is than to its code.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Margins {
    /// Mean margin.
    pub mean: f64,
    /// Margins that so large a share of the codes lie below.
    pub quantiles: Vec<Quantile>,
    /// Mean squared distance to the code itself: what quantizing loses.
    pub distance: f64,
}

/// The value that a share of all values lie below.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantile {
    /// The share, 0 to 1.
    pub share: f64,
    /// The value.
    pub value: f64,
}

/// Shares that [`Margins`] tells.
const SHARES: [f64; 7] = [0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95];

impl Margins {
    /// Of squared distances to codes and to runners-up.
    pub(super) fn new([nearest, second]: [&[f32]; 2]) -> Self {
        let mut margins: Vec<f64> = nearest.iter().zip(second).map(|(a, b)| f64::from(b - a)).collect();
        margins.sort_by(f64::total_cmp);
        let count = margins.len().max(1) as f64;
        let at = |share: f64| margins.get((share * margins.len() as f64) as usize).copied().unwrap_or(0.0);
        Self {
            mean: margins.iter().sum::<f64>() / count,
            quantiles: SHARES.map(|share| Quantile { share, value: at(share) }).to_vec(),
            distance: nearest.iter().copied().map(f64::from).sum::<f64>() / count,
        }
    }
}

/// Counts codes. Margins are not among what codes alone say; see [`Coded`](super::Coded).
pub fn code_usage(codes: &Codes) -> CodeUsage {
    let count = |values: &mut dyn Iterator<Item = u16>| {
        let mut counts = vec![0usize; codes.codebook_size()];
        values.for_each(|code| counts[usize::from(code)] += 1);
        counts
    };
    let all = count(&mut codes.as_slice().iter().copied());
    let used = all.iter().filter(|&&n| n > 0).count();
    let position = |i: usize| count(&mut codes.rows().map(|row| row[i]));
    CodeUsage {
        images: codes.batch(),
        codebook_size: codes.codebook_size(),
        used,
        usage: used as f64 / codes.codebook_size() as f64,
        perplexity: entropy(&all).exp(),
        distinct_per_image: {
            let distinct = |row: &[u16]| row.iter().collect::<BTreeSet<_>>().len();
            codes.rows().map(distinct).sum::<usize>() as f64 / codes.batch().max(1) as f64
        },
        position_bits: (0..codes.tokens()).map(|i| entropy(&position(i)) / std::f64::consts::LN_2).collect(),
        margins: None,
    }
}

/// Entropy of a histogram, in nats.
fn entropy(counts: &[usize]) -> f64 {
    let total: usize = counts.iter().sum();
    let shares = counts.iter().filter(|&&n| n > 0).map(|&n| n as f64 / total as f64);
    shares.map(|p| -p * p.ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_of_known_distances() {
        let nearest: Vec<f32> = (0..100).map(|_| 2.0).collect();
        let second: Vec<f32> = (0..100).rev().map(|i| 2.0 + i as f32).collect();
        let margins = Margins::new([&nearest, &second]);
        assert_eq!((margins.mean, margins.distance), (49.5, 2.0));
        let values: Vec<f64> = margins.quantiles.iter().map(|quantile| quantile.value).collect();
        assert_eq!(values, [0.0, 1.0, 5.0, 25.0, 50.0, 75.0, 95.0]);
        assert_eq!(Margins::new([&[], &[]]).mean, 0.0);
    }

    #[test]
    fn usage_of_known_codes() {
        let codes = Codes::from_rows([[0u16, 1], [0, 2], [0, 3], [0, 0]], 2, 8).unwrap();
        let usage = code_usage(&codes);
        assert_eq!((usage.images, usage.used, usage.usage), (4, 4, 0.5));
        assert_eq!(usage.position_bits, [0.0, 2.0]);
        assert_eq!(usage.distinct_per_image, (2 + 2 + 2 + 1) as f64 / 4.0);
        // Shares 5/8 and three times 1/8.
        let nats = -(0.625f64 * 0.625f64.ln() + 3.0 * 0.125 * 0.125f64.ln());
        assert!((usage.perplexity - nats.exp()).abs() < 1e-12);
    }
}
