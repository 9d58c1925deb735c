//! Recipe -> weights, in three stages that each end with `STAGE/model.bin` in the run's folder.
//!
//! | stage | begins with | learns |
//! |---|---|---|
//! | captions | random weights | captions alone, with all weights |
//! | images | captions | image -> caption and caption -> image, with LoRA |
//! | shuffled | captions | the same, but that each caption has the codes of another scene: the baseline |
//!
//! The loss is that of the next token, over the caption of an image or the image of a caption. A step's batch follows from the recipe's seed and the step's
//! number, so that a run that was interrupted goes on as if nothing had happened.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use anyhow::{Context as _, bail, ensure};
use burn::{
    backend::Autodiff,
    grad_clipping::GradientClippingConfig,
    module::{AutodiffModule as _, Module as _},
    optim::{AdamWConfig, GradientsParams, Optimizer as _},
    record::{BinBytesRecorder, FullPrecisionSettings, Record, Recorder},
    tensor::{Tensor, backend::Backend},
};
use burn_flex::Flex;
use seed_core::{
    SeedTokenizer as _,
    scenes::{Scene, Split},
    tokenizer::Tokenizer,
    train::Plan,
};
use serde::Serialize;
use serde_json::json;

use crate::{
    model::LanguageModel,
    progress::Progress,
    recipe::Recipe,
    sequence::{Batch, Order, Sequence, Vocabulary, loss},
};

/// Where training computes.
type Learning = Autodiff<Flex>;

const FINISHED: &str = "model.bin";
const CHECKPOINT: &str = "checkpoint.bin";
const METRICS: &str = "metrics.jsonl";
/// What the steps of a stage follow from.
const CLAIM: &str = "recipe.json";
/// Longest gradient of a parameter.
const CLIP: Option<GradientClippingConfig> = Some(GradientClippingConfig::Norm(1.0));
/// The scenes of captions alone come before those of images.
const FIRST_IMAGE: u64 = 1 << 32;

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Stage {
    /// Captions alone
    Captions,
    /// Images and captions in both orders
    Images,
    /// The baseline: each caption with the image tokens of another scene
    Shuffled,
}

impl Stage {
    pub(crate) const ALL: [Self; 3] = [Self::Captions, Self::Images, Self::Shuffled];

    /// Its folder.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Captions => "captions",
            Self::Images => "images",
            Self::Shuffled => "shuffled",
        }
    }
}

/// A step's report, a line of the metrics.
#[derive(Debug, Serialize)]
struct Report {
    step: usize,
    loss: f64,
    learning_rate: f64,
    /// Since the run began or was resumed.
    seconds: f64,
    #[serde(flatten)]
    parts: std::collections::BTreeMap<&'static str, f64>,
}

/// A run: its recipe, its folder, what makes its tokens, and who may stop it.
pub(crate) struct Run<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) vocabulary: Vocabulary,
    pub(crate) folder: PathBuf,
    pub(crate) tokenizer: &'a Tokenizer<Flex>,
    pub(crate) stop: &'a AtomicBool,
}

/// What ended a stage.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Finished,
    /// With a checkpoint.
    Interrupted,
}

