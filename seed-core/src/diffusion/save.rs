//! A decoder to a folder in diffusers' layout, which [`Decoder::load`] and diffusers read.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, backend::Backend};
use serde_json::{Value, json};

use super::empty_prompt;
use super::pipeline::{Conditioning, Decoder, STABLE_DIFFUSION, UNCLIP};
use crate::atomic;
use crate::checkpoint::{self, DType, KeyTable};
use crate::error::{Error, Result};
use crate::nn::SeedBackend;

const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// The empty prompt's embedding as a module, so that it is saved as any weight.
#[derive(Module, Debug)]
struct EmptyPrompt<B: Backend> {
    empty_prompt_embeds: Param<Tensor<B, 3>>,
}

impl<B: SeedBackend> Decoder<B> {
    /// Writes every part into `folder`; `model_index.json` last, so that a folder with one is whole.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::TensorValue`] for weights that `dtype` cannot hold.
    pub fn save(&self, folder: &Path, dtype: DType) -> Result<()> {
        let unet = part(folder, "unet")?;
        write_json(&unet.join("config.json"), &to_json(&self.unet_config))?;
        checkpoint::save(&self.unet, &unet.join(WEIGHTS), &KeyTable::EXACT, dtype)?;
        let vae = part(folder, "vae")?;
        write_json(&vae.join("config.json"), &to_json(&self.vae_config))?;
        checkpoint::save(&self.vae, &vae.join(WEIGHTS), &super::vae::KEYS, dtype)?;
        write_json(&part(folder, "scheduler")?.join("scheduler_config.json"), &to_json(self.sampler.config()))?;
        let prompt = EmptyPrompt { empty_prompt_embeds: Param::from_tensor(self.empty_prompt.clone()) };
        checkpoint::save(&prompt, &folder.join(empty_prompt::FILE), &KeyTable::EXACT, dtype)?;
        let mut index = json!({
            "_class_name": STABLE_DIFFUSION,
            "scheduler": ["diffusers", self.sampler.config().scheduler.class()],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        });
        if let Conditioning::ClassVector { image_noise, noising } = &self.conditioning {
            let normalizer = part(folder, "image_normalizer")?;
            let dim = image_noise.normalizer.dim();
            let config = json!({ "_class_name": "StableUnCLIPImageNormalizer", "embedding_dim": dim });
            write_json(&normalizer.join("config.json"), &config)?;
            checkpoint::save(&image_noise.normalizer, &normalizer.join(WEIGHTS), &KeyTable::EXACT, dtype)?;
            let mut noising = to_json(noising);
            noising["_class_name"] = Value::from("DDPMScheduler");
            write_json(&part(folder, "image_noising_scheduler")?.join("scheduler_config.json"), &noising)?;
            index["_class_name"] = Value::from(UNCLIP);
            index["image_normalizer"] = json!(["stable_diffusion", "StableUnCLIPImageNormalizer"]);
            index["image_noising_scheduler"] = json!(["diffusers", "DDPMScheduler"]);
        }
        write_json(&folder.join("model_index.json"), &index)
    }
}

fn part(folder: &Path, name: &str) -> Result<std::path::PathBuf> {
    let path = folder.join(name);
    std::fs::create_dir_all(&path).map_err(|source| Error::Write { path: path.clone(), source })?;
    Ok(path)
}

fn to_json(config: &impl serde::Serialize) -> Value {
    serde_json::to_value(config).expect("a configuration of numbers and names is JSON")
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).expect("a JSON value is JSON");
    text.push(b'\n');
    atomic::write(path, &text)
}
