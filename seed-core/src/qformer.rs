//! Step 3 of 6: patch features [batch, 257, 1408] -> causal embeddings [batch, 32, 768].
//!
//! The Q-Former of BLIP-2 (arXiv 2301.12597): a post-norm BERT over learned queries that reads the image through
//! cross-attention in every second layer. SEED (arXiv 2307.08041, section 3.1) hides later queries from earlier ones, so
//! that the embeddings, and then the codes, read left to right. Differences from the reference: no dropout; the text
//! branch, which only training with the official objective uses, is left out.

use burn::{
    module::{Module, Param},
    nn::Initializer,
    tensor::{Tensor, backend::Backend},
};

use crate::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig, SeedBackend, attention};

/// Added to the score of a hidden query, as in BERT.
const HIDDEN: f64 = -10_000.0;

/// Sizes of a Q-Former.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QFormerConfig {
    /// Features of a query.
    pub width: usize,
    /// Number of layers.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Inner features of the MLP.
    pub hidden: usize,
    /// Features of what the queries read.
    pub source_width: usize,
    /// Layers `0, n, 2n ...` carry cross-attention.
    pub cross_attention_every: usize,
    /// Learned queries.
    pub queries: usize,
}

impl QFormerConfig {
    /// The causal Q-Former as released.
    pub fn causal() -> Self {
        Self {
            width: 768,
            depth: 12,
            heads: 12,
            hidden: 3072,
            source_width: 1408,
            cross_attention_every: 2,
            queries: 32,
        }
    }

    /// A randomly initialised model.
    pub fn init<B: Backend>(&self, device: &B::Device) -> QFormer<B> {
        let layer = (0..self.depth).map(|i| Layer::new(self, i % self.cross_attention_every == 0, device)).collect();
        QFormer {
            query_tokens: Initializer::Normal { mean: 0.0, std: 0.02 }.init([1, self.queries, self.width], device),
            bert: Bert {
                embeddings: Embeddings { layer_norm: layer_norm(self.width, device) },
                encoder: Encoder { layer },
            },
        }
    }
}

/// Learned queries that read a source of tokens.
#[derive(Module, Debug)]
pub struct QFormer<B: Backend> {
    query_tokens: Param<Tensor<B, 3>>,
    bert: Bert<B>,
}

#[derive(Module, Debug)]
struct Bert<B: Backend> {
    embeddings: Embeddings<B>,
    encoder: Encoder<B>,
}

#[derive(Module, Debug)]
struct Embeddings<B: Backend> {
    layer_norm: LayerNorm<B>,
}

#[derive(Module, Debug)]
struct Encoder<B: Backend> {
    layer: Vec<Layer<B>>,
}

impl<B: Backend> QFormer<B> {
    /// Number of queries.
    pub fn queries(&self) -> usize {
        self.query_tokens.dims()[1]
    }

    /// For training from scratch: queries that begin as `tokens` `[queries, source_width]` and read the source's tokens that
    /// resemble them, because the projections of queries in cross-attention begin as those of keys times `sharpness`. A
    /// source of another width than the queries leaves everything as it is.
    pub fn reading(mut self, tokens: Tensor<B, 2>, sharpness: f32) -> Self {
        let [_, queries, width] = self.query_tokens.dims();
        if tokens.dims() != [queries, width] {
            return self;
        }
        let begin = |value: Tensor<B, 2>| value.detach().require_grad();
        let spread = tokens.clone().powi_scalar(2).mean().sqrt().unsqueeze::<2>().add_scalar(1e-6);
        let tokens = (tokens / spread).unsqueeze::<3>().detach().require_grad(); // [1, queries, width]
        self.query_tokens = Param::initialized(self.query_tokens.id, tokens);
        for cross in self.bert.encoder.layer.iter_mut().filter_map(|layer| layer.crossattention.as_mut()) {
            let Projections { query, key, .. } = &mut cross.self_;
            query.weight = Param::initialized(query.weight.id, begin(key.weight.val() * sharpness));
        }
        self
    }
}

impl<B: SeedBackend> QFormer<B> {
    /// Source tokens `[batch, tokens, source_width]` -> query states `[batch, queries, width]`, in which a query sees
    /// itself and the queries before it.
    pub fn forward_causal(&self, source: Tensor<B, 3>) -> Tensor<B, 3> {
        let [_, queries, _] = self.query_tokens.dims();
        let visible = Tensor::<B, 2>::ones([queries, queries], &source.device()).triu(1); // [queries, queries]
        self.run(source, Some(visible * HIDDEN))
    }

