//! `model.safetensors.index.json`: which shard holds which tensor. Shards are files beside the index and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result, shorten};
use crate::json;

/// A checked index.
#[derive(Debug)]
pub(super) struct Index {
    /// Tensor to shard. Ordered, so that errors are the same on every run.
    pub weight_map: BTreeMap<String, String>,
    /// The shards in order of name, each once.
    pub shards: BTreeSet<String>,
}

/// More shards than any model has.
const MAX_SHARDS: usize = 10_000;

impl Index {
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = json::read(path)?;
        let raw: RawIndex = serde_json::from_slice(&bytes)
            .map_err(|error| Error::Safetensors(format!("the index is not valid: {error}")).in_file(path))?;
        Self::checked(raw.weight_map.0).map_err(|error| error.in_file(path))
    }

    fn checked(weight_map: BTreeMap<String, String>) -> Result<Self> {
        let shards: BTreeSet<String> = weight_map.values().cloned().collect();
        if shards.is_empty() || shards.len() > MAX_SHARDS {
            return Err(Error::Safetensors(format!("the index must name 1 to {MAX_SHARDS} shards; it names {}", shards.len())));
        }
        match shards.iter().find(|shard| !is_plain_name(shard)) {
            Some(shard) => Err(Error::Safetensors(format!(
                "a shard must be the plain name of a `.safetensors` file beside the index; given `{}`",
                shorten(shard)
            ))),
            None => Ok(Self { weight_map, shards }),
        }
    }
}

/// A file name that cannot lead out of its folder on any system.
fn is_plain_name(name: &str) -> bool {
    name.ends_with(".safetensors") && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0'])
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: WeightMap,
}

struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WeightMapVisitor).map(Self)
    }
}

struct WeightMapVisitor;

impl<'de> Visitor<'de> for WeightMapVisitor {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from tensors to shards")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut weight_map = BTreeMap::new();
        while let Some((tensor, shard)) = map.next_entry::<String, String>()? {
            if let Some(tensor) = weight_map.insert(tensor.clone(), shard).map(|_| tensor) {
                return Err(M::Error::custom(format!("`{}` is listed twice", shorten(&tensor))));
            }
        }
        Ok(weight_map)
    }
}
