//! Captions and codes -> the sequences that the language model reads, and batches of them.
//!
//! | order | sequence |
//! |---|---|
//! | caption alone | `<s> words </s>` |
//! | image -> caption | `<s> <img> codes </img> words </s>` |
//! | caption -> image | `<s> words <img> codes </img> </s>` |
//!
//! Ids as in SEED-LLaMA: the words' first, then the codes, `<img>` and `</img>` last. Positions tell roles rather than places in
//! the sequence: word `i` has the same one in every order, and so has code `i`. A model of this size would spend its few steps
//! on learning to count from where an image begins.

use std::borrow::Borrow;

use burn::tensor::{Int, Tensor, TensorData, activation::log_softmax, backend::Backend};
use seed_core::{llm::Template, nn::SeedBackend, scenes};

use crate::model::LanguageModel;

/// Begins every sequence.
pub(crate) const BEGIN: u32 = 0;
/// Ends every sequence, and fills what is shorter than the longest of a batch.
pub(crate) const END: u32 = 1;
/// Tokens that are neither words nor of an image.
const SPECIAL: usize = 2;
/// Most words of a caption.
pub(crate) const MAX_WORDS: usize = 44;

/// Which id means what.
#[derive(Clone, Debug)]
pub(crate) struct Vocabulary {
    words: Vec<&'static str>,
    template: Template,
}

/// What a sequence shows, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Caption,
    ImageCaption,
    CaptionImage,
}

/// One sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) ids: Vec<u32>,
    pub(crate) positions: Vec<u32>,
    /// How many of the first tokens are given, rather than to be predicted.
    given: usize,
}

impl Vocabulary {
    /// The words of scenes, and images of `codes` codes below `codebook`.
    pub(crate) fn new(codes: usize, codebook: usize) -> anyhow::Result<Self> {
        let words = scenes::words();
        let template = Template::for_codebook(codebook, codes, (SPECIAL + words.len()) as u32)?;
        Ok(Self { words, template })
    }

    /// How images are written.
    pub(crate) fn template(&self) -> &Template {
        &self.template
    }

    /// Tokens of captions alone.
    pub(crate) fn text_tokens(&self) -> usize {
        SPECIAL + self.words.len()
    }

    /// Positions of captions alone.
    pub(crate) fn text_positions(&self) -> usize {
        1 + MAX_WORDS
    }

    /// Positions that images add.
    pub(crate) fn image_positions(&self) -> usize {
        self.template.block_len()
    }

    /// Words out of ids; what is no word is left out.
    pub(crate) fn text(&self, ids: &[u32]) -> String {
        let words = ids.iter().filter_map(|&id| self.words.get((id as usize).checked_sub(SPECIAL)?).copied());
        words.collect::<Vec<_>>().join(" ")
    }

    /// A caption's words as ids; commas and the case of letters say nothing.
    pub(crate) fn caption_ids(&self, caption: &str) -> anyhow::Result<Vec<u32>> {
        let words = caption.split_whitespace().map(|word| word.trim_matches([',', '.']).to_lowercase());
        let ids = words.filter(|word| !word.is_empty()).map(|word| {
            let index = self.words.binary_search(&word.as_str());
            index.map(|index| (SPECIAL + index) as u32).map_err(|_| {
                anyhow::anyhow!("{word:?} is no word of captions; they are made of: {}", self.words.join(" "))
            })
        });
        let ids = ids.collect::<anyhow::Result<Vec<u32>>>()?;
        anyhow::ensure!(
            !ids.is_empty(),
            "the caption is empty; describe a scene, for example: a small red plain circle"
        );
        anyhow::ensure!(ids.len() <= MAX_WORDS, "the caption has {} words; the model reads {MAX_WORDS}", ids.len());
        Ok(ids)
    }

    /// The sequence of a caption's words, and of an image's block where the order asks for one.
    pub(crate) fn sequence(&self, order: Order, words: &[u32], image: &[u32]) -> Sequence {
        let mut sequence = Sequence::begin();
        match order {
            Order::Caption => self.push_words(&mut sequence, words),
            Order::ImageCaption => {
                self.push_image(&mut sequence, image);
                sequence.given = sequence.ids.len();
                self.push_words(&mut sequence, words);
            }
            Order::CaptionImage => {
                self.push_words(&mut sequence, words);
                sequence.given = sequence.ids.len();
                self.push_image(&mut sequence, image);
            }
        }
        sequence.ids.push(END);
        sequence.positions.push(0); // an end is only ever predicted
        sequence
    }

