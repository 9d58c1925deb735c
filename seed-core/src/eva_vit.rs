//! Step 2 of 6: normalized pixels [batch, 3, 224, 224] -> patch features [batch, 257, 1408].
//!
//! EVA ViT-g/14 (arXiv 2211.07636) as BLIP-2 and SEED use it: pre-norm blocks with erf GELU, biases on queries and
//! values but not on keys, the class token first, no norm after the last block. The released model drops the 40th block.
//! Differences from the reference: no dropout, no stochastic depth, no relative positions (off in the released model).

use burn::{
    module::{Module, Param},
    nn::{
        Initializer,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Tensor, TensorData, backend::Backend},
};

use crate::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig, SeedBackend, Then, attention, narrow};

/// Sizes of the vision transformer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvaVitConfig {
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Side of a square patch, in pixels.
    pub patch_size: usize,
    /// Features of a token.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Inner features of the MLP.
    pub hidden: usize,
}

impl EvaVitConfig {
    /// EVA ViT-g/14 at 224 pixels without its last block, as released: 986 M parameters.
    pub fn giant_224() -> Self {
        Self { image_size: 224, patch_size: 14, width: 1408, depth: 39, heads: 16, hidden: 6144 }
    }

    /// Patches of an image; one token less than the features.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// A randomly initialised model.
    pub fn init<B: Backend>(&self, device: &B::Device) -> EvaVit<B> {
        let normal = Initializer::Normal { mean: 0.0, std: 0.02 };
        let patch = [self.patch_size; 2];
        let proj = Conv2dConfig::new([3, self.width], patch).with_stride(patch).init(device);
        EvaVit {
            patch_embed: PatchEmbed { proj },
            cls_token: normal.init([1, 1, self.width], device),
            pos_embed: normal.init([1, self.patches() + 1, self.width], device),
            blocks: (0..self.depth).map(|_| Block::new(self, device)).collect(),
        }
    }
}

/// Position embeddings `[1 + from * from, width]` of another image size: the class token's is kept, those of the patches
/// are interpolated to `[to * to, width]` as PyTorch's `interpolate(mode="bicubic", align_corners=False)` does (Keys'
/// kernel with a = -0.75, edges repeated, no antialiasing), which is what BLIP-2 does when it loads a checkpoint.
///
/// Panics unless there are `(1 + from * from) * width` values.
pub fn resize_positions(values: &[f32], width: usize, from: usize, to: usize) -> Vec<f32> {
    assert_eq!(values.len(), (1 + from * from) * width, "position embeddings of {from} x {from} patches");
    let (class, patches) = values.split_at(width);
    let taps: Vec<[(usize, f64); 4]> = (0..to).map(|i| bicubic_taps(i, from, to)).collect();
    let mut out = Vec::with_capacity((1 + to * to) * width);
    out.extend_from_slice(class);
    for rows in &taps {
        for columns in &taps {
            out.extend((0..width).map(|feature| {
                let at = |y: usize, x: usize| f64::from(patches[(y * from + x) * width + feature]);
                let row = |y: usize| columns.iter().map(|&(x, weight)| weight * at(y, x)).sum::<f64>();
                rows.iter().map(|&(y, weight)| weight * row(y)).sum::<f64>() as f32
            }));
        }
    }
    out
}

/// The four samples of `from` that sample `i` of `to` is mixed of, and their shares.
fn bicubic_taps(i: usize, from: usize, to: usize) -> [(usize, f64); 4] {
    const A: f64 = -0.75;
    let position = (i as f64 + 0.5) * from as f64 / to as f64 - 0.5;
    let start = position.floor();
    let t = position - start;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0; // up to distance 1
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A; // from distance 1 to 2
    let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
    std::array::from_fn(|k| {
        let sample = (start as i64 + k as i64 - 1).clamp(0, from as i64 - 1);
        (sample as usize, weights[k])
    })
}

/// The vision transformer.
#[derive(Module, Debug)]
pub struct EvaVit<B: Backend> {
    patch_embed: PatchEmbed<B>,
    cls_token: Param<Tensor<B, 3>>,
    pos_embed: Param<Tensor<B, 3>>,
    blocks: Vec<Block<B>>,
}

impl<B: Backend> EvaVit<B> {
    /// The same network for images of `side` x `side` patches: position embeddings as [`resize_positions`] makes them.
    pub fn with_side(self, side: usize) -> Self {
        let positions = self.pos_embed.val();
        let [_, tokens, width] = positions.dims();
        let own = (tokens - 1).isqrt();
        if own == side {
            return self;
        }
        let values: Vec<f32> = positions.to_data().iter::<f32>().collect();
        let values = TensorData::new(resize_positions(&values, width, own, side), [1, 1 + side * side, width]);
        let positions = Tensor::from_data(values, (&positions.device(), positions.dtype()));
        Self { pos_embed: Param::initialized(self.pos_embed.id, positions), ..self }
    }

    /// Position embeddings `[1, 1 + patches, width]`, the class token's first.
    pub fn positions(&self) -> Tensor<B, 3> {
        self.pos_embed.val()
    }
}

