//! Splits an answer into what the model thought (`<think>...</think>` at its start) and what it says, as the text arrives in
//! pieces. Knows nothing of how either is shown.

/// Opens a thought.
pub const OPEN: &str = "<think>";
/// Closes it.
pub const CLOSE: &str = "</think>";

/// Bytes at the end of `text` that may turn out to be the beginning of `tag`.
pub fn unfinished(text: &str, tag: &str) -> usize {
    (1..tag.len()).rev().find(|&length| text.ends_with(&tag[..length])).unwrap_or(0)
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// What the model thought, without the tags.
    Thinking(String),
    /// What it says.
    Answer(String),
}

/// The state of one answer.
#[derive(Clone, Debug)]
pub struct Splitter {
    phase: Phase,
    /// Text that may turn out to be a tag, or white space around one.
    held: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing but white space has come.
    Start,
    /// Just after the opening tag: line ends are not yet part of the thought.
    Opened,
    Thinking,
    /// Just after the closing tag: line ends are not yet part of the answer.
    Closed,
    Answer,
}

impl Splitter {
    /// `inside_thinking`: the prompt already opened the thought.
    pub fn new(inside_thinking: bool) -> Self {
        Self { phase: if inside_thinking { Phase::Opened } else { Phase::Start }, held: String::new() }
    }

    /// Whether what comes next is, as far as it is known, a thought.
    pub fn is_thinking(&self) -> bool {
        matches!(self.phase, Phase::Opened | Phase::Thinking)
    }

    /// The parts that the next piece of text completes. Neither empty texts nor tags are among them.
    pub fn push(&mut self, piece: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        self.held.push_str(piece);
        while self.advance(&mut parts) {}
        parts
    }

    /// What was held back, once the answer is complete.
    pub fn finish(&mut self) -> Option<Part> {
        let text = std::mem::take(&mut self.held);
        match self.phase {
            _ if text.is_empty() => None,
            Phase::Opened | Phase::Thinking => Some(Part::Thinking(text)),
            Phase::Start | Phase::Closed | Phase::Answer => Some(Part::Answer(text)),
        }
    }

    /// Goes on to the next phase, if what is held decides it.
    fn advance(&mut self, parts: &mut Vec<Part>) -> bool {
        let trimmed = self.held.trim_start();
        let next = match self.phase {
            Phase::Start if trimmed.starts_with(OPEN) => {
                self.held = trimmed[OPEN.len()..].to_owned();
                Phase::Opened
            }
            Phase::Start if OPEN.starts_with(trimmed) => return false,
            Phase::Start => Phase::Answer,
            Phase::Opened | Phase::Closed if trimmed.is_empty() => return false,
            Phase::Opened => {
                self.held = trimmed.to_owned();
                Phase::Thinking
            }
            Phase::Closed => {
                self.held = trimmed.to_owned();
                Phase::Answer
            }
            Phase::Thinking => return self.think(parts),
            Phase::Answer => {
                if !self.held.is_empty() {
                    parts.push(Part::Answer(std::mem::take(&mut self.held)));
                }
                return false;
            }
        };
        self.phase = next;
        true
    }

    /// Gives out the thought up to the closing tag, or all that cannot be the beginning of the tag and of the space before it.
    fn think(&mut self, parts: &mut Vec<Part>) -> bool {
        let (thought, rest) = match self.held.find(CLOSE) {
            Some(at) => (self.held[..at].trim_end().to_owned(), Some(self.held[at + CLOSE.len()..].to_owned())),
            None => {
                let tag = unfinished(&self.held, CLOSE);
                (self.held[..self.held.len() - tag].trim_end().to_owned(), None)
            }
        };
        let closed = rest.is_some();
        self.held = rest.unwrap_or_else(|| self.held[thought.len()..].to_owned());
        if !thought.is_empty() {
            parts.push(Part::Thinking(thought));
        }
        if closed {
            self.phase = Phase::Closed;
        }
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The thought and the answer, whatever the pieces.
    fn check(inside: bool, text: &str, thought: &str, answer: &str) {
        for size in 1..=text.chars().count().max(1) {
            let mut splitter = Splitter::new(inside);
            let chars: Vec<char> = text.chars().collect();
            let mut parts: Vec<Part> =
                chars.chunks(size).flat_map(|piece| splitter.push(&piece.iter().collect::<String>())).collect();
            parts.extend(splitter.finish());
            let (mut thinking, mut said) = (String::new(), String::new());
            for part in parts {
                match part {
                    Part::Thinking(text) => thinking.push_str(&text),
                    Part::Answer(text) => said.push_str(&text),
                }
            }
            assert_eq!((thinking.as_str(), said.as_str()), (thought, answer), "{text:?} in pieces of {size}");
        }
    }

    #[test]
    fn thought_and_answer_are_told_apart_in_any_pieces() {
        check(false, "hello", "", "hello");
        check(false, "  hello", "", "  hello");
        check(false, "<think>\na\n\nb\n</think>\n\nc é", "a\n\nb", "c é");
        check(false, "\n<think>a</think>b", "a", "b");
        check(false, "<think>\n\n</think>\n\nb", "", "b");
        check(true, "a</think>b", "a", "b");
        check(true, "\na </thin c", "a </thin c", "");
        check(false, "say <think>x</think>", "", "say <think>x</think>");
        check(false, "<thin", "", "<thin");
        check(false, "<think>a</think><think>b", "a", "<think>b");
        check(false, "", "", "");
    }

    #[test]
    fn text_that_cannot_be_a_tag_is_given_out_at_once() {
        let mut splitter = Splitter::new(false);
        assert_eq!(splitter.push("<th"), []);
        assert_eq!(splitter.push("ink>\nso"), [Part::Thinking("so".into())]);
        assert_eq!(splitter.push("on </"), [Part::Thinking("on".into())]);
        assert_eq!(splitter.push("x"), [Part::Thinking(" </x".into())]);
        assert_eq!(splitter.push("</think>\n"), []);
        assert_eq!(splitter.push("yes"), [Part::Answer("yes".into())]);
    }
}
