//! The backend extension trait: operations that a backend may do faster than their plain tensor form.
//!
//! Every default is written with the backend's own operations, so any backend joins with an empty `impl`. Flex takes
//! the vectorised kernels of [`super::kernels`]: its own `erf` and `sigmoid` are scalar and dominate a training step.
//! The autodiff decorator forwards to the inner backend in both directions.

use burn::tensor::{
    Shape, Tensor, TensorMetadata, TensorPrimitive,
    backend::Backend,
    ops::{ActivationOps, FloatTensor},
};
use burn_flex::Flex;

use super::kernels;

/// A burn backend that can run the models of this crate.
pub trait SeedBackend: Backend {
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

    /// `[batch, tokens, heads * head_dim]` -> `[batch, heads, tokens, head_dim]`.
    fn fused_split_heads(x: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        plain_split_heads::<Self>(x, heads)
    }

    /// `[batch, heads, tokens, head_dim]` -> `[batch, tokens, heads * head_dim]`.
    fn fused_merge_heads(x: FloatTensor<Self>) -> FloatTensor<Self> {
        plain_merge_heads::<Self>(x)
    }
}

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
pub fn split_heads<B: SeedBackend>(x: Tensor<B, 3>, heads: usize) -> Tensor<B, 4> {
    Tensor::from_primitive(TensorPrimitive::Float(B::fused_split_heads(x.into_primitive().tensor(), heads)))
}

/// `[batch, heads, tokens, head_dim]` -> `[batch, tokens, heads * head_dim]`.
pub fn merge_heads<B: SeedBackend>(x: Tensor<B, 4>) -> Tensor<B, 3> {
    Tensor::from_primitive(TensorPrimitive::Float(B::fused_merge_heads(x.into_primitive().tensor())))
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
    use burn::tensor::{TensorMetadata, ops::FloatTensor};

    use super::SeedBackend;

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
        tensor::{Distribution, activation},
    };

    use super::*;

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
