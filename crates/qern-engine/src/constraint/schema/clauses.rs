//! Whether two schemas can both hold of one value. A schema becomes clauses, one for each way to satisfy it, which ask no more than
//! the schema does; so when all clauses of two schemas exclude each other, the schemas do. What is not understood asks nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::document::{Document, Draft};
use super::language::Language;
use super::types::Types;

const MAX_CLAUSES: usize = 48;
const MAX_DEPTH: usize = 12;

/// Everything one way of satisfying a schema asks.
#[derive(Clone)]
struct Clause {
    types: Types,
    /// One of these, if any are listed.
    values: Option<Vec<Value>>,
    strings: Option<Language>,
    min: f64,
    min_is_out: bool,
    max: f64,
    max_is_out: bool,
    min_items: u64,
    max_items: u64,
    prefix: Vec<Vec<Value>>,
    properties: BTreeMap<String, Vec<Value>>,
    /// Of each schema that restricts them: names and patterns that are not additional, and what holds of the rest.
    additional: Vec<(BTreeSet<String>, Vec<String>, Value)>,
    patterns: Vec<(String, Value)>,
    required: BTreeSet<String>,
}

impl Default for Clause {
    fn default() -> Self {
        Self {
            types: Types::ALL,
            values: None,
            strings: None,
            min: f64::NEG_INFINITY,
            min_is_out: false,
            max: f64::INFINITY,
            max_is_out: false,
            min_items: 0,
            max_items: u64::MAX,
            prefix: Vec::new(),
            properties: BTreeMap::new(),
            additional: Vec::new(),
            patterns: Vec::new(),
            required: BTreeSet::new(),
        }
    }
}

