//! The layers of transformers and convolutions on the CPU, without what plain tensor operations pay for: no copies between heads,
//! no matrix of all scores or of all patches; bias, GELU and residual are added while a result is still in the first cache.
//!
//! Everything stands on one small matrix product, [`tile`], which with [`transpose`] holds the unsafe code of the module but
//! for one line of [`product`]. A product is in float32, in pairs of bfloat16 or in quads of 8 bits ([`formats`]), each of which is
//! 32 bits wide, so that weights of all three become panels by the same transposition of words ([`panels`]). Activations between
//! layers are float32. Processors without the instructions, other types, and `SEED_KERNELS=plain` in the environment take the
//! plain tensor operations, of 8 bits those of [`eight_bit`], which are also what the tests compare with.
//!
//! Each value is one chain of multiply-adds in the order of the inner axis, or a sum of whole numbers, so results depend neither
//! on the batch nor on the threads.

mod attention;
mod attention_backward;
mod conv;
mod formats;
mod layer_norm;
mod panels;
mod product;
mod tile;
mod transpose;

use std::sync::LazyLock;

use burn::tensor::{DType, Shape, Tensor, TensorPrimitive};
use burn_flex::{Flex, FlexTensor};

use super::{Then, conv::Sizes, eight_bit, kernels};
use attention::Heads;
use panels::Matrix;
use product::Weight;
use tile::Kernel;

/// Name of the environment variable that turns these kernels off, and the value that does.
const SWITCH: (&str, &str) = ("SEED_KERNELS", "plain");

/// The kernel of this processor; nothing where plain tensor operations are to be taken.
fn kernel() -> Option<Kernel> {
    static KERNEL: LazyLock<Option<Kernel>> = LazyLock::new(|| {
        let is_off = std::env::var_os(SWITCH.0).is_some_and(|value| value == SWITCH.1);
        if is_off { None } else { Kernel::detect() }
    });
    *KERNEL
}

/// As [`SeedBackend::fused_linear`](super::SeedBackend::fused_linear); nothing for what it does not cover. A weight may be of a
/// half-precision type, see [`product`](product::product).
pub(super) fn linear<const D: usize>(
    x: &Tensor<Flex, D>,
    weight: &Tensor<Flex, 2>,
    bias: Option<&Tensor<Flex, 1>>,
    then: &Then<Tensor<Flex, D>>,
) -> Option<Tensor<Flex, D>> {
    let kernel = kernel()?;
    let mut shape = x.shape();
    let [inner, columns] = weight.dims();
    let x = floats(x)?;
    let bias = match bias {
        Some(bias) => Some(floats(bias)?),
        None => None,
    };
    let operand = match then {
        Then::Add(operand) | Then::Multiply(operand) => Some(floats(operand)?),
        Then::Nothing | Then::Gelu => None,
    };
    let then = match (then, &operand) {
        (Then::Multiply(_), Some(factor)) => Then::Multiply(factor.storage()),
        (_, Some(residual)) => Then::Add(residual.storage()),
        (Then::Gelu, None) => Then::Gelu,
        _ => Then::Nothing,
    };
    let rows = shape.num_elements() / inner.max(1);
    let bias = bias.as_ref().map(|bias| bias.storage());
    let quantized = eight_bit::parts(weight);
    let (numbers, scales) = match &quantized {
        Some(weight) => (weight.tensor().clone(), Some(weight.scales())),
        None => (weight.clone().into_primitive().tensor(), None),
    };
    let weight = Weight { matrix: Matrix::of(&numbers)?, scales, sizes: [inner, columns], bias };
    let out = product::product(kernel, x.storage(), weight, rows, then)?;
    shape[D - 1] = columns;
    Some(tensor(out, shape))
}

/// As [`SeedBackend::fused_gated_linear`](super::SeedBackend::fused_gated_linear); nothing for what it does not cover. The gate is
/// the only intermediate in memory.
pub(super) fn gated_linear<const D: usize>(
    x: &Tensor<Flex, D>,
    weight: &Tensor<Flex, 2>,
    bias: Option<&Tensor<Flex, 1>>,
) -> Option<Tensor<Flex, D>> {
    kernel()?;
    if !matches!(weight.dtype(), DType::F32 | DType::F16 | DType::BF16) {
        return None;
    }
    let hidden = weight.dims()[1] / 2;
    let half = |first: usize, then| {
        let bias = bias.map(|bias| bias.clone().narrow(0, first, hidden));
        linear(x, &weight.clone().narrow(1, first, hidden), bias.as_ref(), &then)
    };
    let gate = half(hidden, Then::Gelu)?;
    half(0, Then::Multiply(gate))
}

