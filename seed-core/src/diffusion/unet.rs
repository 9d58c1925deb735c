//! The denoiser: latents `[batch, 4, height, width]`, time, context and class vector -> prediction of the same shape.
//!
//! Source: diffusers 0.20.2, `UNet2DConditionModel`. Only what the two released decoders use is here: plain and
//! cross-attention levels, one transformer block a layer, SiLU, class embedding "projection" or none; a configuration
//! that asks for anything else is refused when it is read. Computation is in the backend's float type, so
//! `upcast_attention` changes nothing in float32.

use burn::module::Module;
use burn::nn::{GroupNorm, conv::Conv2d};
use burn::tensor::{Tensor, backend::Backend};
use serde::{Deserialize, Serialize};

pub use super::blocks::TimeScaleShift;
use super::blocks::{conv_3x3, norm_layer, sinusoidal_embedding};
use super::unet_blocks::{DownBlock, LevelSizes, MidBlock, UpBlock, UpChannels};
use crate::nn::{Linear, LinearConfig, SeedBackend, conv2d, group_norm_silu, silu};

/// Sizes of a [`UNet`], named as in diffusers' `unet/config.json`. `serde_json` writes a file that diffusers reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "_class_name", rename = "UNet2DConditionModel")]
pub struct UNetConfig {
    /// Height and width of the latents that it was trained on.
    pub sample_size: usize,
    /// Channels of the latents.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Kinds of the levels on the way down.
    pub down_block_types: Vec<DownBlockType>,
    /// Kinds of the levels on the way up.
    pub up_block_types: Vec<UpBlockType>,
    /// Channels of each level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a level on the way down; one more on the way up.
    pub layers_per_block: usize,
    /// Number of attention heads of each level, despite the name.
    #[serde(default = "default_heads")]
    pub attention_head_dim: Heads,
    /// Features of the context.
    pub cross_attention_dim: usize,
    /// Whether transformers are entered by linear layers rather than 1 x 1 convolutions.
    #[serde(default)]
    pub use_linear_projection: bool,
    /// How a class vector enters; `None` for a network without one.
    #[serde(default)]
    pub class_embed_type: Option<ClassEmbedding>,
    /// Features of the class vector.
    #[serde(default)]
    pub projection_class_embeddings_input_dim: Option<usize>,
    /// Groups of the group normalizations.
    #[serde(default = "default_groups")]
    pub norm_num_groups: usize,
    /// Epsilon of the group normalizations outside of transformers.
    #[serde(default = "default_eps")]
    pub norm_eps: f64,
    /// How time and class enter the residual blocks.
    #[serde(default)]
    pub resnet_time_scale_shift: TimeScaleShift,
}

/// A level on the way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlockType {
    /// Residual blocks only.
    DownBlock2D,
    /// Each residual block is followed by a transformer.
    CrossAttnDownBlock2D,
}

/// A level on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlockType {
    /// Residual blocks only.
    UpBlock2D,
    /// Each residual block is followed by a transformer.
    CrossAttnUpBlock2D,
}

/// How a class vector enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassEmbedding {
    /// Two linear layers, added to the time embedding.
    Projection,
}

/// Attention heads, one number for all levels or one for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Heads {
    /// The same number on every level.
    Every(usize),
    /// One number a level.
    Each(Vec<usize>),
}

impl Heads {
    /// Heads of a level, counted from the top.
    pub fn of(&self, level: usize) -> usize {
        match self {
            Self::Every(heads) => *heads,
            Self::Each(heads) => heads[level],
        }
    }
}

fn default_heads() -> Heads {
    Heads::Every(8)
}

fn default_groups() -> usize {
    32
}

fn default_eps() -> f64 {
    1e-5
}

