//! Images inside language models: codes [batch, 32] <-> text <-> ids of a vocabulary.
//!
//! | module | in | out |
//! |---|---|---|
//! | `template` | codes | text and ids, and back |
//! | `parser` | a model's reply, as it comes | text and complete images |

mod assembler;
mod parser;
mod spelling;
mod template;

pub use parser::{Fault, IdParser, Mode, Piece, TextParser};
pub use template::{Template, TemplateConfig, Token};
