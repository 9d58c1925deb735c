//! Captions -> token ids and masks for the Q-Former's text branch.

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};

use crate::{
    contrast::ContrastConfig,
    error::{Error, Result},
    scenes,
    wordpiece::{Tokens, WordPiece},
};

use super::data::DataOptions;

/// Tokens in front of words: padding, and the one that begins a caption, whose state is the caption's embedding.
const SPECIAL: usize = 2;
/// The token that begins a caption.
const BEGIN: i64 = 1;

/// How captions become tokens.
#[derive(Clone, Debug)]
pub(super) enum Captions {
    /// The words of scenes.
    Scenes(Vec<String>),
    /// A vocabulary of pieces of words.
    Pieces(Box<WordPiece>),
}

impl Captions {
    /// The words of scenes.
    pub(super) fn of_scenes() -> Self {
        Self::Scenes(scenes::words().into_iter().map(str::to_owned).collect())
    }

    /// As the data name it.
    ///
    /// # Errors
    /// A vocabulary that cannot be read.
    pub(super) fn of(data: &DataOptions) -> Result<Self> {
        match data {
            DataOptions::Pairs(pairs) => match &pairs.tokenizer {
                Some(path) => Ok(Self::Pieces(Box::new(WordPiece::open(path, pairs.caption_tokens)?))),
                None => Ok(Self::of_scenes()),
            },
            DataOptions::Scenes {} => Ok(Self::of_scenes()),
        }
    }

    /// Number of tokens that there are.
    pub(super) fn vocabulary(&self) -> usize {
        match self {
            Self::Scenes(words) => words.len() + SPECIAL,
            Self::Pieces(pieces) => pieces.vocabulary(),
        }
    }

    /// Captions -> ids and mask (1 for a token, 0 for padding), both `[captions, tokens]`, as long as the longest of them.
    ///
    /// # Errors
    /// [`Error::Argument`] for a caption with a word that there is not.
    pub(super) fn tensors<B: Backend>(
        &self,
        captions: &[String],
        device: &B::Device,
    ) -> Result<(Tensor<B, 2, Int>, Tensor<B, 2>)> {
        let words = match self {
            Self::Scenes(words) => words,
            Self::Pieces(pieces) => {
                let Tokens { ids, mask, length } = pieces.encode(captions)?;
                let shape = [captions.len(), length];
                let mask: Vec<f32> = mask.into_iter().map(|own| f32::from(u8::from(own))).collect();
                let ids = Tensor::from_data(TensorData::new(ids, shape), device);
                return Ok((ids, Tensor::from_data(TensorData::new(mask, shape), device)));
            }
        };
        let rows = captions.iter().map(|caption| of_words(words, caption)).collect::<Result<Vec<_>>>()?;
        let tokens = rows.iter().map(Vec::len).max().unwrap_or(0);
        let shape = [captions.len(), tokens];
        let padded = |of: fn(i64) -> i64, padding: i64| -> Vec<i64> {
            let row = |row: &Vec<i64>| {
                let mut row: Vec<i64> = row.iter().map(|&id| of(id)).collect();
                row.resize(tokens, padding);
                row
            };
            rows.iter().flat_map(row).collect()
        };
        let ids = Tensor::from_data(TensorData::new(padded(|id| id, 0), shape), device);
        let mask = Tensor::<B, 2, Int>::from_data(TensorData::new(padded(|_| 1, 0), shape), device);
        Ok((ids, mask.float()))
    }
}

/// A caption of the words of scenes -> ids.
fn of_words(words: &[String], caption: &str) -> Result<Vec<i64>> {
    let id = |word: String| match words.iter().position(|known| *known == word) {
        Some(place) => Ok((place + SPECIAL) as i64),
        None => Err(Error::Argument {
            name: "caption",
            value: caption.to_owned(),
            reason: format!(
                "{word:?} is no word of scenes; captions of other data need a vocabulary: name one as tokenizer in [data]"
            ),
        }),
    };
    std::iter::once(Ok(BEGIN)).chain(ContrastConfig::split(caption).map(id)).collect()
}
