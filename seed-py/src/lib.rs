//! `seed_tokenizer._native`: SEED for Python.
//!
//! | file | holds |
//! |---|---|
//! | `tokenizer` | `SeedTokenizer`: from_pretrained, save_pretrained, properties, pickles |
//! | `encode`, `decode`, `dataset`, `evaluate` | its methods |
//! | `model` | a name, folder or repository -> the model that is opened |
//! | `images` | whatever Python calls an image -> RGB |
//! | `arrays` | codes and images to and from numpy and Pillow |
//! | `call` | one long call: interpreter released, Ctrl-C, progress, panics, fork |
//! | `errors` | errors of the core -> exceptions |
//! | `train`, `convert` | the functions of those names |
//! | `minigpt` | `MiniGptVision`, and what `seed_tokenizer.minigpt` stands on |
//! | `command` | the command line |
//!
//! Docstrings are in Google's style and name the type of every argument; `stubs.py` makes `_native.pyi` of them.

mod arrays;
mod call;
mod command;
mod convert;
mod dataset;
mod decode;
mod encode;
mod errors;
mod evaluate;
mod images;
mod minigpt;
mod model;
mod tokenizer;
mod train;

use pyo3::prelude::*;

/// SEED: images to 32 discrete tokens and back.
#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::command::main;
    #[pymodule_export]
    use crate::convert::convert;
    #[pymodule_export]
    use crate::dataset::verify_dataset;
    #[pymodule_export]
    use crate::errors::_panic;
    #[pymodule_export]
    use crate::minigpt::{
        MiniGptVision, minigpt_draw_boxes, minigpt_format_boxes, minigpt_lora, minigpt_parse_boxes,
        minigpt_parse_boxes_lenient, minigpt_pieces, minigpt_prompt,
    };
    #[pymodule_export]
    use crate::tokenizer::{_restore, SeedTokenizer};
    #[pymodule_export]
    use crate::train::train;

    #[pymodule_init]
    fn init(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        use pyo3::prelude::PyModuleMethods as _;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
