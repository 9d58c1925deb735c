//! Recipes: one TOML file that says everything about a run, sizes and plans alike. The stages whose tables are there are
//! trained, in order; what they stand on comes from the stages before them or from files that `[from]` names.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    atomic,
    detokenizer::Head,
    error::{Error, Result},
    tokenizer::SeedConfig,
};

use super::{
    coding::Coding,
    data::DataOptions,
    overrides,
    plan::Plan,
    run::Stage,
    sizes::{DiffusionSizes, TextSizes},
    stage1::Alignment,
};

/// A training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run.
    pub name: String,
    /// Seed of the weights' initial values and of the data. Official: 42.
    pub seed: u64,
    /// What the first stage begins with, where that is not of this run.
    #[serde(default, skip_serializing_if = "is_default")]
    pub from: Origin,
    /// What is learned from; scenes unless given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub data: DataOptions,
    /// Sizes of the tokenizer.
    pub model: SeedConfig,
    /// Sizes of the text tower, for the stage vision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contrast: Option<TextSizes>,
    /// The vision transformer and the text tower by contrast on captions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vision: Option<Plan>,
    /// What stage 1 learns by, as the official training. Without it, stage 1 learns by the objective for scenes: against the
    /// text tower of the stage vision, and by drawing the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alignment: Option<Alignment>,
    /// The causal Q-Former.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage1: Option<Plan>,
    /// What stage 2 learns by, as the official training. Without it, stage 2 learns by the objective for scenes: the Q-Former
    /// and the contrast go on, rows restart at latents, the image is drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codebook: Option<Coding>,
    /// Codebook and detokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage2: Option<Plan>,
    /// The autoencoder between pixels and latents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae: Option<Plan>,
    /// The UNet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoder: Option<Plan>,
    /// Sizes of the diffusion decoder, for the stages vae and decoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diffusion: Option<DiffusionSizes>,
}

