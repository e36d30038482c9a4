//! `qern schema check`: whether Qern keeps a JSON schema to the letter, and if not, what stands in the way and where. Needs no model.

use std::io::{self, Write};
use std::process::ExitCode;

use qern_engine::constraint::{Constraint, ConstraintError, ConstraintLimits, check};
use serde_json::{Value, json};

use crate::cli::{SchemaCheckArgs, SchemaCommand};
use crate::exit::FAILED;
use crate::output;
use crate::session::constraint::json as read_json;

/// Runs `qern schema`.
pub fn run(command: &SchemaCommand) -> anyhow::Result<ExitCode> {
    match command {
        SchemaCommand::Check(args) => check_file(args),
    }
}

fn check_file(args: &SchemaCheckArgs) -> anyhow::Result<ExitCode> {
    let schema: Value = read_json(&args.file)?;
    let checked = check(&Constraint::JsonSchema(schema), ConstraintLimits::default());
    let is_kept = checked.is_ok();
    if args.json {
        output::print_json(&report(&checked))?;
    } else {
        write!(io::stdout(), "{}", text(&checked))?;
    }
    Ok(if is_kept { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn report(checked: &Result<Vec<String>, ConstraintError>) -> Value {
    let problem = |path: &str, keyword: &str, reason: &str, fix: &str| json!({ "path": path, "keyword": keyword, "reason": reason, "fix": fix });
    match checked {
        Ok(notes) => json!({ "kept": true, "problems": [], "notes": notes }),
        Err(ConstraintError::Schema(problems)) => {
            let problems: Vec<Value> = problems.iter().map(|p| problem(&p.path, &p.keyword, &p.reason, &p.fix)).collect();
            json!({ "kept": false, "problems": problems, "notes": [] })
        }
        Err(other) => json!({ "kept": false, "problems": [problem("", "", &other.to_string(), "")], "notes": [] }),
    }
}

fn text(checked: &Result<Vec<String>, ConstraintError>) -> String {
    match checked {
        Ok(notes) => {
            let notes: String = notes.iter().map(|note| format!("note: {note}\n")).collect();
            format!(
                "kept: every answer will be valid by this schema, and every valid one can be given, its properties in the schema's order\n{notes}"
            )
        }
        Err(ConstraintError::Schema(problems)) => {
            let lines: String = problems.iter().map(|problem| format!("  {problem}\n")).collect();
            format!("refused:\n{lines}")
        }
        Err(other) => format!("refused: {other}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(schema: Value) -> Result<Vec<String>, ConstraintError> {
        check(&Constraint::JsonSchema(schema), ConstraintLimits::default())
    }

    #[test]
    fn a_schema_is_kept_with_notes_or_refused_by_path() {
        let kept = checked(json!({ "type": "string", "format": "color" }));
        assert_eq!(
            text(&kept),
            "kept: every answer will be valid by this schema, and every valid one can be given, its properties in \
             the schema's order\n\
             note: at the root: the format `color` is taken as a description, not checked\n"
        );
        assert_eq!(report(&kept)["kept"], true);
        let refused = checked(json!({ "properties": { "a": { "type": "array", "uniqueItems": true } } }));
        assert_eq!(
            text(&refused),
            "refused:\n  at /properties/a: `uniqueItems` cannot be kept for items of unlimited values; drop it and check it afterwards, \
             set `maxItems` to 1, or give the items an `enum` of a few values\n"
        );
        let problem = &report(&refused)["problems"][0];
        assert_eq!((problem["path"].as_str(), problem["keyword"].as_str()), (Some("/properties/a"), Some("uniqueItems")));
    }
}
