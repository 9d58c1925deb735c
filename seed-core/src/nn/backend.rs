//! The backend extension trait: operations that a backend may do faster than their plain tensor form.
//!
//! Every default is written with the backend's own operations, so any backend joins with an empty `impl`. Flex takes
//! the vectorised kernels of [`super::kernels`]: its own `erf` and `sigmoid` are scalar and dominate a training step.
//! The autodiff decorator forwards to the inner backend in both directions.

use burn::tensor::{
    Shape, Tensor, TensorMetadata,
    backend::Backend,
    ops::{ActivationOps, ConvOptions, FloatTensor},
};
use burn_flex::Flex;

use super::{
    Then, attention, conv, fast,
    group_norm::{self, Groups},
    kernels, layer_norm, linear,
};

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

    /// `x W + b` and what follows; the weight `[input, output]` may be of another type than `x` `[.., input]` and the result.
    fn fused_linear<const D: usize>(
        x: Tensor<Self, D>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
        then: Then<Tensor<Self, D>>,
    ) -> Tensor<Self, D> {
        linear::plain(x, weight, bias, then)
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

    /// `[batch, tokens, heads * head_dim]` -> `[batch, heads, tokens, head_dim]`.
    fn fused_split_heads(x: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        plain_split_heads::<Self>(x, heads)
    }

    /// `[batch, heads, tokens, head_dim]` -> `[batch, tokens, heads * head_dim]`.
    fn fused_merge_heads(x: FloatTensor<Self>) -> FloatTensor<Self> {
        plain_merge_heads::<Self>(x)
    }
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
        group_norm::forward(x, scale, shift, groups)
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
        done.unwrap_or_else(|| linear::plain(x, weight, bias, then))
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

    fn fused_split_heads(x: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        kernels::split_heads(x, heads, plain_split_heads::<Self>)
    }

    fn fused_merge_heads(x: FloatTensor<Self>) -> FloatTensor<Self> {
        kernels::merge_heads(x, plain_merge_heads::<Self>)
    }
}

#[cfg(feature = "train")]
mod autodiff {
    //! Each operation is recorded as one node, with the inner backend's fused gradient.