/// A convolution of `x` `[batch, in, height, width]` with a weight of any floating type, with a bias `[out]` and what else is
/// added, `[batch, out, 1, 1]` or as large as the result; nothing for what it does not cover.
pub(super) fn convolve(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: Option<&FlexTensor>,
    added: Option<&FlexTensor>,
    sizes: Sizes,
) -> Option<FlexTensor> {
    let kernel = kernel()?;
    if [Some(x), bias, added].into_iter().flatten().any(|part| part.dtype() != DType::F32) {
        return None;
    }
    let [x, weight] = [x, weight].map(FlexTensor::to_contiguous);
    let [bias, added] = [bias, added].map(|part| part.map(FlexTensor::to_contiguous));
    let weight = match weight.dtype() {
        DType::F32 => conv::Weight::F32(weight.storage()),
        DType::F16 => conv::Weight::F16(weight.storage()),
        DType::BF16 => conv::Weight::Bf16(weight.storage()),
        _ => return None,
    };
    let shape = Shape::new([sizes.batch, sizes.channels[1], sizes.output[0], sizes.output[1]]);
    let by_image = Shape::new([sizes.batch, sizes.channels[1], 1, 1]);
    let of = |wanted: &Shape| added.as_ref().filter(|added| added.layout().shape() == wanted);
    let (by_image, maps) = if shape == by_image { (None, of(&shape)) } else { (of(&by_image), of(&shape)) };
    if added.is_some() && by_image.is_none() && maps.is_none() {
        return None;
    }
    let added = conv::Added {
        bias: bias.as_ref().map(|bias| bias.storage()),
        by_image: by_image.map(|values| values.storage()),
        maps: maps.map(|maps| maps.storage()),
    };
    Some(kernels::from_vec(conv::convolve(kernel, x.storage(), weight, added, sizes), shape))
}

/// As [`SeedBackend::fused_attention`](super::SeedBackend::fused_attention); nothing for what it does not cover.
pub(super) fn attention(
    [query, key, value]: [&Tensor<Flex, 3>; 3],
    heads: usize,
    mask: Option<&Tensor<Flex, 2>>,
) -> Option<Tensor<Flex, 3>> {
    let kernel = kernel()?;
    let scale = super::attention::scale(query, heads) as f32;
    let [batch, _, width] = query.dims();
    let shape = query.shape();
    let parts = [query, key, value].map(|part| part.clone().into_primitive().tensor());
    let [Some(query), Some(key), Some(value)] = parts.each_ref().map(in_place) else { return None };
    let mask = match mask {
        Some(mask) => Some(floats(mask)?),
        None => None,
    };
    let mask = mask.as_ref().map(|mask| mask.storage());
    let sizes = [batch, heads, width / heads];
    Some(tensor(attention::attention(kernel, [query, key, value], sizes, scale, mask), shape))
}

/// The gradient of a convolution's weight, of `shape`; nothing for what it does not cover.
pub(super) fn weight_gradient(x: &FlexTensor, grad: &FlexTensor, shape: &Shape, sizes: &Sizes) -> Option<FlexTensor> {
    let kernel = kernel()?;
    if [x, grad].iter().any(|part| part.dtype() != DType::F32) {
        return None;
    }
    let [x, grad] = [x, grad].map(FlexTensor::to_contiguous);
    let gradient = conv::weight_gradient(kernel, x.storage(), grad.storage(), sizes);
    Some(kernels::from_vec(gradient, shape.clone()))
}

/// Most scores of a head that are in memory at a time.
const MOST_SCORES: usize = 1 << 20;

