//! MiniGPT-v2's visual front end, its prompts and its boxes. `seed_tokenizer/minigpt.py` gives them their names.

use std::{path::PathBuf, sync::Arc};

use pyo3::{
    prelude::*,
    types::{PyDict, PyType},
};
use rayon::prelude::*;
use seed_core::{
    DType, Device, Error, Result,
    minigpt::{
        self, Adapter, Adapters, MiniGptConfig, MiniGptFiles, MiniGptVision as Core,
        boxes::{self, GridBox, Grounded, Parsed},
        draw,
        prompt::{self, Task},
    },
    pixels::Limits,
};

use crate::{
    arrays,
    call::compute,
    encode::from_features,
    errors::{Raised as _, argument},
    images::{self, Input, Inputs},
    model,
};

/// Images that are decoded and embedded between two looks at whether to stop.
const AT_ONCE: usize = 4;

/// A phrase, if there is one, and its boxes: left, top, right, bottom.
type Group = (Option<String>, Vec<[f64; 4]>);

/// MiniGPT-v2's visual front end: turns images into embeddings that its language model reads among those of words.
///
/// Made by `from_pretrained`. All methods may be called from several threads, compute without holding the interpreter, and
/// end at Ctrl-C.
#[pyclass(name = "MiniGptVision", module = "seed_tokenizer", frozen)]
pub(crate) struct MiniGptVision {
    core: Arc<dyn Core>,
    limits: Limits,
    device: Device,
    dtype: DType,
}

#[pymethods]
impl MiniGptVision {
    /// Reads the front end from the released files. Nothing in them is run.
    ///
    /// Args:
    ///     vit (str | os.PathLike[str]): eva_vit_g.pth, the vision transformer as BLIP-2 publishes it, or any file that holds it under
    ///         visual_encoder, such as model.safetensors of a bundle.
    ///     checkpoint (str | os.PathLike[str]): MiniGPT-v2's checkpoint, with llama_proj and LoRA.
    ///     ln_vision (str | os.PathLike[str] | None): A file with a trained norm. The released checkpoint was trained without: its norm
    ///         is ones and zeros.
    ///     config (str | os.PathLike[str] | None): Sizes as JSON, for models that are not of the released size.
    ///     device (Any): As in `SeedTokenizer.from_pretrained`.
    ///     dtype (Any): As in `SeedTokenizer.from_pretrained`.
    ///     max_pixels (int | None): As in `SeedTokenizer.from_pretrained`.
    ///
    /// Returns:
    ///     MiniGptVision: The front end.
    ///
    /// Raises:
    ///     WeightsError: Files that are no weights, or not of one model. Every key is used, or known, or named here.
    ///     ConfigError: Sizes that are not possible.
    ///     DeviceError: The device is not there.
    #[classmethod]
    #[pyo3(signature = (
        vit, checkpoint, *, ln_vision = None, config = None, device = None, dtype = None, max_pixels = None
    ))]
    #[allow(clippy::too_many_arguments)] // Python names them
    fn from_pretrained(
        class: &Bound<'_, PyType>,
        vit: PathBuf,
        checkpoint: PathBuf,
        ln_vision: Option<PathBuf>,
        config: Option<PathBuf>,
        device: Option<&Bound<'_, PyAny>>,
        dtype: Option<&Bound<'_, PyAny>>,
        max_pixels: Option<u64>,
    ) -> PyResult<Self> {
        let py = class.py();
        let device = device.map(|device| model::device(py, device)).transpose()?.unwrap_or_default();
        let dtype = dtype.map(|dtype| model::dtype(py, dtype)).transpose()?.unwrap_or_default();
        let limits = max_pixels.map_or_else(Limits::default, |max_pixels| Limits { max_pixels });
        let core = compute(py, move |_| {
            let config = config.map_or_else(|| Ok(MiniGptConfig::released()), |path| read(&path))?;
            minigpt::open(&MiniGptFiles { vit, checkpoint, ln_vision }, &config, device, dtype)
        })?;
        Ok(Self { core: Arc::from(core), limits, device, dtype })
    }

    /// Turns images into embeddings for the language model.
    ///
    /// Args:
    ///     images (Any): As in `SeedTokenizer.encode`.
    ///
    /// Returns:
    ///     NDArray[np.float32]: [images, 256, 4096] for the released model, or [256, 4096] of an image that is not in a list.
    ///         `minigpt.inputs_embeds` puts them among the words of a prompt.
    ///
    /// Raises:
    ///     InputTypeError: An object that is no image.
    ///     ImageError: Bytes that are no image.
    ///     ReadError: A file that cannot be read.
    fn embed<'py>(&self, py: Python<'py>, images: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let Inputs { images, single } = images::take(images)?;
        let (core, limits) = (Arc::clone(&self.core), self.limits.clone());
        let features = compute(py, move |context| {
            let mut all = core.embed_pixels(&[])?;
            for images in images.chunks(AT_ONCE) {
                context.go_on()?;
                let load = |input: &Input| Ok(core.preprocessor().apply(input.load(&limits)?.as_ref()));
                let pixels = images.par_iter().map(load).collect::<Result<Vec<_>>>()?;
                let part = core.embed_pixels(&pixels)?;
                all.shape[0] += part.shape[0];
                all.values.extend(part.values);
            }
            Ok(all)
        })?;
        from_features(py, features, single)
    }

    /// What became of every key of every file that the front end was read from.
    ///
    /// Returns:
    ///     list[dict[str, Any]]: Of each file: "file", keys "used", keys "ignored" and why, and "no_weights", entries that are none.
    fn accounts(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        crate::evaluate::to_python(py, &self.core.accounts())
    }

    /// Height and width that images are resized to, in pixels.
    #[getter]
    fn image_size(&self) -> usize {
        self.core.config().image_size
    }

    /// Embeddings of an image; 256 in the released model.
    #[getter]
    fn num_tokens(&self) -> usize {
        self.core.config().tokens()
    }

    /// Features of an embedding, as the language model's words have; 4096 in the released model.
    #[getter]
    fn width(&self) -> usize {
        self.core.config().llm_width
    }

    /// Where it computes, such as "cpu".
    #[getter]
    fn device(&self) -> String {
        self.device.to_string()
    }

    /// What weights are kept in: "float32", "float16" or "bfloat16".
    #[getter]
    fn dtype(&self) -> &'static str {
        model::dtype_name(self.dtype)
    }

    fn __repr__(&self) -> String {
        format!("MiniGptVision(device=\"{}\", dtype=\"{}\")", self.device, self.dtype())
    }
}

