//! The operations of [`SeedBackend`] on tensors and layers.

use burn::nn::{GroupNorm, PaddingConfig2d, conv::Conv2d};
use burn::tensor::{
    Tensor, TensorPrimitive,
    ops::{ConvOptions, FloatTensor},
};

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

/// `[batch, rows, columns]` -> `[batch, columns, rows]`.
pub fn transpose<B: SeedBackend>(x: Tensor<B, 3>) -> Tensor<B, 3> {
    Tensor::from_primitive(TensorPrimitive::Float(B::fused_transpose(x.into_primitive().tensor())))
}

/// The features from `first` on, `count` of the last axis.
pub fn narrow<B: SeedBackend, const D: usize>(x: Tensor<B, D>, first: usize, count: usize) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::fused_narrow(x.into_primitive().tensor(), first, count)))
}

/// `x + y` of any shapes that go together, see [`SeedBackend::fused_add`].
pub fn add<B: SeedBackend, const D: usize>(x: Tensor<B, D>, y: Tensor<B, D>) -> Tensor<B, D> {
    let [x, y] = [x, y].map(|part| part.into_primitive().tensor());
    Tensor::from_primitive(TensorPrimitive::Float(B::fused_add(x, y)))
}

/// `x * y` of any shapes that go together, see [`SeedBackend::fused_multiply`].
pub fn multiply<B: SeedBackend, const D: usize>(x: Tensor<B, D>, y: Tensor<B, D>) -> Tensor<B, D> {
    let [x, y] = [x, y].map(|part| part.into_primitive().tensor());
    Tensor::from_primitive(TensorPrimitive::Float(B::fused_multiply(x, y)))
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
    convolve(layer, x, None)
}

/// [`conv2d`] plus `added`, `[batch, out, 1, 1]` or as large as the maps.
pub fn conv2d_add<B: SeedBackend>(layer: &Conv2d<B>, x: Tensor<B, 4>, added: Tensor<B, 4>) -> Tensor<B, 4> {
    convolve(layer, x, Some(added))
}

fn convolve<B: SeedBackend>(layer: &Conv2d<B>, x: Tensor<B, 4>, added: Option<Tensor<B, 4>>) -> Tensor<B, 4> {
    let (x, padding) = match layer.padding {
        PaddingConfig2d::Valid => (x, [0, 0]),
        PaddingConfig2d::Explicit(top, left, bottom, right) if top == bottom && left == right => (x, [top, left]),
        PaddingConfig2d::Explicit(top, left, bottom, right) => (x.pad((left, right, top, bottom), 0.0), [0, 0]),
        PaddingConfig2d::Same => {
            let maps = layer.forward(x);
            return added.into_iter().fold(maps, |maps, added| maps + added);
        }
    };
    let options = ConvOptions::new(layer.stride, padding, layer.dilation, layer.groups);
    B::fused_conv2d_add(x, layer.weight.val(), layer.bias.as_ref().map(|bias| bias.val()), options, added)
}

/// What `layer.forward(x)` gives, for `[batch, channels, height, width]`.
pub fn group_norm<B: SeedBackend>(layer: &GroupNorm<B>, x: Tensor<B, 4>) -> Tensor<B, 4> {
    normalize(layer, x, B::fused_group_norm).unwrap_or_else(|x| layer.forward(x))
}

/// SiLU of [`group_norm`].
pub fn group_norm_silu<B: SeedBackend>(layer: &GroupNorm<B>, x: Tensor<B, 4>) -> Tensor<B, 4> {
    normalize(layer, x, B::fused_group_norm_silu).unwrap_or_else(|x| silu(layer.forward(x)))
}

type Normalize<B> = fn(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, Groups) -> FloatTensor<B>;

/// Gives `x` back for a layer without scale and shift.
fn normalize<B: SeedBackend>(
    layer: &GroupNorm<B>,
    x: Tensor<B, 4>,
    normalize: Normalize<B>,
) -> Result<Tensor<B, 4>, Tensor<B, 4>> {
    let (Some(scale), Some(shift)) = (&layer.gamma, &layer.beta) else { return Err(x) };
    let groups = Groups { count: layer.num_groups, epsilon: layer.epsilon };
    let (scale, shift) = (scale.val().into_primitive().tensor(), shift.val().into_primitive().tensor());
    let normed = normalize(x.into_primitive().tensor(), scale, shift, groups);
    Ok(Tensor::from_primitive(TensorPrimitive::Float(normed)))
}
