//! The text of one answer: tokens through the detokenizer and the stop matcher. No events, no tokens kept.

use crate::detokenizer::Detokenizer;
use crate::request::GenerateRequest;
use crate::stop::{Matched, StopMatcher};
use crate::{TokenId, TokenText};

#[derive(Clone, Debug)]
pub(crate) struct AnswerText {
    detokenizer: Detokenizer,
    stops: StopMatcher,
}

impl AnswerText {
    pub(crate) fn new(request: &GenerateRequest) -> Self {
        let stops = StopMatcher::new(request.stop.clone(), request.include_stop);
        Self { detokenizer: Detokenizer::new(request.show_special), stops }
    }

    /// The text that became safe to show, and whether a stop string ended the answer.
    pub(crate) fn push(&mut self, text: &dyn TokenText, token: TokenId) -> (String, Matched) {
        let characters = self.detokenizer.push(text, token);
        self.stops.push(&characters)
    }

    /// What was held back, when the answer has ended otherwise than by a stop string.
    pub(crate) fn finish(&mut self) -> String {
        let (mut out, matched) = self.stops.push(self.detokenizer.finish());
        if matched == Matched::No {
            out.push_str(&self.stops.finish());
        }
        out
    }
}
