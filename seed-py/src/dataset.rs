//! Datasets to tokens: `SeedTokenizer.tokenize_dataset` and `verify_dataset`.

use std::path::PathBuf;

use pyo3::{
    intern,
    prelude::*,
    types::{PyList, PyString, PyTuple},
};
use seed_core::{
    Error,
    dataset::{
        self, Filters, Manifest, MegatronIds, OutputFormat, Part, SinkFormat as _, SourceOptions, Statistics,
        TokenizeOptions, Watch, source,
    },
};
use serde_json::{Value, json};

use crate::{
    call::{Ending, run},
    errors::{Raised as _, argument, because, raise},
    evaluate::report,
    tokenizer::SeedTokenizer,
};

#[pymethods]
impl SeedTokenizer {
    /// Tokenizes a dataset, shard by shard, into files that trainers read. A run that ended early is gone on with by the same
    /// call; Ctrl-C ends it after the shard at hand.
    ///
    /// Args:
    ///     inputs (str | os.PathLike[str] | Sequence[str | os.PathLike[str]]): Files, folders, globs or brace lists: folders of
    ///         images, lists of paths, WebDataset tars, parquet, LLaVA, OBELICS or MMC4. They are recognised by content.
    ///     out (str | os.PathLike[str]): Folder of the output.
    ///     format (str): "parquet", "jsonl", "seed-tar", "webdataset", "npy" or "megatron".
    ///     source (str | None): Format of the inputs, if not by content: "folder", "list", "webdataset", "parquet", "llava",
    ///         "obelics" or "mmc4".
    ///     shard_size (int): Samples of an output shard, where the inputs have no shards of their own.
    ///     root (str | os.PathLike[str] | None): Folder that relative paths start from.
    ///     image_column (str | None): Column or field of the image.
    ///     key_column (str | None): Column or field of the key.
    ///     caption_column (str | None): Column or field of the caption.
    ///     columns (Sequence[str]): Columns that travel along, as NAME or NAME:TYPE with text, int, float or bool.
    ///     min_side (int | None): Leave out images with a side below this many pixels.
    ///     max_aspect (float | None): Leave out images longer than this to 1.
    ///     min_similarity (float | None): Leave out samples whose similarity is below this.
    ///     similarity_column (str): Column of the similarity; it must be among `columns`.
    ///     ids (tuple[int, int, int] | None): For "megatron": the offset of codes, the id before and the id after an image; by
    ///         default those of SEED-LLaMA.
    ///     shard (tuple[int, int] | None): Do part I of N of the shards, from 0; by default as SLURM_PROCID and SLURM_NTASKS or
    ///         RANK and WORLD_SIZE say, else all.
    ///     limit (int | None): Stop after this many inputs.
    ///     max_errors (int | None): Give up after more failures than this.
    ///     retry_failures (bool): Do shards again that have failures.
    ///     batch_size (int): Images that are encoded at a time.
    ///     dry_run (bool): Say what would be done, and do nothing.
    ///     progress (Callable[[dict[str, Any]], None] | None): Called in this thread after batches, with the statistics so far;
    ///         what it raises ends the run after the shard at hand.
    ///
    /// Returns:
    ///     Report: Statistics: shards, inputs, rows, failed, filtered, seconds and so on; of a dry run, the plan.
    ///
    /// Raises:
    ///     DatasetError: An input that cannot be used.
    ///     OtherRunError: The folder was begun with other settings.
    ///     FolderInUseError: The folder holds something else.
    ///     TooManyFailuresError: More inputs failed than `max_errors`.
    ///     BusyError: Another process writes the same shard.
    #[pyo3(signature = (
        inputs, out, *, format = "parquet", source = None, shard_size = 10_000, root = None, image_column = None,
        key_column = None, caption_column = None, columns = Vec::new(), min_side = None, max_aspect = None,
        min_similarity = None, similarity_column = "similarity", ids = None, shard = None, limit = None, max_errors = None,
        retry_failures = false, batch_size = 64, dry_run = false, progress = None
    ), text_signature = "(self, inputs, out, *, format=\"parquet\", source=None, shard_size=10000, root=None, image_column=None, key_column=None, caption_column=None, columns=(), min_side=None, max_aspect=None, min_similarity=None, similarity_column=\"similarity\", ids=None, shard=None, limit=None, max_errors=None, retry_failures=False, batch_size=64, dry_run=False, progress=None)")]
    #[allow(clippy::too_many_arguments)] // Python names them
    fn tokenize_dataset(
        &self,
        py: Python<'_>,
        inputs: &Bound<'_, PyAny>,
        out: PathBuf,
        format: &str,
        source: Option<&str>,
        shard_size: usize,
        root: Option<PathBuf>,
        image_column: Option<String>,
        key_column: Option<String>,
        caption_column: Option<String>,
        columns: Vec<String>,
        min_side: Option<u32>,
        max_aspect: Option<f64>,
        min_similarity: Option<f64>,
        similarity_column: &str,
        ids: Option<(u32, u32, u32)>,
        shard: Option<(usize, usize)>,
        limit: Option<u64>,
        max_errors: Option<u64>,
        retry_failures: bool,
        batch_size: usize,
        dry_run: bool,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        for (name, value) in [("shard_size", shard_size), ("batch_size", batch_size)] {
            if value == 0 {
                return Err(argument(py, name, value, "it must be at least 1"));
            }
        }
        let part = match shard {
            Some((index, of)) => Some(format!("{index}/{of}").parse().raised(py)?),
            None => Part::from_environment().raised(py)?,
        };
        let reading = SourceOptions {
            format: source.map(str::parse).transpose().raised(py)?,
            shard_size,
            root,
            image_column,
            key_column,
            caption_column,
            columns: columns.iter().map(|column| column.parse()).collect::<Result<_, Error>>().raised(py)?,
        };
        let options = TokenizeOptions {
            filters: Filters {
                min_side,
                max_aspect,
                min_value: min_similarity.map(|least| (similarity_column.to_owned(), least)),
            },
            limits: self.wanted.limits.clone(),
            batch_size,
            part: part.unwrap_or_default(),
            limit,
            max_errors,
            retry_failures,
        };
        let format = match (format.parse().raised(py)?, ids) {
            (OutputFormat::Megatron(_), Some((offset, begin, end))) => {
                OutputFormat::Megatron(MegatronIds { offset, begin, end })
            }
            (format, _) => format,
        };
        let (core, inputs) = (self.core.clone(), texts(inputs)?);
        let mut tell = |now: Statistics| match &progress {
            Some(progress) => progress.call1(py, (report(py, &now)?,)).map(drop),
            None => Ok(()),
        };
        let done: Value = run(py, Ending::AfterWorkAtHand, &mut tell, move |context| {
            let source = source::open(&inputs, &reading)?;
            if dry_run {
                let manifest = dataset::plan(core.as_ref(), source.as_ref(), &format, &options)?;
                return Ok(plan(&manifest, &format, options.part));
            }
            let mut watch = Watch { stop: context.stop(), progress: &mut |now: &Statistics| context.tell(*now) };
            let done = dataset::tokenize(core.as_ref(), source.as_ref(), &format, &out, &options, &mut watch)?;
            let mut statistics = serde_json::to_value(done).expect("numbers are JSON");
            statistics["images_per_second"] = done.images_per_second().into();
            Ok(statistics)
        })?;
        report(py, &done)
    }
}

