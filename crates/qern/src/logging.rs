//! Where the log of the layers below goes: stderr, as much as `-v` and `--quiet` ask for. Not the program's own messages.

use crate::cli::LogArgs;
use crate::output;
use std::io;
use tracing::Level;

/// Starts writing the log.
pub(crate) fn start(args: &LogArgs) {
    let level = match (args.quiet, args.verbose) {
        (true, _) => Level::ERROR,
        (false, 0) => Level::WARN,
        (false, 1) => Level::INFO,
        (false, 2) => Level::DEBUG,
        (false, _) => Level::TRACE,
    };
    let format = tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).with_ansi(output::stderr_has_colour());
    // Fails only where a log was started before: in a test that calls `main` twice.
    let _ = format.without_time().with_target(false).try_init();
}
