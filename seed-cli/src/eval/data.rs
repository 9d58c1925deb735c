//! Which images are measured: held-out scenes, or those of a dataset.

use std::{collections::HashSet, ops::ControlFlow};

use anyhow::{Context as _, bail};
use seed_core::{
    SeedTokenizer,
    dataset::{self, SourceFormat, SourceOptions, source},
    eval::{self, Captioned},
    pixels::{RgbImage, resize},
};

use crate::{
    interrupt,
    options::{Global, ImageOptions},
    progress::Progress,
};

/// Captions that are named when a model cannot read them.
const NAMED: usize = 5;

/// Which images.
#[derive(clap::Args, Debug)]
pub(super) struct DataArgs {
    /// Measure on these images instead of scenes: folders, tars, parquet and so on, as `seed tokenize` reads them
    #[arg(long, value_name = "INPUT", num_args = 1..)]
    pub(super) data: Vec<String>,
    /// Format of --data: folder, list, webdataset, parquet, llava, obelics or mmc4 [default: by content]
    #[arg(long, value_name = "FORMAT", requires = "data")]
    source: Option<SourceFormat>,
    /// Column or field of the caption in --data [default: caption, text, txt]
    #[arg(long, value_name = "NAME", requires = "data")]
    caption_column: Option<String>,
    /// Number of scenes, all with captions of their own; most images of --data
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    count: u64,
    /// Seed of the scenes
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) scene_seed: u64,
    #[command(flatten)]
    pub(super) images: ImageOptions,
}

/// What captions are for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Captions {
    /// Nothing.
    Unused,
    /// They are measured where every image has one that the model can read.
    Welcome,
    /// They are measured. Whether those that the model cannot read are left out, with their images.
    Needed { skip_unknown: bool },
}

/// Images and what to call them.
pub(super) struct Data {
    pub(super) captioned: Captioned,
    /// "1000 held-out scenes".
    pub(super) name: String,
}

impl DataArgs {
    /// The images. Those of a dataset come in the size that the model sees.
    pub(super) fn read(&self, seed: &dyn SeedTokenizer, captions: Captions, global: &Global) -> anyhow::Result<Data> {
        if self.data.is_empty() {
            let size = u32::try_from(seed.config().model.image_size)?;
            let captioned = eval::held_out(self.count as usize, self.scene_seed, size);
            return Ok(Data { name: format!("{} held-out scenes", captioned.images.len()), captioned });
        }
        let found = self.decode(seed, global)?;
        if found.images.is_empty() {
            bail!("{} holds no image that can be read{}", self.data.join(" "), reasons(&found.failed));
        }
        if !found.failed.is_empty() {
            global.note(|| {
                format!("{} images cannot be read and are left out{}", found.failed.len(), reasons(&found.failed))
            });
        }
        let (all, total) = (found.images, self.data.join(" "));
        let captioned = match captions {
            Captions::Unused => {
                Captioned { images: all.into_iter().map(|one| one.image).collect(), ..Captioned::default() }
            }
            Captions::Welcome => welcome(seed, all)?,
            Captions::Needed { skip_unknown } => self.needed(seed, all, skip_unknown, global)?,
        };
        Ok(Data { name: format!("{} images of {total}", captioned.images.len()), captioned })
    }

    fn decode(&self, seed: &dyn SeedTokenizer, global: &Global) -> anyhow::Result<dataset::DecodedImages> {
        let options = SourceOptions {
            format: self.source,
            caption_column: self.caption_column.clone(),
            ..SourceOptions::default()
        };
        let source = source::open(&self.data, &options)?;
        let preprocessor = seed.preprocessor().clone();
        let shrink = |image: RgbImage| resize(&image, preprocessor.size, preprocessor.size, preprocessor.filter);
        let progress = Progress::new(self.count as usize, "images read, at most", global);
        let mut watch = |done| {
            progress.set(done);
            if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let limits = self.images.limits();
        Ok(dataset::read_images(source.as_ref(), self.count as usize, &limits, &shrink, &mut watch)?)
    }

    /// Images with captions, all of which are distinct and can be read.
    fn needed(
        &self,
        seed: &dyn SeedTokenizer,
        all: Vec<dataset::DecodedImage>,
        skip_unknown: bool,
        global: &Global,
    ) -> anyhow::Result<Captioned> {
        let (with, without): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.caption.is_some());
        if with.is_empty() {
            bail!(
                "{} holds no captions; name their column with --caption-column, or put a .txt of the same name beside each image",
                self.data.join(" ")
            );
        }
        let mut seen = HashSet::new();
        let before = with.len();
        let (images, captions): (Vec<RgbImage>, Vec<String>) = with
            .into_iter()
            .filter_map(|one| Some((one.image, one.caption?)))
            .filter(|(_, caption)| seen.insert(caption.clone()))
            .unzip();
        let repeated = before - captions.len();
        let unreadable = eval::unreadable(seed, &captions)?;
        if !unreadable.is_empty() && (!skip_unknown || unreadable.len() == captions.len()) {
            let named = unreadable.iter().take(NAMED).map(|(i, reason)| format!("\n  {:?}: {reason}", captions[*i]));
            let more = unreadable.len().saturating_sub(NAMED);
            let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
            let way_out = match unreadable.len() == captions.len() {
                true => "none is left; choose a model that knows these words",
                false => "leave them out with --skip-unknown, or choose a model that knows these words",
            };
            bail!(
                "the model {} cannot read {} of {} captions; {way_out}:{}{more}",
                seed.config().name,
                unreadable.len(),
                captions.len(),
                named.collect::<String>()
            );
        }
        let left_out = [
            (without.len(), "without a caption"),
            (repeated, "with the caption of another"),
            (unreadable.len(), "with a caption that the model cannot read"),
        ];
        for (count, which) in left_out.into_iter().filter(|(count, _)| *count > 0) {
            global.note(|| format!("{count} images {which} are left out"));
        }
        let unreadable: HashSet<usize> = unreadable.into_iter().map(|(i, _)| i).collect();
        let kept = images.into_iter().zip(captions).enumerate().filter(|(i, _)| !unreadable.contains(i));
        let (images, captions) = kept.map(|(_, pair)| pair).unzip();
        Ok(Captioned { images, captions, scenes: None })
    }
}

/// All images; their captions where every image has one of its own that the model can read.
fn welcome(seed: &dyn SeedTokenizer, all: Vec<dataset::DecodedImage>) -> anyhow::Result<Captioned> {
    let captions: Option<Vec<String>> = all.iter().map(|one| one.caption.clone()).collect();
    let distinct = |captions: &Vec<String>| captions.iter().collect::<HashSet<_>>().len() == captions.len();
    let captions = match captions.filter(distinct) {
        Some(captions) if seed.config().contrast.is_some() => {
            let unreadable = eval::unreadable(seed, &captions).context("the captions cannot be read")?;
            if unreadable.is_empty() { captions } else { Vec::new() }
        }
        _ => Vec::new(),
    };
    Ok(Captioned { images: all.into_iter().map(|one| one.image).collect(), captions, scenes: None })
}

/// Some of the reasons why images could not be read.
fn reasons(failed: &[dataset::Skipped]) -> String {
    failed.iter().take(NAMED).map(|one| format!("\n  {}: {}", one.key, one.reason)).collect()
}
