//! Images -> codes and embeddings.

use std::{ops::Range, sync::Arc, time::Instant};

use pyo3::{intern, prelude::*};
use rayon::prelude::*;
use seed_core::{Codes, Result, SeedTokenizer as Core, pixels::Limits, tokenizer::Features};

use crate::{
    arrays,
    call::{Context, compute},
    errors::{Raised as _, argument},
    images::{self, Input, Inputs},
    tokenizer::SeedTokenizer,
};

/// Images that are decoded and encoded between two looks at whether to stop; as many as the core encodes at a time.
pub(crate) const AT_ONCE: usize = 32;

#[pymethods]
impl SeedTokenizer {
    /// Turns images into codes.
    ///
    /// Args:
    ///     images (Any): An image, or a list or any other iterable of images, of mixed kinds. An image is a path, the bytes of a
    ///         file, a file object, a PIL image, a dict with "bytes" or "path", a uint8 array of height x width x 3 (grey and
    ///         RGBA too; RGBA loses its alpha), or whatever gives such an array through the array protocol or DLPack, such as
    ///         a tensor of torch. An array of four dimensions is several images.
    ///     return_margins (bool): Say too how much farther the runner-up of each code is, in squared distance. Codes of small
    ///         margin may differ on another device.
    ///
    /// Returns:
    ///     NDArray[np.uint16] | tuple[NDArray[np.uint16], NDArray[np.float32]]: Codes, [images, tokens], or [tokens] of an image
    ///         that is not in a list; and their margins, of the same shape, if asked for.
    ///
    /// Raises:
    ///     InputTypeError: An object that is no image.
    ///     ImageError: Bytes that are no image.
    ///     ReadError: A file that cannot be read.
    #[pyo3(signature = (images, *, return_margins = false))]
    fn encode<'py>(
        &self,
        py: Python<'py>,
        images: &Bound<'py, PyAny>,
        return_margins: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Inputs { images, single } = images::take(images)?;
        let (core, limits) = (Arc::clone(&self.core), self.wanted.limits.clone());
        let (codes, margins) = compute(py, move |context| {
            encode(core.as_ref(), images.len(), return_margins, context, &|range| {
                prepare(core.as_ref(), &images[range], &limits)
            })
        })?;
        codes_and_margins(py, &codes, margins, single)
    }

    /// Turns pixels that are normalised already into codes.
    ///
    /// Args:
    ///     pixels (Any): Floats [images, 3, size, size], or [3, size, size] of one image, as the model's own preprocessing makes
    ///         them: resized, from 0 to 1, less CLIP's mean, divided by its standard deviation.
    ///     return_margins (bool): As in `encode`.
    ///
    /// Returns:
    ///     NDArray[np.uint16] | tuple[NDArray[np.uint16], NDArray[np.float32]]: As `encode`.
    ///
    /// Raises:
    ///     ArgumentError: An array of another shape.
    #[pyo3(signature = (pixels, *, return_margins = false))]
    fn encode_pixels<'py>(
        &self,
        py: Python<'py>,
        pixels: &Bound<'py, PyAny>,
        return_margins: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (pixels, single) = arrays::take_pixels(pixels, self.image_size())?;
        let core = Arc::clone(&self.core);
        let (codes, margins) = compute(py, move |context| {
            encode(core.as_ref(), pixels.len(), return_margins, context, &|range| Ok(pixels[range].to_vec()))
        })?;
        codes_and_margins(py, &codes, margins, single)
    }

    /// Turns images into the pixels that the network reads: what `encode_pixels` takes.
    ///
    /// Args:
    ///     images (Any): As in `encode`.
    ///
    /// Returns:
    ///     NDArray[np.float32]: [images, 3, size, size], or [3, size, size] of an image that is not in a list.
    fn preprocess<'py>(&self, py: Python<'py>, images: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let Inputs { images, single } = images::take(images)?;
        let (core, limits, size) = (Arc::clone(&self.core), self.wanted.limits.clone(), self.image_size());
        let count = images.len();
        let pixels: Vec<Vec<f32>> = compute(py, move |_| prepare(core.as_ref(), &images, &limits))?;
        match single {
            true => arrays::floats(py, pixels.concat(), [3, size, size]),
            false => arrays::floats(py, pixels.concat(), [count, 3, size, size]),
        }
    }

    /// Turns images into embeddings.
    ///
    /// Args:
    ///     images (Any): As in `encode`.
    ///     kind (str): "causal", the causal embeddings that become codes; or "generation", the embeddings that images are
    ///         drawn from, made of the codes.
    ///
    /// Returns:
    ///     NDArray[np.float32]: [images, tokens, width], or [tokens, width] of an image that is not in a list. A generation
    ///         embedding has one token for SEED-2.
    ///
    /// Raises:
    ///     ArgumentError: Another kind.
    #[pyo3(signature = (images, kind = "causal"))]
    fn embed<'py>(&self, py: Python<'py>, images: &Bound<'py, PyAny>, kind: &str) -> PyResult<Bound<'py, PyAny>> {
        let generation = match kind {
            "causal" => false,
            "generation" => true,
            _ => return Err(argument(py, "kind", kind, "embeddings are causal or generation")),
        };
        let Inputs { images, single } = images::take(images)?;
        let (core, limits) = (Arc::clone(&self.core), self.wanted.limits.clone());
        let features = compute(py, move |context| {
            let embed = |pixels: &[Vec<f32>]| match generation {
                true => core.generation_features(&core.encode_pixels(pixels)?),
                false => core.causal_features(pixels),
            };
            let mut all = embed(&[])?;
            for images in images.chunks(AT_ONCE) {
                context.go_on()?;
                let part = embed(&prepare(core.as_ref(), images, &limits)?)?;
                all.shape[0] += part.shape[0];
                all.values.extend(part.values);
            }
            Ok(all)
        })?;
        from_features(py, features, single)
    }

    /// Turns codes into the embeddings that images are drawn from.
    ///
    /// Args:
    ///     codes (Any): As in `decode`.
    ///
    /// Returns:
    ///     NDArray[np.float32]: [images, tokens, width], or [tokens, width] for codes of one dimension.
    ///
    /// Raises:
    ///     CodesError: Codes that this model cannot have made.
    fn embed_codes<'py>(&self, py: Python<'py>, codes: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let arrays::Given { codes, single } = arrays::take_codes(codes, &self.core.config().model, "codes")?;
        let core = Arc::clone(&self.core);
        from_features(py, compute(py, move |_| core.generation_features(&codes))?, single)
    }

    /// As the official SEED's `encode_image`: exactly one of the three is given.
    ///
    /// Args:
    ///     image_path (Any): A path, or anything else that `encode` takes.
    ///     image_pil (Any): A PIL image.
    ///     image_torch (Any): Normalised pixels, [3, size, size] or [images, 3, size, size].
    ///
    /// Returns:
    ///     NDArray[np.uint16]: Codes, always [images, tokens].
    #[pyo3(signature = (image_path = None, image_pil = None, image_torch = None))]
    fn encode_image<'py>(
        &self,
        py: Python<'py>,
        image_path: Option<&Bound<'py, PyAny>>,
        image_pil: Option<&Bound<'py, PyAny>>,
        image_torch: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let codes = match (image_path, image_pil, image_torch) {
            (Some(image), None, None) | (None, Some(image), None) => self.encode(py, image, false)?,
            (None, None, Some(pixels)) => self.encode_pixels(py, pixels, false)?,
            _ => {
                let reason = "give exactly one of image_path, image_pil and image_torch";
                return Err(argument(py, "image", "none, or several", reason));
            }
        };
        codes.call_method1(intern!(py, "reshape"), (-1, self.core.config().model.num_queries))
    }

    /// Seconds that the core alone takes to encode images that are in its memory, in this thread: what a call from Rust
    /// costs, for the benchmark of what `encode` costs besides.
    ///
    /// Args:
    ///     images (Any): As in `encode`.
    ///
    /// Returns:
    ///     float: Seconds.
    fn _seconds_of_core(&self, py: Python<'_>, images: &Bound<'_, PyAny>) -> PyResult<f64> {
        let Inputs { images, .. } = images::take(images)?;
        let (core, limits) = (Arc::clone(&self.core), self.wanted.limits.clone());
        let load = |input: &Input| Ok(input.load(&limits)?.into_owned());
        let images = images.iter().map(load).collect::<Result<Vec<_>>>().raised(py)?;
        py.detach(|| {
            let start = Instant::now();
            core.encode(&images).map(|_| start.elapsed().as_secs_f64())
        })
        .raised(py)
    }
}

