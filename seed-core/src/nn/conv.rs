//! Two-dimensional convolution as one matrix product over the whole batch, with its gradients.
//!
//! Flex's own forward pass is good, its gradients are not: they go through strided copies on one core. Here patches are
//! unfolded to `columns` `[channels_in * k * k, batch * positions]`, so that forward pass and both gradients are single
//! products. Each output value is one dot product over its patch in a fixed order, whatever the batch.

use burn::tensor::{
    DType, Shape,
    ops::{ConvOptions, FloatTensorOps, ModuleOps},
};
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::kernels::from_vec;

/// Largest unfolded input, in values; beyond it memory matters more than speed, and the backend's own path is taken.
const LARGEST: usize = 1 << 26;

/// Sizes of one convolution.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    channels: [usize; 2],
    input: [usize; 2],
    output: [usize; 2],
    kernel: usize,
    stride: usize,
    padding: usize,
}

impl Sizes {
    /// `None` for what the products do not cover: other dtypes, groups, dilation, kernels that are not square, and what
    /// would be too large.
    fn new(x: &FlexTensor, weight: &FlexTensor, options: &ConvOptions<2>) -> Option<Self> {
        let [batch, channels_in, height, width] = x.layout().shape().dims();
        let [channels_out, _, kernel, kernel_width] = weight.layout().shape().dims();
        let ([stride, stride_x], [padding, padding_x]) = (options.stride, options.padding);
        let square = kernel == kernel_width && stride == stride_x && padding == padding_x;
        let plain = options.groups == 1 && options.dilation == [1, 1];
        let dtype = x.dtype() == DType::F32 && weight.dtype() == DType::F32;
        if !(square && plain && dtype) || (height + 2 * padding).min(width + 2 * padding) < kernel {
            return None;
        }
        let side = |size: usize| (size + 2 * padding - kernel) / stride + 1;
        let output = [side(height), side(width)];
        let sizes = Self {
            batch,
            channels: [channels_in, channels_out],
            input: [height, width],
            output,
            kernel,
            stride,
            padding,
        };
        (batch > 0 && sizes.rows() * sizes.columns() <= LARGEST).then_some(sizes)
    }

    /// Values of a patch.
    fn rows(&self) -> usize {
        self.channels[0] * self.kernel * self.kernel
    }

