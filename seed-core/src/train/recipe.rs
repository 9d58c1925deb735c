//! Recipes: one TOML file that says everything about a run, sizes and plans alike.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    contrast::ContrastConfig,
    error::{Error, Result},
    scenes,
    tokenizer::SeedConfig,
};

use super::run::Plan;

/// A whole training run on scenes, from nothing to a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run.
    pub name: String,
    /// Seed of the weights' initial values and of the data.
    pub seed: u64,
    /// Sizes of the tokenizer.
    pub model: SeedConfig,
    /// Sizes of the text tower.
    pub contrast: TextSizes,
    /// The vision transformer and the text tower by contrast on captions.
    pub vision: Plan,
    /// The causal Q-Former.
    pub stage1: Plan,
    /// Codebook and detokenizer.
    pub stage2: Plan,
}

/// Sizes of the text tower; the words come from the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSizes {
    /// Features of the common space.
    pub embed_dim: usize,
    /// Features of a word.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Most words of a caption.
    pub context: usize,
}

impl Recipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::Config`] naming the line and the field.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// As [`read`](Self::read), from text; `file` names it in errors.
    ///
    /// # Errors
    /// [`Error::Config`] naming the line and the field.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let fail = |reason: String| Error::Config { file: file.to_owned(), reason };
        let recipe: Self = toml::from_str(text).map_err(|e| fail(e.to_string()))?;
        recipe.model.validate(file)?;
        if recipe.model.generation_dim != recipe.contrast.embed_dim {
            return Err(fail(format!(
                "model.generation_dim = {} must equal contrast.embed_dim = {}: the image embedding is the target",
                recipe.model.generation_dim, recipe.contrast.embed_dim
            )));
        }
        Ok(recipe)
    }

    /// The text tower's configuration for captions of scenes.
    pub fn text(&self) -> ContrastConfig {
        ContrastConfig {
            embed_dim: self.contrast.embed_dim,
            text_width: self.contrast.width,
            text_depth: self.contrast.depth,
            text_heads: self.contrast.heads,
            context: self.contrast.context,
            words: scenes::words().into_iter().map(str::to_owned).collect(),
        }
    }
}
