//! Documents of text and images -> sequences of one length for training: ids, labels, position ids, boundaries.
//!
//! A sequence holds several documents, and a document longer than a sequence goes on in another one. An image is never split.
//! Cross-entropy ignores labels of -100, the value that PyTorch takes for it by default; labels stand at the places of their
//! ids, and models shift them by one. Documents are to see only themselves: `cu_seqlens` is what attention of variable length
//! takes for that, and position ids that restart say the same.

use std::ops::Range;

use super::Template;
use crate::{
    codes::Codes,
    error::{Error, Result},
};

/// The label of an id that is not learned.
pub const IGNORED: i32 = -100;

/// A part of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Text, as ids of the tokenizer, without tokens of images.
    Text {
        /// The ids.
        ids: Vec<u32>,
        /// Whether they are learned; a prompt is not.
        loss: bool,
    },
    /// Images, one after the other.
    Images {
        /// Their codes.
        codes: Codes,
        /// Whether codes and marks are learned.
        loss: bool,
    },
}

/// How documents are packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackOptions {
    /// Ids of a sequence.
    pub length: usize,
    /// Id that fills a sequence up.
    pub pad_id: u32,
    /// Id before each document, never learned; nothing for none.
    pub bos_id: Option<u32>,
    /// Id after each document, learned if the last segment is; nothing for none.
    pub eos_id: Option<u32>,
    /// Sequences that are kept open for documents that fit in. More of them waste fewer places, and mix documents that lie
    /// farther apart.
    pub open: usize,
}

/// A document as ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// The ids.
    pub ids: Vec<u32>,
    /// For each id itself, or [`IGNORED`].
    pub labels: Vec<i32>,
    /// Where images are, marks included.
    pub images: Vec<Range<usize>>,
}

/// A run of a document in a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The document's number, in the order of arrival.
    pub document: u64,
    /// Ids of the document that other parts hold before this one.
    pub start: usize,
    /// Ids of this part.
    pub len: usize,
}

/// A sequence for training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// The ids, as many as [`PackOptions::length`].
    pub ids: Vec<u32>,
    /// For each id itself, or [`IGNORED`]: in prompts, at the beginning of each part, in padding.
    pub labels: Vec<i32>,
    /// Counted from 0 in each part, and in the padding.
    pub position_ids: Vec<u32>,
    /// Where parts begin, then the padding if there is some, then the length.
    pub cu_seqlens: Vec<u32>,
    /// What it holds.
    pub parts: Vec<Part>,
}

impl Sequence {
    /// Places that hold nothing.
    pub fn padding(&self) -> usize {
        self.ids.len() - self.parts.iter().map(|part| part.len).sum::<usize>()
    }
}

/// A sequence that is not full.
#[derive(Clone, Debug, Default)]
struct Open {
    tokens: Tokens,
    parts: Vec<Part>,
}

/// Packs documents into sequences: each goes to the fullest open sequence that has room for it.
#[derive(Clone, Debug)]
pub struct Packer {
    template: Template,
    options: PackOptions,
    open: Vec<Open>,
    documents: u64,
}

impl Packer {
    /// With nothing in it.
    ///
    /// # Errors
    /// [`Error::Argument`] for a length that no image fits into, no open sequence, and ids that are tokens of images.
    pub fn new(template: Template, options: PackOptions) -> Result<Self> {
        let fail = |name, value: u64, reason: String| Err(Error::Argument { name, value: value.to_string(), reason });
        let PackOptions { length, pad_id, bos_id, eos_id, open } = options;
        if length < template.block_len() || length > i32::MAX as usize {
            let reason =
                format!("an image is {} ids, which must fit in, and at most 2147483647 do", template.block_len());
            return fail("length", length as u64, reason);
        }
        if open == 0 {
            return fail("open", 0, "it must be at least 1".to_owned());
        }
        for (name, id) in [("pad_id", Some(pad_id)), ("bos_id", bos_id), ("eos_id", eos_id)] {
            if let Some(id) = id.filter(|&id| template.is_token(id) || id > i32::MAX as u32) {
                return fail(name, id.into(), "it must be an id of text".to_owned());
            }
        }
        Ok(Self { template, options, open: Vec::new(), documents: 0 })
    }

