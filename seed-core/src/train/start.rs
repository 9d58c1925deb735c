//! Where training starts from.
//!
//! The layers' own initial values shrink a signal at every convolution, below the biases after ten of them, and training
//! begins with thousands of steps that undo it. So convolutions start at unit gain, and what ends a residual branch starts
//! at zero (arXiv 2105.05233, appendix), so that the network starts as its shortcuts. The way of time and condition into the
//! UNet starts louder than its layers would: through theirs a condition arrives at a thirtieth of the features that it is to
//! steer. The autoencoder's log-variance starts low: noise that is louder than a random mean teaches the decoder to ignore
//! its latents.

use burn::{
    module::{Module, ModuleMapper, Param},
    nn::Initializer,
    tensor::{Tensor, backend::Backend},
};

/// Layers that end a residual branch, by name.
const BRANCH_ENDS: [&str; 2] = ["conv2", "proj_out"];
/// Layers by which the condition, and with it the time, enters a UNet, by name.
const CONDITIONS: [&str; 2] = ["class_embedding", "time_emb_proj"];
/// What they multiply a signal's level by at the start: the SiLU in front of most of them leaves 0.6 of it.
const CONDITION_GAIN: f64 = 1.7;
/// The layer that ends with log-variances, by name.
const MOMENTS: &str = "quant_conv";
/// Their value at the start: a standard deviation of 0.02.
const LOG_VARIANCE: f32 = -8.0;

/// Parameters that say which token is which, by name: of the transformers' tokens and of words.
const IDENTITIES: [&str; 5] = ["pos_embed", "cls_token", "query_tokens", "position_embeddings", "word_embeddings"];
/// Their standard deviation at the start.
const IDENTITY: f64 = 0.5;

/// Gives the identities of a tokenizer's tokens initial values as loud as what the tokens carry. The 0.02 that large
/// models start with drowns in small ones, and then it takes thousands of steps until they see what lies where.
pub(super) fn distinct<B: Backend, M: Module<B>>(network: M) -> M {
    network.map(&mut Identities { path: Vec::new() })
}

struct Identities {
    path: Vec<String>,
}

impl<B: Backend> ModuleMapper<B> for Identities {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        if !self.path.iter().any(|name| IDENTITIES.contains(&name.as_str())) {
            return param;
        }
        let value = param.val();
        let drawn = Initializer::Normal { mean: 0.0, std: IDENTITY }.init(value.dims(), &value.device()).val();
        Param::initialized(param.id, drawn.detach().require_grad())
    }
}

/// Gives a network of `diffusion` its initial values, drawn from the backend's generator.
pub(super) fn initial<B: Backend, M: Module<B>>(network: M) -> M {
    network.map(&mut Start { path: Vec::new() })
}

struct Start {
    path: Vec<String>,
}

impl Start {
    fn within(&self, layer: &str) -> bool {
        self.path.iter().any(|name| name == layer)
    }
}

impl<B: Backend> ModuleMapper<B> for Start {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let (id, value) = (param.id, param.val());
        let (dims, device) = (value.dims(), value.device());
        let is_bias = self.path.last().is_some_and(|name| name == "bias");
        let value = if BRANCH_ENDS.iter().any(|layer| self.within(layer)) {
            value.zeros_like()
        } else if self.within(MOMENTS) && is_bias {
            let half = dims[0] / 2;
            let low = value.clone().narrow(0, half, dims[0] - half).zeros_like() + LOG_VARIANCE;
            Tensor::cat(vec![value.narrow(0, 0, half), low], 0)
        } else if D == 2 && CONDITIONS.iter().any(|layer| self.within(layer)) {
            let std = (dims[0] as f64).powf(-0.5) * CONDITION_GAIN; // of a weight [input, output]
            Initializer::Normal { mean: 0.0, std }.init(dims, &device).val()
        } else if D == 4 {
            let fan_in: usize = dims[1..].iter().product();
            Initializer::Normal { mean: 0.0, std: (fan_in as f64).powf(-0.5) }.init(dims, &device).val()
        } else {
            return param;
        };
        Param::initialized(id, value.detach().require_grad())
    }
}

#[cfg(test)]
mod tests {
    use burn_flex::Flex;

    use super::*;
    use crate::diffusion::VaeConfig;

    /// Path, length and mean square of every parameter.
    struct Sizes(Vec<String>, Vec<(String, f64)>);

    impl burn::module::ModuleVisitor<Flex> for Sizes {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.to_owned());
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<Flex, D>>) {
            let mean: f32 = param.val().powi_scalar(2).mean().into_scalar();
            self.1.push((self.0.join("."), f64::from(mean)));
        }
    }

    #[test]
    fn convolutions_keep_the_level_and_branches_start_closed() {
        let device = Default::default();
        let vae = initial::<Flex, _>(VaeConfig::sized(&[16, 32], 1, 1).init::<Flex>(&device));
        let mut sizes = Sizes(Vec::new(), Vec::new());
        vae.visit(&mut sizes);
        let of = |path: &str| sizes.1.iter().find(|(name, _)| name == path).unwrap_or_else(|| panic!("{path}")).1;
        assert_eq!(of("encoder.down_blocks.0.resnets.0.conv2.weight"), 0.0);
        assert_eq!(of("decoder.up_blocks.1.resnets.1.conv2.bias"), 0.0);
        // Mean squares of about 1 / fan-in: 32 * 9 and 3 * 9 values.
        assert!((of("decoder.up_blocks.0.upsamplers.0.conv.weight") * 288.0 - 1.0).abs() < 0.2);
        assert!((of("encoder.conv_in.weight") * 27.0 - 1.0).abs() < 0.4);
        assert!(of("quant_conv.bias") > 30.0, "half of 64 and half of nearly nothing");
    }
}
