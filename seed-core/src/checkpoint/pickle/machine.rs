//! Bytes of a pickle -> one value. A stack machine that knows the opcodes below, and runs nothing: a global is a name on
//! the list of `globals`, and "calling" it makes one of our own objects.
//!
//! Follows `pickletools.py` of CPython 3.13 and `torch/_weights_only_unpickler.py`. The opcodes are those that Python's
//! picklers write under protocols 2 to 5; the text opcodes of protocol 0, `INST`, `OBJ`, `NEWOBJ_EX`, the extension
//! registry, `PERSID`, `DUP` and out-of-band buffers are refused. `BUILD` keeps the state of objects that are no weights
//! and forgets that of dictionaries (the `_metadata` of a state dict).

use std::collections::HashMap;

use super::globals::{self, Global};
use super::object::{Fault, Heap, Object, Value};
use super::rebuild;

/// Most steps of a pickle. A step pushes at most one value and makes at most one object and one memo entry, and copying a
/// list takes a step per item: so this bounds all memory. A checkpoint of a thousand tensors takes 30 thousand.
const STEPS: usize = 4_000_000;

/// Most open marks: how deep containers may nest while they are built. Python's own pickler stops near 300.
const MARKS: usize = 1_000;

/// Longest integer: what `LONG1` can hold.
const INTEGER: usize = 255;

/// What a pickle's bytes, from `at` on, make; and where the next byte after it is.
pub(super) fn run<'a>(bytes: &'a [u8], at: usize, heap: &mut Heap<'a>) -> Result<(Value<'a>, usize), Fault> {
    let memo = HashMap::new();
    let mut machine = Machine { bytes, at, opcode_at: at, steps: 0, stack: Vec::new(), marks: Vec::new(), memo, heap };
    loop {
        machine.opcode_at = machine.at;
        machine.charge(1)?;
        if let Some(value) = machine.step()? {
            return Ok((value, machine.at));
        }
    }
}

struct Machine<'a, 'h> {
    bytes: &'a [u8],
    at: usize,
    /// Where the opcode of the current step is, for messages.
    opcode_at: usize,
    steps: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack; what lies below the last one is out of reach until it is closed.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    heap: &'h mut Heap<'a>,
}

