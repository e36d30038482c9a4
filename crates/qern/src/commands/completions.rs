//! `qern completions`: the completion script of a shell, generated from the command tree.

use crate::cli;
use clap::CommandFactory;
use std::io::{self, Write};
use std::process::ExitCode;

/// Prints the script to stdout.
pub fn run(args: &cli::CompletionsArgs) -> anyhow::Result<ExitCode> {
    // Into memory first: the generator panics when its writer fails, and a closed pipe is no reason to.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::Cli::command(), "qern", &mut script);
    io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
