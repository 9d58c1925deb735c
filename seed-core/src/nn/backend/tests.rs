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
