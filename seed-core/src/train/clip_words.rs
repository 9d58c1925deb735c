//! Captions -> token ids for CLIP's text tower: byte-level pairs (transformers 4.30.2, `CLIPTokenizer`).
//!
//! Text is lowered and cut into words, runs of letters, single digits and runs of other signs; a word's bytes are merged by
//! the ranks of `merges.txt`. Differences from the reference: what a letter is follows Rust's Unicode tables, which count
//! combining vowel signs in; signs that are written in two parts are not composed; no repair of wrongly decoded text
//! (`ftfy`), as transformers without that package.

use std::{collections::HashMap, path::Path};

use crate::{
    checkpoint::Files,
    diffusion::empty_prompt,
    error::{Error, Result},
};

/// Files of the tokenizer.
const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";
/// What follows a word's last letter in the vocabulary.
const END: &str = "</w>";
/// Endings that are words of their own.
const ENDINGS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];

/// The vocabulary and its merges.
#[derive(Clone, Debug)]
pub(super) struct ClipWords {
    ids: HashMap<String, i64>,
    ranks: HashMap<(String, String), usize>,
    /// Begin and end of text and padding, as long as every text becomes.
    empty: Vec<i64>,
}

impl ClipWords {
    /// The tokenizer in `folder`, in its folder `tokenizer` or beside it; texts become `length` tokens.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::Config`] for files that are no such tokenizer.
    pub(super) fn open(folder: &Path, length: usize) -> Result<Self> {
        let files = Files::folder(folder);
        let files = if files.exists(VOCABULARY) { files } else { files.sub("tokenizer") };
        let ids: HashMap<String, i64> = files.json(VOCABULARY)?;
        let merges = files.bytes(MERGES)?;
        let fail = |reason: String| Error::Config { file: files.describe(MERGES), reason };
        let merges = std::str::from_utf8(&merges).map_err(|error| fail(error.to_string()))?;
        let mut ranks = HashMap::new();
        for (number, line) in merges.lines().enumerate() {
            match line.split_once(' ') {
                _ if line.starts_with("#version") || line.trim().is_empty() => {}
                Some((left, right)) => {
                    ranks.entry((left.to_owned(), right.to_owned())).or_insert(number);
                }
                None => return Err(fail(format!("line {} is no pair: {line:?}", number + 1))),
            }
        }
        if length < 2 {
            return Err(fail(format!("texts of {length} tokens hold no words")));
        }
        Ok(Self { ids, ranks, empty: empty_prompt::token_ids(&files, length)? })
    }

    /// One more than the largest id.
    pub(super) fn vocabulary(&self) -> usize {
        self.ids.values().max().map_or(0, |&id| id as usize + 1)
    }

    /// Tokens of every text.
    pub(super) fn length(&self) -> usize {
        self.empty.len()
    }

    /// A caption's ids: begin, tokens, end, padding; what is too long is cut off.
    pub(super) fn ids(&self, caption: &str) -> Vec<i64> {
        let (begin, end) = (self.empty[0], self.empty[1]);
        let mut ids = self.empty.clone();
        let caption = caption.to_lowercase();
        let words = words(&caption);
        let tokens = words.iter().flat_map(|word| self.merge(word)).map(|token| self.ids.get(&token).copied());
        // Bytes are all in a vocabulary that is whole; what one lacks is the end token, as there.
        let tokens: Vec<i64> = tokens.map(|id| id.unwrap_or(end)).take(self.length() - 2).collect();
        ids[0] = begin;
        ids[1..1 + tokens.len()].copy_from_slice(&tokens);
        ids[1 + tokens.len()] = end;
        ids
    }

