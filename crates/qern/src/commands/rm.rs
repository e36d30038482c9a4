//! `qern rm`: not built yet.

use crate::cli;
use std::process::ExitCode;

/// Runs `qern rm`.
pub fn run(_args: &cli::RmArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`qern rm` is not built yet")
}
