//! Two-dimensional convolution as a matrix product, with its gradients.
//!
//! Forward pass, the gradient of the weight, and that of the input, which is a convolution too where the stride is 1, are those
//! of [`fast`](super::fast), which packs patches as it goes. Without it, and for what it does not cover, patches are unfolded to
//! `columns` `[channels_in * k * k, batch * positions]`, so that each is a single product over the whole batch. Each output
//! value is one dot product over its patch in a fixed order, whatever the batch.

use burn::tensor::{
    DType, Shape, Tensor, TensorPrimitive,
    ops::{ConvOptions, FloatTensorOps, ModuleOps},
};
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::{SeedBackend, fast, kernels::from_vec};

/// Largest unfolded input, in values; beyond it memory matters more than speed, and the backend's own path is taken.
const LARGEST: usize = 1 << 26;

/// Sizes of one convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    /// Into it and out of it.
    pub(super) channels: [usize; 2],
    /// Height and width.
    pub(super) input: [usize; 2],
    /// Height and width.
    pub(super) output: [usize; 2],
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
}

impl Sizes {
    /// `None` for what the products do not cover: other dtypes than float32 (for a weight, other floating ones than that and half
    /// precision), groups, dilation, and kernels that are not square.
    fn new(x: &FlexTensor, weight: &FlexTensor, options: &ConvOptions<2>) -> Option<Self> {
        let [batch, channels_in, height, width] = x.layout().shape().dims();
        let [channels_out, _, kernel, kernel_width] = weight.layout().shape().dims();
        let ([stride, stride_x], [padding, padding_x]) = (options.stride, options.padding);
        let square = kernel == kernel_width && stride == stride_x && padding == padding_x;
        let plain = options.groups == 1 && options.dilation == [1, 1];
        let dtype = x.dtype() == DType::F32 && matches!(weight.dtype(), DType::F32 | DType::F16 | DType::BF16);
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
        (batch * channels_in * channels_out > 0).then_some(sizes)
    }

    /// Only if patches may be unfolded: both of float32, and not too many.
    fn unfolded(self, weight: &FlexTensor) -> Option<Self> {
        (weight.dtype() == DType::F32 && self.rows() * self.columns() <= LARGEST).then_some(self)
    }

    /// Sizes of the convolution that is the gradient of the input, with the weight turned; nothing for other strides.
    fn of_input_gradient(self) -> Option<Self> {
        let [inputs, outputs] = self.channels;
        let padding = (self.kernel - 1).checked_sub(self.padding)?;
        (self.stride == 1).then_some(Self {
            channels: [outputs, inputs],
            input: self.output,
            output: self.input,
            padding,
            ..self
        })
    }

    /// Values of a patch in each channel.
    pub(super) fn area(&self) -> usize {
        self.kernel * self.kernel
    }

    /// Values of a patch.
    pub(super) fn rows(&self) -> usize {
        self.channels[0] * self.area()
    }

    /// The same with maps of one line each, where the lines do not matter.
    pub(super) fn of_lines(self) -> Self {
        match (self.kernel, self.stride, self.padding) {
            (1, 1, 0) => Self { input: [1, self.positions()], output: [1, self.positions()], ..self },
            _ => self,
        }
    }

