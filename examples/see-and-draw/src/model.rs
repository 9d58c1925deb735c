//! Token ids and positions `[batch, tokens]` -> logits `[rows, vocabulary]`: a causal transformer, and its adaption to images.
//!
//! Pre-norm blocks as in GPT-2: layer norms, one projection to queries, keys and values, exact GELU. After
//! [`LanguageModel::with_images`] the blocks are fixed and learn through products of low rank beside their linear layers
//! (LoRA, arXiv 2106.09685); the tables of tokens and positions and the output layer, which get the rows of the image tokens,
//! learn as a whole, as in SEED-LLaMA (arXiv 2310.01218, section 3.2).
//!
//! Differences from a released language model: positions are given by whoever makes the sequence, see `sequence`; tables start
//! with a standard deviation of 0.5, because the usual 0.02 drowns in a model of this size; the codes' rows start as rows of the
//! codebook rather than at random, because a short run sees each code in each place a few times only.

use burn::{
    module::{Module, Param},
    nn::{Embedding, EmbeddingConfig, Initializer},
    tensor::{Distribution, Int, Tensor, backend::Backend},
};
use seed_core::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig, SeedBackend, attention, gelu};
use serde::{Deserialize, Serialize};

/// Standard deviation of the initial tables: as loud as what tokens carry.
const TABLE: f64 = 0.5;
/// Standard deviation of the initial output layer.
const HEAD: f64 = 0.02;
/// Added to the scores of what is not to be seen.
const HIDDEN: f64 = -1e9;

/// Sizes of the transformer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelConfig {
    /// Features of a token.
    pub(crate) width: usize,
    /// Blocks.
    pub(crate) depth: usize,
    /// Attention heads.
    pub(crate) heads: usize,
    /// Inner features of a block's MLP.
    pub(crate) hidden: usize,
}

/// Sizes of the adaption to images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoraConfig {
    /// Rank of the products.
    pub(crate) rank: usize,
    /// The products are multiplied by `alpha / rank`.
    pub(crate) alpha: f64,
}

impl ModelConfig {
    /// A randomly initialised model of `vocabulary` tokens and `positions` positions.
    pub(crate) fn init<B: Backend>(&self, vocabulary: usize, positions: usize, device: &B::Device) -> LanguageModel<B> {
        let table = |rows| {
            let normal = Initializer::Normal { mean: 0.0, std: TABLE };
            EmbeddingConfig::new(rows, self.width).with_initializer(normal).init(device)
        };
        let normal = Initializer::Normal { mean: 0.0, std: HEAD };
        LanguageModel {
            tokens: table(vocabulary),
            positions: table(positions),
            blocks: (0..self.depth).map(|_| Block::new(self, device)).collect(),
            norm: LayerNormConfig::new(self.width).init(device),
            head: LinearConfig::new(self.width, vocabulary).with_bias(false).with_initializer(normal).init(device),
        }
    }
}

/// The transformer.
#[derive(Module, Debug)]
pub(crate) struct LanguageModel<B: Backend> {
    tokens: Embedding<B>,
    positions: Embedding<B>,
    blocks: Vec<Block<B>>,
    norm: LayerNorm<B>,
    head: Linear<B>,
}

impl<B: Backend> LanguageModel<B> {
    /// The model with rows for the codes of `codebook` `[codes, dim]`, for two marks and for `positions` positions more, and with
    /// LoRA in place of learning blocks.
    pub(crate) fn with_images(self, codebook: Tensor<B, 2>, positions: usize, lora: &LoraConfig) -> Self {
        let device = self.tokens.weight.device();
        let [_, width] = self.tokens.weight.dims();
        let normal = |rows| Tensor::random([rows, width], Distribution::Normal(0.0, 1.0), &device);
        let images = Tensor::cat(vec![spread(codebook, width), normal(2)], 0); // [codes + 2, width]
        let below = |table: Tensor<B, 2>, rows: Tensor<B, 2>| Tensor::cat(vec![table, rows], 0).detach();
        let tokens = below(self.tokens.weight.val(), images.clone() * TABLE);
        let positions = below(self.positions.weight.val(), normal(positions) * TABLE);
        let head = below(self.head.weight.val().transpose(), images * HEAD).transpose(); // [width, vocabulary]
        Self {
            tokens: Embedding { weight: Param::from_tensor(tokens) },
            positions: Embedding { weight: Param::from_tensor(positions) },
            blocks: self.blocks.into_iter().map(|block| block.adapted(lora, &device)).collect(),
            norm: self.norm.no_grad(),
            head: Linear { weight: Param::from_tensor(head), bias: None },
        }
    }
}

