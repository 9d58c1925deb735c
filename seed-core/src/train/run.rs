//! The optimisation loop that every stage runs in: optimizer, validation, checkpoints, metrics, interruption.

use std::{
    collections::BTreeMap,
    fs::TryLockError,
    io::Write as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use burn::{
    module::AutodiffModule,
    optim::GradientsParams,
    record::{BinBytesRecorder, FullPrecisionSettings, Record, Recorder},
    tensor::{Tensor, backend::AutodiffBackend},
};
use serde::Serialize;

use crate::{
    atomic,
    checkpoint::Files,
    error::{Error, Result},
    nn::{SeedBackend, recomputing},
    tokenizer::Model,
};

use super::{
    optim::{Optimizer, OptimizerRecord},
    plan::{Keep, Plan},
    precision,
};

/// File of a finished stage.
pub(super) const FINISHED: &str = "model.bin";
/// File of a stage that is not finished: weights, the optimizer's state, steps.
pub(super) const CHECKPOINT: &str = "checkpoint.bin";
/// The same of the step whose validation was best.
const BEST: &str = "best.bin";
/// What a stage that diverged was learning from.
const DIVERGED: &str = "diverged.json";
/// A stage's reports, one JSON object a line.
pub(super) const METRICS: &str = "metrics.jsonl";

/// An autodiff backend whose inner backend runs the models too.
pub trait TrainBackend: AutodiffBackend<InnerBackend: SeedBackend> + SeedBackend {}

impl<A: AutodiffBackend<InnerBackend: SeedBackend> + SeedBackend> TrainBackend for A {}

/// What one step tells whoever watches.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// The stage's name.
    pub stage: &'static str,
    /// Steps done, this one included.
    pub step: usize,
    /// Steps of the stage.
    pub steps: usize,
    /// Training loss of the step.
    pub loss: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Images a second since the run began or was resumed.
    pub images_per_second: f64,
    /// What the stage measures besides.
    pub metrics: BTreeMap<&'static str, f64>,
}

/// One part of a run, in the order of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The vision transformer and the text tower.
    Vision,
    /// The causal Q-Former; stands on the vision stage.
    Stage1,
    /// Codebook and detokenizer; stands on stage 1.
    Stage2,
    /// The autoencoder; stands on no other stage.
    Vae,
    /// The UNet; stands on all others.
    Decoder,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 5] = [Self::Vision, Self::Stage1, Self::Stage2, Self::Vae, Self::Decoder];

    /// Its name in recipes and in the run's folder.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vision => "vision",
            Self::Stage1 => "stage1",
            Self::Stage2 => "stage2",
            Self::Vae => "vae",
            Self::Decoder => "decoder",
        }
    }
}

/// What a run takes of a decoder in diffusers' layout; its autoencoder is not trained either way.
#[derive(Clone, Debug)]
pub enum GivenDecoder {
    /// Autoencoder and UNet: the folder of a decoder. The decoder stage begins with that UNet.
    Whole(Files),
    /// The autoencoder alone: its folder.
    Autoencoder(Files),
}

impl GivenDecoder {
    /// Where it is.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Whole(files) => files.describe("unet"),
            Self::Autoencoder(files) => files.describe("config.json"),
        }
    }
}

/// Where a run lives, who watches it and who may stop it.
pub struct Session<'a> {
    /// Folder of the run; one sub-folder a stage.
    pub folder: PathBuf,
    /// A model whose steps 2 to 5 and caption side are taken as they are: only its decoder is trained.
    pub tokenizer: Option<Model>,
    /// What is taken of a decoder that is there.
    pub decoder: Option<GivenDecoder>,
    /// The stage to end with; it and those it stands on are trained, as far as they are not done.
    pub until: Stage,
    /// Set from outside to stop after the current step, with a checkpoint.
    pub stop: &'a AtomicBool,
    /// Called after every step.
    pub report: &'a mut dyn FnMut(&StepReport),
}

/// The loss of a step and what else it measured.
pub(super) struct Output<A: AutodiffBackend> {
    pub(super) loss: Tensor<A, 1>,
    pub(super) metrics: Metrics,
}

impl<A: TrainBackend> Output<A> {
    /// The gradients of `model`'s parameters.
    pub(super) fn backward<M: AutodiffModule<A>>(self, model: &M) -> Learned {
        let loss = scalar(self.loss.clone());
        let gradients = GradientsParams::from_grads(self.loss.backward(), model);
        Learned { loss, metrics: self.metrics, gradients }
    }
}

/// What a step found out: how to change the model, and the numbers for the report.
pub(super) struct Learned {
    pub(super) loss: f64,
    pub(super) metrics: Metrics,
    pub(super) gradients: GradientsParams,
}

