//! `SeedTokenizer`: how it is made, what it says of itself, pickles.

use std::{path::PathBuf, sync::Arc};

use pyo3::{
    intern,
    prelude::*,
    types::{PyBool, PyDict, PyTuple, PyType},
};
use seed_core::{Model, SeedTokenizer as Core, pixels::Limits, tokenizer};

use crate::{
    call::{Ending, compute, run},
    errors::Raised as _,
    model::{self, Access, Arrived, BUNDLED, Wanted},
};

/// Turns images into 32 discrete tokens that read left to right, and tokens into images.
///
/// Made by `from_pretrained`. All methods may be called from several threads, compute without holding the interpreter, and
/// end at Ctrl-C. A tokenizer is pickled as its name and options, never with its weights.
#[pyclass(name = "SeedTokenizer", module = "seed_tokenizer", frozen)]
pub(crate) struct SeedTokenizer {
    pub(crate) core: Arc<dyn Core>,
    pub(crate) model: Model,
    pub(crate) wanted: Wanted,
}

/// Opens a model, fetched if need be.
fn open(
    py: Python<'_>,
    wanted: Wanted,
    access: Access,
    progress: &mut dyn FnMut(Arrived) -> PyResult<()>,
) -> PyResult<SeedTokenizer> {
    let (core, model, wanted) = run(py, Ending::AtOnce, progress, move |context| {
        let (model, wanted) = wanted.find(access, context)?;
        let core = seed_core::open(&model, wanted.device, wanted.dtype, wanted.preprocess)?;
        Ok((Arc::<dyn Core>::from(core), model, wanted))
    })?;
    Ok(SeedTokenizer { core, model, wanted })
}

/// Opens the model of a pickled tokenizer.
///
/// Args:
///     model (str): As `from_pretrained` takes it.
///     options (dict[str, Any]): Its other arguments.
///
/// Returns:
///     SeedTokenizer: The same tokenizer.
#[pyfunction]
pub(crate) fn _restore(py: Python<'_>, model: &str, options: &Bound<'_, PyDict>) -> PyResult<Py<PyAny>> {
    let class = py.get_type::<SeedTokenizer>();
    Ok(class.call_method("from_pretrained", (model,), Some(options))?.unbind())
}

