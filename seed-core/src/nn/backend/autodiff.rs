//! Each operation is recorded as one node, with the inner backend's fused gradient.

use burn::backend::{
    Autodiff,
    autodiff::{
        NodeId,
        checkpoint::{
            base::Checkpointer,
            strategy::{BalancedCheckpointing, CheckpointStrategy},
        },
        grads::Gradients,
        ops::{Backward, Ops, OpsKind, unary},
    },
};
use burn::tensor::{
    FloatDType, Shape, Tensor, TensorMetadata,
    ops::{ConvOptions, FloatTensor, FloatTensorOps},
};

use super::{
    Groups, SeedBackend, Then, columns, layers, linear,
    recompute::{recomputes, record},
};

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

        let state = $tensor.node.id;
        let kept = $tensor.clone();
        record::<B, C, _, _, 1>($node, [$tensor], &[&kept], state, |[x]| B::$forward(x))
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
            type State = ([NodeId; 2], ConvOptions<2>);

            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
                let (kept, options) = ops.state;
                let [x, weight] = kept.map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node));
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
        let state = ([x.node.id, weight.node.id], options.clone());
        let parents = [x.clone(), weight.clone(), bias];
        record::<B, C, _, _, 3>(Convolve, parents, &[&x, &weight], state, move |[x, weight, bias]| {
            B::fused_conv2d(x, weight, Some(bias), options.clone())
        })
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
            type State = ([NodeId; 2], Groups);

            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
                let (kept, groups) = ops.state;
                let [x, scale] = kept.map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node));
                let grad = grads.consume::<B>(&ops.node);
                let gradients = B::fused_group_norm_backward(x, scale, grad, groups);
                for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
                    if let Some(node) = parent {
                        grads.register::<B>(node.id, gradient);
                    }
                }
            }
        }

        let state = ([x.node.id, scale.node.id], groups);
        let parents = [x.clone(), scale.clone(), shift];
        record::<B, C, _, _, 3>(GroupNorm, parents, &[&x, &scale], state, move |[x, scale, shift]| {
            B::fused_group_norm(x, scale, shift, groups)
        })
    }

    fn fused_narrow(x: FloatTensor<Self>, first: usize, count: usize) -> FloatTensor<Self> {
        let slices = columns(&x, first, count);
        match recomputes() {
            true => Autodiff::<B, BalancedCheckpointing>::float_slice(x, &slices),
            false => Self::float_slice(x, &slices),
        }
    }

    fn fused_add(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        match recomputes() {
            true => Autodiff::<B, BalancedCheckpointing>::float_add(x, y),
            false => Self::float_add(x, y),
        }
    }

    fn fused_multiply(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        match recomputes() {
            true => Autodiff::<B, BalancedCheckpointing>::float_mul(x, y),
            false => Self::float_mul(x, y),
        }
    }

    fn fused_linear<const D: usize>(
        x: Tensor<Self, D>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
        then: Then<Tensor<Self, D>>,
    ) -> Tensor<Self, D> {
        match x.dtype() == weight.dtype() {
            true => linear::and_then(layers::linear(x, weight, bias), then),
            false => linear::plain(x, weight, bias, then),
        }
    }

    fn fused_layer_norm<const D: usize>(
        x: Tensor<Self, D>,
        gamma: Tensor<Self, 1>,
        beta: Tensor<Self, 1>,
        epsilon: f64,
    ) -> Tensor<Self, D> {
        layers::layer_norm(x, gamma, beta, epsilon)
    }

    fn fused_attention(
        query: Tensor<Self, 3>,
        key: Tensor<Self, 3>,
        value: Tensor<Self, 3>,
        heads: usize,
        mask: Option<Tensor<Self, 2>>,
    ) -> Tensor<Self, 3> {
        layers::attend([query, key, value], heads, mask)
    }

    fn fused_transpose(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Transpose;

        impl<B: SeedBackend> Backward<B, 1> for Transpose {
            type State = ();

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                unary::<B, _>(ops.parents, ops.node, grads, B::fused_transpose);
            }
        }

        record::<B, C, _, _, 1>(Transpose, [x], &[], (), |[x]| B::fused_transpose(x))
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

        record::<B, C, _, _, 1>(SplitHeads, [x], &[], (), move |[x]| B::fused_split_heads(x, heads))
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
        record::<B, C, _, _, 1>(MergeHeads, [x], &[], heads, |[x]| B::fused_merge_heads(x))
    }
}
