//! The Q-Former's text branch: token ids [batch, tokens] -> text states [batch, tokens, 768].
//!
//! BERT over words, which shares self-attention and the embeddings' norm with the query branch and has its own feed-forward
//! (arXiv 2301.12597, section 3.1). Text is bidirectional; padding is hidden. Only training needs it, so it is a module
//! beside the Q-Former that inference loads. Differences from the reference: no dropout.

use burn::{
    module::Module,
    nn::{Embedding, EmbeddingConfig, Initializer},
    tensor::{Int, Tensor, backend::Backend},
};
use serde::{Deserialize, Serialize};

use crate::nn::{SeedBackend, attention_to_words};

use super::{BertAttention, HIDDEN, Intermediate, Layer, Output, QFormer, QFormerConfig, linear};

/// Sizes of the text branch that do not follow from the Q-Former's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// Rows of the word embeddings. Official: 30523, BERT's 30522 and `[DEC]`.
    pub vocab: usize,
    /// Most tokens of a text. Official: 512 positions, of which captions use 32.
    pub positions: usize,
}

impl TextConfig {
    /// As released with BLIP-2.
    pub fn released() -> Self {
        Self { vocab: 30_523, positions: 512 }
    }

    /// A randomly initialised branch for a Q-Former of these sizes.
    pub fn init<B: Backend>(&self, qformer: &QFormerConfig, device: &B::Device) -> TextBranch<B> {
        let normal = Initializer::Normal { mean: 0.0, std: 0.02 };
        let embedding = |rows| EmbeddingConfig::new(rows, qformer.width).with_initializer(normal.clone()).init(device);
        let layer = |_| TextLayer {
            intermediate: Intermediate { dense: linear(qformer.width, qformer.hidden, device) },
            output: Output::new(qformer.hidden, qformer.width, device),
        };
        TextBranch {
            embeddings: Words {
                word_embeddings: embedding(self.vocab),
                position_embeddings: embedding(self.positions),
            },
            layer: (0..qformer.depth).map(layer).collect(),
        }
    }
}

/// What the text branch has of its own.
#[derive(Module, Debug)]
pub struct TextBranch<B: Backend> {
    embeddings: Words<B>,
    layer: Vec<TextLayer<B>>,
}

#[derive(Module, Debug)]
struct Words<B: Backend> {
    word_embeddings: Embedding<B>,
    position_embeddings: Embedding<B>,
}

#[derive(Module, Debug)]
struct TextLayer<B: Backend> {
    intermediate: Intermediate<B>,
    output: Output<B>,
}

impl<B: SeedBackend> TextBranch<B> {
    /// Token ids `[batch, tokens]` -> text states `[batch, tokens, width]`; `mask` `[batch, tokens]` is 1 for a token and 0
    /// for padding. `qformer` lends what both branches share.
    pub fn forward(&self, qformer: &QFormer<B>, ids: Tensor<B, 2, Int>, mask: Tensor<B, 2>) -> Tensor<B, 3> {
        let [_, tokens] = ids.dims();
        let positions = self.embeddings.position_embeddings.weight.val().narrow(0, 0, tokens); // [tokens, width]
        let words = self.embeddings.word_embeddings.forward(ids); // [batch, tokens, width]
        let hidden = (mask.neg() + 1.0) * HIDDEN; // [batch, tokens]
        let mut x = qformer.bert.embeddings.layer_norm.forward(words + positions.unsqueeze::<3>());
        for (own, shared) in self.layer.iter().zip(&qformer.bert.encoder.layer) {
            x = own.forward(shared, x, hidden.clone());
        }
        x
    }
}

impl<B: SeedBackend> TextLayer<B> {
    fn forward(&self, shared: &Layer<B>, x: Tensor<B, 3>, hidden: Tensor<B, 2>) -> Tensor<B, 3> {
        let x = shared.attention.forward_to_words(x, hidden);
        self.output.forward(self.intermediate.dense.forward_gelu(x.clone()), x)
    }
}

impl<B: SeedBackend> BertAttention<B> {
    /// Self-attention over words; `hidden` `[batch, tokens]` is added to the scores of each.
    fn forward_to_words(&self, x: Tensor<B, 3>, hidden: Tensor<B, 2>) -> Tensor<B, 3> {
        let query = self.self_.query.forward(x.clone());
        let key = self.self_.key.forward(x.clone());
        let value = self.self_.value.forward(x.clone());
        self.output.forward(attention_to_words(query, key, value, self.heads, hidden), x)
    }
}
