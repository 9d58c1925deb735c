//! Codes and images, to and from numpy and Pillow.

use numpy::{
    PyArray, PyArray1, PyArrayDescrMethods as _, PyArrayDyn, PyArrayMethods as _, PyUntypedArray,
    PyUntypedArrayMethods as _,
};
use pyo3::{
    exceptions::PyImportError,
    intern,
    prelude::*,
    types::{PyBytes, PyString},
};
use seed_core::{Codes, Error, codes::from_text, pixels::RgbImage};

use crate::errors::{Raised as _, argument, because, raise};

/// Codes of one image or several, as they were given.
pub(crate) struct Given {
    pub(crate) codes: Codes,
    /// Whether they were one image's.
    pub(crate) single: bool,
}

/// Codes as `uint16`: `[images, tokens]`, or `[tokens]` of a single image.
pub(crate) fn from_codes<'py>(py: Python<'py>, codes: &Codes, single: bool) -> PyResult<Bound<'py, PyAny>> {
    let array = PyArray1::from_slice(py, codes.as_slice());
    if single { Ok(array.into_any()) } else { Ok(array.reshape([codes.batch(), codes.tokens()])?.into_any()) }
}

/// One number a code, shaped as the codes.
pub(crate) fn from_margins<'py>(
    py: Python<'py>,
    margins: Vec<f32>,
    codes: &Codes,
    single: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let array = PyArray1::from_vec(py, margins);
    if single { Ok(array.into_any()) } else { Ok(array.reshape([codes.batch(), codes.tokens()])?.into_any()) }
}

/// Takes codes: whole numbers `[tokens]` or `[images, tokens]` in anything that numpy reads, or a line of text as the command
/// line prints it.
pub(crate) fn take_codes(
    given: &Bound<'_, PyAny>,
    tokens: usize,
    rows_of: usize,
    name: &'static str,
) -> PyResult<Given> {
    let py = given.py();
    if let Ok(text) = given.cast::<PyString>() {
        let row = from_text(&text.to_string_lossy()).raised(py)?;
        let codes = Codes::from_rows([row], tokens, rows_of).raised(py)?;
        return Ok(Given { codes, single: true });
    }
    let numpy = py.import(intern!(py, "numpy"))?;
    let read = numpy.call_method1(intern!(py, "asarray"), (given,));
    let array = read.and_then(|array| Ok(array.cast_into::<PyUntypedArray>()?)).map_err(|error| {
        let reason = format!("codes are whole numbers, [{tokens}] or [images, {tokens}]: {error}");
        because(py, error, argument(py, name, "no array", reason))
    })?;
    let shape = array.shape().to_vec();
    let single = match shape[..] {
        [_] => shape[0] != 0,
        [_, _] => false,
        _ => {
            let reason = format!("codes are [{tokens}] or [images, {tokens}]");
            return Err(argument(py, name, format!("an array {shape:?}"), reason));
        }
    };
    if !matches!(array.dtype().kind(), b'i' | b'u') && !shape.contains(&0) {
        return Err(raise(
            py,
            "InputTypeError",
            &format!("{name} is an array of {}; codes are whole numbers", array.dtype()),
        ));
    }
    let wide = array.call_method1(intern!(py, "astype"), ("int64",))?.cast_into::<PyArrayDyn<i64>>()?;
    let values: Vec<i64> = wide.readonly().as_array().iter().copied().collect();
    let width = if single { shape[0] } else { shape.get(1).copied().unwrap_or(tokens) };
    if let Some(place) = values.iter().position(|value| u64::try_from(*value).is_err()) {
        let reason = format!("codes are from 0 to {}", rows_of - 1);
        return Err(argument(
            py,
            name,
            format!("{} at position {} of image {}", values[place], place % width, place / width),
            reason,
        ));
    }
    if width == 0 && shape[0] > 0 {
        return Err(Error::CodeCount { image: 0, found: 0, expected: tokens }).raised(py);
    }
    let values: Vec<u64> = values.iter().map(|value| value.unsigned_abs()).collect();
    let codes = Codes::from_rows(values.chunks(width.max(1)), tokens, rows_of).raised(py)?;
    Ok(Given { codes, single })
}

