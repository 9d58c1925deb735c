//! Storages and tensors: what a pickle claims about them, checked before anything is read or allocated.
//!
//! Follows `torch/_utils.py` (`_rebuild_tensor*`, `_rebuild_parameter*`) and `torch/serialization.py`
//! (`persistent_load`) of PyTorch 2.

use std::collections::HashMap;
use std::ops::Range;

use safetensors::Dtype;

use super::globals::Global;
use super::object::{Heap, Object, Value};

/// Most dimensions of a tensor; real weights have five at most.
const DIMENSIONS: usize = 16;

/// Most bytes that a tensor may take whose view repeats elements of its storage (`expand`), when that makes it larger than
/// the storage. Without a limit a file of a few bytes could claim the whole memory.
const REPEATED: usize = 64 << 20;

/// The storages that a pickle names, by number and by key.
#[derive(Debug, Default)]
pub(super) struct StorageTable<'a> {
    pub(super) list: Vec<Storage<'a>>,
    numbers: HashMap<&'a str, usize>,
}

/// A storage as a pickle claims it: where its bytes are, the container knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Storage<'a> {
    pub(super) key: &'a str,
    /// Length in bytes.
    pub(super) bytes: usize,
    /// Bytes per element, 1 for an untyped storage.
    pub(super) element: usize,
}

/// A storage as an object: all of it, or a part (files before PyTorch 0.4).
#[derive(Clone, Copy, Debug)]
pub(super) struct StorageView {
    storage: usize,
    /// `None`: bytes, to which the tensor gives the dtype.
    dtype: Option<Dtype>,
    start: usize,
    bytes: usize,
}

/// A tensor: a checked view of a storage.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) storage: usize,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// In elements; `None` where rows follow each other, last dimension fastest.
    pub(super) strides: Option<Vec<usize>>,
    /// The bytes of its storage that it reaches.
    pub(super) bytes: Range<usize>,
}

impl<'a> StorageTable<'a> {
    /// The number of a storage's key.
    pub(super) fn number(&self, key: &str) -> Option<usize> {
        self.numbers.get(key).copied()
    }

    fn insert(&mut self, storage: Storage<'a>) -> Result<usize, String> {
        let next = self.list.len();
        let number = *self.numbers.entry(storage.key).or_insert(next);
        if number == next {
            self.list.push(storage);
        }
        match self.list[number] == storage {
            true => Ok(number),
            false => Err(format!("storage {:?} is claimed with two sizes or types", storage.key)),
        }
    }
}

/// The storage of a persistent id: `("storage", type, key, place, elements)`, and, in legacy files, a view of it:
/// `None` or `(key, first element, elements)`.
pub(super) fn storage<'a>(heap: &mut Heap<'a>, id: Value<'a>) -> Result<StorageView, String> {
    let unknown = || "a persistent id is none of a storage".to_owned();
    let parts = heap.tuple(id).ok_or_else(unknown)?;
    let (parts, view) = match *parts {
        [ref parts @ .., view] if parts.len() == 5 => (parts, view),
        ref parts => (parts, Value::None),
    };
    let &[Value::Text("storage"), Value::Global(class), Value::Text(key), Value::Text(_), Value::Int(elements)] = parts
    else {
        return Err(unknown());
    };
    let dtype = match class {
        Global::Storage(dtype) => Some(dtype),
        Global::UntypedStorage => None,
        _ => return Err(unknown()),
    };
    let element = dtype.map_or(1, bytes_of);
    let bytes = scaled(elements, element).ok_or_else(|| format!("storage {key:?} claims {elements} elements"))?;
    let part = match view {
        Value::None => 0..bytes,
        view => {
            let Some(&[_, Value::Int(first), Value::Int(count)]) = heap.tuple(view) else { return Err(unknown()) };
            let part = scaled(first, element).zip(scaled(count, element));
            let part = part.and_then(|(start, length)| Some(start..start.checked_add(length)?));
            part.filter(|part| part.end <= bytes)
                .ok_or_else(|| format!("storage {key:?} of {elements} elements: a view of {count} from {first}"))?
        }
    };
    let storage = heap.storages.insert(Storage { key, bytes, element })?;
    Ok(StorageView { storage, dtype, start: part.start, bytes: part.len() })
}

