//! What happens to text before it is split: Unicode normalization and literal replacements. No patterns.

use std::borrow::Cow;

use unicode_normalization_alignments::UnicodeNormalization;

/// Steps in order.
#[derive(Debug, Default)]
pub struct Normalizer(pub Vec<Step>);

#[derive(Debug)]
pub enum Step {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    /// Put before any text that is not empty.
    Prepend(String),
    Replace {
        from: String,
        to: String,
    },
}

impl Normalizer {
    pub fn apply<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.0.iter().fold(Cow::Borrowed(text), |text, step| step.apply(text))
    }
}

impl Step {
    fn apply<'a>(&self, text: Cow<'a, str>) -> Cow<'a, str> {
        match self {
            // Nothing below U+0300 decomposes and composes to anything else.
            Self::Nfc if text.chars().all(|c| c < '\u{300}') => text,
            _ if text.is_empty() => text,
            Self::Nfc => text.nfc().map(|(c, _)| c).collect(),
            Self::Nfd | Self::Nfkc | Self::Nfkd if text.is_ascii() => text,
            Self::Nfd => text.nfd().map(|(c, _)| c).collect(),
            Self::Nfkc => text.nfkc().map(|(c, _)| c).collect(),
            Self::Nfkd => text.nfkd().map(|(c, _)| c).collect(),
            Self::Prepend(prefix) => format!("{prefix}{text}").into(),
            Self::Replace { from, to } => text.replace(from, to).into(),
        }
    }
}
