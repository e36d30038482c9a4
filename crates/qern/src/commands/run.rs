//! `qern run`: not built yet.

use crate::cli;
use std::process::ExitCode;

/// Runs `qern run`.
pub fn run(_args: &cli::RunArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`qern run` is not built yet")
}