/// As [`SeedBackend::fused_attention_backward`](super::SeedBackend::fused_attention_backward); nothing for what it does not cover.
pub(super) fn attention_backward(
    parts: &[Tensor<Flex, 3>; 3],
    grad: &Tensor<Flex, 3>,
    heads: usize,
    mask: Option<&Tensor<Flex, 2>>,
) -> Option<[Tensor<Flex, 3>; 3]> {
    let kernel = kernel()?;
    let [query, key, value] = parts;
    let scale = super::attention::scale(query, heads) as f32;
    let [batch, queries, width] = query.dims();
    if queries * key.dims()[1] > MOST_SCORES {
        return None;
    }
    let shapes = [query, key, value].map(|part| part.shape());
    let parts = [query, key, value, grad].map(|part| part.clone().into_primitive().tensor());
    let [Some(query), Some(key), Some(value), Some(grad)] = parts.each_ref().map(in_place) else { return None };
    let mask = match mask {
        Some(mask) => Some(floats(mask)?),
        None => None,
    };
    let mask = mask.as_ref().map(|mask| mask.storage());
    let (parts, sizes) = ([query, key, value, grad], [batch, heads, width / heads]);
    let [to_query, to_key, to_value] = attention_backward::attention_backward(kernel, parts, sizes, scale, mask);
    let [query, key, value] = shapes;
    Some([tensor(to_query, query), tensor(to_key, key), tensor(to_value, value)])
}

/// As [`SeedBackend::fused_layer_norm_backward`](super::SeedBackend::fused_layer_norm_backward); nothing for what it does not
/// cover.
pub(super) fn layer_norm_backward(
    x: &Tensor<Flex, 2>,
    gamma: &Tensor<Flex, 1>,
    grad: &Tensor<Flex, 2>,
    epsilon: f64,
) -> Option<(Tensor<Flex, 2>, [Tensor<Flex, 1>; 2])> {
    kernel()?;
    let (shape, width) = (x.shape(), gamma.shape());
    if shape.num_elements() == 0 {
        return None;
    }
    let (x, scale, grad) = (floats(x)?, floats(gamma)?, floats(grad)?);
    let [input, to_scale, to_shift] =
        layer_norm::backward(x.storage(), scale.storage(), grad.storage(), epsilon as f32);
    Some((tensor(input, shape), [tensor(to_scale, width.clone()), tensor(to_shift, width)]))
}

/// As [`SeedBackend::fused_layer_norm`](super::SeedBackend::fused_layer_norm); nothing for what it does not cover.
pub(super) fn layer_norm<const D: usize>(
    x: &Tensor<Flex, D>,
    gamma: &Tensor<Flex, 1>,
    beta: &Tensor<Flex, 1>,
    epsilon: f64,
) -> Option<Tensor<Flex, D>> {
    kernel()?;
    let (shape, scale, shift) = (x.shape(), floats(gamma)?, floats(beta)?);
    if shape.num_elements() == 0 {
        return None;
    }
    let out = layer_norm::layer_norm(floats(x)?.storage(), scale.storage(), shift.storage(), epsilon as f32);
    Some(tensor(out, shape))
}

/// A float32 tensor in order.
fn floats<const D: usize>(x: &Tensor<Flex, D>) -> Option<FlexTensor> {
    (x.dtype() == DType::F32).then(|| x.clone().into_primitive().tensor().to_contiguous())
}

/// A float32 tensor `[batch, tokens, width]`, perhaps a part of a wider one.
fn in_place(x: &FlexTensor) -> Option<Heads<'_>> {
    let [image, token, 1] = *x.layout().strides() else { return None };
    let [_, tokens, _] = x.layout().shape().dims();
    let strides = [usize::try_from(image).ok()?, usize::try_from(token).ok()?];
    let values = (x.dtype() == DType::F32).then(|| x.storage())?;
    Some(Heads { values: &values[x.layout().start_offset()..], tokens, strides })
}

fn tensor<const D: usize>(values: Vec<f32>, shape: Shape) -> Tensor<Flex, D> {
    Tensor::from_primitive(TensorPrimitive::Float(kernels::from_vec(values, shape)))
}

#[cfg(test)]
mod tests {
    //! The fast path against the plain one, on odd shapes, views and half-precision weights.

    use burn::tensor::{
        Distribution,
        ops::{ConvOptions, ModuleOps},
    };

    use super::*;
    use crate::nn::{attention as plain_attention, layer_norm as plain_layer_norm, linear as plain_linear};

