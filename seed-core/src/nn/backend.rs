//! The backend extension trait: operations that a backend may do faster than their plain tensor form.
//!
//! Every default is written with the backend's own operations, so any backend joins with an empty `impl`. Flex takes
//! the vectorised kernels of [`super::kernels`], as its own `erf` and `sigmoid` are scalar and dominate a training step, and those
//! of [`super::fast`] where it computes without gradients.
//! The autodiff decorator forwards to the inner backend in both directions.

use burn::tensor::{
    Shape, Slice, Tensor, TensorMetadata,
    backend::Backend,
    ops::{ActivationOps, ConvOptions, FloatTensor},
};
use burn_flex::Flex;

use super::{
    Then, attention, conv, eight_bit, fast,
    group_norm::{self, Groups},
    kernels, layer_norm, linear, transpose,
};

#[cfg(feature = "train")]
mod autodiff;
#[cfg(feature = "train")]
mod layers;
#[cfg(feature = "train")]
mod recompute;
#[cfg(all(test, feature = "train"))]
mod tests;

#[cfg(feature = "train")]
pub(crate) use recompute::{recomputes, recomputing};

/// A burn backend that can run the models of this crate.
pub trait SeedBackend: Backend {
    /// Whether parts of a batch are computed side by side, each by one thread, rather than one after the other by all.
    const PARTS_SIDE_BY_SIDE: bool = false;

    /// Brings activations and a layer's weight of another type together for their product, whose result is turned back into
    /// the type of the activations: by default in the type of the weight, as devices with half-precision units want it.
    fn meet<const D: usize, const W: usize>(
        x: Tensor<Self, D>,
        weight: Tensor<Self, W>,
    ) -> (Tensor<Self, D>, Tensor<Self, W>) {
        let element = weight.dtype();
        (x.cast(element), weight)
    }

    /// Matrix product of the last two axes, whose sums are as exact as the type that both are of.
    fn product<const D: usize>(lhs: Tensor<Self, D>, rhs: Tensor<Self, D>) -> Tensor<Self, D> {
        lhs.matmul(rhs)
    }

    /// `x W + b` as exact as [`product`](Self::product). All are of one type; of half-precision types the result may be float32.
    fn product_and_bias<const D: usize>(
        x: Tensor<Self, D>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, D> {
        burn::tensor::module::linear(x, weight, bias)
    }

    /// Whether a layer that only computes keeps its weight as files hold it, `[output, input]`, seen with its axes exchanged.
    const KEEPS_LAYOUT_OF_FILES: bool = false;

    /// The weight `[input, output]` of a layer that only computes in 8 bits, from its values `[output, input]`: a quantized tensor
    /// with a scale for each output. Nothing from a backend that does not compute so, and for sizes that it cannot.
    fn eight_bit_weight(_values: &[f32], _sizes: [usize; 2]) -> Option<Tensor<Self, 2>> {
        None
    }

    /// Exact (erf) GELU: `x * Phi(x)`.
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::gelu(x)
    }

