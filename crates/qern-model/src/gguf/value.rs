//! The values of GGUF metadata. Numbers are copied out, strings and arrays are borrowed from the file: a vocabulary of
//! 151,936 strings costs nothing until somebody asks for it.

use crate::error::{Error, Result};

/// A metadata value, borrowed from the file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// The type of a metadata value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    /// The type with this number in a file.
    pub fn from_id(id: u32) -> Option<Self> {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64].get(usize::try_from(id).ok()?).copied()
    }

    /// Bytes of a value, or `None` for strings and arrays.
    pub const fn size(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }

    /// The name used in messages, as in `u32`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }
}

impl<'a> Value<'a> {
    /// The value at the start of `bytes`, which hold exactly one value of type `kind`; `None` when they do not. Arrays are
    /// not made here.
    pub(super) fn decode(kind: ValueType, bytes: &'a [u8]) -> Option<Self> {
        Some(match kind {
            ValueType::U8 => Self::U8(u8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I8 => Self::I8(i8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U16 => Self::U16(u16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I16 => Self::I16(i16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U32 => Self::U32(u32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I32 => Self::I32(i32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F32 => Self::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U64 => Self::U64(u64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I64 => Self::I64(i64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F64 => Self::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::Bool => match bytes {
                [0] => Self::Bool(false),
                [1] => Self::Bool(true),
                _ => return None,
            },
            ValueType::String => Self::String(std::str::from_utf8(bytes).ok()?),
            ValueType::Array => return None,
        })
    }

    /// The type of the value.
    pub const fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The value as a count or id, when it is an integer that is not negative.
    pub fn to_u64(self) -> Option<u64> {
        match self {
            Self::U8(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::U64(v) => Some(v),
            Self::I8(v) => v.try_into().ok(),
            Self::I16(v) => v.try_into().ok(),
            Self::I32(v) => v.try_into().ok(),
            Self::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// The value as a number, when it is a float or a small integer.
    pub fn to_f32(self) -> Option<f32> {
        match self {
            Self::F32(v) => Some(v),
            Self::F64(v) => Some(v as f32),
            _ => self.to_u64().filter(|&v| v < 1 << 24).map(|v| v as f32),
        }
    }
}

/// An array of metadata: values of one type, which is never an array itself.
#[derive(Clone, Copy, PartialEq)]
pub struct Array<'a> {
    pub(super) item_type: ValueType,
    pub(super) len: usize,
    /// The items as they lie in the file, walked once: every one of them is complete.
    pub(super) bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The type of the items.
    pub fn item_type(&self) -> ValueType {
        self.item_type
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The items in order. An error is a string that is not UTF-8 or a bool that is neither 0 nor 1.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Result<Value<'a>>> + use<'a> {
        let Self { item_type, len, mut bytes } = *self;
        (0..len).map(move |index| {
            let item = take_item(item_type, &mut bytes).and_then(|item| Value::decode(item_type, item));
            item.ok_or_else(|| {
                let rule = if item_type == ValueType::String { "valid utf-8" } else { "0 or 1" };
                Error::Gguf(format!("item {index} of an array of {} must be {rule}; it is not", item_type.name()))
            })
        })
    }
}

impl std::fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}; {}]", self.item_type.name(), self.len)
    }
}

/// Cuts one item off the front of `bytes`: the value itself, for a string without its length. `None` when it is not complete.
pub(super) fn take_item<'a>(item_type: ValueType, bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let size = match item_type.size() {
        Some(size) => size,
        None if item_type == ValueType::String => {
            let (len, rest) = bytes.split_first_chunk::<8>()?;
            *bytes = rest;
            usize::try_from(u64::from_le_bytes(*len)).ok()?
        }
        None => return None,
    };
    let (item, rest) = bytes.split_at_checked(size)?;
    *bytes = rest;
    Some(item)
}
