//! Whatever Python calls an image -> RGB.
//!
//! What Python holds is taken while the interpreter is held, without decoding: [`Input`] owns it. Files are read and decoded
//! later, side by side, without the interpreter.

use std::path::PathBuf;

use numpy::{PyArrayDescrMethods as _, PyArrayDyn, PyArrayMethods as _, PyUntypedArray, PyUntypedArrayMethods as _};
use pyo3::{
    intern,
    prelude::*,
    pybacked::{PyBackedBytes, PyBackedStr},
    types::{PyByteArray, PyBytes, PyDict, PyList, PyString, PyTuple},
};
use seed_core::{
    Result,
    pixels::{self, Limits, RgbImage},
};

use crate::errors::{argument, because, raise};

/// What is accepted, for messages.
const ACCEPTED: &str =
    "a path, bytes, a file object, a PIL image, a uint8 array of height x width x 3, or a dict with bytes or path";

/// An image as it was given.
pub(crate) enum Input {
    Path(PathBuf),
    /// Bytes of a file, and how messages call it.
    File(PyBackedBytes, String),
    Rgb(RgbImage),
}

impl Input {
    /// Reads and decodes.
    pub(crate) fn load(&self, limits: &Limits) -> Result<std::borrow::Cow<'_, RgbImage>> {
        use std::borrow::Cow;
        match self {
            Self::Path(path) => pixels::open(path, limits).map(Cow::Owned),
            Self::File(bytes, name) => pixels::decode(bytes, name, limits).map(Cow::Owned),
            Self::Rgb(image) => Ok(Cow::Borrowed(image)),
        }
    }
}

/// One image, or several.
pub(crate) struct Inputs {
    pub(crate) images: Vec<Input>,
    /// Whether it was one that is not in a list.
    pub(crate) single: bool,
}

/// Takes an image, or any iterable of images. An array of four dimensions is several.
pub(crate) fn take(images: &Bound<'_, PyAny>) -> PyResult<Inputs> {
    if images.is_instance_of::<PyList>() || images.is_instance_of::<PyTuple>() {
        return several(images);
    }
    if let Some(input) = take_one(images, 0)? {
        return Ok(Inputs { images: vec![input], single: true });
    }
    if let Some(array) = as_array(images)? {
        return match array.ndim() {
            // Of objects: a column of a table.
            _ if array.dtype().kind() == b'O' => several(array.as_any()),
            4 => several(array.as_any()),
            _ => Ok(Inputs { images: vec![from_array(&array, 0)?], single: true }),
        };
    }
    match images.try_iter() {
        Ok(_) => several(images),
        Err(_) => Err(refuse(images, 0)),
    }
}

fn several(images: &Bound<'_, PyAny>) -> PyResult<Inputs> {
    let mut taken = Vec::new();
    for (index, image) in images.try_iter()?.enumerate() {
        let image = image?;
        let input = match take_one(&image, index)? {
            Some(input) => input,
            None => match as_array(&image)? {
                Some(array) => from_array(&array, index)?,
                None => return Err(refuse(&image, index)),
            },
        };
        taken.push(input);
    }
    Ok(Inputs { images: taken, single: false })
}

/// An image that is no array.
fn take_one(image: &Bound<'_, PyAny>, index: usize) -> PyResult<Option<Input>> {
    let py = image.py();
    if image.cast::<PyUntypedArray>().is_ok() {
        return Ok(None);
    }
    if image.is_instance_of::<PyString>() || image.hasattr(intern!(py, "__fspath__"))? {
        return Ok(Some(Input::Path(image.extract()?)));
    }
    if image.is_instance_of::<PyBytes>() || image.is_instance_of::<PyByteArray>() {
        return Ok(Some(Input::File(image.extract()?, format!("image {index}"))));
    }
    if image.is_instance_of::<pyo3::types::PyMemoryView>() {
        let bytes = image.call_method0(intern!(py, "tobytes"))?;
        return Ok(Some(Input::File(bytes.extract()?, format!("image {index}"))));
    }
    if image.is_instance_of::<PyDict>() {
        return from_mapping(image, index).map(Some);
    }
    if is_pil(image)? {
        return from_pil(image).map(|image| Some(Input::Rgb(image)));
    }
    if image.hasattr(intern!(py, "read"))? {
        let name = image.getattr(intern!(py, "name")).and_then(|name| name.extract::<String>());
        let bytes = image.call_method0(intern!(py, "read"))?;
        let Ok(bytes) = bytes.extract::<PyBackedBytes>() else {
            let kind = bytes.get_type().name()?;
            let message = format!("image {index}: the file gives {kind} instead of bytes; open it with mode \"rb\"");
            return Err(raise(py, "InputTypeError", &message));
        };
        return Ok(Some(Input::File(bytes, name.unwrap_or_else(|_| format!("image {index}")))));
    }
    // Last: the question is answered by code in Python.
    let mapping = py.import(intern!(py, "collections.abc"))?.getattr(intern!(py, "Mapping"))?;
    if image.is_instance(&mapping)? { from_mapping(image, index).map(Some) } else { Ok(None) }
}