/// Rows of a codebook `[codes, dim]` in random directions of a space of `width`, of unit variance: near codes stay near.
fn spread<B: Backend>(codebook: Tensor<B, 2>, width: usize) -> Tensor<B, 2> {
    let [_, dim] = codebook.dims();
    let device = codebook.device();
    let centred = codebook.clone() - codebook.mean_dim(0);
    let deviation = centred.clone().powi_scalar(2).mean().sqrt().unsqueeze();
    let directions = Distribution::Normal(0.0, (dim as f64).powf(-0.5));
    (centred / deviation).matmul(Tensor::random([dim, width], directions, &device))
}

impl<B: SeedBackend> LanguageModel<B> {
    /// The tokens' last features `[batch * tokens, width]`, normalized.
    pub(crate) fn forward(&self, ids: Tensor<B, 2, Int>, positions: Tensor<B, 2, Int>) -> Tensor<B, 2> {
        let [batch, tokens] = ids.dims();
        let mask = Tensor::full([tokens, tokens], HIDDEN, &ids.device()).triu(1);
        let x = self.tokens.forward(ids) + self.positions.forward(positions); // [batch, tokens, width]
        let mut x = x.flatten::<2>(0, 1); // [batch * tokens, width]
        for block in &self.blocks {
            x = block.forward(x, [batch, tokens], mask.clone());
        }
        self.norm.forward(x)
    }

    /// Features `[rows, width]` -> logits of the next token `[rows, vocabulary]`.
    pub(crate) fn logits(&self, features: Tensor<B, 2>) -> Tensor<B, 2> {
        self.head.forward(features)
    }
}

/// Attention to the tokens before, and an MLP.
#[derive(Module, Debug)]
struct Block<B: Backend> {
    norm1: LayerNorm<B>,
    qkv: Adapted<B>,
    proj: Adapted<B>,
    norm2: LayerNorm<B>,
    fc1: Adapted<B>,
    fc2: Adapted<B>,
    heads: usize,
}

impl<B: Backend> Block<B> {
    fn new(config: &ModelConfig, device: &B::Device) -> Self {
        let &ModelConfig { width, heads, hidden, .. } = config;
        let linear = |input, output| Adapted { base: LinearConfig::new(input, output).init(device), lora: None };
        Self {
            norm1: LayerNormConfig::new(width).init(device),
            qkv: linear(width, 3 * width),
            proj: linear(width, width),
            norm2: LayerNormConfig::new(width).init(device),
            fc1: linear(width, hidden),
            fc2: linear(hidden, width),
            heads,
        }
    }

    fn adapted(self, lora: &LoraConfig, device: &B::Device) -> Self {
        Self {
            norm1: self.norm1.no_grad(),
            qkv: self.qkv.adapted(lora, device),
            proj: self.proj.adapted(lora, device),
            norm2: self.norm2.no_grad(),
            fc1: self.fc1.adapted(lora, device),
            fc2: self.fc2.adapted(lora, device),
            heads: self.heads,
        }
    }
}

impl<B: SeedBackend> Block<B> {
    fn forward(&self, x: Tensor<B, 2>, [batch, tokens]: [usize; 2], mask: Tensor<B, 2>) -> Tensor<B, 2> {
        let [rows, width] = x.dims();
        let qkv = self.qkv.forward(self.norm1.forward(x.clone())); // [batch * tokens, 3 * width]
        let part = |i| qkv.clone().narrow(1, i * width, width).reshape([batch, tokens, width]);
        let seen = attention(part(0), part(1), part(2), self.heads, Some(mask)).reshape([rows, width]);
        let x = x + self.proj.forward(seen);
        let inner = gelu(self.fc1.forward(self.norm2.forward(x.clone()))); // [batch * tokens, hidden]
        x + self.fc2.forward(inner)
    }
}

/// A linear layer, and beside it, once it is adapted, `x A B * scale`.
#[derive(Module, Debug)]
struct Adapted<B: Backend> {
    base: Linear<B>,
    lora: Option<Lora<B>>,
}

/// A product of low rank; `up` starts at zero, so that the model starts as it was.
#[derive(Module, Debug)]
struct Lora<B: Backend> {
    down: Linear<B>,
    up: Linear<B>,
    scale: f64,
}

impl<B: Backend> Adapted<B> {
    fn adapted(self, config: &LoraConfig, device: &B::Device) -> Self {
        let [input, output] = self.base.weight.val().dims();
        let layer = |input, output| LinearConfig::new(input, output).with_bias(false);
        let lora = Lora {
            down: layer(input, config.rank).init(device),
            up: layer(config.rank, output).with_initializer(Initializer::Zeros).init(device),
            scale: config.alpha / config.rank as f64,
        };
        Self { base: self.base.no_grad(), lora: Some(lora) }
    }
}

impl<B: SeedBackend> Adapted<B> {
    fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let Some(Lora { down, up, scale }) = &self.lora else { return self.base.forward(x) };
        let narrow = down.forward(x.clone()) * *scale; // [rows, rank]
        up.forward_add(narrow, self.base.forward(x))
    }
}
