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

/// [`SeedBackend::fused_layer_norm_backward`] in plain tensor operations: with `n = (x - mean) / deviation` and
/// `g = grad * gamma`, `(g - mean(g) - n * mean(g * n)) / deviation`, and the sums of `grad * n` and `grad`.
pub(super) fn plain_backward<B: SeedBackend>(
    x: Tensor<B, 2>,
    gamma: Tensor<B, 1>,
    grad: Tensor<B, 2>,
    epsilon: f64,
) -> (Tensor<B, 2>, [Tensor<B, 1>; 2]) {
    let centred = x.clone() - x.mean_dim(1);
    let deviation = (centred.clone().square().mean_dim(1) + epsilon).sqrt();
    let normal = centred / deviation.clone(); // [rows, width]
    let slope = grad.clone() * gamma.unsqueeze();
    let along = (slope.clone() * normal.clone()).mean_dim(1);
    let input = (slope.clone() - slope.mean_dim(1) - normal.clone() * along) / deviation;
    let total = |x: Tensor<B, 2>| x.sum_dim(0).squeeze_dim(0);
    (input, [total(grad.clone() * normal), total(grad)])
}
