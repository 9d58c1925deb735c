//! Options of how a language model writes images.

use std::path::PathBuf;

use clap::Args;
use seed_core::{
    Model,
    llm::{Template, TemplateConfig},
    tokenizer::BundleConfig,
};

/// Which codes there are, and how they are spelled.
#[derive(Args, Clone, Debug)]
pub(crate) struct TemplateOptions {
    /// Folder of a model bundle whose codes are meant; its weights are not read [default: the model that is built in]
    #[arg(long, value_name = "BUNDLE")]
    model: Option<PathBuf>,
    /// SEED-LLaMA's codes, 8192 of them and 32 an image, whatever the model
    #[arg(long, conflicts_with = "model")]
    seed_llama: bool,
    /// Text before an image
    #[arg(long, value_name = "TEXT", default_value = "<img>")]
    begin: String,
    /// Text after an image
    #[arg(long, value_name = "TEXT", default_value = "</img>")]
    end: String,
    /// Text of a code, with the place of its number
    #[arg(long, value_name = "TEXT", default_value = "<img_{:05}>")]
    token: String,
    /// Id of the text before an image [default: the one after the codes]
    #[arg(long, value_name = "ID")]
    begin_id: Option<u32>,
    /// Id of the text after an image [default: the one after the text before an image]
    #[arg(long, value_name = "ID")]
    end_id: Option<u32>,
}

impl TemplateOptions {
    /// The template, with code 0 at the id that `offset` gives.
    pub(crate) fn resolve(
        &self,
        offset: impl FnOnce(&TemplateConfig) -> seed_core::Result<u32>,
    ) -> seed_core::Result<Template> {
        let (codebook_size, tokens) = match self.seed_llama {
            true => (TemplateConfig::seed_llama().codebook_size, TemplateConfig::seed_llama().tokens),
            false => {
                let model = self.model.clone().map_or(Model::Bundled, Model::Folder);
                let config = BundleConfig::read(&model.files())?.model;
                (config.codebook_size, config.num_queries)
            }
        };
        let spelled = |offset| TemplateConfig {
            begin: self.begin.clone(),
            end: self.end.clone(),
            token: self.token.clone(),
            ..TemplateConfig::for_codebook(codebook_size, tokens, offset)
        };
        let mut config = spelled(offset(&spelled(0))?);
        config.begin_id = self.begin_id.unwrap_or(config.begin_id);
        config.end_id = self.end_id.unwrap_or(config.begin_id.saturating_add(1));
        Template::new(config)
    }
}
