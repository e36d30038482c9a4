//! What an answer must look like, and the machinery that holds every token to it: JSON, JSON Schema, regular expressions, choices,
//! grammars, CSV and XML. The masks are `llguidance`'s; here is what stands around it: presets, a schema rewriter that refuses what
//! it cannot keep, limits, a cache, and a matcher for each answer. Knows nothing of logits, requests or models.
//!
//! ```text
//! Constraint -> ConstraintCompiler::compile -> Arc<Compiled> -> Compiled::matcher -> mask, commit, mask, commit, ...
//! ```

mod cache;
mod closing;
mod compiler;
mod confidence;
mod csv;
mod error;
mod gbnf;
mod grammar;
mod limits;
mod mask;
mod matcher;
mod schema;
mod values;
mod vocabulary;
mod xml;

pub use compiler::{Compiled, ConstraintCompiler, check};
pub use confidence::{FieldConfidence, field_confidence};
pub use csv::{CsvColumn, CsvSpec, Quoting};
pub use error::{ConstraintError, Problem};
pub use limits::ConstraintLimits;
pub use mask::Mask;
pub use matcher::Matcher;
pub use values::ValueType;
pub use vocabulary::Vocabulary;
pub use xml::{Unbounded, XmlAttribute, XmlElement, XmlMax, XmlParticle, XmlSpec};

use serde_json::Value;

/// What an answer must look like.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    /// Any JSON object.
    JsonObject,
    /// JSON that is valid by this schema, with the properties in the schema's order.
    JsonSchema(Value),
    /// Text that matches this regular expression as a whole (Rust syntax; `^` and `$` at the ends are allowed).
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A grammar in `llguidance`'s dialect of Lark, whose rule `start` is the answer.
    Lark(String),
    /// A grammar in llama.cpp's GBNF, whose rule `root` is the answer.
    Gbnf(String),
    /// A table of comma-separated values.
    Csv(CsvSpec),
    /// An XML document.
    Xml(XmlSpec),
}

/// How JSON is laid out. Whatever is fixed is appended without sampling, so the first two are faster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum JsonLayout {
    /// One line, a space after each comma and colon: `{"a": 1, "b": [2, 3]}`.
    #[default]
    Spaced,
    /// One line without spaces.
    Compact,
    /// Whitespace as the model likes.
    Free,
}

#[cfg(test)]
mod tests;
