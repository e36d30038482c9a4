//! Markdown for a terminal, as it streams: every piece is shown at once, styled by what has been seen so far.
//!
//! The source is never rewritten: markers stay in the text, dimmed, and styles are added around them. So stripping the
//! escape sequences gives back the source, tables keep their columns, and what a reader copies is what the model wrote.
//! At most one marker (a run of `*`, a line's `## `, ...) is held back until the character that decides its meaning.
//! Not a CommonMark parser, and no word wrap: the terminal wraps.
//!
//! Control characters of the text are shown as their Unicode pictures, so a model cannot drive the terminal.

use super::style::{Color, Style};

/// Turns pieces of markdown into pieces of styled terminal text.
#[derive(Debug, Default)]
pub struct Markdown {
    place: Place,
    /// Characters whose meaning depends on the next one.
    held: String,
    inline: Inline,
    /// The style that the terminal is in.
    current: Style,
}

/// Where in the document the next character falls.
#[derive(Debug, Default, Clone, PartialEq)]
enum Place {
    /// Before the first character that is not a block marker.
    #[default]
    LineStart,
    /// In running text; block markers have no meaning.
    Text,
    /// A run of ``` or ~~~ opened this line and its info string follows.
    FenceInfo,
    /// At the start of a line of a fenced block.
    CodeLineStart(Fence),
    /// Inside a line of a fenced block.
    Code(Fence),
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Fence {
    marker: char,
    length: usize,
}

/// Emphasis of the current line.
#[derive(Debug, Default)]
struct Inline {
    base: Style,
    bold: Option<char>,
    italic: Option<char>,
    /// Length of the backtick run that opened the code span.
    code: Option<usize>,
    strike: bool,
    url: bool,
    escaped: bool,
    table: bool,
    previous: Option<char>,
}

impl Markdown {
    /// A renderer at the start of a document.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends to `out` what can be shown of `piece` now.
    pub fn push(&mut self, piece: &str, out: &mut String) {
        for ch in piece.chars() {
            self.step(ch, out);
        }
    }

    /// Appends what was held back, and leaves the terminal in its plain style. The next piece starts a new document.
    pub fn finish(&mut self, out: &mut String) {
        self.release(None, out);
        self.current.change(Style::default(), out);
        *self = Self::default();
    }

    fn step(&mut self, ch: char, out: &mut String) {
        match self.place.clone() {
            Place::LineStart => self.line_start(ch, out),
            Place::Text => self.text(ch, out),
            Place::FenceInfo => self.fence_info(ch, out),
            Place::CodeLineStart(fence) => self.code_line_start(fence, ch, out),
            Place::Code(fence) => {
                self.emit(ch, CODE, out);
                if ch == '\n' {
                    self.place = Place::CodeLineStart(fence);
                }
            }
        }
    }

    fn line_start(&mut self, ch: char, out: &mut String) {
        let marker = self.held.trim_start_matches(INDENT).to_string();
        match ch {
            ' ' | '\t' if marker.is_empty() => self.held.push(ch),
            ' ' if is_heading(&marker) => {
                self.flush_held(MARKER, out);
                self.inline.base = HEADING;
                self.begin_text(' ', out);
            }
            ' ' if is_bullet(&marker) => {
                self.flush_held(BULLET, out);
                self.begin_text(' ', out);
            }
            '>' if marker.is_empty() => {
                self.held.push(ch);
                self.flush_held(MARKER, out);
                self.inline.base = QUOTE;
            }
            '|' if marker.is_empty() => {
                self.inline.table = true;
                self.begin_text(ch, out);
            }
            '#' | '`' | '~' | '-' | '*' | '+' if marker.chars().all(|held| held == ch) => self.held.push(ch),
            '0'..='9' if marker.len() < 9 && marker.chars().all(|held| held.is_ascii_digit()) => self.held.push(ch),
            '.' | ')' if !marker.is_empty() && marker.chars().all(|held| held.is_ascii_digit()) => self.held.push(ch),
            _ if fence_of(&marker).is_some() => {
                self.place = Place::FenceInfo;
                self.fence_info(ch, out);
            }
            _ => self.begin_text(ch, out),
        }
    }

