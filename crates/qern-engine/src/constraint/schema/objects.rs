//! What a schema says of the properties of objects, as a whole: names, patterns that overlap, and counts, which the engine only keeps
//! where no property is optional.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::document::pointer;
use super::language::Language;
use super::rewrite::{Rewriter, count, problem, short, with_other_types};
use super::types::Types;
use crate::constraint::Problem;

/// Keywords that are done here.
pub(super) const KEYWORDS: [&str; 8] = [
    "properties",
    "patternProperties",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "required",
    "minProperties",
    "maxProperties",
];

/// Branches that a count may be written out in.
const MAX_BRANCHES: usize = 200;
/// Patterns of names that may overlap in one schema.
const MAX_OVERLAPPING: usize = 5;

/// The properties of one schema, rewritten.
struct Shape {
    properties: Map<String, Value>,
    patterns: Vec<(String, Value)>,
    additional: Option<Value>,
    required: Vec<String>,
    min: u64,
    max: Option<u64>,
}

impl Rewriter<'_> {
    /// Writes the keywords of objects to `out`, and what must hold besides to `also`.
    pub(super) fn objects(
        &mut self,
        map: &Map<String, Value>,
        types: Types,
        path: &str,
        out: &mut Map<String, Value>,
        also: &mut Vec<Value>,
    ) {
        match self.shape(map, path) {
            Err(problem) => self.problems.push(problem),
            Ok(shape) if !types.has(Types::OBJECT) => drop(shape),
            Ok(shape) => match counted(&shape, types, path) {
                Err(problem) => self.problems.push(problem),
                Ok(branches) => {
                    let is_written_out = branches.is_some();
                    also.extend(branches.filter(|branches| *branches != Value::Bool(true)));
                    shape.write(is_written_out, out);
                }
            },
        }
    }

    fn shape(&mut self, map: &Map<String, Value>, path: &str) -> Result<Shape, Problem> {
        let mut shape = Shape {
            properties: self.schemas(map, "properties", path)?,
            patterns: Vec::new(),
            additional: None,
            required: required(map, path)?,
            min: map.get("minProperties").map_or(Ok(0), |value| count("minProperties", value, path))?,
            max: map.get("maxProperties").map(|value| count("maxProperties", value, path)).transpose()?,
        };
        let unevaluated = self.document.knows("unevaluatedProperties").then(|| map.get("unevaluatedProperties")).flatten();
        let keyword = if map.contains_key("additionalProperties") { "additionalProperties" } else { "unevaluatedProperties" };
        if let Some(additional) = map.get("additionalProperties").or(unevaluated) {
            shape.additional = Some(self.rewrite(additional, &pointer(path, keyword)));
        }
        let at = pointer(path, "patternProperties");
        for (pattern, schema) in self.schemas(map, "patternProperties", path)? {
            let mut readable = self.patterns_of(&pattern, &at, &pattern)?;
            let pattern = if readable.len() == 1 { readable.swap_remove(0) } else { intersected(&readable, &at, &pattern)? };
            shape.patterns.push((pattern, schema));
        }
        disjoin(&mut shape.patterns, path)?;
        if let Some(names) = map.get("propertyNames").filter(|_| self.document.knows("propertyNames")) {
            self.restrict_names(names, &mut shape, path)?;
        }
        if let Some(most) = shape.max
            && (shape.required.len() as u64 > most || shape.min > most)
        {
            let reason = format!("is {most}, less than what must be there, so nothing is valid");
            return Err(problem(path, "maxProperties", reason, "raise it"));
        }
        Ok(shape)
    }

    fn schemas(&mut self, map: &Map<String, Value>, keyword: &str, path: &str) -> Result<Map<String, Value>, Problem> {
        let at = pointer(path, keyword);
        match map.get(keyword) {
            None => Ok(Map::new()),
            Some(Value::Object(schemas)) => {
                Ok(schemas.iter().map(|(name, schema)| (name.clone(), self.rewrite(schema, &pointer(&at, name)))).collect())
            }
            Some(other) => {
                let reason = format!("must be an object of schemas; given {}", short(other));
                Err(problem(path, keyword, reason, "as in `{\"name\": {\"type\": \"string\"}}`"))
            }
        }
    }

    /// `propertyNames`: names that it forbids are forbidden one by one, the others by a pattern.
    fn restrict_names(&mut self, names: &Value, shape: &mut Shape, path: &str) -> Result<(), Problem> {
        let Some(allowed) = self.name_language(names, &pointer(path, "propertyNames"), 0)? else { return Ok(()) };
        let unclear =
            || problem(path, "propertyNames", "is too large to be combined with the other names", "use a shorter pattern");
        for (name, schema) in &mut shape.properties {
            if !allowed.contains(name).ok_or_else(unclear)? {
                *schema = Value::Bool(false);
            }
        }
        for name in &shape.required {
            if !allowed.contains(name).ok_or_else(unclear)? {
                let reason = format!("forbids `{name}`, which is required, so nothing is valid");
                return Err(problem(path, "propertyNames", reason, "drop one of them"));
            }
        }
        let mut left = allowed.clone();
        let mut patterns = Vec::new();
        for (pattern, schema) in &shape.patterns {
            let named = Language::pattern(pattern).map_err(|reason| problem(path, "patternProperties", reason, "correct it"))?;
            left = left.and(named.clone().not());
            let both = named.and(allowed.clone());
            if !both.is_empty().ok_or_else(unclear)? {
                patterns.push((both.to_pattern().ok_or_else(unclear)?, schema.clone()));
            }
        }
        if shape.additional != Some(Value::Bool(false)) {
            if !shape.properties.is_empty() {
                left = left.and(Language::words(shape.properties.keys().map(String::as_str)).not());
            }
            if !left.is_empty().ok_or_else(unclear)? {
                patterns.push((left.to_pattern().ok_or_else(unclear)?, shape.additional.clone().unwrap_or(Value::Bool(true))));
            }
        }
        shape.patterns = patterns;
        shape.additional = Some(Value::Bool(false));
        Ok(())
    }

    /// The strings that a schema for names allows; `None` if it allows all.
    fn name_language(&mut self, schema: &Value, path: &str, depth: usize) -> Result<Option<Language>, Problem> {
        let refuse = |keyword: &str| problem(path, keyword, "cannot be kept for names of properties", "use `pattern` or `enum`");
        let map = match schema {
            Value::Bool(true) => return Ok(None),
            Value::Bool(false) => return Ok(Some(Language::words([""]).and(Language::length(1, None)))),
            Value::Object(map) if depth < 16 => map,
            _ => return Err(refuse("propertyNames")),
        };
        let mut all: Option<Language> = None;
        let mut also = |language: Language| all = Some(all.take().map_or(language.clone(), |known| known.and(language)));
        if !Types::of_keyword(map.get("type")).has(Types::STRING) {
            also(Language::words([""]).and(Language::length(1, None)));
        }
        for (keyword, value) in map {
            match keyword.as_str() {
                "$ref" => {
                    let reference = value.as_str().ok_or_else(|| refuse(keyword))?;
                    let target = self.document.resolve(reference).map_err(|_| refuse(keyword))?;
                    if let Some(language) = self.name_language(target.schema, &target.path, depth + 1)? {
                        also(language);
                    }
                }
                "pattern" => {
                    for pattern in self.patterns_of(value.as_str().unwrap_or_default(), path, keyword)? {
                        also(Language::pattern(&pattern).map_err(|reason| problem(path, keyword, reason, "correct it"))?);
                    }
                }
                "enum" => also(Language::words(value.as_array().into_iter().flatten().filter_map(Value::as_str))),
                "const" => also(Language::words(value.as_str())),
                "minLength" => also(Language::length(count(keyword, value, path)? as usize, None)),
                "maxLength" => also(Language::length(0, Some(count(keyword, value, path)? as usize))),
                "not" => {
                    let inner = self.name_language(value, &pointer(path, keyword), depth + 1)?;
                    also(inner.map_or(Language::words([""]).and(Language::length(1, None)), Language::not));
                }
                "allOf" | "anyOf" => {
                    let at = pointer(path, keyword);
                    let mut any: Option<Language> = None;
                    let mut allows_all = false;
                    for (id, branch) in value.as_array().into_iter().flatten().enumerate() {
                        match (self.name_language(branch, &pointer(&at, &id.to_string()), depth + 1)?, keyword.as_str()) {
                            (Some(language), "allOf") => also(language),
                            (Some(language), _) => any = Some(any.take().map_or(language.clone(), |known| known.or(language))),
                            (None, _) => allows_all = true,
                        }
                    }
                    if let Some(any) = any.filter(|_| !allows_all) {
                        also(any);
                    }
                }
                "format" if value.as_str().is_some_and(super::rewrite::has_grammar) => {
                    return Err(refuse(keyword));
                }
                "oneOf" | "if" => return Err(refuse(keyword)),
                _ => {}
            }
        }
        Ok(all)
    }
}

