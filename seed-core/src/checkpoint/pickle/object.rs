//! What a pickle makes: values on the stack, and a heap of the objects that they share.
//!
//! Objects refer to each other by number, so that shared, deep and even circular structures cost no recursion, neither
//! to walk nor to free. Text is borrowed from the file.

use super::globals::Global;
use super::rebuild::{StorageTable, StorageView, Tensor};

/// Why a pickle is not read.
#[derive(Debug)]
pub(super) enum Fault {
    /// It asks, at this byte of the pickle's file, for something that is not on the lists.
    Refused { offset: usize, what: String },
    /// It is broken, or no checkpoint.
    Broken(String),
}

/// Number of an object on the heap.
pub(super) type Id = u32;

/// A value on the stack, in the memo or in a container.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond 64 bits: little-endian two's complement.
    BigInt(&'a [u8]),
    Float,
    Text(&'a str),
    Bytes,
    Global(Global),
    Object(Id),
}

/// An object on the heap.
#[derive(Debug)]
pub(super) enum Object<'a> {
    Tuple(Vec<Value<'a>>),
    List(Vec<Value<'a>>),
    /// Plain, ordered, or with a default: in the order of the file, with keys as often as it has them.
    Dict(Vec<(Value<'a>, Value<'a>)>),
    Storage(StorageView),
    /// Boxed, because most objects are small and there may be millions.
    Tensor(Box<Tensor>),
    /// An object that no weight needs, by what Python calls it, and what it holds.
    Other {
        kind: &'static str,
        holds: Vec<Value<'a>>,
    },
}

/// All objects and storages of a file.
#[derive(Debug, Default)]
pub(super) struct Heap<'a> {
    objects: Vec<Object<'a>>,
    pub(super) storages: StorageTable<'a>,
}

impl<'a> Heap<'a> {
    /// Stores an object. The limit of the machine's steps keeps the number of objects far below `Id::MAX`.
    pub(super) fn add(&mut self, object: Object<'a>) -> Value<'a> {
        self.objects.push(object);
        Value::Object((self.objects.len() - 1) as Id)
    }

    /// The number of objects.
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    /// The object of a value, if it is one.
    pub(super) fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
        match value {
            Value::Object(id) => self.objects.get(id as usize),
            _ => None,
        }
    }

    /// The object of a value, to be changed.
    pub(super) fn object_mut(&mut self, value: Value<'a>) -> Option<&mut Object<'a>> {
        match value {
            Value::Object(id) => self.objects.get_mut(id as usize),
            _ => None,
        }
    }

    /// The items of a tuple.
    pub(super) fn tuple(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match self.object(value) {
            Some(Object::Tuple(items)) => Some(items),
            _ => None,
        }
    }

    /// The items of a list.
    pub(super) fn list(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match self.object(value) {
            Some(Object::List(items)) => Some(items),
            _ => None,
        }
    }

    /// The pairs of a dictionary.
    pub(super) fn dict(&self, value: Value<'a>) -> Option<&[(Value<'a>, Value<'a>)]> {
        match self.object(value) {
            Some(Object::Dict(pairs)) => Some(pairs),
            _ => None,
        }
    }

    /// What a value is, as Python calls it.
    pub(super) fn kind(&self, value: Value<'a>) -> &'static str {
        match value {
            Value::None => "None",
            Value::Bool(_) => "bool",
            Value::Int(_) | Value::BigInt(_) => "int",
            Value::Float => "float",
            Value::Text(_) => "str",
            Value::Bytes => "bytes",
            Value::Global(global) => global.kind(),
            Value::Object(_) => match self.object(value) {
                Some(Object::Tuple(_)) => "tuple",
                Some(Object::List(_)) => "list",
                Some(Object::Dict(_)) => "dict",
                Some(Object::Storage(_)) => "storage",
                Some(Object::Tensor(_)) => "tensor",
                Some(Object::Other { kind, .. }) => kind,
                None => "object",
            },
        }
    }
}