impl Document<'_> {
    /// Whether no value satisfies both, for sure.
    pub(super) fn are_disjoint(&self, a: &Value, b: &Value) -> bool {
        self.disjoint(a, b, 0)
    }

    /// The types that values of a schema can have, at most.
    pub(super) fn types_of(&self, schema: &Value) -> Types {
        self.clauses(schema, 0).iter().map(|clause| clause.types).fold(Types::NONE, Types::or)
    }

    fn disjoint(&self, a: &Value, b: &Value, depth: usize) -> bool {
        if depth > MAX_DEPTH {
            return false;
        }
        let (a, b) = (self.clauses(a, depth), self.clauses(b, depth));
        a.iter().all(|a| b.iter().all(|b| self.clauses_disjoint(a, b, depth)))
    }

    fn clauses(&self, schema: &Value, depth: usize) -> Vec<Clause> {
        match schema {
            Value::Bool(false) => Vec::new(),
            Value::Object(map) if depth <= MAX_DEPTH => self.clauses_of(map, depth),
            _ => vec![Clause::default()],
        }
    }

    fn clauses_of(&self, map: &Map<String, Value>, depth: usize) -> Vec<Clause> {
        let reference = map.get("$ref").and_then(Value::as_str);
        let target = reference.and_then(|reference| self.resolve(reference).ok());
        if let Some(target) = &target
            && self.references_stand_alone()
        {
            return self.clauses(target.schema, depth + 1);
        }
        let mut all = vec![self.own_clause(map)];
        let conjuncts = target.iter().map(|target| target.schema).chain(list(map, "allOf"));
        for conjunct in conjuncts {
            all = product(all, self.clauses(conjunct, depth + 1));
        }
        for keyword in ["anyOf", "oneOf"] {
            if map.contains_key(keyword) {
                let options = list(map, keyword).flat_map(|option| self.clauses(option, depth + 1)).collect();
                all = product(all, options);
            }
        }
        all
    }

    fn own_clause(&self, map: &Map<String, Value>) -> Clause {
        let mut clause = Clause { types: Types::of_keyword(map.get("type")), ..Clause::default() };
        if self.knows("const")
            && let Some(value) = map.get("const")
        {
            clause.values = Some(vec![value.clone()]);
        }
        if let Some(Value::Array(values)) = map.get("enum") {
            clause.values = Some(values.clone());
        }
        if let Some(values) = &clause.values {
            clause.types = clause.types.and(values.iter().map(Types::of_value).fold(Types::NONE, Types::or));
        }
        clause.strings = strings(map);
        let number = |keyword: &str| map.get(keyword).and_then(Value::as_f64);
        clause.min = number("minimum").unwrap_or(f64::NEG_INFINITY);
        clause.max = number("maximum").unwrap_or(f64::INFINITY);
        match map.get("exclusiveMinimum") {
            Some(Value::Bool(true)) => clause.min_is_out = true,
            Some(Value::Number(out)) if out.as_f64().is_some_and(|out| out >= clause.min) => {
                (clause.min, clause.min_is_out) = (out.as_f64().unwrap_or(clause.min), true);
            }
            _ => {}
        }
        match map.get("exclusiveMaximum") {
            Some(Value::Bool(true)) => clause.max_is_out = true,
            Some(Value::Number(out)) if out.as_f64().is_some_and(|out| out <= clause.max) => {
                (clause.max, clause.max_is_out) = (out.as_f64().unwrap_or(clause.max), true);
            }
            _ => {}
        }
        clause.min_items = map.get("minItems").and_then(Value::as_u64).unwrap_or(0);
        clause.max_items = map.get("maxItems").and_then(Value::as_u64).unwrap_or(u64::MAX);
        let prefix = match (map.get("prefixItems"), map.get("items")) {
            (_, Some(Value::Array(items))) => items.as_slice(),
            (Some(Value::Array(items)), _) if self.draft == Draft::Twenty => items.as_slice(),
            (_, Some(item @ Value::Object(_))) => std::slice::from_ref(item),
            _ => &[],
        };
        clause.prefix = prefix.iter().map(|item| vec![item.clone()]).collect();
        self.own_object_clause(map, &mut clause);
        clause
    }

    fn own_object_clause(&self, map: &Map<String, Value>, clause: &mut Clause) {
        let object = |keyword: &str| map.get(keyword).and_then(Value::as_object);
        for (name, schema) in object("properties").into_iter().flatten() {
            clause.properties.insert(name.clone(), vec![schema.clone()]);
        }
        clause.patterns = object("patternProperties").into_iter().flatten().map(|(p, s)| (p.clone(), s.clone())).collect();
        if let Some(additional) = map.get("additionalProperties") {
            let names = clause.properties.keys().cloned().collect();
            let patterns = clause.patterns.iter().map(|(pattern, _)| pattern.clone()).collect();
            clause.additional.push((names, patterns, additional.clone()));
        }
        let names = list(map, "required").filter_map(Value::as_str);
        clause.required = names.map(str::to_string).collect();
        // Only one missing name says which one.
        if let Some(not) = map.get("not").and_then(Value::as_object)
            && not.keys().all(|keyword| matches!(keyword.as_str(), "required" | "type"))
            && not.get("type").is_none_or(|name| name == "object")
            && let [name] = list(not, "required").collect::<Vec<_>>().as_slice()
            && let Some(name) = name.as_str()
        {
            clause.properties.entry(name.into()).or_default().push(Value::Bool(false));
        }
    }

    fn clauses_disjoint(&self, a: &Clause, b: &Clause, depth: usize) -> bool {
        let common = a.types.and(b.types);
        if common.is_empty() {
            return true;
        }
        match (&a.values, &b.values) {
            (Some(a), Some(b)) => return !a.iter().any(|a| b.iter().any(|b| equal(a, b))),
            (Some(values), None) => return !values.iter().any(|value| self.may_hold(b, value, depth)),
            (None, Some(values)) => return !values.iter().any(|value| self.may_hold(a, value, depth)),
            (None, None) => {}
        }
        if common.has(Types::NULL.or(Types::BOOLEAN)) {
            return false;
        }
        (!common.has(Types::STRING) || matches!((&a.strings, &b.strings), (Some(a), Some(b)) if a.is_disjoint(b)))
            && (!common.has(Types::NUMBER) || numbers_disjoint(a, b))
            && (!common.has(Types::ARRAY) || self.arrays_disjoint(a, b, depth))
            && (!common.has(Types::OBJECT) || self.objects_disjoint(a, b, depth))
    }

    fn arrays_disjoint(&self, a: &Clause, b: &Clause, depth: usize) -> bool {
        if a.min_items > b.max_items || b.min_items > a.max_items {
            return true;
        }
        let certain = a.min_items.max(b.min_items) as usize;
        a.prefix.iter().zip(&b.prefix).take(certain).any(|(a, b)| self.disjoint(&all_of(a), &all_of(b), depth + 1))
    }

    fn objects_disjoint(&self, a: &Clause, b: &Clause, depth: usize) -> bool {
        a.required.union(&b.required).any(|name| {
            let (a, b) = (self.property(a, name), self.property(b, name));
            self.disjoint(&all_of(&a), &all_of(&b), depth + 1)
        })
    }

    /// What a clause asks of a property.
    fn property(&self, clause: &Clause, name: &str) -> Vec<Value> {
        let matches = |pattern: &str| Language::pattern(pattern).ok().and_then(|pattern| pattern.contains(name));
        let mut all = clause.properties.get(name).cloned().unwrap_or_default();
        all.extend(clause.patterns.iter().filter(|(p, _)| matches(p) == Some(true)).map(|(_, schema)| schema.clone()));
        for (names, patterns, schema) in &clause.additional {
            if !names.contains(name) && patterns.iter().all(|pattern| matches(pattern) == Some(false)) {
                all.push(schema.clone());
            }
        }
        all
    }

    /// Whether the clause may hold of a value; no only for sure.
    fn may_hold(&self, clause: &Clause, value: &Value, depth: usize) -> bool {
        if !clause.types.has(Types::of_value(value)) {
            return false;
        }
        if let Some(values) = &clause.values {
            return values.iter().any(|other| equal(other, value));
        }
        match value {
            Value::String(text) => clause.strings.as_ref().and_then(|strings| strings.contains(text)).unwrap_or(true),
            Value::Number(number) => number.as_f64().is_none_or(|number| {
                (number > clause.min || number == clause.min && !clause.min_is_out)
                    && (number < clause.max || number == clause.max && !clause.max_is_out)
            }),
            Value::Array(items) => (clause.min_items..=clause.max_items).contains(&(items.len() as u64)),
            Value::Object(fields) => {
                clause.required.iter().all(|name| fields.contains_key(name))
                    && fields.iter().all(|(name, value)| {
                        let asked = all_of(&self.property(clause, name));
                        let clauses = if depth < MAX_DEPTH { self.clauses(&asked, depth + 1) } else { return true };
                        clauses.iter().any(|clause| self.may_hold(clause, value, depth + 1))
                    })
            }
            Value::Null | Value::Bool(_) => true,
        }
    }
}

