//! The fields of a request as data: name, kind, range, meaning. One table of them checks a body and describes it in the OpenAPI
//! document, so that the two cannot disagree. Not what the fields do.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::error::ApiError;

/// One field that a request may have.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Its name in the body.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// What it does, for the OpenAPI document.
    pub about: &'static str,
}

/// What values a field takes. `null` is always taken, and means that the field was left out.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A number within these bounds.
    Number(f64, f64),
    /// A whole number within these bounds.
    Integer(i128, i128),
    /// `true` or `false`.
    Bool,
    /// A text.
    Text,
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// A text, or a list of at most so many.
    Texts(usize),
    /// A list of token ids, at most so many.
    TokenIds(usize),
    /// An object with numbers for values, as `logit_bias` is.
    NumberMap(f64, f64),
    /// Something with a shape of its own: the endpoint reads it, and the function gives its JSON schema.
    Shaped(fn() -> Value),
    /// Accepted, and without effect here for the reason that `about` gives.
    NoEffect,
    /// Refused unless it has one of these values (as JSON), which ask for nothing; `about` says why.
    Refused(&'static [&'static str]),
}

/// A field.
pub const fn param(name: &'static str, kind: Kind, about: &'static str) -> Param {
    Param { name, kind, about }
}

/// A body that has passed its tables: every field known, and of its kind.
#[derive(Debug)]
pub struct Params(Map<String, Value>);