    /// The block markers of this line are done: `held` and `ch` are running text.
    fn begin_text(&mut self, ch: char, out: &mut String) {
        self.place = Place::Text;
        let held = std::mem::take(&mut self.held);
        for ch in held.chars().chain([ch]) {
            self.text(ch, out);
        }
    }

    /// An opening fence is a fence only if its info string has no backtick: "```code```" is a code span.
    fn fence_info(&mut self, ch: char, out: &mut String) {
        match ch {
            '\n' => {
                let fence = fence_of(self.held.trim_start_matches(INDENT));
                self.flush_held(MARKER, out);
                self.emit('\n', MARKER, out);
                self.place = fence.map_or(Place::LineStart, Place::CodeLineStart);
            }
            '`' => self.begin_text(ch, out),
            _ => self.held.push(ch),
        }
    }

    fn code_line_start(&mut self, fence: Fence, ch: char, out: &mut String) {
        let closes = self.closes(fence);
        let indent_only = self.held.trim_start_matches(INDENT).is_empty();
        match ch {
            '\n' if closes => {
                self.flush_held(MARKER, out);
                self.end_line(out);
            }
            '\n' => {
                self.flush_held(CODE, out);
                self.emit('\n', CODE, out);
            }
            ' ' | '\t' if indent_only || closes => self.held.push(ch),
            _ if ch == fence.marker && !self.held.trim_start_matches(INDENT).contains(INDENT) => self.held.push(ch),
            _ => {
                self.flush_held(CODE, out);
                self.emit(ch, CODE, out);
                self.place = Place::Code(fence);
            }
        }
    }

    /// Whether the held start of a line is a closing fence so far.
    fn closes(&self, fence: Fence) -> bool {
        self.held.trim_matches(INDENT).chars().count() >= fence.length
    }

    /// Running text. A run of one marker character is held until the character after it.
    fn text(&mut self, ch: char, out: &mut String) {
        if self.held.chars().next().is_some_and(|held| held != ch || held == ']') {
            self.release(Some(ch), out);
        }
        let in_code = self.inline.code.is_some();
        match ch {
            '\n' => self.end_line(out),
            _ if std::mem::take(&mut self.inline.escaped) => self.emit_text(ch, out),
            '`' => self.held.push(ch),
            '*' | '_' | '~' | ']' if !in_code && !self.inline.url => self.held.push(ch),
            '\\' if !in_code => {
                self.inline.escaped = true;
                self.emit_text(ch, out);
            }
            '(' if self.inline.url && self.inline.previous == Some(']') => {
                self.emit(ch, MARKER, out);
                self.inline.previous = Some(ch);
            }
            ')' | ' ' if self.inline.url => {
                self.inline.url = false;
                self.emit(ch, MARKER, out);
                self.inline.previous = Some(ch);
            }
            '|' if self.inline.table && !in_code => {
                self.emit(ch, MARKER, out);
                self.inline.previous = Some(ch);
            }
            _ => self.emit_text(ch, out),
        }
    }

    /// Decides what the held run means, now that `next` (`None`: the end) is known, and emits it.
    fn release(&mut self, next: Option<char>, out: &mut String) {
        let Some(marker) = self.held.chars().next() else { return };
        match (&self.place, marker) {
            (Place::LineStart | Place::FenceInfo, _) => self.flush_held(MARKER, out),
            (Place::CodeLineStart(fence), _) if self.closes(*fence) => self.flush_held(MARKER, out),
            (Place::Code(_) | Place::CodeLineStart(_), _) => self.flush_held(CODE, out),
            (Place::Text, ']') => {
                self.inline.url = next == Some('(');
                let style = if self.inline.url { MARKER } else { self.inline.style() };
                self.flush_held(style, out);
                self.inline.previous = Some(marker);
            }
            (Place::Text, _) => {
                let length = self.held.chars().count();
                let is_marker = match marker {
                    '`' => self.inline.toggle_code(length),
                    '~' => self.inline.toggle_strike(length, next),
                    _ => self.inline.toggle_emphasis(marker, length, next),
                };
                let style = if is_marker { MARKER.with(self.inline.base) } else { self.inline.style() };
                self.flush_held(style, out);
                self.inline.previous = Some(marker);
            }
        }
    }

    fn end_line(&mut self, out: &mut String) {
        // A style that spans the line break would colour the margin of some terminals.
        self.emit('\n', Style::default(), out);
        self.inline = Inline::default();
        self.place = Place::LineStart;
    }

