//! The recipe: one TOML file that says everything about a run.

use std::path::Path;

use anyhow::{Context as _, ensure};
use seed_core::train::Plan;
use serde::{Deserialize, Serialize};

use crate::{
    generate::Sampling,
    model::{LoraConfig, ModelConfig},
};

/// A run, from nothing to a model that sees and draws.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// Name of the run.
    pub(crate) name: String,
    /// Seed of the initial weights and of the scenes.
    pub(crate) seed: u64,
    /// Sizes of the transformer.
    pub(crate) model: ModelConfig,
    /// Sizes of its adaption.
    pub(crate) lora: LoraConfig,
    /// Captions alone.
    pub(crate) captions: Plan,
    /// Images and captions; the baseline too.
    pub(crate) images: Plan,
    /// How codes are drawn.
    pub(crate) sampling: Sampling,
}

impl Recipe {
    /// Reads and checks a recipe.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no recipe", path.display()))
    }

    /// As [`read`](Self::read), from text.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let recipe: Self = toml::from_str(text)?;
        let ModelConfig { width, depth, heads, hidden } = recipe.model;
        ensure!(width > 0 && depth > 0 && hidden > 0, "model: width, depth and hidden must not be 0");
        ensure!(heads > 0 && width.is_multiple_of(heads), "model: width = {width} is no multiple of heads = {heads}");
        ensure!(recipe.lora.rank > 0, "lora: rank must not be 0");
        for (name, plan) in [("captions", &recipe.captions), ("images", &recipe.images)] {
            ensure!(
                plan.steps > 0 && plan.warmup <= plan.steps,
                "{name}: warmup must not exceed steps, which must not be 0"
            );
            ensure!(
                plan.learning_rate > 0.0 && plan.learning_rate < 1.0,
                "{name}: learning_rate must lie between 0 and 1"
            );
            ensure!(plan.parts == 1, "{name}: parts must be 1, batches are not split here");
        }
        ensure!(recipe.captions.batch > 0, "captions: batch must not be 0");
        ensure!(
            recipe.images.batch >= 4 && recipe.images.batch.is_multiple_of(2),
            "images: batch must be even and at least 4: each scene is there in both orders, and the baseline exchanges images"
        );
        recipe.sampling.check()?;
        Ok(recipe)
    }
}
