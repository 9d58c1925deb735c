//! Whatever Python calls an image -> RGB.
//!
//! What Python holds is taken while the interpreter is held, without decoding: [`Input`] owns it. Files are read and decoded
//! later, side by side, without the interpreter.

use std::path::PathBuf;

use numpy::{PyArrayDescrMethods as _, PyUntypedArray, PyUntypedArrayMethods as _};
use pyo3::{
    intern,
    prelude::*,
    pybacked::{PyBackedBytes, PyBackedStr},
    types::{PyByteArray, PyBytes, PyDict, PyList, PyString, PyTuple},
};
use seed_core::{
    Result,
    pixels::{self, Limits, Preprocessor, RgbBuffer, RgbImage},
};

use crate::{
    errors::{argument, because, raise},
    pixels::{Lying, Pile},
};

/// What is accepted, for messages.
const ACCEPTED: &str =
    "a path, bytes, a file object, a PIL image, a uint8 array of height x width x 3, or a dict with bytes or path";

/// An image as it was given.
pub(crate) enum Input {
    Path(PathBuf),
    /// Bytes of a file, and how messages call it.
    File(PyBackedBytes, String),
    Rgb(RgbImage),
    /// What Pillow holds, in bytes that do not change.
    Bytes(RgbBuffer<PyBackedBytes>),
}

impl Input {
    /// Reads and decodes.
    pub(crate) fn load(&self, limits: &Limits) -> Result<RgbImage> {
        match self {
            Self::Path(path) => pixels::open(path, limits),
            Self::File(bytes, name) => pixels::decode(bytes, name, limits),
            Self::Rgb(image) => Ok(image.clone()),
            Self::Bytes(image) => {
                let (width, height) = image.dimensions();
                Ok(RgbImage::from_raw(width, height, image.as_raw().to_vec()).expect("a copy of as many bytes"))
            }
        }
    }

    /// What the network reads of it.
    pub(crate) fn prepare(&self, preprocessor: &Preprocessor, limits: &Limits) -> Result<Vec<f32>> {
        match self {
            Self::Path(_) | Self::File(..) => Ok(preprocessor.apply(&self.load(limits)?)),
            Self::Rgb(image) => Ok(preprocessor.apply(image)),
            Self::Bytes(image) => Ok(preprocessor.apply(image)),
        }
    }
}

/// One image, or several.
pub(crate) struct Inputs {
    pub(crate) images: Vec<Input>,
    /// Whether it was one that is not in a list.
    pub(crate) single: bool,
}

/// Takes an image, or any iterable of images. An array of four dimensions is several. Large arrays are taken in the size that
/// `preprocessor` makes of them, if one is given.
pub(crate) fn take(images: &Bound<'_, PyAny>, preprocessor: Option<&Preprocessor>) -> PyResult<Inputs> {
    let several = |images| several(images, preprocessor);
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
            _ => {
                let mut pile = Pile::new(images.py(), preprocessor);
                pile.lay(Lying::new(&array, 0)?)?;
                Ok(Inputs { images: pile.take()?, single: true })
            }
        };
    }
    match images.try_iter() {
        Ok(_) => several(images),
        Err(_) => Err(refuse(images, 0)),
    }
}

fn several(images: &Bound<'_, PyAny>, preprocessor: Option<&Preprocessor>) -> PyResult<Inputs> {
    let mut pile = Pile::new(images.py(), preprocessor);
    for (index, image) in images.try_iter()?.enumerate() {
        let image = image?;
        match take_one(&image, index)? {
            Some(input) => pile.add(input),
            None => match as_array(&image)? {
                Some(array) => pile.lay(Lying::new(&array, index)?)?,
                None => return Err(refuse(&image, index)),
            },
        }
    }
    Ok(Inputs { images: pile.take()?, single: false })
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
        return from_pil(image).map(|image| Some(Input::Bytes(image)));
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
fn from_pil(image: &Bound<'_, PyAny>) -> PyResult<RgbBuffer<PyBackedBytes>> {
    let py = image.py();
    let is_rgb = image.getattr(intern!(py, "mode"))?.extract::<PyBackedStr>()?.as_bytes() == b"RGB";
    let image = if is_rgb { image.clone() } else { image.call_method1(intern!(py, "convert"), ("RGB",))? };
    let (width, height): (u32, u32) = image.getattr(intern!(py, "size"))?.extract()?;
    let bytes: PyBackedBytes = image.call_method0(intern!(py, "tobytes"))?.extract()?;
    let length = bytes.len();
    RgbBuffer::from_raw(width, height, bytes)
        .filter(|_| width > 0 && height > 0)
        .ok_or_else(|| argument(py, "image", format!("{width} x {height}"), format!("it has {length} bytes")))
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

fn refuse(object: &Bound<'_, PyAny>, index: usize) -> PyErr {
    let kind = object.get_type();
    let kind = kind.name().map(|name| name.to_string()).unwrap_or_else(|_| "an object".to_owned());
    raise(object.py(), "InputTypeError", &format!("image {index} is of type {kind}; an image is {ACCEPTED}"))
}