    /// Appends words from the caption's first on.
    pub(crate) fn push_words(&self, sequence: &mut Sequence, words: &[u32]) {
        sequence.ids.extend_from_slice(words);
        sequence.positions.extend((1..).take(words.len()));
    }

    /// Appends an image's block, or the beginning of one.
    pub(crate) fn push_image(&self, sequence: &mut Sequence, image: &[u32]) {
        sequence.ids.extend_from_slice(image);
        sequence.positions.extend((self.text_positions() as u32..).take(image.len()));
    }
}

impl Sequence {
    /// `<s>`.
    pub(crate) fn begin() -> Self {
        Self { ids: vec![BEGIN], positions: vec![0], given: 1 }
    }
}

/// Sequences as tensors, and the tokens that are to be predicted.
#[derive(Debug)]
pub(crate) struct Batch<B: Backend> {
    ids: Tensor<B, 2, Int>,
    positions: Tensor<B, 2, Int>,
    /// Rows of `[batch * tokens]` whose next token is to be predicted.
    rows: Tensor<B, 1, Int>,
    /// Those next tokens.
    next: Tensor<B, 1, Int>,
    /// Which of them are of an image.
    is_image: Vec<bool>,
}

impl<B: Backend> Batch<B> {
    /// Pads the sequences on the right.
    pub(crate) fn new(sequences: &[Sequence], vocabulary: &Vocabulary, device: &B::Device) -> Self {
        let (ids, positions) = tensors(sequences, device);
        let [_, tokens] = ids.dims();
        let (mut rows, mut next) = (Vec::new(), Vec::new());
        for (i, sequence) in sequences.iter().enumerate() {
            for (j, &id) in sequence.ids.iter().enumerate().skip(sequence.given) {
                rows.push((i * tokens + j - 1) as i32);
                next.push(id as i32);
            }
        }
        let is_image = next.iter().map(|&id| vocabulary.template.is_token(id as u32)).collect();
        let tensor = |values: Vec<i32>| {
            let count = values.len();
            Tensor::from_data(TensorData::new(values, [count]), device)
        };
        Self { ids, positions, rows: tensor(rows), next: tensor(next), is_image }
    }
}

/// Ids and positions of sequences `[batch, tokens]`, padded on the right, where no token sees the padding.
pub(crate) fn tensors<B: Backend, S: Borrow<Sequence>>(
    sequences: &[S],
    device: &B::Device,
) -> (Tensor<B, 2, Int>, Tensor<B, 2, Int>) {
    let longest = sequences.iter().map(|sequence| sequence.borrow().ids.len()).max().unwrap_or(0);
    let padded = |values: fn(&Sequence) -> &[u32], fill: u32| {
        let row =
            |sequence: &S| values(sequence.borrow()).to_vec().into_iter().chain(std::iter::repeat(fill)).take(longest);
        let all: Vec<i32> = sequences.iter().flat_map(row).map(|value| value as i32).collect();
        Tensor::from_data(TensorData::new(all, [sequences.len(), longest]), device)
    };
    (padded(|sequence| &sequence.ids, END), padded(|sequence| &sequence.positions, 0))
}

/// Mean negative logarithm of the probability of the tokens to be predicted, and the means over words and over an image's.
pub(crate) fn loss<B: SeedBackend>(
    model: &LanguageModel<B>,
    batch: Batch<B>,
) -> (Tensor<B, 1>, Vec<(&'static str, f64)>) {
    let Batch { ids, positions, rows, next, is_image } = batch;
    let features = model.forward(ids, positions).select(0, rows); // [rows, width]
    let likelihood = log_softmax(model.logits(features), 1).gather(1, next.unsqueeze_dim(1)); // [rows, 1]
    let each: Vec<f32> = likelihood.clone().into_data().iter::<f32>().collect();
    let mean = |(name, of_image)| {
        let part = is_image.iter().zip(&each).filter(|(is_image, _)| **is_image == of_image);
        let (count, sum) = part.fold((0u32, 0.0), |(count, sum), (_, value)| (count + 1, sum - f64::from(*value)));
        (count > 0).then(|| (name, sum / f64::from(count)))
    };
    let means = [("words", false), ("codes", true)].into_iter().filter_map(mean).collect();
    (likelihood.mean().neg(), means)
}
