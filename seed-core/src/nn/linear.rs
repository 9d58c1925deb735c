//! The linear layer. As burn's, but that its weight may be of a half-precision type while everything else is float32.

use burn::{
    module::{Module, Param},
    nn::Initializer,
    tensor::{Tensor, backend::Backend},
};

use super::{SeedBackend, gelu, multiply, narrow};

/// `x W + b`. The name is burn's, by which loading knows that files hold the matrix with rows and columns exchanged.
#[derive(Module, Debug)]
pub struct Linear<B: Backend> {
    /// `[input, output]`
    pub weight: Param<Tensor<B, 2>>,
    /// `[output]`
    pub bias: Option<Param<Tensor<B, 1>>>,
}

/// Sizes and initial values of a [`Linear`].
#[derive(Clone, Debug)]
pub struct LinearConfig(burn::nn::LinearConfig);

impl LinearConfig {
    /// A layer with a bias; initial values are PyTorch's, uniform with the variance 1 / (3 input).
    pub fn new(input: usize, output: usize) -> Self {
        Self(burn::nn::LinearConfig::new(input, output))
    }

    /// With or without a bias.
    pub fn with_bias(self, bias: bool) -> Self {
        Self(self.0.with_bias(bias))
    }

    /// With other initial values.
    pub fn with_initializer(self, initializer: Initializer) -> Self {
        Self(self.0.with_initializer(initializer))
    }

    /// The layer.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Linear<B> {
        let burn::nn::Linear { weight, bias } = self.0.init(device);
        Linear { weight, bias }
    }
}

/// What follows a product and its bias.
#[derive(Clone, Copy, Debug)]
pub enum Then<T> {
    /// Nothing.
    Nothing,
    /// Exact (erf) GELU.
    Gelu,
    /// This is added.
    Add(T),
    /// This multiplies it.
    Multiply(T),
}

impl<B: SeedBackend> Linear<B> {
    /// `[.., input]` -> `[.., output]`, of the type of `x`.
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        self.forward_then(x, Then::Nothing)
    }

    /// [`forward`](Self::forward) and GELU.
    pub fn forward_gelu<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        self.forward_then(x, Then::Gelu)
    }

    /// [`forward`](Self::forward) plus a residual `[.., output]`.
    pub fn forward_add<const D: usize>(&self, x: Tensor<B, D>, residual: Tensor<B, D>) -> Tensor<B, D> {
        self.forward_then(x, Then::Add(residual))
    }

    /// GEGLU: one half of [`forward`](Self::forward), gated by the GELU of the other: `[.., input]` -> `[.., output / 2]`.
    pub fn forward_gated<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        B::fused_gated_linear(x, self.weight.val(), self.bias.as_ref().map(Param::val))
    }

    /// [`forward`](Self::forward) with another bias `[output]`.
    pub fn forward_with_bias<const D: usize>(&self, x: Tensor<B, D>, bias: Tensor<B, 1>) -> Tensor<B, D> {
        B::fused_linear(x, self.weight.val(), Some(bias), Then::Nothing)
    }

    fn forward_then<const D: usize>(&self, x: Tensor<B, D>, then: Then<Tensor<B, D>>) -> Tensor<B, D> {
        B::fused_linear(x, self.weight.val(), self.bias.as_ref().map(Param::val), then)
    }
}

/// [`SeedBackend::fused_linear`] in plain tensor operations.
pub(super) fn plain<B: SeedBackend, const D: usize>(
    x: Tensor<B, D>,
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
    then: Then<Tensor<B, D>>,
) -> Tensor<B, D> {
    and_then(product(x, weight, bias), then)
}

/// A product with its bias, and what follows.
pub(super) fn and_then<B: SeedBackend, const D: usize>(y: Tensor<B, D>, then: Then<Tensor<B, D>>) -> Tensor<B, D> {
    match then {
        Then::Nothing => y,
        Then::Gelu => gelu(y),
        Then::Add(residual) => y + residual,
        Then::Multiply(factor) => y * factor,
    }
}

/// [`SeedBackend::fused_gated_linear`] in plain tensor operations.
pub(super) fn plain_gated<B: SeedBackend, const D: usize>(
    x: Tensor<B, D>,
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, D> {
    let both = B::fused_linear(x, weight, bias, Then::Nothing); // [.., 2 * hidden]
    let hidden = both.dims()[D - 1] / 2;
    multiply(narrow(both.clone(), 0, hidden), gelu(narrow(both, hidden, hidden)))
}

fn product<B: SeedBackend, const D: usize>(
    x: Tensor<B, D>,
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, D> {
    let element = x.dtype();
    let (x, weight) = if weight.dtype() == element { (x, weight) } else { B::meet(x, weight) };
    if x.dtype() == element {
        return B::product_and_bias(x, weight, bias).cast(element);
    }
    let product = B::product_and_bias(x, weight, None).cast(element);
    match bias {
        Some(bias) => product + bias.unsqueeze(),
        None => product,
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Distribution};
    use burn_flex::Flex;

    use super::*;

    /// On the CPU a weight of float16 is the same layer as its rounded values in float32, to the bit.
    #[test]
    fn only_the_weight_is_rounded() {
        let device = Default::default();
        for bias in [true, false] {
            let layer: Linear<Flex> = LinearConfig::new(24, 40).with_bias(bias).init(&device);
            let x = Tensor::<Flex, 3>::random([2, 5, 24], Distribution::Default, &device);
            let bias = || layer.bias.as_ref().map(|bias| Param::from_tensor(bias.val())); // drawn when first asked for
            let with = |weight| Linear { weight: Param::from_tensor(weight), bias: bias() };
            let half = layer.weight.val().cast(DType::F16);
            let rounded = with(half.clone().cast(DType::F32)).forward(x.clone());
            let found = with(half).forward(x.clone());
            assert_eq!(found.dtype(), DType::F32);
            assert_eq!(found.into_data(), rounded.clone().into_data());
            assert_ne!(rounded.into_data(), layer.forward(x.clone()).into_data());
        }
    }
}
