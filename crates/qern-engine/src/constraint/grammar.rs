//! What each kind of constraint means, as a grammar of the engine. Checks come before: how deep, how many, how large. Compiles nothing.

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Value, json};

use super::{Constraint, ConstraintError, ConstraintLimits, JsonLayout, gbnf, schema};

/// A constraint in the engine's terms.
pub(super) struct Grammar {
    pub(super) grammar: TopLevelGrammar,
    /// For `Compiled::notes`.
    pub(super) notes: Vec<String>,
}

impl Constraint {
    /// Its kind in words, for errors.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::JsonObject => "JSON object",
            Self::JsonSchema(_) => "JSON schema",
            Self::Regex(_) => "regular expression",
            Self::Choice(_) => "choice",
            Self::Lark(_) => "Lark grammar",
            Self::Gbnf(_) => "GBNF grammar",
            Self::Csv(_) => "CSV description",
            Self::Xml(_) => "XML description",
        }
    }

    /// Whether answers under it are JSON.
    pub fn is_json(&self) -> bool {
        matches!(self, Self::JsonObject | Self::JsonSchema(_))
    }

    /// Everything it says, in one text.
    pub(super) fn text(&self) -> String {
        match self {
            Self::JsonObject => String::new(),
            Self::JsonSchema(schema) => schema.to_string(),
            Self::Regex(text) | Self::Lark(text) | Self::Gbnf(text) => text.clone(),
            Self::Choice(choices) => format!("{choices:?}"),
            Self::Csv(spec) => format!("{spec:?}"),
            Self::Xml(spec) => format!("{spec:?}"),
        }
    }

    /// Whether it is small and shallow enough to be looked at.
    pub(super) fn check(&self, limits: &ConstraintLimits) -> Result<(), ConstraintError> {
        let kind = self.kind();
        // Depth first: writing a value out recurses.
        let depth = match self {
            Self::JsonObject | Self::Choice(_) | Self::Csv(_) | Self::Xml(_) => 0,
            Self::JsonSchema(schema) => depth_of(schema),
            Self::Regex(text) | Self::Lark(text) | Self::Gbnf(text) => nesting(text),
        };
        let ConstraintLimits { max_depth, max_bytes, .. } = *limits;
        if depth > max_depth {
            return Err(ConstraintError::Limit { kind, what: "a depth of nesting", limit: format!("{max_depth} levels") });
        }
        if self.text().len() > max_bytes {
            return Err(ConstraintError::Limit { kind, what: "a size", limit: format!("{max_bytes} bytes") });
        }
        Ok(())
    }

    pub(super) fn grammar(&self, layout: JsonLayout) -> Result<Grammar, ConstraintError> {
        let kind = self.kind();
        match self {
            Self::JsonObject => Ok(json_grammar(json!({ "type": "object" }), layout, Vec::new())),
            Self::JsonSchema(schema) => {
                let prepared = schema::prepare(schema).map_err(ConstraintError::Schema)?;
                Ok(json_grammar(prepared.schema, layout, prepared.notes))
            }
            Self::Regex(pattern) => Ok(plain(TopLevelGrammar::from_regex(unanchored(pattern)))),
            Self::Choice(choices) => {
                if choices.is_empty() {
                    let fix = "give at least one text".to_string();
                    return Err(ConstraintError::Refused { kind, reason: "it is empty".into(), fix });
                }
                let choices: Vec<String> = choices.iter().map(|choice| regex_syntax::escape(choice)).collect();
                Ok(plain(TopLevelGrammar::from_regex(&choices.join("|"))))
            }
            Self::Lark(grammar) => Ok(plain(TopLevelGrammar::from_lark(grammar.clone()))),
            Self::Csv(spec) => spec.lark().map(from_lark).map_err(|reason| described(kind, reason)),
            Self::Xml(spec) => spec.lark().map(from_lark).map_err(|reason| described(kind, reason)),
            Self::Gbnf(grammar) => gbnf::grammar(grammar).map(plain).map_err(|error| error.refuse(kind)),
        }
    }
}

fn from_lark(lark: String) -> Grammar {
    plain(TopLevelGrammar::from_lark(lark))
}

fn described(kind: &'static str, reason: String) -> ConstraintError {
    ConstraintError::Refused { kind, reason, fix: "correct the description".into() }
}

fn plain(grammar: TopLevelGrammar) -> Grammar {
    Grammar { grammar, notes: Vec::new() }
}

/// The grammar of a schema that the engine knows how to keep.
pub(super) fn json_grammar(schema: Value, layout: JsonLayout, notes: Vec<String>) -> Grammar {
    let options = match layout {
        JsonLayout::Spaced => json!({ "item_separator": ", ", "key_separator": ": ", "whitespace_flexible": false }),
        JsonLayout::Compact => json!({ "item_separator": ",", "key_separator": ":", "whitespace_flexible": false }),
        JsonLayout::Free => json!({ "whitespace_flexible": true }),
    };
    let mut schema = match schema {
        Value::Bool(true) => json!({}),
        Value::Bool(false) => json!({ "anyOf": [false] }),
        schema => schema,
    };
    schema["x-guidance"] = options;
    let grammar = GrammarWithLexer { name: Some("json".into()), json_schema: Some(schema), ..GrammarWithLexer::default() };
    Grammar { grammar: TopLevelGrammar::from_grammar(grammar), notes }
}

/// The whole answer is matched anyway, so anchors at the ends say nothing.
fn unanchored(pattern: &str) -> &str {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    match pattern.strip_suffix('$') {
        // An odd number of backslashes makes it a dollar.
        Some(body) if body.bytes().rev().take_while(|&byte| byte == b'\\').count() % 2 == 0 && !has_alternatives(body) => body,
        _ => pattern,
    }
}

/// `^a|b$` anchors each alternative at one end only.
fn has_alternatives(pattern: &str) -> bool {
    pattern.contains('|')
}

/// How deep brackets nest at most. Those in texts and classes count too, which a grammar within the limit does not notice.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest, mut is_escaped) = (0_usize, 0, false);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'(' | b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// How deep a value nests. Does not recurse: what it measures may be hostile.
fn depth_of(value: &Value) -> usize {
    let (mut deepest, mut open) = (0, vec![(value, 1)]);
    while let Some((value, depth)) = open.pop() {
        deepest = deepest.max(depth);
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(map) => open.extend(map.values().map(|value| (value, depth + 1))),
            _ => {}
        }
    }
    deepest
}
