//! `SeedTokenizer.evaluate`, and values of the core as plain values of Python.

use std::ops::ControlFlow;

use pyo3::{
    prelude::*,
    types::{PyDict, PyList},
};
use seed_core::{Codes, DecodeOptions, eval};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    call::{Ending, run},
    encode::AT_ONCE,
    errors::argument,
    tokenizer::SeedTokenizer,
};

#[pymethods]
impl SeedTokenizer {
    /// Measures the model on held-out scenes.
    ///
    /// Args:
    ///     what (str): "retrieval", which caption belongs to which image; "reconstruction", whether what comes back is the same
    ///         picture to the model; or "codes", how much of the codebook is used, and how evenly.
    ///     count (int): Number of scenes, all with captions of their own.
    ///     scene_seed (int): Seed of the scenes.
    ///     num_inference_steps (int | None): For "reconstruction", as in `decode`.
    ///     guidance_scale (float | None): For "reconstruction", as in `decode`.
    ///     seed (int): For "reconstruction", as in `decode`.
    ///     progress (Callable[[int, int], None] | None): For "reconstruction": called in this thread with the images done and
    ///         all images.
    ///
    /// Returns:
    ///     Report: As `seed eval --json`, with what made it under "tokenizer".
    ///
    /// Raises:
    ///     MissingPartError: The model has no caption side or no decoder.
    #[pyo3(signature = (
        what = "retrieval", *, count = 1000, scene_seed = 1, num_inference_steps = None, guidance_scale = None, seed = 0,
        progress = None
    ))]
    #[allow(clippy::too_many_arguments)] // Python names them
    fn evaluate(
        &self,
        py: Python<'_>,
        what: &str,
        count: usize,
        scene_seed: u64,
        num_inference_steps: Option<usize>,
        guidance_scale: Option<f64>,
        seed: u64,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        if !["retrieval", "reconstruction", "codes"].contains(&what) {
            return Err(argument(py, "what", what, "evaluations are retrieval, reconstruction and codes"));
        }
        if !(1..=1_000_000).contains(&count) {
            return Err(argument(py, "count", count, "it must be from 1 to 1,000,000"));
        }
        let own = self.core.decode_options();
        let options = DecodeOptions {
            steps: num_inference_steps.unwrap_or(own.steps),
            guidance: guidance_scale.unwrap_or(own.guidance),
            seed,
            ..own
        };
        let (core, what) = (self.core.clone(), what.to_owned());
        let mut tell = |(done, all): (usize, usize)| match &progress {
            Some(progress) => progress.call1(py, (done, all)).map(drop),
            None => Ok(()),
        };
        let measured = run(py, Ending::AtOnce, &mut tell, move |context| {
            let core = core.as_ref();
            let data = eval::held_out(count, scene_seed, core.config().model.image_size as u32);
            context.go_on()?;
            let mut record = match what.as_str() {
                "retrieval" => json!(eval::retrieval(core, &data)?),
                "codes" => {
                    let (model, mut rows) = (&core.config().model, Vec::new());
                    for images in data.images.chunks(AT_ONCE) {
                        context.go_on()?;
                        rows.extend_from_slice(core.encode(images)?.as_slice());
                    }
                    let rows = rows.chunks(model.num_queries);
                    let codes = Codes::from_rows(rows, model.num_queries, model.codebook_size)?;
                    json!(eval::code_usage(&codes))
                }
                _ => {
                    let mut last = None;
                    let mut watch = |done, all| {
                        if last.replace(done) != Some(done) {
                            context.tell((done, all));
                        }
                        if context.go_on().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                    };
                    json!(eval::reconstruction(core, &data, &options, &mut watch)?)
                }
            };
            record["tokenizer"] = json!(core.provenance()?);
            record["scene_seed"] = scene_seed.into();
            Ok(record)
        })?;
        report(py, &measured)
    }
}

/// What JSON would say of a value, as a `Report`, which shows itself in notebooks.
pub(crate) fn report(py: Python<'_>, value: &impl Serialize) -> PyResult<Py<PyAny>> {
    let values = to_python(py, value)?;
    Ok(py.import("seed_tokenizer.results")?.getattr("Report")?.call1((values,))?.unbind())
}

/// What JSON would say of a value, as dicts, lists, numbers and texts.
pub(crate) fn to_python(py: Python<'_>, value: &impl Serialize) -> PyResult<Py<PyAny>> {
    let json = serde_json::to_value(value).expect("numbers and names are JSON");
    Ok(from_json(py, &json)?.unbind())
}

fn from_json<'py>(py: Python<'py>, json: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match json {
        Value::Null => py.None().into_bound(py),
        Value::Bool(value) => value.into_pyobject(py)?.to_owned().into_any(),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into_pyobject(py)?.into_any(),
            (None, Some(number)) => number.into_pyobject(py)?.into_any(),
            (None, None) => number.as_f64().into_pyobject(py)?.into_any(),
        },
        Value::String(text) => text.into_pyobject(py)?.into_any(),
        Value::Array(values) => {
            let list = PyList::empty(py);
            for value in values {
                list.append(from_json(py, value)?)?;
            }
            list.into_any()
        }
        Value::Object(fields) => {
            let dict = PyDict::new(py);
            for (name, value) in fields {
                dict.set_item(name, from_json(py, value)?)?;
            }
            dict.into_any()
        }
    })
}
