//! What the network makes on its way, as plain numbers.

use burn::tensor::Tensor;

use crate::nn::SeedBackend;

/// Features of images, `[images, tokens, width]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// Images, tokens of an image, features of a token.
    pub shape: [usize; 3],
    /// All of them, image after image.
    pub values: Vec<f32>,
}

impl Features {
    /// None yet.
    pub(super) fn none(tokens: usize, width: usize) -> Self {
        Self { shape: [0, tokens, width], values: Vec::new() }
    }

    /// Appends a batch.
    pub(super) fn push<B: SeedBackend>(&mut self, batch: Tensor<B, 3>) {
        let [images, tokens, width] = batch.dims();
        debug_assert_eq!([tokens, width], self.shape[1..]);
        self.shape[0] += images;
        self.values.extend(super::floats(batch));
    }
}
