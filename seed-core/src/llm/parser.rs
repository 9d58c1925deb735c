//! A model's reply -> pieces of text and complete images, as the reply comes.
//!
//! Ids or text may arrive in pieces of any length, a mark may be split over several. Which images come out does not depend on
//! where the input was cut.

use std::fmt;

use super::{
    Template,
    assembler::{Assembler, Event, Mark, Run},
    spelling::{Match, partial},
};
use crate::error::Result;

/// What becomes of a reply that is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The first broken image is an error.
    Strict,
    /// A broken image becomes [`Piece::Skipped`], with what was wrong. White space between an image's tokens, which tokenizers
    /// like to add, and numbers with other zeros than the template's are read, and counted.
    Lenient,
}

/// A piece of a reply; `T` is `String` or `Vec<u32>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<T> {
    /// Text, or ids of text.
    Text(T),
    /// A complete image.
    Image {
        /// Its codes, as many as the template says.
        codes: Vec<u16>,
        /// Places at which it was not spelled as the template says; 0 in [`Mode::Strict`].
        tolerated: usize,
    },
    /// What is no image and no text; not in [`Mode::Strict`].
    Skipped {
        /// The text, or the ids.
        what: T,
        /// Why.
        fault: Fault,
    },
}

impl<T> Piece<T> {
    /// The same piece with its text turned into another kind: ids into text, by a tokenizer.
    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> Piece<U> {
        match self {
            Self::Text(text) => Piece::Text(f(text)),
            Self::Image { codes, tolerated } => Piece::Image { codes, tolerated },
            Self::Skipped { what, fault } => Piece::Skipped { what: f(what), fault },
        }
    }
}

/// What is wrong with an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A code, an end mark or, where only images may be, a text that no begin mark stands before.
    Outside {
        /// The text or id.
        found: String,
    },
    /// The end mark comes too early.
    TooFew {
        /// Codes before it.
        found: usize,
        /// Codes of an image.
        expected: usize,
    },
    /// A code comes where the end mark should.
    TooMany {
        /// Codes of an image.
        expected: usize,
    },
    /// A code that is no row of the codebook.
    OutOfRange {
        /// Its place in the image.
        position: usize,
        /// The code.
        code: u64,
        /// Rows of the codebook.
        codebook_size: usize,
    },
    /// The image ends without an end mark.
    NoEnd {
        /// Codes before it breaks off.
        found: usize,
        /// Codes of an image.
        expected: usize,
        /// What comes instead, as text; nothing at the end of the reply.
        then: Option<String>,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside { found } => write!(f, "{found} stands outside of an image, with no begin mark before it"),
            Self::TooFew { found, expected } => write!(f, "it has {found} codes where {expected} are needed"),
            Self::TooMany { expected } => write!(f, "it has more than {expected} codes: another one follows them"),
            Self::OutOfRange { position, code, codebook_size } => {
                let last = codebook_size - 1;
                write!(f, "code {code} at position {position} is outside the codebook; codes are from 0 to {last}")
            }
            Self::NoEnd { found, expected, then } => {
                let then = then.as_deref().unwrap_or("the end of the reply");
                write!(f, "it has no end mark: after {found} of {expected} codes comes {then}")
            }
        }
    }
}

/// Takes the ids of a reply.
#[derive(Clone, Debug)]
pub struct IdParser {
    assembler: Assembler<Vec<u32>>,
    /// Ids taken since the beginning.
    taken: usize,
}

impl IdParser {
    /// At the beginning of a reply.
    pub fn new(template: Template, mode: Mode) -> Self {
        Self { assembler: Assembler::new(template, mode, true), taken: 0 }
    }

    pub(super) fn of_images_alone(template: Template) -> Self {
        Self { assembler: Assembler::new(template, Mode::Strict, false), taken: 0 }
    }

    /// Takes the next ids. What they complete is added to `out`, also when an error follows. Ids of text are never held back.
    ///
    /// # Errors
    /// [`Error::ImageBlock`](crate::Error::ImageBlock) in [`Mode::Strict`], and from then on until [`IdParser::reset`].
    pub fn push(&mut self, ids: &[u32], out: &mut Vec<Piece<Vec<u32>>>) -> Result<()> {
        for &id in ids {
            let template = self.assembler.template();
            let config = template.config();
            let mark = match () {
                () if id == config.begin_id => Some(Mark::Begin),
                () if id == config.end_id => Some(Mark::End),
                () => template.code(id).map(|code| Mark::Code { number: code.into(), exact: true }),
            };
            let event = Event { mark, raw: &[id][..], at: self.taken };
            self.taken += 1;
            self.assembler.take(event, out)?;
        }
        Ok(())
    }

    /// Ends the reply.
    ///
    /// # Errors
    /// As [`IdParser::push`], for an image that is not complete.
    pub fn finish(&mut self, out: &mut Vec<Piece<Vec<u32>>>) -> Result<()> {
        self.assembler.finish(out)
    }

    /// Begins another reply; what is left of the one before is forgotten.
    pub fn reset(&mut self) {
        self.assembler.reset();
        self.taken = 0;
    }
}

