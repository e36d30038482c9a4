//! The line editor of the chat: history, completion of commands, several lines, Ctrl-C and Ctrl-D.

use std::borrow::Cow;
use std::path::PathBuf;

use anyhow::Context as _;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::{DefaultHistory, History};
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use super::message;
use crate::terminal::style::{Color, Style};

const PROMPT: &str = ">>> ";
const HISTORY_LENGTH: usize = 2000;

/// What the Tab key offers at the start of a message.
#[derive(Debug, Clone, Default)]
pub struct Completions {
    /// Whole beginnings, such as `/help` or `/set temperature`.
    pub beginnings: Vec<String>,
}

/// A line editor with its history.
pub struct TerminalEditor {
    editor: Editor<ChatHelper, DefaultHistory>,
    history: Option<PathBuf>,
    interrupted: bool,
}

impl std::fmt::Debug for TerminalEditor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TerminalEditor").field("history", &self.history).finish_non_exhaustive()
    }
}

impl TerminalEditor {
    pub(super) fn new(history: Option<PathBuf>, completions: Completions, styled: bool) -> anyhow::Result<Self> {
        let config = Config::builder()
            .max_history_size(HISTORY_LENGTH)?
            .history_ignore_dups(true)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .bracketed_paste(true)
            .build();
        let mut editor = Editor::with_config(config).context("cannot prepare the terminal for line editing")?;
        editor.set_helper(Some(ChatHelper { completions, styled }));
        if let Some(path) = &history {
            // No history yet, or an unreadable one, is no reason not to chat.
            let _ = editor.load_history(path);
        }
        Ok(Self { editor, history, interrupted: false })
    }

    pub(super) fn read(&mut self) -> anyhow::Result<Option<String>> {
        loop {
            match self.editor.readline(PROMPT) {
                Ok(entered) => {
                    self.interrupted = false;
                    let message = message::unfold(&entered);
                    if !message.trim().is_empty() {
                        self.remember(&entered);
                        return Ok(Some(message));
                    }
                }
                Err(ReadlineError::Interrupted) if self.interrupted => return Ok(None),
                Err(ReadlineError::Interrupted) => {
                    self.interrupted = true;
                    eprintln!("(Ctrl-C again, Ctrl-D or /quit ends the chat)");
                }
                Err(ReadlineError::Eof) => return Ok(None),
                Err(error) => return Err(error).context("cannot read from the terminal"),
            }
        }
    }

    fn remember(&mut self, entered: &str) {
        let _ = self.editor.add_history_entry(entered);
        if let Some(path) = &self.history {
            // Saved after every message, so that a crash or a second chat loses nothing; a full disk must not end the chat.
            let _ = path.parent().map(std::fs::create_dir_all);
            let saved = if path.exists() { self.editor.append_history(path) } else { self.editor.history_mut().save(path) };
            if let Err(error) = saved {
                eprintln!("note: the history is not kept: cannot write {}: {error}", path.display());
                self.history = None;
            }
        }
    }
}

struct ChatHelper {
    completions: Completions,
    styled: bool,
}

impl Helper for ChatHelper {}

impl Validator for ChatHelper {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let complete = message::is_complete(context.input());
        Ok(if complete { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

impl Completer for ChatHelper {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..pos];
        let fits = |beginning: &&String| !typed.is_empty() && beginning.starts_with(typed);
        let mut candidates: Vec<String> = self.completions.beginnings.iter().filter(fits).cloned().collect();
        if !typed.contains(' ') {
            candidates.retain(|candidate| !candidate.contains(' '));
        }
        Ok((0, candidates))
    }
}

impl Hinter for ChatHelper {
    type Hint = String;
}

impl Highlighter for ChatHelper {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        Cow::Owned(Style { bold: true, color: Some(Color::Green), ..Style::PLAIN }.paint(prompt, self.styled))
    }
}
