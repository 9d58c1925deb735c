//! The format of `torch.save` before PyTorch 1.6: five pickles, then the storages.
//!
//! magic number | protocol version 1001 | facts of the system | the object | keys of the storages | for each key, in that
//! order: number of elements (int64), elements.
//!
//! Follows `_legacy_load` of `torch/serialization.py`. What differs: bytes after the last storage, big-endian systems and
//! the tar archives before PyTorch 0.1.12 are errors.

use std::collections::HashMap;
use std::ops::Range;

use super::machine;
use super::object::{Fault, Heap, Value};

/// 0x1950a86a20f9469cfc6c, little-endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// In how many bytes the magic number must be: under protocol 4 a frame comes before it.
const HEAD: usize = 32;

const PROTOCOL: i64 = 1001;

/// Whether bytes begin like a legacy checkpoint.
pub(in crate::checkpoint) fn begins(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(HEAD)];
    head.first() == Some(&0x80) && head.windows(MAGIC.len()).any(|window| window == MAGIC)
}

/// The object of a file, and where the bytes of each of the heap's storages are.
pub(super) fn read<'a>(bytes: &'a [u8], heap: &mut Heap<'a>) -> Result<(Value<'a>, Vec<Range<usize>>), Fault> {
    let broken = |reason: &str| Fault::Broken(reason.to_owned());
    let (magic, at) = machine::run(bytes, 0, heap)?;
    if !matches!(magic, Value::BigInt(number) if number == MAGIC) {
        return Err(broken("it has no magic number of torch.save"));
    }
    let (protocol, at) = machine::run(bytes, at, heap)?;
    if !matches!(protocol, Value::Int(PROTOCOL)) {
        return Err(broken("it has another protocol version than 1001"));
    }
    let (system, at) = machine::run(bytes, at, heap)?;
    let facts = heap.dict(system).ok_or_else(|| broken("it has no facts of the system"))?;
    if facts.iter().any(|pair| matches!(pair, (Value::Text("little_endian"), Value::Bool(false)))) {
        return Err(broken("its numbers are big-endian; save it again on a little-endian machine"));
    }
    let (object, at) = machine::run(bytes, at, heap)?;
    let (keys, at) = machine::run(bytes, at, heap)?;
    let keys = heap.list(keys).ok_or_else(|| broken("it has no list of storages"))?;
    let ranges = storages(bytes, at, heap, keys).map_err(Fault::Broken)?;
    Ok((object, ranges))
}

fn storages(bytes: &[u8], mut at: usize, heap: &Heap, keys: &[Value]) -> Result<Vec<Range<usize>>, String> {
    let mut found = HashMap::new();
    for key in keys {
        let Value::Text(key) = key else { return Err("a key of its list of storages is no text".into()) };
        let number = heap.storages.number(key).ok_or_else(|| format!("no tensor uses its storage {key:?}"))?;
        let storage = &heap.storages.list[number];
        let cut_off = || format!("it is cut off in storage {key:?}");
        let rest = bytes.get(at..).unwrap_or_default();
        let count = u64::from_le_bytes(*rest.first_chunk().ok_or_else(cut_off)?);
        let claimed = storage.bytes / storage.element;
        if count != claimed as u64 {
            return Err(format!("its storage {key:?} has {count} elements where its pickle says {claimed}"));
        }
        let start = at + size_of::<u64>();
        let end = start.checked_add(storage.bytes).filter(|&end| end <= bytes.len()).ok_or_else(cut_off)?;
        if found.insert(number, start..end).is_some() {
            return Err(format!("it lists storage {key:?} twice"));
        }
        at = end;
    }
    if at != bytes.len() {
        return Err(format!("{} bytes follow its last storage", bytes.len() - at));
    }
    let missing = |number: usize| format!("it lacks storage {:?}", heap.storages.list[number].key);
    (0..heap.storages.list.len()).map(|number| found.remove(&number).ok_or_else(|| missing(number))).collect()
}
