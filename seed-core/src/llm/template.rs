//! How a language model writes images: the texts and ids of codes and marks, and codes to text and ids and back.
//!
//! | | SEED-LLaMA |
//! |---|---|
//! | begin mark | `<img>`, id 40192 |
//! | code 12 | `<img_00012>`, id 32000 + 12 |
//! | end mark | `</img>`, id 40193 |
//!
//! An image is a block: the begin mark, its codes, the end mark, with nothing between. Every part is free, so that the tokens
//! fit into another model's vocabulary, or follow the spelling of another project.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{
    parser::{IdParser, Mode, Piece, TextParser},
    spelling::{Match, Spelling},
};
use crate::{
    codes::Codes,
    error::{Error, Result},
};

/// What can be chosen of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateConfig {
    /// Rows of the codebook, at most 65,536: every code is below it.
    pub codebook_size: usize,
    /// Codes of an image, at most 65,536.
    pub tokens: usize,
    /// Id of code 0; the others follow.
    pub offset: u32,
    /// Id of the mark before an image.
    pub begin_id: u32,
    /// Id of the mark after it.
    pub end_id: u32,
    /// Text of the mark before an image.
    pub begin: String,
    /// Text of the mark after it.
    pub end: String,
    /// Text of a code, with `{}` for its number; `{:05}` fills it up with zeros to five digits.
    pub token: String,
}

impl TemplateConfig {
    /// SEED-LLaMA's: 32000 ids of LLaMA, 8192 codes, then `<img>` and `</img>`.
    pub fn seed_llama() -> Self {
        Self::for_codebook(8192, 32, 32_000)
    }

    /// SEED-LLaMA's spelling for another model: the codes begin at `offset`, the two marks follow them.
    pub fn for_codebook(codebook_size: usize, tokens: usize, offset: u32) -> Self {
        let begin_id = offset.saturating_add(u32::try_from(codebook_size).unwrap_or(u32::MAX));
        Self {
            codebook_size,
            tokens,
            offset,
            begin_id,
            end_id: begin_id.saturating_add(1),
            begin: "<img>".to_owned(),
            end: "</img>".to_owned(),
            token: "<img_{:05}>".to_owned(),
        }
    }
}

/// How a language model writes images, with nothing in it that could be read in two ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "TemplateConfig", into = "TemplateConfig")]
pub struct Template {
    config: TemplateConfig,
    spelling: Spelling,
}

impl TryFrom<TemplateConfig> for Template {
    type Error = Error;

    fn try_from(config: TemplateConfig) -> Result<Self> {
        Self::new(config)
    }
}

impl From<Template> for TemplateConfig {
    fn from(template: Template) -> Self {
        template.config
    }
}

/// One of a template's tokens, as a vocabulary holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// Whether it is a mark, which a tokenizer leaves out of text that it gives to people, rather than a code.
    pub is_mark: bool,
}

