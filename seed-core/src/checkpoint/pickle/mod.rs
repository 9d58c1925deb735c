//! Checkpoints of PyTorch, without ever running a pickle: file -> tensors by key, each a range of bytes of the file.
//!
//! | file | step |
//! |---|---|
//! | `archive`, `legacy` | the container: where the pickle is, and the bytes of each storage |
//! | `machine` | the pickle: a stack machine with a written list of opcodes |
//! | `globals` | the written list of names that a pickle may use |
//! | `object` | what the machine makes |
//! | `rebuild` | storages and tensors, checked |
//! | `state_dict` | nested dictionaries to dotted keys |
//!
//! Pickle is a programming language: Python's loader calls whatever function a file names. Here nothing is called, and a
//! file that asks for more than plain checkpoints do is refused as a whole, because such a file is either no plain
//! checkpoint or an attack. No size that a file claims is believed before it is compared with the file, and the limits of
//! each step are constants beside it.

mod archive;
#[cfg(test)]
mod attacks;
mod globals;
mod legacy;
mod machine;
mod object;
mod rebuild;
mod state_dict;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;

use object::{Fault, Heap, Value};

use super::weights::{Place, Skipped};
use crate::error::{Error, Result};

pub(super) use legacy::begins as begins_like_legacy;

/// The tensors of a checkpoint by key, and the entries that are none.
pub(super) type Contents = (BTreeMap<String, Place>, Vec<Skipped>);

/// Reads the zip archive that `torch.save` writes; messages call it `name`.
///
/// # Errors
/// [`Error::PickleRefused`]; [`Error::WeightFile`] for an archive that is broken or no checkpoint.
pub(super) fn read_zip(bytes: &[u8], name: &str) -> Result<Contents> {
    let fail = |reason| error(name.to_owned(), Fault::Broken(reason));
    let archive = archive::Archive::read(bytes).map_err(fail)?;
    let mut heap = Heap::default();
    let (object, _) = machine::run(&bytes[archive.pickle.clone()], 0, &mut heap)
        .map_err(|fault| error(format!("{name} ({})", archive.pickle_name), fault))?;
    let place = |storage: &rebuild::Storage| {
        let range = archive.storages.get(storage.key).ok_or_else(|| format!("it lacks storage {:?}", storage.key))?;
        match range.len() == storage.bytes {
            true => Ok(range.clone()),
            false => Err(format!(
                "its storage {:?} has {} bytes where its pickle says {}",
                storage.key,
                range.len(),
                storage.bytes
            )),
        }
    };
    let storages = heap.storages.list.iter().map(place).collect::<Result<Vec<_>, String>>().map_err(fail)?;
    contents(&heap, object, &storages).map_err(fail)
}

/// Reads what `torch.save` wrote before PyTorch 1.6; messages call it `name`.
///
/// # Errors
/// [`Error::PickleRefused`]; [`Error::WeightFile`] for a file that is broken or no checkpoint.
pub(super) fn read_legacy(bytes: &[u8], name: &str) -> Result<Contents> {
    let mut heap = Heap::default();
    let (object, storages) = legacy::read(bytes, &mut heap).map_err(|fault| error(name.to_owned(), fault))?;
    contents(&heap, object, &storages).map_err(|reason| error(name.to_owned(), Fault::Broken(reason)))
}

/// `storages`: where the bytes of each of the heap's storages are in the file.
fn contents<'a>(heap: &Heap<'a>, object: Value<'a>, storages: &[Range<usize>]) -> Result<Contents, String> {
    let found = state_dict::flatten(heap, object)?;
    let place = |tensor: &rebuild::Tensor| {
        let start = storages[tensor.storage].start;
        Place {
            file: 0,
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
            strides: tensor.strides.clone(),
            bytes: start + tensor.bytes.start..start + tensor.bytes.end,
        }
    };
    let tensors = found.tensors.into_iter().map(|(key, tensor)| (key, place(tensor))).collect();
    Ok((tensors, found.skipped.into_values().collect()))
}

fn error(file: String, fault: Fault) -> Error {
    match fault {
        Fault::Refused { offset, what } => Error::PickleRefused { file, offset, what },
        Fault::Broken(reason) => Error::WeightFile { file, reason },
    }
}
