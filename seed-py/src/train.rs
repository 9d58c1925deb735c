//! A recipe -> a model bundle.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use seed_core::{
    Error, Model,
    checkpoint::Files,
    train::{GivenDecoder, Recipe, Session, Stage, StepReport, has_begun, run as run_recipe},
};

use crate::{
    call::{Ending, run},
    errors::{Raised as _, argument, raise},
    evaluate::report,
    model,
};

/// Trains a model by a recipe. Ctrl-C ends it after the step at hand, with a checkpoint; `resume=True` goes on from there as if
/// nothing had happened.
///
/// Args:
///     recipe (str | os.PathLike[str]): The recipe, a TOML file.
///     out (str | os.PathLike[str] | None): Folder of the run; runs/NAME by default, after the recipe's name.
///     until (str): Stage to end with: "vision", "stage1", "stage2", "vae" or "decoder". Those it stands on are trained too.
///     tokenizer (str | os.PathLike[str] | None): Bundle whose tokenizer is taken as it is, so that only a decoder is trained.
///     decoder (str | os.PathLike[str] | None): Decoder in diffusers' layout to begin with.
///     autoencoder (str | os.PathLike[str] | None): Autoencoder in diffusers' layout that is taken as it is.
///     resume (bool): Go on with a run that was interrupted.
///     device (Any): As in `SeedTokenizer.from_pretrained`.
///     progress (Callable[[dict[str, Any]], None] | None): Called in this thread after every step, with stage, step, steps, loss
///         and so on; what it raises ends the run after the step at hand, with a checkpoint.
///
/// Returns:
///     str: The bundle; for a run that ends before there is one, the folder of its last stage.
///
/// Raises:
///     FolderInUseError: The folder holds a run, and `resume` was not asked for.
///     ConfigError: A recipe that is not possible.
///     DivergedError: The loss is not finite.
#[pyfunction]
#[pyo3(signature = (
    recipe, *, out = None, until = "decoder", tokenizer = None, decoder = None, autoencoder = None, resume = false,
    device = None, progress = None
))]
#[allow(clippy::too_many_arguments)] // Python names them
pub(crate) fn train(
    py: Python<'_>,
    recipe: PathBuf,
    out: Option<PathBuf>,
    until: &str,
    tokenizer: Option<PathBuf>,
    decoder: Option<PathBuf>,
    autoencoder: Option<PathBuf>,
    resume: bool,
    device: Option<&Bound<'_, PyAny>>,
    progress: Option<Py<PyAny>>,
) -> PyResult<PathBuf> {
    let Some(stage) = Stage::ALL.into_iter().find(|stage| stage.name() == until) else {
        let reason = format!("the stages are {}", Stage::ALL.map(Stage::name).join(", "));
        return Err(argument(py, "until", until, reason));
    };
    let given = match (decoder, autoencoder) {
        (Some(_), Some(_)) => {
            return Err(argument(py, "autoencoder", "given", "the decoder has one already; give one of both"));
        }
        (Some(folder), None) => Some(GivenDecoder::Whole(Files::folder(folder))),
        (None, Some(folder)) => Some(GivenDecoder::Autoencoder(Files::folder(folder))),
        (None, None) => None,
    };
    let device = device.map(|device| model::device(py, device)).transpose()?.unwrap_or_default();
    let recipe = Recipe::read(&recipe).raised(py)?;
    let folder = out.unwrap_or_else(|| Path::new("runs").join(&recipe.name));
    if has_begun(&folder) && !resume {
        let message =
            format!("{} already holds a run; go on with it with resume=True, or choose another out", folder.display());
        return Err(raise(py, "FolderInUseError", &message));
    }
    let mut tell = |step: StepReport| match &progress {
        Some(progress) => progress.call1(py, (report(py, &step)?,)).map(drop),
        None => Ok(()),
    };
    run(py, Ending::AfterWorkAtHand, &mut tell, move |context| {
        let mut session = Session {
            folder: folder.clone(),
            tokenizer: tokenizer.map(Model::Folder),
            decoder: given,
            until: stage,
            stop: context.stop(),
            report: &mut |step| context.tell(step.clone()),
        };
        let bundle = run_recipe(&recipe, &mut session, device)?;
        Ok::<_, Error>(bundle.unwrap_or_else(|| folder.join(recipe.last(stage).name())))
    })
}