/// Pattern, lengths and nothing else of a schema; `None` if it asks nothing of strings.
pub(super) fn strings(map: &Map<String, Value>) -> Option<Language> {
    let pattern = map.get("pattern").and_then(Value::as_str).and_then(|pattern| Language::pattern(pattern).ok());
    let length = |keyword: &str| map.get(keyword).and_then(Value::as_u64).map(|length| length as usize);
    let lengths = match (length("minLength"), length("maxLength")) {
        (None, None) => None,
        // Long counts cost states and decide little.
        (min, max) if min.unwrap_or(0).max(max.unwrap_or(0)) > 64 => None,
        (min, max) => Some(Language::length(min.unwrap_or(0), max)),
    };
    match (pattern, lengths) {
        (Some(pattern), Some(lengths)) => Some(pattern.and(lengths)),
        (pattern, lengths) => pattern.or(lengths),
    }
}

/// Equal as JSON values: 1 and 1.0 are.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

fn numbers_disjoint(a: &Clause, b: &Clause) -> bool {
    let below = |a: &Clause, b: &Clause| a.max < b.min || a.max == b.min && (a.max_is_out || b.min_is_out);
    below(a, b) || below(b, a)
}

fn all_of(schemas: &[Value]) -> Value {
    match schemas {
        [] => Value::Bool(true),
        [schema] => schema.clone(),
        schemas => json!({ "allOf": schemas }),
    }
}

pub(super) fn list<'a>(map: &'a Map<String, Value>, keyword: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    map.get(keyword).and_then(Value::as_array).into_iter().flatten()
}

/// All pairs; asks nothing if they are too many.
fn product(a: Vec<Clause>, b: Vec<Clause>) -> Vec<Clause> {
    if a.len() * b.len() > MAX_CLAUSES {
        // Either side alone asks less than both.
        return if a.len() <= MAX_CLAUSES { a } else { vec![Clause::default()] };
    }
    a.iter().flat_map(|a| b.iter().map(|b| both(a.clone(), b))).collect()
}

fn both(mut a: Clause, b: &Clause) -> Clause {
    a.types = a.types.and(b.types);
    a.values = match (a.values, &b.values) {
        (Some(a), Some(b)) => Some(a.into_iter().filter(|a| b.iter().any(|b| equal(a, b))).collect()),
        (a, b) => a.or_else(|| b.clone()),
    };
    a.strings = match (a.strings, b.strings.clone()) {
        (Some(a), Some(b)) => Some(a.and(b)),
        (a, b) => a.or(b),
    };
    if b.min > a.min || b.min == a.min && b.min_is_out {
        (a.min, a.min_is_out) = (b.min, b.min_is_out);
    }
    if b.max < a.max || b.max == a.max && b.max_is_out {
        (a.max, a.max_is_out) = (b.max, b.max_is_out);
    }
    a.min_items = a.min_items.max(b.min_items);
    a.max_items = a.max_items.min(b.max_items);
    for (index, asked) in b.prefix.iter().enumerate() {
        match a.prefix.get_mut(index) {
            Some(known) => known.extend(asked.iter().cloned()),
            None => a.prefix.push(asked.clone()),
        }
    }
    for (name, asked) in &b.properties {
        a.properties.entry(name.clone()).or_default().extend(asked.iter().cloned());
    }
    a.additional.extend(b.additional.iter().cloned());
    a.patterns.extend(b.patterns.iter().cloned());
    a.required.extend(b.required.iter().cloned());
    a
}
