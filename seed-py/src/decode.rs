//! Codes -> images.

use std::{ops::ControlFlow, sync::Arc};

use pyo3::{intern, prelude::*};
use seed_core::DecodeOptions;

use crate::{
    arrays,
    call::{Ending, run},
    errors::{Raised as _, argument},
    tokenizer::SeedTokenizer,
};

#[pymethods]
impl SeedTokenizer {
    /// Turns codes into images.
    ///
    /// Args:
    ///     codes (Any): Whole numbers, [images, tokens], or [tokens] of one image, in anything that numpy reads; or a line of
    ///         codes as the command line prints it.
    ///     negative_codes (Any): Codes to move away from, of one image for all or of one for each.
    ///     num_inference_steps (int | None): Sampling steps, from 1 to 999; by default as the model says.
    ///     guidance_scale (float | None): 1 and below is no guidance and half the work; by default as the model says.
    ///     seed (int): Seed of the random numbers. The same seed and codes give the same image in whatever batch.
    ///     scheduler (str | None): "pndm", "ddim", "euler" or "dpm++2m"; by default as the decoder says.
    ///     size (int | None): Height and width in pixels; by default what the decoder was trained on.
    ///     keep_first (int | None): Decode from the first so many codes of each image.
    ///     output_type (str): "pil" for Pillow's images, or "np" for uint8 arrays.
    ///     progress (Callable[[int, int], None] | None): Called in this thread with the steps done and all steps; what it raises
    ///         ends the decoding.
    ///
    /// Returns:
    ///     Any: A list of PIL images that shows itself in a notebook, or [images, height, width, 3] of uint8; one PIL image or
    ///         [height, width, 3] for codes of one dimension.
    ///
    /// Raises:
    ///     CodesError: Codes that this model cannot have made.
    ///     ArgumentError: An option that is not possible.
    ///     MissingPartError: The model has no decoder.
    #[pyo3(signature = (
        codes, *, negative_codes = None, num_inference_steps = None, guidance_scale = None, seed = 0, scheduler = None,
        size = None, keep_first = None, output_type = "pil", progress = None
    ))]
    #[allow(clippy::too_many_arguments)] // Python names them
    fn decode<'py>(
        &self,
        py: Python<'py>,
        codes: &Bound<'py, PyAny>,
        negative_codes: Option<&Bound<'py, PyAny>>,
        num_inference_steps: Option<usize>,
        guidance_scale: Option<f64>,
        seed: u64,
        scheduler: Option<&str>,
        size: Option<usize>,
        keep_first: Option<usize>,
        output_type: &str,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let as_pil = match output_type {
            "pil" => true,
            "np" | "numpy" => false,
            _ => return Err(argument(py, "output_type", output_type, "images come as pil or np")),
        };
        let take =
            |given: &Bound<'_, PyAny>, name| arrays::take_codes(given, self.num_tokens(), self.codebook_size(), name);
        let arrays::Given { codes, single } = take(codes, "codes")?;
        let negative = negative_codes.map(|given| take(given, "negative_codes")).transpose()?;
        let own = self.core.decode_options();
        let options = DecodeOptions {
            steps: num_inference_steps.unwrap_or(own.steps),
            guidance: guidance_scale.unwrap_or(own.guidance),
            seed,
            scheduler: scheduler.map(str::parse).transpose().raised(py)?,
            size,
            keep_first,
        };
        let core = Arc::clone(&self.core);
        let mut tell = |(done, all): (usize, usize)| match &progress {
            Some(progress) => progress.call1(py, (done, all)).map(drop),
            None => Ok(()),
        };
        let images = run(py, Ending::AtOnce, &mut tell, move |context| {
            let mut watch = |done, all| {
                context.tell((done, all));
                if context.go_on().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            core.decode_with(&codes, negative.as_ref().map(|given| &given.codes), &options, &mut watch)
        })?;
        if as_pil { arrays::to_pil(py, &images, single) } else { arrays::to_numpy(py, &images, single) }
    }

    /// As the official SEED's `decode_image`.
    ///
    /// Args:
    ///     indices (Any): Codes, [images, tokens].
    ///     negative_indices (Any): Codes to move away from.
    ///     guidance_scale (float | None): By default as the model says, where the official code has 10.
    ///     num_inference_steps (int | None): By default as the model says, where the official code has 20.
    ///
    /// Returns:
    ///     list[Any]: PIL images, always a list.
    #[pyo3(signature = (indices, negative_indices = None, guidance_scale = None, num_inference_steps = None))]
    fn decode_image<'py>(
        &self,
        py: Python<'py>,
        indices: &Bound<'py, PyAny>,
        negative_indices: Option<&Bound<'py, PyAny>>,
        guidance_scale: Option<f64>,
        num_inference_steps: Option<usize>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let rows = py.import(intern!(py, "numpy"))?.call_method1(intern!(py, "atleast_2d"), (indices,))?;
        let steps = num_inference_steps;
        self.decode(py, &rows, negative_indices, steps, guidance_scale, 0, None, None, None, "pil", None)
    }
}