#[derive(Module, Debug)]
struct PatchEmbed<B: Backend> {
    proj: Conv2d<B>,
}

impl<B: SeedBackend> PatchEmbed<B> {
    /// Normalized pixels `[batch, 3, size, size]` -> `[batch, patches, width]`, in the type of the pixels. As patches do not
    /// overlap, the convolution is a linear layer of each, whose results are tokens at once.
    fn forward(&self, pixels: Tensor<B, 4>) -> Tensor<B, 3> {
        let [batch, channels, height, width] = pixels.dims();
        let [side, _] = self.proj.stride;
        let [rows, columns] = [height / side, width / side];
        let pixels = pixels.narrow(2, 0, rows * side).narrow(3, 0, columns * side); // what is left makes no patch
        let pixels = pixels.reshape([batch, channels, rows, side, columns, side]).permute([0, 2, 4, 1, 3, 5]);
        let patches = pixels.reshape([batch, rows * columns, channels * side * side]);
        let weight = self.proj.weight.val().cast(patches.dtype()).flatten::<2>(1, 3); // [width, channels * side * side]
        B::fused_linear(patches, weight.transpose(), self.proj.bias.as_ref().map(Param::val), Then::Nothing)
    }
}

impl<B: SeedBackend> EvaVit<B> {
    /// Normalized pixels `[batch, 3, size, size]` -> features `[batch, 1 + patches, width]`, class token first.
    pub fn forward(&self, pixels: Tensor<B, 4>) -> Tensor<B, 3> {
        let [batch, ..] = pixels.dims();
        let patches = self.patch_embed.forward(pixels); // [batch, patches, width]
        let class = self.cls_token.val().repeat_dim(0, batch); // [batch, 1, width]
        let mut x = Tensor::cat(vec![class, patches], 1) + self.pos_embed.val(); // [batch, 1 + patches, width]
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
    fn new(config: &EvaVitConfig, device: &B::Device) -> Self {
        let norm = || LayerNormConfig::new(config.width).with_epsilon(1e-6).init(device);
        let linear = |input, output| LinearConfig::new(input, output).with_initializer(fan_in()).init(device);
        Self {
            norm1: norm(),
            attn: Attention {
                qkv: LinearConfig::new(config.width, 3 * config.width)
                    .with_bias(false)
                    .with_initializer(fan_in())
                    .init(device),
                q_bias: Initializer::Zeros.init([config.width], device),
                v_bias: Initializer::Zeros.init([config.width], device),
                proj: linear(config.width, config.width),
                heads: config.heads,
            },
            norm2: norm(),
            mlp: Mlp { fc1: linear(config.width, config.hidden), fc2: linear(config.hidden, config.width) },
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
    q_bias: Param<Tensor<B, 1>>,
    v_bias: Param<Tensor<B, 1>>,
    proj: Linear<B>,
    heads: usize,
}

impl<B: SeedBackend> Attention<B> {
    fn forward(&self, x: Tensor<B, 3>, residual: Tensor<B, 3>) -> Tensor<B, 3> {
        let [_, _, width] = x.dims();
        let q_bias = self.q_bias.val();
        let bias = Tensor::cat(vec![q_bias.clone(), q_bias.zeros_like(), self.v_bias.val()], 0); // [3 * width]
        let qkv = self.qkv.forward_with_bias(x, bias); // [batch, tokens, 3 * width]
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

/// Uniform with the variance 1 / fan-in of torch's default, for training from scratch.
fn fan_in() -> Initializer {
    Initializer::KaimingUniform { gain: 1.0 / 3f64.sqrt(), fan_out_only: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `torch.nn.functional.interpolate(arange(9) ** 1.5 as [1, 1, 3, 3], mode="bicubic")`, PyTorch 2.
    #[test]
    fn positions_are_interpolated_as_pytorch_does() {
        const SIX_DIGITS: f32 = 2e-5;
        let mut values = vec![7.0]; // the class token
        values.extend((0..9).map(|i| (i as f32).powf(1.5)));
        let cases: [(usize, &[f32]); 3] = [
            (2, &[1.080373, 3.890219, 13.416672, 19.56236]),
            (3, &values[1..]),
            (
                4,
                &[
                    -0.43545, -0.006353, 1.217107, 2.353224, 2.133366, 3.301279, 5.479869, 7.099102, 8.948795,
                    10.943458, 14.250119, 16.48579, 15.099198, 17.412735, 21.20745, 23.748634,
                ],
            ),
        ];
        for (to, expected) in cases {
            let found = resize_positions(&values, 1, 3, to);
            assert_eq!((found[0], found.len()), (7.0, 1 + to * to));
            for (found, expected) in found[1..].iter().zip(expected) {
                assert!((found - expected).abs() < SIX_DIGITS, "{found} is not {expected}");
            }
        }
        // Features do not mix.
        let two: Vec<f32> = values.iter().flat_map(|&value| [value, -value]).collect();
        let found = resize_positions(&two, 2, 3, 5);
        assert!(found.chunks(2).all(|pair| pair[0] == -pair[1]));
    }
}