impl Template {
    /// Checks and wraps what was chosen.
    ///
    /// # Errors
    /// [`Error::Argument`] for sizes that are not possible, ids that are given to two tokens or do not fit into 31 bits, and
    /// texts of which one could be read as another or as the beginning of another.
    pub fn new(config: TemplateConfig) -> Result<Self> {
        let fail = |name, value: &dyn ToString, reason: String| {
            Err(Error::Argument { name, value: value.to_string(), reason })
        };
        let &TemplateConfig { codebook_size, tokens, offset, begin_id, end_id, .. } = &config;
        if !(1..=1 << 16).contains(&codebook_size) {
            return fail("codebook_size", &codebook_size, "a codebook has from 1 to 65536 rows".to_owned());
        }
        if !(1..=1 << 16).contains(&tokens) {
            return fail("tokens", &tokens, "an image has from 1 to 65536 codes".to_owned());
        }
        let codes = u64::from(offset)..u64::from(offset) + codebook_size as u64;
        for (name, id, last) in [
            ("offset", offset, codes.end - 1),
            ("begin_id", begin_id, begin_id.into()),
            ("end_id", end_id, end_id.into()),
        ] {
            if last > i32::MAX as u64 {
                return fail(name, &id, format!("ids must fit into 31 bits, and the last one would be {last}"));
            }
        }
        for (name, id) in [("begin_id", begin_id), ("end_id", end_id)] {
            if codes.contains(&id.into()) {
                let reason = format!("the ids from {} to {} are those of codes", codes.start, codes.end - 1);
                return fail(name, &id, reason);
            }
        }
        if begin_id == end_id {
            return fail("end_id", &end_id, "it is the id of the mark before an image too".to_owned());
        }
        for (name, text) in [("begin", &config.begin), ("end", &config.end), ("token", &config.token)] {
            if text.is_empty() || text.contains(char::is_control) {
                return fail(
                    name,
                    &format!("{text:?}"),
                    "texts have at least one letter, and no control characters".to_owned(),
                );
            }
        }
        let spelling = Spelling::parse(&config.token)?;
        if config.begin.starts_with(&config.end) || config.end.starts_with(&config.begin) {
            let reason = format!("one of it and the mark before an image, {:?}, begins like the other", config.begin);
            return fail("end", &format!("{:?}", config.end), reason);
        }
        for (name, text) in [("begin", &config.begin), ("end", &config.end)] {
            if spelling.find(text, Mode::Lenient) != Match::None {
                let reason =
                    format!("it could be read as the beginning of a code, {:?}, or begins with one", config.token);
                return fail(name, &format!("{text:?}"), reason);
            }
        }
        Ok(Self { config, spelling })
    }

    /// SEED-LLaMA's, 8B and 14B: see [`TemplateConfig::seed_llama`].
    pub fn seed_llama() -> Self {
        Self::new(TemplateConfig::seed_llama()).expect("a test makes it")
    }

    /// SEED-LLaMA's spelling for another model: see [`TemplateConfig::for_codebook`].
    ///
    /// # Errors
    /// As [`Template::new`].
    pub fn for_codebook(codebook_size: usize, tokens: usize, offset: u32) -> Result<Self> {
        Self::new(TemplateConfig::for_codebook(codebook_size, tokens, offset))
    }

    /// What was chosen.
    pub fn config(&self) -> &TemplateConfig {
        &self.config
    }

    pub(super) fn spelling(&self) -> &Spelling {
        &self.spelling
    }

    /// Ids of codes, in the order of the codebook.
    pub fn code_ids(&self) -> Range<u32> {
        self.config.offset..self.config.offset + self.config.codebook_size as u32
    }

    /// The code of an id; nothing for marks and text.
    pub fn code(&self, id: u32) -> Option<u16> {
        self.code_ids().contains(&id).then(|| (id - self.config.offset) as u16)
    }

    /// Whether an id is a token of images: a code or a mark.
    pub fn is_token(&self, id: u32) -> bool {
        self.code_ids().contains(&id) || [self.config.begin_id, self.config.end_id].contains(&id)
    }

    /// The largest id of a token, which a vocabulary must have.
    pub fn last_id(&self) -> u32 {
        (self.code_ids().end - 1).max(self.config.begin_id).max(self.config.end_id)
    }

    /// Ids of an image: its codes and two marks.
    pub fn block_len(&self) -> usize {
        self.config.tokens + 2
    }

    /// All tokens, by id.
    pub fn vocabulary(&self) -> Vec<Token> {
        let code =
            |id: u32| Token { id, text: self.spelling.write(u64::from(id - self.config.offset)), is_mark: false };
        let mut tokens: Vec<Token> = self.code_ids().map(code).collect();
        tokens.push(Token { id: self.config.begin_id, text: self.config.begin.clone(), is_mark: true });
        tokens.push(Token { id: self.config.end_id, text: self.config.end.clone(), is_mark: true });
        tokens.sort_by_key(|token| token.id);
        tokens
    }

