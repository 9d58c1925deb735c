//! The empty prompt: `""` as token ids, or its embedding read from a file.
//!
//! Both prompts of SEED's decoders are empty, so their embedding `[1, words, width]` is a constant of the model. A model
//! folder that holds it as `empty_prompt.safetensors` needs neither `text_encoder` nor `tokenizer`.

use std::collections::HashMap;

use burn::tensor::{Int, Tensor, TensorData};
use serde::Deserialize;

use super::config;
use super::text_encoder::{self, TextEncoderConfig};
use crate::checkpoint::{self, Files};
use crate::error::{Error, Result};
use crate::nn::SeedBackend;

/// The file that holds the embedding.
pub const FILE: &str = "empty_prompt.safetensors";

/// Its only key.
pub const KEY: &str = "empty_prompt_embeds";

/// The embedding of the empty prompt, `[1, words, width]`: from [`FILE`] if the model folder has it, otherwise through
/// its text encoder, which is dropped again.
///
/// # Errors
/// A file that is missing, broken or of another model, by name.
pub fn embedding<B: SeedBackend>(files: &Files, device: &B::Device) -> Result<Tensor<B, 3>> {
    match files.exists(FILE) {
        true => stored(files, device),
        false => encoded(files, device),
    }
}

fn stored<B: SeedBackend>(files: &Files, device: &B::Device) -> Result<Tensor<B, 3>> {
    let weights = files.weights(FILE)?;
    let values = weights.floats(KEY)?;
    let shape = weights.get(KEY).map(|stored| stored.shape.to_vec()).unwrap_or_default();
    let (file, key) = (weights.describe().to_owned(), KEY.to_owned());
    match shape[..] {
        [1, _, _] if values.iter().all(|value| value.is_finite()) => {
            Ok(Tensor::from_data(TensorData::new(values, shape), device))
        }
        [1, _, _] => Err(Error::TensorValue { file, key, reason: "holds values that are not finite".into() }),
        _ => Err(Error::TensorValue {
            file,
            key,
            reason: format!("has shape {shape:?} where [1, words, width] is needed"),
        }),
    }
}

fn encoded<B: SeedBackend>(files: &Files, device: &B::Device) -> Result<Tensor<B, 3>> {
    let folder = files.sub("text_encoder");
    let config: TextEncoderConfig = config::read(&folder, "config.json", &config::TEXT_ENCODER)?;
    config.check().map_err(|reason| Error::Config { file: folder.describe("config.json"), reason })?;
    let ids = token_ids(&files.sub("tokenizer"), config.max_position_embeddings)?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= config.vocab_size) {
        let reason = format!("a special token has id {id}, the text encoder knows {}", config.vocab_size);
        return Err(Error::Config { file: files.sub("tokenizer").describe("vocab.json"), reason });
    }
    let weights = config::weights(&folder, "model")?;
    let encoder = checkpoint::load(config.init::<B>(device), &weights, &text_encoder::KEYS)?;
    let shape = [1, ids.len()];
    Ok(encoder.forward(Tensor::<B, 2, Int>::from_data(TensorData::new(ids, shape), device)))
}

/// The special tokens, from `special_tokens_map.json`.
#[derive(Deserialize)]
struct SpecialTokens {
    bos_token: Token,
    eos_token: Token,
    /// The end-of-text token pads where none is named.
    pad_token: Option<Token>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Settings { content: String },
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Settings { content: text } => text,
        }
    }
}

/// The empty prompt's ids: begin of text, end of text, and padding up to `length`.
///
/// # Errors
/// [`Error::Read`] and [`Error::Config`] for the tokenizer's `vocab.json` and `special_tokens_map.json`.
pub fn token_ids(tokenizer: &Files, length: usize) -> Result<Vec<i64>> {
    let vocabulary: HashMap<String, u32> = tokenizer.json("vocab.json")?;
    let special: SpecialTokens = tokenizer.json("special_tokens_map.json")?;
    let id = |token: &Token| {
        vocabulary.get(token.text()).map(|&id| i64::from(id)).ok_or_else(|| {
            let reason = format!("it has no token {:?}, which special_tokens_map.json names", token.text());
            Error::Config { file: tokenizer.describe("vocab.json"), reason }
        })
    };
    let pad = id(special.pad_token.as_ref().unwrap_or(&special.eos_token))?;
    let mut ids = vec![id(&special.bos_token)?, id(&special.eos_token)?];
    ids.resize(length, pad);
    Ok(ids)
}