    /// A document as ids, with what stands before and after each, however long.
    ///
    /// # Errors
    /// [`Error::CodeCount`] and [`Error::CodeOutOfRange`] for codes of another model; [`Error::Argument`] for text that holds
    /// tokens of images.
    pub fn tokens(&self, document: &[Segment]) -> Result<Tokens> {
        let mut tokens = Tokens::default();
        let mut last = false;
        tokens.extend(self.options.bos_id.as_slice(), false);
        for segment in document {
            match segment {
                Segment::Text { ids, loss } => {
                    let wrong = |&&id: &&u32| self.template.is_token(id) || id > i32::MAX as u32;
                    if let Some(id) = ids.iter().find(wrong) {
                        let reason =
                            "text has no tokens of images; give images as codes, which an IdParser finds in ids";
                        return Err(Error::Argument { name: "ids", value: id.to_string(), reason: reason.to_owned() });
                    }
                    tokens.extend(ids, *loss);
                    last = *loss;
                }
                Segment::Images { codes, loss } => {
                    for block in self.template.codes_to_ids(codes)?.chunks_exact(self.template.block_len()) {
                        let start = tokens.ids.len();
                        tokens.extend(block, *loss);
                        tokens.images.push(start..tokens.ids.len());
                    }
                    last = *loss;
                }
            }
        }
        tokens.extend(self.options.eos_id.as_slice(), last);
        Ok(tokens)
    }

    /// Takes a document, and gives the sequences that are complete. One with no ids, whatever stands around it, is none.
    ///
    /// # Errors
    /// As [`Packer::tokens`]; the document is left out then.
    pub fn push(&mut self, document: &[Segment]) -> Result<Vec<Sequence>> {
        let tokens = self.tokens(document)?;
        let number = self.documents;
        self.documents += 1;
        let around = usize::from(self.options.bos_id.is_some()) + usize::from(self.options.eos_id.is_some());
        let mut complete = Vec::new();
        if tokens.ids.len() == around {
            return Ok(complete);
        }
        for range in split(&tokens, self.options.length) {
            let part = Part { document: number, start: range.start, len: range.len() };
            let room = |open: &Open| self.options.length - open.tokens.ids.len();
            let fits = self.open.iter().enumerate().filter(|(_, open)| room(open) >= part.len);
            let place = match fits.min_by_key(|(_, open)| room(open)) {
                Some((place, _)) => place,
                None => {
                    if self.open.len() == self.options.open
                        && let Some((fullest, _)) = self.open.iter().enumerate().min_by_key(|(_, open)| room(open))
                    {
                        complete.push(self.close(fullest));
                    }
                    self.open.push(Open::default());
                    self.open.len() - 1
                }
            };
            let open = &mut self.open[place];
            open.tokens.ids.extend_from_slice(&tokens.ids[range.clone()]);
            // What comes before the first id is not its document's.
            open.tokens.labels.push(IGNORED);
            open.tokens.labels.extend_from_slice(&tokens.labels[range.start + 1..range.end]);
            open.parts.push(part);
            if open.tokens.ids.len() == self.options.length {
                complete.push(self.close(place));
            }
        }
        Ok(complete)
    }

    /// Gives the sequences that are not full, filled up.
    pub fn finish(&mut self) -> Vec<Sequence> {
        (0..self.open.len()).map(|_| self.close(0)).collect()
    }

    fn close(&mut self, place: usize) -> Sequence {
        let Open { tokens: Tokens { mut ids, mut labels, .. }, parts } = self.open.remove(place);
        let length = self.options.length;
        let mut runs: Vec<usize> = parts.iter().map(|part| part.len).collect();
        runs.extend(Some(length - ids.len()).filter(|&padding| padding > 0));
        ids.resize(length, self.options.pad_id);
        labels.resize(length, IGNORED);
        let position_ids = runs.iter().flat_map(|&run| 0..run as u32).collect();
        let ends = runs.iter().scan(0, |end, &run| {
            *end += run as u32;
            Some(*end)
        });
        let cu_seqlens = [0].into_iter().chain(ends).collect();
        Sequence { ids, labels, position_ids, cu_seqlens, parts }
    }
}

impl Tokens {
    fn extend(&mut self, ids: &[u32], loss: bool) {
        self.ids.extend_from_slice(ids);
        self.labels.extend(ids.iter().map(|&id| if loss { id as i32 } else { IGNORED }));
    }
}

/// Cuts a document into parts of at most `length` ids: as long as they can be without a cut in an image.
fn split(tokens: &Tokens, length: usize) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = 0;
    while tokens.ids.len() - start > length {
        let cut = start + length;
        let within = tokens.images.iter().find(|image| image.start < cut && cut < image.end);
        let end = within.map_or(cut, |image| image.start);
        parts.push(start..end);
        start = end;
    }
    parts.push(start..tokens.ids.len());
    parts
}

#[cfg(test)]
mod tests;
