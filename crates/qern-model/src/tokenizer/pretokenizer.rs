//! Cuts text into the pieces that are merged on their own, and knows how a piece and a token are spelled. No ids.

use std::borrow::Cow;
use std::ops::Range;

use super::byte_level;
use super::pattern::Pattern;

/// Which spelling the vocabulary uses, and where its pieces begin and end.
#[derive(Debug)]
pub struct PreTokenizer {
    pub spelling: Spelling,
    pub splits: Vec<Split>, // in order, each within the pieces of the one before
}

/// How bytes are written in the vocabulary.
#[derive(Debug)]
pub enum Spelling {
    /// Every byte is a character of GPT-2's alphabet.
    ByteLevel {
        /// A text that does not begin with a space gets one.
        add_prefix_space: bool,
    },
    /// SentencePiece: a space is `▁`; bytes without a token are `<0xE2>`.
    Metaspace {
        /// The text that gets a space before it.
        prepend: Prepend,
        /// Whether every space begins a piece.
        split: bool,
        /// Whether the text has spaces still. Otherwise normalization has replaced them.
        replace: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepend {
    Always,
    /// Only what no added token comes before.
    First,
    Never,
}

#[derive(Debug)]
pub struct Split {
    pub pattern: Pattern,
    pub behavior: Behavior,
    /// Takes the text between matches for the matches.
    pub invert: bool,
}

/// What becomes of a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub enum Behavior {
    Removed,
    Isolated,
    MergedWithPrevious,
    MergedWithNext,
    Contiguous,
}

/// SentencePiece's space.
pub const METASPACE: char = '▁';

impl PreTokenizer {
    /// Whether decoding has a space to take off that encoding put on.
    pub fn adds_space(&self) -> bool {
        matches!(self.spelling, Spelling::Metaspace { prepend: Prepend::Always | Prepend::First, .. })
    }

    /// The text as it is cut.
    pub fn prepare<'a>(&self, text: Cow<'a, str>, is_first: bool) -> Cow<'a, str> {
        match self.spelling {
            Spelling::ByteLevel { add_prefix_space: true } if !text.starts_with(' ') => format!(" {text}").into(),
            Spelling::Metaspace { prepend, replace: true, .. } => {
                let text = text.replace(' ', METASPACE.encode_utf8(&mut [0; 4]));
                let wants_space = prepend == Prepend::Always || prepend == Prepend::First && is_first;
                if wants_space && !text.starts_with(METASPACE) { format!("{METASPACE}{text}").into() } else { text.into() }
            }
            _ => text,
        }
    }

    /// The pieces of a prepared text, in order.
    pub fn split(&self, text: &str, pieces: &mut Vec<Range<usize>>) {
        pieces.clear();
        pieces.push(0..text.len());
        let mut whole = Vec::new();
        for split in &self.splits {
            std::mem::swap(pieces, &mut whole);
            pieces.clear();
            for piece in &whole {
                split.apply(&text[piece.clone()], piece.start, pieces);
            }
        }
        if let Spelling::Metaspace { split: true, .. } = self.spelling {
            std::mem::swap(pieces, &mut whole);
            pieces.clear();
            for piece in &whole {
                let mut start = piece.start;
                for (index, _) in text[piece.clone()].match_indices(METASPACE) {
                    push(pieces, start..piece.start + index);
                    start = piece.start + index;
                }
                push(pieces, start..piece.end);
            }
        }
    }

    /// A piece as the vocabulary spells it.
    pub fn spell<'a>(&self, piece: &'a str) -> Cow<'a, str> {
        match self.spelling {
            Spelling::ByteLevel { .. } => byte_level::spell(piece).into(),
            Spelling::Metaspace { .. } => piece.into(),
        }
    }

    /// The bytes that a token of the vocabulary stands for.
    pub fn token_bytes(&self, token: &str) -> Box<[u8]> {
        match self.spelling {
            Spelling::ByteLevel { .. } => byte_level::bytes(token),
            Spelling::Metaspace { .. } => match byte_token(token) {
                Some(byte) => Box::new([byte]),
                None => token.replace(METASPACE, " ").into_bytes().into(),
            },
        }
    }
}

/// The byte of a `<0xE2>`.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

impl Split {
    fn apply(&self, text: &str, offset: usize, pieces: &mut Vec<Range<usize>>) {
        let mut cutter = Cutter { split: self, offset, pieces, pending: None };
        let mut end = 0;
        for found in self.pattern.matches(text) {
            cutter.part(end..found.start, self.invert);
            end = found.end;
            cutter.part(found, !self.invert);
        }
        cutter.part(end..text.len(), self.invert);
        if let Some((pending, _)) = cutter.pending {
            push(pieces, pending);
        }
    }
}

/// Joins matches and the text between them as the behavior says.
struct Cutter<'a> {
    split: &'a Split,
    offset: usize,
    pieces: &'a mut Vec<Range<usize>>,
    pending: Option<(Range<usize>, bool)>, // a piece that may still grow, and whether its last part matched
}

impl Cutter<'_> {
    fn part(&mut self, range: Range<usize>, is_match: bool) {
        if range.is_empty() {
            return;
        }
        let range = range.start + self.offset..range.end + self.offset;
        let joins = |previous_matched: bool| match self.split.behavior {
            Behavior::Isolated | Behavior::Removed => false,
            Behavior::Contiguous => previous_matched == is_match,
            Behavior::MergedWithPrevious => is_match && !previous_matched,
            Behavior::MergedWithNext => previous_matched && !is_match,
        };
        match &mut self.pending {
            Some((pending, matched)) if joins(*matched) => (pending.end, *matched) = (range.end, is_match),
            _ => {
                if let Some((pending, _)) = self.pending.take() {
                    push(self.pieces, pending);
                }
                if !(is_match && self.split.behavior == Behavior::Removed) {
                    self.pending = Some((range, is_match));
                }
            }
        }
    }
}

fn push(pieces: &mut Vec<Range<usize>>, piece: Range<usize>) {
    if !piece.is_empty() {
        pieces.push(piece);
    }
}
