//! Training, from images with captions to a bundle: one file a stage, in this order.
//!
//! | stage | file | learns | fixed |
//! |---|---|---|---|
//! | vision | `vision` | vision transformer, text tower | |
//! | 1 | `stage1` | norm, causal Q-Former, its text branch | vision transformer |
//! | | `causal`, for scenes | causal Q-Former | vision transformer, text tower |
//! | 2 | `stage2` | codebook, detokenizer | the above |
//! | | `codebook`, for scenes | codebook, detokenizer, causal Q-Former | vision transformer, text tower |
//! | vae | `vae` | autoencoder | |
//! | decoder | `decoder` | UNet | all of the above |
//!
//! Every step's batch follows from the recipe's seed and the step's number, so a run that was interrupted continues with
//! the batches of one that was not.

mod captions;
mod causal;
mod clip_words;
mod codebook;
mod coding;
pub mod data;
mod decoder;
mod export;
#[cfg(test)]
mod golden;
mod model;
mod objective;
mod official;
mod optim;
mod origin;
mod overrides;
mod parts;
mod plan;
mod precision;
mod recipe;
mod replicas;
mod rows;
mod run;
mod sizes;
mod sketch;
mod stage1;
mod stage2;
mod start;
mod teacher;
mod vae;
mod vision;

use std::path::{Path, PathBuf};

use burn::backend::Autodiff;

pub use coding::{Coding, Rows};
pub use model::TrainModel;
pub use optim::Decay;
pub use plan::{Keep, Plan, Precision, Schedule};
pub use recipe::{Origin, Recipe};
pub use run::{GivenDecoder, Session, Stage, StepReport, TrainBackend};
pub use sizes::{DiffusionSizes, TextSizes};
pub use stage1::Alignment;

use crate::{
    device::{Device, OnBackend},
    diffusion::{Vae, VaeConfig},
    error::{Error, Result},
    nn::SeedBackend,
    tokenizer::Model,
};

use data::Data;
use export::Tokenizer;
use teacher::Teacher;

/// Runs the stages of a recipe in `session`'s folder up to the one that it names, or what of them is not done yet, and
/// writes the model as the bundle `bundle` in that folder, in half precision; without a decoder after stage 2. A tokenizer
/// that `session` or the recipe gives takes the place of the stages vision, 1 and 2, a decoder that of the stage vae. The
/// first of `devices` holds the model; parts of a batch are computed on all of them.
///
/// Returns the bundle, or nothing when `session` or the recipe ends before there is one.
///
/// # Errors
/// [`Error::Interrupted`] after the session's stop, with a checkpoint;
/// [`Error::Diverged`]; [`Error::Argument`] for a given tokenizer or decoder
/// of other sizes than the recipe's; [`Error::Config`] for what a stage needs and nobody gives;
/// reading and writing.
pub fn train<A: TrainBackend>(
    recipe: &Recipe,
    session: &mut Session<'_>,
    devices: &[A::Device],
) -> Result<Option<PathBuf>> {
    let Some(device) = devices.first() else {
        let (name, value, reason) = ("devices", "none".to_owned(), "a run needs one at least".to_owned());
        return Err(Error::Argument { name, value, reason });
    };
    let stages = [&recipe.vision, &recipe.stage1, &recipe.stage2];
    let makes_tokenizer = stages.iter().any(|plan| plan.is_some());
    let bundle = recipe.from.bundle.clone().filter(|_| !makes_tokenizer).map(Model::Folder);
    let given = session.tokenizer.clone().or(bundle);
    let given = given.map(|model| Tokenizer::open(&model, recipe, device)).transpose()?;
    let decoder = session.decoder.as_ref().map(GivenDecoder::describe);
    let data = Data::open(recipe, &session.folder, session.stop)?; // first: a wrong name of data claims no folder
    recipe.claim(&session.folder, given.as_ref().and_then(|tokenizer| tokenizer.given.as_deref()), decoder)?;
    if session.until == Stage::Vae || (!makes_tokenizer && recipe.decoder.is_none()) {
        autoencoder::<A>(recipe, &data, session, devices)?;
        return Ok(None);
    }
    let tokenizer = match given {
        Some(tokenizer) => tokenizer,
        None => match tokenizer::<A>(recipe, &data, session, devices)? {
            Some(tokenizer) => tokenizer,
            None => return Ok(None),
        },
    };
    let bundle = session.folder.join("bundle");
    tokenizer.save(&bundle)?; // encodes already, while the decoder is still to come
    if session.until > Stage::Stage2 && recipe.decoder.is_some() {
        decoder_of::<A>(recipe, tokenizer, &bundle, &data, session, devices)?;
    }
    Ok(Some(bundle))
}

