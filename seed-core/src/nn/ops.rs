//! The operations of [`SeedBackend`] on tensors and layers.

use burn::nn::{GroupNorm, PaddingConfig2d, conv::Conv2d};
use burn::tensor::{Tensor, TensorPrimitive, ops::ConvOptions};

use super::{Groups, SeedBackend};

/// Exact (erf) GELU of any shape.
pub fn gelu<B: SeedBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::fused_gelu(x.into_primitive().tensor())))
}

/// SiLU, `x * sigmoid(x)`, of any shape.
pub fn silu<B: SeedBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::fused_silu(x.into_primitive().tensor())))
}

/// Softmax over the last axis, of any shape.
pub fn softmax<B: SeedBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::fused_softmax(x.into_primitive().tensor())))
}

/// `[batch, tokens, width]` -> `[batch, heads, tokens, width / heads]`.
pub(super) fn split_heads<B: SeedBackend>(x: Tensor<B, 3>, heads: usize) -> Tensor<B, 4> {
    Tensor::from_primitive(TensorPrimitive::Float(B::fused_split_heads(x.into_primitive().tensor(), heads)))
}

/// `[batch, heads, tokens, head_dim]` -> `[batch, tokens, heads * head_dim]`.
pub(super) fn merge_heads<B: SeedBackend>(x: Tensor<B, 4>) -> Tensor<B, 3> {
    Tensor::from_primitive(TensorPrimitive::Float(B::fused_merge_heads(x.into_primitive().tensor())))
}

/// What `layer.forward(x)` gives: `[batch, in, height, width]` -> `[batch, out, height', width']`.
pub fn conv2d<B: SeedBackend>(layer: &Conv2d<B>, x: Tensor<B, 4>) -> Tensor<B, 4> {
    let (x, padding) = match layer.padding {
        PaddingConfig2d::Valid => (x, [0, 0]),
        PaddingConfig2d::Explicit(top, left, bottom, right) if top == bottom && left == right => (x, [top, left]),
        PaddingConfig2d::Explicit(top, left, bottom, right) => (x.pad((left, right, top, bottom), 0.0), [0, 0]),
        PaddingConfig2d::Same => return layer.forward(x),
    };
    let options = ConvOptions::new(layer.stride, padding, layer.dilation, layer.groups);
    let (element, weight) = (x.dtype(), layer.weight.val());
    let bias = layer.bias.as_ref().map(|bias| bias.val());
    let convolve = |x: Tensor<B, 4>, weight: Tensor<B, 4>, bias: Option<Tensor<B, 1>>| {
        let bias = bias.map(|bias| bias.into_primitive().tensor());
        let (x, weight) = (x.into_primitive().tensor(), weight.into_primitive().tensor());
        Tensor::<B, 4>::from_primitive(TensorPrimitive::Float(B::fused_conv2d(x, weight, bias, options)))
    };
    let (x, weight) = if weight.dtype() == element { (x, weight) } else { B::meet(x, weight) };
    if x.dtype() == element {
        return convolve(x, weight, bias);
    }
    let maps = convolve(x, weight, None).cast(element);
    match bias {
        Some(bias) => maps + bias.reshape([1, -1, 1, 1]),
        None => maps,
    }
}

/// What `layer.forward(x)` gives, for `[batch, channels, height, width]`.
pub fn group_norm<B: SeedBackend>(layer: &GroupNorm<B>, x: Tensor<B, 4>) -> Tensor<B, 4> {
    let (Some(scale), Some(shift)) = (&layer.gamma, &layer.beta) else { return layer.forward(x) };
    let groups = Groups { count: layer.num_groups, epsilon: layer.epsilon };
    let (scale, shift) = (scale.val().into_primitive().tensor(), shift.val().into_primitive().tensor());
    Tensor::from_primitive(TensorPrimitive::Float(B::fused_group_norm(
        x.into_primitive().tensor(),
        scale,
        shift,
        groups,
    )))
}
