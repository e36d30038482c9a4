//! `qern eval`: how good a model's predictions of a text are, alone (`perplexity`) or beside those of another model (`kl`).
//! What is scored is in `windows`, the forward passes are in `scorer`, the saved predictions in `logits_file`.

mod kl;
mod logits_file;
mod perplexity;
mod scorer;
mod statistics;
mod windows;

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use crate::cli::{EvalCommand, EvalCommonArgs};
use crate::output;

/// Runs `qern eval`.
pub fn run(command: &EvalCommand) -> anyhow::Result<ExitCode> {
    match command {
        EvalCommand::Perplexity(args) => perplexity::run(args),
        EvalCommand::Kl(args) => kl::run(args),
    }
}

/// Says one line on stderr unless the user wants quiet.
fn say(args: &EvalCommonArgs, line: &str) {
    if !args.log.quiet {
        // Nothing can be done about a stderr that is closed.
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// Prints a report: for programs, or for people.
fn show(args: &EvalCommonArgs, report: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<ExitCode> {
    if args.json {
        output::print_json(report)?;
    } else {
        write!(io::stdout(), "{}", text())?;
    }
    Ok(ExitCode::SUCCESS)
}