impl UNetConfig {
    /// stable-diffusion-2-1-unclip, H variant: the decoder of SEED-2 at 768 x 768 pixels.
    pub fn unclip_768() -> Self {
        use DownBlockType::{CrossAttnDownBlock2D, DownBlock2D};
        use UpBlockType::{CrossAttnUpBlock2D, UpBlock2D};
        Self {
            sample_size: 96,
            in_channels: 4,
            out_channels: 4,
            down_block_types: vec![CrossAttnDownBlock2D, CrossAttnDownBlock2D, CrossAttnDownBlock2D, DownBlock2D],
            up_block_types: vec![UpBlock2D, CrossAttnUpBlock2D, CrossAttnUpBlock2D, CrossAttnUpBlock2D],
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: 2,
            attention_head_dim: Heads::Each(vec![5, 10, 20, 20]),
            cross_attention_dim: 1024,
            use_linear_projection: true,
            class_embed_type: Some(ClassEmbedding::Projection),
            projection_class_embeddings_input_dim: Some(2048),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            resnet_time_scale_shift: TimeScaleShift::Default,
        }
    }

    /// What makes the sizes impossible, in words; every network that [`init`](Self::init) is asked for must pass.
    ///
    /// # Errors
    /// The field and the reason.
    pub fn check(&self) -> Result<(), String> {
        let levels = self.block_out_channels.len();
        if levels == 0 || self.layers_per_block == 0 || self.norm_num_groups == 0 {
            return Err("block_out_channels, layers_per_block and norm_num_groups must not be empty or 0".into());
        }
        for (name, found) in
            [("down_block_types", self.down_block_types.len()), ("up_block_types", self.up_block_types.len())]
        {
            if found != levels {
                return Err(format!("{name} has {found} entries where block_out_channels has {levels}"));
            }
        }
        if let Heads::Each(heads) = &self.attention_head_dim
            && heads.len() != levels
        {
            return Err(format!(
                "attention_head_dim has {} entries where block_out_channels has {levels}",
                heads.len()
            ));
        }
        for (level, &channels) in self.block_out_channels.iter().enumerate() {
            let (groups, heads) = (self.norm_num_groups, self.attention_head_dim.of(level));
            if channels == 0 || channels % groups != 0 {
                return Err(format!("block_out_channels has {channels}, no multiple of norm_num_groups = {groups}"));
            }
            if heads == 0 || channels % heads != 0 {
                return Err(format!("block_out_channels has {channels}, no multiple of its {heads} attention heads"));
            }
        }
        if !self.block_out_channels[0].is_multiple_of(2) {
            return Err("block_out_channels must begin with an even number".into());
        }
        if self.class_embed_type.is_some() != self.projection_class_embeddings_input_dim.is_some() {
            return Err("class_embed_type and projection_class_embeddings_input_dim must be given together".into());
        }
        Ok(())
    }

    /// A network with random weights. Panics if [`check`](Self::check) finds the sizes impossible.
    pub fn init<B: SeedBackend>(&self, device: &B::Device) -> UNet<B> {
        if let Err(reason) = self.check() {
            panic!("impossible UNet: {reason}");
        }
        let channels = &self.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let time_dim = 4 * first;
        UNet {
            conv_in: conv_3x3([self.in_channels, first], device),
            time_embedding: VectorEmbedding::new(first, time_dim, device),
            class_embedding: self
                .projection_class_embeddings_input_dim
                .map(|dim| VectorEmbedding::new(dim, time_dim, device)),
            down_blocks: self.down_blocks(device),
            mid_block: MidBlock::new(last, &self.level(channels.len() - 1, true), device),
            up_blocks: self.up_blocks(device),
            conv_norm_out: norm_layer(self.norm_num_groups, first, self.norm_eps, device),
            conv_out: conv_3x3([first, self.out_channels], device),
            time_features: first,
        }
    }

    fn level(&self, level: usize, attention: bool) -> LevelSizes {
        LevelSizes {
            time: (4 * self.block_out_channels[0], self.resnet_time_scale_shift),
            groups: self.norm_num_groups,
            eps: self.norm_eps,
            context_dim: self.cross_attention_dim,
            linear_projection: self.use_linear_projection,
            heads: attention.then(|| self.attention_head_dim.of(level)),
        }
    }