impl Shape {
    fn write(self, is_counted: bool, out: &mut Map<String, Value>) {
        if !self.properties.is_empty() {
            out.insert("properties".into(), Value::Object(self.properties));
        }
        if !self.patterns.is_empty() {
            out.insert("patternProperties".into(), Value::Object(self.patterns.into_iter().collect()));
        }
        if let Some(additional) = self.additional {
            out.insert("additionalProperties".into(), additional);
        }
        if !self.required.is_empty() {
            out.insert("required".into(), json!(self.required));
        }
        if !is_counted && self.min > 0 {
            out.insert("minProperties".into(), json!(self.min));
        }
        if let Some(max) = self.max.filter(|_| !is_counted) {
            out.insert("maxProperties".into(), json!(max));
        }
    }
}

fn required(map: &Map<String, Value>, path: &str) -> Result<Vec<String>, Problem> {
    let wrong = |given: &Value| {
        let fix = "list the names of required properties in the schema of the object, as in `\"required\": [\"a\", \"b\"]`";
        problem(path, "required", format!("must be a list of names; given {}", short(given)), fix)
    };
    let Some(value) = map.get("required") else { return Ok(Vec::new()) };
    let names = value.as_array().ok_or_else(|| wrong(value))?;
    let mut seen = BTreeSet::new();
    let mut all = Vec::with_capacity(names.len());
    for name in names {
        let name = name.as_str().ok_or_else(|| wrong(name))?;
        if seen.insert(name) {
            all.push(name.to_string());
        }
    }
    Ok(all)
}

