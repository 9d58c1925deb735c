//! Scaled dot-product attention, as every model here uses it.

use burn::tensor::{Tensor, activation::softmax, backend::Backend};

/// Attends `query` `[batch, heads, queries, head_dim]` to `key` and `value` `[batch, heads, tokens, head_dim]`.
///
/// `scale` multiplies the queries before the product. `mask` `[queries, tokens]` is added to the scores of every image
/// and head. Returns `[batch, heads, queries, head_dim]`.
pub fn attention<B: Backend>(
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
    softmax(scores, 3).matmul(value) // [batch, heads, queries, head_dim]
}

/// `[batch, tokens, width]` -> `[batch, heads, tokens, width / heads]`.
pub fn split_heads<B: Backend>(x: Tensor<B, 3>, heads: usize) -> Tensor<B, 4> {
    let [batch, tokens, width] = x.dims();
    x.reshape([batch, tokens, heads, width / heads]).swap_dims(1, 2)
}

/// `[batch, heads, tokens, head_dim]` -> `[batch, tokens, heads * head_dim]`.
pub fn merge_heads<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 3> {
    let [batch, heads, tokens, head_dim] = x.dims();
    x.swap_dims(1, 2).reshape([batch, tokens, heads * head_dim])
}
