//! GPT-2's alphabet: every byte as one printable character, so that any text can be merged as characters
//! (`bytes_to_unicode` of GPT-2's `encoder.py`).

use std::sync::LazyLock;

/// The characters of a text's bytes.
pub fn spell(text: &str) -> String {
    text.bytes().map(|byte| CHARS[byte as usize]).collect()
}

/// The bytes that a token of the alphabet stands for; a token with any other character in it stands for its own text.
pub fn bytes(token: &str) -> Box<[u8]> {
    token.chars().map(byte_of).collect::<Option<_>>().unwrap_or_else(|| token.as_bytes().into())
}

static CHARS: LazyLock<[char; 256]> = LazyLock::new(|| {
    // Printable Latin-1 stands for itself; the rest follows from U+0100 on, in order.
    let mut others = '\u{100}'..;
    std::array::from_fn(|byte| if is_printable(byte as u8) { byte as u8 as char } else { others.next().unwrap_or_default() })
});

fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

fn byte_of(c: char) -> Option<u8> {
    match u8::try_from(c) {
        Ok(byte) => is_printable(byte).then_some(byte),
        Err(_) => BYTES_FROM_256.get(c as usize - 0x100).copied(),
    }
}

static BYTES_FROM_256: LazyLock<Vec<u8>> = LazyLock::new(|| (0..=255).filter(|&byte| !is_printable(byte)).collect());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        for byte in 0..=255u8 {
            assert_eq!(byte_of(CHARS[byte as usize]), Some(byte));
        }
        assert_eq!(spell(" é\n"), "ĠÃ©Ċ");
        assert_eq!(*bytes("ĠÃ©Ċ"), *" é\n".as_bytes());
        assert_eq!(*bytes("a b"), *b"a b");
    }
}
