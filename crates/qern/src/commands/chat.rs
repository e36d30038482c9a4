//! `qern chat`: not built yet.

use crate::cli;
use std::process::ExitCode;

/// Runs `qern chat`.
pub fn run(_args: &cli::ChatArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`qern chat` is not built yet")
}