/// The stages vae and decoder, into the bundle of their tokenizer.
fn decoder_of<A: TrainBackend>(
    recipe: &Recipe,
    tokenizer: Tokenizer<A::InnerBackend>,
    bundle: &Path,
    data: &Data<'_>,
    session: &mut Session<'_>,
    devices: &[A::Device],
) -> Result<()> {
    let device = &devices[0];
    let plan = recipe.need(&recipe.decoder, "decoder", "a decoder")?;
    let sizes = recipe.need(&recipe.diffusion, "diffusion", "a decoder")?;
    let unet_config = sizes.unet(&recipe.model);
    let (vae_config, vae) = match &session.decoder {
        Some(GivenDecoder::Whole(files)) => export::open_vae(&files.sub("vae"), recipe, sizes, device)?,
        Some(GivenDecoder::Autoencoder(files)) => export::open_vae(files, recipe, sizes, device)?,
        None => autoencoder::<A>(recipe, data, session, devices)?,
    };
    let start = match &session.decoder {
        Some(GivenDecoder::Whole(files)) => export::open_unet(&files.sub("unet"), recipe, sizes, device)?,
        _ => {
            begin::<A>(Stage::Decoder, recipe, device);
            start::initial(unet_config.init::<A>(device))
        }
    };
    let teacher = match (&tokenizer.contrast, &recipe.from.teacher) {
        (Some(contrast), _) => Some(Teacher::own(tokenizer.network.clone(), contrast.clone())),
        (None, Some(folder)) => Some(Teacher::open(folder, &recipe.model, device)?.0),
        (None, None) => None,
    };
    let inputs = decoder::Inputs::<A> {
        unet: &unet_config,
        vae_config: &vae_config,
        vae: &vae,
        network: &tokenizer.network,
        teacher,
        pool: sizes.pool,
        start,
    };
    let unet = decoder::train(plan, inputs, data, session, devices)?;
    export::decoder(recipe, bundle, export::Parts { vae_config, vae, unet_config, unet }, device)
}

/// Starts the generator of initial values anew for each stage, so that they do not depend on which stages ran before.
fn begin<A: TrainBackend>(stage: Stage, recipe: &Recipe, device: &A::Device) {
    A::seed(device, recipe.seed.wrapping_mul(1000) + stage as u64);
}

/// The stages vision, 1 and 2, as far as the recipe has them; nothing when it or `session` ends before the last.
fn tokenizer<A: TrainBackend>(
    recipe: &Recipe,
    data: &Data<'_>,
    session: &mut Session<'_>,
    devices: &[A::Device],
) -> Result<Option<Tokenizer<A::InnerBackend>>> {
    let device = &devices[0];
    let vision = match (&recipe.vision, &recipe.contrast) {
        (Some(plan), Some(sizes)) => {
            let text = sizes.of_scenes();
            begin::<A>(Stage::Vision, recipe, device);
            let model = TrainModel::<A>::new(&recipe.model, &text, device);
            Some((vision::train(plan, data, &text, model, session, device)?, text))
        }
        _ => None,
    };
    if session.until == Stage::Vision {
        return Ok(None);
    }
    if recipe.alignment.is_some() || recipe.codebook.is_some() {
        return official::tokenizer::<A>(recipe, vision.map(|(model, _)| model), data, session, devices);
    }
    let (Some((model, text)), Some(plan)) = (vision, &recipe.stage1) else { return Ok(None) };
    begin::<A>(Stage::Stage1, recipe, device);
    let model = causal::train(plan, data, &text, model, session, device)?;
    let Some(plan) = recipe.stage2.as_ref().filter(|_| session.until >= Stage::Stage2) else { return Ok(None) };
    begin::<A>(Stage::Stage2, recipe, device);
    let model = codebook::train(plan, data, &text, model, session, device)?;
    let TrainModel { network, contrast, .. } = model::frozen(&model);
    Ok(Some(Tokenizer::trained(recipe, network, Some(contrast))))
}

fn autoencoder<A: TrainBackend>(
    recipe: &Recipe,
    data: &Data<'_>,
    session: &mut Session<'_>,
    devices: &[A::Device],
) -> Result<(VaeConfig, Vae<A::InnerBackend>)> {
    let plan = recipe.need(&recipe.vae, "vae", "the stage vae, which no given autoencoder stands for,")?;
    let sizes = recipe.need(&recipe.diffusion, "diffusion", "the stage vae")?;
    begin::<A>(Stage::Vae, recipe, &devices[0]);
    vae::train::<A>(plan, &sizes.vae(), data, session, devices)
}

/// As [`train`], on the autodiff form of a device's backend.
///
/// # Errors
/// [`Error::Device`]; as [`train`].
pub fn run(recipe: &Recipe, session: &mut Session<'_>, device: Device) -> Result<Option<PathBuf>> {
    run_on(recipe, session, &[device])
}

/// As [`run()`], on several devices of one kind: each computes its parts of every batch, and what is learned does not depend on
/// how many they are, up to the order of sums.
///
/// # Errors
/// As [`run()`]; [`Error::Device`] for devices of different kinds.
pub fn run_on(recipe: &Recipe, session: &mut Session<'_>, devices: &[Device]) -> Result<Option<PathBuf>> {
    struct Train<'a, 's>(&'a Recipe, &'a mut Session<'s>);
    impl OnBackend for Train<'_, '_> {
        type Output = Result<Option<PathBuf>>;

        fn run<B: SeedBackend>(self, device: B::Device) -> Self::Output {
            self.run_on_all::<B>(vec![device])
        }

        fn run_on_all<B: SeedBackend>(self, devices: Vec<B::Device>) -> Self::Output {
            train::<Autodiff<B>>(self.0, self.1, &devices)
        }
    }
    Device::run_on_all(devices, Train(recipe, session))?
}

/// Whether a run has begun in `folder`, which [`run()`] would go on with.
pub fn has_begun(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    let marks = [run::FINISHED, run::CHECKPOINT, run::METRICS];
    entries.flatten().any(|stage| marks.iter().any(|mark| stage.path().join(mark).is_file()))
}
