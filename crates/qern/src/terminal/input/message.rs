//! Messages of several lines: a line that ends in `\` goes on, and a message that starts with `"""` ends with `"""`.

const BLOCK: &str = "\"\"\"";

/// Whether `entered` is a whole message.
pub fn is_complete(entered: &str) -> bool {
    let trimmed = entered.trim();
    if let Some(block) = trimmed.strip_prefix(BLOCK) {
        return block.ends_with(BLOCK);
    }
    let backslashes = entered.chars().rev().take_while(|ch| *ch == '\\').count();
    backslashes % 2 == 0
}

/// The message without its continuation marks.
pub fn unfold(entered: &str) -> String {
    let trimmed = entered.trim();
    match trimmed.strip_prefix(BLOCK) {
        Some(block) => {
            let block = block.strip_suffix(BLOCK).unwrap_or(block);
            let block = block.strip_prefix("\r\n").or_else(|| block.strip_prefix('\n')).unwrap_or(block);
            block.strip_suffix('\n').map_or(block, |block| block.strip_suffix('\r').unwrap_or(block)).to_string()
        }
        None => entered.replace("\\\r\n", "\n").replace("\\\n", "\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_complete_unless_it_says_that_it_goes_on() {
        for (entered, complete) in [
            ("", true),
            ("hello", true),
            ("hello\\", false),
            ("ends in a backslash \\\\", true),
            ("\"\"\"", false),
            ("\"\"\"text", false),
            ("\"\"\"text\nmore\"\"\"", true),
            ("\"\"\"\"\"\"", true),
            ("say \"\"\" inside", true),
        ] {
            assert_eq!(is_complete(entered), complete, "{entered:?}");
        }
    }

    #[test]
    fn unfolding_keeps_the_text_and_drops_the_marks() {
        for (entered, message) in
            [("a\\\nb", "a\nb"), ("\"\"\"\na\n  b\n\"\"\"", "a\n  b"), ("\"\"\"a\"\"\"", "a"), ("plain\npaste", "plain\npaste")]
        {
            assert_eq!(unfold(entered), message, "{entered:?}");
        }
    }
}
