//! The form that the flags ask of an answer, read from their files and compiled for the model. What can be kept, and why not, is the
//! engine's to say.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use qern_engine::constraint::{Compiled, Constraint, ConstraintCompiler, ConstraintLimits, JsonLayout, Vocabulary};
use serde::de::DeserializeOwned;

use crate::cli::{FormArgs, Layout};
use crate::loading::LoadedModel;

/// The constraint that was asked for.
pub fn constraint(args: &FormArgs) -> anyhow::Result<Option<Constraint>> {
    Ok(if args.json_object {
        Some(Constraint::JsonObject)
    } else if let Some(file) = &args.json_schema {
        Some(Constraint::JsonSchema(json(file)?))
    } else if let Some(pattern) = &args.regex {
        Some(Constraint::Regex(pattern.clone()))
    } else if !args.choice.is_empty() {
        Some(Constraint::Choice(args.choice.clone()))
    } else if let Some(file) = &args.grammar {
        Some(Constraint::Lark(text(file)?))
    } else if let Some(file) = &args.gbnf {
        Some(Constraint::Gbnf(text(file)?))
    } else if let Some(file) = &args.csv {
        Some(Constraint::Csv(json(file)?))
    } else if let Some(file) = &args.xml {
        Some(Constraint::Xml(json(file)?))
    } else {
        None
    })
}

/// Compiles it for a model.
pub fn compile(model: &LoadedModel, constraint: &Constraint, layout: Layout) -> anyhow::Result<Arc<Compiled>> {
    let vocabulary = Vocabulary::new(&model.tokenizer, &model.eos, model.engine.limits().vocab_size)?;
    let compiler = ConstraintCompiler::new(vocabulary, ConstraintLimits::default());
    Ok(compiler.compile(constraint, layout_of(layout))?)
}

/// The engine's name of a layout.
pub fn layout_of(layout: Layout) -> JsonLayout {
    match layout {
        Layout::Spaced => JsonLayout::Spaced,
        Layout::Compact => JsonLayout::Compact,
        Layout::Free => JsonLayout::Free,
    }
}

fn text(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("`{}` cannot be read; give a text file", file.display()))
}

/// A value of a JSON file.
pub fn json<T: DeserializeOwned>(file: &Path) -> anyhow::Result<T> {
    serde_json::from_str(&text(file)?).with_context(|| format!("`{}` is not what was expected; correct the JSON", file.display()))
}
