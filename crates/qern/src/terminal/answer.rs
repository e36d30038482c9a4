//! One answer on its way to the reader: markdown and dimmed thinking on a terminal, the bare text everywhere else.
//! Writes and flushes every piece as it comes. Not the loop that receives the pieces.

use std::io::{self, Write};

use qern_model::thinking::{CLOSE, OPEN, unfinished};

use super::markdown::{Markdown, visible};
use super::style::Style;

/// How answers look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The bytes of the model, untouched: for pipes and files.
    Bare,
    /// No styles, but nothing that could drive the terminal either.
    Plain,
    /// Markdown styled, thinking dimmed.
    Styled,
}

impl Look {
    /// The look for a stdout that is (or is not) a terminal, which may (or may not) be styled.
    pub fn of(is_terminal: bool, may_style: bool) -> Self {
        match (is_terminal, may_style) {
            (false, _) => Look::Bare,
            (true, false) => Look::Plain,
            (true, true) => Look::Styled,
        }
    }
}

/// A writer of one answer.
#[derive(Debug)]
pub struct AnswerView<W> {
    out: W,
    look: Look,
    part: Part,
    markdown: Markdown,
    style: Style,
    ends_with_newline: bool,
}

/// Which part of the answer arrives; each holds the text that may turn out to be a tag.
#[derive(Debug)]
enum Part {
    Start(String),
    Thinking(String),
    Answer,
}

impl<W: Write> AnswerView<W> {
    /// A view of an answer. `inside_thinking`: the prompt already opened the `<think>` block.
    pub fn new(out: W, look: Look, inside_thinking: bool) -> Self {
        let part = if inside_thinking { Part::Thinking(String::new()) } else { Part::Start(String::new()) };
        Self { out, look, part, markdown: Markdown::new(), style: Style::PLAIN, ends_with_newline: true }
    }

    /// Shows the next piece at once.
    pub fn push(&mut self, piece: &str) -> io::Result<()> {
        if let Some(last) = piece.chars().next_back() {
            self.ends_with_newline = last == '\n';
        }
        let mut shown = String::with_capacity(piece.len() + 16);
        match self.look {
            Look::Bare => shown.push_str(piece),
            Look::Plain => shown.extend(piece.chars().map(visible)),
            Look::Styled => self.advance(piece, &mut shown),
        }
        self.write(&shown)
    }

    /// Shows what was held back and resets the style. Ends the line too, if `newline` and the answer did not.
    pub fn finish(&mut self, newline: bool) -> io::Result<()> {
        let mut shown = String::new();
        if let Part::Start(held) | Part::Thinking(held) = std::mem::replace(&mut self.part, Part::Answer) {
            shown.extend(held.chars().map(visible));
        }
        self.style.change(Style::PLAIN, &mut shown);
        self.markdown.finish(&mut shown);
        if newline && !self.ends_with_newline {
            shown.push('\n');
        }
        self.write(&shown)
    }

    fn advance(&mut self, piece: &str, shown: &mut String) {
        match std::mem::replace(&mut self.part, Part::Answer) {
            Part::Start(held) => {
                let text = held + piece;
                let trimmed = text.trim_start();
                if trimmed.starts_with(OPEN) {
                    self.part = Part::Thinking(String::new());
                    self.advance(&text, shown);
                } else if OPEN.starts_with(trimmed) {
                    self.part = Part::Start(text);
                } else {
                    self.markdown.push(&text, shown);
                }
            }
            Part::Thinking(held) => {
                let text = held + piece;
                if let Some(end) = text.find(CLOSE).map(|at| at + CLOSE.len()) {
                    self.dim(&text[..end], shown);
                    self.style.change(Style::PLAIN, shown);
                    self.markdown.push(&text[end..], shown);
                } else {
                    let shown_now = text.len() - unfinished(&text, CLOSE);
                    self.dim(&text[..shown_now], shown);
                    self.part = Part::Thinking(text[shown_now..].to_string());
                }
            }
            Part::Answer => self.markdown.push(piece, shown),
        }
    }

    fn dim(&mut self, text: &str, shown: &mut String) {
        if !text.is_empty() {
            self.style.change(Style::DIM, shown);
            shown.extend(text.chars().map(visible));
        }
    }

    fn write(&mut self, shown: &str) -> io::Result<()> {
        if shown.is_empty() {
            return Ok(());
        }
        self.out.write_all(shown.as_bytes())?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(look: Look, inside_thinking: bool, pieces: &[&str], expected: &str) {
        let mut out = Vec::new();
        let mut view = AnswerView::new(&mut out, look, inside_thinking);
        pieces.iter().for_each(|piece| view.push(piece).unwrap());
        view.finish(true).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{pieces:?}");
    }

    #[test]
    fn thinking_is_dimmed_and_the_answer_is_markdown() {
        let expected = "\x1b[2m<think>a</think>\x1b[0m\n\x1b[2m*\x1b[0m\x1b[3mb\x1b[0m\x1b[2m*\x1b[0m\n";
        check(Look::Styled, false, &["<think>a</think>\n*b*"], expected);
        check(Look::Styled, false, &["<th", "ink>", "a</t", "hink>", "\n*b*"], expected);
    }

    #[test]
    fn a_prompt_may_open_the_thinking() {
        check(Look::Styled, true, &["a</thi", "nk> b"], "\x1b[2ma</think>\x1b[0m b\n");
    }

    #[test]
    fn an_unfinished_tag_is_shown_at_the_end() {
        check(Look::Styled, false, &["<th"], "<th\n");
        check(Look::Styled, true, &["a</th"], "\x1b[2ma</th\x1b[0m\n");
        check(Look::Styled, false, &["say <think>"], "say <think>\n");
    }

    #[test]
    fn a_pipe_gets_the_bytes_of_the_model() {
        check(Look::Bare, false, &["<think>*a*\x1b[1m"], "<think>*a*\x1b[1m\n");
        check(Look::Plain, false, &["*a*\x1b[1m\n"], "*a*␛[1m\n");
    }

    #[test]
    fn an_empty_answer_writes_nothing() {
        check(Look::Styled, false, &[], "");
    }
}