fn read(path: &std::path::Path) -> Result<MiniGptConfig> {
    let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::Config { file: path.display().to_string(), reason: error.to_string() })
}

/// The prompt about one image.
///
/// Args:
///     text (str): The question, the thing to find, the box to name, or whatever else the task is about.
///     task (str | None): "vqa", "caption", "grounding", "refer", "identify" or "detection"; by default none, free conversation.
///     verbatim (bool): Take the text as it is; otherwise the sentence that MiniGPT-v2 is evaluated with is put around a question
///         ("vqa") or a thing ("refer").
///
/// Returns:
///     str: The prompt, with <ImageHere> for the image.
///
/// Raises:
///     ArgumentError: Another task, an empty text, or one with signs that separate the parts of a prompt.
#[pyfunction]
#[pyo3(signature = (text, *, task = None, verbatim = false))]
pub(crate) fn minigpt_prompt(py: Python<'_>, text: &str, task: Option<&str>, verbatim: bool) -> PyResult<String> {
    let task: Option<Task> = task.map(str::parse).transpose().raised(py)?;
    match task {
        Some(task) if !verbatim && !text.trim().is_empty() => {
            prompt::prompt(Some(task), &task.instruction(text)).raised(py)
        }
        _ => prompt::prompt(task, text).raised(py),
    }
}

/// The pieces of a prompt, one more than it has images; each is tokenized by itself.
///
/// Args:
///     prompt (str): A prompt, with <ImageHere> for each image.
///
/// Returns:
///     list[tuple[str, bool]]: The texts, and whether the tokenizer begins a piece with its BOS: only the first.
#[pyfunction]
pub(crate) fn minigpt_pieces(prompt: &str) -> Vec<(String, bool)> {
    prompt::pieces(prompt).into_iter().map(|piece| (piece.text.to_owned(), piece.bos)).collect()
}

/// Writes boxes as MiniGPT-v2 does: whole hundredths of the image's width and height, truncated.
///
/// Args:
///     groups (Sequence[tuple[str | None, Sequence[Sequence[float]]]]): A phrase, or None, and its boxes: left, top, right and
///         bottom in pixels.
///     size (tuple[int, int]): Width and height of the image in pixels.
///
/// Returns:
///     str: Such as "<p>a dog</p> {<10><20><55><80>}<delim>{<60><1><99><40>}".
///
/// Raises:
///     ArgumentError: A box that reaches out of the image or is turned around, a phrase without boxes.
#[pyfunction]
pub(crate) fn minigpt_format_boxes(py: Python<'_>, groups: Vec<Group>, size: (u32, u32)) -> PyResult<String> {
    let group = |(phrase, pixels): Group| -> Result<Grounded> {
        let made = pixels.into_iter().map(|pixels| GridBox::from_pixels(pixels, size.0, size.1));
        Grounded::new(phrase.as_deref(), made.collect::<Result<_>>()?)
    };
    let groups = groups.into_iter().map(group).collect::<Result<Vec<_>>>().raised(py)?;
    Ok(boxes::format(&groups))
}