/// The tensor that a rebuilding function of PyTorch would make of its arguments.
pub(super) fn tensor<'a>(heap: &Heap<'a>, function: Global, arguments: &[Value<'a>]) -> Result<Tensor, String> {
    let wrong = || format!("{function:?} with {} arguments that do not fit it", arguments.len());
    // In the order of torch/_utils.py. What follows (requires_grad, backward hooks, metadata) has no bearing on values.
    let (view, offset, size, stride, dtype) = match (function, arguments) {
        (Global::RebuildParameter, [data, _, _]) | (Global::RebuildParameterWithState, [data, _, _, _]) => {
            return match heap.object(*data) {
                Some(Object::Tensor(tensor)) => Ok(Tensor::clone(tensor)),
                _ => Err(wrong()),
            };
        }
        (Global::RebuildTensor, &[view, offset, size, stride]) => (view, offset, size, stride, None),
        (Global::RebuildTensorV2, &[view, offset, size, stride, _, _] | &[view, offset, size, stride, _, _, _]) => {
            (view, offset, size, stride, None)
        }
        (
            Global::RebuildTensorV3,
            &[view, offset, size, stride, _, _, Value::Global(Global::Dtype(dtype))]
            | &[view, offset, size, stride, _, _, Value::Global(Global::Dtype(dtype)), _],
        ) => (view, offset, size, stride, Some(dtype)),
        _ => return Err(wrong()),
    };
    let Some(Object::Storage(view)) = heap.object(view) else { return Err(wrong()) };
    let Value::Int(offset) = offset else { return Err(wrong()) };
    let dtype = match (view.dtype, dtype) {
        (Some(dtype), None) | (None, Some(dtype)) => dtype,
        (None, None) => Dtype::U8,
        (Some(_), Some(_)) => return Err(wrong()),
    };
    let shape = numbers(heap, size).ok_or_else(wrong)?;
    let strides = numbers(heap, stride).filter(|strides| strides.len() == shape.len()).ok_or_else(wrong)?;
    let outside = || {
        let elements = view.bytes / bytes_of(dtype);
        format!("a tensor of shape {shape:?}, strides {strides:?} and offset {offset} leaves its storage of {elements}")
    };
    let layout = Layout::new(view.bytes, bytes_of(dtype), offset, &shape, &strides).ok_or_else(outside)?;
    let taken = layout.elements * bytes_of(dtype);
    if taken > view.bytes && taken > REPEATED {
        return Err(format!("a tensor of shape {shape:?} repeats {} bytes up to {taken}", view.bytes));
    }
    let bytes = view.start + layout.bytes.start..view.start + layout.bytes.end;
    let strides = (!layout.contiguous).then_some(strides);
    Ok(Tensor { storage: view.storage, dtype, shape, strides, bytes })
}

/// Where a view lies in its storage.
struct Layout {
    elements: usize,
    contiguous: bool,
    bytes: Range<usize>,
}

impl Layout {
    /// `None` if a size overflows or the view leaves the storage's `length` bytes.
    fn new(length: usize, element: usize, offset: i64, shape: &[usize], strides: &[usize]) -> Option<Self> {
        let start = scaled(offset, element).filter(|&start| start <= length)?;
        // Zeros are left out of this product, so that no later product of dimensions overflows either.
        let bound = shape.iter().filter(|&&n| n > 0).try_fold(element, |product, &n| product.checked_mul(n))?;
        if shape.contains(&0) {
            return Some(Self { elements: 0, contiguous: true, bytes: start..start });
        }
        let (mut last, mut row, mut contiguous) = (0usize, 1, true);
        for (&n, &stride) in shape.iter().zip(strides).rev().filter(|&(&n, _)| n > 1) {
            last = last.checked_add((n - 1).checked_mul(stride)?)?;
            contiguous &= stride == row;
            row *= n;
        }
        let end = last.checked_add(1)?.checked_mul(element)?.checked_add(start)?;
        (end <= length).then_some(Self { elements: bound / element, contiguous, bytes: start..end })
    }
}

/// A tuple of sizes or strides.
fn numbers<'a>(heap: &Heap<'a>, value: Value<'a>) -> Option<Vec<usize>> {
    let items = heap.tuple(value).filter(|items| items.len() <= DIMENSIONS)?;
    let number = |&item: &Value<'a>| match item {
        Value::Int(n) => usize::try_from(n).ok(),
        _ => None,
    };
    items.iter().map(number).collect()
}

fn scaled(count: i64, element: usize) -> Option<usize> {
    usize::try_from(count).ok()?.checked_mul(element)
}

/// Bytes per element; all dtypes of the list have whole ones.
fn bytes_of(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}