/// Reads, decodes and preprocesses images, side by side.
fn prepare(core: &dyn Core, images: &[Input], limits: &Limits) -> Result<Vec<Vec<f32>>> {
    images.par_iter().map(|input| Ok(core.preprocessor().apply(input.load(limits)?.as_ref()))).collect()
}

/// Features as `float32`.
pub(crate) fn from_features(py: Python<'_>, features: Features, single: bool) -> PyResult<Bound<'_, PyAny>> {
    let [count, tokens, width] = features.shape;
    match single {
        true => arrays::floats(py, features.values, [tokens, width]),
        false => arrays::floats(py, features.values, [count, tokens, width]),
    }
}

/// Encodes in pieces; `pixels` gives those of a range of images.
fn encode<'a>(
    core: &dyn Core,
    count: usize,
    with_margins: bool,
    context: &Context<()>,
    pixels: &(dyn Fn(Range<usize>) -> Result<Vec<Vec<f32>>> + 'a),
) -> Result<(Codes, Option<Vec<f32>>)> {
    let model = &core.config().model;
    let (mut rows, mut margins): (Vec<u16>, Vec<f32>) = Default::default();
    for start in (0..count).step_by(AT_ONCE) {
        context.go_on()?;
        let pixels = pixels(start..count.min(start + AT_ONCE))?;
        if with_margins {
            let (codes, lead) = core.encode_pixels_with_margins(&pixels)?;
            rows.extend_from_slice(codes.as_slice());
            margins.extend(lead);
        } else {
            rows.extend_from_slice(core.encode_pixels(&pixels)?.as_slice());
        }
    }
    let codes = Codes::from_rows(rows.chunks(model.num_queries), model.num_queries, model.codebook_size)?;
    Ok((codes, with_margins.then_some(margins)))
}

fn codes_and_margins<'py>(
    py: Python<'py>,
    codes: &Codes,
    margins: Option<Vec<f32>>,
    single: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let array = arrays::from_codes(py, codes, single)?;
    match margins {
        Some(margins) => Ok((array, arrays::from_margins(py, margins, codes, single)?).into_pyobject(py)?.into_any()),
        None => Ok(array),
    }
}
