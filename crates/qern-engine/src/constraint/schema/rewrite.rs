//! A schema in any draft to one that the engine keeps to the letter: the same values are valid by both. What has no such form becomes a
//! `Problem`. The rules for objects, arrays, negation and overlapping branches are in files of their own.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::document::{Document, pointer};
use super::language::Language;
use super::types::Types;
use crate::constraint::Problem;

/// Schemas visited before a schema counts as too large.
const MAX_WORK: usize = 60_000;
/// Formats that the engine has a grammar for.
const FORMATS: [&str; 10] = ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// Formats of the specification that are regular, or nearly: what they cannot hold is kept out.
const PATTERNS: [(&str, &str); 5] = [
    ("iri", r#"^[a-zA-Z][a-zA-Z0-9+.\-]*:[^\x00-\x20<>"{}|\\\^`]*$"#),
    ("iri-reference", r#"^[^\x00-\x20<>"{}|\\\^`]*$"#),
    ("uri-reference", r##"^[!#-;=?-\[\]_a-z~]*$"##),
    ("json-pointer", "^(/([^/~]|~[01])*)*$"),
    ("relative-json-pointer", "^(0|[1-9][0-9]*)(#|(/([^/~]|~[01])*)*)$"),
];

pub(super) struct Rewriter<'a> {
    pub(super) document: Document<'a>,
    /// Places that references lead to, and their number.
    numbers: BTreeMap<String, usize>,
    pending: Vec<(String, &'a Value)>,
    pub(super) problems: Vec<Problem>,
    pub(super) notes: BTreeSet<String>,
    work: usize,
}

/// Whether a format is checked; the others describe.
pub(super) fn has_grammar(format: &str) -> bool {
    FORMATS.contains(&format) || PATTERNS.iter().any(|(name, _)| *name == format)
}

/// Words a `Problem` for a place.
pub(super) fn problem(path: &str, keyword: &str, reason: impl Into<String>, fix: impl Into<String>) -> Problem {
    Problem { path: path.into(), keyword: keyword.into(), reason: reason.into(), fix: fix.into() }
}

impl<'a> Rewriter<'a> {
    pub(super) fn new(root: &'a Value) -> Self {
        let document = Document::new(root);
        let (problems, notes) = (Vec::new(), BTreeSet::new());
        Self { document, numbers: BTreeMap::new(), pending: Vec::new(), problems, notes, work: 0 }
    }

    /// The schema at a place with all that it refers to.
    pub(super) fn run(&mut self, schema: &'a Value, path: &str) -> Value {
        let mut root = self.rewrite(schema, path);
        let mut definitions = Map::new();
        while let Some((path, schema)) = self.pending.pop() {
            let number = self.numbers.get(&path).copied().unwrap_or_default();
            let rewritten = self.rewrite(schema, &path);
            definitions.insert(format!("r{number}"), rewritten);
        }
        if let (Value::Object(root), false) = (&mut root, definitions.is_empty()) {
            root.insert("$defs".into(), Value::Object(definitions));
        }
        root
    }

    pub(super) fn rewrite(&mut self, schema: &Value, path: &str) -> Value {
        self.work += 1;
        if self.work > MAX_WORK {
            if self.work == MAX_WORK + 1 {
                let fix = "split it, or drop branches that an answer never takes";
                self.problems.push(problem(path, "$schema", format!("is of more than {MAX_WORK} parts once written out"), fix));
            }
            return Value::Bool(true);
        }
        match schema {
            Value::Bool(_) => schema.clone(),
            Value::Object(map) => self.rewrite_map(map, path),
            other => {
                let keyword = path.rsplit('/').next().unwrap_or_default();
                let reason = format!("must be a schema: an object, true or false; given {}", short(other));
                self.problems.push(problem(path, keyword, reason, "write `true` for anything"));
                Value::Bool(true)
            }
        }
    }

    /// Keeps the value of a fallible rewriting, or its problem.
    pub(super) fn keep(&mut self, result: Result<Value, Problem>) -> Value {
        result.unwrap_or_else(|problem| {
            self.problems.push(problem);
            Value::Bool(true)
        })
    }

    fn rewrite_map(&mut self, map: &Map<String, Value>, path: &str) -> Value {
        if map.contains_key("$ref") && self.document.references_stand_alone() {
            if map.keys().any(|keyword| is_assertion(keyword)) {
                self.note(path, "what stands beside `$ref` counts for nothing before draft 2019-09");
            }
            let reference = self.reference(&map["$ref"], path);
            return self.keep(reference);
        }
        let types = Types::of_keyword(map.get("type"));
        let (mut out, mut also) = (Map::new(), Vec::new());
        // The order of properties in an answer follows that of the keywords, so it stays.
        let names_at = map.keys().position(|key| matches!(key.as_str(), "properties" | "additionalProperties"));
        let objects_at = names_at.or_else(|| map.keys().position(|key| super::objects::KEYWORDS.contains(&key.as_str())));
        let arrays_at = map.keys().position(|key| super::arrays::KEYWORDS.contains(&key.as_str()));
        for (place, (keyword, value)) in map.iter().enumerate() {
            if Some(place) == objects_at {
                self.objects(map, types, path, &mut out, &mut also);
            }
            if Some(place) == arrays_at {
                self.arrays(map, types, path, &mut out, &mut also);
            }
            if !self.document.knows(keyword) {
                self.note(path, &format!("`{keyword}` is not a keyword of this draft and says nothing"));
                continue;
            }
            if let Err(problem) = self.keyword(keyword, value, map, path, &mut out, &mut also) {
                self.problems.push(problem);
            }
        }
        if !also.is_empty() {
            let all_of = out.entry("allOf").or_insert_with(|| json!([]));
            all_of.as_array_mut().into_iter().for_each(|all_of| all_of.append(&mut also));
        }
        Value::Object(out)
    }

    fn keyword(
        &mut self,
        keyword: &str,
        value: &Value,
        map: &Map<String, Value>,
        path: &str,
        out: &mut Map<String, Value>,
        also: &mut Vec<Value>,
    ) -> Result<(), Problem> {
        let at = pointer(path, keyword);
        let types = Types::of_keyword(map.get("type"));
        match keyword {
            "$ref" => _ = out.insert(keyword.into(), self.reference_text(value, path)?),
            "$dynamicRef" | "$recursiveRef" if value == "#" && !mentions(self.document.root, "$recursiveAnchor") => {
                also.push(self.reference(value, path)?);
            }
            "$dynamicRef" | "$recursiveRef" => {
                return Err(problem(path, keyword, "is not supported", "write the schema out, or use `$ref`"));
            }
            "type" => _ = out.insert(keyword.into(), self.type_keyword(value, path)?),
            "enum" => {
                let values =
                    value.as_array().ok_or_else(|| problem(path, keyword, "must be a list", "put the values in [...]"))?;
                // Values of other types, and doubles, would cost the grammar branches that cannot be taken.
                let mut kept: Vec<&Value> = Vec::with_capacity(values.len());
                let mut seen = BTreeSet::new();
                for value in values.iter().filter(|value| types.has(Types::of_value(value))) {
                    if seen.insert(value.to_string()) {
                        kept.push(value);
                    }
                }
                if kept.is_empty() {
                    // Where the value is optional, the answer can do without.
                    self.note(path, "`enum` lists no value of the type beside it, so nothing is valid there");
                    also.push(Value::Bool(false));
                } else if kept.iter().any(|value| has_whole_float(value)) {
                    also.push(json!({ "anyOf": kept.into_iter().map(spelled_out).collect::<Vec<_>>() }));
                } else {
                    out.insert(keyword.into(), json!(kept));
                }
            }
            "const" if has_whole_float(value) => also.push(spelled_out(value)),
            "const" => _ = out.insert(keyword.into(), value.clone()),
            "allOf" | "anyOf" => {
                let branches = self.branches(keyword, value, path)?;
                let written: Vec<Value> = branches
                    .iter()
                    .enumerate()
                    .map(|(id, branch)| self.rewrite(branch, &pointer(&at, &id.to_string())))
                    .collect();
                out.insert(keyword.into(), Value::Array(written));
            }
            "oneOf" => {
                let written = self.one_of(value, map, path)?;
                if map.contains_key("anyOf") {
                    also.push(json!({ "anyOf": written }));
                } else {
                    out.insert("anyOf".into(), Value::Array(written));
                }
            }
            "not" => {
                let types = self.types_beside(map, "not");
                also.push(self.negate(value, types, &at, 0)?);
            }
            "if" => {
                let types = self.types_beside(map, "if");
                also.extend(self.conditional(map, types, path)?);
            }
            "dependencies" | "dependentRequired" | "dependentSchemas" => {
                self.dependencies(keyword, value, types, path, also)?;
            }
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => bound(keyword, value, map, path, out)?,
            "multipleOf" => {
                if value.as_f64().is_none_or(|value| value <= 0.0) {
                    return Err(problem(
                        path,
                        keyword,
                        format!("must be a number above 0; given {}", short(value)),
                        "correct it",
                    ));
                }
                out.insert(keyword.into(), value.clone());
            }
            "minLength" | "maxLength" => _ = out.insert(keyword.into(), count(keyword, value, path)?.into()),
            "pattern" => self.pattern(value, path, out, also)?,
            "format" => self.format(value, types, path, out, also)?,
            "unevaluatedProperties" | "unevaluatedItems" if *value == true => {}
            "unevaluatedProperties" | "unevaluatedItems" => self.unevaluated(keyword, map, path)?,
            // Objects and arrays are done as a whole; the rest describes.
            _ => {}
        }
        Ok(())
    }

    /// The types that the rest of a schema allows.
    fn types_beside(&self, map: &Map<String, Value>, keyword: &str) -> Types {
        let mut beside = map.clone();
        beside.remove(keyword);
        self.document.types_of(&Value::Object(beside))
    }

    fn note(&mut self, path: &str, text: &str) {
        self.notes.insert(if path.is_empty() { format!("at the root: {text}") } else { format!("at {path}: {text}") });
    }

    fn type_keyword(&mut self, value: &Value, path: &str) -> Result<Value, Problem> {
        let names = match value {
            Value::String(_) => std::slice::from_ref(value),
            Value::Array(names) if !names.is_empty() => names.as_slice(),
            _ => return Err(problem(path, "type", "must be a name or a list of names", "as in `\"type\": \"string\"`")),
        };
        for name in names {
            if name.as_str().and_then(Types::named).is_none() {
                let reason = format!("has no {}", short(name));
                let fix = "the types are null, boolean, integer, number, string, array and object; leave it out for any";
                return Err(problem(path, "type", reason, fix));
            }
        }
        let types = Types::of_keyword(Some(value));
        Ok(types.keyword().unwrap_or_else(|| value.clone()))
    }

    pub(super) fn branches<'v>(&self, keyword: &str, value: &'v Value, path: &str) -> Result<&'v [Value], Problem> {
        match value.as_array() {
            Some(branches) if !branches.is_empty() => Ok(branches),
            _ => Err(problem(path, keyword, "must be a list of at least one schema", "leave it out if it asks nothing")),
        }
    }

    /// The target's new name.
    fn reference_text(&mut self, value: &Value, path: &str) -> Result<Value, Problem> {
        let wrong = |reason: String| problem(path, "$ref", reason, "refer to a part of this schema, as in `#/$defs/name`");
        let reference = value.as_str().ok_or_else(|| wrong(format!("must be a text; given {}", short(value))))?;
        let target = self.document.resolve(reference).map_err(wrong)?;
        self.check_cycle(target.schema, path)?;
        let fresh = self.numbers.len();
        let number = *self.numbers.entry(target.path.clone()).or_insert_with(|| {
            self.pending.push((target.path, target.schema));
            fresh
        });
        Ok(format!("#/$defs/r{number}").into())
    }

    fn reference(&mut self, value: &Value, path: &str) -> Result<Value, Problem> {
        Ok(json!({ "$ref": self.reference_text(value, path)? }))
    }

    /// A reference that leads to nothing but references in a circle describes nothing.
    fn check_cycle(&self, mut schema: &'a Value, path: &str) -> Result<(), Problem> {
        for _ in 0..64 {
            let Some(next) = schema.get("$ref").and_then(Value::as_str) else { return Ok(()) };
            match self.document.resolve(next) {
                Ok(target) => schema = target.schema,
                Err(_) => return Ok(()),
            }
        }
        Err(problem(path, "$ref", "leads round in a circle", "let one of them say what the value is"))
    }

    fn pattern(&mut self, value: &Value, path: &str, out: &mut Map<String, Value>, also: &mut Vec<Value>) -> Result<(), Problem> {
        let pattern = value.as_str().ok_or_else(|| problem(path, "pattern", "must be a text", "give a regular expression"))?;
        let mut written = self.patterns_of(pattern, path, "pattern")?;
        out.insert("pattern".into(), written.swap_remove(0).into());
        // They say nothing of values that are no strings, so they can stand apart.
        also.extend(written.into_iter().map(|pattern| json!({ "pattern": pattern })));
        Ok(())
    }

    /// Patterns in the engine's syntax that together mean this one of ECMA 262: at least one.
    pub(super) fn patterns_of(&mut self, pattern: &str, path: &str, keyword: &str) -> Result<Vec<String>, Problem> {
        if Language::pattern(pattern).is_ok() {
            return Ok(vec![pattern.into()]);
        }
        super::ecma::patterns(pattern).map_err(|reason| {
            let fix = "write it without look-around, back-references and word boundaries";
            problem(path, keyword, format!("{} cannot be kept: {reason}", short(&pattern.into())), fix)
        })
    }

    fn format(
        &mut self,
        value: &Value,
        types: Types,
        path: &str,
        out: &mut Map<String, Value>,
        also: &mut Vec<Value>,
    ) -> Result<(), Problem> {
        let format = value.as_str().ok_or_else(|| problem(path, "format", "must be a text", "as in `\"format\": \"date\"`"))?;
        if FORMATS.contains(&format) {
            if types.has(Types::STRING) {
                out.insert("format".into(), value.clone());
            }
        } else if let Some(pattern) = PATTERNS.iter().find(|(name, _)| *name == format).map(|(_, pattern)| *pattern) {
            if types.has(Types::STRING) {
                also.push(json!({ "pattern": pattern }));
            }
        } else {
            self.note(path, &format!("the format `{format}` is taken as a description, not checked"));
        }
        Ok(())
    }

    /// Without branches beside it, what is not evaluated is what is not named.
    fn unevaluated(&mut self, keyword: &str, map: &Map<String, Value>, path: &str) -> Result<(), Problem> {
        let applicators =
            ["allOf", "anyOf", "oneOf", "not", "if", "$ref", "dependentSchemas", "dependencies", "$dynamicRef", "contains"];
        match applicators.iter().find(|applicator| map.contains_key(**applicator)) {
            None => Ok(()),
            Some(applicator) => {
                let instead = keyword.replace("unevaluated", "additional").replace("additionalItems", "items");
                let fix = format!("list everything in one place and use `{instead}`");
                Err(problem(path, keyword, format!("is not supported beside `{applicator}`"), fix))
            }
        }
    }

    fn conditional(&mut self, map: &Map<String, Value>, types: Types, path: &str) -> Result<Option<Value>, Problem> {
        let (then, otherwise) = (map.get("then"), map.get("else"));
        if then.is_none() && otherwise.is_none() {
            return Ok(None);
        }
        let condition = self.rewrite(&map["if"], &pointer(path, "if"));
        let negated = self.negate(&map["if"], types, &pointer(path, "if"), 0)?;
        let mut branch = |condition: Value, keyword: &str, consequence: Option<&Value>| match consequence {
            Some(consequence) => json!({ "allOf": [condition, self.rewrite(consequence, &pointer(path, keyword))] }),
            None => condition,
        };
        let branches = [branch(condition, "then", then), branch(negated, "else", otherwise)];
        Ok(Some(json!({ "anyOf": branches })))
    }

    fn dependencies(
        &mut self,
        keyword: &str,
        value: &Value,
        types: Types,
        path: &str,
        also: &mut Vec<Value>,
    ) -> Result<(), Problem> {
        let at = pointer(path, keyword);
        let wrong = || problem(path, keyword, "must be an object of lists of names or of schemas", "as in `{\"a\": [\"b\"]}`");
        for (name, dependency) in value.as_object().ok_or_else(wrong)? {
            let at = pointer(&at, name);
            let present = match dependency {
                Value::Array(names) if keyword != "dependentSchemas" => {
                    let names: BTreeSet<&str> =
                        names.iter().map(|name| name.as_str().ok_or_else(wrong)).collect::<Result<_, _>>()?;
                    let others = names.into_iter().filter(|other| other != name);
                    let all: Vec<&str> = [name.as_str()].into_iter().chain(others).collect();
                    json!({ "type": "object", "required": all })
                }
                _ if keyword == "dependentRequired" => return Err(wrong()),
                schema => {
                    let schema = self.rewrite(schema, &at);
                    json!({ "type": "object", "required": [name], "allOf": [schema] })
                }
            };
            let absent = json!({ "type": "object", "properties": { name: false } });
            also.push(with_other_types(vec![absent, present], types));
        }
        Ok(())
    }
}

/// Branches for objects, and one for whatever else is allowed.
pub(super) fn with_other_types(mut branches: Vec<Value>, types: Types) -> Value {
    let others = types.without(Types::OBJECT);
    if let (false, Some(others)) = (others.is_empty(), others.keyword()) {
        branches.push(json!({ "type": others }));
    }
    json!({ "anyOf": branches })
}

/// Whether a number such as 2.0 is in it, which the engine would only let be written 2.
fn has_whole_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            number.is_f64() && number.as_f64().is_some_and(|number| number.fract() == 0.0 && number.abs() < 1e15)
        }
        Value::Array(items) => items.iter().any(has_whole_float),
        Value::Object(map) => map.values().any(has_whole_float),
        _ => false,
    }
}

