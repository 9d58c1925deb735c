//! Captions and images in one space: a text tower and the projections that contrast aligns with it.
//!
//! Three embeddings of one width, all of unit length: of a caption, of an image (from the patch features) and of a last
//! causal embedding. The image embedding, scaled to unit variance, is what the generation embedding learns to equal; the
//! causal one is what caption retrieval from codes compares. The released models take their counterparts from CLIP and
//! from the Q-Former's text branch; a model trained from scratch brings its own.

use burn::{
    module::Module,
    nn::{Embedding, EmbeddingConfig, Initializer},
    tensor::{Int, Tensor, TensorData, backend::Backend},
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig, SeedBackend, attention, narrow},
};

/// Mixtures of a patch token's features that the image embedding is made of.
const NARROW: usize = 8;

/// Sizes of the text tower and of the projections, and the words that captions may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContrastConfig {
    /// Features of the common space.
    pub embed_dim: usize,
    /// Features of a word.
    pub text_width: usize,
    /// Blocks of the text tower.
    pub text_depth: usize,
    /// Attention heads of the text tower.
    pub text_heads: usize,
    /// Most words of a caption; shorter ones are padded.
    pub context: usize,
    /// Whether every patch has features of its own in the image embedding, `embed_dim / patches` of them one patch after the
    /// other, rather than all patches being mixed in every feature.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
    /// The words that captions may use; word `i` has the id `i + 1`, padding is 0.
    pub words: Vec<String>,
}

impl ContrastConfig {
    /// A randomly initialised model over `vit_tokens` features of `vit_width` (the class token's first) and causal
    /// embeddings of `qformer_width`.
    pub fn init<B: Backend>(
        &self,
        [vit_tokens, vit_width]: [usize; 2],
        qformer_width: usize,
        device: &B::Device,
    ) -> Contrast<B> {
        let width = self.text_width;
        let normal = Initializer::Normal { mean: 0.0, std: 0.02 };
        let embedding = |rows| EmbeddingConfig::new(rows, width).with_initializer(normal.clone()).init(device);
        let norm = |width| LayerNormConfig::new(width).init(device);
        let narrow = if self.local { self.embed_dim / (vit_tokens - 1) } else { NARROW };
        Contrast {
            image_norm: norm(vit_width),
            image_narrow: LinearConfig::new(vit_width, narrow).init(device),
            image_proj: (!self.local).then(|| LinearConfig::new(vit_tokens * NARROW, self.embed_dim).init(device)),
            causal_proj: LinearConfig::new(qformer_width, self.embed_dim).init(device),
            word_embeddings: embedding(self.words.len() + 1),
            position_embeddings: embedding(self.context),
            blocks: (0..self.text_depth).map(|_| Block::new(width, self.text_heads, device)).collect(),
            text_norm: norm(width),
            text_proj: LinearConfig::new(width, self.embed_dim).init(device),
        }
    }

    /// Refuses sizes that no model over `vit_tokens` features can have.
    ///
    /// # Errors
    /// [`Error::Config`] naming `file` and the field.
    pub fn validate(&self, file: &str, vit_tokens: usize) -> Result<()> {
        let fail = |reason: String| Err(Error::Config { file: file.to_owned(), reason: format!("contrast.{reason}") });
        if self.embed_dim == 0 || self.text_width == 0 || self.context == 0 {
            return fail("embed_dim, text_width and context must not be 0".to_owned());
        }
        let patches = vit_tokens - 1;
        if self.local && !self.embed_dim.is_multiple_of(patches) {
            return fail(format!(
                "embed_dim = {} is no multiple of the {patches} patches, as local wants",
                self.embed_dim
            ));
        }
        if self.text_heads == 0 || !self.text_width.is_multiple_of(self.text_heads) {
            return fail(format!(
                "text_width = {} is no multiple of text_heads = {}",
                self.text_width, self.text_heads
            ));
        }
        Ok(())
    }