impl Run<'_> {
    /// Whether the folder holds a part of a run.
    pub(crate) fn has_begun(&self) -> bool {
        let begun = |stage: &Stage| {
            let folder = self.folder.join(stage.name());
            [FINISHED, CHECKPOINT, METRICS].iter().any(|file| folder.join(file).exists())
        };
        Stage::ALL.iter().any(begun)
    }

    /// Trains a stage, or what of it is not done.
    pub(crate) fn train(&self, stage: Stage) -> anyhow::Result<Ended> {
        let folder = self.claim(stage)?;
        let device = Default::default();
        Learning::seed(&device, self.recipe.seed.wrapping_mul(1000) + stage as u64);
        let (model, plan) = match stage {
            Stage::Captions => (self.captions_model::<Learning>(&device), &self.recipe.captions),
            Stage::Images | Stage::Shuffled => {
                let path = self.claim(Stage::Captions)?.join(FINISHED);
                let record = read::<Learning, _>(&path, &device).context("the stage captions comes first")?;
                (self.with_images(self.captions_model(&device).load_record(record)), &self.recipe.images)
            }
        };
        self.optimise(stage, &folder, plan, model)
    }

    /// The finished model of a stage, for use.
    pub(crate) fn model(&self, stage: Stage) -> anyhow::Result<LanguageModel<Flex>> {
        let device = Default::default();
        let path = self.folder.join(stage.name()).join(FINISHED);
        ensure!(path.exists(), "there is no {}; train the stage {} first", path.display(), stage.name());
        self.claim(stage)?;
        let record = read::<Flex, _>(&path, &device)?;
        let model = self.captions_model::<Flex>(&device);
        let model = if stage == Stage::Captions { model } else { self.with_images(model) };
        Ok(model.load_record(record))
    }

    fn captions_model<B: Backend>(&self, device: &B::Device) -> LanguageModel<B> {
        let vocabulary = &self.vocabulary;
        self.recipe.model.init(vocabulary.text_tokens(), vocabulary.text_positions(), device)
    }

    fn with_images<B: Backend>(&self, model: LanguageModel<B>) -> LanguageModel<B> {
        let codebook = self.tokenizer.network().quantizer.embedding.weight.val().into_data();
        let codebook = Tensor::from_data(codebook, &model.devices()[0]); // [codes, dim]
        model.with_images(codebook, self.vocabulary.image_positions(), &self.recipe.lora)
    }

    /// The sequences of a step.
    fn sequences(&self, stage: Stage, step: usize) -> anyhow::Result<Vec<Sequence>> {
        let vocabulary = &self.vocabulary;
        let (first, count) = match stage {
            Stage::Captions => (0, self.recipe.captions.batch),
            Stage::Images | Stage::Shuffled => (FIRST_IMAGE, self.recipe.images.batch / 2),
        };
        let indices = (0..count).map(|i| first + (step * count + i) as u64);
        let scenes: Vec<Scene> = indices.map(|i| Scene::sample(self.recipe.seed, i, Split::Train)).collect();
        let words = scenes.iter().map(|scene| vocabulary.caption_ids(&scene.caption()));
        let words: Vec<Vec<u32>> = words.collect::<anyhow::Result<_>>()?;
        if stage == Stage::Captions {
            return Ok(words.iter().map(|words| vocabulary.sequence(Order::Caption, words, &[])).collect());
        }
        let size = self.tokenizer.preprocessor().size;
        let images: Vec<_> = scenes.iter().map(|scene| scene.render(size)).collect();
        let ids = vocabulary.template().codes_to_ids(&self.tokenizer.encode(&images)?)?;
        let mut images: Vec<&[u32]> = ids.chunks(vocabulary.template().block_len()).collect();
        if stage == Stage::Shuffled {
            images.rotate_left(1);
        }
        let pairs = words.iter().zip(images);
        let both = |(words, image): (&Vec<u32>, &[u32])| {
            [Order::ImageCaption, Order::CaptionImage].map(|order| vocabulary.sequence(order, words, image))
        };
        Ok(pairs.flat_map(both).collect())
    }

    fn optimise(
        &self,
        stage: Stage,
        folder: &Path,
        plan: &Plan,
        mut model: LanguageModel<Learning>,
    ) -> anyhow::Result<Ended> {
        if folder.join(FINISHED).exists() {
            return Ok(Ended::Finished);
        }
        let device = Default::default();
        let vocabulary = &self.vocabulary;
        let mut optimizer = AdamWConfig::new()
            .with_epsilon(1e-8)
            .with_weight_decay(plan.weight_decay)
            .with_grad_clipping(CLIP)
            .init::<Learning, _>();
        let checkpoint = folder.join(CHECKPOINT);
        let mut start = 0;
        if checkpoint.exists() {
            let (weights, moments, done) = read::<Learning, _>(&checkpoint, &device)?;
            (model, optimizer, start) = (model.load_record(weights), optimizer.load_record(moments), done);
        }
        let mut log = open_log(&folder.join(METRICS), start)?;
        let progress = Progress::new(plan.steps, start, &format!("steps of stage {}", stage.name()));
        let clock = Instant::now();
        for index in start..plan.steps {
            let learning_rate = plan.learning_rate_at(index);
            let batch = Batch::new(&self.sequences(stage, index)?, vocabulary, &device);
            let (loss, parts) = loss(&model, batch);
            let value = f64::from(loss.clone().into_scalar());
            ensure!(value.is_finite(), "the loss is {value} at step {index} of stage {}; lower the rate", stage.name());
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            model = optimizer.step(learning_rate, model, gradients);
            let step = index + 1;
            let seconds = clock.elapsed().as_secs_f64();
            let report = Report { step, loss: value, learning_rate, seconds, parts: parts.into_iter().collect() };
            writeln!(log, "{}", serde_json::to_string(&report)?).context("cannot write the metrics")?;
            progress.set(step, &format!("loss {value:.3}"));
            let stop = self.stop.load(Ordering::Relaxed);
            if step < plan.steps && (stop || step.is_multiple_of(plan.checkpoint_every.max(1))) {
                let record = (model.clone().into_record(), optimizer.to_record(), step);
                write::<Learning, _>(&checkpoint, record)?;
            }
            if stop && step < plan.steps {
                return Ok(Ended::Interrupted);
            }
        }
        write::<Flex, _>(&folder.join(FINISHED), model.valid().into_record())?;
        let _ = fs::remove_file(&checkpoint); // superseded by the finished model
        Ok(Ended::Finished)
    }

    /// Makes a stage's folder this recipe's, or makes sure that it is: steps of two recipes do not mix. Returns the folder.
    fn claim(&self, stage: Stage) -> anyhow::Result<PathBuf> {
        let Recipe { seed, model, lora, captions, images, .. } = self.recipe;
        let mut own = json!({ "seed": seed, "model": model, "captions": captions });
        if stage != Stage::Captions {
            own["images"] = json!({ "plan": images, "lora": lora, "tokenizer": self.tokenizer.provenance()?.weights });
        }
        let folder = self.folder.join(stage.name());
        let path = folder.join(CLAIM);
        match fs::read(&path) {
            Ok(bytes) if serde_json::from_slice::<serde_json::Value>(&bytes).is_ok_and(|begun| begun == own) => {}
            Ok(_) => bail!(
                "the stage in {} was begun with another recipe or tokenizer, see {}; choose another folder with --run",
                folder.display(),
                path.display()
            ),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
                write_whole(&path, &serde_json::to_vec_pretty(&own)?)?;
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
        Ok(folder)
    }
}