impl Params {
    /// Reads and checks a body. Unknown fields are refused, with the nearest known name.
    pub fn parse(body: &[u8], tables: &[&[Param]]) -> Result<Self, ApiError> {
        let fix = "send one JSON object";
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| ApiError::invalid(format!("the body must be valid JSON: {error}; {fix}")))?;
        let Value::Object(object) = value else {
            return Err(ApiError::invalid(format!("the body must be a JSON object; given {}; {fix}", kind_of(&value))));
        };
        Self::check(object, tables)
    }

    fn check(mut object: Map<String, Value>, tables: &[&[Param]]) -> Result<Self, ApiError> {
        object.retain(|_, value| !value.is_null());
        for (name, value) in &object {
            let Some(param) = tables.iter().copied().flatten().find(|param| param.name == name) else {
                return Err(unknown(name, tables.iter().copied().flatten().map(|param| param.name)));
            };
            param.check(value)?;
        }
        Ok(Self(object))
    }

    /// Takes the raw value of a field out.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    /// The raw value of a field.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// A number.
    pub fn f32(&self, name: &str) -> Option<f32> {
        self.0.get(name).and_then(Value::as_f64).map(|value| value as f32)
    }

    /// A whole number; the table bounds it.
    pub fn integer(&self, name: &str) -> Option<i128> {
        self.0.get(name).and_then(whole)
    }

    /// A whole number that the table keeps from being negative.
    pub fn count(&self, name: &str) -> Option<usize> {
        self.integer(name).and_then(|value| usize::try_from(value).ok())
    }

    /// A switch.
    pub fn bool(&self, name: &str) -> Option<bool> {
        self.0.get(name).and_then(Value::as_bool)
    }

    /// A text.
    pub fn str(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// One text or several.
    pub fn texts(&self, name: &str) -> Option<Vec<String>> {
        match self.0.get(name)? {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(texts) => Some(texts.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
            _ => None,
        }
    }

    /// Token ids.
    pub fn token_ids(&self, name: &str) -> Option<Vec<u32>> {
        let ids = self.0.get(name)?.as_array()?;
        Some(ids.iter().filter_map(whole).filter_map(|id| u32::try_from(id).ok()).collect())
    }

    /// Numbers by token id. Keys that are no token id are refused.
    pub fn biases(&self, name: &str) -> Result<Option<BTreeMap<u32, f32>>, ApiError> {
        let Some(Value::Object(object)) = self.0.get(name) else { return Ok(None) };
        let one = |(key, value): (&String, &Value)| {
            let id = key.parse().map_err(|_| refused(name, "have token ids for keys", &json!(key)))?;
            Ok((id, value.as_f64().unwrap_or_default() as f32))
        };
        object.iter().map(one).collect::<Result<_, ApiError>>().map(Some)
    }

    /// The names of two fields that mean the same, both given.
    pub fn both(&self, one: &str, other: &str) -> bool {
        self.0.contains_key(one) && self.0.contains_key(other)
    }

    /// The error for a field that must be there.
    pub fn missing(name: &str) -> ApiError {
        ApiError::invalid(format!("`{name}` is missing; the request must have it"))
            .of_param(name)
            .coded("missing_required_parameter")
    }
}

impl Param {
    fn check(&self, value: &Value) -> Result<(), ApiError> {
        let wrong = |rule: String| Err(refused(self.name, &rule, value));
        match self.kind {
            Kind::Number(low, high) => match value.as_f64() {
                Some(number) if (low..=high).contains(&number) => Ok(()),
                _ => wrong(format!("be a number from {low} to {high}")),
            },
            Kind::Integer(low, high) => match whole(value) {
                Some(number) if (low..=high).contains(&number) => Ok(()),
                _ => wrong(format!("be a whole number from {low} to {high}")),
            },
            Kind::Bool if !value.is_boolean() => wrong("be true or false".into()),
            Kind::Text if !value.is_string() => wrong("be a text".into()),
            Kind::OneOf(names) if !value.as_str().is_some_and(|text| names.contains(&text)) => {
                wrong(format!("be {}", list(names)))
            }
            Kind::Texts(most) => match value {
                Value::String(_) => Ok(()),
                Value::Array(texts) if texts.len() <= most && texts.iter().all(Value::is_string) => Ok(()),
                Value::Array(texts) if texts.len() > most => {
                    Err(refused(self.name, &format!("hold at most {most} texts"), &texts.len().into()))
                }
                _ => wrong("be a text or a list of texts".into()),
            },
            Kind::TokenIds(most) => match value {
                Value::Array(ids) if ids.len() > most => {
                    Err(refused(self.name, &format!("hold at most {most} token ids"), &ids.len().into()))
                }
                Value::Array(ids) if ids.iter().all(is_token_id) => Ok(()),
                _ => wrong("be a list of token ids".into()),
            },
            Kind::NumberMap(low, high) => {
                let holds = |value: &Value| value.as_f64().is_some_and(|number| (low..=high).contains(&number));
                match value {
                    Value::Object(object) if object.values().all(holds) => Ok(()),
                    Value::Object(object) => {
                        let first = object.values().find(|value| !holds(value)).unwrap_or(&Value::Null);
                        Err(refused(self.name, &format!("hold numbers from {low} to {high}"), first))
                    }
                    _ => wrong("be an object of token ids and numbers".into()),
                }
            }
            Kind::Refused(neutral)
                if !neutral.iter().any(|text| serde_json::from_str::<Value>(text).is_ok_and(|v| v == *value)) =>
            {
                let message = format!("`{}` is not supported: {}; given {}", self.name, self.about, shown(value));
                Err(ApiError::invalid(message).of_param(self.name).coded("unsupported_parameter"))
            }
            _ => Ok(()),
        }
    }

    fn schema(&self) -> Value {
        let mut schema = match self.kind {
            Kind::Number(low, high) => json!({"type": ["number", "null"], "minimum": low, "maximum": high}),
            Kind::Integer(low, high) => json!({"type": ["integer", "null"], "minimum": number(low), "maximum": number(high)}),
            Kind::Bool => json!({"type": ["boolean", "null"]}),
            Kind::Text => json!({"type": ["string", "null"]}),
            Kind::OneOf(names) => {
                let mut values: Vec<Value> = names.iter().map(|name| json!(name)).collect();
                values.push(Value::Null);
                json!({"enum": values})
            }
            Kind::Texts(most) => json!({"anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "maxItems": most},
                {"type": "null"},
            ]}),
            Kind::TokenIds(most) => json!({
                "type": ["array", "null"],
                "items": {"type": "integer", "minimum": 0, "maximum": u32::MAX},
                "maxItems": most,
            }),
            Kind::NumberMap(low, high) => json!({
                "type": ["object", "null"],
                "propertyNames": {"pattern": "^[0-9]{1,9}$"},
                "additionalProperties": {"type": "number", "minimum": low, "maximum": high},
            }),
            Kind::Shaped(schema) => schema(),
            Kind::NoEffect => json!({}),
            Kind::Refused(neutral) => {
                let mut values: Vec<Value> = neutral.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
                values.push(Value::Null);
                json!({"enum": values})
            }
        };
        let about = match self.kind {
            Kind::NoEffect => format!("Accepted without effect: {}", self.about),
            Kind::Refused(_) => format!("Not supported: {}", self.about),
            _ => self.about.to_owned(),
        };
        schema["description"] = about.into();
        schema
    }
}

