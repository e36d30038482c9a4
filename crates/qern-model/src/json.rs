//! The JSON files of a checkpoint folder: read within bounds, and looked up with errors that name the key, what it must be
//! and what it is. `null` counts as absent, as it does in transformers.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result, shorten};

/// The largest file read: above the largest `tokenizer.json` known (some 40 MB), far below any memory.
const MAX_BYTES: u64 = 256 << 20;

/// The bytes of a text file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let io = |source| Error::io(path, source);
    let file = File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::Checkpoint(format!("the file must be at most {MAX_BYTES} bytes long; it is longer")).in_file(path));
    }
    Ok(bytes)
}

/// The object in a file; `None` when there is no such file.
pub(crate) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>> {
    if !path.exists() {
        return Ok(None);
    }
    match serde_json::from_slice(&read(path)?) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(other) => Err(Error::Config(format!("the file must hold an object; it holds {}", describe(&other))).in_file(path)),
        Err(error) => Err(Error::Config(format!("the file is not valid json: {error}")).in_file(path)),
    }
}

/// Lookups in an object of a configuration file.
#[derive(Clone, Copy)]
pub(crate) struct Object<'a>(pub &'a Map<String, Value>);

impl<'a> Object<'a> {
    pub fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub fn count(self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number that is not negative", |value| {
            // Some tools write whole numbers as 8192.0.
            let whole = |v: f64| (v >= 0.0 && v.fract() == 0.0 && v < 9e15).then_some(v as u64);
            value.as_u64().or_else(|| value.as_f64().and_then(whole)).and_then(|v| usize::try_from(v).ok())
        })
    }

    pub fn required_count(self, key: &str) -> Result<usize> {
        self.count(key)?.ok_or_else(|| Error::Config(format!("`{key}` is missing; it must be a whole number")))
    }

    pub fn token_id(self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "a token id", as_token_id)
    }

    pub fn f32(self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a number", |value| value.as_f64().map(|v| v as f32))
    }

    pub fn bool(self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub fn str(self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    pub fn object(self, key: &str) -> Result<Option<Object<'a>>> {
        self.typed(key, "an object", |value| value.as_object().map(Object))
    }

    pub fn list(self, key: &str) -> Result<Option<&'a [Value]>> {
        self.typed(key, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    pub fn typed<T>(self, key: &str, expected: &str, convert: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value)
            .map(Some)
            .ok_or_else(|| Error::Config(format!("`{}` must be {expected}; given {}", shorten(key), describe(value))))
    }
}

pub(crate) fn as_token_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the string `{}`", shorten(text)),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        other => other.to_string(),
    }
}
