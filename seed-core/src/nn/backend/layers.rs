//! Linear layers, layer normalization and attention, each recorded as one node with its gradient.

use burn::backend::{
    Autodiff,
    autodiff::{
        NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops},
    },
};
use burn::tensor::{
    FloatDType, Shape, Tensor, TensorMetadata, TensorPrimitive,
    ops::{FloatTensor, FloatTensorOps},
};

use super::{SeedBackend, Then, attention, recompute::record};

fn wrap<B: SeedBackend, const D: usize>(x: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(x))
}

fn unwrap<B: SeedBackend, const D: usize>(x: Tensor<B, D>) -> FloatTensor<B> {
    x.into_primitive().tensor()
}

/// `x` `[.., input]` times `weight` `[input, output]`, plus a bias; both of the type of `x`.
pub(super) fn linear<B: SeedBackend, C: CheckpointStrategy, const D: usize>(
    x: Tensor<Autodiff<B, C>, D>,
    weight: Tensor<Autodiff<B, C>, 2>,
    bias: Option<Tensor<Autodiff<B, C>, 1>>,
) -> Tensor<Autodiff<B, C>, D> {
    #[derive(Debug)]
    struct Linear;

    impl<B: SeedBackend> Backward<B, 3> for Linear {
        type State = [NodeId; 2];

        fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
            let [x, weight] = ops.state.map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node));
            let (shape, [input, output]) = (x.shape(), weight.shape().dims());
            let rows = shape.num_elements() / input.max(1);
            let grad = B::float_reshape(grads.consume::<B>(&ops.node), Shape::new([rows, output]));
            let grad: Tensor<B, 2> = wrap(grad);
            let [to_x, to_weight, to_bias] = ops.parents;
            if let Some(node) = to_bias {
                grads.register::<B>(node.id, unwrap(grad.clone().sum_dim(0).reshape([output])));
            }
            if let Some(node) = to_x {
                let turned = wrap::<B, 2>(weight).transpose();
                let to_x = unwrap(B::fused_linear(grad.clone(), turned, None, Then::Nothing));
                grads.register::<B>(node.id, B::float_reshape(to_x, shape));
            }
            if let Some(node) = to_weight {
                let turned = B::fused_transpose(B::float_reshape(x, Shape::new([1, rows, input])));
                let turned = wrap::<B, 2>(B::float_reshape(turned, Shape::new([input, rows])));
                grads.register::<B>(node.id, unwrap(B::fused_linear(turned, grad, None, Then::Nothing)));
            }
        }
    }

    // A bias of zeros that is not tracked stands for none: the node has three parents in any case.
    let has_bias = bias.is_some();
    let (x, weight) = (x.into_primitive().tensor(), weight.into_primitive().tensor());
    let [_, output] = weight.primitive.shape().dims();
    let device = Autodiff::<B, C>::float_device(&x);
    let zeros = || Autodiff::<B, C>::float_zeros(Shape::new([output]), &device, FloatDType::F32);
    let bias = bias.map_or_else(zeros, |bias| bias.into_primitive().tensor());
    let state = [x.node.id, weight.node.id];
    let parents = [x.clone(), weight.clone(), bias];
    let y = record::<B, C, _, _, 3>(Linear, parents, &[&x, &weight], state, move |[x, weight, bias]| {
        let bias = has_bias.then(|| wrap(bias));
        unwrap(B::fused_linear(wrap::<B, D>(x), wrap(weight), bias, Then::Nothing))
    });
    Tensor::from_primitive(TensorPrimitive::Float(y))
}

/// Layer normalization over the last axis.
pub(super) fn layer_norm<B: SeedBackend, C: CheckpointStrategy, const D: usize>(
    x: Tensor<Autodiff<B, C>, D>,
    gamma: Tensor<Autodiff<B, C>, 1>,
    beta: Tensor<Autodiff<B, C>, 1>,
    epsilon: f64,
) -> Tensor<Autodiff<B, C>, D> {
    #[derive(Debug)]
    struct LayerNorm;

    impl<B: SeedBackend> Backward<B, 3> for LayerNorm {
        type State = ([NodeId; 2], f64);

        fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
            let (kept, epsilon) = ops.state;
            let [x, gamma] = kept.map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node));
            let (shape, [width]) = (x.shape(), gamma.shape().dims());
            let rows = Shape::new([shape.num_elements() / width.max(1), width]);
            let grad = B::float_reshape(grads.consume::<B>(&ops.node), rows.clone());
            let x = wrap(B::float_reshape(x, rows));
            let (x, [gamma, beta]) = B::fused_layer_norm_backward(x, wrap(gamma), wrap(grad), epsilon);
            let x = B::float_reshape(unwrap(x), shape);
            for (parent, gradient) in ops.parents.into_iter().zip([x, unwrap(gamma), unwrap(beta)]) {
                if let Some(node) = parent {
                    grads.register::<B>(node.id, gradient);
                }
            }
        }
    }

    let x = x.into_primitive().tensor();
    let [gamma, beta] = [gamma, beta].map(|values| values.into_primitive().tensor());
    let state = ([x.node.id, gamma.node.id], epsilon);
    let parents = [x.clone(), gamma.clone(), beta];
    let y = record::<B, C, _, _, 3>(LayerNorm, parents, &[&x, &gamma], state, move |[x, gamma, beta]| {
        unwrap(B::fused_layer_norm(wrap::<B, D>(x), wrap(gamma), wrap(beta), epsilon))
    });
    Tensor::from_primitive(TensorPrimitive::Float(y))
}

/// Attention; the scores are computed again for the gradient. A mask that is itself learned goes the plain way.
pub(super) fn attend<B: SeedBackend, C: CheckpointStrategy>(
    parts: [Tensor<Autodiff<B, C>, 3>; 3],
    heads: usize,
    mask: Option<Tensor<Autodiff<B, C>, 2>>,
) -> Tensor<Autodiff<B, C>, 3> {
    #[derive(Debug)]
    struct Attention;

    impl<B: SeedBackend> Backward<B, 3> for Attention {
        type State = ([NodeId; 3], usize, Option<FloatTensor<B>>);

        fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
            let (parts, heads, mask) = ops.state;
            let parts = parts.map(|node| wrap(checkpointer.retrieve_node_output::<FloatTensor<B>>(node)));
            let grad = wrap(grads.consume::<B>(&ops.node));
            let gradients = B::fused_attention_backward(parts, grad, heads, mask.map(wrap));
            for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
                if let Some(node) = parent {
                    grads.register::<B>(node.id, unwrap(gradient));
                }
            }
        }
    }

    let learned = |mask: &Tensor<Autodiff<B, C>, 2>| mask.clone().into_primitive().tensor().is_tracked();
    if mask.as_ref().is_some_and(learned) {
        let [query, key, value] = parts;
        return attention::plain(query, key, value, heads, mask);
    }
    let parts = parts.map(|part| part.into_primitive().tensor());
    let mask = mask.map(|mask| mask.into_primitive().tensor().primitive);
    let state = (parts.each_ref().map(|part| part.node.id), heads, mask.clone());
    let kept = parts.each_ref();
    let y = record::<B, C, _, _, 3>(Attention, parts.clone(), &kept, state, move |parts| {
        let [query, key, value] = parts.map(wrap);
        unwrap(B::fused_attention(query, key, value, heads, mask.clone().map(wrap)))
    });
    Tensor::from_primitive(TensorPrimitive::Float(y))
}
