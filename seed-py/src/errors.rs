//! Errors of the core -> exceptions of `seed_tokenizer.errors`.

use std::io;

use pyo3::{
    exceptions::{PyException, PyKeyboardInterrupt},
    prelude::*,
};
use seed_core::Error;

/// The exception for an error of the core. Every kind is named here; a test holds this list against the enum.
pub(crate) fn exception(py: Python<'_>, error: &Error) -> PyErr {
    let class = match error {
        Error::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => "MissingFileError",
        Error::Read { .. } => "ReadError",
        Error::Write { .. } => "WriteError",
        Error::FolderInUse { .. } => "FolderInUseError",
        Error::Image { .. } => "ImageError",
        Error::ImageTooLarge { .. } => "ImageTooLargeError",
        Error::CodeOutOfRange { .. } | Error::CodeCount { .. } | Error::CodesText { .. } => "CodesError",
        Error::BoxText { .. } => "BoxesError",
        Error::Bundle { path, .. } if path.is_absolute() && !path.exists() => "MissingFileError",
        Error::Bundle { .. } => "BundleError",
        Error::Config { .. } => "ConfigError",
        Error::WeightFile { .. } | Error::TensorKeys { .. } | Error::TensorShape { .. } | Error::TensorValue { .. } => {
            "WeightsError"
        }
        Error::PickleRefused { .. } => "PickleRefusedError",
        Error::Argument { .. } => "ArgumentError",
        Error::Device { .. } => "DeviceError",
        Error::MissingPart { .. } => "MissingPartError",
        Error::Network { .. } => "NetworkError",
        Error::HttpStatus { .. } | Error::NotAHub { .. } => "HubError",
        Error::NeedsToken { .. } | Error::Gated { .. } => "AccessError",
        Error::NotOnHub { .. } => "NotOnHubError",
        Error::NotCached { .. } => "NotCachedError",
        Error::Damaged { .. } => "DamagedError",
        Error::Input { .. } => "DatasetError",
        Error::OtherRun { .. } => "OtherRunError",
        Error::TooManyFailures { .. } => "TooManyFailuresError",
        Error::Busy { .. } => "BusyError",
        Error::Diverged { .. } => "DivergedError",
        Error::Interrupted => return PyKeyboardInterrupt::new_err(error.to_string()),
        // The enum may grow; a test says so before a user does.
        _ => "SeedError",
    };
    let raised = raise(py, class, &error.to_string());
    let place = match error {
        Error::Read { path, source } | Error::Write { path, source } => Some((path, source.raw_os_error())),
        Error::Bundle { path, .. } if class == "MissingFileError" => Some((path, None)),
        _ => None,
    };
    if let Some((path, code)) = place {
        const NO_SUCH_FILE: i32 = 2; // ENOENT, on every system that Python runs on
        let value = raised.value(py);
        let code = code.or((class == "MissingFileError").then_some(NO_SUCH_FILE));
        // What cannot be said besides leaves the exception as it is.
        let _ = value.setattr("filename", path.display().to_string()).and_then(|()| value.setattr("errno", code));
    }
    raised
}

/// An exception of `seed_tokenizer.errors` by the name of its class.
pub(crate) fn raise(py: Python<'_>, class: &str, message: &str) -> PyErr {
    let made = py
        .import("seed_tokenizer.errors")
        .and_then(|module| module.getattr(class))
        .and_then(|class| class.call1((message,)))
        .map(PyErr::from_value);
    made.unwrap_or_else(|error| error)
}

/// `raised` because of `cause`; but Ctrl-C and the like stay what they are.
pub(crate) fn because(py: Python<'_>, cause: PyErr, raised: PyErr) -> PyErr {
    if !cause.is_instance_of::<PyException>(py) {
        return cause;
    }
    raised.set_cause(py, Some(cause));
    raised
}

/// An argument that is not possible.
pub(crate) fn argument(py: Python<'_>, name: &'static str, value: impl ToString, reason: impl ToString) -> PyErr {
    exception(py, &Error::Argument { name, value: value.to_string(), reason: reason.to_string() })
}

/// Results of the core in results of Python.
pub(crate) trait Raised<T> {
    /// The value, or the exception for the error.
    fn raised(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> Raised<T> for seed_core::Result<T> {
    fn raised(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| exception(py, &error))
    }
}

/// Panics with `text` where the core would: for the test that no panic crosses into Python.
///
/// Args:
///     text (str): What the panic says.
///
/// Raises:
///     InternalError: Always.
#[pyfunction]
pub(crate) fn _panic(py: Python<'_>, text: String) -> PyResult<()> {
    crate::call::compute(py, move |_| panic!("{text}"))
}