    fn down_blocks<B: SeedBackend>(&self, device: &B::Device) -> Vec<DownBlock<B>> {
        let channels = &self.block_out_channels;
        let block = |level: usize| {
            let input = channels[level.saturating_sub(1)];
            let attention = self.down_block_types[level] == DownBlockType::CrossAttnDownBlock2D;
            let (layers, downsample) = (self.layers_per_block, level + 1 < channels.len());
            DownBlock::new([input, channels[level]], layers, downsample, &self.level(level, attention), device)
        };
        (0..channels.len()).map(block).collect()
    }

    /// From the lowest level to the top, as the checkpoint counts them.
    fn up_blocks<B: SeedBackend>(&self, device: &B::Device) -> Vec<UpBlock<B>> {
        let channels = &self.block_out_channels;
        let levels = channels.len();
        let block = |index: usize| {
            let level = levels - 1 - index;
            let sizes = UpChannels {
                below: channels[(level + 1).min(levels - 1)],
                output: channels[level],
                last_skip: channels[level.saturating_sub(1)],
            };
            let attention = self.up_block_types[index] == UpBlockType::CrossAttnUpBlock2D;
            UpBlock::new(sizes, self.layers_per_block + 1, level > 0, &self.level(level, attention), device)
        };
        (0..levels).map(block).collect()
    }
}

/// The denoising network.
#[derive(Module, Debug)]
pub struct UNet<B: Backend> {
    conv_in: Conv2d<B>,
    time_embedding: VectorEmbedding<B>,
    class_embedding: Option<VectorEmbedding<B>>,
    down_blocks: Vec<DownBlock<B>>,
    mid_block: MidBlock<B>,
    up_blocks: Vec<UpBlock<B>>,
    conv_norm_out: GroupNorm<B>,
    conv_out: Conv2d<B>,
    time_features: usize,
}

impl<B: SeedBackend> UNet<B> {
    /// Predicts noise or velocity, whichever it was trained for.
    ///
    /// `sample` `[batch, in_channels, height, width]`; `timesteps` one number an image, 0 to 999; `context`
    /// `[batch, words, cross_attention_dim]`; `class_labels` `[batch, projection_class_embeddings_input_dim]` exactly
    /// when the network has a class embedding. Returns `[batch, out_channels, height, width]`.
    pub fn forward(
        &self,
        sample: Tensor<B, 4>,
        timesteps: &[f32],
        context: Tensor<B, 3>,
        class_labels: Option<Tensor<B, 2>>,
    ) -> Tensor<B, 4> {
        let [batch, _, _, _] = sample.dims();
        assert_eq!(timesteps.len(), batch, "one timestep an image");
        assert_eq!(class_labels.is_some(), self.class_embedding.is_some(), "class labels as the network has them");

        let time = sinusoidal_embedding(timesteps, self.time_features, &sample.device());
        let mut time = self.time_embedding.forward(time); // [batch, time_dim]
        if let (Some(embedding), Some(labels)) = (&self.class_embedding, class_labels) {
            time = time + embedding.forward(labels);
        }
        let time = silu(time); // every residual block begins with it

        let mut x = conv2d(&self.conv_in, sample);
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.forward(x, &time, &context, &mut skips);
        }
        x = self.mid_block.forward(x, &time, &context);
        for block in &self.up_blocks {
            x = block.forward(x, &time, &context, &mut skips);
        }
        conv2d(&self.conv_out, group_norm_silu(&self.conv_norm_out, x))
    }
}

/// Two linear layers with SiLU between: a vector -> `[batch, time_dim]`.
#[derive(Module, Debug)]
pub struct VectorEmbedding<B: Backend> {
    linear_1: Linear<B>,
    linear_2: Linear<B>,
}

impl<B: SeedBackend> VectorEmbedding<B> {
    fn new(features: usize, time_dim: usize, device: &B::Device) -> Self {
        Self {
            linear_1: LinearConfig::new(features, time_dim).init(device),
            linear_2: LinearConfig::new(time_dim, time_dim).init(device),
        }
    }

