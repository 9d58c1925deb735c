//! Captions -> token ids `[captions, length]`: BERT's WordPiece over a given vocabulary.
//!
//! Reference: `BertTokenizer` of transformers as BLIP-2 and SEED call it (`padding="max_length", truncation=True`, 32 tokens,
//! the vocabulary of bert-base-uncased), by the crate `tokenizers`, which is transformers' own: control characters out, spaces
//! around Chinese characters, lower case without accents, split at spaces and punctuation, then the longest pieces
//! first. BLIP-2 adds the token `[DEC]` behind the vocabulary; no caption has it here, so that its tables have one row
//! more than [`WordPiece::vocabulary`].

use std::path::Path;

use tokenizers::{
    AddedToken, Encoding, ModelWrapper, PaddingDirection, PaddingParams, PaddingStrategy, Tokenizer, TruncationParams,
    models::wordpiece, normalizers::BertNormalizer, pre_tokenizers::bert::BertPreTokenizer,
    processors::bert::BertProcessing,
};

use crate::error::{Error, Result};

const PAD: &str = "[PAD]";
const UNKNOWN: &str = "[UNK]";
/// Begins a caption; its state is what stage 1 contrasts.
const BEGIN: &str = "[CLS]";
const END: &str = "[SEP]";
/// What every vocabulary has.
const SPECIAL: [&str; 4] = [PAD, UNKNOWN, BEGIN, END];
/// What some have besides.
const MASK: &str = "[MASK]";

/// A vocabulary, and how long captions may be.
#[derive(Clone, Debug)]
pub struct WordPiece {
    tokenizer: Tokenizer,
    length: usize,
    vocabulary: usize,
}

/// Captions as ids, all of one length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// `[captions, length]`, row after row; a caption begins with `[CLS]`, ends with `[SEP]`, and is padded with `[PAD]`.
    pub ids: Vec<i32>,
    /// `[captions, length]`: whether a token is one of the caption's.
    pub mask: Vec<bool>,
    /// Tokens of a row.
    pub length: usize,
}

