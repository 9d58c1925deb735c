//! The losses, written once for every stage that uses them.

use burn::tensor::{Int, Tensor, activation::log_softmax, backend::Backend};

/// Symmetric contrast of `left` and `right`, both `[batch, dim]` of unit length and pairwise matching: mean cross entropy
/// of the similarities times `scale` over rows and over columns, of labels that are smoothed by the share `smoothing`.
///
/// Returns the loss and the share of rows whose own partner is nearest.
pub(super) fn contrast<B: Backend>(
    left: Tensor<B, 2>,
    right: Tensor<B, 2>,
    scale: Tensor<B, 1>,
    smoothing: f64,
) -> (Tensor<B, 1>, f64) {
    let [batch, _] = left.dims();
    let device = left.device();
    let logits = left.matmul(right.transpose()) * scale.unsqueeze::<2>(); // [batch, batch]
    let nearest = logits.clone().argmax(1).reshape([batch]);
    let own = Tensor::<B, 1, Int>::arange(0..batch as i64, &device);
    let hits: f64 = nearest.equal(own).int().sum().into_data().iter::<f64>().sum();
    let label = Tensor::<B, 2>::eye(batch, &device) * (1.0 - smoothing) + smoothing / batch as f64;
    let entropy = |logits| (log_softmax(logits, 1) * label.clone()).sum().neg() / batch as f64;
    let loss = (entropy(logits.clone()) + entropy(logits.transpose())) / 2.0;
    (loss, hits / batch as f64)
}

/// Latents `z` and their rows, both `[batch, queries, dim]` -> the loss that brings them together, with `beta` on the term
/// that moves the rows if `legacy`, as released, and on the one that moves the latents otherwise (arXiv 1711.00937, equation 3).
pub(super) fn quantization<B: Backend>(z: Tensor<B, 3>, rows: Tensor<B, 3>, beta: f64, legacy: bool) -> Tensor<B, 1> {
    let commitment = squared_error(z.clone(), rows.clone().detach());
    let codebook = squared_error(rows, z.detach());
    if legacy { commitment + codebook * beta } else { commitment * beta + codebook }
}

/// `1 - cosine` of the last axis, averaged.
pub(super) fn cosine_loss<B: Backend>(x: Tensor<B, 3>, target: Tensor<B, 3>) -> Tensor<B, 1> {
    let dot = (x.clone() * target.clone()).sum_dim(2);
    let length = |x: Tensor<B, 3>| x.powi_scalar(2).sum_dim(2).add_scalar(1e-12).sqrt();
    (dot / (length(x) * length(target))).mean().neg() + 1.0
}

/// Mean squared error.
pub(super) fn squared_error<B: Backend, const D: usize>(x: Tensor<B, D>, target: Tensor<B, D>) -> Tensor<B, 1> {
    (x - target).powi_scalar(2).mean()
}
