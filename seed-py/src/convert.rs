//! Official files -> a bundle.

use std::path::PathBuf;

use pyo3::prelude::*;
use seed_core::{
    DType, Error,
    tokenizer::{self, ConvertOptions, SeedConfig},
};

use crate::{
    call::{Ending, run},
    evaluate::report,
    model,
};

/// Makes a bundle of the official files, and accounts for every key in them. Nothing in the files is run. Ctrl-C ends it with
/// the tensor at hand; the folder is no bundle then, and the same call makes it one.
///
/// Args:
///     quantizer (str | os.PathLike[str]): seed_quantizer.pt (SEED-2) or seed_tokenizer.pth (SEED-1), or one file with everything.
///     out (str | os.PathLike[str]): Folder of the bundle.
///     vit (str | os.PathLike[str] | None): eva_vit_g.pth, the vision transformer of SEED-2.
///     qformer (str | os.PathLike[str] | None): causal_qformer.pth of SEED-1.
///     decoder (str | os.PathLike[str] | None): Folder of a diffusion decoder in diffusers' layout.
///     config (str | os.PathLike[str] | None): Sizes as JSON, for models that are not of a released size.
///     image_size (int | None): Side of the images, if another than the files are for.
///     dtype (Any): Element type on disk; "float16" by default.
///     name (str | None): Name of the model; by default that of the folder.
///
/// Returns:
///     Report: Sizes of the model, and what became of every key of every file.
///
/// Raises:
///     WeightsError: Files that are no weights, or not of one model.
///     PickleRefusedError: A checkpoint that could run code.
///     ConfigError: Sizes that are not possible.
#[pyfunction]
#[pyo3(signature = (
    quantizer, out, *, vit = None, qformer = None, decoder = None, config = None, image_size = None, dtype = None, name = None
))]
#[allow(clippy::too_many_arguments)] // Python names them
pub(crate) fn convert(
    py: Python<'_>,
    quantizer: PathBuf,
    out: PathBuf,
    vit: Option<PathBuf>,
    qformer: Option<PathBuf>,
    decoder: Option<PathBuf>,
    config: Option<PathBuf>,
    image_size: Option<usize>,
    dtype: Option<&Bound<'_, PyAny>>,
    name: Option<String>,
) -> PyResult<Py<PyAny>> {
    let dtype = dtype.map(|dtype| model::dtype(py, dtype)).transpose()?.unwrap_or(DType::F16);
    let name = name.unwrap_or_else(|| out.file_name().unwrap_or_default().to_string_lossy().into_owned());
    let done = run(py, Ending::AfterWorkAtHand, &mut |()| Ok(()), move |context| {
        let config: Option<SeedConfig> = config.map(|path| read(&path)).transpose()?;
        let options = ConvertOptions { name, quantizer, vit, qformer, decoder, config, image_size, dtype };
        tokenizer::convert_until(&options, &out, context.stop())
    })?;
    report(py, &done)
}

/// Sizes in a JSON file.
fn read(path: &std::path::Path) -> seed_core::Result<SeedConfig> {
    let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::Config { file: path.display().to_string(), reason: error.to_string() })
}
