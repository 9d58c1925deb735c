//! Weights from a file into a module. Everything that the header can tell is checked before any tensor is read.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Bytes, Int, Shape, Tensor, TensorData, backend::Backend};

use super::DType;
use super::convert;
use super::keys::{KeyTable, Place, Slot};
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::nn::SeedBackend;

/// Fills a module with a file's weights, as float32 whatever the file's dtype.
///
/// Parameters keep their device, identity and `require_grad`; a module whose parameters were never touched is loaded
/// without being initialized first. `Linear` layers must have burn's default (row) layout. A scalar of the file fits a
/// parameter of shape `[1]`. On an error the module is gone.
///
/// # Errors
/// [`Error::TensorKeys`] with all keys that are missing, or that the file carries without the model or
/// [`KeyTable::ignored`] knowing them; [`Error::TensorShape`]; [`Error::TensorValue`] for a dtype other than F32, F16 and
/// BF16, and for values that are not finite.
pub fn load<B: SeedBackend, M: Module<B>>(module: M, weights: &Weights, table: &KeyTable) -> Result<M> {
    load_as(module, weights, table, DType::F32)
}

/// As [`load`], with the weights of linear layers and convolutions in `dtype`; their biases and everything else stay float32.
/// In 8 bits are those layers alone of which it was measured what that loses, see [`load_each`]: here, none.
/// What a file holds in the dtype that is asked for is not copied: the layers read the file's map, so that a process begins
/// without reading gigabytes. Of what is converted, one tensor at a time is in memory twice.
///
/// # Errors
/// As [`load`], and [`Error::TensorValue`] for weights that `dtype` cannot hold.
pub fn load_as<B: SeedBackend, M: Module<B>>(
    module: M,
    weights: &Weights,
    table: &KeyTable,
    dtype: DType,
) -> Result<M> {
    load_each(module, weights, table, &|_| dtype.beside())
}

/// As [`load_as`], with a dtype for each key. Of convolutions, and where the backend does not compute in 8 bits, [`DType::Int8`]
/// becomes bfloat16.
///
/// # Errors
/// As [`load_as`].
pub fn load_each<B: SeedBackend, M: Module<B>>(
    module: M,
    weights: &Weights,
    table: &KeyTable,
    dtype: &dyn Fn(&str) -> DType,
) -> Result<M> {
    Plan::of(&module, table).check(weights)?;

    let mut loader = Loader { place: Place::default(), table, weights, dtype, failure: None };
    let module = module.map(&mut loader);
    loader.failure.map_or(Ok(module), Err)
}

/// The keys that a module is loaded from and their shapes in the file's layout, sorted; nothing is initialized.
pub fn expected<B: Backend, M: Module<B>>(module: &M, table: &KeyTable) -> BTreeMap<String, Vec<usize>> {
    let plan = Plan::of(module, table);
    plan.needed.into_iter().map(|(slot, dims)| (slot.key.clone(), slot.shape_in_file(&dims))).collect()
}

/// What a module needs, gathered without initializing it.
struct Plan<'a> {
    place: Place,
    table: &'a KeyTable,
    needed: Vec<(Slot, Vec<usize>)>,
    unsupported: Option<String>,
}

impl<'a> Plan<'a> {
    fn of<B: Backend, M: Module<B>>(module: &M, table: &'a KeyTable) -> Self {
        let mut plan = Self { place: Place::default(), table, needed: Vec::new(), unsupported: None };
        module.visit(&mut plan);
        plan
    }

    fn check(&self, weights: &Weights) -> Result<()> {
        let file = || weights.describe().to_owned();
        if let Some(key) = &self.unsupported {
            let reason = "belongs to a parameter of integers or booleans, which weight files do not hold".into();
            return Err(Error::TensorValue { file: file(), key: key.clone(), reason });
        }
        let needed: BTreeSet<&str> = self.needed.iter().map(|(slot, _)| slot.key.as_str()).collect();
        let present: BTreeSet<&str> = weights.keys().collect();
        let missing: Vec<String> = needed.difference(&present).map(|&key| key.to_owned()).collect();
        let unused: Vec<String> =
            present.difference(&needed).filter(|key| !self.table.ignores(key)).map(|&key| key.to_owned()).collect();
        if !missing.is_empty() || !unused.is_empty() {
            return Err(Error::TensorKeys { file: file(), missing, unused });
        }
        for (slot, dims) in &self.needed {
            let Some(stored) = weights.get(&slot.key) else { continue };
            let expected = slot.shape_in_file(dims);
            let scalar = stored.shape.is_empty() && expected == [1];
            if stored.shape != expected && !scalar {
                let (key, found) = (slot.key.clone(), stored.shape.to_vec());
                return Err(Error::TensorShape { file: file(), key, expected, found });
            }
            if !convert::is_float(stored.dtype) {
                return Err(weights.wrong_dtype(&slot.key, stored.dtype));
            }
        }
        Ok(())
    }
}

