//! The layers of transformers on the CPU, without what plain tensor operations pay for: no copies between heads, no matrix
//! of all scores; bias, GELU and residual are added while a result is still in the first cache.
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
mod formats;
mod layer_norm;
mod panels;
mod product;
mod tile;
mod transpose;

use std::sync::LazyLock;

use burn::tensor::{DType, Shape, Tensor, TensorPrimitive};
use burn_flex::{Flex, FlexTensor};

use super::{Then, eight_bit, kernels};
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
    let residual = match then {
        Then::Add(residual) => Some(floats(residual)?),
        Then::Nothing | Then::Gelu => None,
    };
    let then = match (then, &residual) {
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

    use burn::tensor::Distribution;

    use super::*;
    use crate::nn::{attention as plain_attention, layer_norm as plain_layer_norm, linear as plain_linear};

    /// Sums of up to some hundred terms of size 1, in another order.
    const TOLERANCE: f32 = 2e-5;

    fn random<const D: usize>(shape: [usize; D]) -> Tensor<Flex, D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Default::default())
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
                            let data = x.to_data();
                            let values = data.iter::<f32>().map(|value| half::bf16::from_f32(value).to_f32());
                            let rounded = values.collect::<Vec<_>>();
                            let rounded = tensor(rounded, x.shape());
                            let found = linear(&x, &weight, bias.as_ref(), &then);
                            same(found, plain_linear::plain(rounded, weight.clone(), bias.clone(), then), "bfloat16");
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

    /// A row's result is the same to the bit with other rows beside it, and in another place of a tile.
    #[test]
    fn rows_do_not_depend_on_one_another() {
        let (x, weight) = (random([1, 301, 77]), random([77, 50]));
        let Some(whole) = linear(&x, &weight, None, &Then::Gelu) else { return };
        for (start, count) in [(0, 1), (5, 12), (7, 100), (300, 1)] {
            let part = linear(&x.clone().narrow(1, start, count), &weight, None, &Then::Gelu).unwrap();
            assert_eq!(part.into_data(), whole.clone().narrow(1, start, count).into_data());
        }
        let whole = attention([&x, &x, &x], 7, None).unwrap();
        for (start, count) in [(0, 1), (5, 12), (7, 100), (300, 1)] {
            let query = x.clone().narrow(1, start, count);
            let part = attention([&query, &x, &x], 7, None).unwrap();
            assert_eq!(part.into_data(), whole.clone().narrow(1, start, count).into_data());
        }
    }
}
