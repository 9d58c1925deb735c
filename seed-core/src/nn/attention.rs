//! Scaled dot-product attention, as every model here uses it.

use burn::tensor::Tensor;

use super::{SeedBackend, softmax};

/// Attends `query` `[batch, heads, queries, head_dim]` to `key` and `value` `[batch, heads, tokens, head_dim]`.
///
/// `scale` multiplies the queries before the product. `mask` `[queries, tokens]` is added to the scores of every image
/// and head. Returns `[batch, heads, queries, head_dim]`.
pub fn attention<B: SeedBackend>(
    query: Tensor<B, 4>,
    key: Tensor<B, 4>,
    value: Tensor<B, 4>,
    scale: f64,
    mask: Option<Tensor<B, 2>>,
) -> Tensor<B, 4> {
    let mut scores = (query * scale).matmul(key.swap_dims(2, 3)); // [batch, heads, queries, tokens]
    if let Some(mask) = mask {
        scores = scores + mask.unsqueeze::<4>();
    }
    softmax(scores).matmul(value) // [batch, heads, queries, head_dim]
}