impl<B: Backend> ModuleVisitor<B> for Plan<'_> {
    fn enter_module(&mut self, name: &str, owner: &str) {
        self.place.enter(name, owner);
    }

    fn exit_module(&mut self, _: &str, owner: &str) {
        self.place.exit(owner);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.needed.push((self.place.slot(self.table), param.lazy_shape().to_vec()));
    }

    fn visit_int<const D: usize>(&mut self, _: &Param<Tensor<B, D, Int>>) {
        self.unsupported.get_or_insert(self.place.slot(self.table).key);
    }

    fn visit_bool<const D: usize>(&mut self, _: &Param<Tensor<B, D, Bool>>) {
        self.unsupported.get_or_insert(self.place.slot(self.table).key);
    }
}

/// Reads each tensor in turn; after the first failure it leaves the rest alone.
struct Loader<'a> {
    place: Place,
    table: &'a KeyTable,
    weights: &'a Weights,
    /// Element type of each of the layers that may have another than float32, by key.
    dtype: &'a dyn Fn(&str) -> DType,
    failure: Option<Error>,
}

impl Loader<'_> {
    fn read<B: SeedBackend, const D: usize>(&self, shape: Shape, device: &B::Device) -> Result<Tensor<B, D>> {
        let dims = &shape[..];
        let slot = self.place.slot(self.table);
        let dtype = if slot.layer_weight { (self.dtype)(&slot.key) } else { DType::F32 };
        let matrix = match dims {
            [inputs, outputs] if slot.transposed => Some([*inputs, *outputs]),
            _ => None,
        };
        if let (Some([inputs, outputs]), DType::Int8) = (matrix, dtype)
            && let Some(weight) = B::eight_bit_weight(&self.finite_floats(&slot)?, [outputs, inputs])
        {
            return Ok(Tensor::from_primitive(weight.into_primitive()));
        }
        let unfit = |reason| self.unfit(&slot, reason);
        let (bytes, dims) = match matrix {
            // A matrix is turned here,
            Some([inputs, outputs]) if !B::KEEPS_LAYOUT_OF_FILES => {
                let values = convert::transpose(&self.finite_floats(&slot)?, outputs, inputs);
                let bytes = match dtype {
                    DType::F32 => Bytes::from_elems(values),
                    _ => Bytes::from_elems(convert::to_halves(&values, dtype).map_err(unfit)?),
                };
                (bytes, dims.to_vec())
            }
            // or seen from the side.
            _ => {
                let (bytes, lost) = self.weights.elements(&slot.key, dtype)?;
                let count = dims.iter().product();
                if lost.not_finite > 0 {
                    return Err(unfit(not_finite(lost.not_finite, count)));
                }
                if lost.beyond > 0 {
                    return Err(unfit(convert::beyond(lost.beyond, count, dtype)));
                }
                let dims = if matrix.is_some() { dims.iter().rev().copied().collect() } else { dims.to_vec() };
                (bytes, dims)
            }
        };
        let element = dtype.element();
        let tensor = Tensor::from_data(TensorData::from_bytes(bytes, dims, element), (device, element));
        Ok(if matrix.is_some() && B::KEEPS_LAYOUT_OF_FILES { tensor.swap_dims(0, 1) } else { tensor })
    }

    fn finite_floats(&self, slot: &Slot) -> Result<Vec<f32>> {
        let values = self.weights.floats(&slot.key)?;
        match convert::count_not_finite(&values) {
            0 => Ok(values),
            bad => Err(self.unfit(slot, not_finite(bad, values.len()))),
        }
    }

    fn unfit(&self, slot: &Slot, reason: String) -> Error {
        Error::TensorValue { file: self.weights.describe().to_owned(), key: slot.key.clone(), reason }
    }
}

fn not_finite(bad: usize, count: usize) -> String {
    format!("holds {bad} values of {count} that are not finite")
}

impl<B: SeedBackend> ModuleMapper<B> for Loader<'_> {
    fn enter_module(&mut self, name: &str, owner: &str) {
        self.place.enter(name, owner);
    }

    fn exit_module(&mut self, _: &str, owner: &str) {
        self.place.exit(owner);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        if self.failure.is_some() {
            return param;
        }
        match self.read(param.lazy_shape(), &param.lazy_device()) {
            Ok(tensor) => {
                let id = param.id;
                param.transform_for_load(tensor, id)
            }
            Err(error) => {
                self.failure = Some(error);
                param
            }
        }
    }
}
