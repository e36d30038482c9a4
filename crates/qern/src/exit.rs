//! How the program ends: exit statuses, and the one place where errors are printed. Not what went wrong: errors carry
//! their own words.

use std::io::{self, Write};
use std::process::ExitCode;

/// The command did what it was asked.
pub const DONE: u8 = 0;
/// The command failed; the reason is on stderr.
pub const FAILED: u8 = 1;
/// The command line was wrong.
pub const USAGE: u8 = 2;
/// The user interrupted the command (Ctrl-C), or it was asked to terminate.
pub const INTERRUPTED: u8 = 130;

/// A wrong command line that only the command itself could find out; exits with [`USAGE`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// The command stopped because the user asked for it; exits with [`INTERRUPTED`]. The text says what was kept.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Interrupted(pub String);

/// Turns what a command returned into an exit status, printing the error if there is one.
pub fn from_result(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        // The reader of our output went away (`qern list | head -1`): it has what it wanted.
        Err(error) if is_broken_pipe(&error) => ExitCode::from(DONE),
        Err(error) => {
            report(&error);
            ExitCode::from(status(&error))
        }
    }
}

/// Prints clap's own message (help, version or a usage error) and returns the status that belongs to it.
pub fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { USAGE } else { DONE })
}

/// Prints an error and its causes on stderr.
pub fn report(error: &anyhow::Error) {
    let mut stderr = io::stderr().lock();
    let (red, plain) = if crate::output::stderr_has_colour() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    let _ =
        if status(error) == INTERRUPTED { writeln!(stderr, "{error}") } else { writeln!(stderr, "{red}error:{plain} {error}") };
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        // Many errors already quote their cause.
        if !said.contains(&text) {
            let _ = writeln!(stderr, "  because: {text}");
            said = text;
        }
    }
}

fn status(error: &anyhow::Error) -> u8 {
    if error.chain().any(|cause| cause.is::<Interrupted>()) {
        INTERRUPTED
    } else if error.chain().any(|cause| cause.is::<UsageError>()) {
        USAGE
    } else {
        FAILED
    }
}

/// Whether the reader of our output went away.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_status_follows_the_error_through_its_context() {
        let usage: anyhow::Result<()> = Err(UsageError("bad".into()).into());
        assert_eq!(status(&usage.context("while reading").unwrap_err()), USAGE);
        assert_eq!(status(&Interrupted("stopped".into()).into()), INTERRUPTED);
        assert_eq!(status(&crate::hub::HubError::from(Interrupted("stopped".into())).into()), INTERRUPTED);
        assert_eq!(status(&anyhow::anyhow!("other")), FAILED);
    }

    #[test]
    fn a_closed_pipe_is_not_a_failure() {
        let error = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("while printing");
        assert!(is_broken_pipe(&error));
    }
}