    /// `[batch, features]` -> `[batch, time_dim]`.
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        self.linear_2.forward(silu(self.linear_1.forward(x)))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;
    use burn_flex::Flex;

    use super::*;

    fn tiny(levels: usize) -> UNetConfig {
        let down = [DownBlockType::CrossAttnDownBlock2D, DownBlockType::DownBlock2D];
        let up = [UpBlockType::UpBlock2D, UpBlockType::CrossAttnUpBlock2D];
        UNetConfig {
            sample_size: 8,
            down_block_types: (0..levels).map(|level| down[level % 2]).collect(),
            up_block_types: (0..levels).map(|level| up[level % 2]).collect(),
            block_out_channels: [8, 16, 16, 24][..levels].to_vec(),
            attention_head_dim: Heads::Every(2),
            cross_attention_dim: 6,
            projection_class_embeddings_input_dim: Some(10),
            norm_num_groups: 4,
            layers_per_block: 1,
            ..UNetConfig::unclip_768()
        }
    }

    fn entered(time: &str, config: UNetConfig) -> UNetConfig {
        let resnet_time_scale_shift = serde_json::from_value(time.into()).unwrap();
        UNetConfig { resnet_time_scale_shift, ..config }
    }

    fn run<B: SeedBackend>(config: &UNetConfig, size: [usize; 2]) -> (UNet<B>, Tensor<B, 4>) {
        let device = Default::default();
        let unet = config.init::<B>(&device);
        let noise = Distribution::Normal(0.0, 1.0);
        let sample = Tensor::random([2, 4, size[0], size[1]], noise, &device);
        let context = Tensor::random([2, 3, 6], noise, &device);
        let out = unet.forward(sample, &[3.0, 900.0], context, Some(Tensor::random([2, 10], noise, &device)));
        (unet, out)
    }

    #[test]
    fn any_number_of_levels_and_any_size() {
        for levels in 1..=4 {
            for (size, entry) in [([8, 8], "default"), ([16, 8], "scale_shift"), ([9, 13], "default")] {
                let (_, out) = run::<Flex>(&entered(entry, tiny(levels)), size);
                assert_eq!(out.dims(), [2, 4, size[0], size[1]], "{levels} levels");
            }
        }
    }

    #[test]
    #[cfg(feature = "train")]
    fn every_weight_has_a_gradient() {
        use burn::module::{ModuleVisitor, Param};
        use burn::tensor::backend::AutodiffBackend;

        type Train = burn::backend::Autodiff<Flex>;
        struct Check<'a>(&'a <Train as AutodiffBackend>::Gradients, usize);
        impl ModuleVisitor<Train> for Check<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<Train, D>>) {
                assert!(param.val().grad(self.0).is_some(), "no gradient for {:?}", param.val().dims());
                self.1 += 1;
            }
        }
        for (linear, time) in [(true, "default"), (false, "scale_shift")] {
            let config = entered(time, UNetConfig { use_linear_projection: linear, ..tiny(3) });
            let (unet, out) = run::<Train>(&config, [8, 8]);
            let gradients = out.square().mean().backward();
            let mut check = Check(&gradients, 0);
            unet.visit(&mut check);
            assert!(check.1 > 100);
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let broken = [
            UNetConfig { norm_num_groups: 3, ..tiny(2) },
            UNetConfig { attention_head_dim: Heads::Every(5), ..tiny(2) },
            UNetConfig { attention_head_dim: Heads::Each(vec![2]), ..tiny(2) },
            UNetConfig { up_block_types: vec![UpBlockType::UpBlock2D], ..tiny(2) },
            UNetConfig { projection_class_embeddings_input_dim: None, ..tiny(2) },
            UNetConfig { block_out_channels: vec![], ..tiny(2) },
        ];
        for config in broken {
            assert!(config.check().is_err(), "{config:?}");
        }
        assert_eq!(tiny(2).check(), Ok(()));
    }
}
