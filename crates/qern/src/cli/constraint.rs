//! The flags that say what an answer must look like. How they become a constraint is in `session/constraint.rs`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// What an answer must look like: at most one kind.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Form of the answer")]
#[group(id = "form", multiple = false)]
pub struct FormArgs {
    /// A JSON object
    #[arg(long)]
    pub json_object: bool,
    /// JSON that is valid by the JSON Schema in this file (`qern schema check` says what is kept)
    #[arg(long, value_name = "FILE")]
    pub json_schema: Option<PathBuf>,
    /// Text that matches this regular expression as a whole
    #[arg(long, value_name = "REGEX")]
    pub regex: Option<String>,
    /// One of these texts, separated by commas; may be repeated
    #[arg(long, value_name = "TEXT,...", value_delimiter = ',')]
    pub choice: Vec<String>,
    /// A grammar in Lark, whose rule `start` is the answer
    #[arg(long, value_name = "FILE")]
    pub grammar: Option<PathBuf>,
    /// A grammar in llama.cpp's GBNF, whose rule `root` is the answer
    #[arg(long, value_name = "FILE")]
    pub gbnf: Option<PathBuf>,
    /// A table of comma-separated values, whose columns this JSON file describes
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// An XML document, whose elements this JSON file describes
    #[arg(long, value_name = "FILE")]
    pub xml: Option<PathBuf>,
}

/// How an answer of a form is made and told.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Form of the answer")]
pub struct FormOptions {
    /// How JSON is laid out: what is fixed need not be sampled, so `free` is slower
    #[arg(long, value_name = "LAYOUT", value_enum, default_value_t = Layout::Spaced)]
    pub json_layout: Layout,
    /// Close an answer validly that --max-tokens or the context cuts off
    #[arg(long, requires = "form")]
    pub finish_structure: bool,
    /// Say how probable each value of a JSON answer was among those that the form allowed
    #[arg(long, conflicts_with_all = ["regex", "choice", "grammar", "gbnf", "csv", "xml", "beams"], requires = "form")]
    pub confidence: bool,
}

/// How JSON is laid out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// One line, a space after commas and colons.
    #[default]
    Spaced,
    /// One line without spaces.
    Compact,
    /// As the model likes.
    Free,
}
