//! The schema as it was given: which draft it is written in, and what its references point to. Rewrites nothing, fetches nothing.

use serde_json::{Map, Value};

/// Drafts that differ in what a keyword means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Draft {
    Four,
    Six,
    Seven,
    /// 2019-09.
    Nineteen,
    /// 2020-12, and what names no draft.
    Twenty,
}

pub(super) struct Document<'a> {
    pub(super) root: &'a Value,
    pub(super) draft: Draft,
}

/// What a reference leads to: the schema and its place.
pub(super) struct Target<'a> {
    pub(super) schema: &'a Value,
    pub(super) path: String,
}

impl<'a> Document<'a> {
    pub(super) fn new(root: &'a Value) -> Self {
        let name = root.get("$schema").and_then(Value::as_str).unwrap_or_default();
        let draft = match name {
            name if name.contains("draft-03") || name.contains("draft-04") => Draft::Four,
            name if name.contains("draft-06") => Draft::Six,
            name if name.contains("draft-07") => Draft::Seven,
            name if name.contains("2019-09") => Draft::Nineteen,
            _ => Draft::Twenty,
        };
        Self { root, draft }
    }

    /// Whether the draft knows the keyword; what it does not know is mere description there.
    pub(super) fn knows(&self, keyword: &str) -> bool {
        match keyword {
            "const" | "contains" | "propertyNames" => self.draft >= Draft::Six,
            "if" | "then" | "else" => self.draft >= Draft::Seven,
            "dependentRequired"
            | "dependentSchemas"
            | "unevaluatedProperties"
            | "unevaluatedItems"
            | "minContains"
            | "maxContains" => self.draft >= Draft::Nineteen,
            "prefixItems" | "$dynamicRef" => self.draft >= Draft::Twenty,
            "$recursiveRef" => self.draft == Draft::Nineteen,
            _ => true,
        }
    }

    /// Before 2019-09 a reference stands alone: what is written beside it counts for nothing.
    pub(super) fn references_stand_alone(&self) -> bool {
        self.draft <= Draft::Seven
    }

    pub(super) fn resolve(&self, reference: &str) -> Result<Target<'a>, String> {
        let (base, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let start = if base.is_empty() {
            Target { schema: self.root, path: String::new() }
        } else {
            self.by_id(base).ok_or("points outside the schema, and nothing is fetched")?
        };
        if fragment.is_empty() {
            return Ok(start);
        }
        if !fragment.starts_with('/') {
            let anchor = |map: &Map<String, Value>| {
                let is = |keyword: &str, text: &str| map.get(keyword).and_then(Value::as_str) == Some(text);
                is("$anchor", fragment) || is("$id", &format!("#{fragment}")) || is("id", &format!("#{fragment}"))
            };
            return find(start.schema, &start.path, 0, &anchor).ok_or_else(|| "names an anchor that does not exist".into());
        }
        let (mut schema, mut path) = (start.schema, start.path);
        for step in fragment[1..].split('/') {
            let step = percent_decoded(step).replace("~1", "/").replace("~0", "~");
            let next = match schema {
                Value::Object(map) => map.get(&step),
                Value::Array(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
                _ => None,
            };
            schema = next.ok_or_else(|| format!("points to `{step}` under {path:?}, which does not exist"))?;
            path = pointer(&path, &step);
        }
        Ok(Target { schema, path })
    }

    fn by_id(&self, base: &str) -> Option<Target<'a>> {
        let tail = base.trim_end_matches('/').rsplit('/').next().unwrap_or(base);
        let is_named = |map: &Map<String, Value>| {
            let ids = ["$id", "id"].into_iter().filter_map(|keyword| map.get(keyword).and_then(Value::as_str));
            let mut ids = ids.map(|id| id.trim_end_matches('#'));
            // A relative reference is resolved against the root's own address, so its last part decides.
            ids.any(|id| id == base || !base.contains("://") && !tail.is_empty() && id.rsplit('/').next() == Some(tail))
        };
        find(self.root, "", 0, &is_named)
    }
}

fn find<'a>(schema: &'a Value, path: &str, depth: usize, wanted: &dyn Fn(&Map<String, Value>) -> bool) -> Option<Target<'a>> {
    match schema {
        Value::Object(map) if wanted(map) => Some(Target { schema, path: path.into() }),
        _ if depth > 64 => None,
        Value::Object(map) => {
            let open = map.iter().filter(|(key, _)| !matches!(key.as_str(), "enum" | "const" | "default" | "examples"));
            open.into_iter().find_map(|(key, value)| find(value, &pointer(path, key), depth + 1, wanted))
        }
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| find(item, &pointer(path, &index.to_string()), depth + 1, wanted))
        }
        _ => None,
    }
}

/// A JSON pointer (RFC 6901) with one more step.
pub(super) fn pointer(path: &str, step: &str) -> String {
    format!("{path}/{}", step.replace('~', "~0").replace('/', "~1"))
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut place) = (Vec::with_capacity(bytes.len()), 0);
    while place < bytes.len() {
        let hex = (bytes[place] == b'%').then(|| text.get(place + 1..place + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                place += 3;
            }
            None => {
                out.push(bytes[place]);
                place += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
