//! One file per command; this one only sends the parsed command line to the right file. Each command returns its exit
//! status, or an error that `exit` prints.

pub mod bench;
pub mod chat;
pub mod completions;
pub mod doctor;
pub mod eval;
pub mod list;
pub mod man;
pub mod pull;
pub mod rm;
pub mod run;
pub mod schema;
pub mod serve;
pub mod show;

use crate::cli::Command;
use std::process::ExitCode;

/// Runs one command.
pub fn run(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Chat(args) => chat::run(args),
        Command::Run(args) => self::run::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Pull(args) => pull::run(args),
        Command::List(args) => list::run(args),
        Command::Show(args) => show::run(args),
        Command::Rm(args) => rm::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Eval(command) => eval::run(command),
        Command::Schema(command) => schema::run(command),
        Command::Doctor(args) => doctor::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
    }
}