/// What would be done.
fn plan(manifest: &Manifest, format: &OutputFormat, part: Part) -> Value {
    let own: Vec<_> = manifest.inputs.iter().enumerate().filter(|(shard, _)| part.holds(*shard)).collect();
    let samples: Option<u64> = own.iter().map(|(_, shard)| shard.samples).sum();
    json!({
        "tokenizer": manifest.tokenizer, "shape": manifest.shape, "format": format, "part": part,
        "shards": manifest.inputs.len(), "own_shards": own.len(), "samples": samples,
        "bytes": samples.map(|samples| samples * format.bytes_of_a_row(&manifest.shape)),
    })
}

/// One path or several, as the command line would be given them.
fn texts(inputs: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    let text = |input: &Bound<'_, PyAny>| -> PyResult<String> {
        let path = input.py().import(intern!(input.py(), "os"))?.call_method1(intern!(input.py(), "fspath"), (input,));
        path.and_then(|path| path.extract()).map_err(|error| {
            let message = format!("inputs are paths or lists of paths, not {}", input.get_type());
            because(input.py(), error, raise(input.py(), "InputTypeError", &message))
        })
    };
    match inputs.is_instance_of::<PyList>() || inputs.is_instance_of::<PyTuple>() {
        true => inputs.try_iter()?.map(|input| text(&input?)).collect(),
        false if inputs.is_instance_of::<PyString>() || inputs.hasattr(intern!(inputs.py(), "__fspath__"))? => {
            Ok(vec![text(inputs)?])
        }
        false => Err(text(inputs).err().unwrap_or_else(|| argument(inputs.py(), "inputs", inputs, "give paths"))),
    }
}

/// Proves that an output of `SeedTokenizer.tokenize_dataset` is whole: checksums, counts, codes, keys.
///
/// Args:
///     folder (str | os.PathLike[str]): Folder of the output.
///     progress (Callable[[int, int], None] | None): Called in this thread with the shards looked at and all shards.
///
/// Returns:
///     Report: What was found; `whole` says whether everything is there and right, `first_problems` what is not.
///
/// Raises:
///     DatasetError: The folder is no such output.
#[pyfunction]
#[pyo3(signature = (folder, *, progress = None))]
pub(crate) fn verify_dataset(py: Python<'_>, folder: PathBuf, progress: Option<Py<PyAny>>) -> PyResult<Py<PyAny>> {
    let mut tell = |(done, all): (usize, usize)| match &progress {
        Some(progress) => progress.call1(py, (done, all)).map(drop),
        None => Ok(()),
    };
    let found = run(py, Ending::AtOnce, &mut tell, move |context| {
        let manifest = Manifest::read(&folder)?;
        let format: OutputFormat = serde_json::from_value(manifest.format.clone()).map_err(|error| Error::Input {
            name: folder.display().to_string(),
            reason: format!("it is of a format that this version does not know ({error})"),
        })?;
        let found = dataset::verify(&folder, &format, &mut |done, all| context.tell((done, all)))?;
        let mut json = serde_json::to_value(&found).expect("numbers and texts are JSON");
        json["whole"] = found.is_whole().into();
        Ok(json)
    })?;
    report(py, &found)
}
