//! What the user says next: an edited line on a terminal, a line of stdin otherwise. Multi-line messages are joined here.
//! Not the meaning of what was said: commands are read in `session`.

mod editor;
mod message;

use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;

use anyhow::Context;

pub use editor::Completions;
use editor::TerminalEditor;

/// Where messages come from.
#[derive(Debug)]
pub enum Input {
    /// Lines edited on a terminal.
    Terminal(Box<TerminalEditor>),
    /// Lines of a pipe or a file.
    Pipe {
        /// How many lines were read.
        line: usize,
    },
}

impl Input {
    /// Reads from the terminal with editing, or from whatever stdin is otherwise.
    pub fn from_stdin(history: Option<PathBuf>, completions: Completions, styled: bool) -> anyhow::Result<Self> {
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            Ok(Input::Terminal(Box::new(TerminalEditor::new(history, completions, styled)?)))
        } else {
            Ok(Input::Pipe { line: 0 })
        }
    }

    /// Whether a person is typing.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Input::Terminal(_))
    }

    /// The next message, blank ones skipped; `None` when the user is done.
    pub fn read(&mut self) -> anyhow::Result<Option<String>> {
        match self {
            Input::Terminal(editor) => editor.read(),
            Input::Pipe { line } => read_piped(&mut io::stdin().lock(), line),
        }
    }
}

fn read_piped(stdin: &mut impl BufRead, line: &mut usize) -> anyhow::Result<Option<String>> {
    let mut text = String::new();
    loop {
        let mut bytes = Vec::new();
        let read = stdin.read_until(b'\n', &mut bytes).context("cannot read stdin")?;
        *line += 1;
        let piece = String::from_utf8(bytes)
            .map_err(|_| anyhow::anyhow!("line {line} of stdin is not UTF-8; convert the text, for example with `iconv`"))?;
        text.push_str(&piece);
        let entered = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
        let at_end = read == 0;
        if at_end || message::is_complete(entered) {
            let message = message::unfold(entered);
            if !message.trim().is_empty() {
                return Ok(Some(message));
            }
            if at_end {
                return Ok(None);
            }
            text.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stdin: &[u8], expected: &[&str]) {
        let (mut reader, mut line) = (stdin, 0);
        let mut messages = Vec::new();
        while let Some(message) = read_piped(&mut reader, &mut line).unwrap() {
            messages.push(message);
        }
        assert_eq!(messages, expected);
    }

    #[test]
    fn each_line_of_a_pipe_is_a_message() {
        check(b"", &[]);
        check(b"one\ntwo", &["one", "two"]);
        check(b"one\r\n\n  \ntwo\n", &["one", "two"]);
    }

    #[test]
    fn lines_are_joined_by_a_backslash_or_a_block() {
        check(b"one\\\ntwo\nthree\n", &["one\ntwo", "three"]);
        check(b"\"\"\"\none\n\ntwo\n\"\"\"\nthree\n", &["one\n\ntwo", "three"]);
        check(b"\"\"\"never closed\nmore", &["never closed\nmore"]);
        check(b"last\\", &["last\\"]);
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_with_its_line() {
        let error = read_piped(&mut &b"\xff\n"[..], &mut 0).unwrap_err();
        assert_eq!(error.to_string(), "line 1 of stdin is not UTF-8; convert the text, for example with `iconv`");
    }
}