    use burn::backend::{
        Autodiff,
        autodiff::{
            NodeId,
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind, unary},
        },
    };
    use burn::tensor::{
        FloatDType, Shape, TensorMetadata,
        ops::{ConvOptions, FloatTensor, FloatTensorOps},
    };

    use super::{Groups, SeedBackend};

    macro_rules! unary_operation {
        ($node:ident, $tensor:ident, $forward:ident, $backward:ident) => {{
            #[derive(Debug)]
            struct $node;

            impl<B: SeedBackend> Backward<B, 1> for $node {
                type State = NodeId;

                fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
                    let input = checkpointer.retrieve_node_output(ops.state);
                    unary::<B, _>(ops.parents, ops.node, grads, |grad| B::$backward(input, grad));
                }
            }

            match $node.prepare::<C>([$tensor.node.clone()]).compute_bound().stateful() {
                OpsKind::Tracked(mut prep) => {
                    let state = prep.checkpoint(&$tensor);
                    prep.finish(state, B::$forward($tensor.primitive))
                }
                OpsKind::UnTracked(prep) => prep.finish(B::$forward($tensor.primitive)),
            }
        }};
    }

    impl<B: SeedBackend, C: CheckpointStrategy> SeedBackend for Autodiff<B, C> {
        fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
            unary_operation!(Gelu, x, fused_gelu, fused_gelu_backward)
        }

        fn fused_silu(x: FloatTensor<Self>) -> FloatTensor<Self> {
            unary_operation!(Silu, x, fused_silu, fused_silu_backward)
        }

        fn fused_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
            #[derive(Debug)]
            struct Softmax;

            impl<B: SeedBackend> Backward<B, 1> for Softmax {
                type State = FloatTensor<B>;

                fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                    let output = ops.state;
                    unary::<B, _>(ops.parents, ops.node, grads, |grad| B::fused_softmax_backward(output, grad));
                }
            }

            let output = B::fused_softmax(x.primitive);
            match Softmax.prepare::<C>([x.node]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish(output.clone(), output),
                OpsKind::UnTracked(prep) => prep.finish(output),
            }
        }

        fn fused_conv2d(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            bias: Option<FloatTensor<Self>>,
            options: ConvOptions<2>,
        ) -> FloatTensor<Self> {
            #[derive(Debug)]
            struct Convolve;

            impl<B: SeedBackend> Backward<B, 3> for Convolve {
                type State = (FloatTensor<B>, FloatTensor<B>, ConvOptions<2>);

                fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                    let (x, weight, options) = ops.state;
                    let grad = grads.consume::<B>(&ops.node);
                    let [to_x, to_weight, to_bias] = ops.parents;
                    if let Some(node) = to_bias {
                        let [batch, channels, height, width] = grad.shape().dims();
                        let sums = B::float_reshape(grad.clone(), Shape::new([batch, channels, height * width]));
                        let sums = B::float_sum_dim(B::float_sum_dim(sums, 2), 0);
                        grads.register::<B>(node.id, B::float_reshape(sums, Shape::new([channels])));
                    }
                    if let Some(node) = to_x {
                        let input = (x.clone(), weight.clone(), grad.clone(), options.clone());
                        let input = B::fused_conv2d_input_gradient(input.0, input.1, input.2, input.3);
                        grads.register::<B>(node.id, input);
                    }
                    if let Some(node) = to_weight {
                        grads.register::<B>(node.id, B::fused_conv2d_weight_gradient(x, weight, grad, options));
                    }
                }
            }

            // A bias of zeros that is not tracked stands for none: the node has three parents in any case.
            let channels = weight.primitive.shape()[0];
            let device = Self::float_device(&x);
            let zeros = || Self::float_zeros(Shape::new([channels]), &device, FloatDType::F32);
            let bias = bias.unwrap_or_else(zeros);
            let nodes = [x.node, weight.node, bias.node];
            let (x, weight, bias) = (x.primitive, weight.primitive, Some(bias.primitive));
            let output = B::fused_conv2d(x.clone(), weight.clone(), bias, options.clone());
            match Convolve.prepare::<C>(nodes).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish((x, weight, options), output),
                OpsKind::UnTracked(prep) => prep.finish(output),
            }
        }

        fn fused_group_norm(
            x: FloatTensor<Self>,
            scale: FloatTensor<Self>,
            shift: FloatTensor<Self>,
            groups: Groups,
        ) -> FloatTensor<Self> {
            #[derive(Debug)]
            struct GroupNorm;

            impl<B: SeedBackend> Backward<B, 3> for GroupNorm {
                type State = (FloatTensor<B>, FloatTensor<B>, Groups);

                fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                    let (x, scale, groups) = ops.state;
                    let grad = grads.consume::<B>(&ops.node);
                    let gradients = B::fused_group_norm_backward(x, scale, grad, groups);
                    for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
                        if let Some(node) = parent {
                            grads.register::<B>(node.id, gradient);
                        }
                    }
                }
            }

            let (x_value, scale_value) = (x.primitive.clone(), scale.primitive.clone());
            let output = B::fused_group_norm(x.primitive, scale.primitive, shift.primitive, groups);
            match GroupNorm.prepare::<C>([x.node, scale.node, shift.node]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish((x_value, scale_value, groups), output),
                OpsKind::UnTracked(prep) => prep.finish(output),
            }
        }

        fn fused_split_heads(x: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
            #[derive(Debug)]
            struct SplitHeads;

            impl<B: SeedBackend> Backward<B, 1> for SplitHeads {
                type State = ();

                fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                    unary::<B, _>(ops.parents, ops.node, grads, B::fused_merge_heads);
                }
            }

            let output = B::fused_split_heads(x.primitive, heads);
            SplitHeads.prepare::<C>([x.node]).compute_bound().stateless(output)
        }

        fn fused_merge_heads(x: FloatTensor<Self>) -> FloatTensor<Self> {
            #[derive(Debug)]
            struct MergeHeads;

            impl<B: SeedBackend> Backward<B, 1> for MergeHeads {
                type State = usize;

                fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                    let heads = ops.state;
                    unary::<B, _>(ops.parents, ops.node, grads, |grad| B::fused_split_heads(grad, heads));
                }
            }

            let [_, heads, _, _] = x.primitive.shape().dims();
            let output = B::fused_merge_heads(x.primitive);
            match MergeHeads.prepare::<C>([x.node]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish(heads, output),
                OpsKind::UnTracked(prep) => prep.finish(output),
            }
        }
    }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    //! The fused operations against their plain forms, values and gradients, on odd shapes and on views.

    use burn::{
        backend::Autodiff,
        module::Param,
        nn::{GroupNormConfig, PaddingConfig2d, conv::Conv2dConfig},
        tensor::{Distribution, activation},
    };

    use super::*;
    use crate::nn::{
        conv2d, gelu, group_norm,
        ops::{merge_heads, split_heads},
        silu, softmax,
    };

    type A = Autodiff<Flex>;

    /// A few float32 roundings of values up to about 4.
    const TOLERANCE: f32 = 5e-6;

    fn same<const D: usize, const E: usize>(
        x: Tensor<A, D>,
        fused: impl Fn(Tensor<A, D>) -> Tensor<A, E>,
        plain: impl Fn(Tensor<A, D>) -> Tensor<A, E>,
    ) {
        let run = |f: &dyn Fn(Tensor<A, D>) -> Tensor<A, E>| {
            let x = x.clone().detach().require_grad();
            let y = f(x.clone());
            // Weights that differ between elements, so that a wrong gradient cannot cancel.
            let weights = Tensor::<A, 1, burn::tensor::Int>::arange(0..y.shape().num_elements() as i64, &y.device());
            let gradients = (y.clone() * (weights.float() * 0.37).sin().reshape(y.shape())).sum().backward();
            (y.inner(), x.grad(&gradients).unwrap())
        };
        let ((y, dy), (want, dwant)) = (run(&fused), run(&plain));
        assert!((y - want).abs().max().into_scalar() < TOLERANCE);
        assert!((dy - dwant).abs().max().into_scalar() < TOLERANCE);
    }

    #[test]
    fn convolution_equals_burns() {
        let device = Default::default();
        for (input, output, size, kernel, stride, padding) in [
            (3, 5, [7, 9], 3, 1, 1),
            (4, 2, [8, 8], 3, 2, 1),
            (2, 3, [9, 5], 3, 2, 0),
            (5, 4, [3, 2], 1, 1, 0),
            (1, 2, [1, 4], 3, 1, 1),
            (2, 2, [6, 6], 2, 2, 0),
        ] {
            let layer = Conv2dConfig::new([input, output], [kernel; 2])
                .with_stride([stride; 2])
                .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
                .init::<A>(&device);
            let x = Tensor::<A, 4>::random([3, input, size[0], size[1]], Distribution::Normal(0.0, 1.0), &device);
            same(x.clone(), |x| conv2d(&layer, x), |x| layer.forward(x));
            let weight_gradient = |f: &dyn Fn() -> Tensor<A, 4>| {
                let gradients = f().powi_scalar(2).sum().backward();
                let bias = layer.bias.as_ref().unwrap().val().grad(&gradients).unwrap();
                (layer.weight.val().grad(&gradients).unwrap(), bias)
            };
            let (weight, bias) = weight_gradient(&|| conv2d(&layer, x.clone()));
            let (want, want_bias) = weight_gradient(&|| layer.forward(x.clone()));
            // Sums of up to 200 terms.
            let tolerance = 200.0 * TOLERANCE;
            assert!((weight - want).abs().max().into_scalar() < tolerance);
            assert!((bias - want_bias).abs().max().into_scalar() < tolerance);
        }
    }

    #[test]
    fn group_norm_equals_burns() {
        let device = Default::default();
        for (groups, channels, size) in [(1, 3, [2, 3]), (2, 6, [5, 4]), (4, 4, [1, 7]), (3, 9, [8, 8])] {
            let mut layer = GroupNormConfig::new(groups, channels).with_epsilon(1e-5).init::<A>(&device);
            for param in [&mut layer.gamma, &mut layer.beta] {
                let random = Tensor::random([channels], Distribution::Normal(1.0, 0.5), &device);
                *param = Some(Param::from_tensor(random));
            }
            let x = Tensor::<A, 4>::random([3, channels, size[0], size[1]], Distribution::Normal(0.5, 2.0), &device);
            same(x.clone(), |x| group_norm(&layer, x), |x| layer.forward(x));
            let parameters = |f: &dyn Fn() -> Tensor<A, 4>| {
                let gradients = f().powi_scalar(3).sum().backward();
                [&layer.gamma, &layer.beta].map(|param| param.as_ref().unwrap().val().grad(&gradients).unwrap())
            };
            let got = parameters(&|| group_norm(&layer, x.clone()));
            let want = parameters(&|| layer.forward(x.clone()));
            for (got, want) in got.into_iter().zip(want) {
                let size = want.clone().abs().max().into_scalar().max(1.0);
                assert!((got - want).abs().max().into_scalar() < 20.0 * TOLERANCE * size);
            }
        }
    }

    #[test]
    fn fused_operations_equal_plain_ones() {
        let device = Default::default();
        for [a, b, c] in [[1, 1, 6], [2, 7, 12], [3, 33, 30], [5, 1, 18]] {
            let x = Tensor::<A, 3>::random([a, b, c], Distribution::Normal(0.0, 2.0), &device);
            same(x.clone(), gelu, activation::gelu);
            same(x.clone(), silu, |x| x.clone() * activation::sigmoid(x));
            same(x.clone(), softmax, |x| activation::softmax(x, 2));
            let split = |x: Tensor<A, 3>| x.reshape([a, b, 3, c / 3]).swap_dims(1, 2);
            same(x.clone(), |x| split_heads(x, 3), split);
            // A view with an offset, as the parts of a joint projection are.
            same(
                x.clone(),
                |x| split_heads(x.narrow(2, c / 2, c / 2), 3),
                |x| x.narrow(2, c / 2, c / 2).reshape([a, b, 3, c / 6]).swap_dims(1, 2),
            );
            let merge = |x: Tensor<A, 4>| x.swap_dims(1, 2).reshape([a, b, c]);
            same(split(x.clone()), merge_heads, merge);
            same(split(x.swap_dims(0, 1).swap_dims(0, 1)) * 1.5, merge_heads, merge);
        }
    }
}