    fn flush_held(&mut self, style: Style, out: &mut String) {
        let held = std::mem::take(&mut self.held);
        held.chars().for_each(|ch| self.emit(ch, style, out));
    }

    fn emit_text(&mut self, ch: char, out: &mut String) {
        self.emit(ch, self.inline.style(), out);
        self.inline.previous = Some(ch);
    }

    fn emit(&mut self, ch: char, style: Style, out: &mut String) {
        self.current.change(style, out);
        out.push(visible(ch));
    }
}

impl Inline {
    fn style(&self) -> Style {
        if self.code.is_some() {
            return CODE.with(self.base);
        }
        let link = if self.url { LINK } else { Style::default() };
        let emphasis =
            Style { bold: self.bold.is_some(), italic: self.italic.is_some(), strike: self.strike, ..Style::default() };
        emphasis.with(link).with(self.base)
    }

    fn toggle_code(&mut self, length: usize) -> bool {
        match self.code {
            None => self.code = Some(length),
            Some(opened) if opened == length => self.code = None,
            Some(_) => return false,
        }
        true
    }

    fn toggle_strike(&mut self, length: usize, next: Option<char>) -> bool {
        let applies = length == 2 && (self.strike || !is_space(next));
        self.strike ^= applies;
        applies
    }

    /// CommonMark's flanking rules, stricter where programs and formulas would be taken for emphasis (`2*3`, `a_b`).
    fn toggle_emphasis(&mut self, marker: char, length: usize, next: Option<char>) -> bool {
        let mut rest = length;
        let may_close = !is_space(self.previous) && (marker == '*' || !is_word(next));
        if may_close && rest >= 2 && self.bold == Some(marker) {
            self.bold = None;
            rest -= 2;
        }
        if may_close && rest >= 1 && self.italic == Some(marker) {
            self.italic = None;
            rest -= 1;
        }
        let inside_word = self.previous.is_some_and(|ch| ch.is_ascii_alphanumeric() || (marker == '_' && ch.is_alphanumeric()));
        if rest == length && length <= 3 && !inside_word && !is_space(next) {
            if length >= 2 {
                self.bold = Some(marker);
            }
            if length != 2 {
                self.italic = Some(marker);
            }
            rest = 0;
        }
        rest < length
    }
}

const INDENT: [char; 2] = [' ', '\t'];
const MARKER: Style = Style { dim: true, ..Style::PLAIN };
const BULLET: Style = Style { color: Some(Color::Yellow), ..Style::PLAIN };
const CODE: Style = Style { color: Some(Color::Cyan), ..Style::PLAIN };
const HEADING: Style = Style { bold: true, color: Some(Color::Magenta), ..Style::PLAIN };
const QUOTE: Style = Style { italic: true, ..Style::PLAIN };
const LINK: Style = Style { dim: true, underline: true, ..Style::PLAIN };

fn is_heading(marker: &str) -> bool {
    (1..=6).contains(&marker.len()) && marker.chars().all(|ch| ch == '#')
}

fn is_bullet(marker: &str) -> bool {
    matches!(marker, "-" | "*" | "+")
        || marker.strip_suffix(['.', ')']).is_some_and(|n| !n.is_empty() && n.chars().all(|ch| ch.is_ascii_digit()))
}

fn fence_of(line: &str) -> Option<Fence> {
    let marker = line.chars().next().filter(|ch| matches!(ch, '`' | '~'))?;
    let length = line.chars().take_while(|ch| *ch == marker).count();
    (length >= 3).then_some(Fence { marker, length })
}

fn is_space(ch: Option<char>) -> bool {
    ch.is_none_or(char::is_whitespace)
}

fn is_word(ch: Option<char>) -> bool {
    ch.is_some_and(char::is_alphanumeric)
}

/// A character that is safe to print: controls become their pictures, bidirectional overrides a replacement.
pub fn visible(ch: char) -> char {
    match ch {
        '\n' | '\t' => ch,
        '\0'..='\x1f' => char::from_u32(0x2400 + ch as u32).unwrap_or('\u{fffd}'),
        '\x7f' => '\u{2421}',
        '\u{80}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        _ => ch,
    }
}

#[cfg(test)]
mod tests;
