//! The text of the prompt: the arguments, and stdin where it has something to add.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context;

use crate::exit::UsageError;

/// Far more than any context holds.
const MAX_BYTES: u64 = 64 << 20;
/// After this long without an end of stdin, the user is told what is being waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// The prompt that `parts` and stdin make. `raw`: stdin follows the prompt directly, and not after an empty line.
pub fn prompt_text(parts: &[String], raw: bool) -> anyhow::Result<String> {
    let (argument, dash) = split(parts)?;
    let wanted = match argument {
        None if !dash && io::stdin().is_terminal() => {
            let fix =
                "give one, as in `qern run \"Why is the sky blue?\"`, pipe text into `qern run -`, or talk with `qern chat`";
            return Err(UsageError(format!("the prompt is missing; {fix}")).into());
        }
        None => true,
        Some(_) => dash || has_text_to_give(),
    };
    let piped = if wanted { read(dash)? } else { String::new() };
    Ok(join(argument, &piped, raw))
}

/// The prompt among the arguments, and whether `-` asks for stdin.
fn split(parts: &[String]) -> Result<(Option<&str>, bool), UsageError> {
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts[..] {
        [] => Ok((None, false)),
        ["-"] => Ok((None, true)),
        [prompt] => Ok((Some(prompt), false)),
        ["-", "-"] => Err(UsageError("`-` must be given once".into())),
        [prompt, "-"] => Ok((Some(prompt), true)),
        [_, other, ..] => Err(UsageError(format!("the prompt must be one argument; quote it, or is `{other}` a mistake?"))),
    }
}

/// A pipe or a file was put there on purpose; a terminal, a socket and the null device were not.
fn has_text_to_give() -> bool {
    let Ok(kind) = fs::metadata("/dev/stdin").map(|metadata| metadata.file_type()) else { return false };
    #[cfg(unix)]
    let is_pipe = std::os::unix::fs::FileTypeExt::is_fifo(&kind);
    #[cfg(not(unix))]
    let is_pipe = false;
    is_pipe || kind.is_file()
}

fn read(asked_for: bool) -> anyhow::Result<String> {
    let (done, end) = mpsc::channel::<()>();
    if !asked_for && !io::stdin().is_terminal() {
        std::thread::spawn(move || {
            if end.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let fix = "add `< /dev/null` if it has nothing to add to the prompt";
                let _ = writeln!(io::stderr(), "note: waiting for the end of stdin; {fix}");
            }
        });
    }
    let mut bytes = Vec::new();
    io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes).context("cannot read stdin")?;
    drop(done);
    if bytes.len() as u64 > MAX_BYTES {
        return Err(UsageError(format!("stdin must have at most {MAX_BYTES} bytes; cut it to what the model can read")).into());
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        UsageError(format!("stdin must be UTF-8 text; byte {at} is not. Convert it, for example with `iconv -t UTF-8`"))
    })?;
    Ok(text)
}

/// One line end at the end of stdin is the shell's, not the text's.
fn join(argument: Option<&str>, piped: &str, raw: bool) -> String {
    let piped = piped.strip_suffix('\n').map_or(piped, |text| text.strip_suffix('\r').unwrap_or(text));
    match argument {
        Some(argument) if piped.is_empty() => argument.to_string(),
        Some(argument) if raw => format!("{argument}{piped}"),
        Some(argument) => format!("{argument}\n\n{piped}"),
        None => piped.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_a_prompt_and_a_dash() {
        let check = |parts: &[&str], expected: (Option<&str>, bool)| {
            let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
            assert_eq!(split(&parts).unwrap(), expected, "{parts:?}");
        };
        check(&[], (None, false));
        check(&["-"], (None, true));
        check(&["hi"], (Some("hi"), false));
        check(&["hi", "-"], (Some("hi"), true));
        for wrong in [["hi", "you"], ["-", "hi"], ["-", "-"]] {
            assert!(split(&wrong.map(String::from)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn stdin_follows_the_prompt() {
        assert_eq!(join(Some("Say:"), "text\n", false), "Say:\n\ntext");
        assert_eq!(join(Some("Once"), " upon\n", true), "Once upon");
        assert_eq!(join(None, "text\r\n", false), "text");
        assert_eq!(join(None, "text\n\n", true), "text\n");
        assert_eq!(join(Some("hi"), "", false), "hi");
        assert_eq!(join(Some("hi"), "\n", false), "hi");
    }
}
