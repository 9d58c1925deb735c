//! Training, from scenes and nothing else to a bundle: one file a stage, in this order.
//!
//! | stage | file | learns | fixed |
//! |---|---|---|---|
//! | vision | `vision` | vision transformer, text tower | |
//! | 1 | `causal` | causal Q-Former | vision transformer, text tower |
//! | 2 | `codebook` | codebook, detokenizer | the above |
//!
//! Every step's batch follows from the recipe's seed and the step's number, so a run that was interrupted continues with
//! the batches of one that was not.

mod causal;
mod codebook;
mod data;
mod model;
mod objective;
mod recipe;
mod run;
mod vision;

pub use model::TrainModel;
pub use recipe::{Recipe, TextSizes};
pub use run::{Plan, Session, StepReport, TrainBackend};

use crate::error::Result;

/// Runs every stage of a recipe in `session`'s folder, or what of it is not done yet.
///
/// # Errors
/// [`Error::Interrupted`](crate::Error::Interrupted) after the session's stop, with a checkpoint;
/// [`Error::Diverged`](crate::Error::Diverged); reading and writing.
pub fn train<A: TrainBackend>(
    recipe: &Recipe,
    session: &mut Session<'_>,
    device: &A::Device,
) -> Result<TrainModel<A::InnerBackend>> {
    A::seed(device, recipe.seed);
    let text = recipe.text();
    let scenes = data::SceneData { seed: recipe.seed, image_size: recipe.model.image_size };
    let model = TrainModel::<A>::new(&recipe.model, &text, device);
    let model = vision::train(&recipe.vision, &scenes, &text, model, session, device)?;
    let model = causal::train(&recipe.stage1, &scenes, &text, model, session, device)?;
    let model = codebook::train(&recipe.stage2, &scenes, model, session, device)?;
    Ok(model::frozen(&model))
}
