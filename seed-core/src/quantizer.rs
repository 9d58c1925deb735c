//! Step 4 of 6: causal embeddings [batch, 32, 768] <-> codes [batch, 32].
//!
//! Two layers lead down to the codebook's 32 dimensions, the nearest row in plain L2 distance is the code, the lowest
//! index on a tie; two layers lead up again (arXiv 2307.08041, section 3.1). Distances are computed in float32 whatever
//! the dtype before. The search is exact, not approximate: with `|z - e|^2 = |z|^2 + |e|^2 - 2 z e`, as the reference does.

use burn::{
    module::Module,
    nn::{Embedding, EmbeddingConfig, Initializer},
    tensor::{IndexingUpdateOp, Int, Tensor, backend::Backend},
};

use crate::nn::{Linear, LinearConfig, SeedBackend};

/// Sizes of the codebook and of the layers around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantizerConfig {
    /// Features of a causal embedding.
    pub width: usize,
    /// Rows of the codebook.
    pub codes: usize,
    /// Features of a row.
    pub dim: usize,
}

impl QuantizerConfig {
    /// As released: 8192 rows of 32.
    pub fn released() -> Self {
        Self { width: 768, codes: 8192, dim: 32 }
    }

    /// A randomly initialised model; rows uniform in `+-1 / codes`, as in the official training.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Quantizer<B> {
        let bound = 1.0 / self.codes as f64;
        let rows = Initializer::Uniform { min: -bound, max: bound };
        let linear = |input, output| LinearConfig::new(input, output).init(device);
        Quantizer {
            encode_in: linear(self.width, self.width),
            encode_out: linear(self.width, self.dim),
            embedding: EmbeddingConfig::new(self.codes, self.dim).with_initializer(rows).init(device),
            decode_in: linear(self.dim, self.dim),
            decode_out: linear(self.dim, self.width),
        }
    }
}

/// The codebook with its way down and its way up.
#[derive(Module, Debug)]
pub struct Quantizer<B: Backend> {
    encode_in: Linear<B>,
    encode_out: Linear<B>,
    /// The codebook, `[codes, dim]`.
    pub embedding: Embedding<B>,
    decode_in: Linear<B>,
    decode_out: Linear<B>,
}

impl<B: SeedBackend> Quantizer<B> {
    /// Causal embeddings `[batch, queries, width]` -> latents `[batch, queries, dim]`.
    pub fn latents(&self, causal: Tensor<B, 3>) -> Tensor<B, 3> {
        self.encode_out.forward(self.encode_in.forward(causal).tanh())
    }

    /// Latents `[batch, queries, dim]` -> nearest rows `[batch, queries]`.
    pub fn nearest(&self, latents: Tensor<B, 3>) -> Tensor<B, 2, Int> {
        let [batch, queries, _] = latents.dims();
        self.distances(latents).argmin(1).reshape([batch, queries])
    }

    /// As [`nearest`](Self::nearest), with the squared distances to the nearest row and to the runner-up,
    /// `[batch, queries]` each. They are equal for a tie. A code whose two distances differ by rounding (about 1e-6 of
    /// `|z|^2`) may be another one where sums run in another order.
    pub fn nearest_two(&self, latents: Tensor<B, 3>) -> (Tensor<B, 2, Int>, [Tensor<B, 2>; 2]) {
        let [batch, queries, _] = latents.dims();
        let distances = self.distances(latents);
        let nearest = distances.clone().argmin(1); // [batch * queries, 1]
        let best = distances.clone().gather(1, nearest.clone());
        let away = Tensor::full([batch * queries, 1], f32::MAX, &distances.device());
        let others = distances.scatter(1, nearest.clone(), away, IndexingUpdateOp::Add);
        let two = [best, others.min_dim(1)];
        (nearest.reshape([batch, queries]), two.map(|distance| distance.reshape([batch, queries])))
    }

    /// Latents `[batch, queries, dim]` -> squared distances to every row `[batch * queries, codes]`.
    fn distances(&self, latents: Tensor<B, 3>) -> Tensor<B, 2> {
        let [batch, queries, dim] = latents.dims();
        let rows = self.embedding.weight.val(); // [codes, dim]
        let z = latents.reshape([batch * queries, dim]);
        let z_norm = z.clone().powi_scalar(2).sum_dim(1); // [batch * queries, 1]
        let row_norm = rows.clone().powi_scalar(2).sum_dim(1).transpose(); // [1, codes]
        z_norm + row_norm - B::product(z, rows.transpose()) * 2.0 // [batch * queries, codes]
    }

    /// Codes `[batch, queries]` -> rows of the codebook `[batch, queries, dim]`.
    pub fn rows(&self, codes: Tensor<B, 2, Int>) -> Tensor<B, 3> {
        self.embedding.forward(codes)
    }

    /// Rows `[batch, queries, dim]` -> decoder states `[batch, queries, width]`.
    pub fn states(&self, rows: Tensor<B, 3>) -> Tensor<B, 3> {
        self.decode_out.forward(self.decode_in.forward(rows).tanh())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::every_backend::on_every_backend;

    on_every_backend!(the_nearest_two_rows);

    /// The codebook's own rows are at distance 0.
    fn the_nearest_two_rows<B: SeedBackend>() {
        let device = Default::default();
        let mut quantizer = QuantizerConfig { width: 4, codes: 3, dim: 2 }.init::<B>(&device);
        let rows = Tensor::<B, 2>::from_floats([[0.0, 0.0], [3.0, 4.0], [0.0, 2.0]], &device);
        quantizer.embedding.weight = burn::module::Param::from_tensor(rows);
        let latents = Tensor::<B, 3>::from_floats([[[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]], &device);
        let (codes, distances) = quantizer.nearest_two(latents.clone());
        assert_eq!(codes.clone().into_data(), quantizer.nearest(latents).into_data());
        assert_eq!(codes.into_data().iter::<i64>().collect::<Vec<_>>(), [0, 1, 0], "the lowest index on a tie");
        // To row 2: 4; from (3, 4) to (0, 2): 9 + 4; halfway between rows 0 and 2: a tie.
        let [best, second] = distances.map(|distance| distance.into_data().iter::<f32>().collect::<Vec<_>>());
        assert_eq!((best, second), (vec![0.0, 0.0, 1.0], vec![4.0, 13.0, 1.0]));
    }
}
