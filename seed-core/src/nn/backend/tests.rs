//! The fused operations against their plain forms, values and gradients, on odd shapes and on views.

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Param},
    nn::{GroupNormConfig, PaddingConfig2d, conv::Conv2dConfig},
    tensor::{Distribution, activation},
};

use super::*;
use crate::nn::{
    conv2d, gelu, group_norm, group_norm_silu,
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
        (2, 40, [16, 20], 3, 1, 1),
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
        // Sums of up to a thousand terms.
        let close = |got: f32, size: f32| assert!(got < 20.0 * TOLERANCE * size.max(1.0), "{got} of {size}");
        close((weight - want.clone()).abs().max().into_scalar(), want.abs().max().into_scalar());
        close((bias - want_bias.clone()).abs().max().into_scalar(), want_bias.abs().max().into_scalar());
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
        same(x.clone(), |x| group_norm_silu(&layer, x), |x| silu(layer.forward(x)));
        // Without gradients it is one pass.
        let (valid, inner) = (layer.valid(), x.clone().inner());
        let difference = group_norm_silu(&valid, inner.clone()) - silu(valid.forward(inner));
        assert!(difference.abs().max().into_scalar() < TOLERANCE);
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

#[test]
fn layers_equal_plain_ones() {
    let device = Default::default();
    let random = |shape: [usize; 3]| Tensor::<A, 3>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    for [batch, tokens, inner, output] in [[1, 1, 1, 1], [2, 7, 12, 5], [3, 33, 30, 40]] {
        let x = random([batch, tokens, inner]);
        let weight = random([1, inner, output]).squeeze_dim::<2>(0) / (inner as f32).sqrt();
        let bias = random([1, 1, output]).flatten::<1>(0, 2);
        let residual = random([batch, tokens, output]);
        for then in [Then::Nothing, Then::Gelu, Then::Add(residual.clone()), Then::Multiply(residual)] {
            let fused = |x| A::fused_linear(x, weight.clone(), Some(bias.clone()), then.clone());
            let plain = |x| linear::plain(x, weight.clone(), Some(bias.clone()), then.clone());
            same(x.clone(), fused, plain);
        }
        let gradients = |f: &dyn Fn(Tensor<A, 2>, Tensor<A, 1>) -> Tensor<A, 3>| {
            let (weight, bias) = (weight.clone().require_grad(), bias.clone().require_grad());
            let gradients = f(weight.clone(), bias.clone()).powi_scalar(2).mean().backward();
            (weight.grad(&gradients).unwrap(), bias.grad(&gradients).unwrap())
        };
        let found = gradients(&|w, b| A::fused_linear(x.clone(), w, Some(b), Then::Nothing));
        let want = gradients(&|w, b| linear::plain(x.clone(), w, Some(b), Then::Nothing));
        assert!((found.0 - want.0).abs().max().into_scalar() < TOLERANCE);
        assert!((found.1 - want.1).abs().max().into_scalar() < TOLERANCE);

        let (gamma, beta) = (random([1, 1, inner]).flatten::<1>(0, 2), random([1, 1, inner]).flatten::<1>(0, 2));
        // Of one value the deviation is epsilon's alone.
        if inner > 1 {
            let fused = |x| A::fused_layer_norm(x, gamma.clone(), beta.clone(), 1e-5);
            same(x.clone(), fused, |x| layer_norm::plain(x, gamma.clone(), beta.clone(), 1e-5));
        }
        let gradients = |f: &dyn Fn(Tensor<A, 1>, Tensor<A, 1>) -> Tensor<A, 3>| {
            let (gamma, beta) = (gamma.clone().require_grad(), beta.clone().require_grad());
            let gradients = f(gamma.clone(), beta.clone()).powi_scalar(2).mean().backward();
            (gamma.grad(&gradients).unwrap(), beta.grad(&gradients).unwrap())
        };
        let found = gradients(&|g, b| A::fused_layer_norm(x.clone(), g, b, 1e-5));
        let want = gradients(&|g, b| layer_norm::plain(x.clone(), g, b, 1e-5));
        assert!((found.0 - want.0).abs().max().into_scalar() < TOLERANCE);
        assert!((found.1 - want.1).abs().max().into_scalar() < TOLERANCE);
        same(x, crate::nn::transpose, |x| x.swap_dims(1, 2));
    }
}

#[test]
fn gradients_of_attention_equal_plain_ones() {
    let device = Default::default();
    let random = |shape: [usize; 3]| Tensor::<A, 3>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    for [batch, queries, tokens, heads, dim] in
        [[1, 1, 1, 1, 1], [2, 5, 9, 3, 4], [2, 33, 17, 2, 20], [1, 3, 70, 1, 64]]
    {
        let width = heads * dim;
        let (query, key, value) =
            (random([batch, queries, width]), random([batch, tokens, width]), random([batch, tokens, width]));
        let mask = random([1, queries, tokens]).squeeze_dim::<2>(0);
        for mask in [None, Some(mask)] {
            let run = |place: usize, x: Tensor<A, 3>, f: &dyn Fn([Tensor<A, 3>; 3]) -> Tensor<A, 3>| {
                let mut parts = [query.clone(), key.clone(), value.clone()];
                parts[place] = x;
                f(parts)
            };
            let fused = |[q, k, v]: [Tensor<A, 3>; 3]| A::fused_attention(q, k, v, heads, mask.clone());
            let plain = |[q, k, v]: [Tensor<A, 3>; 3]| attention::plain(q, k, v, heads, mask.clone());
            for (place, x) in [query.clone(), key.clone(), value.clone()].into_iter().enumerate() {
                same(x, |x| run(place, x, &fused), |x| run(place, x, &plain));
            }
            // The backend's own against tensor operations, on parts of a joint projection.
            let inner = [&query, &key, &value].map(|part| part.clone().inner());
            let joint =
                |part: &Tensor<Flex, 3>| Tensor::cat(vec![part.clone(), part.clone()], 2).narrow(2, width, width);
            let grad = random([batch, queries, width]).inner();
            let mask = mask.clone().map(|mask| mask.inner());
            let found = Flex::fused_attention_backward(inner.each_ref().map(joint), grad.clone(), heads, mask.clone());
            let want = attention::plain_backward(inner, grad, heads, mask);
            for (found, want) in found.into_iter().zip(want) {
                assert!((found - want).abs().max().into_scalar() < 2.0 * TOLERANCE);
            }
        }
    }
}

/// Every operation once, with weights that learn and one that does not, and what is not kept when it is computed again.
#[test]
fn what_is_computed_again_has_the_same_gradients() {
    let device = Default::default();
    let random = |shape: [usize; 4]| Tensor::<A, 4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    let vector = |size: usize| random([1, 1, 1, size]).flatten::<1>(0, 3);
    let conv = Conv2dConfig::new([4, 8], [3; 2]).init::<A>(&device);
    let norm = GroupNormConfig::new(2, 8).init::<A>(&device);
    let x = random([2, 4, 5, 7]).require_grad();
    let fixed = random([1, 1, 8, 24]).squeeze_dims::<2>(&[0, 1]);
    let learned = random([1, 1, 8, 16]).squeeze_dims::<2>(&[0, 1]).require_grad();
    let (gamma, beta) = (vector(8).require_grad(), vector(8));
    let run = |again: bool| {
        recomputing(again, || {
            let maps = conv2d(&conv, x.clone()); // [2, 8, 3, 5]
            let maps = group_norm_silu(&norm, maps.clone()) + maps;
            let tokens = crate::nn::transpose(maps.reshape([2, 8, 15])); // [2, 15, 8]
            let normed = A::fused_layer_norm(tokens.clone(), gamma.clone(), beta.clone(), 1e-5);
            let joint = A::fused_linear(normed.clone(), fixed.clone(), None, Then::Nothing); // [2, 15, 24]
            let part = |i: usize| crate::nn::narrow(joint.clone(), 8 * i, 8);
            let attended = A::fused_attention(part(0), part(1), part(2), 2, None) + tokens;
            let gated = A::fused_gated_linear(attended.clone(), learned.clone(), None);
            let heads = merge_heads(split_heads(gelu(gated), 4));
            let y = softmax(A::fused_linear(heads, fixed.clone(), Some(vector(24).zeros_like()), Then::Gelu));
            let gradients = (y.clone() * y.clone()).sum().backward();
            let bound = [normed, joint.clone(), part(1)].map(|x| format!("{:?}", x.into_primitive().tensor().node));
            let bias = conv.bias.as_ref().unwrap().val();
            let found = [
                x.grad(&gradients).unwrap().into_data(),
                learned.grad(&gradients).unwrap().into_data(),
                gamma.grad(&gradients).unwrap().into_data(),
                conv.weight.val().grad(&gradients).unwrap().into_data(),
                bias.grad(&gradients).unwrap().into_data(),
                norm.gamma.as_ref().unwrap().val().grad(&gradients).unwrap().into_data(),
            ];
            (y.into_data(), found, bound)
        })
    };
    let (kept, again) = (run(false), run(true));
    assert_eq!(kept.0, again.0);
    assert_eq!(kept.1, again.1);
    assert!(kept.1.iter().all(|gradient| gradient.iter::<f32>().any(|value| value != 0.0)));
    assert!(kept.2.iter().all(|node| node.contains("properties: ComputeBound")), "{:?}", kept.2);
    assert!(again.2.iter().all(|node| node.contains("properties: MemoryBound")), "{:?}", again.2);
    assert!(!recomputes());
}
