//! Text styles and their escape sequences. Knows nothing of what is styled.

/// Attributes of a run of text.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Heavier.
    pub bold: bool,
    /// Fainter.
    pub dim: bool,
    /// Slanted.
    pub italic: bool,
    /// Underlined.
    pub underline: bool,
    /// Struck through.
    pub strike: bool,
    /// Foreground, `None` for the terminal's own.
    pub color: Option<Color>,
}

/// One of the terminal's own colours, so that the user's theme decides the shade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Color {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Blue = 34,
    Magenta = 35,
    Cyan = 36,
}

impl Style {
    /// No attribute at all.
    pub const PLAIN: Style = Style { bold: false, dim: false, italic: false, underline: false, strike: false, color: None };

    /// Fainter text.
    pub const DIM: Style = Style { dim: true, ..Style::PLAIN };

    /// The attributes of both; the colour of `self` wins.
    pub fn with(self, other: Style) -> Style {
        Style {
            bold: self.bold || other.bold,
            dim: self.dim || other.dim,
            italic: self.italic || other.italic,
            underline: self.underline || other.underline,
            strike: self.strike || other.strike,
            color: self.color.or(other.color),
        }
    }

    /// Moves the terminal from this style to `next`, appending the escape sequence if they differ.
    pub fn change(&mut self, next: Style, out: &mut String) {
        if *self != next {
            if *self != Style::PLAIN {
                out.push_str("\x1b[0m");
            }
            next.begin(out);
            *self = next;
        }
    }

    /// `text` in this style, if `enabled`.
    pub fn paint(self, text: &str, enabled: bool) -> String {
        let mut out = String::with_capacity(text.len() + 8);
        let mut current = Style::PLAIN;
        if enabled {
            current.change(self, &mut out);
        }
        out.push_str(text);
        current.change(Style::PLAIN, &mut out);
        out
    }

    fn begin(self, out: &mut String) {
        let attributes = [(self.bold, 1), (self.dim, 2), (self.italic, 3), (self.underline, 4), (self.strike, 9)];
        let codes = attributes.into_iter().filter(|(on, _)| *on).map(|(_, code)| code).chain(self.color.map(|color| color as u8));
        let codes: Vec<String> = codes.map(|code| code.to_string()).collect();
        if !codes.is_empty() {
            out.push_str(&format!("\x1b[{}m", codes.join(";")));
        }
    }
}

/// `text` without its escape sequences of the form `ESC [ ... letter`.
pub fn strip(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(ch) = chars.next() {
        if ch == '\x1b' {
            chars.by_ref().find(char::is_ascii_alphabetic);
        } else {
            out.push(ch);
        }
    }
    out
}