/// `{"bytes": ..., "path": ...}`, either of which may be missing or none: an image of the library `datasets`.
fn from_mapping(mapping: &Bound<'_, PyAny>, index: usize) -> PyResult<Input> {
    let get = |name| mapping.get_item(name).ok().filter(|value| !value.is_none());
    let path = get("path");
    if let Some(bytes) = get("bytes") {
        let name = path.and_then(|path| path.extract().ok()).unwrap_or_else(|| format!("image {index}"));
        return match bytes.extract() {
            Ok(bytes) => Ok(Input::File(bytes, name)),
            Err(_) => Err(refuse(&bytes, index)),
        };
    }
    match path {
        Some(path) => path.extract().map(Input::Path).map_err(|error| because(path.py(), error, refuse(&path, index))),
        None => Err(argument(mapping.py(), "image", format!("dict {index}"), "it must have bytes or path")),
    }
}

/// Whether this is an image of Pillow, which is not imported for the question.
fn is_pil(image: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = image.py();
    let modules = py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?;
    match modules.cast::<PyDict>()?.get_item(intern!(py, "PIL.Image"))? {
        Some(module) => image.is_instance(&module.getattr(intern!(py, "Image"))?),
        None => Ok(false),
    }
}

/// Pillow converts: what it makes of a file in whatever mode is what the codes are defined by.
fn from_pil(image: &Bound<'_, PyAny>) -> PyResult<RgbImage> {
    let py = image.py();
    let is_rgb = image.getattr(intern!(py, "mode"))?.extract::<PyBackedStr>()?.as_bytes() == b"RGB";
    let image = if is_rgb { image.clone() } else { image.call_method1(intern!(py, "convert"), ("RGB",))? };
    let (width, height): (u32, u32) = image.getattr(intern!(py, "size"))?.extract()?;
    let bytes: PyBackedBytes = image.call_method0(intern!(py, "tobytes"))?.extract()?;
    rgb(py, width, height, bytes.to_vec())
}

/// The array behind an object, through the array protocol or DLPack.
fn as_array<'py>(object: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyUntypedArray>>> {
    let py = object.py();
    if let Ok(array) = object.cast::<PyUntypedArray>() {
        return Ok(Some(array.clone()));
    }
    let protocols = ["__array__", "__array_interface__", "__dlpack__"];
    let mut found = None;
    for protocol in protocols {
        if object.hasattr(protocol)? {
            found = Some(protocol);
            break;
        }
    }
    let Some(protocol) = found else { return Ok(None) };
    let numpy = py.import(intern!(py, "numpy"))?;
    let converter = if protocol == "__dlpack__" { "from_dlpack" } else { "asarray" };
    let array = numpy.call_method1(converter, (object,)).map_err(|error| {
        let kind = object.get_type();
        let message = format!("{kind} cannot be read as an array: {error}; move it to the CPU first (tensor.cpu())");
        because(py, error, raise(py, "InputTypeError", &message))
    })?;
    Ok(Some(array.cast_into()?))
}

/// Pixels of height x width, x height x width x 1, 3 or 4: grey, RGB, or RGB with an alpha that is dropped.
fn from_array(array: &Bound<'_, PyUntypedArray>, index: usize) -> PyResult<Input> {
    let py = array.py();
    let shape = array.shape().to_vec();
    let fail = |reason: &str| {
        let value = format!("an array of {} {shape:?}", array.dtype());
        argument(py, "image", format!("{value} at {index}"), reason)
    };
    let Ok(bytes) = array.cast::<PyArrayDyn<u8>>() else {
        return Err(fail(
            "pixels are uint8, from 0 to 255, height x width x 3; what is normalised already goes to encode_pixels",
        ));
    };
    let (height, width, channels) = match shape[..] {
        [height, width] => (height, width, 1),
        [height, width, channels @ (1 | 3 | 4)] => (height, width, channels),
        [1 | 3 | 4, _, _] => {
            return Err(fail(
                "channels are last, height x width x 3; call permute(1, 2, 0) or numpy.moveaxis(x, 0, -1)",
            ));
        }
        _ => return Err(fail("an image is height x width x 3")),
    };
    let read = bytes.readonly();
    // A view with strides, and an array in Fortran's order, are read in the order of their axes.
    let owned: Vec<u8> = match read.as_slice() {
        Ok(bytes) if array.is_c_contiguous() => bytes.to_vec(),
        _ => read.as_array().iter().copied().collect(),
    };
    let pixels = match channels {
        1 => owned.iter().flat_map(|&level| [level; 3]).collect(),
        3 => owned,
        _ => owned.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
    };
    match (u32::try_from(width), u32::try_from(height)) {
        (Ok(width @ 1..), Ok(height @ 1..)) => rgb(py, width, height, pixels).map(Input::Rgb),
        _ => Err(fail("it has no pixels")),
    }
}

fn rgb(py: Python<'_>, width: u32, height: u32, pixels: Vec<u8>) -> PyResult<RgbImage> {
    let length = pixels.len();
    RgbImage::from_raw(width, height, pixels)
        .ok_or_else(|| argument(py, "image", format!("{width} x {height}"), format!("it has {length} bytes")))
}

fn refuse(object: &Bound<'_, PyAny>, index: usize) -> PyErr {
    let kind = object.get_type();
    let kind = kind.name().map(|name| name.to_string()).unwrap_or_else(|_| "an object".to_owned());
    raise(object.py(), "InputTypeError", &format!("image {index} is of type {kind}; an image is {ACCEPTED}"))
}
