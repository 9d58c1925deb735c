//! The backend extension trait: operations that a backend may do faster than their plain tensor form.
//!
//! Every default is written with the backend's own operations, so any backend joins with an empty `impl`. Flex takes
//! the vectorised kernels of [`super::kernels`]: its own `erf` and `sigmoid` are scalar and dominate a training step.
//! The autodiff decorator forwards to the inner backend in both directions.

use burn::tensor::{
    Tensor, TensorPrimitive,
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
}

/// Exact (erf) GELU of any shape.
pub fn gelu<B: SeedBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::fused_gelu(x.into_primitive().tensor())))
}

/// SiLU, `x * sigmoid(x)`, of any shape.
pub fn silu<B: SeedBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::fused_silu(x.into_primitive().tensor())))
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
}

#[cfg(feature = "train")]
mod autodiff {
    //! Both operations are recorded as one node each, with the inner backend's fused gradient.

    use burn::backend::{
        Autodiff,
        autodiff::{
            NodeId,
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind, unary},
        },
    };
    use burn::tensor::ops::FloatTensor;

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
    }
}
