//! Beam search as transformers defines it (`BeamSearchScorer`): scores are sums of log-probabilities, complete answers compete by
//! sum over length to a power. Beams share the pages of their common beginning. No pages are allocated here, no events sent.

use crate::constraint::Matcher;
use crate::group::{CommitContext, row_error};
use crate::sampler::logprobs::log_sum_exp;
use crate::sampler::row::{self, Candidate};
use crate::sequence::Sequence;
use crate::stop::Matched;
use crate::{BeamParams, EarlyStopping, Error, FinishReason, TokenId, ValidRequest};

pub(crate) struct BeamSearch {
    params: BeamParams,
    num_answers: usize,
    /// One per live sequence, in its order.
    beams: Vec<Beam>,
    /// Complete answers, at most `width`, best first.
    answers: Vec<Answer>,
}

/// What a live sequence has come to.
#[derive(Clone, Debug, Default)]
struct Beam {
    /// Sum of the log-probabilities of its tokens.
    sum: f64,
    /// Its text, without what is held back.
    text: String,
}

/// A complete answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) text: String,
    pub(crate) reason: FinishReason,
    pub(crate) num_generated: usize,
    /// Sum of log-probabilities over `num_generated ^ length_penalty`.
    pub(crate) score: f64,
}

/// A beam with one more token.
#[derive(Clone, Copy, Debug)]
struct Extension {
    beam: usize,
    token: TokenId,
    sum: f64,
}

impl BeamSearch {
    pub(crate) fn new(params: BeamParams, num_answers: usize) -> Self {
        Self { params, num_answers, beams: vec![Beam::default()], answers: Vec::new() }
    }

    pub(crate) fn width(&self) -> usize {
        self.params.width
    }

    /// Replaces the sequences by their best extensions. Returns why the search is over, if it is.
    pub(crate) fn advance(
        &mut self,
        sequences: &mut Vec<Sequence>,
        rows: &[f32],
        vocab: usize,
        request: &ValidRequest,
        end_tokens: &[TokenId],
        context: &mut CommitContext<'_>,
    ) -> Result<Option<FinishReason>, Error> {
        let num_generated = sequences[0].num_generated + 1;
        let forbidden = if num_generated <= request.raw().min_tokens { end_tokens } else { &[] };
        let extensions = self.extensions(rows, vocab, request, end_tokens.len(), forbidden, sequences)?;
        let (mut live, mut live_beams) = (Vec::new(), Vec::new());
        for (rank, extension) in extensions.into_iter().enumerate() {
            if live.len() == self.params.width {
                break;
            }
            let may_end = sequences[extension.beam].matcher.as_mut().is_none_or(Matcher::is_accepting);
            let parent = &sequences[extension.beam];
            if may_end && end_tokens.binary_search(&extension.token).is_ok() {
                // A worse one would never have been a beam.
                if rank < self.params.width {
                    self.complete(parent, extension, FinishReason::Stop, num_generated);
                }
                continue;
            }
            let mut text = parent.text.clone();
            let (shown, matched) = text.push(context.text, extension.token);
            let beam = Beam { sum: extension.sum, text: format!("{}{shown}", self.beams[extension.beam].text) };
            let mut child = Sequence::new(0, &parent.tokens, parent.adapter, parent.sampler.clone(), text);
            child.num_prompt = parent.num_prompt;
            child.tokens.push(extension.token);
            child.matcher = parent.matcher.clone();
            if let Some(matcher) = &mut child.matcher {
                matcher.commit(extension.token)?;
            }
            if let Matched::Stop(stop) = matched {
                self.add(answer(&child, beam, FinishReason::StopString(stop), num_generated, self.params.length_penalty));
                continue;
            }
            if child.matcher.as_ref().is_some_and(Matcher::is_complete) {
                self.add(answer(&child, beam, FinishReason::Stop, num_generated, self.params.length_penalty));
                continue;
            }
            (child.num_generated, child.first_token, child.last_token) =
                (parent.num_generated, parent.first_token, parent.last_token);
            child.note_token();
            child.share(parent, parent.computed, context.pool);
            live.push(child);
            live_beams.push(beam);
        }
        if live.is_empty() {
            // Every extension is complete (or forbidden): what lives on is nothing, so only the answers count.
            self.beams.clear();
            return Ok(Some(FinishReason::Stop));
        }
        for mut old in std::mem::replace(sequences, live) {
            old.forget(context.pool);
        }
        self.beams = live_beams;
        Ok(self.end(sequences, num_generated, request, context.max_positions))
    }

