//! What a checkpoint's object holds: tensors by dotted key, and the entries that are none.

use std::collections::BTreeMap;

use super::object::{Heap, Id, Object, Value};
use super::rebuild::Tensor;
use crate::checkpoint::weights::Skipped;

/// Keys under which training programs put the state dict.
const WRAPPERS: [&str; 3] = ["model", "state_dict", "module"];

/// Deepest nesting of dictionaries. A dictionary that holds itself is deeper.
const DEPTH: usize = 64;

/// Most bytes of all keys, joined. Dictionaries may share parts, so that a short pickle can spell very many keys.
const KEYS: usize = 64 << 20;

/// What a key costs besides its bytes.
const KEY: usize = 64;

/// A state dict, flat.
#[derive(Debug, Default)]
pub(super) struct StateDict<'h> {
    pub(super) tensors: BTreeMap<String, &'h Tensor>,
    pub(super) skipped: BTreeMap<String, Skipped>,
}

/// Flattens a dictionary: see [`Weights::open`](crate::checkpoint::Weights::open) for the rules.
///
/// # Errors
/// What is wrong: no dictionary, a key twice, too deep, too many keys.
pub(super) fn flatten<'h, 'a>(heap: &'h Heap<'a>, object: Value<'a>) -> Result<StateDict<'h>, String> {
    let Value::Object(root) = object else { return Err(no_dictionary(heap.kind(object))) };
    let pairs = heap.dict(object).ok_or_else(|| no_dictionary(heap.kind(object)))?;
    let mut walk = Walk { heap, counted: vec![false; heap.len()], spent: 0, found: StateDict::default() };
    let mut wrapped = pairs.iter().filter_map(|&(key, value)| match (key, value) {
        (Value::Text(key), Value::Object(id)) if WRAPPERS.contains(&key) => heap.dict(value).map(|_| (key, id)),
        _ => None,
    });
    match (wrapped.next(), wrapped.next()) {
        (Some((wrapper, state)), None) => {
            walk.dictionary(state, wrapper, "")?;
            for &(key, value) in pairs.iter().filter(|&&(key, _)| !matches!(key, Value::Text(key) if key == wrapper)) {
                let key = key_text(key).ok_or("its dictionary has keys that are no text")?;
                walk.skip(key, value)?;
            }
        }
        _ => walk.dictionary(root, "", "")?,
    }
    Ok(walk.found)
}

fn no_dictionary(kind: &str) -> String {
    format!("it holds a {kind}, not a state dict; save one (torch.save(model.state_dict(), path))")
}

fn key_text(key: Value<'_>) -> Option<String> {
    match key {
        Value::Text(text) => Some(text.to_owned()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}

struct Walk<'h, 'a> {
    heap: &'h Heap<'a>,
    /// Objects whose tensors some entry has counted.
    counted: Vec<bool>,
    /// Of [`KEYS`].
    spent: usize,
    found: StateDict<'h>,
}

impl<'h, 'a> Walk<'h, 'a> {
    /// All that a dictionary holds, with `prefix` (empty, or ending in a dot) before its keys.
    fn dictionary(&mut self, id: Id, name: &str, prefix: &str) -> Result<(), String> {
        let heap = self.heap;
        let mut open = vec![(id, prefix.to_owned(), 0)];
        while let Some((id, prefix, depth)) = open.pop() {
            if depth > DEPTH {
                return Err(format!("its dictionaries are nested more than {DEPTH} deep"));
            }
            let pairs = heap.dict(Value::Object(id)).unwrap_or_default();
            let plain = pairs.iter().all(|&(key, _)| matches!(key, Value::Text(_) | Value::Int(_)));
            if pairs.is_empty() || !plain {
                let place = prefix.strip_suffix('.').unwrap_or(name);
                match place {
                    "" if plain => {}
                    "" => return Err("its dictionary has keys that are no text".into()),
                    place => self.skip(place.to_owned(), Value::Object(id))?,
                }
                continue;
            }
            for &(key, value) in pairs {
                let key = format!("{prefix}{}", key_text(key).unwrap_or_default());
                match (heap.object(value), value) {
                    (Some(Object::Tensor(tensor)), _) => {
                        self.spend(&key)?;
                        self.found.tensors.insert(key, tensor);
                    }
                    (Some(Object::Dict(_)), Value::Object(id)) => {
                        self.pay(key.len())?;
                        open.push((id, key + ".", depth + 1));
                    }
                    _ => self.skip(key, value)?,
                }
            }
        }
        Ok(())
    }

    fn skip(&mut self, key: String, value: Value<'a>) -> Result<(), String> {
        self.spend(&key)?;
        let (kind, tensors) = (self.heap.kind(value), self.count(value));
        self.found.skipped.insert(key.clone(), Skipped { key, kind, tensors });
        Ok(())
    }

    /// Checks that a key is new, and pays for it.
    fn spend(&mut self, key: &str) -> Result<(), String> {
        if self.found.tensors.contains_key(key) || self.found.skipped.contains_key(key) {
            return Err(format!("it holds the key {key} twice"));
        }
        self.pay(key.len())
    }

    fn pay(&mut self, length: usize) -> Result<(), String> {
        self.spent += length + KEY;
        match self.spent > KEYS {
            true => Err(format!("its keys take more than {KEYS} bytes")),
            false => Ok(()),
        }
    }

    /// The tensors in a value that no entry before it has counted.
    fn count(&mut self, value: Value<'a>) -> usize {
        let mut tensors = 0;
        let mut open = vec![value];
        while let Some(value) = open.pop() {
            let Value::Object(id) = value else { continue };
            if std::mem::replace(&mut self.counted[id as usize], true) {
                continue;
            }
            match self.heap.object(value) {
                Some(Object::Tensor(_)) => tensors += 1,
                Some(Object::Tuple(items) | Object::List(items) | Object::Other { holds: items, .. }) => {
                    open.extend(items);
                }
                Some(Object::Dict(pairs)) => open.extend(pairs.iter().flat_map(|&(key, value)| [key, value])),
                Some(Object::Storage(_)) | None => {}
            }
        }
        tensors
    }
}