/// Numbers by name.
pub(super) type Metrics = Vec<(&'static str, f64)>;

/// A mean over images, of numbers that are means over some of them.
#[derive(Debug, Default)]
pub(super) struct Mean {
    sums: Metrics,
    images: usize,
}

impl Mean {
    /// Adds numbers of `images` images, the same names each time.
    pub(super) fn add(&mut self, images: usize, metrics: &[(&'static str, f64)]) {
        self.images += images;
        self.sums.resize(metrics.len(), ("", 0.0));
        for (sum, &(name, value)) in self.sums.iter_mut().zip(metrics) {
            *sum = (name, sum.1 + value * images as f64);
        }
    }

    /// The means.
    pub(super) fn metrics(self) -> Metrics {
        self.sums.into_iter().map(|(name, sum)| (name, sum / self.images as f64)).collect()
    }
}

/// What a stage does at each step.
pub(super) trait Task<A: TrainBackend, M: AutodiffModule<A>> {
    /// Learns from the model and the step's number alone, so that a resumed run repeats what an undisturbed one does.
    fn step(&mut self, model: &M, step: usize) -> Result<Learned>;

    /// Changes the model after a step, where the stage does more than the optimizer.
    fn after(&mut self, model: M, step: usize) -> Result<M>;

    /// Measures the model on held-out images: the loss as [`VALIDATION_LOSS`], and what else there is.
    fn validate(&mut self, model: &M) -> Result<Metrics>;

    /// What the images of a step are called in the data.
    fn keys(&mut self, step: usize) -> Result<Vec<String>>;
}

/// A [`Task`] of closures.
pub(super) struct Steps<S, T, V, K> {
    pub(super) step: S,
    pub(super) after: T,
    pub(super) validate: V,
    pub(super) keys: K,
}

impl<A, M, S, T, V, K> Task<A, M> for Steps<S, T, V, K>
where
    A: TrainBackend,
    M: AutodiffModule<A>,
    S: FnMut(&M, usize) -> Result<Learned>,
    T: FnMut(M, usize) -> Result<M>,
    V: FnMut(&M) -> Result<Metrics>,
    K: FnMut(usize) -> Result<Vec<String>>,
{
    fn step(&mut self, model: &M, step: usize) -> Result<Learned> {
        (self.step)(model, step)
    }

    fn after(&mut self, model: M, step: usize) -> Result<M> {
        (self.after)(model, step)
    }

    fn validate(&mut self, model: &M) -> Result<Metrics> {
        (self.validate)(model)
    }

    fn keys(&mut self, step: usize) -> Result<Vec<String>> {
        (self.keys)(step)
    }
}

/// Name of the number that decides which checkpoint is the best.
pub(super) const VALIDATION_LOSS: &str = "validation_loss";

/// Trains `model` until the plan's last step. A stage that was finished is loaded, one that was interrupted goes on
/// from its checkpoint.
pub(super) fn optimise<A, M>(
    name: &'static str,
    plan: &Plan,
    session: &mut Session<'_>,
    mut model: M,
    task: &mut impl Task<A, M>,
) -> Result<M>
where
    A: TrainBackend,
    M: AutodiffModule<A>,
{
    let device = model.devices().first().cloned().unwrap_or_default();
    let folder = session.folder.join(name);
    std::fs::create_dir_all(&folder).map_err(|source| Error::Write { path: folder.clone(), source })?;
    let _lock = lock(&folder, session)?;
    if let Some(model) = finished(name, session, model.clone(), &device)? {
        return Ok(model);
    }
    let mut optimizer = Optimizer::<A, M>::new(f64::from(plan.weight_decay), plan.decay, plan.clip_norm);
    let checkpoint = folder.join(CHECKPOINT);
    let (mut start, mut best) = (0, f64::INFINITY);
    if checkpoint.exists() {
        let (weights, moments, done, lowest): Whole<A, M> = read_record::<A, _>(&checkpoint, &device)?;
        model = model.load_record(weights);
        optimizer = optimizer.load_record(moments);
        (start, best) = (done, lowest);
    }
    let mut log = MetricsLog::open(&folder.join(METRICS), start)?;
    let clock = Instant::now();
    for index in start..plan.steps {
        let learning_rate = plan.learning_rate_at(index);
        let Learned { loss, mut metrics, gradients } =
            recomputing(plan.gradient_checkpointing, || match precision::of_step::<A, M>(plan.precision, &model) {
                None => task.step(&model, index),
                Some(rounded) => task.step(&rounded, index),
            })?;
        let length = optimizer.length(&model, &gradients);
        if !loss.is_finite() || !length.is_finite() {
            return Err(diverged(name, &folder, index, [loss, length], task.keys(index)?));
        }
        model = task.after(optimizer.step(learning_rate, model, gradients, length), index)?;
        let done = index + 1;
        metrics.push(("gradient_norm", length));
        let whole = |model: &M, optimizer: &Optimizer<A, M>, best: f64| {
            (model.clone().into_record(), optimizer.to_record(), done, best)
        };
        if plan.validate_every > 0 && (done == plan.steps || done.is_multiple_of(plan.validate_every)) {
            let found = task.validate(&model)?;
            let loss = found.iter().find(|(name, _)| *name == VALIDATION_LOSS).map(|(_, loss)| *loss);
            metrics.extend(found);
            if let Some(loss) = loss.filter(|&loss| loss < best) {
                best = loss;
                write_record::<A, _>(&folder.join(BEST), whole(&model, &optimizer, best))?;
            }
        }
        let report = StepReport {
            stage: name,
            step: done,
            steps: plan.steps,
            loss,
            learning_rate,
            images_per_second: ((done - start) * plan.batch) as f64 / clock.elapsed().as_secs_f64(),
            metrics: metrics.into_iter().collect(),
        };
        log.append(&report)?;
        (session.report)(&report);
        let stop = session.stop.load(Ordering::Relaxed);
        if done < plan.steps && (stop || done % plan.checkpoint_every.max(1) == 0) {
            write_record::<A, _>(&checkpoint, whole(&model, &optimizer, best))?;
        }
        if stop && done < plan.steps {
            return Err(Error::Interrupted);
        }
    }
    if plan.keep == Keep::Best && folder.join(BEST).exists() {
        let (weights, ..): Whole<A, M> = read_record::<A, _>(&folder.join(BEST), &device)?;
        model = model.load_record(weights);
    }
    write_record::<A, _>(&folder.join(FINISHED), model.clone().into_record())?;
    let _ = std::fs::remove_file(&checkpoint); // superseded by the finished model
    Ok(model)
}

/// A checkpoint: weights, the optimizer's state, steps done, the lowest loss of a validation.
type Whole<A, M> = (<M as burn::module::Module<A>>::Record, OptimizerRecord<A, M>, usize, f64);

/// The error of a step whose loss or gradients are not finite, and a file with all that it learned from.
fn diverged(stage: &'static str, folder: &Path, step: usize, [loss, length]: [f64; 2], keys: Vec<String>) -> Error {
    let account = serde_json::json!({
        "stage": stage, "step": step, "loss": loss.to_string(), "gradient_norm": length.to_string(), "keys": keys,
    });
    let path = folder.join(DIVERGED);
    match atomic::write(&path, &serde_json::to_vec_pretty(&account).expect("a JSON value is JSON")) {
        Ok(()) => Error::Diverged { stage, step, loss, gradient_norm: length, keys, account: path },
        Err(error) => error,
    }
}

/// Makes this process the only one that trains the stage in `folder`; waits for one that does so already.
fn lock(folder: &Path, session: &Session<'_>) -> Result<std::fs::File> {
    const WAIT: Duration = Duration::from_millis(200);
    let path = folder.join("lock");
    let fail = |source| Error::Write { path: path.clone(), source };
    let file = std::fs::File::create(&path).map_err(fail)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if session.stop.load(Ordering::Relaxed) => return Err(Error::Interrupted),
            Err(TryLockError::WouldBlock) => std::thread::sleep(WAIT),
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
    }
}

/// The model of a stage that was finished, if it was; `like` gives its shape.
pub(super) fn finished<A: TrainBackend, M: AutodiffModule<A>>(
    name: &str,
    session: &Session<'_>,
    like: M,
    device: &A::Device,
) -> Result<Option<M>> {
    let path = session.folder.join(name).join(FINISHED);
    if !path.exists() {
        return Ok(None);
    }
    Ok(Some(like.load_record(read_record::<A, _>(&path, device)?)))
}

/// One number out of a tensor of one element.
pub(super) fn scalar<B: burn::tensor::backend::Backend>(x: Tensor<B, 1>) -> f64 {
    x.into_data().iter::<f64>().next().unwrap_or(f64::NAN)
}

fn write_record<A: AutodiffBackend, R: Record<A>>(path: &Path, record: R) -> Result<()> {
    let recorder = BinBytesRecorder::<FullPrecisionSettings>::default();
    let bytes = Recorder::<A>::record(&recorder, record, ())
        .map_err(|e| Error::Write { path: path.to_owned(), source: std::io::Error::other(e.to_string()) })?;
    atomic::write(path, &bytes)
}

fn read_record<A: AutodiffBackend, R: Record<A>>(path: &Path, device: &A::Device) -> Result<R> {
    let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let recorder = BinBytesRecorder::<FullPrecisionSettings>::default();
    Recorder::<A>::load(&recorder, bytes, device).map_err(|e| Error::WeightFile {
        file: path.display().to_string(),
        reason: format!("it is no checkpoint of this recipe ({e})"),
    })
}

/// One JSON object a step; lines after the step that a run resumes from are dropped.
struct MetricsLog {
    file: std::fs::File,
    path: PathBuf,
}

impl MetricsLog {
    fn open(path: &Path, start: usize) -> Result<Self> {
        let kept: String = match std::fs::read_to_string(path) {
            Ok(text) => text.lines().take(start).flat_map(|line| [line, "\n"]).collect(),
            Err(_) => String::new(),
        };
        atomic::write(path, kept.as_bytes())?;
        let file = std::fs::OpenOptions::new().append(true).open(path);
        let file = file.map_err(|source| Error::Write { path: path.to_owned(), source })?;
        Ok(Self { file, path: path.to_owned() })
    }

    fn append(&mut self, report: &StepReport) -> Result<()> {
        let mut line = serde_json::to_string(report).expect("a report of numbers and names is JSON");
        line.push('\n');
        let written = self.file.write_all(line.as_bytes());
        written.map_err(|source| Error::Write { path: self.path.clone(), source })
    }
}
