//! Held-out scenes -> the table: attributes named right in captions of images, attributes found right in images of captions.
//!
//! A caption is compared with what it says, not with one picture of it: many pictures are right. What an image shows is found
//! by `seed_core::eval::detect` in its pixels. Beside the model stand a model that was trained in the same way on exchanged
//! image tokens (what can be had by guessing), and for drawings what the detector finds where nothing was left to the model:
//! in the decoded images of the scenes' own codes, and in the scenes' pixels.

use std::{fmt::Write as _, ops::ControlFlow, sync::atomic::Ordering};

use anyhow::ensure;
use burn_flex::Flex;
use seed_core::{
    Codes, DecodeOptions, Error, SeedTokenizer as _,
    eval::{Captioned, Detected, Recall, detect, held_out},
    pixels::RgbImage,
};
use serde::Serialize;

use crate::{
    attributes::{Description, Kind, Object, Tally, compare},
    generate,
    model::LanguageModel,
    progress::Progress,
    train::{Run, Stage},
};

/// Images that are decoded at a time.
const AT_ONCE: usize = 20;

/// What to measure, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Held-out scenes.
    pub(crate) count: usize,
    /// Seed of the scenes, of the drawn codes and of their decoding.
    pub(crate) seed: u64,
    /// Sampling steps of the decoder; none leaves out whatever needs pixels.
    pub(crate) steps: Option<usize>,
}

/// Shares of a row, in percent.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    name: &'static str,
    overall: f64,
    kinds: Vec<(Kind, f64)>,
    /// Captions among all that lie nearest to the drawn codes' embeddings and are the right ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<f64>,
}

/// The table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Table {
    scenes: usize,
    seed: u64,
    decoder_steps: Option<usize>,
    captions: Vec<Row>,
    images: Vec<Row>,
}

/// The truth about the scenes, and what stands for them.
struct Scenes {
    data: Captioned,
    truths: Vec<Description>,
    words: Vec<Vec<u32>>,
    codes: Codes,
}

/// Measures the models of a run.
pub(crate) fn evaluate(run: &Run<'_>, options: Options) -> anyhow::Result<Table> {
    ensure!(options.count > 0, "--count must not be 0");
    let vocabulary = &run.vocabulary;
    let data = held_out(options.count, options.seed, run.tokenizer.preprocessor().size);
    let scenes = Scenes {
        truths: data.captions.iter().map(|caption| Description::read(caption)).collect(),
        words: data.captions.iter().map(|caption| vocabulary.caption_ids(caption)).collect::<anyhow::Result<_>>()?,
        codes: run.tokenizer.encode(&data.images)?,
        data,
    };
    let models =
        [("the model", run.model(Stage::Images)?), ("trained on exchanged images", run.model(Stage::Shuffled)?)];
    let captions = models.iter().map(|(name, model)| seen(run, &scenes, name, model));
    let captions = captions.collect::<anyhow::Result<_>>()?;
    let mut images = Vec::new();
    for (name, model) in &models {
        let sampling = run.recipe.sampling;
        let codes = generate::images(model, vocabulary, &scenes.words, sampling, options.seed)?;
        images.push(drawn_row(run, &scenes, name, &codes, options)?);
    }
    images.push(drawn_row(run, &scenes, "the scenes' own codes", &scenes.codes, options)?);
    if options.steps.is_some() {
        images.push(Row::new("the scenes' pixels", &tally(&scenes, &scenes.data.images)));
    }
    Ok(Table { scenes: options.count, seed: options.seed, decoder_steps: options.steps, captions, images })
}

/// How much of what the images show stands in the model's captions.
fn seen(run: &Run<'_>, scenes: &Scenes, name: &'static str, model: &LanguageModel<Flex>) -> anyhow::Result<Row> {
    let vocabulary = &run.vocabulary;
    let ids = vocabulary.template().codes_to_ids(&scenes.codes)?;
    let images: Vec<&[u32]> = ids.chunks(vocabulary.template().block_len()).collect();
    let mut tally = Tally::default();
    for (truth, words) in scenes.truths.iter().zip(generate::captions(model, vocabulary, &images)) {
        tally.merge(&compare(truth, &Description::read(&vocabulary.text(&words))));
    }
    Ok(Row::new(name, &tally))
}

