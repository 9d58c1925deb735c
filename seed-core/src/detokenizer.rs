//! Step 5 of 6: decoder states [batch, 32, 768] -> generation embedding [batch, tokens, dim].
//!
//! Pre-norm transformer blocks over the states, then one of three heads (arXiv 2307.08041, section 3.2; arXiv 2310.01218,
//! section 3.2; reference implementation AILab-CVC/SEED at 93b3cf4 and 85352f0) or a fourth that is of this project:
//!
//! | head | of | way | embedding |
//! |---|---|---|---|
//! | [`Head::Mlp`] | SEED-2 as released | per token 768-256-128-32 without bias, ReLU between, flattened, projected | `[batch, 1, 1024]` |
//! | [`Head::Qformer`] | SEED-2 as its training code builds it | reverse Q-Former with one query, projected | `[batch, 1, 1024]` |
//! | [`Head::Text`] | SEED-1 | reverse Q-Former with 77 queries, projected | `[batch, 77, 768]` |
//! | [`Head::Linear`] | models trained here | all states flattened and projected | `[batch, 1, dim]` |
//!
//! A second stack of blocks, the semantic branch, rebuilds the causal embeddings; training and caption retrieval from
//! codes use it, SEED-1 has none.

use burn::{
    module::{Module, Param},
    nn::Initializer,
    tensor::{Tensor, activation::relu, backend::Backend},
};
use serde::{Deserialize, Serialize};

use crate::{
    nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig, SeedBackend, attention, narrow},
    qformer::{QFormer, QFormerConfig},
};

/// Widths of the MLP head's three layers, fixed in every released model.
const MLP_HEAD: [usize; 3] = [256, 128, 32];

/// How the detokenizer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    /// Released SEED-2: per-token layers, flattened and projected.
    Mlp,
    /// As the official SEED-2 training code builds it: a reverse Q-Former with one query.
    Qformer,
    /// SEED-1: a reverse Q-Former with 77 queries.
    Text,
    /// All states flattened and projected, with nothing narrower or without a sign between. No released model has it; in a
    /// small one it reads from the same codes what the MLP head loses.
    Linear,
}

/// Sizes of the detokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetokenizerConfig {
    /// Features of a decoder state.
    pub width: usize,
    /// Blocks in each branch.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Codes of an image.
    pub queries: usize,
    /// Features of the generation embedding.
    pub generation_dim: usize,
    /// How it ends.
    pub head: Head,
    /// The reverse Q-Former of the heads that have one; it reads decoder states.
    pub reverse: QFormerConfig,
    /// Whether there is a semantic branch.
    pub semantic: bool,
}

impl DetokenizerConfig {
    /// SEED-2 as released.
    pub fn released() -> Self {
        Self {
            width: 768,
            depth: 4,
            heads: 12,
            queries: 32,
            generation_dim: 1024,
            head: Head::Mlp,
            reverse: QFormerConfig { source_width: 768, queries: 1, ..QFormerConfig::causal() },
            semantic: true,
        }
    }

    /// A randomly initialised model.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Detokenizer<B> {
        let down = |input, output| LinearConfig::new(input, output).with_bias(false).init(device);
        let proj = |input| LinearConfig::new(input, self.generation_dim).init(device);
        let semantic = self.semantic.then(|| Branch::new(self, device));
        let branch = Branch::new(self, device);
        let head = match self.head {
            Head::Mlp => HeadLayers::Mlp(MlpHead {
                image: branch,
                down1: down(self.width, MLP_HEAD[0]),
                down2: down(MLP_HEAD[0], MLP_HEAD[1]),
                down3: down(MLP_HEAD[1], MLP_HEAD[2]),
                proj: proj(self.queries * MLP_HEAD[2]),
            }),
            Head::Qformer => HeadLayers::Qformer(QformerHead {
                image: branch,
                reverse: self.reverse.init(device),
                proj: proj(self.reverse.width),
            }),
            Head::Text => HeadLayers::Text(TextHead {
                text: branch,
                reverse: self.reverse.init(device),
                text_proj: proj(self.reverse.width),
            }),
            Head::Linear => HeadLayers::Linear(LinearHead { image: branch, proj: proj(self.queries * self.width) }),
        };
        Detokenizer { semantic, head }
    }
}

/// From decoder states to what conditions the diffusion decoder.
#[derive(Module, Debug)]
pub struct Detokenizer<B: Backend> {
    semantic: Option<Branch<B>>,
    head: HeadLayers<B>,
}

/// The layers of a [`Head`].
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // there is one a model
enum HeadLayers<B: Backend> {
    Mlp(MlpHead<B>),
    Qformer(QformerHead<B>),
    Text(TextHead<B>),
    Linear(LinearHead<B>),
}

#[derive(Module, Debug)]
struct MlpHead<B: Backend> {
    image: Branch<B>,
    down1: Linear<B>,
    down2: Linear<B>,
    down3: Linear<B>,
    proj: Linear<B>,
}

#[derive(Module, Debug)]
struct QformerHead<B: Backend> {
    image: Branch<B>,
    reverse: QFormer<B>,
    proj: Linear<B>,
}

#[derive(Module, Debug)]
struct TextHead<B: Backend> {
    text: Branch<B>,
    reverse: QFormer<B>,
    text_proj: Linear<B>,
}

#[derive(Module, Debug)]
struct LinearHead<B: Backend> {
    image: Branch<B>,
    proj: Linear<B>,
}

