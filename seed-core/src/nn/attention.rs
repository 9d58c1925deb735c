//! Scaled dot-product attention, as every model here uses it.

use burn::tensor::{Tensor, TensorPrimitive};

use super::{SeedBackend, merge_heads, softmax, split_heads};

/// Most scores of an image that are in memory at a time (256 MB in float32); the decoder at 768 pixels has 1.7 GB of them.
/// By image, so that a result does not depend on the batch.
const SCORES_AT_ONCE: usize = 1 << 26;

/// Attends `query` `[batch, queries, width]` to `key` and `value` `[batch, tokens, width]`, each of `heads` heads side by side.
///
/// Queries are multiplied by `head_dim^-0.5` before the product; `mask` `[queries, tokens]` is added to the scores of every
/// image and head. Returns `[batch, queries, width]`.
pub fn attention<B: SeedBackend>(
    query: Tensor<B, 3>,
    key: Tensor<B, 3>,
    value: Tensor<B, 3>,
    heads: usize,
    mask: Option<Tensor<B, 2>>,
) -> Tensor<B, 3> {
    B::fused_attention(query, key, value, heads, mask)
}

/// As [`attention`] of tokens `[batch, tokens, width]` to each other, with a mask of each text: `hidden` `[batch, tokens]` is
/// added to the scores that its tokens get.
pub fn attention_to_words<B: SeedBackend>(
    query: Tensor<B, 3>,
    key: Tensor<B, 3>,
    value: Tensor<B, 3>,
    heads: usize,
    hidden: Tensor<B, 2>,
) -> Tensor<B, 3> {
    let scale = scale(&query, heads);
    let [batch, tokens] = hidden.dims();
    let [query, key, value] = [query, key, value].map(|part| split_heads(part, heads)); // [batch, heads, tokens, head_dim]
    let scores = B::product(query * scale, key.swap_dims(2, 3)) + hidden.reshape([batch, 1, 1, tokens]);
    merge_heads(B::product(softmax(scores), value))
}

/// `head_dim^-0.5`.
pub(super) fn scale<B: SeedBackend>(query: &Tensor<B, 3>, heads: usize) -> f64 {
    let [_, _, width] = query.dims();
    ((width / heads) as f64).powf(-0.5)
}

/// [`SeedBackend::fused_attention`] in plain tensor operations.
pub(super) fn plain<B: SeedBackend>(
    query: Tensor<B, 3>,
    key: Tensor<B, 3>,
    value: Tensor<B, 3>,
    heads: usize,
    mask: Option<Tensor<B, 2>>,
) -> Tensor<B, 3> {
    let scale = scale(&query, heads);
    let [query, key, value] = [query, key, value].map(|part| split_heads(part, heads));
    merge_heads(sliced(query, key, value, scale, mask, SCORES_AT_ONCE))
}

/// [`SeedBackend::fused_attention_backward`] in plain tensor operations.
pub(super) fn plain_backward<B: SeedBackend>(
    [query, key, value]: [Tensor<B, 3>; 3],
    grad: Tensor<B, 3>,
    heads: usize,
    mask: Option<Tensor<B, 2>>,
) -> [Tensor<B, 3>; 3] {
    let scale = scale(&query, heads);
    let [query, key, value, grad] = [query * scale, key, value, grad].map(|part| split_heads(part, heads));
    let scores = query.clone().matmul(key.clone().swap_dims(2, 3)); // [batch, heads, queries, tokens]
    let weights = softmax(mask.into_iter().fold(scores, |scores, mask| scores + mask.unsqueeze::<4>()));
    let to_value = weights.clone().swap_dims(2, 3).matmul(grad.clone());
    let to_weights = grad.matmul(value.swap_dims(2, 3));
    let [weights, to_weights] = [weights, to_weights].map(|x| x.into_primitive().tensor());
    let slopes = B::fused_softmax_backward(weights, to_weights);
    let slopes = Tensor::<B, 4>::from_primitive(TensorPrimitive::Float(slopes));
    let to_key = slopes.clone().swap_dims(2, 3).matmul(query);
    [slopes.matmul(key) * scale, to_key, to_value].map(merge_heads)
}

/// Attends `query` `[batch, heads, queries, head_dim]` to `key` and `value` `[batch, heads, tokens, head_dim]`.
///
/// `scale` multiplies the queries before the product. `mask` `[queries, tokens]` is added to the scores of every image
/// and head. Returns `[batch, heads, queries, head_dim]`. Where the scores would take much memory, the queries are taken in
/// slices; no query depends on another, so that nothing changes but the memory.
fn sliced<B: SeedBackend>(
    query: Tensor<B, 4>,
    key: Tensor<B, 4>,
    value: Tensor<B, 4>,
    scale: f64,
    mask: Option<Tensor<B, 2>>,
    scores_at_once: usize,
) -> Tensor<B, 4> {
    let [_, heads, queries, _] = query.dims();
    let [_, _, tokens, _] = key.dims();
    let at_once = (scores_at_once / (heads * tokens).max(1)).max(1);
    let query = query * scale;
    let key = key.swap_dims(2, 3); // [batch, heads, head_dim, tokens]
    let attend = |query: Tensor<B, 4>, mask: Option<Tensor<B, 2>>| {
        let mut scores = B::product(query, key.clone()); // [batch, heads, queries, tokens]
        if let Some(mask) = mask {
            scores = scores + mask.unsqueeze::<4>();
        }
        B::product(softmax(scores), value.clone()) // [batch, heads, queries, head_dim]
    };
    if at_once >= queries {
        return attend(query, mask);
    }
    let slice = |start: usize| {
        let count = at_once.min(queries - start);
        let mask = mask.clone().map(|mask| mask.narrow(0, start, count));
        attend(query.clone().narrow(2, start, count), mask)
    };
    Tensor::cat((0..queries).step_by(at_once).map(slice).collect(), 2)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;
    use burn_flex::Flex;

    use super::*;

    #[test]
    fn slices_change_nothing() {
        /// Products of another height may be summed in another order.
        const ROUNDING: f32 = 1e-6;
        let device = Default::default();
        let random = |shape: [usize; 4]| Tensor::<Flex, 4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let (query, key, value) = (random([2, 3, 11, 4]), random([2, 3, 7, 4]), random([2, 3, 7, 4]));
        let mask = Tensor::<Flex, 2>::random([11, 7], Distribution::Normal(0.0, 1.0), &device);
        for mask in [None, Some(mask)] {
            let run = |at_once: usize| sliced(query.clone(), key.clone(), value.clone(), 0.5, mask.clone(), at_once);
            let whole = run(usize::MAX);
            // One query at a time, slices that do not divide evenly, and the last slice of one.
            for at_once in [0, 21 * 4, 21 * 10] {
                let difference = (run(at_once) - whole.clone()).abs().max().into_scalar();
                assert!(difference <= ROUNDING, "{at_once}: {difference}");
            }
        }
    }
}
