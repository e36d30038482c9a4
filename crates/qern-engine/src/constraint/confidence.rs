//! How sure the model was of each value of a JSON answer: the probability of its tokens among those that the constraint left. Reads text
//! and probabilities; knows nothing of grammars.

/// The probability of one value.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldConfidence {
    /// Where it stands: a JSON pointer.
    pub path: String,
    /// Its text, as the answer writes it.
    pub text: String,
    /// Probability of the tokens that it is made of, each among the legal ones; from 0 to 1.
    pub probability: f64,
}

/// The values of a JSON answer that are neither objects nor arrays, in order. `tokens` are the bytes of each token and its
/// log-probability under the constraint (`TokenLogprob::constrained`); a token that a value shares with its surroundings counts whole.
/// Of an answer that was cut off, the values that are complete.
pub fn field_confidence<'a>(tokens: impl IntoIterator<Item = (&'a [u8], f32)>) -> Vec<FieldConfidence> {
    let mut text = Vec::new();
    // Where each token ends.
    let mut ends: Vec<(usize, f32)> = Vec::new();
    for (bytes, logprob) in tokens {
        text.extend_from_slice(bytes);
        ends.push((text.len(), logprob));
    }
    let mut reader = Reader { text: &text, place: 0, leaves: Vec::new() };
    _ = reader.value(&mut String::new(), 0);
    let of = |leaf: Leaf| {
        let first = ends.partition_point(|(end, _)| *end <= leaf.start);
        let last = ends.partition_point(|(end, _)| *end < leaf.end);
        let sum: f64 = ends[first..=last.min(ends.len() - 1)].iter().map(|(_, logprob)| f64::from(*logprob)).sum();
        let text = String::from_utf8_lossy(&text[leaf.start..leaf.end]).into_owned();
        FieldConfidence { path: leaf.path, text, probability: sum.exp().min(1.0) }
    };
    std::mem::take(&mut reader.leaves).into_iter().map(of).collect()
}

struct Leaf {
    path: String,
    start: usize,
    end: usize,
}

/// Reads as far as the text is JSON; `None` ends it.
struct Reader<'a> {
    text: &'a [u8],
    place: usize,
    leaves: Vec<Leaf>,
}

impl Reader<'_> {
    fn value(&mut self, path: &mut String, depth: usize) -> Option<()> {
        self.space();
        let start = self.place;
        match self.text.get(start)? {
            _ if depth > 512 => return None,
            b'{' => return self.members(path, depth, b'}'),
            b'[' => return self.members(path, depth, b']'),
            b'"' => _ = self.string()?,
            _ => {
                let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
                let len = self.text[start..].iter().position(is_end);
                // At the end of the text a number is complete only if it is all there is.
                let len = if depth == 0 { len.or(Some(self.text.len() - start)) } else { len };
                self.place += len.filter(|&len| len > 0)?;
            }
        }
        self.leaves.push(Leaf { path: path.clone(), start, end: self.place });
        Some(())
    }

    fn members(&mut self, path: &mut String, depth: usize, close: u8) -> Option<()> {
        self.place += 1;
        for index in 0.. {
            self.space();
            if self.take(close) || index > 0 && !self.take(b',') {
                return Some(());
            }
            self.space();
            let length = path.len();
            path.push('/');
            if close == b'}' {
                let key = self.string()?;
                path.push_str(&key.replace('~', "~0").replace('/', "~1"));
                self.space();
                if !self.take(b':') {
                    return None;
                }
            } else {
                path.push_str(&index.to_string());
            }
            self.value(path, depth + 1)?;
            path.truncate(length);
        }
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        let start = self.place;
        if !self.take(b'"') {
            return None;
        }
        while !self.take(b'"') {
            self.place += if *self.text.get(self.place)? == b'\\' { 2 } else { 1 };
        }
        serde_json::from_slice(self.text.get(start..self.place)?).ok()
    }

    fn space(&mut self) {
        self.place += self.text[self.place.min(self.text.len())..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_there = self.text.get(self.place) == Some(&byte);
        self.place += usize::from(is_there);
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tokens: &[(&str, f32)], expected: &[(&str, &str, f32)]) {
        let found = field_confidence(tokens.iter().map(|(text, logprob)| (text.as_bytes(), *logprob)));
        let found: Vec<_> = found.iter().map(|field| (field.path.as_str(), field.text.as_str(), field.probability)).collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!((found.0, found.1), (expected.0, expected.1));
            assert!((found.2 - f64::from(expected.2).exp()).abs() < 1e-6, "{found:?}, {expected:?}");
        }
    }

    #[test]
    fn each_leaf_has_the_probability_of_its_tokens() {
        let tokens = [
            ("{\"a\": \"", -0.5),
            ("x", -1.0),
            ("y\"", -2.0),
            (", \"b\": [", 0.0),
            ("12", -0.25),
            (", ", 0.0),
            ("true", -4.0),
            ("]}", 0.0),
        ];
        check(&tokens, &[("/a", "\"xy\"", -3.5), ("/b/0", "12", -0.25), ("/b/1", "true", -4.0)]);
        check(&[("\"a", -1.0), ("\"", -1.0)], &[("", "\"a\"", -2.0)]);
        check(&[("7", -1.0)], &[("", "7", -1.0)]);
        check(&[("{\"a/b~\":null", -1.0), ("}", 0.0)], &[("/a~1b~0", "null", -1.0)]);
    }

    #[test]
    fn of_an_answer_that_was_cut_off_the_complete_values_count() {
        check(&[("{\"a\": 1, ", -1.0), ("\"b\": \"xy", -1.0)], &[("/a", "1", -1.0)]);
        check(&[("{\"a\": 1", -1.0)], &[]);
        check(&[("{\"a\": \"x\\", -1.0)], &[]);
        check(&[], &[]);
    }
}