/// Reads the boxes of an answer.
///
/// Args:
///     text (str): The answer.
///     size (tuple[int, int]): Width and height of the image in pixels; with (100, 100) boxes are as in the text.
///
/// Returns:
///     list[tuple[str | None, list[list[float]]]]: Phrases, None for boxes without one, and their boxes: left, top, right and
///         bottom in pixels.
///
/// Raises:
///     BoxesError: Something begins like a box or its phrase and is none; where and why is in the message.
#[pyfunction]
pub(crate) fn minigpt_parse_boxes(py: Python<'_>, text: &str, size: (u32, u32)) -> PyResult<Vec<Group>> {
    Ok(in_pixels(&boxes::parse(text).raised(py)?, size))
}

/// As `parse_boxes`, of an answer that may break off or miscount.
///
/// Args:
///     text (str): The answer.
///     size (tuple[int, int]): As in `parse_boxes`.
///
/// Returns:
///     tuple[list[tuple[str | None, list[list[float]]]], list[tuple[str, str]]]: What is well formed, as from `parse_boxes`; and what
///         is not, as the part of the text and what is wrong with it.
#[pyfunction]
pub(crate) fn minigpt_parse_boxes_lenient(text: &str, size: (u32, u32)) -> (Vec<Group>, Vec<(String, String)>) {
    let Parsed { groups, skipped } = boxes::parse_lenient(text);
    let skipped = skipped.into_iter().map(|part| (text[part.range].to_owned(), part.reason));
    (in_pixels(&groups, size), skipped.collect())
}

fn in_pixels(groups: &[Grounded], (width, height): (u32, u32)) -> Vec<Group> {
    let group = |group: &Grounded| {
        let boxes = group.boxes().iter().map(|one| one.to_pixels(width, height)).collect();
        (group.phrase().map(str::to_owned), boxes)
    };
    groups.iter().map(group).collect()
}

/// Draws the boxes of an answer on its image, a colour for each phrase.
///
/// Args:
///     image (Any): One image, as in `SeedTokenizer.encode`.
///     text (str): The answer.
///     lenient (bool): Draw what is well formed and leave out the rest.
///
/// Returns:
///     Any: A PIL image, of the size of the given one.
///
/// Raises:
///     BoxesError: As in `parse_boxes`.
#[pyfunction]
#[pyo3(signature = (image, text, *, lenient = false))]
pub(crate) fn minigpt_draw_boxes<'py>(
    py: Python<'py>,
    image: &Bound<'py, PyAny>,
    text: &str,
    lenient: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let groups = if lenient { boxes::parse_lenient(text).groups } else { boxes::parse(text).raised(py)? };
    let Inputs { images, single } = images::take(image)?;
    if !single {
        return Err(argument(py, "image", format!("{} images", images.len()), "boxes are drawn on one image"));
    }
    let drawn = compute(py, move |_| Ok(draw::draw(images[0].load(&Limits::default())?.as_ref(), &groups)))?;
    arrays::to_pil(py, &[drawn], true)
}

/// Reads what MiniGPT-v2's checkpoint changes in the language model. The merged weight is W + alpha / rank * B @ A; the released
/// model has alpha 16, and its rank, 64, is that of the matrices.
///
/// Args:
///     checkpoint (str | os.PathLike[str]): MiniGPT-v2's checkpoint, with keys of older or newer versions of peft.
///
/// Returns:
///     dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]: By the name of the weight in transformers' LlamaForCausalLM, A
///         [rank, input] and B [output, rank].
///
/// Raises:
///     WeightsError: A file that is no weights, a matrix without its partner, or a key that is not of MiniGPT-v2.
#[pyfunction]
pub(crate) fn minigpt_lora<'py>(py: Python<'py>, checkpoint: PathBuf) -> PyResult<Bound<'py, PyDict>> {
    let pairs = compute(py, move |context| {
        let adapters = Adapters::open(&checkpoint)?;
        let read = |adapter: &Adapter| {
            context.go_on()?;
            Ok((adapter.target(), adapters.read(adapter)?))
        };
        adapters.list().iter().map(read).collect::<Result<Vec<_>>>()
    })?;
    let made = PyDict::new(py);
    for (target, pair) in pairs {
        let [rank, input, output] = pair.shape;
        let a = arrays::floats(py, pair.a, [rank, input])?;
        let b = arrays::floats(py, pair.b, [output, rank])?;
        made.set_item(target, (a, b))?;
    }
    Ok(made)
}
