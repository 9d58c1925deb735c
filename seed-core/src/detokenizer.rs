//! Step 5 of 6: decoder states [batch, 32, 768] -> generation embedding [batch, 1024].
//!
//! Pre-norm transformer blocks over the states (arXiv 2310.01218, section 3.2), then the released SEED-2 head "mlp": per
//! token 768-256-128-32 without bias, ReLU between, flattened to 1024 and projected. A second stack of blocks, the
//! semantic branch, rebuilds the causal embeddings; training and caption retrieval from codes use it.

use burn::{
    module::{Module, Param},
    nn::{Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig},
    tensor::{Tensor, activation::relu, backend::Backend},
};

use crate::nn::{SeedBackend, attention, gelu, merge_heads, split_heads};

/// Widths of the head's three layers, fixed in every released model.
const HEAD: [usize; 3] = [256, 128, 32];

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
}

impl DetokenizerConfig {
    /// SEED-2 as released.
    pub fn released() -> Self {
        Self { width: 768, depth: 4, heads: 12, queries: 32, generation_dim: 1024 }
    }

    /// A randomly initialised model.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Detokenizer<B> {
        let down = |input, output| LinearConfig::new(input, output).with_bias(false).init(device);
        Detokenizer {
            semantic: Branch::new(self, device),
            image: Branch::new(self, device),
            down1: down(self.width, HEAD[0]),
            down2: down(HEAD[0], HEAD[1]),
            down3: down(HEAD[1], HEAD[2]),
            proj: LinearConfig::new(self.queries * HEAD[2], self.generation_dim).init(device),
        }
    }
}

/// From decoder states to what conditions the diffusion decoder.
#[derive(Module, Debug)]
pub struct Detokenizer<B: Backend> {
    semantic: Branch<B>,
    image: Branch<B>,
    down1: Linear<B>,
    down2: Linear<B>,
    down3: Linear<B>,
    proj: Linear<B>,
}

impl<B: SeedBackend> Detokenizer<B> {
    /// Decoder states `[batch, queries, width]` -> generation embedding `[batch, generation_dim]`.
    pub fn generation(&self, states: Tensor<B, 3>) -> Tensor<B, 2> {
        let x = self.image.forward(states);
        let x = relu(self.down1.forward(x));
        let x = relu(self.down2.forward(x));
        self.proj.forward(self.down3.forward(x).flatten::<2>(1, 2))
    }

    /// Decoder states -> reconstructed causal embeddings, both `[batch, queries, width]`.
    pub fn semantic(&self, states: Tensor<B, 3>) -> Tensor<B, 3> {
        self.semantic.forward(states)
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
        let x = x.clone() + self.attn.forward(self.norm1.forward(x));
        x.clone() + self.mlp.forward(self.norm2.forward(x))
    }
}

#[derive(Module, Debug)]
struct Attention<B: Backend> {
    qkv: Linear<B>,
    proj: Linear<B>,
    heads: usize,
}

impl<B: SeedBackend> Attention<B> {
    fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let [_, _, width] = x.dims();
        let qkv = self.qkv.forward(x); // [batch, queries, 3 * width]
        let part = |i| split_heads(qkv.clone().narrow(2, i * width, width), self.heads); // [batch, heads, queries, head_dim]
        let scale = ((width / self.heads) as f64).powf(-0.5);
        self.proj.forward(merge_heads(attention(part(0), part(1), part(2), scale, None)))
    }
}

#[derive(Module, Debug)]
struct Mlp<B: Backend> {
    fc1: Linear<B>,
    fc2: Linear<B>,
}

impl<B: SeedBackend> Mlp<B> {
    fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        self.fc2.forward(gelu(self.fc1.forward(x)))
    }
}
