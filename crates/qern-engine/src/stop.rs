//! Stop strings over streamed text: nothing of a stop string, or of what may become one, is let through. Knows no tokens.

/// Watches one answer's text for its stop strings.
#[derive(Clone, Debug)]
pub(crate) struct StopMatcher {
    stops: Vec<String>,
    include_stop: bool,
    /// Text that may be the beginning of a stop string: the longest suffix of the text that is a prefix of any.
    held: String,
}

/// What a piece of text led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Matched {
    /// No stop string yet.
    No,
    /// This one; nothing after it is let through.
    Stop(String),
}

impl StopMatcher {
    /// `stops` are not empty strings (`ValidRequest` says so).
    pub(crate) fn new(stops: Vec<String>, include_stop: bool) -> Self {
        Self { stops, include_stop, held: String::new() }
    }

    /// Takes the next text and returns what is safe to show. The stop string that ends earliest in the text wins, of those that
    /// end together the longest: the one rule under which the result does not depend on how the text was cut.
    pub(crate) fn push(&mut self, text: &str) -> (String, Matched) {
        if self.stops.is_empty() {
            return (text.to_owned(), Matched::No);
        }
        let already_searched = self.held.len();
        self.held.push_str(text);
        if let Some((end, stop)) = self.first_match(already_searched) {
            let stop = stop.to_owned();
            let shown = if self.include_stop { end } else { end - stop.len() };
            let mut out = std::mem::take(&mut self.held);
            out.truncate(shown);
            return (out, Matched::Stop(stop));
        }
        let keep = self.held.split_off(self.held.len() - self.longest_prefix_at_end());
        (std::mem::replace(&mut self.held, keep), Matched::No)
    }

    /// What was held back, at the end of the text.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    fn first_match(&self, already_searched: usize) -> Option<(usize, &str)> {
        let text = self.held.as_bytes();
        (already_searched + 1..=text.len()).find_map(|end| {
            let ending_here = self.stops.iter().filter(|stop| text[..end].ends_with(stop.as_bytes()));
            ending_here.max_by_key(|stop| stop.len()).map(|stop| (end, stop.as_str()))
        })
    }

    /// Length of the longest suffix of `held` that begins a stop string. It starts a character: a prefix of a `str` does.
    fn longest_prefix_at_end(&self) -> usize {
        let text = self.held.as_bytes();
        let longest = self.stops.iter().map(|stop| stop.len() - 1).max().unwrap_or(0).min(text.len());
        let begins_one = |suffix: &[u8]| self.stops.iter().any(|stop| stop.as_bytes().starts_with(suffix));
        (1..=longest).rev().find(|&len| begins_one(&text[text.len() - len..])).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All pieces' output, and the stop string that matched.
    fn run<'a>(stops: &[&str], include_stop: bool, pieces: impl IntoIterator<Item = &'a str>) -> (Vec<String>, Option<String>) {
        let mut matcher = StopMatcher::new(stops.iter().map(|&stop| stop.to_owned()).collect(), include_stop);
        let mut outs = Vec::new();
        for piece in pieces {
            let (out, matched) = matcher.push(piece);
            outs.push(out);
            if let Matched::Stop(stop) = matched {
                return (outs, Some(stop));
            }
        }
        outs.push(matcher.finish());
        (outs, None)
    }

    fn check(stops: &[&str], pieces: &[&str], outs: &[&str], stop: Option<&str>) {
        assert_eq!(run(stops, false, pieces.iter().copied()), (outs.iter().map(|&s| s.into()).collect(), stop.map(Into::into)));
    }

    #[test]
    fn stop_strings_are_found_and_hidden_across_pieces() {
        check(&[], &["ab", "c"], &["ab", "c", ""], None);
        check(&["###"], &["a#", "#b", "###c"], &["a", "##b", ""], Some("###"));
        check(&["END"], &["x E", "N", "D"], &["x ", "", ""], Some("END"));
        check(&["END"], &["x E", "N", "X"], &["x ", "", "ENX", ""], None);
        check(&["END"], &["x EN"], &["x ", "EN"], None);
        check(&["aab"], &["a", "a", "a", "b"], &["", "", "a", ""], Some("aab"));
        check(&["</s>", "\n\n"], &["a\n", "b\n", "\nc"], &["a", "\nb", ""], Some("\n\n"));
        check(&["é!"], &["caf", "é", "?"], &["caf", "", "é?", ""], None);
    }

    #[test]
    fn of_several_the_one_that_ends_first_wins_then_the_longest() {
        check(&["c", "abcd"], &["abcd"], &["ab"], Some("c"));
        check(&["bc", "abc"], &["xabc"], &["x"], Some("abc"));
        check(&["b", "ab"], &["a", "b"], &["", ""], Some("ab"));
    }

    #[test]
    fn a_stop_string_can_be_part_of_the_text() {
        assert_eq!(run(&["END"], true, ["x E", "NDy"]), (vec!["x ".into(), "END".into()], Some("END".into())));
    }

    /// The definition, on the whole text.
    fn naive(stops: &[&str], text: &str) -> (String, Option<String>) {
        for end in 1..=text.len() {
            let found =
                stops.iter().filter(|stop| text.as_bytes()[..end].ends_with(stop.as_bytes())).max_by_key(|stop| stop.len());
            if let Some(stop) = found {
                return (text[..end - stop.len()].to_owned(), Some((*stop).to_owned()));
            }
        }
        (text.to_owned(), None)
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_text_and_stop(
            pieces in prop::collection::vec("[abé]{0,4}", 0..12),
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let (outs, stop) = run(&stops, false, pieces.iter().map(String::as_str));
            prop_assert_eq!((outs.concat(), stop), naive(&stops, &pieces.concat()));
        }

        #[test]
        fn text_is_held_back_no_longer_than_needed(text in "[ab]{0,12}", stop in "[ab]{1,4}") {
            let mut matcher = StopMatcher::new(vec![stop.clone()], false);
            let (out, matched) = matcher.push(&text);
            if matched == Matched::No {
                let held = &text[out.len()..];
                prop_assert!(stop.starts_with(held));
                prop_assert!((0..out.len()).all(|start| !stop.starts_with(&text[start..])));
            }
        }
    }
}
