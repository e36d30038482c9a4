//! JSON Schema, checked and rewritten before the engine sees it: what the engine keeps, in a form that means exactly the same, or the
//! reasons why not. Knows nothing of tokens.
//!
//! ```text
//! document (drafts, references) -> rewrite (keywords; objects, arrays, branches) -> a schema for the engine, or problems
//! language, clauses, types: what sets of strings and of values have in common
//! ```

mod arrays;
mod branches;
mod clauses;
mod document;
mod ecma;
pub(super) mod language;
mod locate;
mod objects;
mod rewrite;
mod types;

pub(super) use locate::locate;

use serde_json::Value;

use super::Problem;

/// A schema that the engine keeps to the letter.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) schema: Value,
    /// What was taken as description, and what a draft ignores.
    pub(super) notes: Vec<String>,
}

/// Rewrites a schema, or says everything that is wrong with it.
pub(super) fn prepare(root: &Value) -> Result<Prepared, Vec<Problem>> {
    prepare_part(root, root, "")
}

/// Rewrites one part of a document.
fn prepare_part(root: &Value, part: &Value, path: &str) -> Result<Prepared, Vec<Problem>> {
    let mut rewriter = rewrite::Rewriter::new(root);
    let schema = rewriter.run(part, path);
    if !rewriter.problems.is_empty() {
        let mut problems = rewriter.problems;
        problems.truncate(MAX_PROBLEMS);
        return Err(problems);
    }
    Ok(Prepared { schema, notes: rewriter.notes.into_iter().take(MAX_PROBLEMS).collect() })
}

/// Problems and notes that are reported of one schema.
const MAX_PROBLEMS: usize = 50;