/// A schema for one value, whose numbers may have zeros after the point.
fn spelled_out(value: &Value) -> Value {
    match value {
        Value::Number(number) if has_whole_float(value) => {
            let whole = number.as_f64().unwrap_or_default();
            let (low, high) = if whole < 0.0 { (whole - 0.1, whole) } else { (whole, whole + 0.1) };
            let [open, closed] = if whole < 0.0 { ["exclusiveMinimum", "maximum"] } else { ["exclusiveMaximum", "minimum"] };
            let [open_at, closed_at] = if whole < 0.0 { [low, high] } else { [high, low] };
            json!({ "type": "number", open: open_at, closed: closed_at, "multipleOf": 0.1 })
        }
        Value::Array(items) if has_whole_float(value) => {
            let len = items.len();
            let prefix: Vec<Value> = items.iter().map(spelled_out).collect();
            json!({ "type": "array", "prefixItems": prefix, "items": false, "minItems": len, "maxItems": len })
        }
        Value::Object(map) if has_whole_float(value) => {
            let properties: Map<String, Value> = map.iter().map(|(name, value)| (name.clone(), spelled_out(value))).collect();
            let names: Vec<&String> = map.keys().collect();
            json!({ "type": "object", "properties": properties, "required": names, "additionalProperties": false })
        }
        simple => json!({ "const": simple }),
    }
}

