//! Layer normalization. As burn's, but that the backend may compute it in one pass.

use burn::{
    module::{Module, Param},
    nn::Initializer,
    tensor::{Tensor, TensorPrimitive, backend::Backend},
};

use super::SeedBackend;

/// `(x - mean) / sqrt(variance + epsilon) * gamma + beta` over the last axis. The names are burn's, by which loading knows
/// what files call `weight` and `bias`.
#[derive(Module, Debug)]
pub struct LayerNorm<B: Backend> {
    /// `[width]`
    pub gamma: Param<Tensor<B, 1>>,
    /// `[width]`
    pub beta: Param<Tensor<B, 1>>,
    epsilon: f64,
}

/// Sizes of a [`LayerNorm`].
#[derive(Clone, Debug)]
pub struct LayerNormConfig {
    width: usize,
    epsilon: f64,
}

impl LayerNormConfig {
    /// With PyTorch's epsilon, 1e-5.
    pub fn new(width: usize) -> Self {
        Self { width, epsilon: 1e-5 }
    }

    /// With another epsilon.
    pub fn with_epsilon(self, epsilon: f64) -> Self {
        Self { epsilon, ..self }
    }

    /// The layer: ones and zeros.
    pub fn init<B: Backend>(&self, device: &B::Device) -> LayerNorm<B> {
        LayerNorm {
            gamma: Initializer::Ones.init([self.width], device),
            beta: Initializer::Zeros.init([self.width], device),
            epsilon: self.epsilon,
        }
    }
}

impl<B: SeedBackend> LayerNorm<B> {
    /// `[.., width]` -> the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        B::fused_layer_norm(x, self.gamma.val(), self.beta.val(), self.epsilon)
    }
}

/// [`SeedBackend::fused_layer_norm`] as the backend has it.
pub(super) fn plain<B: SeedBackend, const D: usize>(
    x: Tensor<B, D>,
    gamma: Tensor<B, 1>,
    beta: Tensor<B, 1>,
    epsilon: f64,
) -> Tensor<B, D> {
    let [gamma, beta] = [gamma, beta].map(|values| values.into_primitive().tensor());
    let x = x.into_primitive().tensor();
    Tensor::from_primitive(TensorPrimitive::Float(B::layer_norm(x, gamma, Some(beta), epsilon)))
}
