//! Training, from scenes and nothing else to a bundle: one file a stage, in this order.
//!
//! | stage | file | learns | fixed |
//! |---|---|---|---|
//! | vision | `vision` | vision transformer, text tower | |
//! | 1 | `causal` | causal Q-Former | vision transformer, text tower |
//! | 2 | `codebook` | codebook, detokenizer | the above |
//! | vae | `vae` | autoencoder | |
//! | decoder | `decoder` | UNet | all of the above |
//!
//! Every step's batch follows from the recipe's seed and the step's number, so a run that was interrupted continues with
//! the batches of one that was not.

mod causal;
mod codebook;
pub mod data;
mod decoder;
mod export;
#[cfg(test)]
mod golden;
mod model;
mod objective;
mod optim;
mod parts;
mod plan;
mod precision;
mod recipe;
mod run;
mod sketch;
mod stage1;
mod stage2;
mod start;
mod vae;
mod vision;

use std::path::{Path, PathBuf};

use burn::backend::Autodiff;

pub use model::TrainModel;
pub use optim::Decay;
pub use plan::{Keep, Plan, Precision, Schedule};
pub use recipe::{DiffusionSizes, Recipe, TextSizes};
pub use run::{GivenDecoder, Session, Stage, StepReport, TrainBackend};

use crate::{
    device::{Device, OnBackend},
    diffusion::{Vae, VaeConfig},
    error::Result,
    nn::SeedBackend,
};

use data::Data;
use export::Tokenizer;

/// Runs the stages of a recipe in `session`'s folder up to the one that it names, or what of them is not done yet, and
/// writes the model as the bundle `bundle` in that folder, in half precision; without a decoder after stage 2. A tokenizer
/// that `session` gives takes the place of the stages vision, 1 and 2, a decoder that of the stage vae.
///
/// Returns the bundle, or nothing when `session` ends before there is one.
///
/// # Errors
/// [`Error::Interrupted`](crate::Error::Interrupted) after the session's stop, with a checkpoint;
/// [`Error::Diverged`](crate::Error::Diverged); [`Error::Argument`](crate::Error::Argument) for a given tokenizer or decoder
/// of other sizes than the recipe's; reading and writing.
pub fn train<A: TrainBackend>(
    recipe: &Recipe,
    session: &mut Session<'_>,
    devices: &[A::Device],
) -> Result<Option<PathBuf>> {
    let device = &devices[0];
    let given = session.tokenizer.as_ref().map(|model| Tokenizer::open(model, recipe, device)).transpose()?;
    let decoder = session.decoder.as_ref().map(GivenDecoder::describe);
    let data = Data::open(recipe, &session.folder, session.stop)?; // first: a wrong name of data claims no folder
    recipe.claim(&session.folder, given.as_ref().and_then(|tokenizer| tokenizer.given.as_deref()), decoder)?;
    if session.until == Stage::Vae {
        autoencoder::<A>(recipe, &data, session, devices)?;
        return Ok(None);
    }
    let tokenizer = match given {
        Some(tokenizer) => tokenizer,
        None => match tokenizer::<A>(recipe, &data, session, device)? {
            Some(tokenizer) => tokenizer,
            None => return Ok(None),
        },
    };
    let bundle = session.folder.join("bundle");
    tokenizer.save(&bundle)?; // encodes already, while the decoder is still to come
    if session.until <= Stage::Stage2 {
        return Ok(Some(bundle));
    }
    let unet_config = recipe.unet();
    let (vae_config, vae) = match &session.decoder {
        Some(GivenDecoder::Whole(files)) => export::open_vae(&files.sub("vae"), recipe, device)?,
        Some(GivenDecoder::Autoencoder(files)) => export::open_vae(files, recipe, device)?,
        None => autoencoder::<A>(recipe, &data, session, devices)?,
    };
    let start = match &session.decoder {
        Some(GivenDecoder::Whole(files)) => export::open_unet(&files.sub("unet"), recipe, device)?,
        _ => {
            begin::<A>(Stage::Decoder, recipe, device);
            start::initial(unet_config.init::<A>(device))
        }
    };
    let inputs = decoder::Inputs::<A> {
        unet: &unet_config,
        vae_config: &vae_config,
        vae: &vae,
        network: &tokenizer.network,
        contrast: &tokenizer.contrast,
        pool: recipe.diffusion.pool,
        start,
    };
    let unet = decoder::train(&recipe.decoder, inputs, &data, session, devices)?;
    export::decoder(recipe, &bundle, export::Parts { vae_config, vae, unet_config, unet }, device)?;
    Ok(Some(bundle))
}

/// Starts the generator of initial values anew for each stage, so that they do not depend on which stages ran before.
fn begin<A: TrainBackend>(stage: Stage, recipe: &Recipe, device: &A::Device) {
    A::seed(device, recipe.seed.wrapping_mul(1000) + stage as u64);
}

/// The stages vision, 1 and 2; nothing when `session` ends before the last.
fn tokenizer<A: TrainBackend>(
    recipe: &Recipe,
    data: &Data<'_>,
    session: &mut Session<'_>,
    device: &A::Device,
) -> Result<Option<Tokenizer<A::InnerBackend>>> {
    let text = recipe.text();
    begin::<A>(Stage::Vision, recipe, device);
    let model = TrainModel::<A>::new(&recipe.model, &text, device);
    let model = vision::train(&recipe.vision, data, &text, model, session, device)?;
    if session.until == Stage::Vision {
        return Ok(None);
    }
    begin::<A>(Stage::Stage1, recipe, device);
    let model = causal::train(&recipe.stage1, data, &text, model, session, device)?;
    if session.until == Stage::Stage1 {
        return Ok(None);
    }
    begin::<A>(Stage::Stage2, recipe, device);
    let model = codebook::train(&recipe.stage2, data, &text, model, session, device)?;
    Ok(Some(Tokenizer::trained(recipe, model::frozen(&model))))
}

fn autoencoder<A: TrainBackend>(
    recipe: &Recipe,
    data: &Data<'_>,
    session: &mut Session<'_>,
    devices: &[A::Device],
) -> Result<(VaeConfig, Vae<A::InnerBackend>)> {
    begin::<A>(Stage::Vae, recipe, &devices[0]);
    vae::train::<A>(&recipe.vae, &recipe.vae(), data, session, devices)
}

/// As [`train`], on the autodiff form of a device's backend.
///
/// # Errors
/// [`Error::Device`](crate::Error::Device); as [`train`].
pub fn run(recipe: &Recipe, session: &mut Session<'_>, device: Device) -> Result<Option<PathBuf>> {
    struct Train<'a, 's>(&'a Recipe, &'a mut Session<'s>);
    impl OnBackend for Train<'_, '_> {
        type Output = Result<Option<PathBuf>>;

        fn run<B: SeedBackend>(self, device: B::Device) -> Self::Output {
            train::<Autodiff<B>>(self.0, self.1, &[device])
        }
    }
    device.run(Train(recipe, session))?
}

/// Whether a run has begun in `folder`, which [`run()`] would go on with.
pub fn has_begun(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    let marks = [run::FINISHED, run::CHECKPOINT, run::METRICS];
    entries.flatten().any(|stage| marks.iter().any(|mark| stage.path().join(mark).is_file()))
}
