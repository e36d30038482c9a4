//! Typed lookups in the metadata of a GGUF file. A missing key is `None`; a value of another type is an error that names the
//! key, what was expected and what was found.

use super::header::{EntryKind, Header};
use super::value::{Array, Value, ValueType};
use crate::error::{Error, Result, shorten};

/// The metadata of a GGUF file, borrowed from it.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a> {
    pub(super) header: &'a Header,
    pub(super) bytes: &'a [u8],
}

impl<'a> Metadata<'a> {
    /// The number of entries.
    pub fn len(&self) -> usize {
        self.header.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys and values in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> + use<'a> {
        let this = *self;
        this.header.entries.iter().enumerate().filter_map(move |(index, entry)| Some((entry.key.as_str(), this.decode(index)?)))
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        self.decode(*self.header.by_key.get(key)?)
    }

    /// An integer that is not negative, of whatever width.
    pub fn count(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "an integer that is not negative", |value| value.to_u64().and_then(|v| usize::try_from(v).ok()))
    }

    /// A token id.
    pub fn token_id(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "a token id", |value| value.to_u64().and_then(|v| u32::try_from(v).ok()))
    }

    /// A number.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a number", Value::to_f32)
    }

    /// A bool.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a bool", |value| if let Value::Bool(value) = value { Some(value) } else { None })
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", |value| if let Value::String(value) = value { Some(value) } else { None })
    }

    /// An array, of whatever items.
    pub fn array(&self, key: &str) -> Result<Option<Array<'a>>> {
        self.typed(key, "an array", |value| if let Value::Array(value) = value { Some(value) } else { None })
    }

    /// An array of strings, copied out.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.items(key, ValueType::String, |item| if let Value::String(item) = item { Some(item.to_owned()) } else { None })
    }

    /// An array of `i32`, copied out. (Arrays of `u32` are taken too: converters have written token types as either.)
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        let item_type = match self.array(key)? {
            Some(array) if array.item_type() == ValueType::U32 => ValueType::U32,
            _ => ValueType::I32,
        };
        self.items(key, item_type, |item| match item {
            Value::I32(item) => Some(item),
            Value::U32(item) => i32::try_from(item).ok(),
            _ => None,
        })
    }

    /// An array of `f32`, copied out.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.items(key, ValueType::F32, |item| if let Value::F32(item) = item { Some(item) } else { None })
    }

    fn typed<T>(&self, key: &str, expected: &str, convert: impl FnOnce(Value<'a>) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value)
            .map(Some)
            .ok_or_else(|| Error::Gguf(format!("`{}` must be {expected}; it is {}", shorten(key), describe(value))))
    }

    fn items<T>(&self, key: &str, item_type: ValueType, convert: impl Fn(Value<'a>) -> Option<T>) -> Result<Option<Vec<T>>> {
        let Some(array) = self.array(key)? else { return Ok(None) };
        if array.item_type() != item_type && !array.is_empty() {
            let (expected, found) = (item_type.name(), array.item_type().name());
            return Err(Error::Gguf(format!("`{}` must be an array of {expected}; it is an array of {found}", shorten(key))));
        }
        let mut items = Vec::with_capacity(array.len());
        for (index, item) in array.iter().enumerate() {
            let item = item.ok().and_then(&convert).ok_or_else(|| {
                let rule = if item_type == ValueType::String { "valid utf-8" } else { "in range" };
                Error::Gguf(format!("item {index} of `{}` must be {rule}; it is not", shorten(key)))
            })?;
            items.push(item);
        }
        Ok(Some(items))
    }

    fn decode(&self, index: usize) -> Option<Value<'a>> {
        let entry = &self.header.entries[index];
        let bytes = self.bytes.get(entry.range.clone())?;
        match entry.kind {
            EntryKind::Single(kind) => Value::decode(kind, bytes),
            EntryKind::Array { item_type, len } => Some(Value::Array(Array { item_type, len, bytes })),
        }
    }
}

fn describe(value: Value<'_>) -> String {
    match value {
        Value::String(text) => format!("the string `{}`", shorten(text)),
        Value::Array(array) => format!("an array of {}", array.item_type().name()),
        Value::Bool(value) => format!("the bool {value}"),
        Value::F32(value) => format!("the f32 {value}"),
        Value::F64(value) => format!("the f64 {value}"),
        Value::I8(value) => format!("the i8 {value}"),
        Value::I16(value) => format!("the i16 {value}"),
        Value::I32(value) => format!("the i32 {value}"),
        Value::I64(value) => format!("the i64 {value}"),
        other => format!("the {} {}", other.value_type().name(), other.to_u64().unwrap_or_default()),
    }
}