    /// Sums of up to some hundred terms of size 1, in another order.
    const TOLERANCE: f32 = 2e-5;

    fn random<const D: usize>(shape: [usize; D]) -> Tensor<Flex, D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Default::default())
    }

    /// Values as bfloat16 has them. (Flex's cast drops bits before it rounds.)
    fn rounded<const D: usize>(x: &Tensor<Flex, D>) -> Tensor<Flex, D> {
        let data = x.to_data();
        tensor(data.iter::<f32>().map(|value| half::bf16::from_f32(value).to_f32()).collect(), x.shape())
    }

    #[test]
    fn nothing_stays_nothing() {
        let (x, weight) = (random([0, 4, 3]), random([3, 2]));
        assert!(linear(&x, &weight, None, &Then::Gelu).is_none_or(|y| y.dims() == [0, 4, 2]));
        assert!(attention([&x, &x, &x], 1, None).is_none_or(|y| y.dims() == [0, 4, 3]));
    }

    fn same<const D: usize>(found: Option<Tensor<Flex, D>>, want: Tensor<Flex, D>, what: &str) {
        let Some(found) = found else {
            assert!(kernel().is_none(), "{what}: the fast path was not taken");
            return;
        };
        assert_eq!(found.shape(), want.shape());
        if want.shape().num_elements() > 0 {
            let difference = (found - want).abs().max().into_scalar();
            assert!(difference < TOLERANCE, "{what}: {difference}");
        }
    }

    #[test]
    fn linear_equals_the_plain_one() {
        for [batch, tokens, inner, columns] in
            [[1, 1, 1, 1], [2, 7, 5, 16], [3, 13, 64, 33], [1, 40, 31, 79], [5, 65, 128, 96], [2, 300, 7, 1]]
        {
            let x = random([batch, tokens, inner]);
            let (weight, bias) = (random([inner, columns]), random([columns]));
            let turned = random([columns, inner]).transpose();
            let residual = random([batch, tokens, columns]);
            for weight in [weight.clone(), turned, weight.clone().cast(DType::F16), weight.cast(DType::BF16)] {
                for bias in [None, Some(bias.clone())] {
                    for then in [Then::Nothing, Then::Gelu, Then::Add(residual.clone())] {
                        if weight.dtype() == DType::BF16 && kernel().is_some_and(Kernel::has_pairs) {
                            let found = linear(&x, &weight, bias.as_ref(), &then);
                            same(
                                found,
                                plain_linear::plain(rounded(&x), weight.clone(), bias.clone(), then),
                                "bfloat16",
                            );
                            continue;
                        }
                        let what = format!("{:?} x {:?} {:?}", x.shape(), weight.shape(), weight.dtype());
                        let found = linear(&x, &weight, bias.as_ref(), &then);
                        same(found, plain_linear::plain(x.clone(), weight.clone(), bias.clone(), then), &what);
                    }
                }
            }
        }
    }

    /// Whole numbers are added up: the same results to the bit, in whatever order.
    #[test]
    fn eight_bits_equal_plain_loops() {
        for [batch, tokens, inner, columns] in [
            [1, 1, 1, 1],
            [2, 7, 5, 16],
            [3, 13, 64, 33],
            [1, 40, 31, 79],
            [5, 65, 128, 96],
            [2, 300, 7, 1],
            [0, 3, 4, 5],
        ] {
            let (x, bias) = (random([batch, tokens, inner]) * 4.0, random([columns]));
            let values = random([columns, inner]).into_data().to_vec::<f32>().unwrap();
            let weight = eight_bit::weight(&values, [columns, inner]).unwrap();
            let residual = random([batch, tokens, columns]);
            for then in [Then::Nothing, Then::Gelu, Then::Add(residual)] {
                let product =
                    eight_bit::product(x.clone(), &eight_bit::parts(&weight).unwrap()) + bias.clone().unsqueeze();
                let want = plain_linear::and_then(product, then.clone());
                let Some(found) = linear(&x, &weight, Some(&bias), &then) else { return };
                assert_eq!(found.into_data(), want.into_data(), "{batch} x {tokens} x {inner} x {columns}");
            }
        }
    }

    /// What 8 bits lose: half a step of rows and of columns, in as many terms as the inner axis has.
    #[test]
    fn eight_bits_are_near() {
        let (x, weight) = (random([1, 50, 256]), random([96, 256]));
        let values = weight.clone().into_data().to_vec::<f32>().unwrap();
        let found = eight_bit::weight(&values, [96, 256]).unwrap();
        let found = eight_bit::product(x.clone(), &eight_bit::parts(&found).unwrap());
        let want = plain_linear::plain(x, weight.transpose(), None, Then::Nothing);
        let spread = want.clone().powi_scalar(2).mean().sqrt().into_scalar();
        let error = (found - want).powi_scalar(2).mean().sqrt().into_scalar();
        assert!(error < 0.015 * spread && error > 0.002 * spread, "{error} of {spread}");
    }

    #[test]
    fn gated_linear_equals_the_plain_one() {
        for [batch, tokens, inner, hidden] in [[1, 1, 1, 1], [2, 13, 31, 40], [1, 70, 64, 33]] {
            let (x, weight) = (random([batch, tokens, inner]), random([inner, 2 * hidden]));
            let turned = random([2 * hidden, inner]).transpose();
            for weight in [weight.clone(), turned, weight.cast(DType::F16)] {
                for bias in [None, Some(random([2 * hidden]))] {
                    let found = gated_linear(&x, &weight, bias.as_ref());
                    let both = plain_linear::plain(x.clone(), weight.clone(), bias, Then::Nothing);
                    let gate = crate::nn::gelu(both.clone().narrow(2, hidden, hidden));
                    let want = both.narrow(2, 0, hidden) * gate;
                    // Products of two sums.
                    same(found.map(|found| found / 20.0), want / 20.0, "gated");
                }
            }
        }
    }

    #[test]
    fn layer_norm_equals_burns() {
        for [batch, tokens, width] in [[1, 1, 1], [2, 3, 7], [1, 300, 48], [3, 5, 129]] {
            let (gamma, beta) = (random([width]), random([width]));
            let x = random([batch, tokens, width]) * 3.0 + 1.0;
            let found = layer_norm(&x, &gamma, &beta, 1e-6);
            same(found, plain_layer_norm::plain(x, gamma, beta, 1e-6), "layer norm");
        }
    }

    #[test]
    fn attention_equals_the_plain_one() {
        for [batch, queries, tokens, heads, head_dim] in [
            [1, 1, 1, 1, 1],
            [2, 5, 9, 3, 4],
            [3, 65, 65, 4, 32],
            [1, 600, 33, 2, 40],
            [2, 32, 257, 2, 88],
            [1, 13, 16, 1, 64],
            // Keys in blocks.
            [2, 29, 1024, 2, 40],
            [1, 530, 1300, 1, 8],
        ] {
            let width = heads * head_dim;
            let query = random([batch, queries, width]);
            let (key, value) = (random([batch, tokens, width]), random([batch, tokens, width]));
            for mask in [None, Some(random([queries, tokens]))] {
                let want = plain_attention::plain(query.clone(), key.clone(), value.clone(), heads, mask.clone());
                let what = format!("{queries} to {tokens}, {heads} x {head_dim}");
                same(attention([&query, &key, &value], heads, mask.as_ref()), want.clone(), &what);
                // Parts of one joint projection.
                let joint = Tensor::cat(vec![value.clone(), key.clone(), value.clone()], 2);
                let part = |i| joint.clone().narrow(2, i * width, width);
                same(attention([&query, &part(1), &part(2)], heads, mask.as_ref()), want, &what);
            }
        }
    }

    /// One row, one column, stride 2, no padding, lines that no panel divides, images smaller than a panel, a batch that fills several.
    const CONVOLUTIONS: [([usize; 3], [usize; 2], [usize; 3]); 12] = [
        ([1, 1, 1], [1, 1], [1, 1, 0]),
        ([2, 3, 5], [1, 9], [3, 1, 1]),
        ([2, 4, 13], [9, 1], [3, 1, 1]),
        ([2, 5, 4], [8, 8], [3, 2, 1]),
        ([1, 3, 30], [9, 5], [3, 2, 0]),
        ([2, 2, 3], [6, 7], [2, 2, 0]),
        ([9, 6, 7], [2, 2], [3, 1, 1]),
        ([5, 90, 20], [4, 4], [3, 1, 1]),
        ([2, 300, 40], [6, 8], [1, 1, 0]),
        ([1, 7, 110], [24, 40], [3, 1, 1]),
        ([1, 3, 8], [17, 96], [5, 1, 2]),
        ([2, 3, 2], [30, 33], [29, 2, 1]),
    ];

    #[test]
    fn convolution_equals_the_plain_one() {
        for ([batch, inputs, outputs], size, [side, stride, padding]) in CONVOLUTIONS {
            let x = random([batch, inputs, size[0], size[1]]);
            let weight = random([outputs, inputs, side, side]) / ((inputs * side * side) as f32).sqrt();
            let options = ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1);
            let bias = random([outputs]);
            let maps = crate::nn::conv::plain(x.clone(), weight.clone(), None, options.clone(), None).shape();
            let turned = weight.clone().swap_dims(2, 3).swap_dims(2, 3);
            for weight in [weight.clone(), turned, weight.clone().cast(DType::F16), weight.cast(DType::BF16)] {
                for added in [None, Some(random([batch, outputs, 1, 1])), Some(random(maps.dims()))] {
                    for bias in [None, Some(bias.clone())] {
                        let found = crate::nn::conv::fused(&x, &weight, bias.as_ref(), &options, added.as_ref());
                        let is_rounded = weight.dtype() == DType::BF16 && kernel().is_some_and(Kernel::has_pairs);
                        let x = if is_rounded { rounded(&x) } else { x.clone() };
                        let weight = weight.clone().cast(DType::F32);
                        let (x, weight) = (x.into_primitive().tensor(), weight.into_primitive().tensor());
                        let want = Flex::conv2d(x, weight, None, options.clone());
                        let want = Tensor::<Flex, 4>::from_primitive(TensorPrimitive::Float(want));
                        let bias = bias.map(|bias| bias.reshape([1, outputs as i32, 1, 1]));
                        let want = [bias, added.clone()].into_iter().flatten().fold(want, |want, added| want + added);
                        same(found, want, &format!("{inputs} to {outputs}, {size:?}, {side} / {stride} + {padding}"));
                    }
                }
            }
        }
    }

    /// An image's maps are the same to the bit in another batch and with other threads.
    #[test]
    fn maps_do_not_depend_on_one_another() {
        for ([_, inputs, outputs], size, [side, stride, padding]) in CONVOLUTIONS {
            for dtype in [DType::F32, DType::BF16] {
                let x = random([5, inputs, size[0], size[1]]);
                let weight = random([outputs, inputs, side, side]).cast(dtype);
                let options = ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1);
                let run = |x: &Tensor<Flex, 4>| crate::nn::conv::fused(x, &weight, None, &options, None);
                let Some(whole) = run(&x) else { return };
                let pool = rayon::ThreadPoolBuilder::new().num_threads(7).build().unwrap();
                assert_eq!(pool.install(|| run(&x)).unwrap().into_data(), whole.clone().into_data());
                for image in [0, 4] {
                    let part = run(&x.clone().narrow(0, image, 1)).unwrap();
                    assert_eq!(part.into_data(), whole.clone().narrow(0, image, 1).into_data());
                }
            }
        }
    }

    /// A row's result is the same to the bit with other rows beside it, and in another place of a tile.
    #[test]
    fn rows_do_not_depend_on_one_another() {
        let (x, weight) = (random([1, 301, 77]), random([77, 50]));
        let Some(whole) = linear(&x, &weight, None, &Then::Gelu) else { return };
        for (start, count) in [(0, 1), (5, 12), (7, 100), (300, 1)] {
            let part = linear(&x.clone().narrow(1, start, count), &weight, None, &Then::Gelu).unwrap();
            assert_eq!(part.into_data(), whole.clone().narrow(1, start, count).into_data());
        }
        for keys in [x.clone(), random([1, 1200, 77])] {
            let whole = attention([&x, &keys, &keys], 7, None).unwrap();
            for (start, count) in [(0, 1), (5, 12), (7, 100), (300, 1)] {
                let query = x.clone().narrow(1, start, count);
                let part = attention([&query, &keys, &keys], 7, None).unwrap();
                assert_eq!(part.into_data(), whole.clone().narrow(1, start, count).into_data());
            }
        }
    }
}