    /// Gradient of [`fused_gelu`](Self::fused_gelu) with respect to `x`, times `grad`.
    fn fused_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::gelu_backward(x, grad)
    }

    /// SiLU: `x * sigmoid(x)`.
    fn fused_silu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        plain_silu::<Self>(x)
    }

    /// Gradient of [`fused_silu`](Self::fused_silu) with respect to `x`, times `grad`.
    fn fused_silu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        plain_silu_backward::<Self>(x, grad)
    }

    /// Softmax over the last axis.
    fn fused_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let last = x.shape().num_dims() - 1;
        Self::softmax(x, last)
    }

    /// Gradient of [`fused_softmax`](Self::fused_softmax) from its output: `y * (grad - sum(y * grad))`.
    fn fused_softmax_backward(y: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        plain_softmax_backward::<Self>(y, grad)
    }

    /// Two-dimensional convolution; shapes as [`burn::nn::conv::Conv2d`]'s.
    fn fused_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        Self::conv2d(x, weight, bias, options)
    }

    /// Two-dimensional convolution plus what is added to its maps: `added` is `[batch, out, 1, 1]` or as large as the maps. The
    /// weight may be of another type than `x` and the result.
    fn fused_conv2d_add(
        x: Tensor<Self, 4>,
        weight: Tensor<Self, 4>,
        bias: Option<Tensor<Self, 1>>,
        options: ConvOptions<2>,
        added: Option<Tensor<Self, 4>>,
    ) -> Tensor<Self, 4> {
        conv::plain(x, weight, bias, options, added)
    }

    /// Gradient of [`fused_conv2d`](Self::fused_conv2d) with respect to `x`.
    fn fused_conv2d_input_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        Self::conv2d_x_backward(x, weight, grad, options)
    }

    /// Gradient of [`fused_conv2d`](Self::fused_conv2d) with respect to `weight`.
    fn fused_conv2d_weight_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        Self::conv2d_weight_backward(x, weight, grad, options)
    }

    /// Group normalization of `[batch, channels, height, width]`; scale and shift are `[channels]`.
    fn fused_group_norm(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        groups: Groups,
    ) -> FloatTensor<Self> {
        group_norm::plain::<Self>(x, scale, shift, groups)
    }

    /// SiLU of [`fused_group_norm`](Self::fused_group_norm).
    fn fused_group_norm_silu(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        groups: Groups,
    ) -> FloatTensor<Self> {
        Self::fused_silu(Self::fused_group_norm(x, scale, shift, groups))
    }

    /// Gradients of [`fused_group_norm`](Self::fused_group_norm).
    fn fused_group_norm_backward(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        groups: Groups,
    ) -> [FloatTensor<Self>; 3] {
        group_norm::plain_backward::<Self>(x, scale, grad, groups)
    }

    /// `(x - mean) / sqrt(variance + epsilon) * gamma + beta` over the last axis.
    fn fused_layer_norm<const D: usize>(
        x: Tensor<Self, D>,
        gamma: Tensor<Self, 1>,
        beta: Tensor<Self, 1>,
        epsilon: f64,
    ) -> Tensor<Self, D> {
        layer_norm::plain(x, gamma, beta, epsilon)
    }

    /// Gradients of input, scale and shift of [`fused_layer_norm`](Self::fused_layer_norm) of `[rows, width]`, from the gradient of
    /// its output.
    fn fused_layer_norm_backward(
        x: Tensor<Self, 2>,
        gamma: Tensor<Self, 1>,
        grad: Tensor<Self, 2>,
        epsilon: f64,
    ) -> (Tensor<Self, 2>, [Tensor<Self, 1>; 2]) {
        layer_norm::plain_backward(x, gamma, grad, epsilon)
    }

    /// `x W + b` and what follows; the weight `[input, output]` may be of another type than `x` `[.., input]` and the result.
    fn fused_linear<const D: usize>(
        x: Tensor<Self, D>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
        then: Then<Tensor<Self, D>>,
    ) -> Tensor<Self, D> {
        linear::plain(x, weight, bias, then)
    }

    /// `x` times the first half of the weight's columns, gated by the GELU of `x` times the second; the weight `[input, 2 * hidden]`
    /// may be of another type than `x` `[.., input]` and the result `[.., hidden]`.
    fn fused_gated_linear<const D: usize>(
        x: Tensor<Self, D>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, D> {
        linear::plain_gated(x, weight, bias)
    }

    /// The features from `first` on, `count` of the last axis: a view.
    fn fused_narrow(x: FloatTensor<Self>, first: usize, count: usize) -> FloatTensor<Self> {
        Self::float_slice(x.clone(), &columns(&x, first, count))
    }

    /// `x + y`, of which gradients keep no result where they keep few.
    fn fused_add(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_add(x, y)
    }

    /// `x * y`, as [`fused_add`](Self::fused_add).
    fn fused_multiply(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_mul(x, y)
    }

    /// Exchanges the last two axes of `[batch, rows, columns]`, and moves the values so that they lie in order.
    fn fused_transpose(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_swap_dims(x, 1, 2)
    }

    /// Softmax attention of `query` `[batch, queries, width]` to `key` and `value` `[batch, tokens, width]`, each of `heads`
    /// heads side by side; `mask` `[queries, tokens]` is added to the scores.
    fn fused_attention(
        query: Tensor<Self, 3>,
        key: Tensor<Self, 3>,
        value: Tensor<Self, 3>,
        heads: usize,
        mask: Option<Tensor<Self, 2>>,
    ) -> Tensor<Self, 3> {
        attention::plain(query, key, value, heads, mask)
    }

    /// Gradients of query, key and value of [`fused_attention`](Self::fused_attention), from the gradient of its output.
    fn fused_attention_backward(
        parts: [Tensor<Self, 3>; 3],
        grad: Tensor<Self, 3>,
        heads: usize,
        mask: Option<Tensor<Self, 2>>,
    ) -> [Tensor<Self, 3>; 3] {
        attention::plain_backward(parts, grad, heads, mask)
    }

    /// `[batch, tokens, heads * head_dim]` -> `[batch, heads, tokens, head_dim]`.
    fn fused_split_heads(x: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        plain_split_heads::<Self>(x, heads)
    }

    /// `[batch, heads, tokens, head_dim]` -> `[batch, tokens, heads * head_dim]`.
    fn fused_merge_heads(x: FloatTensor<Self>) -> FloatTensor<Self> {
        plain_merge_heads::<Self>(x)
    }
}