/// The metrics' file; lines after the step that the run goes on from are dropped.
fn open_log(path: &Path, start: usize) -> anyhow::Result<fs::File> {
    let old = fs::read_to_string(path).unwrap_or_default();
    let kept: String = old.lines().take(start).flat_map(|line| [line, "\n"]).collect();
    write_whole(path, kept.as_bytes())?;
    fs::OpenOptions::new().append(true).open(path).with_context(|| format!("cannot write {}", path.display()))
}

fn write<B: Backend, R: Record<B>>(path: &Path, record: R) -> anyhow::Result<()> {
    let recorder = BinBytesRecorder::<FullPrecisionSettings>::default();
    let bytes = Recorder::<B>::record(&recorder, record, ())?;
    write_whole(path, &bytes)
}

fn read<B: Backend, R: Record<B>>(path: &Path, device: &B::Device) -> anyhow::Result<R> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let recorder = BinBytesRecorder::<FullPrecisionSettings>::default();
    let record = Recorder::<B>::load(&recorder, bytes, device);
    record.with_context(|| format!("{} is no checkpoint of this recipe", path.display()))
}

/// Writes beside the place and renames into it.
fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let new = |path: &Path| fs::File::options().write(true).create_new(true).open(path); // with a new file's permissions
    let written = tempfile::Builder::new().prefix(".writing-").make_in(folder, new).and_then(|mut beside| {
        beside.write_all(bytes)?;
        beside.as_file().sync_all()?;
        Ok(beside.persist(path)?)
    });
    written.map(drop).with_context(|| format!("cannot write {}", path.display()))
}