    /// Holds for codes that the template can write.
    fn check(&self, codes: &Codes) -> Result<()> {
        let &TemplateConfig { codebook_size, tokens, .. } = &self.config;
        if codes.batch() > 0 && codes.tokens() != tokens {
            return Err(Error::CodeCount { image: 0, found: codes.tokens(), expected: tokens });
        }
        match codes.as_slice().iter().position(|&code| usize::from(code) >= codebook_size) {
            Some(at) => Err(Error::CodeOutOfRange {
                image: at / tokens,
                position: at % tokens,
                code: codes.as_slice()[at].into(),
                codebook_size,
            }),
            None => Ok(()),
        }
    }

    /// Images as ids, block after block.
    ///
    /// # Errors
    /// [`Error::CodeCount`] and [`Error::CodeOutOfRange`] for codes of another model.
    pub fn codes_to_ids(&self, codes: &Codes) -> Result<Vec<u32>> {
        self.check(codes)?;
        let &TemplateConfig { offset, begin_id, end_id, .. } = &self.config;
        let mut ids = Vec::with_capacity(codes.batch() * self.block_len());
        for row in codes.rows() {
            ids.push(begin_id);
            ids.extend(row.iter().map(|&code| offset + u32::from(code)));
            ids.push(end_id);
        }
        Ok(ids)
    }

    /// Images as text, block after block.
    ///
    /// # Errors
    /// As [`Template::codes_to_ids`].
    pub fn codes_to_text(&self, codes: &Codes) -> Result<String> {
        self.check(codes)?;
        let mut text = String::new();
        for row in codes.rows() {
            text.push_str(&self.config.begin);
            row.iter().for_each(|&code| text.push_str(&self.spelling.write(code.into())));
            text.push_str(&self.config.end);
        }
        Ok(text)
    }

    /// Ids that are images, block after block, and nothing else, as codes.
    ///
    /// # Errors
    /// [`Error::ImageBlock`] for a block that is broken, and for ids outside of blocks. What else a reply holds is found by
    /// [`IdParser`].
    pub fn ids_to_codes(&self, ids: &[u32]) -> Result<Codes> {
        let mut pieces = Vec::new();
        let mut parser = IdParser::of_images_alone(self.clone());
        parser.push(ids, &mut pieces)?;
        parser.finish(&mut pieces)?;
        self.rows(pieces)
    }

    /// Text that is images, block after block, and nothing else, as codes.
    ///
    /// # Errors
    /// [`Error::ImageBlock`] for a block that is broken, and for text outside of blocks. What else a reply holds is found by
    /// [`TextParser`].
    pub fn text_to_codes(&self, text: &str) -> Result<Codes> {
        let mut pieces = Vec::new();
        let mut parser = TextParser::of_images_alone(self.clone());
        parser.push(text, &mut pieces)?;
        parser.finish(&mut pieces)?;
        self.rows(pieces)
    }

    /// The images among pieces.
    fn rows<T>(&self, pieces: Vec<Piece<T>>) -> Result<Codes> {
        let rows = pieces.into_iter().filter_map(|piece| match piece {
            Piece::Image { codes, .. } => Some(codes),
            Piece::Text(_) | Piece::Skipped { .. } => None,
        });
        Codes::from_rows(rows, self.config.tokens, self.config.codebook_size)
    }

    /// Images as text, from their ids.
    ///
    /// # Errors
    /// As [`Template::ids_to_codes`].
    pub fn ids_to_text(&self, ids: &[u32]) -> Result<String> {
        self.codes_to_text(&self.ids_to_codes(ids)?)
    }

    /// Images as ids, from their text.
    ///
    /// # Errors
    /// As [`Template::text_to_codes`].
    pub fn text_to_ids(&self, text: &str) -> Result<Vec<u32>> {
        self.codes_to_ids(&self.text_to_codes(text)?)
    }
}

#[cfg(test)]
mod tests;