/// What the first stage of a run begins with. Paths are relative to the folder that the run is started in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// A bundle: its vision transformer and norm for stage 1, those and its Q-Former for stage 2, all of it for the stage
    /// decoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<PathBuf>,
    /// Weights of the vision transformer. Official: `eva_vit_g.pth`. Its keys need not begin with `visual_encoder.`, and it
    /// may hold more blocks than the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vit: Option<PathBuf>,
    /// Weights of the Q-Former, its queries and `ln_vision`: for stage 1 those of BLIP-2, with the text branch and the
    /// projections (official: `blip2_pretrained.pth`; left out: from scratch); for stage 2 what stage 1 made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qformer: Option<PathBuf>,
    /// What stage 2 makes the generation embedding of: a folder in transformers' layout, of a CLIP vision tower with its
    /// projection (official for SEED-2: `CLIP-ViT-H-14-laion2B-s32B-b79K`) or, for the head "text", of a CLIP text tower with
    /// its tokenizer (SEED-1: `clip-vit-large-patch14`); or a bundle of ours with a caption side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<PathBuf>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Recipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::Config`] naming the line and the field.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_with(path, &[])
    }

    /// As [`read`](Self::read), with other values for some of its keys: `("stage1.steps", "100")`. A value is written as in
    /// the file; one that is no TOML is taken as text.
    ///
    /// # Errors
    /// As [`read`](Self::read); an unknown key names the one that is nearest.
    pub fn read_with(path: &Path, set: &[(String, String)]) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Self::parse_with(&text, set, &path.display().to_string())
    }

    /// As [`read`](Self::read), from text; `file` names it in errors.
    ///
    /// # Errors
    /// [`Error::Config`] naming the line and the field.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        Self::parse_with(text, &[], file)
    }

    /// As [`read_with`](Self::read_with), from text; `file` names it in errors.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_with(text: &str, set: &[(String, String)], file: &str) -> Result<Self> {
        let fail = |reason: String| Error::Config { file: file.to_owned(), reason };
        let recipe: Self = overrides::parse(text, set).map_err(fail)?;
        recipe.model.validate(file)?;
        recipe.check().map_err(fail)?;
        if let Some(contrast) = &recipe.contrast {
            contrast.of_scenes().validate(file, recipe.model.vit_features()[0])?;
        }
        Ok(recipe)
    }

    fn check(&self) -> Result<(), String> {
        self.data.check()?;
        if self.plans().is_empty() {
            let stages = Stage::ALL.map(Stage::name).join(", ");
            return Err(format!("it trains nothing: give a table of a stage, of {stages}"));
        }
        for (stage, plan) in self.plans() {
            let splits = match stage {
                Stage::Vision => false,
                Stage::Stage1 => self.alignment.is_some(),
                Stage::Stage2 => self.codebook.is_some(),
                Stage::Vae | Stage::Decoder => true,
            };
            let name = stage.name();
            if plan.parts > 1 && !splits {
                let parts = plan.parts;
                return Err(format!("{name}: parts = {parts} must be 1: this objective compares the whole batch"));
            }
            if plan.validate_every > 0 && matches!(stage, Stage::Stage1 | Stage::Stage2) && !splits {
                return Err(format!("{name}: validate_every must be 0: the objective for scenes measures nothing"));
            }
            plan.check().map_err(|reason| format!("{name}: {reason}"))?;
        }
        if let DataOptions::Pairs(pairs) = &self.data
            && pairs.validation.is_empty()
            && let Some((stage, _)) = self.plans().into_iter().find(|(_, plan)| plan.validate_every > 0)
        {
            let stage = stage.name();
            return Err(format!(
                "{stage}: validate_every needs images to measure on; name them as validation in [data]"
            ));
        }
        self.check_stages()?;
        if let Some(sizes) = &self.diffusion {
            sizes.check(&self.model)?;
        }
        Ok(())
    }

    /// Refuses stages without what they need of the recipe.
    fn check_stages(&self) -> Result<(), String> {
        let scenes1 = self.stage1.is_some() && self.alignment.is_none();
        let scenes2 = self.stage2.is_some() && self.codebook.is_none();
        let needs = [
            (self.vision.is_some(), "vision", self.contrast.is_some(), "contrast"),
            (scenes1, "stage1 without [alignment]", self.vision.is_some(), "vision"),
            (scenes2, "stage2 without [codebook]", scenes1, "stage1 without [alignment]"),
            (self.alignment.is_some(), "alignment", self.stage1.is_some(), "stage1"),
            (self.codebook.is_some(), "codebook", self.stage2.is_some(), "stage2"),
            (self.vae.is_some(), "vae", self.diffusion.is_some(), "diffusion"),
            (self.decoder.is_some(), "decoder", self.diffusion.is_some(), "diffusion"),
        ];
        if let Some((_, of, _, needed)) = needs.into_iter().find(|&(is, _, has, _)| is && !has) {
            return Err(format!("the table of {of} needs the table of {needed}, which the recipe does not have"));
        }
        let model = &self.model;
        if let Some(contrast) = &self.contrast
            && model.generation_dim != contrast.embed_dim
        {
            let (made, wanted) = (model.generation_dim, contrast.embed_dim);
            return Err(format!(
                "model.generation_dim = {made} must equal contrast.embed_dim = {wanted}: the image embedding is the target"
            ));
        }
        if scenes2 && (model.head == Head::Text || !model.recon_semantic) {
            return Err("model.head must be \"mlp\", \"qformer\" or \"linear\", with recon_semantic = true".to_owned());
        }
        if self.decoder.is_some() && model.head == Head::Text {
            return Err(
                "a decoder of class embeddings takes one token, the head \"text\" makes many; Stable Diffusion 1 \
                        decodes them untrained"
                    .to_owned(),
            );
        }
        if let Some(alignment) = &self.alignment {
            alignment.check()?;
        }
        if let Some(codebook) = &self.codebook {
            codebook.check()?;
        }
        Ok(())
    }

    /// The stages that the recipe trains with their plans, in order.
    pub fn plans(&self) -> Vec<(Stage, &Plan)> {
        Stage::ALL.into_iter().filter_map(|stage| Some((stage, self.plan(stage)?))).collect()
    }

    /// The plan of a stage, if the recipe trains it.
    pub fn plan(&self, stage: Stage) -> Option<&Plan> {
        match stage {
            Stage::Vision => self.vision.as_ref(),
            Stage::Stage1 => self.stage1.as_ref(),
            Stage::Stage2 => self.stage2.as_ref(),
            Stage::Vae => self.vae.as_ref(),
            Stage::Decoder => self.decoder.as_ref(),
        }
    }

    /// The stage that a run ends with which is to end with `until` at the latest.
    pub fn last(&self, until: Stage) -> Stage {
        let mut stages = self.plans().into_iter().map(|(stage, _)| stage);
        stages.rfind(|stage| *stage <= until).unwrap_or(until)
    }

    /// A table that a stage cannot do without.
    pub(super) fn need<'a, T>(&self, table: &'a Option<T>, name: &str, of: &str) -> Result<&'a T> {
        table.as_ref().ok_or_else(|| Error::Config {
            file: format!("the recipe {:?}", self.name),
            reason: format!("it has no table [{name}], which {of} needs"),
        })
    }

    /// Makes `folder` this recipe's, with a given tokenizer's SHA-256 and a given decoder's place, or makes sure that it is:
    /// steps of two recipes do not mix.
    pub(super) fn claim(&self, folder: &Path, tokenizer: Option<&str>, decoder: Option<String>) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.to_owned(), source })?;
        let path = folder.join("recipe.json");
        let mut own = serde_json::to_value(self).expect("a recipe of numbers and names is JSON");
        if let Some(hash) = tokenizer {
            own["tokenizer_sha256"] = hash.into();
        }
        if let Some(decoder) = decoder {
            own["decoder_from"] = decoder.into();
        }
        match std::fs::read(&path) {
            Ok(bytes) if serde_json::from_slice(&bytes).is_ok_and(|started: serde_json::Value| started == own) => {
                Ok(())
            }
            Ok(_) => Err(Error::Argument {
                name: "recipe",
                value: self.name.clone(),
                reason: format!(
                    "the run in {} was started with other values or from another model, see {}; choose another folder, or undo the change",
                    folder.display(),
                    path.display()
                ),
            }),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
                atomic::write(&path, &serde_json::to_vec_pretty(&own).expect("a JSON value is JSON"))
            }
            Err(source) => Err(Error::Read { path, source }),
        }
    }
}