/// The JSON schema of a body.
pub fn schema(tables: &[&[Param]], required: &[&str]) -> Value {
    let property = |param: &Param| {
        let mut schema = param.schema();
        // What must be there cannot be left out by `null` either.
        if required.contains(&param.name)
            && let Some(Value::Array(types)) = schema.get_mut("type")
        {
            types.retain(|name| name != "null");
        }
        (param.name.to_owned(), schema)
    };
    let properties: Map<String, Value> = tables.iter().copied().flatten().map(property).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// The error for a field that nobody knows.
pub fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> ApiError {
    let fix = match nearest(name, known) {
        Some(known) => format!("did you mean `{known}`?"),
        None => "remove it: it would have no effect".to_owned(),
    };
    ApiError::invalid(format!("`{}` is not a known field; {fix}", short(name))).of_param(&short(name)).coded("unknown_parameter")
}

/// The known name that was probably meant: written almost alike, or longer by a word.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |known: &str| match known.split('_').any(|word| word == name) {
        true => 1,
        false => strsim::damerau_levenshtein(name, known),
    };
    let (distance, known) = known.map(|known| (distance(known), known)).min()?;
    (distance <= 1 + known.len() / 4).then_some(known)
}

/// The error for a value that breaks its field's rule.
pub fn refused(name: &str, rule: &str, value: &Value) -> ApiError {
    ApiError::invalid(format!("`{name}` must {rule}; given {}", shown(value))).of_param(name)
}

/// A value as an error shows it: never long, and never what a list or an object holds.
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{:?}", short(text)),
        Value::Array(_) | Value::Object(_) => kind_of(value).to_owned(),
        other => short(&other.to_string()),
    }
}

/// The beginning of a text of the client, fit for an error message.
pub fn short(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    let mut short: String = text.chars().take(MAX_CHARS).map(|ch| if ch.is_control() { ' ' } else { ch }).collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        short.push_str("...");
    }
    short
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A whole number, also when it is written as `8.0`.
pub fn whole(value: &Value) -> Option<i128> {
    let number = value.as_number()?;
    if let Some(whole) = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from)) {
        return Some(whole);
    }
    number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 9e15).map(|float| float as i128)
}

/// Whether it is a token id of some vocabulary.
pub fn is_token_id(value: &Value) -> bool {
    whole(value).is_some_and(|id| u32::try_from(id).is_ok())
}

fn number(value: i128) -> Value {
    match (u64::try_from(value), i64::try_from(value)) {
        (Ok(value), _) => value.into(),
        (_, Ok(value)) => value.into(),
        _ => Value::Null,
    }
}