    /// The words of a caption.
    pub fn split(caption: &str) -> impl Iterator<Item = String> {
        caption.split_whitespace().map(|word| word.trim_end_matches([',', '.']).to_lowercase())
    }

    /// Captions -> word ids, `[captions * context]`, padded with 0.
    ///
    /// # Errors
    /// [`Error::Argument`] for a word that the model does not know and for a caption that is too long.
    pub fn ids(&self, captions: &[String]) -> Result<Vec<i32>> {
        let fail = |caption: &str, reason| Error::Argument { name: "caption", value: caption.to_owned(), reason };
        let mut ids = Vec::with_capacity(captions.len() * self.context);
        for caption in captions {
            let start = ids.len();
            for word in Self::split(caption) {
                let id = self.words.iter().position(|w| *w == word).ok_or_else(|| {
                    fail(caption, format!("{word:?} is not among the {} words of this model", self.words.len()))
                })?;
                ids.push(id as i32 + 1);
            }
            let count = ids.len() - start;
            if count > self.context {
                return Err(fail(caption, format!("it has {count} words, the model reads {}", self.context)));
            }
            ids.resize(start + self.context, 0);
        }
        Ok(ids)
    }
}

/// The text tower and the projections.
#[derive(Module, Debug)]
pub struct Contrast<B: Backend> {
    image_norm: LayerNorm<B>,
    image_narrow: Linear<B>,
    image_proj: Option<Linear<B>>,
    causal_proj: Linear<B>,
    word_embeddings: Embedding<B>,
    position_embeddings: Embedding<B>,
    blocks: Vec<Block<B>>,
    text_norm: LayerNorm<B>,
    text_proj: Linear<B>,
}

impl<B: SeedBackend> Contrast<B> {
    /// Patch features `[batch, 1 + patches, vit_width]` -> image embeddings `[batch, embed_dim]` of unit length. A few mixtures
    /// of every token's features, each token in its own place: a mean over tokens would leave it to the transformer to say
    /// within one token's features what lies where.
    pub fn image(&self, features: Tensor<B, 3>) -> Tensor<B, 2> {
        let normed = self.image_norm.forward(features); // [batch, 1 + patches, vit_width]
        let mixtures = self.image_narrow.forward(normed); // [batch, 1 + patches, a few]
        unit(match &self.image_proj {
            Some(proj) => proj.forward(mixtures.flatten::<2>(1, 2)),
            None => {
                let [_, tokens, _] = mixtures.dims();
                mixtures.narrow(1, 1, tokens - 1).flatten::<2>(1, 2) // the class token has no place
            }
        })
    }

    /// Causal embeddings `[batch, queries, qformer_width]` -> embeddings of the last one `[batch, embed_dim]`, of unit
    /// length.
    pub fn causal(&self, causal: Tensor<B, 3>) -> Tensor<B, 2> {
        let [batch, queries, width] = causal.dims();
        unit(self.causal_proj.forward(causal.narrow(1, queries - 1, 1).reshape([batch, width])))
    }

    /// Word ids `[batch, context]` -> caption embeddings `[batch, embed_dim]`, of unit length.
    pub fn text(&self, ids: Tensor<B, 2, Int>) -> Tensor<B, 2> {
        let [batch, context] = ids.dims();
        let positions = self.position_embeddings.weight.val().unsqueeze::<3>(); // [1, context, text_width]
        let mut x = self.word_embeddings.forward(ids) + positions; // [batch, context, text_width]
        for block in &self.blocks {
            x = block.forward(x);
        }
        let [_, _, width] = x.dims();
        debug_assert_eq!(x.dims(), [batch, context, width]);
        unit(self.text_proj.forward(self.text_norm.forward(x).mean_dim(1).reshape([batch, width])))
    }

    /// Captions -> embeddings `[captions, embed_dim]`, of unit length.
    ///
    /// # Errors
    /// As [`ContrastConfig::ids`].
    pub fn captions(&self, config: &ContrastConfig, captions: &[String], device: &B::Device) -> Result<Tensor<B, 2>> {
        let ids = TensorData::new(config.ids(captions)?, [captions.len(), config.context]);
        Ok(self.text(Tensor::from_data(ids, device)))
    }
}

