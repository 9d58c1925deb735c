//! What happens to the rows of a codebook besides learning by their gradient.

use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor, TensorData, backend::Backend},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{contrast::unit, quantizer::Quantizer};

use super::run::TrainBackend;

/// Number of different codes.
pub(super) fn distinct<B: Backend>(codes: Tensor<B, 2, Int>) -> f64 {
    let codes: std::collections::BTreeSet<i64> = codes.into_data().iter::<i64>().collect();
    codes.len() as f64
}

/// Puts rows that none of `latents` `[batch, queries, dim]` chose, or all of them, onto latents drawn at random.
pub(super) fn restart<A: TrainBackend>(
    quantizer: Quantizer<A>,
    latents: Tensor<A::InnerBackend, 3>,
    seed: u64,
    all: bool,
) -> Quantizer<A> {
    let codebook = quantizer.embedding.weight.val();
    let [count, dim] = codebook.dims();
    let device = codebook.device();
    let mut used = vec![false; count];
    let codes = quantizer.nearest(Tensor::from_inner(latents.clone()));
    codes.into_data().iter::<i64>().for_each(|code| used[code as usize] = !all);
    let [batch, queries, _] = latents.dims();
    let latents: Vec<f32> = latents.into_data().iter::<f32>().collect();
    let mut rows: Vec<f32> = codebook.into_data().iter::<f32>().collect();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for row in (0..count).filter(|&row| !used[row]) {
        let pick = random.random_range(0..batch * queries);
        rows[row * dim..][..dim].copy_from_slice(&latents[pick * dim..][..dim]);
    }
    with_rows(quantizer, Tensor::from_data(TensorData::new(rows, [count, dim]), &device))
}

/// Other rows `[codes, dim]`, under the name that the optimizer knows.
fn with_rows<A: TrainBackend>(mut quantizer: Quantizer<A>, rows: Tensor<A::InnerBackend, 2>) -> Quantizer<A> {
    let (id, learns) = (quantizer.embedding.weight.id, quantizer.embedding.weight.val().is_require_grad());
    quantizer.embedding.weight = Param::initialized(id, Tensor::from_inner(rows).set_require_grad(learns));
    quantizer
}

/// Rows of unit length.
pub(super) fn on_the_sphere<A: TrainBackend>(quantizer: Quantizer<A>) -> Quantizer<A> {
    let rows = unit(quantizer.embedding.weight.val().inner());
    with_rows(quantizer, rows)
}

/// Means over the steps of how many latents chose a row, and of their sum.
#[derive(Module, Debug)]
pub(super) struct Means<B: Backend> {
    /// `[codes, 1]`
    counts: Param<Tensor<B, 2>>,
    /// `[codes, dim]`
    sums: Param<Tensor<B, 2>>,
}

/// Added to the mean counts, so that rows that nobody chooses stay where they are. Oord's.
const SMOOTHING: f64 = 1e-5;

impl<B: Backend> Means<B> {
    /// As if each row had been chosen once by itself.
    pub(super) fn of(rows: Tensor<B, 2>) -> Self {
        let [codes, _] = rows.dims();
        let counts = Tensor::ones([codes, 1], &rows.device());
        Self {
            counts: Param::from_tensor(counts).set_require_grad(false),
            sums: Param::from_tensor(rows.detach()).set_require_grad(false),
        }
    }
}

