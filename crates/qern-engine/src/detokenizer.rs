//! Tokens to text, one at a time, never half a character. Knows nothing of stop strings.

use crate::{TokenId, TokenText};

/// The text of one answer as it grows. What it has given out, plus `finish`, is `String::from_utf8_lossy` of all bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Detokenizer {
    /// The beginning of a character whose rest has not arrived: at most 3 bytes between calls.
    pending: Vec<u8>,
    show_special: bool,
}

impl Detokenizer {
    pub(crate) fn new(show_special: bool) -> Self {
        Self { pending: Vec::new(), show_special }
    }

    /// The characters that this token completes; empty for a hidden special token.
    pub(crate) fn push(&mut self, text: &dyn TokenText, token: TokenId) -> String {
        if !self.show_special && text.is_special(token) {
            return String::new();
        }
        match text.token_bytes(token) {
            Some(bytes) => self.push_bytes(&bytes),
            None => String::new(),
        }
    }

    /// What is left at the end: an unfinished character becomes U+FFFD.
    pub(crate) fn finish(&mut self) -> &'static str {
        if self.pending.is_empty() {
            return "";
        }
        self.pending.clear();
        "\u{FFFD}"
    }

    fn push_bytes(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut out = String::new();
        let mut done = 0;
        while done < self.pending.len() {
            match std::str::from_utf8(&self.pending[done..]) {
                Ok(valid) => {
                    out.push_str(valid);
                    done = self.pending.len();
                }
                Err(error) => {
                    let (valid, rest) = self.pending[done..].split_at(error.valid_up_to());
                    // The prefix is valid by the error's own account; lossy conversion borrows it.
                    out.push_str(&String::from_utf8_lossy(valid));
                    done = self.pending.len() - rest.len();
                    // No length: the bytes are a character's beginning, wait for the rest.
                    let Some(len) = error.error_len() else { break };
                    out.push('\u{FFFD}');
                    done += len;
                }
            }
        }
        self.pending.drain(..done);
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn in_chunks<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> String {
        let mut detokenizer = Detokenizer::default();
        let mut out = String::new();
        for chunk in chunks {
            out.push_str(&detokenizer.push_bytes(chunk));
            assert!(detokenizer.pending.len() <= 3);
        }
        out.push_str(detokenizer.finish());
        out
    }

    #[test]
    fn a_character_appears_when_its_last_byte_does() {
        let mut detokenizer = Detokenizer::default();
        let outs: Vec<String> = "aé🦀".bytes().map(|byte| detokenizer.push_bytes(&[byte])).collect();
        assert_eq!(outs, ["a", "", "é", "", "", "", "🦀"]);
        assert_eq!(detokenizer.finish(), "");
    }

    #[test]
    fn broken_bytes_become_replacement_characters() {
        assert_eq!(in_chunks([&b"a\xF0\x9F"[..], b"b\xFF"].into_iter()), "a\u{FFFD}b\u{FFFD}");
        assert_eq!(in_chunks([&b"\xE2\x82"[..]].into_iter()), "\u{FFFD}");
    }

    proptest! {
        #[test]
        fn any_chunking_of_any_bytes_gives_the_lossy_text_of_the_whole(
            chunks in prop::collection::vec(prop::collection::vec(prop_oneof![any::<u8>(), 0x80..0xC0u8, 0xE0..0xF8u8], 0..5), 0..20),
        ) {
            let whole = chunks.concat();
            prop_assert_eq!(in_chunks(chunks.iter().map(Vec::as_slice)), String::from_utf8_lossy(&whole));
        }

        #[test]
        fn any_chunking_of_text_gives_the_text(text in "\\PC{0,40}", size in 1..5usize) {
            prop_assert_eq!(in_chunks(text.as_bytes().chunks(size)), text);
        }
    }
}