impl<'a> Machine<'a, '_> {
    /// One opcode; a value when it was the last.
    fn step(&mut self) -> Result<Option<Value<'a>>, Fault> {
        let [opcode] = self.take_array()?;
        match opcode {
            b'.' => return self.pop().map(Some), // STOP
            0x80 => self.protocol()?,
            0x95 => drop(self.take_array::<8>()?), // FRAME: a hint for buffering

            // Plain values
            b'N' => self.push(Value::None),
            0x88 | 0x89 => self.push(Value::Bool(opcode == 0x88)), // NEWTRUE, NEWFALSE
            b'J' => {
                let value = i32::from_le_bytes(self.take_array()?); // BININT
                self.push(Value::Int(value.into()));
            }
            b'K' => {
                let [value] = self.take_array()?; // BININT1
                self.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.take_array()?); // BININT2
                self.push(Value::Int(value.into()));
            }
            0x8a => {
                let [length] = self.take_array()?; // LONG1
                self.integer(length.into())?;
            }
            0x8b => {
                let length = self.length::<4>()?; // LONG4
                self.integer(length)?;
            }
            b'G' => {
                self.take_array::<8>()?; // BINFLOAT
                self.push(Value::Float);
            }

            // Text and bytes, with lengths of 1, 4 and 8 bytes
            0x8c => self.text::<1>()?,          // SHORT_BINUNICODE
            b'X' => self.text::<4>()?,          // BINUNICODE
            0x8d => self.text::<8>()?,          // BINUNICODE8
            b'U' => self.old_text::<1>()?,      // SHORT_BINSTRING
            b'T' => self.old_text::<4>()?,      // BINSTRING
            b'C' => self.binary::<1>()?,        // SHORT_BINBYTES
            b'B' => self.binary::<4>()?,        // BINBYTES
            0x8e | 0x96 => self.binary::<8>()?, // BINBYTES8, BYTEARRAY8

            // Containers
            b'(' => self.mark()?,
            b'0' => drop(self.pop()?),                   // POP
            b'1' => drop(self.pop_mark()?),              // POP_MARK
            b')' => self.add(Object::Tuple(Vec::new())), // EMPTY_TUPLE
            b't' => {
                let items = self.pop_mark()?; // TUPLE
                self.add(Object::Tuple(items));
            }
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(opcode - 0x84))?; // TUPLE1, TUPLE2, TUPLE3
                self.add(Object::Tuple(items));
            }
            b']' => self.add(Object::List(Vec::new())), // EMPTY_LIST
            b'a' => {
                let items = self.pop_many(1)?; // APPEND
                self.append(items)?;
            }
            b'e' => {
                let items = self.pop_mark()?; // APPENDS
                self.append(items)?;
            }
            b'}' => self.add(Object::Dict(Vec::new())), // EMPTY_DICT
            b's' => {
                let items = self.pop_many(2)?; // SETITEM
                self.set_items(items)?;
            }
            b'u' => {
                let items = self.pop_mark()?; // SETITEMS
                self.set_items(items)?;
            }
            0x8f => self.add(other("set")), // EMPTY_SET
            0x90 => {
                let items = self.pop_mark()?; // ADDITEMS
                self.hold("set", items)?;
            }
            0x91 => {
                let holds = self.pop_mark()?; // FROZENSET
                self.add(Object::Other { kind: "frozenset", holds });
            }

            // Memo
            b'q' => {
                let [index] = self.take_array()?; // BINPUT
                self.memoize(index.into())?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.take_array()?); // LONG_BINPUT
                self.memoize(index)?;
            }
            0x94 => self.memoize(self.memo.len() as u32)?, // MEMOIZE
            b'h' => {
                let [index] = self.take_array()?; // BINGET
                self.recall(index.into())?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.take_array()?); // LONG_BINGET
                self.recall(index)?;
            }

            // Names and objects
            b'c' => self.global()?,
            0x93 => self.stack_global()?,
            b'Q' => self.persistent()?,
            b'R' => self.reduce()?,
            0x81 => self.new_object()?,
            b'b' => self.build()?,
            other => return Err(self.refuse(format!("the opcode {}", opcode_name(other)))),
        }
        Ok(None)
    }

    fn protocol(&mut self) -> Result<(), Fault> {
        match self.take_array()? {
            [2..=5] => Ok(()),
            [other] => Err(self.broken(format!("protocol {other}, of 2 to 5"))),
        }
    }

    fn integer(&mut self, length: usize) -> Result<(), Fault> {
        if length > INTEGER {
            return Err(self.broken(format!("an integer of {length} bytes")));
        }
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|&last| last >= 0x80);
        let mut padded = [if negative { 0xff } else { 0 }; 8];
        self.push(match padded.get_mut(..length) {
            Some(low) => {
                low.copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(padded))
            }
            None => Value::BigInt(bytes),
        });
        Ok(())
    }

    fn text<const N: usize>(&mut self) -> Result<(), Fault> {
        let length = self.length::<N>()?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| self.broken("text that is no UTF-8".into()))?;
        self.push(Value::Text(text));
        Ok(())
    }

    /// A string of Python 2, which is text or bytes.
    fn old_text<const N: usize>(&mut self) -> Result<(), Fault> {
        let length = self.length::<N>()?;
        let bytes = self.take(length)?;
        self.push(std::str::from_utf8(bytes).map_or(Value::Bytes, Value::Text));
        Ok(())
    }

    fn binary<const N: usize>(&mut self) -> Result<(), Fault> {
        let length = self.length::<N>()?;
        self.take(length)?;
        self.push(Value::Bytes);
        Ok(())
    }

    fn mark(&mut self) -> Result<(), Fault> {
        if self.marks.len() == MARKS {
            return Err(self.broken(format!("containers nested more than {MARKS} deep")));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn append(&mut self, mut items: Vec<Value<'a>>) -> Result<(), Fault> {
        let list = self.top()?;
        match self.heap.object_mut(list) {
            Some(Object::List(list)) => list.append(&mut items),
            _ => return Err(self.broken(format!("items for a {}", self.heap.kind(list)))),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Value<'a>>) -> Result<(), Fault> {
        let dict = self.top()?;
        let (pairs, rest) = items.as_chunks();
        if !rest.is_empty() {
            return Err(self.broken("a key without a value".into()));
        }
        match self.heap.object_mut(dict) {
            Some(Object::Dict(dict)) => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            _ => return Err(self.broken(format!("keys for a {}", self.heap.kind(dict)))),
        }
        Ok(())
    }

    /// Gives items to the object of the kind `kind` on top of the stack.
    fn hold(&mut self, kind: &str, mut items: Vec<Value<'a>>) -> Result<(), Fault> {
        let object = self.top()?;
        match self.heap.object_mut(object) {
            Some(Object::Other { kind: found, holds }) if *found == kind => holds.append(&mut items),
            _ => return Err(self.broken(format!("a {} where a {kind} is needed", self.heap.kind(object)))),
        }
        Ok(())
    }

    fn memoize(&mut self, index: u32) -> Result<(), Fault> {
        let value = self.top()?;
        self.memo.insert(index, value);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), Fault> {
        let value = self.memo.get(&index).copied();
        let value = value.ok_or_else(|| self.broken(format!("memo entry {index}, which was never made")))?;
        self.push(value);
        Ok(())
    }

    /// `GLOBAL`: module and name as lines.
    fn global(&mut self) -> Result<(), Fault> {
        let [module, name] = [self.line()?, self.line()?];
        self.push_global(module, name)
    }

    fn line(&mut self) -> Result<&'a str, Fault> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or_else(|| self.cut_off())?;
        let line = self.take(length + 1)?;
        std::str::from_utf8(&line[..length]).map_err(|_| self.broken("a name that is no UTF-8".into()))
    }

    /// `STACK_GLOBAL`: module and name from the stack.
    fn stack_global(&mut self) -> Result<(), Fault> {
        match self.pop_many(2)?[..] {
            [Value::Text(module), Value::Text(name)] => self.push_global(module, name),
            _ => Err(self.broken("a name that is no text".into())),
        }
    }

    fn push_global(&mut self, module: &'a str, name: &'a str) -> Result<(), Fault> {
        let Some(global) = globals::find(module, name) else {
            return Err(self.refuse(format!("the name {}.{}", shown(module), shown(name))));
        };
        self.push(Value::Global(global));
        Ok(())
    }

    /// `BINPERSID`: in checkpoints, a storage.
    fn persistent(&mut self) -> Result<(), Fault> {
        let id = self.pop()?;
        let view = rebuild::storage(self.heap, id).map_err(|reason| self.broken(reason))?;
        self.add(Object::Storage(view));
        Ok(())
    }

    /// `REDUCE`: what calling a name of the list with these arguments gives.
    fn reduce(&mut self) -> Result<(), Fault> {
        let [callable, arguments] = self.pop_many(2)?[..] else { return Err(self.cut_off()) };
        let Value::Global(global) = callable else {
            return Err(self.refuse(format!("a call of a {}", self.heap.kind(callable))));
        };
        let Some(arguments) = self.heap.tuple(arguments) else {
            return Err(self.broken("arguments that are no tuple".into()));
        };
        let object = match (global, arguments) {
            (Global::OrderedDict, []) | (Global::DefaultDict, [] | [Value::None | Value::Global(_)]) => {
                Object::Dict(Vec::new())
            }
            // Python 2 gives the pairs as an argument.
            (Global::OrderedDict, &[pairs]) => self.dict_of_pairs(pairs)?,
            (Global::Size, &[sizes]) if self.heap.tuple(sizes).is_some() => {
                self.push(sizes); // the same tuple, as another class
                return Ok(());
            }
            (Global::Device, [Value::Text(_)] | [Value::Text(_), Value::Int(_)]) => other("torch.device"),
            (Global::Set, []) => other("set"),
            (Global::Set, &[items]) if self.heap.list(items).is_some() => {
                Object::Other { kind: "set", holds: vec![items] }
            }
            (Global::Encode, [Value::Text(_), Value::Text("latin1")]) => other("bytes"),
            (Global::NumpyDtype, [Value::Text(_), ..]) => other("numpy.dtype"),
            (Global::NumpyScalar, [_, _]) => other("numpy scalar"),
            (Global::NumpyReconstruct, [Value::Global(Global::NumpyArray), _, _]) => other("numpy.ndarray"),
            (
                Global::RebuildTensor
                | Global::RebuildTensorV2
                | Global::RebuildTensorV3
                | Global::RebuildParameter
                | Global::RebuildParameterWithState,
                arguments,
            ) => Object::Tensor(Box::new(
                rebuild::tensor(self.heap, global, arguments).map_err(|reason| self.broken(reason))?,
            )),
            _ => return Err(self.broken(format!("{global:?} called with {} arguments", arguments.len()))),
        };
        self.add(object);
        Ok(())
    }

    fn dict_of_pairs(&mut self, pairs: Value<'a>) -> Result<Object<'a>, Fault> {
        let wrong = || "an OrderedDict of something else than pairs".to_owned();
        let count = self.heap.list(pairs).ok_or_else(|| self.broken(wrong()))?.len();
        self.charge(count)?;
        let pair = |&pair: &Value<'a>| match self.heap.list(pair).or(self.heap.tuple(pair)) {
            Some(&[key, value]) => Some((key, value)),
            _ => None,
        };
        let dict = self.heap.list(pairs).and_then(|pairs| pairs.iter().map(pair).collect());
        dict.map(Object::Dict).ok_or_else(|| self.broken(wrong()))
    }

    /// `NEWOBJ`: an object of a class, made without its constructor.
    fn new_object(&mut self) -> Result<(), Fault> {
        let [class, arguments] = self.pop_many(2)?[..] else { return Err(self.cut_off()) };
        let plain = self.heap.tuple(arguments).is_some_and(<[_]>::is_empty);
        let object = match (class, plain) {
            (Value::Global(Global::Namespace), true) => other("argparse.Namespace"),
            (Value::Global(Global::OrderedDict), true) => Object::Dict(Vec::new()),
            _ => return Err(self.refuse(format!("an object of a {}", self.heap.kind(class)))),
        };
        self.add(object);
        Ok(())
    }

    /// `BUILD`: the state of an object.
    fn build(&mut self) -> Result<(), Fault> {
        let state = self.pop()?;
        let object = self.top()?;
        let is_dict = self.heap.dict(state).is_some();
        match self.heap.object_mut(object) {
            Some(Object::Dict(_)) if is_dict => {}
            Some(Object::Other { holds, .. }) => holds.push(state),
            _ => return Err(self.broken(format!("state for a {}", self.heap.kind(object)))),
        }
        Ok(())
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(value);
    }

    fn add(&mut self, object: Object<'a>) {
        let value = self.heap.add(object);
        self.push(value);
    }

    /// The lowest height that may be popped.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Value<'a>, Fault> {
        self.stack[self.floor()..].last().copied().ok_or_else(|| self.underflow())
    }

    fn pop(&mut self) -> Result<Value<'a>, Fault> {
        let value = self.top()?;
        self.stack.pop();
        Ok(value)
    }

    /// The last `count` values.
    fn pop_many(&mut self, count: usize) -> Result<Vec<Value<'a>>, Fault> {
        let start = self.stack.len().checked_sub(count).filter(|&start| start >= self.floor());
        let start = start.ok_or_else(|| self.underflow())?;
        Ok(self.stack.split_off(start))
    }

    /// The values since the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Value<'a>>, Fault> {
        let start = self.marks.pop().ok_or_else(|| self.underflow())?;
        Ok(self.stack.split_off(start))
    }

    fn charge(&mut self, steps: usize) -> Result<(), Fault> {
        self.steps = self.steps.saturating_add(steps);
        match self.steps > STEPS {
            true => Err(self.broken(format!("more than {STEPS} steps"))),
            false => Ok(()),
        }
    }

    fn length<const N: usize>(&mut self) -> Result<usize, Fault> {
        let mut padded = [0; 8];
        padded[..N].copy_from_slice(&self.take_array::<N>()?);
        usize::try_from(u64::from_le_bytes(padded)).map_err(|_| self.cut_off())
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let array = *rest.first_chunk().ok_or_else(|| self.cut_off())?;
        self.at += N;
        Ok(array)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let bytes = rest.get(..length).ok_or_else(|| self.cut_off())?;
        self.at += length;
        Ok(bytes)
    }

    fn refuse(&self, what: String) -> Fault {
        Fault::Refused { offset: self.opcode_at, what }
    }

    fn broken(&self, what: String) -> Fault {
        Fault::Broken(format!("at byte {} its pickle has {what}", self.opcode_at))
    }

    fn cut_off(&self) -> Fault {
        Fault::Broken(format!("its pickle is cut off at byte {}", self.opcode_at))
    }

    fn underflow(&self) -> Fault {
        self.broken("an opcode for more values than there are".into())
    }
}

fn other<'a>(kind: &'static str) -> Object<'a> {
    Object::Other { kind, holds: Vec::new() }
}

/// The start of a name, for a message: a file can make it as long as it likes.
fn shown(name: &str) -> String {
    name.chars().take(globals::LONGEST).flat_map(char::escape_debug).collect()
}

/// The opcodes of `pickletools.py` that the machine refuses, by name.
fn opcode_name(opcode: u8) -> String {
    let name = match opcode {
        b'I' => "INT",
        b'L' => "LONG",
        b'F' => "FLOAT",
        b'S' => "STRING",
        b'V' => "UNICODE",
        b'd' => "DICT",
        b'l' => "LIST",
        b'g' => "GET",
        b'p' => "PUT",
        b'2' => "DUP",
        b'i' => "INST",
        b'o' => "OBJ",
        b'P' => "PERSID",
        0x82 => "EXT1",
        0x83 => "EXT2",
        0x84 => "EXT4",
        0x92 => "NEWOBJ_EX",
        0x97 => "NEXT_BUFFER",
        0x98 => "READONLY_BUFFER",
        _ => return format!("{opcode:#04x}, which pickle does not have"),
    };
    format!("{name} ({opcode:#04x})")
}