fn list(names: &[&str]) -> String {
    match names {
        [] => "left out".to_owned(),
        [only] => format!("`{only}`"),
        [others @ .., last] => {
            let others: Vec<String> = others.iter().map(|name| format!("`{name}`")).collect();
            format!("{} or `{last}`", others.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Param] = &[
        param("temperature", Kind::Number(0.0, 2.0), ""),
        param("max_tokens", Kind::Integer(0, 100), ""),
        param("seed", Kind::Integer(i64::MIN as i128, u64::MAX as i128), ""),
        param("stream", Kind::Bool, ""),
        param("stop", Kind::Texts(2), ""),
        param("logit_bias", Kind::NumberMap(-100.0, 100.0), ""),
        param("encoding_format", Kind::OneOf(&["float", "base64"]), ""),
        param("tools", Kind::Refused(&["[]"]), "they come later"),
        param("user", Kind::NoEffect, ""),
        param("stop_token_ids", Kind::TokenIds(3), ""),
    ];

    fn refusal(body: &str) -> String {
        Params::parse(body.as_bytes(), &[TABLE]).expect_err("must be refused").message
    }

    #[test]
    fn refusals_name_field_rule_value_and_fix() {
        let check = |body: &str, expected: &str| assert_eq!(refusal(body), expected, "{body}");
        check(r#"{"temperature": -1}"#, "`temperature` must be a number from 0 to 2; given -1");
        check(r#"{"temperature": "1"}"#, r#"`temperature` must be a number from 0 to 2; given "1""#);
        check(r#"{"max_tokens": -5}"#, "`max_tokens` must be a whole number from 0 to 100; given -5");
        check(r#"{"max_tokens": 1.5}"#, "`max_tokens` must be a whole number from 0 to 100; given 1.5");
        check(r#"{"max_tokens": 1e300}"#, "`max_tokens` must be a whole number from 0 to 100; given 1e+300");
        check(r#"{"stream": 1}"#, "`stream` must be true or false; given 1");
        check(r#"{"stop": ["a", 1]}"#, "`stop` must be a text or a list of texts; given a list");
        check(r#"{"stop": ["a", "b", "c"]}"#, "`stop` must hold at most 2 texts; given 3");
        check(r#"{"stop_token_ids": [1, -1]}"#, "`stop_token_ids` must be a list of token ids; given a list");
        check(r#"{"logit_bias": {"1": 101}}"#, "`logit_bias` must hold numbers from -100 to 100; given 101");
        check(r#"{"encoding_format": "hex"}"#, r#"`encoding_format` must be `float` or `base64`; given "hex""#);
        check(r#"{"tools": [1]}"#, "`tools` is not supported: they come later; given a list");
        check(r#"{"temprature": 1}"#, "`temprature` is not a known field; did you mean `temperature`?");
        check(r#"{"xyzzy": 1}"#, "`xyzzy` is not a known field; remove it: it would have no effect");
        check("[]", "the body must be a JSON object; given a list; send one JSON object");
        assert!(refusal("{").starts_with("the body must be valid JSON: "));
    }

    #[test]
    fn deep_json_is_refused_not_followed() {
        let deep = format!("{{\"user\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(refusal(&deep).contains("recursion limit exceeded"));
    }

    #[test]
    fn null_is_absent_and_whole_floats_are_whole() {
        let params =
            Params::parse(br#"{"temperature": null, "max_tokens": 8.0, "tools": [], "user": {"a": [1]}}"#, &[TABLE]).unwrap();
        assert_eq!((params.f32("temperature"), params.count("max_tokens")), (None, Some(8)));
    }

    #[test]
    fn every_seed_that_was_reported_can_be_given() {
        for seed in [u64::MAX as i128, i64::MIN as i128] {
            let body = format!("{{\"seed\": {seed}}}");
            assert_eq!(Params::parse(body.as_bytes(), &[TABLE]).unwrap().integer("seed"), Some(seed));
        }
    }

    #[test]
    fn the_schema_is_of_the_same_table() {
        let schema = schema(&[TABLE], &["stop"]);
        assert_eq!(schema["properties"]["temperature"]["maximum"], 2.0);
        assert_eq!(schema["properties"]["tools"]["enum"], json!([[], null]));
        assert_eq!(schema["additionalProperties"], false);
    }
}
