//! `oneOf` without its exclusion, and `not` without itself: complements of schemas, as schemas. Exact or refused.

use serde_json::{Map, Value, json};

use super::clauses::list;
use super::document::pointer;
use super::language::Language;
use super::rewrite::{Rewriter, count, has_grammar, problem};
use super::types::Types;
use crate::constraint::Problem;

const MAX_DEPTH: usize = 24;

impl Rewriter<'_> {
    /// Branches of which exactly one may hold, as branches of which any may: each without those that it could overlap.
    pub(super) fn one_of(&mut self, value: &Value, map: &Map<String, Value>, path: &str) -> Result<Vec<Value>, Problem> {
        let branches = self.branches("oneOf", value, path)?;
        let at = pointer(path, "oneOf");
        let mut beside = map.clone();
        beside.remove("oneOf");
        let whole: Vec<Value> = branches.iter().map(|branch| json!({ "allOf": [beside, branch] })).collect();
        let mut written = Vec::with_capacity(branches.len());
        for (id, branch) in branches.iter().enumerate() {
            let mut parts = vec![self.rewrite(branch, &pointer(&at, &id.to_string()))];
            let types = self.document.types_of(&whole[id]);
            for (other, excluded) in branches.iter().enumerate() {
                if other == id || self.document.are_disjoint(&whole[id], &whole[other]) {
                    continue;
                }
                let negated = self.negate(excluded, types, &pointer(&at, &other.to_string()), 0);
                parts.push(negated.map_err(|cause| {
                    let reason = format!(
                        "has branches {} and {} that could both hold, and one cannot be excluded (`{}` {})",
                        id.min(other),
                        id.max(other),
                        cause.keyword,
                        cause.reason
                    );
                    let fix = "use `anyOf`, or tell the branches apart by a required property with a different `const` in each";
                    problem(path, "oneOf", reason, fix)
                })?);
            }
            parts.retain(|part| *part != Value::Bool(true));
            written.push(match parts.len() {
                0 => Value::Bool(true),
                1 => parts.swap_remove(0),
                _ => json!({ "allOf": parts }),
            });
        }
        Ok(written)
    }

    /// A schema for the values of the given types that this one does not allow.
    pub(super) fn negate(&mut self, schema: &Value, within: Types, path: &str, depth: usize) -> Result<Value, Problem> {
        if depth > MAX_DEPTH {
            return Err(problem(path, "not", "nests too deep, or in a circle", "write out what is allowed instead"));
        }
        match schema {
            Value::Bool(allowed) => Ok(Value::Bool(!allowed)),
            Value::Object(map) => {
                let mut parts = self.negated_parts(map, within, path, depth)?;
                parts.retain(|part| *part != Value::Bool(false));
                if parts.contains(&Value::Bool(true)) {
                    return Ok(Value::Bool(true));
                }
                Ok(match parts.len() {
                    0 => Value::Bool(false),
                    1 => parts.swap_remove(0),
                    _ => json!({ "anyOf": parts }),
                })
            }
            _ => Err(problem(path, "not", "must hold a schema", "an object, true or false")),
        }
    }

    /// A value is not valid if one keyword says so: a branch for each.
    fn negated_parts(
        &mut self,
        map: &Map<String, Value>,
        within: Types,
        path: &str,
        depth: usize,
    ) -> Result<Vec<Value>, Problem> {
        if let Some(reference) = map.get("$ref").and_then(Value::as_str)
            && let Ok(target) = self.document.resolve(reference)
        {
            let negated = self.negate(target.schema, within, &target.path, depth + 1)?;
            if self.document.references_stand_alone() {
                return Ok(vec![negated]);
            }
            let mut rest = map.clone();
            rest.remove("$ref");
            let mut parts = self.negated_parts(&rest, within, path, depth + 1)?;
            parts.push(negated);
            return Ok(parts);
        }
        let types = Types::of_keyword(map.get("type"));
        let inside = within.and(types);
        let mut parts = Vec::new();
        let others = within.without(types);
        if !others.is_empty() {
            let fix = "say `\"type\": \"integer\"` or `\"number\"` where it is used";
            let keyword = others.keyword().ok_or_else(|| problem(path, "type", "leaves numbers that are no integers", fix))?;
            parts.push(json!({ "type": keyword }));
        }
        if inside.is_empty() {
            return Ok(parts);
        }
        for (keyword, value) in map {
            if !self.document.knows(keyword) || keyword == "type" {
                continue;
            }
            let negated = self.negated_keyword(keyword, value, map, inside, path, depth)?;
            parts.extend(negated);
        }
        Ok(parts)
    }

    fn negated_keyword(
        &mut self,
        keyword: &str,
        value: &Value,
        map: &Map<String, Value>,
        inside: Types,
        path: &str,
        depth: usize,
    ) -> Result<Vec<Value>, Problem> {
        let at = pointer(path, keyword);
        let only = |types: Types, part: Value| if inside.has(types) { vec![part] } else { Vec::new() };
        let refuse = |reason: &str| Err(problem(path, keyword, reason, "write out what is allowed instead"));
        Ok(match keyword {
            "const" => return self.negated_values(std::slice::from_ref(value), inside, path, depth),
            "enum" => return self.negated_values(value.as_array().map_or(&[], Vec::as_slice), inside, path, depth),
            "allOf" => {
                let mut parts = Vec::new();
                for (id, part) in list(map, keyword).enumerate() {
                    parts.push(self.negate(part, inside, &pointer(&at, &id.to_string()), depth + 1)?);
                }
                parts
            }
            "anyOf" | "oneOf" => {
                let branches: Vec<&Value> = list(map, keyword).collect();
                let mut parts = Vec::new();
                for (id, part) in branches.iter().enumerate() {
                    parts.push(self.negate(part, inside, &pointer(&at, &id.to_string()), depth + 1)?);
                }
                let mut all = vec![json!({ "allOf": parts })];
                if keyword == "oneOf" {
                    for (id, one) in branches.iter().enumerate() {
                        for (other, two) in branches.iter().enumerate().skip(id + 1) {
                            if !self.document.are_disjoint(one, two) {
                                let one = self.rewrite(one, &pointer(&at, &id.to_string()));
                                let two = self.rewrite(two, &pointer(&at, &other.to_string()));
                                all.push(json!({ "allOf": [one, two] }));
                            }
                        }
                    }
                }
                all
            }
            "not" => {
                let inner = self.rewrite(value, &at);
                vec![typed(inner, inside)]
            }
            "if" => {
                let mut parts = Vec::new();
                for (consequence, holds) in [("then", true), ("else", false)] {
                    let Some(schema) = map.get(consequence) else { continue };
                    let condition = if holds { self.rewrite(value, &at) } else { self.negate(value, inside, &at, depth + 1)? };
                    let broken = self.negate(schema, inside, &pointer(path, consequence), depth + 1)?;
                    parts.push(json!({ "allOf": [condition, broken] }));
                }
                parts
            }
            "required" => {
                let names = list(map, keyword).filter_map(Value::as_str);
                let missing = names.map(|name| json!({ "type": "object", "properties": { name: false } }));
                if inside.has(Types::OBJECT) { missing.collect() } else { Vec::new() }
            }
            "properties" => {
                let mut parts = Vec::new();
                for (name, schema) in value.as_object().into_iter().flatten().filter(|_| inside.has(Types::OBJECT)) {
                    let negated = self.negate(schema, Types::ALL, &pointer(&at, name), depth + 1)?;
                    if negated != Value::Bool(false) {
                        parts.push(json!({ "type": "object", "required": [name], "properties": { name: negated } }));
                    }
                }
                parts
            }
            "dependentRequired" | "dependentSchemas" | "dependencies" => {
                let mut parts = Vec::new();
                for (name, dependency) in value.as_object().into_iter().flatten().filter(|_| inside.has(Types::OBJECT)) {
                    let schema = if dependency.is_array() { json!({ "required": dependency }) } else { dependency.clone() };
                    let broken = self.negate(&schema, Types::OBJECT, &pointer(&at, name), depth + 1)?;
                    parts.push(json!({ "type": "object", "required": [name], "allOf": [broken] }));
                }
                parts
            }
            "additionalProperties" if *value == true || !inside.has(Types::OBJECT) => Vec::new(),
            "additionalProperties"
                if *value == false && !map.contains_key("properties") && !map.contains_key("patternProperties") =>
            {
                only(Types::OBJECT, json!({ "type": "object", "minProperties": 1 }))
            }
            "patternProperties" | "propertyNames" | "additionalProperties" | "unevaluatedProperties"
                if !inside.has(Types::OBJECT) =>
            {
                Vec::new()
            }
            "patternProperties" if value.as_object().is_some_and(Map::is_empty) => Vec::new(),
            "patternProperties" | "propertyNames" | "additionalProperties" | "unevaluatedProperties" => {
                return refuse("cannot be negated: somewhere among the unnamed properties one would have to break it");
            }
            "items" | "prefixItems" | "additionalItems" | "uniqueItems" | "contains" | "unevaluatedItems"
                if !inside.has(Types::ARRAY) =>
            {
                Vec::new()
            }
            "uniqueItems" if *value == false => Vec::new(),
            "items" | "prefixItems" | "additionalItems" | "unevaluatedItems" if asks_nothing(value) => Vec::new(),
            "items" if *value == false && !map.contains_key("prefixItems") => vec![json!({ "type": "array", "minItems": 1 })],
            // Old drafts read `additionalItems` only beside a list of items.
            "additionalItems" if !map.get("items").is_some_and(Value::is_array) => Vec::new(),
            "items" | "prefixItems" | "additionalItems" | "contains" | "uniqueItems" | "unevaluatedItems" => {
                return refuse("cannot be negated: somewhere in the array an item would have to break it");
            }
            "minItems" => at_most(only, Types::ARRAY, "array", "maxItems", count(keyword, value, path)?),
            "maxItems" => only(Types::ARRAY, json!({ "type": "array", "minItems": count(keyword, value, path)? + 1 })),
            "minProperties" => at_most(only, Types::OBJECT, "object", "maxProperties", count(keyword, value, path)?),
            "maxProperties" => {
                only(Types::OBJECT, json!({ "type": "object", "minProperties": count(keyword, value, path)? + 1 }))
            }
            "minLength" => at_most(only, Types::STRING, "string", "maxLength", count(keyword, value, path)?),
            "maxLength" => only(Types::STRING, json!({ "type": "string", "minLength": count(keyword, value, path)? + 1 })),
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                if !inside.has(Types::NUMBER) || value.is_boolean() {
                    return Ok(Vec::new());
                }
                let inclusive = if keyword.ends_with("inimum") { "minimum" } else { "maximum" };
                let exclusive = if inclusive == "minimum" { "exclusiveMinimum" } else { "exclusiveMaximum" };
                let is_out = keyword == exclusive || map.get(exclusive) == Some(&Value::Bool(true));
                let beyond = match (inclusive, is_out) {
                    ("minimum", false) => "exclusiveMaximum",
                    ("minimum", true) => "maximum",
                    (_, false) => "exclusiveMinimum",
                    (_, true) => "minimum",
                };
                let name = if inside.has(Types::FRACTION) { "number" } else { "integer" };
                vec![json!({ "type": name, beyond: value })]
            }
            "multipleOf" if inside.has(Types::NUMBER) => {
                return refuse("cannot be negated: numbers that are no multiple have no grammar");
            }
            "pattern" if inside.has(Types::STRING) => {
                let pattern = value.as_str().unwrap_or_default();
                let mut parts = Vec::new();
                for pattern in self.patterns_of(pattern, path, keyword)? {
                    let language =
                        Language::pattern(&pattern).map_err(|reason| problem(path, keyword, reason, "correct it"))?.not();
                    parts.extend(string_part(&language, path, keyword)?);
                }
                parts
            }
            "format" if inside.has(Types::STRING) && value.as_str().is_some_and(has_grammar) => {
                return refuse("cannot be negated");
            }
            "$ref" | "$dynamicRef" | "$recursiveRef" => return refuse("cannot be followed inside of a negation"),
            _ => Vec::new(),
        })
    }

    /// Values of the types that are none of these.
    fn negated_values(&mut self, values: &[Value], inside: Types, path: &str, depth: usize) -> Result<Vec<Value>, Problem> {
        let mut parts = Vec::new();
        let plain = inside.without(values.iter().map(Types::of_value).fold(Types::NONE, Types::or));
        let plain = if plain.and(Types::NUMBER) == inside.and(Types::NUMBER) { plain } else { plain.without(Types::NUMBER) };
        if let (false, Some(keyword)) = (plain.is_empty(), plain.keyword()) {
            parts.push(json!({ "type": keyword }));
        }
        let touched = inside.without(plain);
        if touched.has(Types::BOOLEAN) {
            let left = [true, false].into_iter().filter(|left| !values.contains(&Value::Bool(*left)));
            parts.extend(left.map(|left| json!({ "const": left })));
        }
        if touched.has(Types::STRING) {
            let language = Language::words(values.iter().filter_map(Value::as_str)).not();
            parts.extend(string_part(&language, path, "enum")?);
        }
        if touched.has(Types::NUMBER) {
            parts.extend(gaps(values, touched));
        }
        let arrays = values.iter().filter_map(Value::as_array);
        if let Some(pieces) = exclude(arrays, touched.has(Types::ARRAY), |array| self.negated_array(array, path, depth))? {
            parts.push(pieces);
        }
        let objects = values.iter().filter_map(Value::as_object);
        if let Some(pieces) = exclude(objects, touched.has(Types::OBJECT), |object| self.negated_object(object, path, depth))? {
            parts.push(pieces);
        }
        Ok(parts)
    }

    fn negated_array(&mut self, items: &[Value], path: &str, depth: usize) -> Result<Vec<Value>, Problem> {
        let mut parts = vec![json!({ "type": "array", "minItems": items.len() + 1 })];
        if !items.is_empty() {
            parts.push(json!({ "type": "array", "maxItems": items.len() - 1 }));
        }
        for (index, item) in items.iter().enumerate() {
            let mut prefix = vec![Value::Bool(true); index];
            prefix.push(self.negate(&json!({ "const": item }), Types::ALL, path, depth + 1)?);
            let len = items.len();
            parts.push(json!({ "type": "array", "prefixItems": prefix, "minItems": len, "maxItems": len }));
        }
        Ok(parts)
    }

    fn negated_object(&mut self, fields: &Map<String, Value>, path: &str, depth: usize) -> Result<Vec<Value>, Problem> {
        let names: Vec<&String> = fields.keys().collect();
        let anything: Map<String, Value> = names.iter().map(|name| (name.to_string(), Value::Bool(true))).collect();
        let more = json!({ "type": "object", "properties": anything, "required": names, "minProperties": names.len() + 1 });
        let mut parts = vec![more];
        for (name, value) in fields {
            parts.push(json!({ "type": "object", "properties": { name: false } }));
            let other = self.negate(&json!({ "const": value }), Types::ALL, path, depth + 1)?;
            parts.push(json!({ "type": "object", "required": [name], "properties": { name: other } }));
        }
        Ok(parts)
    }
}