/// How much of what the captions say is in the images of `codes`.
fn drawn_row(
    run: &Run<'_>,
    scenes: &Scenes,
    name: &'static str,
    codes: &Codes,
    options: Options,
) -> anyhow::Result<Row> {
    let images = run.tokenizer.code_embeddings(codes)?;
    let captions = run.tokenizer.caption_embeddings(&scenes.data.captions)?;
    let found = Some(100.0 * Recall::new(&images, &captions).at_1);
    let Some(steps) = options.steps else {
        return Ok(Row { found, ..Row::new(name, &Tally::default()) });
    };
    let images =
        decode(run, name, codes, DecodeOptions { steps, seed: options.seed, ..run.tokenizer.decode_options() })?;
    Ok(Row { found, ..Row::new(name, &tally(scenes, &images)) })
}

/// Codes -> images, batch after batch.
fn decode(run: &Run<'_>, name: &str, codes: &Codes, options: DecodeOptions) -> anyhow::Result<Vec<RgbImage>> {
    let progress = Progress::new(codes.batch(), 0, &format!("images of {name}"));
    let mut images = Vec::with_capacity(codes.batch());
    while images.len() < codes.batch() {
        let batch = codes.slice(images.len()..(images.len() + AT_ONCE).min(codes.batch()));
        let mut step = |_, _| match run.stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let decoded = run.tokenizer.decode_with(&batch, None, &options, &mut step);
        images.extend(decoded.map_err(|error| match error {
            Error::Interrupted => anyhow::anyhow!("interrupted; nothing of an evaluation is kept"),
            error => error.into(),
        })?);
        progress.set(images.len(), "");
    }
    Ok(images)
}

fn tally(scenes: &Scenes, images: &[RgbImage]) -> Tally {
    let mut tally = Tally::default();
    for (truth, image) in scenes.truths.iter().zip(images) {
        // A relation is that of two places, which count already.
        let truth = Description { relation: None, ..truth.clone() };
        tally.merge(&compare(&truth, &shown(&detect(image))));
    }
    tally
}

/// What was found in an image, as a description.
fn shown(detected: &Detected) -> Description {
    let object = |found: &seed_core::eval::Found| Object {
        shape: Some(found.shape),
        colour: Some(found.colour),
        texture: Some(found.texture),
        size: Some(found.size),
        place: Some(found.cell),
    };
    Description {
        objects: detected.objects.iter().map(object).collect(),
        relation: None,
        shade: Some(detected.background.shade),
        backdrop: Some(detected.background.backdrop),
    }
}

impl Row {
    fn new(name: &'static str, tally: &Tally) -> Self {
        let percent = |kind: Kind| Some((kind, 100.0 * tally.share(kind)?));
        Self {
            name,
            overall: 100.0 * tally.overall().unwrap_or(f64::NAN),
            kinds: Kind::ALL.into_iter().filter_map(percent).collect(),
            found: None,
        }
    }
}

impl Table {
    /// As Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("{} held-out scenes, seed {}; in percent\n\n", self.scenes, self.seed);
        push_rows(&mut text, "image to caption: attributes named right", &self.captions);
        let steps = self.decoder_steps.map(|steps| format!(", {steps} steps of the decoder")).unwrap_or_default();
        let _ = writeln!(text);
        push_rows(&mut text, &format!("caption to image: attributes found right{steps}"), &self.images);
        text
    }
}

/// A table of rows that measure the same kinds.
fn push_rows(text: &mut String, title: &str, rows: &[Row]) {
    let kinds: Vec<Kind> = rows
        .iter()
        .flat_map(|row| row.kinds.first().map(|_| &row.kinds))
        .next()
        .map_or(vec![], |kinds| kinds.iter().map(|(kind, _)| *kind).collect());
    let has_found = rows.iter().any(|row| row.found.is_some());
    let mut head = vec![title.to_owned(), "all".to_owned()];
    head.extend(kinds.iter().map(|kind| kind.name().to_owned()));
    head.extend(has_found.then(|| "caption found".to_owned()));
    let _ = writeln!(text, "| {} |", head.join(" | "));
    let _ = writeln!(text, "|---|{}", "---:|".repeat(head.len() - 1));
    for row in rows {
        let number = |value: Option<f64>| value.filter(|v| !v.is_nan()).map_or("-".to_owned(), |v| format!("{v:.1}"));
        let mut cells = vec![row.name.to_owned(), number(Some(row.overall))];
        let share = |kind: &Kind| row.kinds.iter().find(|(other, _)| other == kind).map(|(_, share)| *share);
        cells.extend(kinds.iter().map(|kind| number(share(kind))));
        cells.extend(has_found.then(|| number(row.found)));
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
}