/// A bound in the form of draft 6 and later.
fn bound(
    keyword: &str,
    value: &Value,
    map: &Map<String, Value>,
    path: &str,
    out: &mut Map<String, Value>,
) -> Result<(), Problem> {
    let plain = if keyword.ends_with("inimum") { "minimum" } else { "maximum" };
    let exclusive = if plain == "minimum" { "exclusiveMinimum" } else { "exclusiveMaximum" };
    match value {
        Value::Bool(_) if keyword == exclusive => Ok(()),
        Value::Number(_) => {
            let is_out = keyword == plain && map.get(exclusive) == Some(&Value::Bool(true));
            out.insert(if is_out { exclusive } else { keyword }.into(), value.clone());
            Ok(())
        }
        _ => Err(problem(path, keyword, format!("must be a number; given {}", short(value)), "correct it")),
    }
}

/// A count, which may be written as 3.0.
pub(super) fn count(keyword: &str, value: &Value, path: &str) -> Result<u64, Problem> {
    let whole = value.as_f64().filter(|count| count.fract() == 0.0 && *count >= 0.0 && *count < 9e15);
    let whole = value.as_u64().or(whole.map(|count| count as u64));
    whole.ok_or_else(|| problem(path, keyword, format!("must be a whole number from 0; given {}", short(value)), "correct it"))
}

/// A value for an error message.
pub(super) fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { text.chars().take(57).chain("...".chars()).collect() }
}

fn is_assertion(keyword: &str) -> bool {
    const DESCRIBE: [&str; 14] = [
        "$ref",
        "$schema",
        "$id",
        "id",
        "$comment",
        "$defs",
        "definitions",
        "title",
        "description",
        "default",
        "examples",
        "readOnly",
        "writeOnly",
        "deprecated",
    ];
    !DESCRIBE.contains(&keyword)
}

fn mentions(value: &Value, keyword: &str) -> bool {
    match value {
        Value::Object(map) => map.contains_key(keyword) || map.values().any(|value| mentions(value, keyword)),
        Value::Array(items) => items.iter().any(|item| mentions(item, keyword)),
        _ => false,
    }
}
