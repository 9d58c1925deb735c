//! The first codes of images -> what they are worth: what the causal order buys.
//!
//! Tokens are ordered so that each adds to those before it. A prefix stands for an image by its codes and, in place of the
//! others, the mean of the codebook.

use std::ops::ControlFlow;

use serde::Serialize;

use super::{
    Captioned, Reconstruction, RetrievalRow,
    chart::{Axes, Scale, Series, lines},
    page::{heading, page, paragraph, table},
    reconstruction::{compare, decode, embed},
    retrieval::row,
};
use crate::{
    diffusion::DecodeOptions,
    error::{Error, Result},
    tokenizer::SeedTokenizer,
};

/// What the first codes of images are worth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prefix {
    /// Codes that were kept of each image.
    pub tokens: usize,
    /// Caption retrieval from them; nothing for a model without a caption side or semantic branch, and for images without
    /// captions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<RetrievalRow>,
    /// How well images come back from them; nothing for a model without a decoder, or when it was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconstruction: Option<Reconstruction>,
}

/// 1, 2, 4 ... and all codes of an image.
pub fn prefix_lengths(tokens: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(1usize), |kept| kept.checked_mul(2)).take_while(|&kept| kept < tokens);
    powers.chain([tokens]).collect()
}

/// Measures prefixes of the lengths `kept`. With `options`, images are decoded from them too. `progress` is called with the
/// finished and all images that are to be decoded.
///
/// # Errors
/// [`Error::Argument`](crate::Error::Argument) for a length that is 0 or more than all;
/// [`Error::Interrupted`](crate::Error::Interrupted).
pub fn prefixes(
    seed: &dyn SeedTokenizer,
    data: &Captioned,
    kept: &[usize],
    options: Option<&DecodeOptions>,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Vec<Prefix>> {
    let codes = seed.encode(&data.images)?;
    let speaks = seed.config().contrast.is_some() && !data.captions.is_empty();
    let captions = if speaks { Some(seed.caption_embeddings(&data.captions)?) } else { None };
    let originals = embed(seed, &data.images)?;
    let all = kept.len() * codes.batch();
    let mut table = Vec::with_capacity(kept.len());
    for (done, &tokens) in kept.iter().enumerate() {
        let retrieval = match &captions {
            Some(captions) => match seed.code_embeddings_of_first(&codes, tokens) {
                Ok(images) => Some(row("causal code", &images, captions)),
                Err(Error::MissingPart { .. }) => None,
                Err(error) => return Err(error),
            },
            None => None,
        };
        let reconstruction = match options {
            Some(options) => {
                let options = DecodeOptions { keep_first: Some(tokens), ..*options };
                let mut watch = |images: usize, _: usize| progress(done * codes.batch() + images, all);
                let decoded = decode(seed, &codes, &options, &mut watch)?;
                Some(compare(seed, data, &originals, decoded, &options)?)
            }
            None => None,
        };
        table.push(Prefix { tokens, retrieval, reconstruction });
    }
    Ok(table)
}

/// Names of the columns of [`prefix_cells`].
pub const PREFIX_COLUMNS: [&str; 10] = [
    "tokens",
    "image to text R@1",
    "text to image R@1",
    "mean of recalls",
    "nearest original R@1",
    "similarity",
    "PSNR dB",
    "SSIM",
    "mean error",
    "attributes",
];

/// A prefix as texts, a dash where nothing was measured. Shares are in percent; attributes are colours, shapes and cells.
pub fn prefix_cells(prefix: &Prefix) -> Vec<String> {
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    let none = || "-".to_owned();
    let from = |of: &dyn Fn(&Reconstruction) -> String| prefix.reconstruction.as_ref().map_or_else(none, of);
    let recall =
        |of: &dyn Fn(&RetrievalRow) -> f64| prefix.retrieval.as_ref().map_or_else(none, |row| percent(of(row)));
    vec![
        prefix.tokens.to_string(),
        recall(&|row| row.image_to_text.at_1),
        recall(&|row| row.text_to_image.at_1),
        recall(&|row| row.mean),
        from(&|r| percent(r.nearest_original.at_1)),
        from(&|r| format!("{:.3}", r.similarity)),
        from(&|r| format!("{:.2}", r.psnr)),
        from(&|r| format!("{:.3}", r.ssim)),
        from(&|r| format!("{:.2}", r.absolute_error)),
        from(&|r| r.attributes.map_or_else(none, |attributes| percent(attributes.share()))),
    ]
}

/// Table and curves as one HTML file.
pub fn prefixes_page(title: &str, prefixes: &[Prefix]) -> String {
    let curve = |name: &str, factor: f64, of: &dyn Fn(&Prefix) -> Option<f64>| {
        let points = prefixes.iter().filter_map(|prefix| Some((prefix.tokens as f64, factor * of(prefix)?)));
        Series { name: name.to_owned(), points: points.collect() }
    };
    let percent = |name: &str, of: &dyn Fn(&Prefix) -> Option<f64>| curve(name, 100.0, of);
    let decoded =
        |of: fn(&Reconstruction) -> Option<f64>| move |prefix: &Prefix| prefix.reconstruction.as_ref().and_then(of);
    let chart = |title: &str, y: &str, series: Vec<Series>| {
        let series: Vec<Series> = series.into_iter().filter(|line| !line.points.is_empty()).collect();
        let axes = Axes { title, x: "tokens kept", y, x_scale: Scale::Log(2.0), ..Axes::default() };
        (!series.is_empty()).then(|| lines(&axes, &series))
    };
    let retrieval = vec![
        percent("image to text", &|prefix| Some(prefix.retrieval.as_ref()?.image_to_text.at_1)),
        percent("text to image", &|prefix| Some(prefix.retrieval.as_ref()?.text_to_image.at_1)),
        percent("nearest original of a reconstruction", &decoded(|r| Some(r.nearest_original.at_1))),
    ];
    let share = |of: fn(&super::Attributes) -> usize| {
        move |prefix: &Prefix| {
            let attributes = prefix.reconstruction.as_ref()?.attributes.as_ref()?;
            Some(of(attributes) as f64 / attributes.objects.max(1) as f64)
        }
    };
    let attributes = vec![
        percent("cell", &share(|a| a.cell)),
        percent("size", &share(|a| a.size)),
        percent("colour", &share(|a| a.colour)),
        percent("texture", &share(|a| a.texture)),
        percent("shape", &share(|a| a.shape)),
    ];
    let charts = [
        chart("Recall at 1", "percent", retrieval),
        chart("Attributes read from the reconstructions", "percent", attributes),
        chart(
            "Similarity to the original's embedding",
            "cosine",
            vec![curve("", 1.0, &decoded(|r| Some(r.similarity)))],
        ),
        chart("Peak signal-to-noise ratio", "dB", vec![curve("", 1.0, &decoded(|r| Some(r.psnr)))]),
        chart("Structural similarity", "SSIM", vec![curve("", 1.0, &decoded(|r| Some(r.ssim)))]),
    ];
    let parts = [
        paragraph(
            "The first tokens of each image, alone: the mean of the codebook stands for the others. Recalls and attributes (colours, shapes and cells) are in percent.",
        ),
        table(&PREFIX_COLUMNS, prefixes.iter().map(prefix_cells)),
        heading("Curves"),
        charts.into_iter().flatten().collect(),
    ];
    page(title, &parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_double_and_end_with_all() {
        assert_eq!(prefix_lengths(32), [1, 2, 4, 8, 16, 32]);
        assert_eq!(prefix_lengths(20), [1, 2, 4, 8, 16, 20]);
        assert_eq!((prefix_lengths(1), prefix_lengths(2)), (vec![1], vec![1, 2]));
    }
}