    /// Output positions of an image.
    pub(super) fn positions(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Output positions of the batch.
    pub(super) fn columns(&self) -> usize {
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

/// [`SeedBackend::fused_conv2d_add`] in plain tensor operations.
pub(super) fn plain<B: SeedBackend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    bias: Option<Tensor<B, 1>>,
    options: ConvOptions<2>,
    added: Option<Tensor<B, 4>>,
) -> Tensor<B, 4> {
    let element = x.dtype();
    let (x, weight) = if weight.dtype() == element { (x, weight) } else { B::meet(x, weight) };
    // A bias is of the type of the activations, so that it is added by the convolution only if that is computed in it.
    let (inside, outside) = if x.dtype() == element { (bias, None) } else { (None, bias) };
    let [x, weight] = [x, weight].map(|x| x.into_primitive().tensor());
    let inside = inside.map(|bias| bias.into_primitive().tensor());
    let maps = Tensor::<B, 4>::from_primitive(TensorPrimitive::Float(B::fused_conv2d(x, weight, inside, options)));
    let maps = if maps.dtype() == element { maps } else { maps.cast(element) };
    let bias = outside.map(|bias| bias.reshape([1, -1, 1, 1]));
    [bias, added].into_iter().flatten().fold(maps, |maps, added| maps + added)
}

/// [`plain`] on Flex without its own path, and with the weight in its own type; nothing for what is not covered.
pub(super) fn fused(
    x: &Tensor<Flex, 4>,
    weight: &Tensor<Flex, 4>,
    bias: Option<&Tensor<Flex, 1>>,
    options: &ConvOptions<2>,
    added: Option<&Tensor<Flex, 4>>,
) -> Option<Tensor<Flex, 4>> {
    let [x, weight] = [x, weight].map(|x| x.clone().into_primitive().tensor());
    let sizes = Sizes::new(&x, &weight, options)?;
    let bias = bias.map(|bias| bias.clone().into_primitive().tensor());
    let added = added.map(|added| added.clone().into_primitive().tensor());
    let out = fast::convolve(&x, &weight, bias.as_ref(), added.as_ref(), sizes)?;
    Some(Tensor::from_primitive(TensorPrimitive::Float(out)))
}

/// `x` `[batch, in, height, width]`, `weight` `[out, in, k, k]`, `bias` `[out]` -> `[batch, out, height', width']`.
pub(super) fn forward(
    x: FlexTensor,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    options: ConvOptions<2>,
) -> FlexTensor {
    let sizes = Sizes::new(&x, &weight, &options);
    if let Some(out) = sizes.and_then(|sizes| fast::convolve(&x, &weight, bias.as_ref(), None, sizes)) {
        return out;
    }
    let sizes = sizes.and_then(|sizes| sizes.unfolded(&weight));
    let Some(sizes) = sizes else { return Flex::conv2d(x, weight, bias, options) };
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
    let sizes = Sizes::new(&x, &weight, &options).and_then(|sizes| sizes.unfolded(&weight));
    let Some(sizes) = sizes else { return Flex::conv2d_x_backward(x, weight, grad, options) };
    let convolution = sizes.of_input_gradient().filter(|_| grad.dtype() == DType::F32);
    let turned = |turned: Sizes| fast::convolve(&grad, &turn(&weight, &sizes), None, None, turned);
    if let Some(input) = convolution.and_then(turned) {
        return input;
    }
    let weight = matrix(weight, sizes.channels[1], sizes.rows());
    let columns = Flex::float_matmul(Flex::float_transpose(weight), to_rows(&grad, &sizes));
    fold(&columns, &sizes)
}

/// A weight `[out, in, k, k]` as that of the gradient, `[in, out, k, k]` with each kernel read backwards.
fn turn(weight: &FlexTensor, sizes: &Sizes) -> FlexTensor {
    let ([inputs, outputs], area) = (sizes.channels, sizes.area());
    let weight = weight.to_contiguous();
    let from = weight.storage::<f32>();
    let mut turned = vec![0.0; from.len()];
    turned.par_chunks_mut(outputs * area).enumerate().for_each(|(input, turned)| {
        for (output, turned) in turned.chunks_exact_mut(area).enumerate() {
            let kernel = &from[(output * inputs + input) * area..][..area];
            turned.iter_mut().zip(kernel.iter().rev()).for_each(|(to, &value)| *to = value);
        }
    });
    from_vec(turned, Shape::new([inputs, outputs, sizes.kernel, sizes.kernel]))
}

/// Gradient with respect to the weight, from the gradient of the output.
pub(super) fn weight_gradient(
    x: FlexTensor,
    weight: FlexTensor,
    grad: FlexTensor,
    options: ConvOptions<2>,
) -> FlexTensor {
    let sizes = Sizes::new(&x, &weight, &options);
    let shape = weight.layout().shape();
    if let Some(gradient) = sizes.and_then(|sizes| fast::weight_gradient(&x, &grad, shape, &sizes)) {
        return gradient;
    }
    let sizes = sizes.and_then(|sizes| sizes.unfolded(&weight));
    let Some(sizes) = sizes else { return Flex::conv2d_weight_backward(x, weight, grad, options) };
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
    let mut columns = vec![0.0; sizes.rows() * sizes.columns()];
    let rows = columns.par_chunks_mut(sizes.columns()).enumerate();
    rows.for_each(|(row, columns)| unfold_row(input, sizes, row, 0, columns));
    from_vec(columns, Shape::new([sizes.rows(), sizes.columns()]))
}

/// One row of columns, of as many images from `first` on as there is room for; what lies outside of an image is left as it is.
pub(super) fn unfold_row(input: &[f32], sizes: &Sizes, row: usize, first: usize, columns: &mut [f32]) {
    let ([height, width], [out_height, out_width]) = (sizes.input, sizes.output);
    let (channel, offset_y, offset_x) = sizes.tap(row);
    let (inside_y, first_y) = sizes.inside(offset_y, height, out_height);
    let (inside_x, first_x) = sizes.inside(offset_x, width, out_width);
    for (image, columns) in columns.chunks_exact_mut(sizes.positions()).enumerate() {
        let plane = &input[((first + image) * sizes.channels[0] + channel) * height * width..][..height * width];
        for (i, y) in inside_y.clone().enumerate() {
            let line = &plane[(first_y + i * sizes.stride) * width..][..width];
            let out = &mut columns[y * out_width..][inside_x.clone()];
            match sizes.stride {
                1 => out.copy_from_slice(&line[first_x..first_x + out.len()]),
                stride => out.iter_mut().zip(line[first_x..].iter().step_by(stride)).for_each(|(o, &v)| *o = v),
            }
        }
    }
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