/// Branches that write a count out where the engine does not count: each says which optional properties are there and which not.
/// `None` where it can be left as it is.
fn counted(shape: &Shape, types: Types, path: &str) -> Result<Option<Value>, Problem> {
    let is_closed = shape.additional == Some(Value::Bool(false)) && shape.patterns.iter().all(|(_, s)| *s == Value::Bool(false));
    let is_optional = |name: &&String| !shape.required.contains(name) && shape.properties[*name] != Value::Bool(false);
    let optional: Vec<&String> = shape.properties.keys().filter(is_optional).collect();
    let certain = shape.required.len() as u64;
    let least = shape.min.saturating_sub(certain);
    let most = shape.max.map(|max| max - certain).filter(|&most| !is_closed || most < optional.len() as u64);
    if is_closed && least > optional.len() as u64 {
        let reason = format!("is {}, more than can be there, so nothing is valid", shape.min);
        return Err(problem(path, "minProperties", reason, "lower it"));
    }
    if optional.is_empty() {
        return Ok(None);
    }
    if least == 0 && most.is_none() {
        // What it asks holds anyway: `write` leaves it out.
        return Ok((shape.min > 0 || shape.max.is_some()).then_some(Value::Bool(true)));
    }
    let mut branches = Vec::new();
    let mut walk = Walk { shape, optional: &optional, is_closed, branches: &mut branches };
    if !walk.go(0, &mut Vec::new(), least, most) {
        let keyword = if least > 0 { "minProperties" } else { "maxProperties" };
        let reason = format!("over {} optional properties takes more than {MAX_BRANCHES} cases", optional.len());
        return Err(problem(path, keyword, reason, "make more of them required, or drop the count and check it afterwards"));
    }
    Ok(Some(with_other_types(branches, types)))
}

/// The decision tree over optional properties.
struct Walk<'a> {
    shape: &'a Shape,
    optional: &'a [&'a String],
    is_closed: bool,
    branches: &'a mut Vec<Value>,
}

