//! Where the log of the layers below goes: stderr, as much as `-v` and `--quiet` ask for. Not the program's own messages.

use crate::cli::{LogArgs, LogFormat};
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

/// Starts writing the log of a server: every line with its time, one step more than other commands.
pub(crate) fn start_server(args: &LogArgs, format: LogFormat) {
    let level = match (args.quiet, args.verbose) {
        (true, _) => Level::ERROR,
        (false, 0) => Level::INFO,
        (false, 1) => Level::DEBUG,
        (false, _) => Level::TRACE,
    };
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).with_target(false);
    // Fails only where a log was started before.
    let _ = match format {
        LogFormat::Text => log.with_ansi(output::stderr_has_colour()).try_init(),
        LogFormat::Json => log.json().flatten_event(true).with_ansi(false).try_init(),
    };
}