/// Takes the text of a reply.
#[derive(Clone, Debug)]
pub struct TextParser {
    assembler: Assembler<String>,
    mode: Mode,
    /// What may be the beginning of a mark.
    pending: String,
    /// Bytes taken since the beginning, without those pending.
    taken: usize,
}

impl TextParser {
    /// At the beginning of a reply.
    pub fn new(template: Template, mode: Mode) -> Self {
        Self { assembler: Assembler::new(template, mode, true), mode, pending: String::new(), taken: 0 }
    }

    pub(super) fn of_images_alone(template: Template) -> Self {
        let assembler = Assembler::new(template, Mode::Strict, false);
        Self { assembler, mode: Mode::Strict, pending: String::new(), taken: 0 }
    }

    /// Takes the next text. What it completes is added to `out`, also when an error follows. Text is held back only while
    /// it may be the beginning of a mark.
    ///
    /// # Errors
    /// [`Error::ImageBlock`](crate::Error::ImageBlock) in [`Mode::Strict`], and from then on until [`TextParser::reset`].
    pub fn push(&mut self, text: &str, out: &mut Vec<Piece<String>>) -> Result<()> {
        self.pending.push_str(text);
        self.read(false, out)
    }

    /// Ends the reply: what was held back is text.
    ///
    /// # Errors
    /// As [`TextParser::push`], also for an image that is not complete.
    pub fn finish(&mut self, out: &mut Vec<Piece<String>>) -> Result<()> {
        self.read(true, out)?;
        self.assembler.finish(out)
    }

    /// Begins another reply; what is left of the one before is forgotten.
    pub fn reset(&mut self) {
        self.assembler.reset();
        self.pending.clear();
        self.taken = 0;
    }

    /// Takes what is pending, all of it if nothing can follow.
    fn read(&mut self, last: bool, out: &mut Vec<Piece<String>>) -> Result<()> {
        let text = std::mem::take(&mut self.pending);
        let mut done = 0; // bytes of `text` that were taken
        let mut at = 0; // where a mark is looked for
        while let Some(letter) = text[at..].chars().next() {
            let (mark, len) = match self.find(&text[at..]) {
                Found::None => {
                    at += letter.len_utf8();
                    continue;
                }
                Found::Partial if last => {
                    at += letter.len_utf8();
                    continue;
                }
                Found::Partial => break,
                Found::Mark(mark, len) => (mark, len),
            };
            self.take(None, &text[done..at], out)?;
            self.take(Some(mark), &text[at..at + len], out)?;
            at += len;
            done = at;
        }
        self.take(None, &text[done..at], out)?;
        self.pending = text[at..].to_owned();
        Ok(())
    }

    fn take(&mut self, mark: Option<Mark>, raw: &str, out: &mut Vec<Piece<String>>) -> Result<()> {
        if raw.is_empty() {
            return Ok(());
        }
        let at = self.taken;
        self.taken += raw.len();
        self.assembler.take(Event { mark, raw, at }, out)
    }

    /// What stands at the beginning of a text. No mark is the beginning of another one: that is the template's to see to.
    fn find(&self, text: &str) -> Found {
        let template = self.assembler.template();
        let mut found = Found::None;
        for (text_of_mark, mark) in [(&template.config().begin, Mark::Begin), (&template.config().end, Mark::End)] {
            if text.starts_with(text_of_mark.as_str()) {
                return Found::Mark(mark, text_of_mark.len());
            }
            if partial(text_of_mark, text) == Match::Partial {
                found = Found::Partial;
            }
        }
        match template.spelling().find(text, self.mode) {
            Match::None => found,
            Match::Partial => Found::Partial,
            Match::Code { number, len, exact } => Found::Mark(Mark::Code { number, exact }, len),
        }
    }
}

enum Found {
    None,
    Partial,
    Mark(Mark, usize),
}

impl Run for String {
    type Part = str;
    const UNIT: &'static str = "byte";

    fn append(&mut self, part: &str) {
        self.push_str(part);
    }

    fn describe(part: &str, _: &Template) -> String {
        const MOST: usize = 24;
        let short: String = part.chars().take(MOST).collect();
        if short.len() < part.len() { format!("{short:?}...") } else { format!("{short:?}") }
    }

    fn split_blank(part: &str) -> (Option<&str>, Option<&str>) {
        let rest = part.trim_start();
        let blank = &part[..part.len() - rest.len()];
        (Some(blank).filter(|blank| !blank.is_empty()), Some(rest).filter(|rest| !rest.is_empty()))
    }
}

impl Run for Vec<u32> {
    type Part = [u32];
    const UNIT: &'static str = "id";

    fn append(&mut self, part: &[u32]) {
        self.extend_from_slice(part);
    }

    fn describe(part: &[u32], template: &Template) -> String {
        let id = part[0];
        match template.code(id) {
            Some(code) => format!("id {id} (code {code})"),
            None if id == template.config().begin_id => format!("id {id} ({:?})", template.config().begin),
            None if id == template.config().end_id => format!("id {id} ({:?})", template.config().end),
            None => format!("id {id}"),
        }
    }

    fn split_blank(part: &[u32]) -> (Option<&[u32]>, Option<&[u32]>) {
        (None, Some(part))
    }
}

#[cfg(test)]
mod tests;