impl Walk<'_> {
    /// Decides on the properties from `place` on; false when the branches become too many.
    fn go(&mut self, place: usize, taken: &mut Vec<bool>, least: u64, most: Option<u64>) -> bool {
        let left = (self.optional.len() - place) as u64;
        if self.is_closed && least > left {
            return true;
        }
        if self.branches.len() >= MAX_BRANCHES {
            return false;
        }
        let is_decided = place == self.optional.len() || most == Some(0);
        if is_decided || least == 0 && most.is_none_or(|most| self.is_closed && most >= left) {
            let (least, most) = if is_decided { (least, most) } else { (0, None) };
            if most == Some(0) {
                taken.resize(self.optional.len(), false);
            }
            self.push(taken, least, most);
            taken.truncate(place);
            return true;
        }
        for (is_taken, by) in [(true, 1), (false, 0)] {
            taken.push(is_taken);
            let goes_on = self.go(place + 1, taken, least.saturating_sub(by), most.map(|most| most - by));
            taken.truncate(place);
            if !goes_on {
                return false;
            }
        }
        true
    }

    fn push(&mut self, taken: &[bool], least: u64, most: Option<u64>) {
        let named = || self.optional.iter().zip(taken);
        let absent: Map<String, Value> =
            named().filter(|(_, taken)| !**taken).map(|(name, _)| (name.to_string(), Value::Bool(false))).collect();
        let present: Vec<&String> = named().filter(|(_, taken)| **taken).map(|(name, _)| *name).collect();
        let mut branch = json!({ "type": "object" });
        if !absent.is_empty() {
            branch["properties"] = Value::Object(absent);
        }
        let certain = (self.shape.required.len() + present.len()) as u64;
        if !present.is_empty() {
            branch["required"] = json!(present);
        }
        if least > 0 {
            branch["minProperties"] = json!(certain + least);
        }
        if let Some(most) = most.filter(|_| !self.is_closed) {
            branch["maxProperties"] = json!(certain + most);
        }
        self.branches.push(branch);
    }
}

/// Patterns of which a name may match several, as ones of which it matches one: what they have in common, and what not.
fn disjoin(patterns: &mut Vec<(String, Value)>, path: &str) -> Result<(), Problem> {
    let at = pointer(path, "patternProperties");
    let read = |pattern: &str| Language::pattern(pattern).map_err(|reason| problem(&at, pattern, reason, "correct it"));
    let languages = patterns.iter().map(|(pattern, _)| read(pattern)).collect::<Result<Vec<_>, _>>()?;
    let overlaps = |one: usize, two: usize| one != two && !languages[one].is_disjoint(&languages[two]);
    let involved: Vec<usize> = (0..patterns.len()).filter(|&one| (0..patterns.len()).any(|two| overlaps(one, two))).collect();
    if involved.is_empty() {
        return Ok(());
    }
    let refuse = || {
        let fix = "make the patterns exclude each other";
        problem(path, "patternProperties", "has patterns that overlap in too many ways", fix)
    };
    if involved.len() > MAX_OVERLAPPING {
        return Err(refuse());
    }
    let mut separate: Vec<(String, Value)> =
        patterns.iter().enumerate().filter(|(id, _)| !involved.contains(id)).map(|(_, pattern)| pattern.clone()).collect();
    for chosen in 1..1_usize << involved.len() {
        let is_in = |bit: usize| chosen >> bit & 1 == 1;
        let mut language: Option<Language> = None;
        let mut schemas = Vec::new();
        for (bit, &id) in involved.iter().enumerate() {
            let part = if is_in(bit) { languages[id].clone() } else { languages[id].clone().not() };
            language = Some(language.map_or(part.clone(), |known| known.and(part)));
            if is_in(bit) {
                schemas.push(patterns[id].1.clone());
            }
        }
        let Some(language) = language else { continue };
        if language.is_empty().ok_or_else(refuse)? {
            continue;
        }
        let schema = if schemas.len() == 1 { schemas.swap_remove(0) } else { json!({ "allOf": schemas }) };
        separate.push((language.to_pattern().ok_or_else(refuse)?, schema));
    }
    *patterns = separate;
    Ok(())
}

/// One pattern for what all of them match.
fn intersected(patterns: &[String], path: &str, keyword: &str) -> Result<String, Problem> {
    let refuse = |reason: &str| problem(path, keyword, reason, "write it without look-around");
    let mut all: Option<Language> = None;
    for pattern in patterns {
        let language = Language::pattern(pattern).map_err(|reason| refuse(&reason))?;
        all = Some(all.map_or(language.clone(), |known: Language| known.and(language)));
    }
    all.and_then(|all| all.to_pattern()).ok_or_else(|| refuse("is too large to be kept"))
}