/// All of the exclusions at once; `None` where the type plays no part.
fn exclude<T>(
    values: impl Iterator<Item = T>,
    is_touched: bool,
    mut negated: impl FnMut(T) -> Result<Vec<Value>, Problem>,
) -> Result<Option<Value>, Problem> {
    if !is_touched {
        return Ok(None);
    }
    let all = values.map(|value| Ok(json!({ "anyOf": negated(value)? }))).collect::<Result<Vec<_>, Problem>>()?;
    Ok(Some(json!({ "allOf": all })))
}

/// Numbers between those that are excluded.
fn gaps(values: &[Value], inside: Types) -> Vec<Value> {
    let mut out: Vec<f64> = values.iter().filter_map(Value::as_f64).collect();
    out.sort_by(f64::total_cmp);
    out.dedup();
    let is_integer = !inside.has(Types::FRACTION);
    if is_integer {
        out.retain(|value| value.fract() == 0.0);
    }
    let name = if is_integer { "integer" } else { "number" };
    let written = |value: f64| if value.fract() == 0.0 && value.abs() < 9e15 { json!(value as i64) } else { json!(value) };
    let edges = [None].into_iter().chain(out.iter().copied().map(Some)).chain([None]).collect::<Vec<_>>();
    let mut parts = Vec::new();
    for pair in edges.windows(2) {
        let mut part = json!({ "type": name });
        if is_integer && matches!(pair, [Some(low), Some(high)] if high - low <= 1.0) {
            continue;
        }
        if let Some(low) = pair[0] {
            part["exclusiveMinimum"] = written(low);
        }
        if let Some(high) = pair[1] {
            part["exclusiveMaximum"] = written(high);
        }
        parts.push(part);
    }
    parts
}

fn string_part(language: &Language, path: &str, keyword: &str) -> Result<Option<Value>, Problem> {
    let large = || problem(path, keyword, "is too large to be negated", "write out what is allowed instead");
    if language.is_empty().ok_or_else(large)? {
        return Ok(None);
    }
    Ok(Some(json!({ "type": "string", "pattern": language.to_pattern().ok_or_else(large)? })))
}

/// Fewer than the least.
fn at_most(only: impl Fn(Types, Value) -> Vec<Value>, types: Types, name: &str, keyword: &str, least: u64) -> Vec<Value> {
    match least.checked_sub(1) {
        None => Vec::new(),
        Some(most) => only(types, json!({ "type": name, keyword: most })),
    }
}

/// A schema for values of these types only.
fn typed(schema: Value, types: Types) -> Value {
    match types.keyword() {
        Some(keyword) if types != Types::ALL => json!({ "type": keyword, "allOf": [schema] }),
        _ => schema,
    }
}

/// Whether an item schema, or a list of them, lets everything pass for sure.
fn asks_nothing(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.iter().all(|item| *item == true || asks_nothing(item)),
        Value::Bool(asks) => *asks,
        _ => false,
    }
}
