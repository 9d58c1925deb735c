//! Caption retrieval, as table 1 of arXiv 2307.08041: recall at 1, 5 and 10, image to text and text to image.

use serde::Serialize;

use super::Captioned;
use crate::{
    error::{Error, Result},
    tokenizer::{Embeddings, SeedTokenizer},
};

/// Share of the queries whose own partner is among the nearest 1, 5 and 10.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recall {
    /// Nearest.
    pub at_1: f64,
    /// Among the nearest 5.
    pub at_5: f64,
    /// Among the nearest 10.
    pub at_10: f64,
}

impl Recall {
    /// Recall of `queries` against `candidates`, of which the one at the same place is the partner. A tie counts against
    /// the partner.
    pub fn new(queries: &Embeddings, candidates: &Embeddings) -> Self {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let mut hits = [0usize; 3];
        for (i, query) in queries.rows().enumerate() {
            let own = candidates.rows().nth(i).map(|own| dot(query, own));
            let closer = |(j, other): &(usize, &[f32])| *j != i && Some(dot(query, other)) >= own;
            let rank = candidates.rows().enumerate().filter(closer).count();
            for (hits, limit) in hits.iter_mut().zip([1, 5, 10]) {
                *hits += usize::from(rank < limit);
            }
        }
        let count = queries.rows().len().max(1) as f64;
        let [at_1, at_5, at_10] = hits.map(|hits| hits as f64 / count);
        Self { at_1, at_5, at_10 }
    }
}

/// Recall in both directions for one kind of image embedding.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RetrievalRow {
    /// What stands for the image.
    pub name: &'static str,
    /// Images look for their captions.
    pub image_to_text: Recall,
    /// Captions look for their images.
    pub text_to_image: Recall,
    /// Mean of the six recalls.
    pub mean: f64,
}

/// Recall for the image embedding, the causal embedding and the codes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Retrieval {
    /// Number of images, and of captions.
    pub images: usize,
    /// One row a kind of embedding: before the Q-Former, after it, and from the codes alone.
    pub rows: Vec<RetrievalRow>,
}

/// Measures caption retrieval.
///
/// # Errors
/// [`Error::MissingPart`] for a model without a caption side; [`Error::Argument`] for captions that it cannot read, or that
/// are not as many as the images.
pub fn retrieval(seed: &dyn SeedTokenizer, data: &Captioned) -> Result<Retrieval> {
    if data.captions.len() != data.images.len() {
        let reason = format!("there must be one for each of the {} images", data.images.len());
        return Err(Error::Argument { name: "captions", value: data.captions.len().to_string(), reason });
    }
    let captions = seed.caption_embeddings(&data.captions)?;
    let codes = seed.encode(&data.images)?;
    let rows = vec![
        row("image embedding", &seed.image_embeddings(&data.images)?, &captions),
        row("causal embedding", &seed.causal_embeddings(&data.images)?, &captions),
        row("causal code", &seed.code_embeddings(&codes)?, &captions),
    ];
    Ok(Retrieval { images: data.images.len(), rows })
}

/// Recall of images, for which `images` stand, and of their captions.
pub(super) fn row(name: &'static str, images: &Embeddings, captions: &Embeddings) -> RetrievalRow {
    let (to_text, to_image) = (Recall::new(images, captions), Recall::new(captions, images));
    let mean = [to_text, to_image].iter().map(|r| (r.at_1 + r.at_5 + r.at_10) / 6.0).sum();
    RetrievalRow { name, image_to_text: to_text, text_to_image: to_image, mean }
}

/// The captions that the model cannot read, by number, and why.
///
/// # Errors
/// Whatever else is wrong with them all: [`Error::MissingPart`] for a model without a caption side.
pub fn unreadable(seed: &dyn SeedTokenizer, captions: &[String]) -> Result<Vec<(usize, String)>> {
    let refused = |captions: &[String]| match seed.caption_embeddings(captions) {
        Ok(_) => Ok(None),
        Err(Error::Argument { name: "caption", reason, .. }) => Ok(Some(reason)),
        Err(error) => Err(error),
    };
    if refused(captions)?.is_none() {
        return Ok(Vec::new());
    }
    let each = captions.iter().enumerate().map(|(i, caption)| {
        let reason = refused(std::slice::from_ref(caption))?;
        Ok(reason.map(|reason| (i, reason)))
    });
    each.filter_map(Result::transpose).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embeddings(rows: &[[f32; 2]]) -> Embeddings {
        Embeddings { dim: 2, values: rows.concat() }
    }

    #[test]
    fn recall_counts_ranks() {
        let candidates = embeddings(&[[1.0, 0.0], [0.0, 1.0], [0.7, 0.7]]);
        // Ranks of the own partner: first, third, first.
        let queries = embeddings(&[[1.0, 0.1], [1.0, 0.0], [0.6, 0.6]]);
        let recall = Recall::new(&queries, &candidates);
        assert_eq!((recall.at_1, recall.at_5), (2.0 / 3.0, 1.0));
    }

    #[test]
    fn embeddings_that_are_all_the_same_recall_nothing() {
        let same = embeddings(&[[1.0, 0.0]; 20]);
        let recall = Recall::new(&same, &same);
        assert_eq!((recall.at_1, recall.at_5, recall.at_10), (0.0, 0.0, 0.0));
    }
}
