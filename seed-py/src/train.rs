//! A recipe -> a model bundle.

use std::path::{Path, PathBuf};

use pyo3::{
    prelude::*,
    types::{PyBool, PyFloat, PyInt, PyList, PyMapping, PyString, PyTuple},
};
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
///     overrides (Mapping[str, bool | int | float | str | list[Any]] | None): Other values for keys of the recipe; a key within a
///         table is "table.key", as in {"stage1.steps": 100}.
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
    recipe, *, out = None, until = "decoder", tokenizer = None, decoder = None, autoencoder = None, overrides = None,
    resume = false, device = None, progress = None
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
    overrides: Option<&Bound<'_, PyMapping>>,
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
    let recipe = Recipe::read_with(&recipe, &set(py, overrides)?).raised(py)?;
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

/// Keys with the values that they are set to, as TOML writes them.
fn set(py: Python<'_>, overrides: Option<&Bound<'_, PyMapping>>) -> PyResult<Vec<(String, String)>> {
    let Some(overrides) = overrides else { return Ok(Vec::new()) };
    let mut set = Vec::new();
    for item in overrides.items()?.iter() {
        let (key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
        let Ok(key) = key.extract::<String>() else {
            return Err(argument(py, "overrides", key.repr()?, "a key is text, as in \"stage1.steps\""));
        };
        let value = literal(py, &key, &value)?;
        set.push((key, value));
    }
    Ok(set)
}

fn literal(py: Python<'_>, key: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    if value.is_instance_of::<PyBool>() {
        return Ok(value.extract::<bool>()?.to_string());
    }
    if value.is_instance_of::<PyInt>() || value.is_instance_of::<PyFloat>() {
        return Ok(value.str()?.to_string());
    }
    if value.is_instance_of::<PyString>() {
        // A text of JSON is one of TOML too.
        return Ok(serde_json::Value::from(value.extract::<String>()?).to_string());
    }
    if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        let values = value.try_iter()?.map(|value| literal(py, key, &value?)).collect::<PyResult<Vec<_>>>()?;
        return Ok(format!("[{}]", values.join(", ")));
    }
    let kind = value.get_type().name()?;
    Err(argument(py, "overrides", format!("{key}: {kind}"), "a value is a bool, a number, a text or a list of them"))
}
