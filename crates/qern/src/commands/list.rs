//! `qern list`: not built yet.

use crate::cli;
use std::process::ExitCode;

/// Runs `qern list`.
pub fn run(_args: &cli::ListArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`qern list` is not built yet")
}
