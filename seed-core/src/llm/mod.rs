//! Images inside language models: codes [batch, 32] <-> text <-> ids of a vocabulary.
//!
//! | module | in | out |
//! |---|---|---|
//! | `template` | codes | text and ids, and back |
//! | `parser` | a model's reply, as it comes | text and complete images |
//! | `vocabulary` | a tokenizer's files | the same with the tokens of images |
//! | `packing` | documents of text and images | sequences for training |
//! | `prompt` | a conversation | the text that SEED-LLaMA was tuned on |
//! | [`grammar`] | a template | grammars for sampling: 32 codes an image, no more and no fewer |
//! | `constraint` | ids so far | the same as a mask over logits |
//!
//! ```
//! use seed_core::{
//!     Codes,
//!     llm::{Mode, Piece, Template, TextParser},
//! };
//!
//! let template = Template::seed_llama();
//! let codes = Codes::from_rows([[7u16; 32]], 32, 8192)?;
//! let reply = format!("A cat: {}", template.codes_to_text(&codes)?);
//!
//! let mut parser = TextParser::new(template, Mode::Strict);
//! let mut pieces = Vec::new();
//! parser.push(&reply[..20], &mut pieces)?; // as it comes
//! parser.push(&reply[20..], &mut pieces)?;
//! parser.finish(&mut pieces)?;
//! let image = Piece::Image { codes: vec![7; 32], tolerated: 0 };
//! assert_eq!(pieces, [Piece::Text("A cat: ".to_owned()), image]);
//! # Ok::<(), seed_core::Error>(())
//! ```

mod assembler;
mod constraint;
pub mod grammar;
mod json;
mod packing;
mod parser;
mod prompt;
mod spelling;
mod template;
mod vocabulary;

pub use constraint::{Constraint, Next};
pub use grammar::Reply;
pub use packing::{IGNORED, PackOptions, Packer, Part, Segment, Sequence, Tokens};
pub use parser::{Fault, IdParser, Mode, Piece, TextParser};
pub use prompt::Prompt;
pub use template::{Template, TemplateConfig, Token};
pub use vocabulary::{Extended, extend_tokenizer, offset_for};