    /// Source tokens `[batch, tokens, source_width]` -> query states `[batch, queries, width]`, in which a query sees all
    /// others: the reverse Q-Former.
    pub fn forward(&self, source: Tensor<B, 3>) -> Tensor<B, 3> {
        self.run(source, None)
    }

    fn run(&self, source: Tensor<B, 3>, mask: Option<Tensor<B, 2>>) -> Tensor<B, 3> {
        let [batch, ..] = source.dims();
        let mut x = self.bert.embeddings.layer_norm.forward(self.query_tokens.val()); // [1, queries, width]
        for layer in &self.bert.encoder.layer {
            x = layer.attend(x, mask.clone());
            if x.dims()[0] != batch {
                x = x.repeat_dim(0, batch); // until the queries have read an image, they are the same for all
            }
            x = layer.read(x, &source);
        }
        x
    }
}

#[derive(Module, Debug)]
struct Layer<B: Backend> {
    attention: BertAttention<B>,
    crossattention: Option<BertAttention<B>>,
    intermediate_query: Intermediate<B>,
    output_query: Output<B>,
}

impl<B: Backend> Layer<B> {
    fn new(config: &QFormerConfig, cross: bool, device: &B::Device) -> Self {
        Self {
            attention: BertAttention::new(config, config.width, device),
            crossattention: cross.then(|| BertAttention::new(config, config.source_width, device)),
            intermediate_query: Intermediate { dense: linear(config.width, config.hidden, device) },
            output_query: Output::new(config.hidden, config.width, device),
        }
    }
}

impl<B: SeedBackend> Layer<B> {
    /// The first part: queries attend to one another.
    fn attend(&self, x: Tensor<B, 3>, mask: Option<Tensor<B, 2>>) -> Tensor<B, 3> {
        self.attention.forward(x.clone(), x, mask)
    }

    /// The rest: they read the source in some layers, and then each is for itself.
    fn read(&self, mut x: Tensor<B, 3>, source: &Tensor<B, 3>) -> Tensor<B, 3> {
        if let Some(cross) = &self.crossattention {
            x = cross.forward(x, source.clone(), None);
        }
        self.output_query.forward(self.intermediate_query.dense.forward_gelu(x.clone()), x)
    }
}

/// Attention with BERT's tree of names: `self` holds the projections, `output` the residual.
#[derive(Module, Debug)]
struct BertAttention<B: Backend> {
    self_: Projections<B>,
    output: Output<B>,
    heads: usize,
}

#[derive(Module, Debug)]
struct Projections<B: Backend> {
    query: Linear<B>,
    key: Linear<B>,
    value: Linear<B>,
}

impl<B: Backend> BertAttention<B> {
    fn new(config: &QFormerConfig, source_width: usize, device: &B::Device) -> Self {
        let width = config.width;
        let self_ = Projections {
            query: linear(width, width, device),
            key: linear(source_width, width, device),
            value: linear(source_width, width, device),
        };
        Self { self_, output: Output::new(width, width, device), heads: config.heads }
    }
}

impl<B: SeedBackend> BertAttention<B> {
    fn forward(&self, x: Tensor<B, 3>, source: Tensor<B, 3>, mask: Option<Tensor<B, 2>>) -> Tensor<B, 3> {
        let query = self.self_.query.forward(x.clone());
        let key = self.self_.key.forward(source.clone());
        let value = self.self_.value.forward(source);
        self.output.forward(attention(query, key, value, self.heads, mask), x)
    }
}

#[derive(Module, Debug)]
struct Intermediate<B: Backend> {
    dense: Linear<B>,
}

#[derive(Module, Debug)]
struct Output<B: Backend> {
    dense: Linear<B>,
    layer_norm: LayerNorm<B>,
}

impl<B: Backend> Output<B> {
    fn new(inner: usize, width: usize, device: &B::Device) -> Self {
        Self { dense: linear(inner, width, device), layer_norm: layer_norm(width, device) }
    }
}

impl<B: SeedBackend> Output<B> {
    /// Post-norm residual: `LayerNorm(dense(x) + residual)`.
    fn forward(&self, x: Tensor<B, 3>, residual: Tensor<B, 3>) -> Tensor<B, 3> {
        self.layer_norm.forward(self.dense.forward_add(x, residual))
    }
}

fn layer_norm<B: Backend>(width: usize, device: &B::Device) -> LayerNorm<B> {
    LayerNormConfig::new(width).with_epsilon(1e-12).init(device)
}

fn linear<B: Backend>(input: usize, output: usize, device: &B::Device) -> Linear<B> {
    let initializer = Initializer::KaimingUniform { gain: 1.0 / 3f64.sqrt(), fan_out_only: false };
    LinearConfig::new(input, output).with_initializer(initializer).init(device)
}
