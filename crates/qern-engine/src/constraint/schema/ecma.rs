//! Patterns of ECMA 262, as JSON Schema has them, in the engine's syntax: escapes that it does not know, and look-ahead at the beginning,
//! which becomes patterns that hold besides. Decides nothing about schemas.

use super::language::Language;

/// Patterns that together mean this one.
pub(super) fn patterns(pattern: &str) -> Result<Vec<String>, String> {
    let (ahead, rest) = leading_lookaheads(pattern)?;
    let mut all = Vec::new();
    let rest = respelled(&rest);
    Language::pattern(&rest)?;
    all.push(rest);
    for (is_positive, text) in ahead {
        let language = Language::pattern(&format!("^(?:{})", respelled(&text)))?;
        let language = if is_positive { language } else { language.not() };
        all.push(language.to_pattern().ok_or("its look-ahead is too large")?);
    }
    Ok(all)
}

/// `^(?!a)(?=b)c` as what must not and must follow the beginning, and `^c`.
fn leading_lookaheads(pattern: &str) -> Result<(Vec<(bool, String)>, String), String> {
    let Some(mut rest) = pattern.strip_prefix('^') else { return Ok((Vec::new(), pattern.into())) };
    let mut ahead = Vec::new();
    loop {
        let is_positive = rest.starts_with("(?=");
        if !is_positive && !rest.starts_with("(?!") {
            break;
        }
        let end = closing(rest).ok_or("a bracket is not closed")?;
        ahead.push((is_positive, rest[3..end].to_string()));
        rest = &rest[end + 1..];
    }
    // `^(?!a)b|c` is two patterns, of which only one begins so.
    if !ahead.is_empty() && has_bare_bar(rest) {
        return Err("look-ahead in one of several alternatives is not supported".into());
    }
    Ok((ahead, format!("^{rest}")))
}

/// Where the group that the text begins with ends.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut in_class, mut is_escaped) = (0_usize, false, false);
    for (place, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '[' => in_class = true,
            ']' => in_class = false,
            '(' if !in_class => depth += 1,
            ')' if !in_class => {
                depth -= 1;
                if depth == 0 {
                    return Some(place);
                }
            }
            _ => {}
        }
    }
    None
}

fn has_bare_bar(text: &str) -> bool {
    let (mut depth, mut in_class, mut is_escaped) = (0_i32, false, false);
    for c in text.chars() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '[' => in_class = true,
            ']' => in_class = false,
            '(' if !in_class => depth += 1,
            ')' if !in_class => depth -= 1,
            '|' if !in_class && depth == 0 => return true,
            _ => {}
        }
    }
    false
}

/// Escapes and brackets that ECMA 262 allows and Rust does not.
fn respelled(pattern: &str) -> String {
    let chars: Vec<char> = pattern.chars().collect();
    let (mut out, mut place, mut in_class) = (String::with_capacity(pattern.len() + 8), 0, false);
    while place < chars.len() {
        let c = chars[place];
        let next = chars.get(place + 1).copied();
        match (c, next) {
            ('\\', Some('u')) if chars.get(place + 2..place + 6).is_some_and(|hex| hex.iter().all(char::is_ascii_hexdigit)) => {
                out.push_str("\\x{");
                out.extend(&chars[place + 2..place + 6]);
                out.push('}');
                place += 6;
                continue;
            }
            // An escape of a character that needs none.
            ('\\', Some(escaped)) if !escaped.is_ascii_alphanumeric() => {
                if escaped.is_ascii_punctuation()
                    && !matches!(escaped, '_' | '\'' | '"' | ',' | ';' | ':' | '<' | '>' | '=' | '@' | '%' | '`' | '!')
                {
                    out.push('\\');
                }
                out.push(escaped);
                place += 2;
                continue;
            }
            ('\\', Some(escaped)) => {
                out.push('\\');
                out.push(escaped);
                place += 2;
                continue;
            }
            ('[', _) if in_class => out.push_str("\\["),
            ('[', Some('^')) if chars.get(place + 2) == Some(&']') => {
                // Anything.
                out.push_str("(?s:.)");
                place += 3;
                continue;
            }
            ('[', _) => {
                in_class = true;
                out.push('[');
            }
            (']', _) if in_class => {
                in_class = false;
                out.push(']');
            }
            // `[\w-.]`: a dash beside a class is a dash.
            ('-', Some(next)) if in_class && next != ']' && follows_class(&chars[..place]) => out.push_str("\\-"),
            ('&' | '~', Some(next)) if in_class && next == c => {
                out.push('\\');
                out.push(c);
            }
            ('{', next) if !in_class && !next.is_some_and(|next| next.is_ascii_digit()) => out.push_str("\\{"),
            ('}', _) if !in_class && !closes_count(&chars[..place]) => out.push_str("\\}"),
            _ => out.push(c),
        }
        place += 1;
    }
    out
}

/// Whether the text ends with `\w` or its like.
fn follows_class(before: &[char]) -> bool {
    matches!(before, [.., '\\', 'w' | 'W' | 'd' | 'D' | 's' | 'S'])
}

/// Whether a brace closes `{2` or `{2,3`.
fn closes_count(before: &[char]) -> bool {
    let open = before.iter().rposition(|&c| c == '{');
    open.is_some_and(|open| {
        let inside = &before[open + 1..];
        !inside.is_empty() && inside.iter().all(|c| c.is_ascii_digit() || *c == ',')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, inside: &[&str], outside: &[&str]) {
        let all: Vec<Language> = patterns(pattern).unwrap().iter().map(|p| Language::pattern(p).unwrap()).collect();
        let holds = |text: &str| all.iter().all(|language| language.contains(text) == Some(true));
        inside.iter().for_each(|text| assert!(holds(text), "{text:?} by {pattern}"));
        outside.iter().for_each(|text| assert!(!holds(text), "{text:?} by {pattern}"));
    }

    #[test]
    fn look_ahead_at_the_beginning_is_kept() {
        check("^(?!foo)[a-z]+$", &["bar", "fo"], &["foo", "foobar", ""]);
        check("^(?=.*[0-9])(?=.*[a-z]).{3,}$", &["a1b", "1b_"], &["abc", "123", "a1"]);
        check("^(?!\\s*$).+", &["a", " a"], &["", "  "]);
    }

    #[test]
    fn escapes_that_need_none_are_read() {
        check(r"^[\w-.]+\_\u0041$", &["a-._A"], &["a A"]);
        check(r"^{a}$", &["{a}"], &["a"]);
        check(r"^[^]x{2}$", &["\nxx"], &["x"]);
    }

    #[test]
    fn what_has_no_grammar_is_refused() {
        for pattern in [r"(a)\1", r"a(?!b)c", r"^(?!a)b|c", r"(?<=a)b", r"\bword\b"] {
            assert!(patterns(pattern).is_err(), "{pattern}");
        }
    }
}
