//! What a schema says of arrays, as a whole, in the form of draft 2020-12; `contains` and `uniqueItems` written out where that is small.

use serde_json::{Map, Value, json};

use super::clauses::equal;
use super::document::{Draft, pointer};
use super::rewrite::{Rewriter, count, problem};
use super::types::Types;
use crate::constraint::Problem;

/// Keywords that are done here.
pub(super) const KEYWORDS: [&str; 10] = [
    "items",
    "prefixItems",
    "additionalItems",
    "unevaluatedItems",
    "minItems",
    "maxItems",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
];

/// Arrays that `uniqueItems` may be written out in, and places that `contains` may be at.
const MAX_ARRAYS: usize = 400;
const MAX_PLACES: u64 = 16;

impl Rewriter<'_> {
    /// Writes the keywords of arrays to `out`, and what must hold besides to `also`.
    pub(super) fn arrays(
        &mut self,
        map: &Map<String, Value>,
        types: Types,
        path: &str,
        out: &mut Map<String, Value>,
        also: &mut Vec<Value>,
    ) {
        if !types.has(Types::ARRAY) {
            return;
        }
        if let Err(problem) = self.array(map, path, out, also) {
            self.problems.push(problem);
        }
    }

    fn array(
        &mut self,
        map: &Map<String, Value>,
        path: &str,
        out: &mut Map<String, Value>,
        also: &mut Vec<Value>,
    ) -> Result<(), Problem> {
        let items = map.get("items").map(|items| (items, "items"));
        let unevaluated = self.document.knows("unevaluatedItems").then(|| map.get("unevaluatedItems")).flatten();
        let unevaluated = unevaluated.map(|items| (items, "unevaluatedItems"));
        let (prefix, rest) = match items {
            Some((items @ Value::Array(_), keyword)) => {
                (Some((items, keyword)), map.get("additionalItems").map(|items| (items, "additionalItems")).or(unevaluated))
            }
            _ if self.document.draft < Draft::Twenty => (None, items.or(unevaluated)),
            _ => (map.get("prefixItems").map(|items| (items, "prefixItems")), items.or(unevaluated)),
        };
        if let Some((prefix, keyword)) = prefix {
            let at = pointer(path, keyword);
            let prefix = prefix.as_array().map(Vec::as_slice).unwrap_or_default();
            let written: Vec<Value> =
                prefix.iter().enumerate().map(|(id, item)| self.rewrite(item, &pointer(&at, &id.to_string()))).collect();
            if !written.is_empty() {
                out.insert("prefixItems".into(), Value::Array(written));
            }
        }
        if let Some((rest, keyword)) = rest {
            let rest = self.rewrite(rest, &pointer(path, keyword));
            out.insert("items".into(), rest);
        }
        let min = map.get("minItems").map_or(Ok(0), |value| count("minItems", value, path))?;
        let max = map.get("maxItems").map(|value| count("maxItems", value, path)).transpose()?;
        if max.is_some_and(|max| min > max) {
            return Err(problem(path, "minItems", "is more than `maxItems`, so nothing is valid", "lower it"));
        }
        if min > 0 {
            out.insert("minItems".into(), json!(min));
        }
        if let Some(max) = max {
            out.insert("maxItems".into(), json!(max));
        }
        if map.get("uniqueItems") == Some(&Value::Bool(true)) && max.is_none_or(|max| max > 1) {
            also.push(self.unique(map, min, max, path)?);
        }
        if let Some(contains) = map.get("contains").filter(|_| self.document.knows("contains")) {
            also.extend(self.contains(contains, map, max, path)?);
        }
        Ok(())
    }

    /// Every array without repetition, if the items have few values.
    fn unique(&mut self, map: &Map<String, Value>, min: u64, max: Option<u64>, path: &str) -> Result<Value, Problem> {
        let refuse = |reason: &str| {
            let fix = "drop it and check it afterwards, set `maxItems` to 1, or give the items an `enum` of a few values";
            problem(path, "uniqueItems", reason, fix)
        };
        let item = map.get("items").filter(|_| !map.contains_key("prefixItems")).unwrap_or(&Value::Bool(true));
        let values = self.values(item, 0).ok_or_else(|| refuse("cannot be kept for items of unlimited values"))?;
        let max = max.unwrap_or(u64::MAX).min(values.len() as u64);
        let mut arrays: Vec<Vec<&Value>> = Vec::new();
        let mut level: Vec<Vec<&Value>> = vec![Vec::new()];
        for length in 0..=max {
            if length >= min {
                arrays.extend(level.iter().cloned());
            }
            let longer = level.iter().flat_map(|array| {
                let unused = values.iter().filter(|value| !array.contains(value));
                unused.map(|value| array.iter().copied().chain([value]).collect())
            });
            level = if length == max { Vec::new() } else { longer.take(MAX_ARRAYS + 1).collect() };
            if arrays.len() + level.len() > MAX_ARRAYS {
                return Err(refuse(&format!("over {} values has more than {MAX_ARRAYS} arrays", values.len())));
            }
        }
        if arrays.is_empty() {
            return Err(refuse("leaves no array of `minItems`"));
        }
        Ok(with_others(arrays.into_iter().map(|array| json!({ "const": array })).collect()))
    }

    /// All values of a schema, if they are listed.
    fn values(&self, schema: &Value, depth: usize) -> Option<Vec<Value>> {
        let map = schema.as_object()?;
        if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
            return if depth < 8 { self.values(self.document.resolve(reference).ok()?.schema, depth + 1) } else { None };
        }
        let types = Types::of_keyword(map.get("type"));
        let listed = match (map.get("enum"), map.get("const")) {
            (Some(Value::Array(values)), _) => values.clone(),
            (_, Some(value)) => vec![value.clone()],
            _ if types.without(Types::BOOLEAN.or(Types::NULL)).is_empty() => {
                vec![Value::Null, Value::Bool(false), Value::Bool(true)]
            }
            _ => return None,
        };
        let mut values: Vec<Value> = Vec::new();
        for value in listed.into_iter().filter(|value| types.has(Types::of_value(value))) {
            if !values.iter().any(|known| equal(known, &value)) {
                values.push(value);
            }
        }
        Some(values)
    }

    /// One branch for each place that the item may be at.
    fn contains(
        &mut self,
        contains: &Value,
        map: &Map<String, Value>,
        max: Option<u64>,
        path: &str,
    ) -> Result<Option<Value>, Problem> {
        let refuse = |keyword: &str, reason: &str| {
            problem(path, keyword, reason, format!("give `maxItems` (at most {MAX_PLACES}), or ask it of all `items`"))
        };
        if self.document.knows("minContains") {
            match map.get("minContains").map(|least| count("minContains", least, path)).transpose()? {
                Some(0) => return Ok(None),
                Some(1) | None => {}
                Some(_) => return Err(refuse("minContains", "of more than 1 is not supported")),
            }
            if map.contains_key("maxContains") {
                return Err(refuse("maxContains", "is not supported"));
            }
        }
        let max = max.filter(|&max| max <= MAX_PLACES).ok_or_else(|| refuse("contains", "needs a small `maxItems`"))?;
        let item = self.rewrite(contains, &pointer(path, "contains"));
        let branch = |place: u64| {
            let mut prefix = vec![Value::Bool(true); place as usize];
            prefix.push(item.clone());
            json!({ "type": "array", "prefixItems": prefix, "minItems": place + 1 })
        };
        Ok(Some(with_others((0..max).map(branch).collect())))
    }
}

/// Branches for arrays, and one for everything else, of which the type beside them takes its part.
fn with_others(mut branches: Vec<Value>) -> Value {
    branches.push(json!({ "type": ["null", "boolean", "string", "number", "object"] }));
    json!({ "anyOf": branches })
}
