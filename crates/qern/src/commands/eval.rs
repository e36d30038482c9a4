//! `qern eval`: not built yet.

use crate::cli;
use std::process::ExitCode;

/// Runs `qern eval`.
pub fn run(_args: &cli::EvalCommand) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`qern eval` is not built yet")
}