    /// Output positions of an image.
    fn positions(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Output positions of the batch.
    fn columns(&self) -> usize {
        self.batch * self.positions()
    }

    /// Channel and offset in the kernel of a row.
    fn tap(&self, row: usize) -> (usize, usize, usize) {
        let area = self.kernel * self.kernel;
        (row / area, row % area / self.kernel, row % self.kernel)
    }

    /// Output positions along one axis of `size` whose tap at `offset` lies inside, and the input position of the first.
    fn inside(&self, offset: usize, size: usize, output: usize) -> (std::ops::Range<usize>, usize) {
        let first = self.padding.saturating_sub(offset).div_ceil(self.stride);
        let end = (size + self.padding).saturating_sub(offset).div_ceil(self.stride).min(output).max(first);
        (first..end, (first * self.stride + offset - self.padding).min(size))
    }
}

/// `x` `[batch, in, height, width]`, `weight` `[out, in, k, k]`, `bias` `[out]` -> `[batch, out, height', width']`.
pub(super) fn forward(
    x: FlexTensor,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    options: ConvOptions<2>,
) -> FlexTensor {
    let Some(sizes) = Sizes::new(&x, &weight, &options) else { return Flex::conv2d(x, weight, bias, options) };
    let columns = unfold(&x, &sizes);
    let product = Flex::float_matmul(matrix(weight, sizes.channels[1], sizes.rows()), columns);
    let bias = bias.map(|bias| bias.to_contiguous());
    let bias = bias.as_ref().map(|bias| bias.storage::<f32>());
    to_images(&product, bias, &sizes)
}

/// Gradient with respect to the input, from the gradient of the output.
pub(super) fn input_gradient(
    x: FlexTensor,
    weight: FlexTensor,
    grad: FlexTensor,
    options: ConvOptions<2>,
) -> FlexTensor {
    let Some(sizes) = Sizes::new(&x, &weight, &options) else {
        return Flex::conv2d_x_backward(x, weight, grad, options);
    };
    let weight = matrix(weight, sizes.channels[1], sizes.rows());
    let columns = Flex::float_matmul(Flex::float_transpose(weight), to_rows(&grad, &sizes));
    fold(&columns, &sizes)
}

/// Gradient with respect to the weight, from the gradient of the output.
pub(super) fn weight_gradient(
    x: FlexTensor,
    weight: FlexTensor,
    grad: FlexTensor,
    options: ConvOptions<2>,
) -> FlexTensor {
    let Some(sizes) = Sizes::new(&x, &weight, &options) else {
        return Flex::conv2d_weight_backward(x, weight, grad, options);
    };
    let columns = unfold(&x, &sizes);
    let product = Flex::float_matmul(to_rows(&grad, &sizes), Flex::float_transpose(columns));
    Flex::float_reshape(product, weight.layout().shape().clone())
}

fn matrix(x: FlexTensor, rows: usize, columns: usize) -> FlexTensor {
    Flex::float_reshape(x, Shape::new([rows, columns]))
}

/// Images -> columns `[in * k * k, batch * positions]`.
fn unfold(x: &FlexTensor, sizes: &Sizes) -> FlexTensor {
    let x = x.to_contiguous();
    let input = x.storage::<f32>();
    let ([height, width], [out_height, out_width]) = (sizes.input, sizes.output);
    let mut columns = vec![0.0; sizes.rows() * sizes.columns()];
    columns.par_chunks_mut(sizes.columns()).enumerate().for_each(|(row, columns)| {
        let (channel, offset_y, offset_x) = sizes.tap(row);
        let (inside_y, first_y) = sizes.inside(offset_y, height, out_height);
        let (inside_x, first_x) = sizes.inside(offset_x, width, out_width);
        for (image, columns) in columns.chunks_exact_mut(sizes.positions()).enumerate() {
            let plane = &input[(image * sizes.channels[0] + channel) * height * width..][..height * width];
            for (i, y) in inside_y.clone().enumerate() {
                let line = &plane[(first_y + i * sizes.stride) * width..][..width];
                let out = &mut columns[y * out_width..][inside_x.clone()];
                match sizes.stride {
                    1 => out.copy_from_slice(&line[first_x..first_x + out.len()]),
                    stride => out.iter_mut().zip(line[first_x..].iter().step_by(stride)).for_each(|(o, &v)| *o = v),
                }
            }
        }
    });
    from_vec(columns, Shape::new([sizes.rows(), sizes.columns()]))
}

/// The transpose of [`unfold`]: columns are added where they came from.
fn fold(columns: &FlexTensor, sizes: &Sizes) -> FlexTensor {
    let columns = columns.to_contiguous();
    let columns = columns.storage::<f32>();
    let ([height, width], [out_height, out_width]) = (sizes.input, sizes.output);
    let area = sizes.kernel * sizes.kernel;
    let mut images = vec![0.0; sizes.batch * sizes.channels[0] * height * width];
    images.par_chunks_mut(height * width).enumerate().for_each(|(index, plane)| {
        let (image, channel) = (index / sizes.channels[0], index % sizes.channels[0]);
        for row in channel * area..(channel + 1) * area {
            let (_, offset_y, offset_x) = sizes.tap(row);
            let (inside_y, first_y) = sizes.inside(offset_y, height, out_height);
            let (inside_x, first_x) = sizes.inside(offset_x, width, out_width);
            let from = &columns[row * sizes.columns() + image * sizes.positions()..][..sizes.positions()];
            for (i, y) in inside_y.enumerate() {
                let line = &mut plane[(first_y + i * sizes.stride) * width..][..width];
                let from = &from[y * out_width..][inside_x.clone()];
                match sizes.stride {
                    1 => line[first_x..].iter_mut().zip(from).for_each(|(v, &g)| *v += g),
                    stride => line[first_x..].iter_mut().step_by(stride).zip(from).for_each(|(v, &g)| *v += g),
                }
            }
        }
    });
    from_vec(images, Shape::new([sizes.batch, sizes.channels[0], height, width]))
}

/// Product `[out, batch * positions]` -> images `[batch, out, height', width']`, with the bias added.
fn to_images(product: &FlexTensor, bias: Option<&[f32]>, sizes: &Sizes) -> FlexTensor {
    let product = product.to_contiguous();
    let product = product.storage::<f32>();
    let (positions, channels) = (sizes.positions(), sizes.channels[1]);
    let mut images = vec![0.0; sizes.columns() * channels];
    images.par_chunks_mut(positions).enumerate().for_each(|(index, out)| {
        let (image, channel) = (index / channels, index % channels);
        let from = &product[channel * sizes.columns() + image * positions..][..positions];
        match bias {
            None => out.copy_from_slice(from),
            Some(bias) => out.iter_mut().zip(from).for_each(|(out, &v)| *out = v + bias[channel]),
        }
    });
    from_vec(images, Shape::new([sizes.batch, channels, sizes.output[0], sizes.output[1]]))
}

/// Images `[batch, out, height', width']` -> `[out, batch * positions]`.
fn to_rows(images: &FlexTensor, sizes: &Sizes) -> FlexTensor {
    let images = images.to_contiguous();
    let images = images.storage::<f32>();
    let (positions, channels) = (sizes.positions(), sizes.channels[1]);
    let mut rows = vec![0.0; sizes.columns() * channels];
    rows.par_chunks_mut(positions).enumerate().for_each(|(index, out)| {
        let (channel, image) = (index / sizes.batch, index % sizes.batch);
        out.copy_from_slice(&images[(image * channels + channel) * positions..][..positions]);
    });
    from_vec(rows, Shape::new([channels, sizes.columns()]))
}