    /// The tokens of a word.
    fn merge(&self, word: &str) -> Vec<String> {
        let mut parts: Vec<String> = word.bytes().map(|byte| sign(byte).to_string()).collect();
        if let Some(last) = parts.last_mut() {
            last.push_str(END);
        }
        loop {
            let rank = |i: usize| self.ranks.get(&(parts[i].clone(), parts[i + 1].clone())).copied();
            let best = (0..parts.len().saturating_sub(1)).filter_map(|i| Some((rank(i)?, i))).min();
            let Some((best, _)) = best else { return parts };
            let mut merged: Vec<String> = Vec::with_capacity(parts.len());
            let mut i = 0;
            while i < parts.len() {
                let pair = i + 1 < parts.len() && rank(i) == Some(best);
                merged.push(if pair { format!("{}{}", parts[i], parts[i + 1]) } else { parts[i].clone() });
                i += if pair { 2 } else { 1 };
            }
            parts = merged;
        }
    }
}

/// The printable sign that stands for a byte in the vocabulary: itself, or one from 256 on.
fn sign(byte: u8) -> char {
    let itself = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match itself(byte) {
        true => char::from(byte),
        false => {
            let before = (0..byte).filter(|&byte| !itself(byte)).count() as u32;
            char::from_u32(256 + before).expect("signs from 256 to 511 are letters")
        }
    }
}

/// Cuts text into words.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let run = |of: fn(char) -> bool| rest.find(|c| !of(c)).unwrap_or(rest.len());
        let other = |c: char| !c.is_whitespace() && !c.is_alphabetic() && !c.is_numeric();
        let length = match ENDINGS.iter().find(|ending| rest.starts_with(**ending)) {
            Some(ending) => ending.len(),
            None if first.is_alphabetic() => run(char::is_alphabetic),
            None if first.is_numeric() => first.len_utf8(),
            None => run(other),
        };
        words.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_as_the_reference_cuts_it() {
        for (text, expected) in [
            ("a photo of 12 cats!!", vec!["a", "photo", "of", "1", "2", "cats", "!!"]),
            ("  it's   ok, isn't it?", vec!["it", "'s", "ok", ",", "isn", "'t", "it", "?"]),
            ("they'll \u{201c}go\u{201d} caf\u{e9}\n", vec!["they", "'ll", "\u{201c}", "go", "\u{201d}", "caf\u{e9}"]),
            ("'quoted' <b>x2</b>", vec!["'", "quoted", "'", "<", "b", ">", "x", "2", "</", "b", ">"]),
            ("", vec![]),
        ] {
            assert_eq!(words(text), expected, "{text:?}");
        }
    }

    #[test]
    fn bytes_have_signs_of_their_own() {
        let signs: std::collections::BTreeSet<char> = (0..=255).map(sign).collect();
        assert_eq!(signs.len(), 256);
        assert_eq!([sign(b'a'), sign(b' '), sign(0), sign(0xe9)], ['a', '\u{120}', '\u{100}', '\u{e9}']);
    }

    #[test]
    fn pairs_merge_by_their_ranks() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write(
            VOCABULARY,
            r#"{"<s>": 0, "<e>": 1, "l": 2, "o": 3, "w</w>": 4, "lo": 5, "low</w>": 6, "e": 7, "r</w>": 8, "er</w>": 9, "w": 10}"#,
        );
        write(MERGES, "#version: 0.2\nl o\ne r</w>\nlo w</w>\n");
        write("special_tokens_map.json", r#"{"bos_token": "<s>", "eos_token": "<e>"}"#);
        let words = ClipWords::open(folder.path(), 8).unwrap();
        assert_eq!(words.vocabulary(), 11);
        assert_eq!(words.ids("low lower"), [0, 6, 5, 10, 9, 1, 1, 1]);
        assert_eq!(words.ids("LOW"), [0, 6, 1, 1, 1, 1, 1, 1]);
        assert_eq!(words.ids("low low low low low low low low"), [0, 6, 6, 6, 6, 6, 6, 1], "cut off");
        assert_eq!(words.ids(""), [0, 1, 1, 1, 1, 1, 1, 1]);
        write(MERGES, "lo\n");
        assert!(ClipWords::open(folder.path(), 8).unwrap_err().to_string().contains("line 1"));
    }
}