/// Moves the means towards a step's latents `[count, dim]` with their codes `[count]`, and the rows onto them
/// (arXiv 1711.00937, appendix A.1): `n <- d n + (1 - d) count`, `m <- d m + (1 - d) sum`, `row = m / n`, with the counts
/// smoothed as in the authors' implementation.
pub(super) fn follow<A: TrainBackend>(
    quantizer: Quantizer<A>,
    means: Means<A>,
    latents: Tensor<A::InnerBackend, 2>,
    codes: Tensor<A::InnerBackend, 1, Int>,
    decay: f64,
) -> (Quantizer<A>, Means<A>) {
    let (counts, sums) = (means.counts.val().inner(), means.sums.val().inner());
    let [rows, _] = counts.dims();
    let chosen: Tensor<A::InnerBackend, 2> = codes.one_hot::<2>(rows).float(); // [count, codes]
    let step_counts = chosen.clone().sum_dim(0).transpose(); // [codes, 1]
    let step_sums = chosen.transpose().matmul(latents); // [codes, dim]
    let counts = counts * decay + step_counts * (1.0 - decay);
    let sums = sums * decay + step_sums * (1.0 - decay);
    let total = counts.clone().sum().unsqueeze::<2>(); // [1, 1]
    let smooth = (counts.clone() + SMOOTHING) / (total.clone() + SMOOTHING * rows as f64) * total;
    let quantizer = with_rows(quantizer, sums.clone() / smooth);
    let put = |param: Param<Tensor<A, 2>>, value| Param::initialized(param.id, Tensor::from_inner(value));
    (quantizer, Means { counts: put(means.counts, counts), sums: put(means.sums, sums) })
}

#[cfg(test)]
mod tests {
    use burn::backend::Autodiff;
    use burn_flex::Flex;

    use super::*;
    use crate::quantizer::QuantizerConfig;

    type A = Autodiff<Flex>;

    fn quantizer(rows: [[f32; 2]; 3]) -> Quantizer<A> {
        let quantizer = QuantizerConfig { width: 4, codes: 3, dim: 2 }.init::<A>(&Default::default());
        with_rows(quantizer, Tensor::from_floats(rows, &Default::default()))
    }

    fn rows(quantizer: &Quantizer<A>) -> Vec<f32> {
        quantizer.embedding.weight.val().into_data().iter::<f32>().collect()
    }

    #[test]
    fn rows_follow_the_mean_of_their_latents() {
        let device = Default::default();
        let mut quantizer = quantizer([[0.0, 0.0], [10.0, 10.0], [-10.0, 0.0]]);
        let mut means = Means::of(quantizer.embedding.weight.val());
        for _ in 0..200 {
            let latents = Tensor::<Flex, 2>::from_floats([[1.0, 2.0], [3.0, 4.0], [8.0, 9.0]], &device);
            let codes = quantizer.nearest(Tensor::from_inner(latents.clone().unsqueeze::<3>())).inner();
            (quantizer, means) = follow(quantizer, means, latents, codes.reshape([3]), 0.9);
        }
        let rows = rows(&quantizer);
        for (got, want) in rows.iter().zip([2.0, 3.0, 8.0, 9.0]) {
            assert!((got - want).abs() < 1e-3, "{rows:?}");
        }
        assert!(rows.iter().all(|value| value.is_finite()), "a row that nobody chooses keeps a place: {rows:?}");
        assert!(quantizer.embedding.weight.val().is_require_grad());
    }

    #[test]
    fn rows_that_nobody_chooses_restart_at_latents() {
        let device = Default::default();
        let latents = Tensor::<Flex, 3>::from_floats([[[0.1, 0.0], [0.0, 0.2]]], &device);
        let given = quantizer([[0.0, 0.0], [10.0, 10.0], [-10.0, 0.0]]);
        let after = rows(&restart(given.clone(), latents.clone(), 1, false));
        assert_eq!(after[..2], [0.0, 0.0], "chosen by both");
        for row in after[2..].chunks(2) {
            assert!(row == [0.1, 0.0] || row == [0.0, 0.2], "{after:?}");
        }
        assert_ne!(rows(&restart(given, latents, 1, true))[..2], [0.0, 0.0], "all of them");
    }

    #[test]
    fn rows_have_unit_length_on_the_sphere() {
        let rows = rows(&on_the_sphere(quantizer([[3.0, 4.0], [10.0, 0.0], [0.0, -0.1]])));
        for (got, want) in rows.iter().zip([0.6, 0.8, 1.0, 0.0, 0.0, -1.0]) {
            assert!((got - want).abs() < 1e-6, "{rows:?}");
        }
    }
}
