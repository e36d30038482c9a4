//! `qern show`: not built yet.

use crate::cli;
use std::process::ExitCode;

/// Runs `qern show`.
pub fn run(_args: &cli::ShowArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`qern show` is not built yet")
}
