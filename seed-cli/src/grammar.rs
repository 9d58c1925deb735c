//! `seed grammar`: grammars that hold a language model to whole images.

use std::io::Write as _;

use clap::ValueEnum;
use seed_core::llm::{
    Reply,
    grammar::{gbnf, llguidance},
};

use crate::{outcome::Outcome, template::TemplateOptions};

/// The language of a grammar.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Language {
    /// Lark as llguidance reads it, by ids
    Llguidance,
    /// GBNF of llama.cpp, by texts
    Gbnf,
}

/// Print a grammar for sampling: an image has exactly as many codes as it must have.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  seed grammar llguidance --seed-llama --offset 32000 > images.lark
  seed grammar gbnf --reply image > image.gbnf")]
pub(crate) struct Args {
    /// Language of the grammar
    #[arg(value_enum)]
    language: Language,
    /// What a reply may be: image, one and nothing else, or interleaved, text and images
    #[arg(long, value_name = "REPLY", default_value_t = Reply::Interleaved)]
    reply: Reply,
    /// Id of code 0, as `seed vocab` prints it
    #[arg(long, value_name = "ID", default_value_t = 32_000)]
    offset: u32,
    #[command(flatten)]
    template: TemplateOptions,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let template = args.template.resolve(|_| Ok(args.offset))?;
    let text = match args.language {
        Language::Llguidance => llguidance(&template, args.reply),
        Language::Gbnf => gbnf(&template, args.reply),
    };
    let mut out = std::io::stdout().lock();
    write!(out, "{text}")?;
    out.flush()?;
    Ok(Outcome::Done)
}
