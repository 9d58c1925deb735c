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
mod data;
mod decoder;
mod export;
mod model;
mod objective;
mod recipe;
mod run;
mod sketch;
mod start;
mod vae;
mod vision;

use std::path::{Path, PathBuf};

use burn::backend::Autodiff;
use burn_flex::Flex;

pub use model::TrainModel;
pub use recipe::{DiffusionSizes, Recipe, TextSizes};
pub use run::{Plan, Session, Stage, StepReport, TrainBackend};

use crate::{device::Device, error::Result};

/// Runs the stages of a recipe in `session`'s folder up to the one that it names, or what of them is not done yet, and
/// writes the model as the bundle `bundle` in that folder, in half precision; without a decoder after stage 2.
///
/// Returns the bundle, or nothing when `session` ends before there is one.
///
/// # Errors
/// [`Error::Interrupted`](crate::Error::Interrupted) after the session's stop, with a checkpoint;
/// [`Error::Diverged`](crate::Error::Diverged); reading and writing.
pub fn train<A: TrainBackend>(
    recipe: &Recipe,
    session: &mut Session<'_>,
    device: &A::Device,
) -> Result<Option<PathBuf>> {
    recipe.claim(&session.folder)?;
    // Each stage starts the generator of initial values anew, so that they do not depend on which stages ran before.
    let stage = |number: u64| A::seed(device, recipe.seed.wrapping_mul(1000) + number);
    let text = recipe.text();
    let scenes = data::SceneData { seed: recipe.seed, image_size: recipe.model.image_size };
    if session.until == Stage::Vae {
        stage(3);
        vae::train::<A>(&recipe.vae, &recipe.vae(), &scenes, session, device)?;
        return Ok(None);
    }
    stage(0);
    let model = TrainModel::<A>::new(&recipe.model, &text, device);
    let model = vision::train(&recipe.vision, &scenes, &text, model, session, device)?;
    if session.until == Stage::Vision {
        return Ok(None);
    }
    stage(1);
    let model = causal::train(&recipe.stage1, &scenes, &text, model, session, device)?;
    if session.until == Stage::Stage1 {
        return Ok(None);
    }
    stage(2);
    let model = codebook::train(&recipe.stage2, &scenes, &text, model, session, device)?;
    let model = model::frozen(&model);
    let bundle = session.folder.join("bundle");
    export::tokenizer(recipe, &bundle, &model)?; // encodes already, while the decoder is still to come
    if session.until == Stage::Stage2 {
        return Ok(Some(bundle));
    }
    stage(3);
    let (vae_config, vae) = vae::train::<A>(&recipe.vae, &recipe.vae(), &scenes, session, device)?;
    let unet_config = recipe.unet();
    let inputs = decoder::Inputs::<A> {
        unet: &unet_config,
        vae_config: &vae_config,
        vae: &vae,
        model: &model,
        pool: recipe.diffusion.pool,
    };
    stage(4);
    let unet = decoder::train(&recipe.decoder, &inputs, &scenes, session, device)?;
    export::decoder(recipe, &bundle, export::Parts { vae_config, vae, unet_config, unet }, device)?;
    Ok(Some(bundle))
}

/// As [`train`], on the autodiff form of a device's backend.
///
/// # Errors
/// As [`train`].
pub fn run(recipe: &Recipe, session: &mut Session<'_>, device: Device) -> Result<Option<PathBuf>> {
    match device {
        Device::Cpu => train::<Autodiff<Flex>>(recipe, session, &Default::default()),
    }
}

/// Whether a run has begun in `folder`, which [`run()`] would go on with.
pub fn has_begun(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    let marks = [run::FINISHED, run::CHECKPOINT, run::METRICS];
    entries.flatten().any(|stage| marks.iter().any(|mark| stage.path().join(mark).is_file()))
}