/// All of a tensor but for its last axis, of which it is `count` from `first` on.
fn columns<T: TensorMetadata>(x: &T, first: usize, count: usize) -> Vec<Slice> {
    let shape = x.shape();
    let mut slices: Vec<Slice> = shape.iter().map(|&size| Slice::from(0..size as isize)).collect();
    if let Some(last) = slices.last_mut() {
        *last = Slice::from(first as isize..(first + count) as isize);
    }
    slices
}

fn plain_softmax_backward<B: Backend>(y: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    let last = y.shape().num_dims() - 1;
    let product = B::float_mul(y.clone(), grad.clone());
    B::float_mul(y, B::float_sub(grad, B::float_sum_dim(product, last)))
}

fn plain_split_heads<B: Backend>(x: FloatTensor<B>, heads: usize) -> FloatTensor<B> {
    let [batch, tokens, width] = x.shape().dims();
    B::float_swap_dims(B::float_reshape(x, Shape::new([batch, tokens, heads, width / heads])), 1, 2)
}

fn plain_merge_heads<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let [batch, heads, tokens, head_dim] = x.shape().dims();
    B::float_reshape(B::float_swap_dims(x, 1, 2), Shape::new([batch, tokens, heads * head_dim]))
}

fn plain_silu<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_mul(x.clone(), B::sigmoid(x))
}

fn plain_silu_backward<B: Backend>(x: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    let sigmoid = B::sigmoid(x.clone());
    let complement = B::float_add_scalar(B::float_neg(sigmoid.clone()), 1f32.into());
    let slope = B::float_add_scalar(B::float_mul(x, complement), 1f32.into());
    B::float_mul(grad, B::float_mul(sigmoid, slope))
}

impl SeedBackend for Flex {
    const PARTS_SIDE_BY_SIDE: bool = true;
    const KEEPS_LAYOUT_OF_FILES: bool = true;

    fn eight_bit_weight(values: &[f32], sizes: [usize; 2]) -> Option<Tensor<Self, 2>> {
        eight_bit::weight(values, sizes)
    }

    fn fused_layer_norm<const D: usize>(
        x: Tensor<Self, D>,
        gamma: Tensor<Self, 1>,
        beta: Tensor<Self, 1>,
        epsilon: f64,
    ) -> Tensor<Self, D> {
        let done = fast::layer_norm(&x, &gamma, &beta, epsilon);
        done.unwrap_or_else(|| layer_norm::plain(x, gamma, beta, epsilon))
    }

