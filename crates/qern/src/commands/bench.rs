//! `qern bench`: not built yet.

use crate::cli;
use std::process::ExitCode;

/// Runs `qern bench`.
pub fn run(_args: &cli::BenchArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`qern bench` is not built yet")
}
