//! The program: commands, terminal, progress, and where models come from. Everything below it (kernels, model, engine) is
//! called, never done again here.
//!
//! Reading order: `cli` is the contract with the user, `commands` has one file per command, `catalogue`, `store` and `hub`
//! turn a model's name into a file, `exit` is how the program ends, `interrupt` is Ctrl-C.
#![forbid(unsafe_code)]

pub mod catalogue;
pub mod cli;
pub mod commands;
pub mod doctor;
pub mod exit;
pub mod hub;
pub mod interrupt;
pub mod loading;
mod logging;
pub mod output;
pub mod session;
pub mod store;
pub mod terminal;

use clap::Parser;
use std::process::ExitCode;

/// Parses the command line, runs the command and returns the exit status; the whole of `main`.
pub fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return exit::usage(&usage),
    };
    // A server's log is as its configuration says, which it reads first.
    if !matches!(cli.command, cli::Command::Serve(_)) {
        logging::start(&cli.command.log());
    }
    exit::from_result(commands::run(&cli.command))
}