impl<B: SeedBackend> Detokenizer<B> {
    /// Decoder states `[batch, queries, width]` -> generation embedding `[batch, tokens, generation_dim]`: one token, or
    /// as many as the text head has queries.
    pub fn generation(&self, states: Tensor<B, 3>) -> Tensor<B, 3> {
        match &self.head {
            HeadLayers::Mlp(head) => {
                let x = relu(head.down1.forward(head.image.forward(states)));
                let x = relu(head.down2.forward(x));
                let flat = head.down3.forward(x).flatten::<2>(1, 2); // [batch, queries * 32]
                head.proj.forward(flat).unsqueeze_dim(1)
            }
            HeadLayers::Qformer(head) => head.proj.forward(head.reverse.forward(head.image.forward(states))),
            HeadLayers::Text(head) => head.text_proj.forward(head.reverse.forward(head.text.forward(states))),
            HeadLayers::Linear(head) => {
                let flat = head.image.forward(states).flatten::<2>(1, 2); // [batch, queries * width]
                head.proj.forward(flat).unsqueeze_dim(1)
            }
        }
    }

    /// Decoder states -> reconstructed causal embeddings, both `[batch, queries, width]`; nothing without a semantic
    /// branch.
    pub fn semantic(&self, states: Tensor<B, 3>) -> Option<Tensor<B, 3>> {
        self.semantic.as_ref().map(|branch| branch.forward(states))
    }
}

/// Positions and pre-norm blocks.
#[derive(Module, Debug)]
struct Branch<B: Backend> {
    pos_embed: Param<Tensor<B, 3>>,
    blocks: Vec<Block<B>>,
}

impl<B: Backend> Branch<B> {
    fn new(config: &DetokenizerConfig, device: &B::Device) -> Self {
        let normal = Initializer::Normal { mean: 0.0, std: 0.02 };
        Self {
            pos_embed: normal.init([1, config.queries, config.width], device),
            blocks: (0..config.depth).map(|_| Block::new(config, device)).collect(),
        }
    }
}

impl<B: SeedBackend> Branch<B> {
    fn forward(&self, states: Tensor<B, 3>) -> Tensor<B, 3> {
        let mut x = states + self.pos_embed.val();
        for block in &self.blocks {
            x = block.forward(x);
        }
        x
    }
}

#[derive(Module, Debug)]
struct Block<B: Backend> {
    norm1: LayerNorm<B>,
    attn: Attention<B>,
    norm2: LayerNorm<B>,
    mlp: Mlp<B>,
}

impl<B: Backend> Block<B> {
    fn new(config: &DetokenizerConfig, device: &B::Device) -> Self {
        let width = config.width;
        let norm = || LayerNormConfig::new(width).with_epsilon(1e-6).init(device);
        let linear = |input, output| LinearConfig::new(input, output).init(device);
        Self {
            norm1: norm(),
            attn: Attention { qkv: linear(width, 3 * width), proj: linear(width, width), heads: config.heads },
            norm2: norm(),
            mlp: Mlp { fc1: linear(width, 4 * width), fc2: linear(4 * width, width) },
        }
    }
}

impl<B: SeedBackend> Block<B> {
    fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let x = self.attn.forward(self.norm1.forward(x.clone()), x);
        self.mlp.forward(self.norm2.forward(x.clone()), x)
    }
}

#[derive(Module, Debug)]
struct Attention<B: Backend> {
    qkv: Linear<B>,
    proj: Linear<B>,
    heads: usize,
}

impl<B: SeedBackend> Attention<B> {
    fn forward(&self, x: Tensor<B, 3>, residual: Tensor<B, 3>) -> Tensor<B, 3> {
        let [_, _, width] = x.dims();
        let qkv = self.qkv.forward(x); // [batch, queries, 3 * width]
        let part = |i| narrow(qkv.clone(), i * width, width);
        self.proj.forward_add(attention(part(0), part(1), part(2), self.heads, None), residual)
    }
}

#[derive(Module, Debug)]
struct Mlp<B: Backend> {
    fc1: Linear<B>,
    fc2: Linear<B>,
}

impl<B: SeedBackend> Mlp<B> {
    fn forward(&self, x: Tensor<B, 3>, residual: Tensor<B, 3>) -> Tensor<B, 3> {
        self.fc2.forward_add(self.fc1.forward_gelu(x), residual)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use burn_flex::Flex;

    use super::*;

    /// Without blocks the linear head is one product: of a state's feature it makes that feature's row of the weight, and of
    /// no states what positions and bias make.
    #[test]
    fn the_linear_head_reads_every_feature_of_every_state() {
        let device = Default::default();
        let (queries, width, dim) = (3, 4, 5);
        let released = DetokenizerConfig::released();
        let config = DetokenizerConfig {
            width,
            depth: 0,
            heads: 2,
            queries,
            generation_dim: dim,
            head: Head::Linear,
            ..released
        };
        let detokenizer = config.init::<Flex>(&device);
        let HeadLayers::Linear(head) = &detokenizer.head else { panic!("not the head that was asked for") };
        let weight: Vec<f32> = head.proj.weight.val().into_data().iter().collect(); // [queries * width, dim]

        let made = |states: Vec<f32>| -> Vec<f32> {
            let states = Tensor::from_data(TensorData::new(states, [1, queries, width]), &device);
            let made = detokenizer.generation(states);
            assert_eq!(made.dims(), [1, 1, dim]);
            made.into_data().iter().collect()
        };
        let of_none = made(vec![0.0; queries * width]);
        for feature in 0..queries * width {
            let mut states = vec![0.0; queries * width];
            states[feature] = 1.0;
            let more = made(states).into_iter().zip(&of_none).map(|(with, without)| with - without);
            for (found, expected) in more.zip(&weight[feature * dim..]) {
                assert!((found - expected).abs() < 1e-5, "feature {feature}: {found} where the weight is {expected}");
            }
        }
    }
}
