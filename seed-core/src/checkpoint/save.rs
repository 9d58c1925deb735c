//! A module's weights into a file, beside its place and then renamed into it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, Int, Tensor, backend::Backend};
use safetensors::{SafeTensorError, serialize_to_file, tensor::View};

use super::DType;
use super::convert;
use super::keys::{KeyTable, Place, Slot};
use crate::atomic;
use crate::error::{Error, Result};

/// Writes a module's weights as a safetensors file that [`load`](super::load) and PyTorch read.
///
/// Keys are sorted and the content depends on the weights alone. Whatever stood at `path` stays until the new file is
/// whole. One tensor at a time is copied.
///
/// # Errors
/// [`Error::Write`]; [`Error::TensorValue`] for values that are not finite or that `dtype` cannot hold, and for a module that was
/// loaded in 8 bits; [`Error::Argument`] for a dtype that files are not of.
pub fn save<B: Backend, M: Module<B>>(module: &M, path: &Path, table: &KeyTable, dtype: DType) -> Result<()> {
    let mut collector = Collector { place: Place::default(), table, entries: BTreeMap::new(), refused: None };
    module.visit(&mut collector);
    if let Some((key, reason)) = collector.refused {
        return Err(Error::TensorValue { file: path.display().to_string(), key, reason: reason.into() });
    }
    write(&collector.entries, path, dtype)
}

/// A tensor that is computed when it is written.
pub struct Made<'a> {
    /// Shape in the file's layout.
    pub shape: Vec<usize>,
    /// Its values in that layout, or what is wrong with them.
    pub values: Box<dyn Fn() -> Result<Vec<f32>, String> + 'a>,
}

/// As [`save`], of tensors that belong to no module: one at a time is in memory.
///
/// # Errors
/// As [`save`].
pub fn save_tensors(tensors: BTreeMap<String, Made<'_>>, path: &Path, dtype: DType) -> Result<()> {
    fn entry(made: Made<'_>) -> Entry<'_> {
        Entry { shape: made.shape, transposed: false, fetch: made.values }
    }
    write(&tensors.into_iter().map(|(key, made)| (key, entry(made))).collect(), path, dtype)
}

fn write(entries: &BTreeMap<String, Entry<'_>>, path: &Path, dtype: DType) -> Result<()> {
    dtype.check_for_files()?;
    let file = path.display().to_string();
    let failure = RefCell::new(None);
    let pending = entries.iter().map(|(key, entry)| {
        let pending = Pending { key, entry, dtype, failure: &failure };
        (key.as_str(), pending)
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);

    let fail = |source| Error::Write { path: path.into(), source };
    atomic::write_with(path, |beside| {
        serialize_to_file(pending, Some(metadata), beside).map_err(|error| match error {
            SafeTensorError::IoError(source) => fail(source),
            other => fail(io::Error::other(other)),
        })?;
        match failure.take() {
            Some((key, reason)) => Err(Error::TensorValue { file, key, reason }),
            None => Ok(()),
        }
    })
}

/// A parameter, fetched from its device when it is written.
struct Entry<'a> {
    shape: Vec<usize>,
    transposed: bool,
    fetch: Box<dyn Fn() -> Result<Vec<f32>, String> + 'a>,
}

impl Entry<'_> {
    /// The bytes in the file's layout, or what is wrong with the values.
    fn bytes(&self, dtype: DType) -> Result<Vec<u8>, String> {
        let mut values = (self.fetch)()?;
        let bad = convert::count_not_finite(&values);
        if bad > 0 {
            return Err(format!("holds {bad} values of {} that are not finite; it is not saved", values.len()));
        }
        if let ([rows, columns], true) = (self.shape.as_slice(), self.transposed) {
            values = convert::transpose(&values, *columns, *rows);
        }
        match dtype {
            DType::F32 => Ok(convert::bytes(&values, f32::to_le_bytes)),
            _ => Ok(convert::bytes(&convert::to_halves(&values, dtype)?, u16::to_le_bytes)),
        }
    }
}

/// An entry on its way into the file. The writer asks for bytes and takes no error, so the first is kept here.
struct Pending<'a> {
    key: &'a str,
    entry: &'a Entry<'a>,
    dtype: DType,
    failure: &'a RefCell<Option<(String, String)>>,
}

impl View for Pending<'_> {
    fn dtype(&self) -> safetensors::Dtype {
        match self.dtype {
            DType::F32 => safetensors::Dtype::F32,
            DType::F16 => safetensors::Dtype::F16,
            DType::BF16 | DType::Int8 => safetensors::Dtype::BF16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.entry.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if self.failure.borrow().is_some() {
            return Cow::Borrowed(&[]);
        }
        let bytes = self.entry.bytes(self.dtype).unwrap_or_else(|reason| {
            self.failure.replace(Some((self.key.to_owned(), reason)));
            Vec::new()
        });
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        let size = if self.dtype == DType::F32 { 4 } else { 2 };
        self.entry.shape.iter().product::<usize>() * size
    }
}

struct Collector<'a> {
    place: Place,
    table: &'a KeyTable,
    entries: BTreeMap<String, Entry<'static>>,
    refused: Option<(String, &'static str)>,
}

impl Collector<'_> {
    fn refuse(&mut self, key: String, reason: &'static str) {
        self.refused.get_or_insert((key, reason));
    }

    fn refuse_discrete(&mut self) {
        let Slot { key, .. } = self.place.slot(self.table);
        self.refuse(key, "belongs to a parameter of integers or booleans, which weight files do not hold");
    }
}

impl<B: Backend> ModuleVisitor<B> for Collector<'_> {
    fn enter_module(&mut self, name: &str, owner: &str) {
        self.place.enter(name, owner);
    }

    fn exit_module(&mut self, _: &str, owner: &str) {
        self.place.exit(owner);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let slot = self.place.slot(self.table);
        let tensor = param.val();
        if matches!(tensor.dtype(), burn::tensor::DType::QFloat(_)) {
            return self.refuse(slot.key, "is in 8 bits; load the model in another dtype to save it");
        }
        let shape = slot.shape_in_file(&tensor.dims());
        let fetch = move || {
            let data = tensor.to_data().convert::<f32>();
            data.into_vec::<f32>().map_err(|error| format!("cannot be read as floats: {error:?}"))
        };
        let entry = Entry { shape, transposed: slot.transposed, fetch: Box::new(fetch) };
        if self.entries.insert(slot.key.clone(), entry).is_some() {
            self.refuse(slot.key, "is the key of two parameters; the model's key table is wrong");
        }
    }

    fn visit_int<const D: usize>(&mut self, _: &Param<Tensor<B, D, Int>>) {
        self.refuse_discrete();
    }

    fn visit_bool<const D: usize>(&mut self, _: &Param<Tensor<B, D, Bool>>) {
        self.refuse_discrete();
    }
}