impl WordPiece {
    /// Reads a `vocab.txt`, one token a line, for captions without upper case and accents; or a `tokenizer.json`, which says
    /// itself what becomes of them. Captions are cut to `length` tokens and padded to as many.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::Config`] for a file that is no WordPiece or lacks a special token; [`Error::Argument`] for
    /// a length that leaves no room between `[CLS]` and `[SEP]`.
    pub fn open(path: &Path, length: usize) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let fail = |reason: String| Error::Config { file: path.display().to_string(), reason };
        if path.extension().is_some_and(|ending| ending == "json") {
            let tokenizer =
                Tokenizer::from_bytes(&bytes).map_err(|error| fail(format!("it is no tokenizer.json: {error}")))?;
            if !matches!(tokenizer.get_model(), ModelWrapper::WordPiece(_)) {
                return Err(fail("its model is not WordPiece; give the tokenizer of a BERT".to_owned()));
            }
            return Self::new(tokenizer, length, fail);
        }
        Self::of_lines(&bytes, length, fail)
    }

    /// A vocabulary of whole words and punctuation, for captions that are made of them.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of_words<'a>(words: impl IntoIterator<Item = &'a str>, length: usize) -> Result<Self> {
        let lines: Vec<&str> = SPECIAL.into_iter().chain([",", "."]).chain(words).collect();
        let fail = |reason| Error::Config { file: "the list of words".to_owned(), reason };
        Self::of_lines(lines.join("\n").as_bytes(), length, fail)
    }

    fn of_lines(lines: &[u8], length: usize, fail: impl Fn(String) -> Error) -> Result<Self> {
        let vocabulary = wordpiece::WordPiece::read_bytes(lines)
            .map_err(|error| fail(format!("it is no list of tokens, one a line: {error}")))?;
        let model = wordpiece::WordPiece::builder().vocab(vocabulary).unk_token(UNKNOWN.to_owned()).build();
        let mut tokenizer = Tokenizer::new(model.map_err(|error| fail(error.to_string()))?);
        let known: Vec<AddedToken> = SPECIAL
            .into_iter()
            .chain([MASK])
            .filter(|token| tokenizer.token_to_id(token).is_some())
            .map(|token| AddedToken::from(token, true))
            .collect();
        tokenizer.add_special_tokens(&known);
        tokenizer.with_normalizer(Some(BertNormalizer::default())).with_pre_tokenizer(Some(BertPreTokenizer));
        if let (Some(end), Some(begin)) = (tokenizer.token_to_id(END), tokenizer.token_to_id(BEGIN)) {
            let process = BertProcessing::new((END.to_owned(), end), (BEGIN.to_owned(), begin));
            tokenizer.with_post_processor(Some(process));
        }
        Self::new(tokenizer, length, fail)
    }

    /// With truncation and padding, whatever the tokenizer has of its own.
    fn new(mut tokenizer: Tokenizer, length: usize, fail: impl Fn(String) -> Error) -> Result<Self> {
        if length < 3 {
            let reason = "a caption has a token between those that begin and end it, so at least 3".to_owned();
            return Err(Error::Argument { name: "caption tokens", value: length.to_string(), reason });
        }
        let missing: Vec<&str> = SPECIAL.into_iter().filter(|token| tokenizer.token_to_id(token).is_none()).collect();
        if !missing.is_empty() {
            let reason = format!("its vocabulary has no {}; give the vocabulary of a BERT", missing.join(", "));
            return Err(fail(reason));
        }
        let padding = PaddingParams {
            strategy: PaddingStrategy::Fixed(length),
            direction: PaddingDirection::Right,
            pad_to_multiple_of: None,
            pad_id: tokenizer.token_to_id(PAD).unwrap_or_default(),
            pad_type_id: 0,
            pad_token: PAD.to_owned(),
        };
        let truncation = TruncationParams { max_length: length, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|error| fail(error.to_string()))?;
        tokenizer.with_padding(Some(padding));
        let ids = tokenizer.get_vocab(true).into_values();
        let vocabulary = ids.max().map_or(0, |id| id as usize + 1);
        let tokenizer = Self { tokenizer, length, vocabulary };
        let empty = tokenizer.encode(&[String::new()])?.ids;
        if [empty[0], empty[1]].map(|id| tokenizer.tokenizer.id_to_token(id as u32))
            != [BEGIN, END].map(|token| Some(token.to_owned()))
        {
            return Err(fail(format!("it does not put captions between {BEGIN} and {END}, as a BERT's does")));
        }
        Ok(tokenizer)
    }

    /// Ids are below this.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Tokens of a caption, padding counted in.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Captions -> ids.
    ///
    /// # Errors
    /// [`Error::Argument`] for a caption on which a tokenizer of a file's own kind gives up.
    pub fn encode(&self, captions: &[String]) -> Result<Tokens> {
        let mut tokens = Tokens { ids: Vec::new(), mask: Vec::new(), length: self.length };
        for caption in captions {
            let encoding: Encoding = self.tokenizer.encode(caption.as_str(), true).map_err(|error| {
                Error::Argument { name: "caption", value: caption.clone(), reason: error.to_string() }
            })?;
            tokens.ids.extend(encoding.get_ids().iter().map(|&id| id as i32));
            tokens.mask.extend(encoding.get_attention_mask().iter().map(|&own| own == 1));
        }
        Ok(tokens)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde::Deserialize;

    use super::*;

    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/wordpiece");

    #[derive(Deserialize)]
    struct Case {
        text: String,
        length: usize,
        ids: Vec<i32>,
        mask: Vec<i32>,
    }

    fn cases() -> Vec<Case> {
        serde_json::from_slice(&fs::read(format!("{GOLDEN}/cases.json")).unwrap()).unwrap()
    }

    #[test]
    fn captions_become_the_ids_of_transformers() {
        let cases = cases();
        assert!(cases.len() > 40);
        for file in ["vocab.txt", "tokenizer.json"] {
            for Case { text, length, ids, mask } in &cases {
                let tokenizer = WordPiece::open(format!("{GOLDEN}/{file}").as_ref(), *length).unwrap();
                let got = tokenizer.encode(std::slice::from_ref(text)).unwrap();
                assert_eq!(got.ids, *ids, "{file}: {text:?}");
                assert_eq!(got.mask, mask.iter().map(|&own| own == 1).collect::<Vec<_>>(), "{file}: {text:?}");
                assert_eq!(got.length, *length);
            }
        }
    }

    #[test]
    fn captions_of_a_batch_are_rows() {
        let tokenizer = WordPiece::of_words(["a", "red", "square"], 6).unwrap();
        let captions = ["A red square.", "a blue square, a red square"].map(str::to_owned);
        let tokens = tokenizer.encode(&captions).unwrap();
        // [PAD] [UNK] [CLS] [SEP] , . a red square
        assert_eq!(tokens.ids, [2, 6, 7, 8, 5, 3, 2, 6, 1, 8, 4, 3]);
        let short = tokenizer.encode(&["square".to_owned()]).unwrap();
        assert_eq!(short.ids, [2, 8, 3, 0, 0, 0]);
        assert_eq!(short.mask, [true, true, true, false, false, false]);
        assert_eq!((tokenizer.vocabulary(), tokenizer.length()), (9, 6));
    }

    #[test]
    fn every_scene_is_told_in_the_words_of_scenes() {
        use crate::scenes::{Scene, Split, words};
        let tokenizer = WordPiece::of_words(words(), 64).unwrap();
        for index in 0..200 {
            let caption = Scene::sample(3, index, Split::Train).caption();
            let tokens = tokenizer.encode(std::slice::from_ref(&caption)).unwrap();
            assert!(!tokens.ids.contains(&1), "{caption}: {:?}", tokens.ids);
            assert_eq!(tokens.ids.last(), Some(&0), "{caption}: it is longer than {}", tokens.length);
        }
    }

    #[test]
    fn files_that_are_no_vocabulary_of_a_bert_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let say = |name: &str, bytes: &[u8], words: &[&str]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            let error = WordPiece::open(&path, 8).unwrap_err().to_string();
            words.iter().chain([&name]).for_each(|word| assert!(error.contains(word), "{word}: {error}"));
        };
        say("words.txt", b"[PAD]\n[UNK]\nred\n", &["[CLS], [SEP]"]);
        say("bytes.txt", &[0xff, 0xfe, 0, 1], &["one a line"]);
        say("other.json", b"{}", &["no tokenizer.json"]);
        let golden = fs::read_to_string(format!("{GOLDEN}/tokenizer.json")).unwrap();
        let mut json: serde_json::Value = serde_json::from_str(&golden).unwrap();
        json["post_processor"] = serde_json::Value::Null;
        say("bare.json", json.to_string().as_bytes(), &["between [CLS] and [SEP]"]);
        let bpe = r#"{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#;
        say("bpe.json", bpe.as_bytes(), &["not WordPiece"]);
        let error = WordPiece::open(&folder.path().join("none.txt"), 8).unwrap_err();
        assert!(matches!(error, Error::Read { .. }), "{error}");
        assert!(matches!(WordPiece::of_words(["a"], 2), Err(Error::Argument { .. })));
    }
}