    /// The best extensions of all beams, best first; enough of them that `width` live ones remain whatever ends.
    fn extensions(
        &self,
        rows: &[f32],
        vocab: usize,
        request: &ValidRequest,
        num_end_tokens: usize,
        forbidden: &[TokenId],
        sequences: &mut [Sequence],
    ) -> Result<Vec<Extension>, Error> {
        let position = sequences[0].tokens.len();
        let count = self.params.width * (1 + num_end_tokens.max(1));
        let bias = &request.sampling().params().logit_bias;
        let biased = |id: TokenId| bias.get(&id).map_or(0.0, |&bias| if bias == -100.0 { f32::NEG_INFINITY } else { bias });
        let (mut extensions, mut best, mut adjusted) = (Vec::new(), Vec::new(), Vec::new());
        for (beam, row) in rows.chunks(vocab).enumerate() {
            let log_sum_exp = log_sum_exp(row).map_err(|error| row_error(error, position))?;
            let mut row = row;
            let legal = sequences[beam].matcher.as_mut().map(Matcher::mask).transpose()?;
            if !bias.is_empty() || !forbidden.is_empty() || legal.is_some() {
                adjusted.clear();
                adjusted.extend_from_slice(row);
                bias.keys().for_each(|&id| adjusted[id as usize] += biased(id));
                forbidden.iter().for_each(|&id| adjusted[id as usize] = f32::NEG_INFINITY);
                if let Some(legal) = legal {
                    legal.apply(&mut adjusted);
                }
                row = &adjusted;
            }
            row::top_k(row, count, &mut best);
            let parent = self.beams[beam].sum;
            extensions.extend(best.iter().map(|&Candidate { id, logit }| {
                let sum = parent + (f64::from(logit) - log_sum_exp);
                Extension { beam, token: id, sum }
            }));
        }
        extensions.sort_by(|a, b| b.sum.total_cmp(&a.sum).then(a.beam.cmp(&b.beam)).then(a.token.cmp(&b.token)));
        extensions.truncate(count);
        Ok(extensions)
    }

    /// Whether the search is over now that the live beams have `num_generated` tokens.
    fn end(
        &self,
        sequences: &[Sequence],
        num_generated: usize,
        request: &ValidRequest,
        max_positions: usize,
    ) -> Option<FinishReason> {
        let room = max_positions - sequences[0].num_prompt;
        let max_generated = request.raw().max_tokens.unwrap_or(usize::MAX).min(room);
        if self.answers.len() == self.params.width && !self.can_improve(num_generated, max_generated) {
            return Some(FinishReason::Stop);
        }
        if num_generated < max_generated {
            return None;
        }
        Some(if request.raw().max_tokens == Some(num_generated) { FinishReason::Length } else { FinishReason::Context })
    }

    /// Whether a live beam could still beat the worst complete answer, as far as `early_stopping` looks.
    fn can_improve(&self, num_generated: usize, max_generated: usize) -> bool {
        let length = match self.params.early_stopping {
            EarlyStopping::Immediate => return false,
            EarlyStopping::Heuristic => num_generated,
            EarlyStopping::Never if self.params.length_penalty > 0.0 => max_generated,
            EarlyStopping::Never => num_generated,
        };
        let best = self.beams.iter().map(|beam| beam.sum).fold(f64::NEG_INFINITY, f64::max);
        let worst = self.answers.last().map_or(f64::NEG_INFINITY, |answer| answer.score);
        score(best, length, self.params.length_penalty) > worst
    }

    fn complete(&mut self, parent: &Sequence, extension: Extension, reason: FinishReason, num_generated: usize) {
        let beam = Beam { sum: extension.sum, text: self.beams[extension.beam].text.clone() };
        self.add(answer(parent, beam, reason, num_generated, self.params.length_penalty));
    }

    fn add(&mut self, answer: Answer) {
        let place = self.answers.partition_point(|other| other.score >= answer.score);
        self.answers.insert(place, answer);
        self.answers.truncate(self.params.width);
    }

    /// The best answers, best first. Ended by length, live beams count as answers.
    pub(crate) fn into_answers(mut self, sequences: &mut [Sequence], reason: &FinishReason) -> Vec<Answer> {
        if *reason != FinishReason::Stop {
            for (sequence, beam) in sequences.iter().zip(std::mem::take(&mut self.beams)) {
                let num_generated = sequence.num_generated;
                self.add(answer(sequence, beam, reason.clone(), num_generated, self.params.length_penalty));
            }
        }
        self.answers.truncate(self.num_answers);
        self.answers
    }
}

fn answer(sequence: &Sequence, beam: Beam, reason: FinishReason, num_generated: usize, length_penalty: f32) -> Answer {
    let mut text = beam.text;
    if !matches!(reason, FinishReason::StopString(_)) {
        text.push_str(&sequence.text.clone().finish());
    }
    let tokens = sequence.tokens[sequence.num_prompt..].to_vec();
    Answer { tokens, text, reason, num_generated, score: score(beam.sum, num_generated, length_penalty) }
}

fn score(sum: f64, num_generated: usize, length_penalty: f32) -> f64 {
    sum / (num_generated.max(1) as f64).powf(f64::from(length_penalty))
}
