//! `seed vocab`: a language model's tokenizer -> the same with the tokens of images.

use std::{io::Write as _, path::PathBuf};

use seed_core::llm::{self, Prompt};
use serde_json::json;

use crate::{options::Global, outcome::Outcome, template::TemplateOptions};

/// Add the tokens of images to a language model's tokenizer.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Reads tokenizer.json, and tokenizer_config.json and special_tokens_map.json if they are there, and writes them with
the codes and the texts before and after an image, which are special. Ids follow those that are there. Nothing else
changes. The model's embeddings must be resized by whoever trains it.

Examples:
  seed vocab llama-2-7b --out llama-2-7b-seed --seed-llama --offset 32000 --chat seed-llama-8b
  seed vocab my-tokenizer --out extended --begin '<|image|>' --end '<|/image|>' --token '<|v{}|>'"
)]
pub(crate) struct Args {
    /// Folder of the tokenizer
    #[arg(value_name = "TOKENIZER_DIR")]
    tokenizer: PathBuf,
    /// Folder for the result; another one
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Id of code 0, for an error if it is not free [default: the first that is free]
    #[arg(long, value_name = "ID")]
    offset: Option<u32>,
    /// Add a chat template: seed-llama-8b or seed-llama-14b
    #[arg(long, value_name = "NAME")]
    chat: Option<Prompt>,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    template: TemplateOptions,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    let offset = |config: &_| args.offset.map_or_else(|| llm::offset_for(&args.tokenizer, config), Ok);
    let template = args.template.resolve(offset)?;
    let done = llm::extend_tokenizer(&args.tokenizer, &args.out, &template, args.chat)?;
    let config = template.config();
    let text = match args.json {
        true => json!({ "template": config, "result": done }).to_string(),
        false => format!(
            "{} tokens added, {} were there\ncodes    ids {} to {}\n{:8} id {}\n{:8} id {}\n{} rows of embeddings",
            done.added,
            done.present,
            config.offset,
            template.code_ids().end - 1,
            config.begin,
            config.begin_id,
            config.end,
            config.end_id,
            done.vocabulary
        ),
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    global.note(|| format!("tokenizer written: {}", args.out.display()));
    Ok(Outcome::Done)
}
