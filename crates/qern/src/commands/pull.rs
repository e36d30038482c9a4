//! `qern pull`: not built yet.

use crate::cli;
use std::process::ExitCode;

/// Runs `qern pull`.
pub fn run(_args: &cli::PullArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`qern pull` is not built yet")
}
