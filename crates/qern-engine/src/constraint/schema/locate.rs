//! Where in a schema the engine's objection lies: the deepest part that it refuses by itself, and the keyword without which it would
//! not. For what the rewriter lets pass and the engine does not: automata too large, contradictions.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::document::pointer;
use super::prepare_part;
use crate::constraint::Problem;

/// Compilations that the search may take, and how long.
const MAX_ATTEMPTS: usize = 150;
const MAX_TIME: Duration = Duration::from_millis(1500);

/// The engine's objection to the whole, with its place. `try_out` compiles a rewritten schema and returns the objection.
pub(in crate::constraint) fn locate(root: &Value, objection: &str, try_out: &dyn Fn(Value) -> Option<String>) -> Problem {
    let begun = Instant::now();
    let mut attempts = 0;
    let mut refused = |schema: &Value, part: &str| -> Option<String> {
        attempts += 1;
        if attempts > MAX_ATTEMPTS || begun.elapsed() > MAX_TIME {
            return None;
        }
        let prepared = prepare_part(schema, schema.pointer(part)?, part).ok()?;
        try_out(prepared.schema)
    };
    let (mut path, mut reason) = (String::new(), objection.to_string());
    'deeper: loop {
        for child in children(root, &path) {
            if let Some(objection) = refused(root, &child) {
                (path, reason) = (child, objection);
                continue 'deeper;
            }
        }
        break;
    }
    let keywords: Vec<String> =
        root.pointer(&path).and_then(Value::as_object).map(|map| map.keys().cloned().collect()).unwrap_or_default();
    let describes =
        |keyword: &String| matches!(keyword.as_str(), "title" | "description" | "definitions" | "$defs" | "$schema" | "type");
    let decisive = keywords.iter().filter(|keyword| !describes(keyword)).find(|keyword| {
        let mut without = root.clone();
        if let Some(Value::Object(map)) = without.pointer_mut(&path) {
            map.shift_remove(*keyword);
        }
        refused(&without, &path).is_none()
    });
    let keyword = decisive.cloned().unwrap_or_else(|| "type".into());
    let fix = if reason.contains("nsatisfiable") || reason.contains("is empty") {
        "nothing is valid by it: loosen it"
    } else {
        "make that part smaller or simpler"
    };
    Problem { path, keyword, reason: format!("cannot be kept: {reason}"), fix: fix.into() }
}

/// The schemas directly inside of a schema.
fn children(root: &Value, path: &str) -> Vec<String> {
    let Some(map) = root.pointer(path).and_then(Value::as_object) else { return Vec::new() };
    let mut all = Vec::new();
    for (keyword, value) in map {
        let at = pointer(path, keyword);
        match (keyword.as_str(), value) {
            ("properties" | "patternProperties" | "dependentSchemas" | "definitions" | "$defs", Value::Object(schemas)) => {
                all.extend(schemas.keys().map(|name| pointer(&at, name)));
            }
            ("allOf" | "anyOf" | "oneOf" | "prefixItems" | "items", Value::Array(schemas)) => {
                all.extend((0..schemas.len()).map(|id| pointer(&at, &id.to_string())));
            }
            ("items" | "additionalProperties" | "additionalItems" | "then" | "else" | "contains", Value::Object(_)) => {
                all.push(at)
            }
            _ => {}
        }
    }
    all
}