    /// In the type of the activations: processors compute in float32 anyway, and nothing of the activations is lost.
    fn meet<const D: usize, const W: usize>(
        x: Tensor<Self, D>,
        weight: Tensor<Self, W>,
    ) -> (Tensor<Self, D>, Tensor<Self, W>) {
        let element = x.dtype();
        (x, weight.cast(element))
    }

    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        kernels::unary(x, kernels::gelu, Self::gelu)
    }

    fn fused_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        kernels::binary(x, grad, kernels::gelu_backward, Self::gelu_backward)
    }

    fn fused_silu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        kernels::unary(x, kernels::silu, plain_silu::<Self>)
    }

    fn fused_silu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        kernels::binary(x, grad, kernels::silu_backward, plain_silu_backward::<Self>)
    }

    fn fused_softmax_backward(y: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        kernels::softmax_backward(y, grad, plain_softmax_backward::<Self>)
    }

    fn fused_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        conv::forward(x, weight, bias, options)
    }

    fn fused_conv2d_add(
        x: Tensor<Self, 4>,
        weight: Tensor<Self, 4>,
        bias: Option<Tensor<Self, 1>>,
        options: ConvOptions<2>,
        added: Option<Tensor<Self, 4>>,
    ) -> Tensor<Self, 4> {
        let done = conv::fused(&x, &weight, bias.as_ref(), &options, added.as_ref());
        done.unwrap_or_else(|| conv::plain(x, weight, bias, options, added))
    }

    fn fused_conv2d_input_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        conv::input_gradient(x, weight, grad, options)
    }

    fn fused_conv2d_weight_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        conv::weight_gradient(x, weight, grad, options)
    }

    fn fused_group_norm(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        groups: Groups,
    ) -> FloatTensor<Self> {
        group_norm::forward(x, scale, shift, groups, false)
    }

    fn fused_group_norm_silu(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        groups: Groups,
    ) -> FloatTensor<Self> {
        group_norm::forward(x, scale, shift, groups, true)
    }

    fn fused_group_norm_backward(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        groups: Groups,
    ) -> [FloatTensor<Self>; 3] {
        group_norm::backward(x, scale, grad, groups)
    }

    fn fused_linear<const D: usize>(
        x: Tensor<Self, D>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
        then: Then<Tensor<Self, D>>,
    ) -> Tensor<Self, D> {
        let done = fast::linear(&x, &weight, bias.as_ref(), &then);
        done.unwrap_or_else(|| match eight_bit::parts(&weight) {
            Some(weight) => {
                let product = eight_bit::product(x, &weight);
                let bias = bias.map(Tensor::unsqueeze);
                linear::and_then(bias.map_or(product.clone(), |bias| product + bias), then)
            }
            None => linear::plain(x, weight, bias, then),
        })
    }

    fn fused_gated_linear<const D: usize>(
        x: Tensor<Self, D>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, D> {
        let done = fast::gated_linear(&x, &weight, bias.as_ref());
        done.unwrap_or_else(|| linear::plain_gated(x, weight, bias))
    }

    fn fused_transpose(x: FloatTensor<Self>) -> FloatTensor<Self> {
        transpose::transpose(x)
    }

    fn fused_attention(
        query: Tensor<Self, 3>,
        key: Tensor<Self, 3>,
        value: Tensor<Self, 3>,
        heads: usize,
        mask: Option<Tensor<Self, 2>>,
    ) -> Tensor<Self, 3> {
        let done = fast::attention([&query, &key, &value], heads, mask.as_ref());
        done.unwrap_or_else(|| attention::plain(query, key, value, heads, mask))
    }

    fn fused_attention_backward(
        parts: [Tensor<Self, 3>; 3],
        grad: Tensor<Self, 3>,
        heads: usize,
        mask: Option<Tensor<Self, 2>>,
    ) -> [Tensor<Self, 3>; 3] {
        let done = fast::attention_backward(&parts, &grad, heads, mask.as_ref());
        done.unwrap_or_else(|| attention::plain_backward(parts, grad, heads, mask))
    }

    fn fused_layer_norm_backward(
        x: Tensor<Self, 2>,
        gamma: Tensor<Self, 1>,
        grad: Tensor<Self, 2>,
        epsilon: f64,
    ) -> (Tensor<Self, 2>, [Tensor<Self, 1>; 2]) {
        let done = fast::layer_norm_backward(&x, &gamma, &grad, epsilon);
        done.unwrap_or_else(|| layer_norm::plain_backward(x, gamma, grad, epsilon))
    }

    fn fused_split_heads(x: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        kernels::split_heads(x, heads, plain_split_heads::<Self>)
    }

    fn fused_merge_heads(x: FloatTensor<Self>) -> FloatTensor<Self> {
        kernels::merge_heads(x, plain_merge_heads::<Self>)
    }
}