/// Unit-length image embedding `[batch, embed_dim]` -> generation target of unit variance.
pub fn generation_target<B: Backend>(image: Tensor<B, 2>) -> Tensor<B, 2> {
    let [_, dim] = image.dims();
    image * (dim as f64).sqrt()
}

/// Divides each row by its length.
pub fn unit<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    let length = x.clone().powi_scalar(2).sum_dim(1).add_scalar(1e-12).sqrt();
    x / length
}

/// A pre-norm transformer block, bidirectional; padding is a word like any other.
#[derive(Module, Debug)]
struct Block<B: Backend> {
    norm1: LayerNorm<B>,
    qkv: Linear<B>,
    proj: Linear<B>,
    norm2: LayerNorm<B>,
    fc1: Linear<B>,
    fc2: Linear<B>,
    heads: usize,
}

impl<B: Backend> Block<B> {
    fn new(width: usize, heads: usize, device: &B::Device) -> Self {
        let norm = || LayerNormConfig::new(width).init(device);
        let linear = |input, output| LinearConfig::new(input, output).init(device);
        Self {
            norm1: norm(),
            qkv: linear(width, 3 * width),
            proj: linear(width, width),
            norm2: norm(),
            fc1: linear(width, 4 * width),
            fc2: linear(4 * width, width),
            heads,
        }
    }
}

impl<B: SeedBackend> Block<B> {
    fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let [_, _, width] = x.dims();
        let qkv = self.qkv.forward(self.norm1.forward(x.clone())); // [batch, context, 3 * width]
        let part = |i| narrow(qkv.clone(), i * width, width);
        let x = self.proj.forward_add(attention(part(0), part(1), part(2), self.heads, None), x);
        self.fc2.forward_add(self.fc1.forward_gelu(self.norm2.forward(x.clone())), x)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;
    use burn_flex::Flex;

    use super::*;

    /// Of two patches with three features each.
    fn local(embed_dim: usize) -> ContrastConfig {
        let words = vec!["a".to_owned()];
        ContrastConfig { embed_dim, text_width: 4, text_depth: 1, text_heads: 1, context: 2, local: true, words }
    }

    #[test]
    fn local_features_are_those_of_their_patch() {
        let device = Default::default();
        let contrast = local(6).init::<Flex>([3, 5], 8, &device);
        let random = |tokens| Tensor::<Flex, 3>::random([1, tokens, 5], Distribution::Normal(0.0, 1.0), &device);
        let (class, first, second) = (random(1), random(1), random(1));
        let image = |class: &Tensor<Flex, 3>, second: &Tensor<Flex, 3>| {
            let embedding = contrast.image(Tensor::cat(vec![class.clone(), first.clone(), second.clone()], 1));
            embedding.into_data().to_vec::<f32>().unwrap()
        };
        let before = image(&class, &second);
        assert_eq!(before.len(), 6);
        assert_eq!(image(&random(1), &second), before, "the class token has no place");
        let after = image(&class, &random(1));
        let directions = |embedding: &[f32]| [embedding[1] / embedding[0], embedding[2] / embedding[0]];
        for (found, wanted) in directions(&after).iter().zip(directions(&before)) {
            assert!((found - wanted).abs() < 1e-4 * wanted.abs().max(1.0), "{after:?} and {before:?}");
        }
        assert!((after[4] / after[3] - before[4] / before[3]).abs() > 1e-3);
    }

    #[test]
    fn local_wants_as_many_features_for_each_patch() {
        assert!(local(6).validate("config.json", 3).is_ok());
        let error = local(7).validate("config.json", 3).unwrap_err().to_string();
        assert!(error.contains("contrast.embed_dim = 7 is no multiple of the 2 patches"), "{error}");
    }
}
