//! Captions -> token ids and masks for the Q-Former's text branch.

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};

use crate::{
    contrast::ContrastConfig,
    error::{Error, Result},
    scenes,
    wordpiece::{Tokens, WordPiece},
};

use super::data::{DataOptions, PairOptions};

/// Tokens in front of words: padding, and the one that begins a caption, whose state is the caption's embedding.
const SPECIAL: usize = 2;
/// The token that begins a caption.
const BEGIN: i64 = 1;

/// How captions become tokens.
#[derive(Clone, Debug)]
pub(super) enum Captions {
    /// The words of scenes.
    Scenes(Vec<String>),
    /// A vocabulary of BERT's kind.
    Pieces(Box<WordPiece>),
}

impl Captions {
    /// By the vocabulary that the data name, or else by the words of scenes.
    ///
    /// # Errors
    /// As [`WordPiece::open`].
    pub(super) fn open(data: &DataOptions) -> Result<Self> {
        match data {
            DataOptions::Pairs(PairOptions { tokenizer: Some(path), caption_tokens, .. }) => {
                Ok(Self::Pieces(Box::new(WordPiece::open(path, *caption_tokens)?)))
            }
            _ => Ok(Self::Scenes(scenes::words().into_iter().map(str::to_owned).collect())),
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
        let rows = captions.iter().map(|caption| self.ids(caption)).collect::<Result<Vec<_>>>()?;
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

    fn ids(&self, caption: &str) -> Result<Vec<i64>> {
        match self {
            Self::Scenes(words) => {
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
            Self::Pieces(pieces) => {
                let Tokens { ids, mask, .. } = pieces.encode(&[caption.to_owned()])?;
                Ok(ids.into_iter().zip(mask).filter_map(|(id, own)| own.then_some(i64::from(id))).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use burn_flex::Flex;

    use super::*;

    fn rows(captions: &Captions, texts: &[&str]) -> (Vec<i64>, Vec<f32>, [usize; 2]) {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        let (ids, mask) = captions.tensors::<Flex>(&texts, &Default::default()).unwrap();
        let dims = ids.dims();
        (ids.into_data().iter::<i64>().collect(), mask.into_data().iter::<f32>().collect(), dims)
    }

    #[test]
    fn captions_are_cut_by_the_vocabulary_that_the_data_name() {
        let vocabulary = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/wordpiece/vocab.txt");
        let options = PairOptions {
            tokenizer: Some(vocabulary.into()),
            caption_tokens: 6,
            ..PairOptions::new(vec!["images".to_owned()])
        };
        let captions = Captions::open(&DataOptions::Pairs(options)).unwrap();
        assert_eq!(captions.vocabulary(), 85);
        // [CLS] a dog [SEP], and the other one cut to six tokens; as long as the longest.
        let (ids, mask, dims) = rows(&captions, &["A dog", "a photo of two dogs"]);
        assert_eq!(dims, [2, 6]);
        assert_eq!(ids, [3, 6, 17, 4, 0, 0, 3, 6, 19, 8, 13, 4]);
        assert_eq!(mask, [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(rows(&captions, &["cat"]).2, [1, 3]);
    }

    #[test]
    fn without_a_vocabulary_captions_are_of_the_words_of_scenes() {
        let captions = Captions::open(&DataOptions::default()).unwrap();
        let (ids, mask, dims) = rows(&captions, &["a", ""]);
        assert_eq!((dims, ids[0], ids[2..].to_vec()), ([2, 2], BEGIN, vec![BEGIN, 0]));
        assert_eq!(mask, [1.0, 1.0, 1.0, 0.0]);
        let error =
            captions.tensors::<Flex>(&["a xylophone".to_owned()], &Default::default()).err().unwrap().to_string();
        assert!(error.contains("xylophone") && error.contains("tokenizer"), "{error}");
    }
}
