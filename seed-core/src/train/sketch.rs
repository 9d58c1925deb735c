//! Auxiliary heads: embeddings -> a coarse picture of the scene.
//!
//! Contrast on captions asks an embedding for what tells captions apart, and asks it of one embedding of an image. A
//! picture is drawn from all of it, so two stages also rebuild the scene at [`SIDE`] x [`SIDE`] pixels: the vision stage
//! from the image embedding, stage 1 from a few features of every causal embedding, which makes each query say something
//! that the others do not. In stage 2 both heads read what is rebuilt from codes. They are not part of the model; the official
//! training has nothing of the kind.

use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};

use crate::nn::{Linear, LinearConfig, SeedBackend, gelu};

/// Pixels of a coarse picture's side: enough to tell the shape of a scene's small objects, 6 pixels wide. With half of it
/// embeddings say where objects are and in which colours, and not what they are.
pub(super) const SIDE: usize = 32;
/// Weight of the picture's error in a stage's loss.
pub(super) const WEIGHT: f64 = 400.0;
/// Features of each causal embedding that its picture is rebuilt from.
const NARROW: usize = 8;
/// Inner features of the heads for each that they read. In narrower ones the shapes of one place are paid for with those of
/// another.
const WIDENING: usize = 8;

/// Rebuilds coarse pictures, as values in -1..1.
#[derive(Module, Debug)]
pub struct Sketch<B: Backend> {
    narrow: Option<Linear<B>>,
    hidden: Linear<B>,
    pixels: Linear<B>,
}

impl<B: Backend> Sketch<B> {
    /// From one embedding of `dim` features.
    pub(super) fn of_image(dim: usize, device: &B::Device) -> Self {
        Self::new(None, dim, device)
    }

    /// From `queries` embeddings of `width` features, of each [`NARROW`] mixtures.
    pub(super) fn of_queries(queries: usize, width: usize, device: &B::Device) -> Self {
        Self::new(Some(LinearConfig::new(width, NARROW).init(device)), queries * NARROW, device)
    }

    fn new(narrow: Option<Linear<B>>, input: usize, device: &B::Device) -> Self {
        Self {
            narrow,
            hidden: LinearConfig::new(input, WIDENING * input).init(device),
            pixels: LinearConfig::new(WIDENING * input, 3 * SIDE * SIDE).init(device),
        }
    }
}

impl<B: SeedBackend> Sketch<B> {
    /// Embeddings `[batch, count, features]` -> mean squared error of the picture against `pixels`
    /// `[batch, 3, SIDE, SIDE]`.
    pub(super) fn error(&self, embeddings: Tensor<B, 3>, pixels: Tensor<B, 4>) -> Tensor<B, 1> {
        let features = match &self.narrow {
            Some(narrow) => narrow.forward(embeddings),
            None => embeddings,
        };
        let drawn = self.pixels.forward(gelu(self.hidden.forward(features.flatten::<2>(1, 2))));
        super::objective::squared_error(drawn, pixels.flatten::<2>(1, 3))
    }
}