#[pymethods]
impl SeedTokenizer {
    /// Opens a model.
    ///
    /// Args:
    ///     model (str | os.PathLike[str] | None): "bundled", the default, the tiny model that is built in; the folder of a bundle; or a repository
    ///         OWNER/NAME of a model hub that holds a bundle. Folders win over repositories.
    ///     revision (str | None): Branch, tag or commit of the repository; "main" by default.
    ///     token (str | bool | None): Token of the hub; by default that of the environment (HF_TOKEN) or of its file, with False
    ///         none at all. It is not pickled.
    ///     cache_dir (str | os.PathLike[str] | None): Folder of what is fetched; by default where huggingface_hub keeps it.
    ///     local_files_only (bool): Fetch nothing; use what is on disk.
    ///     device (Any): "cpu", the default, "cuda", "wgpu", "cuda:1" and so on, or torch's device.
    ///     dtype (Any): "float32", the default, "float16", "bfloat16" or "int8", by name or as numpy's or torch's: what weights are kept in.
    ///     preprocess (str | None): "seed" (bicubic) or "seed-scripts" (bilinear); by default as the model says.
    ///     max_pixels (int | None): Refuse images of more pixels than this; by default 178,956,970, as Pillow.
    ///     progress (Callable[[str, int, int | None], None] | None): Called while files arrive, with the file, the bytes that
    ///         are here and those of the whole.
    ///
    /// Returns:
    ///     SeedTokenizer: The tokenizer. Its decoder is read when the first image is decoded.
    ///
    /// Raises:
    ///     MissingFileError: There is no such folder.
    ///     BundleError: The folder or repository is not a bundle.
    ///     DeviceError: The device is not there.
    ///     HubError: The hub does not give what was asked for.
    #[classmethod]
    #[pyo3(signature = (
        model = None, *, revision = None, token = None, cache_dir = None, local_files_only = false, device = None,
        dtype = None, preprocess = None, max_pixels = None, progress = None
    ))]
    #[allow(clippy::too_many_arguments)] // Python names them
    fn from_pretrained(
        class: &Bound<'_, PyType>,
        model: Option<&Bound<'_, PyAny>>,
        revision: Option<String>,
        token: Option<&Bound<'_, PyAny>>,
        cache_dir: Option<PathBuf>,
        local_files_only: bool,
        device: Option<&Bound<'_, PyAny>>,
        dtype: Option<&Bound<'_, PyAny>>,
        preprocess: Option<&str>,
        max_pixels: Option<u64>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let py = class.py();
        let (model, is_path) = match model {
            None => (BUNDLED.to_owned(), false),
            Some(model) if model.hasattr(intern!(py, "__fspath__"))? => {
                (model.extract::<PathBuf>()?.display().to_string(), true)
            }
            Some(model) => (model.extract()?, false),
        };
        let access = match token {
            None => Access::Environment,
            Some(token) => match token.cast::<PyBool>() {
                Ok(use_own) if use_own.is_true() => Access::Environment,
                Ok(_) => Access::Anonymous,
                Err(_) => Access::As(token.extract()?),
            },
        };
        let wanted = Wanted {
            model,
            is_path,
            revision,
            cache_dir,
            local_files_only,
            device: device.map(|device| model::device(py, device)).transpose()?.unwrap_or_default(),
            dtype: dtype.map(|dtype| model::dtype(py, dtype)).transpose()?.unwrap_or_default(),
            preprocess: preprocess.map(str::parse).transpose().raised(py)?,
            limits: max_pixels.map_or_else(Limits::default, |max_pixels| Limits { max_pixels }),
        };
        open(py, wanted, access, &mut |(file, done, size)| match &progress {
            Some(progress) => progress.call1(py, (file, done, size)).map(drop),
            None => Ok(()),
        })
    }

    /// Writes the model as a bundle that `from_pretrained` opens: a copy of its files, decoder included.
    ///
    /// Args:
    ///     folder (str | os.PathLike[str]): Folder of the bundle; made if need be.
    ///
    /// Raises:
    ///     FolderInUseError: The folder holds a decoder, which the model has not.
    ///     WriteError: The folder cannot be written.
    fn save_pretrained(&self, py: Python<'_>, folder: PathBuf) -> PyResult<()> {
        let model = self.model.clone();
        run(py, Ending::AfterWorkAtHand, &mut |()| Ok(()), move |_| tokenizer::copy(&model, &folder))
    }

    /// What codes come from: model, hash of its weights, preprocessing, device, dtype and version. Codes of two tokenizers
    /// that differ in weights or preprocessing do not belong together.
    ///
    /// Returns:
    ///     dict[str, str]: Names and values.
    fn provenance(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let core = Arc::clone(&self.core);
        let made = compute(py, move |_| core.provenance())?;
        crate::evaluate::to_python(py, &made)
    }

    /// Name of the model.
    #[getter]
    fn name(&self) -> &str {
        &self.core.config().name
    }

    /// Codes of an image; 32 in every released model.
    #[getter]
    fn num_tokens(&self) -> usize {
        self.core.config().model.num_queries
    }

    /// Rows of the codebook: every code is below it.
    #[getter]
    fn codebook_size(&self) -> usize {
        self.core.config().model.codebook_size
    }

    /// Height and width that images are resized to, in pixels.
    #[getter]
    pub(crate) fn image_size(&self) -> usize {
        self.core.config().model.image_size
    }

    /// Where it computes, such as "cpu".
    #[getter]
    fn device(&self) -> String {
        self.wanted.device.to_string()
    }

    /// What weights are kept in: "float32", "float16", "bfloat16" or "int8".
    #[getter]
    fn dtype(&self) -> &'static str {
        model::dtype_name(self.wanted.dtype)
    }

    /// The bundle's configuration, as its config.json has it.
    #[getter]
    fn config(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        crate::evaluate::to_python(py, self.core.config())
    }

    fn __repr__(&self) -> String {
        let Wanted { model, device, .. } = &self.wanted;
        format!("SeedTokenizer({model:?}, device=\"{device}\", dtype=\"{}\")", self.dtype())
    }

    fn _repr_html_(&self) -> String {
        let rows = [
            ("model", self.name().to_owned()),
            ("from", self.wanted.model.clone()),
            ("codes", format!("{} of {}", self.num_tokens(), self.codebook_size())),
            ("images", format!("{0} x {0} pixels", self.image_size())),
            ("device", self.device()),
            ("dtype", self.dtype().to_owned()),
        ];
        let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let rows = rows.map(|(name, value)| format!("<tr><th>{name}</th><td>{}</td></tr>", escape(&value)));
        format!("<table><caption>SeedTokenizer</caption>{}</table>", rows.concat())
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let wanted = &self.wanted;
        let options = PyDict::new(py);
        options.set_item("revision", wanted.revision.as_deref())?;
        options.set_item("cache_dir", wanted.cache_dir.as_ref().map(|path| path.display().to_string()))?;
        options.set_item("local_files_only", wanted.local_files_only)?;
        options.set_item("device", self.device())?;
        options.set_item("dtype", self.dtype())?;
        options.set_item("preprocess", wanted.preprocess.map(|preset| preset.name()))?;
        options.set_item("max_pixels", wanted.limits.max_pixels)?;
        let restore = py.import("seed_tokenizer._native")?.getattr("_restore")?;
        Ok((restore, (&wanted.model, options).into_pyobject(py)?))
    }
}
