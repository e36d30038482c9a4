//! `qern doctor`: not built yet.

use crate::cli;
use std::process::ExitCode;

/// Runs `qern doctor`.
pub fn run(_args: &cli::DoctorArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`qern doctor` is not built yet")
}
