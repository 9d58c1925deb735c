//! Prompts -> tokens: captions of codes, word by word, and codes of captions, exactly as many as an image has.
//!
//! Every step runs the whole prefix again: sequences are short, and a cache of keys and values would be the longest part of
//! this file. What may come next is decided by the place, not by the model: in an image what `seed_core::llm::Constraint`
//! allows, in a caption words and its end.

use anyhow::ensure;
use burn::tensor::{Int, Tensor, TensorData};
use burn_flex::Flex;
use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use seed_core::{
    Codes,
    llm::{Constraint, Reply},
};
use serde::{Deserialize, Serialize};

use crate::{
    model::LanguageModel,
    progress::Progress,
    sequence::{END, MAX_WORDS, Sequence, Vocabulary, tensors},
};

/// Sequences that run at a time.
const AT_ONCE: usize = 64;

/// How a token is drawn from the model's probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sampling {
    /// Logits are divided by it; at 0 the most probable token is taken.
    pub(crate) temperature: f64,
    /// Only so many of the most probable tokens are drawn from.
    pub(crate) top_k: usize,
}

impl Sampling {
    /// Refuses what cannot be drawn from.
    pub(crate) fn check(self) -> anyhow::Result<()> {
        ensure!(self.top_k > 0, "sampling: top_k must not be 0");
        ensure!(self.temperature.is_finite() && self.temperature >= 0.0, "sampling: temperature must not be negative");
        Ok(())
    }

    /// An index of `logits`, of which one at least is finite.
    fn draw(self, logits: &[f32], rng: &mut ChaCha8Rng) -> usize {
        let best = most_probable(logits);
        if self.temperature == 0.0 {
            return best;
        }
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        order.truncate(self.top_k);
        let weight = |&index: &usize| (f64::from(logits[index] - logits[best]) / self.temperature).exp();
        let weights: Vec<f64> = order.iter().map(weight).collect();
        let mut left = uniform(rng) * weights.iter().sum::<f64>();
        let chosen = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        chosen.map_or(best, |chosen| order[chosen])
    }
}

/// The index of the largest of `logits`; the first of those that are equal.
fn most_probable(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, index| if logits[index] > logits[best] { index } else { best })
}

/// From 0 to 1, of 53 bits; written out, because `rand` may change what its ranges draw.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Images as blocks of ids -> the most probable words of each.
pub(crate) fn captions(model: &LanguageModel<Flex>, vocabulary: &Vocabulary, images: &[&[u32]]) -> Vec<Vec<u32>> {
    let progress = Progress::new(images.len(), 0, "captions");
    let mut captions = Vec::with_capacity(images.len());
    for chunk in images.chunks(AT_ONCE) {
        captions.extend(describe(model, vocabulary, chunk));
        progress.set(captions.len(), "");
    }
    captions
}

fn describe(model: &LanguageModel<Flex>, vocabulary: &Vocabulary, images: &[&[u32]]) -> Vec<Vec<u32>> {
    let text = END as usize..vocabulary.text_tokens(); // the end, and all words
    let prompt = |image: &&[u32]| {
        let mut sequence = Sequence::begin();
        vocabulary.push_image(&mut sequence, image);
        sequence
    };
    let mut sequences: Vec<Sequence> = images.iter().map(prompt).collect();
    let mut captions = vec![Vec::new(); images.len()];
    let mut open: Vec<usize> = (0..images.len()).collect();
    while !open.is_empty() {
        let logits = next(model, &open.iter().map(|&i| &sequences[i]).collect::<Vec<_>>());
        let mut still_open = Vec::new();
        for (i, logits) in open.into_iter().zip(logits) {
            let id = END + most_probable(&logits[text.clone()]) as u32;
            if id == END {
                continue;
            }
            captions[i].push(id);
            sequences[i].ids.push(id);
            sequences[i].positions.push(captions[i].len() as u32);
            if captions[i].len() < MAX_WORDS {
                still_open.push(i);
            }
        }
        open = still_open;
    }
    captions
}

/// Words of captions -> an image for each, drawn under `seed` and the caption's place.
pub(crate) fn images(
    model: &LanguageModel<Flex>,
    vocabulary: &Vocabulary,
    captions: &[Vec<u32>],
    sampling: Sampling,
    seed: u64,
) -> anyhow::Result<Codes> {
    let constraint = Constraint::new(vocabulary.template().clone(), Reply::Image, vec![END])?;
    let progress = Progress::new(captions.len(), 0, "images drawn as codes");
    let (mut drawn, mut done) = (vec![Vec::new(); captions.len()], 0);
    let mut order: Vec<usize> = (0..captions.len()).collect();
    order.sort_by_key(|&i| captions[i].len()); // sequences that run together are of one length
    for same in order.chunk_by(|&a, &b| captions[a].len() == captions[b].len()) {
        for chunk in same.chunks(AT_ONCE) {
            let mut replies =
                chunk.iter().map(|&i| Drawing::new(vocabulary, &captions[i], seed, i)).collect::<Vec<_>>();
            draw(model, vocabulary, &constraint, sampling, &mut replies)?;
            for (&i, reply) in chunk.iter().zip(replies) {
                drawn[i] = reply.ids;
            }
            done += chunk.len();
            progress.set(done, "");
        }
    }
    Ok(vocabulary.template().ids_to_codes(&drawn.concat())?)
}

/// An image that is being drawn.
struct Drawing {
    sequence: Sequence,
    ids: Vec<u32>,
    rng: ChaCha8Rng,
}

impl Drawing {
    fn new(vocabulary: &Vocabulary, words: &[u32], seed: u64, index: usize) -> Self {
        let mut sequence = Sequence::begin();
        vocabulary.push_words(&mut sequence, words);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index as u64);
        Self { sequence, ids: Vec::new(), rng }
    }
}

/// Draws images for captions of one length.
fn draw(
    model: &LanguageModel<Flex>,
    vocabulary: &Vocabulary,
    constraint: &Constraint,
    sampling: Sampling,
    drawings: &mut [Drawing],
) -> anyhow::Result<()> {
    for _ in 0..vocabulary.template().block_len() {
        let logits = next(model, &drawings.iter().map(|drawing| &drawing.sequence).collect::<Vec<_>>());
        for (mut logits, Drawing { sequence, ids, rng }) in logits.into_iter().zip(drawings.iter_mut()) {
            constraint.apply(constraint.next(&[], ids), &mut logits)?;
            ids.push(sampling.draw(&logits, rng) as u32);
            let position = vocabulary.text_positions() + ids.len() - 1;
            sequence.ids.extend(ids.last());
            sequence.positions.push(position as u32);
        }
    }
    Ok(())
}

/// Logits of the token after each sequence; all are of one length.
fn next(model: &LanguageModel<Flex>, sequences: &[&Sequence]) -> Vec<Vec<f32>> {
    let device = Default::default();
    let (ids, positions) = tensors::<Flex, _>(sequences, &device);
    let [batch, tokens] = ids.dims();
    let last: Vec<i32> = (1..=batch).map(|i| (i * tokens - 1) as i32).collect();
    let last = Tensor::<Flex, 1, Int>::from_data(TensorData::new(last, [batch]), &device);
    let logits = model.logits(model.forward(ids, positions).select(0, last)); // [batch, vocabulary]
    let [_, vocabulary] = logits.dims();
    let values: Vec<f32> = logits.into_data().iter::<f32>().collect();
    values.chunks(vocabulary).map(<[f32]>::to_vec).collect()
}