/// Numbers as `float32` of a shape.
pub(crate) fn floats<'py, const D: usize>(
    py: Python<'py>,
    values: Vec<f32>,
    shape: [usize; D],
) -> PyResult<Bound<'py, PyAny>>
where
    [usize; D]: numpy::ndarray::IntoDimension,
{
    Ok(PyArray1::from_vec(py, values).reshape(shape)?.into_any())
}

/// Images as Pillow's: one, or an `Images`.
pub(crate) fn to_pil<'py>(py: Python<'py>, images: &[RgbImage], single: bool) -> PyResult<Bound<'py, PyAny>> {
    let pillow = py.import(intern!(py, "PIL.Image")).map_err(|error| {
        let message = "images are Pillow's, which is not installed: pip install pillow, or ask for arrays with output_type=\"np\"";
        because(py, error, PyImportError::new_err(message))
    })?;
    let make = |image: &RgbImage| {
        let bytes = PyBytes::new(py, image.as_raw());
        pillow.call_method1(intern!(py, "frombytes"), ("RGB", image.dimensions(), bytes))
    };
    if let ([image], true) = (images, single) {
        return make(image);
    }
    let made = images.iter().map(make).collect::<PyResult<Vec<_>>>()?;
    py.import(intern!(py, "seed_tokenizer.results"))?.getattr(intern!(py, "Images"))?.call1((made,))
}

/// Images as `uint8`: `[images, height, width, 3]`, or `[height, width, 3]` of a single one. `size` is the side of an image
/// where there is none to ask.
pub(crate) fn to_numpy<'py>(py: Python<'py>, images: &[RgbImage], single: bool) -> PyResult<Bound<'py, PyAny>> {
    let (width, height) = images.first().map_or((0, 0), |image| image.dimensions());
    let (width, height) = (width as usize, height as usize);
    let all: Vec<u8> = images.iter().flat_map(|image| image.as_raw().iter().copied()).collect();
    let array: Bound<'_, PyArray<u8, numpy::Ix1>> = PyArray1::from_vec(py, all);
    match single {
        true => Ok(array.reshape([height, width, 3])?.into_any()),
        false => Ok(array.reshape([images.len(), height, width, 3])?.into_any()),
    }
}

/// Normalised pixels `[images, 3, size, size]` or `[3, size, size]`, as rows of one image each.
pub(crate) fn take_pixels(given: &Bound<'_, PyAny>, size: usize) -> PyResult<(Vec<Vec<f32>>, bool)> {
    let py = given.py();
    let numpy = py.import(intern!(py, "numpy"))?;
    let read = numpy
        .call_method1(intern!(py, "asarray"), (given,))
        .and_then(|array| Ok(array.cast_into::<PyUntypedArray>()?))?;
    let shape = read.shape().to_vec();
    let single = match shape[..] {
        [3, height, width] if [height, width] == [size, size] => true,
        [_, 3, height, width] if [height, width] == [size, size] => false,
        _ => {
            let reason = format!("normalised pixels are [images, 3, {size}, {size}] or [3, {size}, {size}]");
            return Err(argument(py, "pixels", format!("an array {shape:?}"), reason));
        }
    };
    if read.dtype().kind() != b'f' {
        let message =
            format!("pixels is an array of {}; normalised pixels are float32, other images go to encode", read.dtype());
        return Err(raise(py, "InputTypeError", &message));
    }
    let floats = read.call_method1(intern!(py, "astype"), ("float32",))?.cast_into::<PyArrayDyn<f32>>()?;
    let values: Vec<f32> = floats.readonly().as_array().iter().copied().collect();
    Ok((values.chunks(3 * size * size).map(<[f32]>::to_vec).collect(), single))
}
