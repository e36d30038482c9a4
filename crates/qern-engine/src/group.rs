//! One request in the engine: its answers in the making, the beginning they share, and what a sampled token leads to.
//! Knows nothing of other requests; which runs are computed when is `scheduler.rs`.

use std::sync::Arc;
use std::time::Instant;

use flume::Sender;

use crate::answer_text::AnswerText;
use crate::beam::BeamSearch;
use crate::constraint::Matcher;
use crate::embed::{EmbedRequest, Embedded, Part, Pooled, Pooling};
use crate::engine::{Arrival, RequestId};
use crate::gate::Place;
use crate::model::LanguageModel;
use crate::pages::{OutOfPages, PagePool};
use crate::random::fresh_seed;
use crate::sampler::logprobs::{constrained_logprob, logprob};
use crate::sampler::row::RowError;
use crate::sequence::{self, Run, Sequence};
use crate::stats::Counts;
use crate::stop::Matched;
use crate::stream::MAX_UNREAD;
use crate::{
    AdapterId, Error, Event, FinishReason, LogitsFor, Rows, Sampler, SamplerContext, SamplerScratch, TokenId, TokenLogprob,
    TokenText, ValidRequest,
};

/// Rows of logits per step at most when a prompt is scored: a row is as wide as the vocabulary.
const MAX_SCORED_ROWS: usize = 64;

/// Tokens at most that close an unfinished structure.
const MAX_CLOSING_TOKENS: usize = 2_000;

/// Where a request's results go.
enum Outlet {
    Events(Sender<Event>),
    Embedding(Pooled),
}

pub(crate) struct Group {
    pub(crate) id: RequestId,
    request: ValidRequest,
    outlet: Outlet,
    /// What it came to since the scheduler last asked.
    pub(crate) counts: Counts,
    /// Its place in the queue, until it starts.
    place: Option<Arc<Place>>,
    pub(crate) deadline: Option<Instant>,
    seed: u64,
    /// Answers, or beams, that are not finished.
    pub(crate) sequences: Vec<Sequence>,
    /// Positions that the first sequence computes for all of them; then the others fork and this is 0.
    shared: usize,
    beam: Option<BeamSearch>,
    /// Log-probabilities of the prompt's tokens from the second on, as far as they are computed.
    prompt_logprobs: Vec<TokenLogprob>,
    prompt_reported: bool,
    /// Tokens that end an answer.
    end_tokens: Vec<TokenId>,
    answers_left: usize,
    submitted: Instant,
    started: Option<Instant>,
}

/// What committing a token needs of the engine.
pub(crate) struct CommitContext<'a> {
    pub(crate) text: &'a dyn TokenText,
    pub(crate) max_positions: usize,
    pub(crate) pool: &'a mut PagePool,
    pub(crate) scratch: &'a mut SamplerScratch,
}

impl Group {
    pub(crate) fn new(arrival: Arrival, request: ValidRequest, events: Sender<Event>, text: &dyn TokenText) -> Self {
        Self::with_outlet(arrival, request, Outlet::Events(events), text)
    }

    /// One input of a request for embeddings: a prompt without an answer.
    pub(crate) fn embedding(
        arrival: Arrival,
        request: &EmbedRequest,
        index: usize,
        parts: Sender<Part>,
        text: &dyn TokenText,
    ) -> Self {
        let prompt = ValidRequest::prompt_alone(request, index);
        Self::with_outlet(arrival, prompt, Outlet::Embedding(Pooled::new(index, request, parts)), text)
    }

    /// What its sequences run with.
    pub(crate) fn adapter(&self) -> Option<AdapterId> {
        self.request.raw().adapter
    }

    fn with_outlet(arrival: Arrival, request: ValidRequest, outlet: Outlet, text: &dyn TokenText) -> Self {
        let Arrival { id, submitted, place } = arrival;
        let raw = request.raw();
        let seed = raw.seed.unwrap_or_else(fresh_seed);
        let beam = raw.beam.map(|params| BeamSearch::new(params, raw.n));
        let num_sequences = if beam.is_some() { 1 } else { raw.n };
        let new_sequence = |index| {
            let sampler = Sampler::new(request.sampling().clone(), seed, index);
            let mut sequence = Sequence::new(index, request.prompt(), raw.adapter, sampler, AnswerText::new(raw));
            sequence.matcher = raw.constraint.as_ref().map(|constraint| constraint.matcher());
            sequence
        };
        let sequences: Vec<Sequence> = (0..num_sequences).map(new_sequence).collect();
        let mut end_tokens = raw.stop_token_ids.clone();
        if !raw.ignore_eos {
            end_tokens.extend_from_slice(text.eos_ids());
        }
        end_tokens.sort_unstable();
        end_tokens.dedup();
        Self {
            id,
            outlet,
            counts: Counts::default(),
            place,
            // A timeout beyond what the clock can say is none.
            deadline: raw.timeout.and_then(|timeout| submitted.checked_add(timeout)),
            seed,
            shared: sequence::shareable(&sequences),
            sequences,
            beam,
            prompt_logprobs: Vec::new(),
            prompt_reported: raw.prompt_logprobs.is_none(),
            end_tokens,
            answers_left: raw.n,
            submitted,
            started: None,
            request,
        }
    }

    /// Sequences that run at once at most.
    pub(crate) fn num_slots(&self) -> usize {
        self.beam.as_ref().map_or(self.sequences.len(), BeamSearch::width)
    }

    pub(crate) fn pages_needed(&self) -> usize {
        sequence::pages_needed(&self.sequences, self.shared)
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.sequences.iter().all(|sequence| sequence.is_finished)
    }

    /// Drops finished sequences. Between schedule and commit they stay, so that runs keep naming the right ones.
    pub(crate) fn sweep(&mut self) {
        if self.sequences.iter().any(|sequence| sequence.is_finished) {
            self.sequences.retain(|sequence| !sequence.is_finished);
            self.sequences.iter_mut().for_each(|sequence| sequence.is_parked = false);
        }
    }

    /// Whether this run completed the last of the beams, and the search can take a step.
    pub(crate) fn beams_complete(&self, run: &Run) -> bool {
        let last = run.sequence + 1 == self.sequences.len();
        last && self.beam.is_some() && self.sequences.iter().all(|sequence| sequence.num_pending() == 0)
    }

    /// The request leaves the queue; true if for the first time, and not after a preemption.
    pub(crate) fn start(&mut self) -> bool {
        let is_first = self.started.is_none();
        if is_first {
            let now = Instant::now();
            self.started = Some(now);
            let queued_seconds = now.duration_since(self.submitted).as_secs_f64();
            self.place = None;
            self.counts.prompt_tokens += self.request.prompt().len() as u64;
            self.send(Event::Started { prompt_tokens: self.request.prompt().len(), seed: self.seed, queued_seconds });
        }
        is_first
    }

    /// Gives all pages back. What was sampled stays, and is computed again later like a prompt.
    pub(crate) fn preempt(&mut self, pool: &mut PagePool) {
        for sequence in &mut self.sequences {
            sequence.forget(pool);
            sequence.is_parked = false;
        }
        if let Outlet::Embedding(pooled) = &mut self.outlet {
            pooled.reset();
        }
        self.shared = sequence::shareable(&self.sequences);
    }

    /// Whether its reader is so far behind that it must wait.
    pub(crate) fn is_unread(&self) -> bool {
        matches!(&self.outlet, Outlet::Events(events) if events.len() >= MAX_UNREAD)
    }

    /// Makes everything pending writable; forks the sequences once their common beginning is there. On failure, says which
    /// sequence found no page; what was reserved stays.
    pub(crate) fn reserve(&mut self, pool: &mut PagePool, model: &mut impl LanguageModel) -> Result<(), usize> {
        if self.shared > 0 {
            let shared = self.shared;
            let (first, rest) = self.sequences.split_at_mut(1);
            if first[0].computed < shared {
                return first[0].reserve(shared, pool, model).map_err(|OutOfPages| 0);
            }
            rest.iter_mut().for_each(|sequence| sequence.share(&first[0], shared, pool));
            self.shared = 0;
        }
        for (id, sequence) in self.sequences.iter_mut().enumerate().filter(|(_, sequence)| !sequence.is_parked) {
            sequence.reserve(sequence.tokens.len(), pool, model).map_err(|OutOfPages| id)?;
        }
        Ok(())
    }

    /// Runs of one token that yield the next: nothing is left to prefill. Beams step together or not at all.
    pub(crate) fn decode_runs(&self, group: usize, runs: &mut Vec<Run>) {
        if self.shared > 0 || (self.beam.is_some() && self.sequences.iter().any(|sequence| sequence.num_pending() > 1)) {
            return;
        }
        let ready = self.sequences.iter().enumerate().filter(|(_, sequence)| sequence.num_pending() == 1 && !sequence.is_parked);
        runs.extend(ready.map(|(sequence, _)| Run { group, sequence, num_tokens: 1, logits: self.last_logits() }));
    }

    /// Prefill chunks within the budget, which they reduce.
    pub(crate) fn prefill_runs(&self, group: usize, budget: &mut usize, runs: &mut Vec<Run>) {
        for (id, sequence) in self.sequences.iter().enumerate().filter(|(_, sequence)| !sequence.is_parked) {
            let end = match (self.shared, &self.beam) {
                (0, None) => sequence.tokens.len(),
                // The last token waits for the other beams.
                (0, Some(_)) => sequence.tokens.len() - 1,
                (shared, _) if id == 0 => shared,
                _ => continue,
            };
            let is_decode = self.shared == 0 && sequence.num_pending() == 1;
            let mut num_tokens = (end - sequence.computed.min(end)).min(*budget);
            if is_decode || num_tokens == 0 {
                continue;
            }
            let mut logits = self.chunk_logits();
            if self.is_scoring(id, sequence.computed + num_tokens) && sequence.computed + 1 < sequence.num_prompt {
                num_tokens = num_tokens.min(MAX_SCORED_ROWS);
                logits = LogitsFor::All;
            } else if sequence.computed + num_tokens == sequence.tokens.len() {
                logits = self.last_logits();
            }
            *budget -= num_tokens;
            runs.push(Run { group, sequence: id, num_tokens, logits });
        }
    }

    fn is_scoring(&self, sequence: usize, end: usize) -> bool {
        sequence == 0 && !self.prompt_reported && end > self.prompt_logprobs.len()
    }

    /// What a chunk that is not the prompt's end is to give.
    fn chunk_logits(&self) -> LogitsFor {
        match &self.outlet {
            Outlet::Embedding(Pooled { pooling: Pooling::Mean, .. }) => LogitsFor::HiddenAll,
            _ => LogitsFor::None,
        }
    }

    /// What the last token, or the chunk that ends with it, is to give.
    fn last_logits(&self) -> LogitsFor {
        match &self.outlet {
            Outlet::Embedding(Pooled { pooling: Pooling::Mean, .. }) => LogitsFor::HiddenAll,
            Outlet::Embedding(Pooled { pooling: Pooling::Last, .. }) => LogitsFor::HiddenLast,
            Outlet::Events(_) if self.request.raw().max_tokens == Some(0) => LogitsFor::None,
            Outlet::Events(_) => LogitsFor::Last,
        }
    }

    /// Takes a computed run and its rows; samples if the sequence is complete. Beams are stepped apart.
    pub(crate) fn commit(&mut self, run: &Run, rows: Rows<'_>, vocab: usize, context: &mut CommitContext<'_>) {
        let start = self.sequences[run.sequence].computed;
        self.sequences[run.sequence].computed += run.num_tokens;
        if let Err(error) = self.pool_hidden(run, rows.hidden) {
            return self.fail(&error, context.pool);
        }
        let rows = rows.logits;
        if run.sequence == 0
            && let Err(error) = self.commit_prompt(start, run, rows, vocab, context.text)
        {
            return self.fail(&error, context.pool);
        }
        if self.beam.is_some() || self.sequences[run.sequence].num_pending() > 0 {
            return;
        }
        if self.request.raw().max_tokens == Some(0) {
            return self.finish(run.sequence, FinishReason::Length, context.pool);
        }
        let row = &rows[rows.len() - vocab..];
        if let Err(error) = self.sample(run.sequence, row, context) {
            self.fail(&error, context.pool);
        }
    }

    /// Adds a run's hidden states to the embedding.
    fn pool_hidden(&mut self, run: &Run, rows: &[f32]) -> Result<(), Error> {
        let num_rows = run.logits.num_hidden_rows(run.num_tokens);
        let end = self.sequences[run.sequence].computed;
        match &mut self.outlet {
            Outlet::Embedding(pooled) if num_rows > 0 => {
                pooled.push(rows, rows.len() / num_rows).map_err(|row| Error::BadHidden { position: end - num_rows + row })
            }
            _ => Ok(()),
        }
    }

    /// Scores the prompt's tokens if asked, and reports progress.
    fn commit_prompt(&mut self, start: usize, run: &Run, rows: &[f32], vocab: usize, text: &dyn TokenText) -> Result<(), Error> {
        let sequence = &self.sequences[0];
        let (num_prompt, computed) = (sequence.num_prompt, sequence.computed);
        if let Some(num_top) = self.request.raw().prompt_logprobs.filter(|_| !self.prompt_reported) {
            let rows = if run.logits == LogitsFor::All { rows } else { &[] };
            for (offset, row) in rows.chunks(vocab).enumerate() {
                let target = start + offset + 1;
                if target == self.prompt_logprobs.len() + 1 && target < num_prompt {
                    let scored = logprob(row, sequence.tokens[target], num_top, text);
                    self.prompt_logprobs.push(scored.map_err(|error| row_error(error, target))?);
                }
            }
            if self.prompt_logprobs.len() + 1 == num_prompt {
                self.prompt_reported = true;
                let logprobs = std::mem::take(&mut self.prompt_logprobs);
                self.send(Event::PromptLogprobs { logprobs });
            }
        }
        if computed < num_prompt && self.sequences[0].num_generated == 0 && run.num_tokens > 1 {
            self.send(Event::Prefilling { computed, total: num_prompt });
        }
        Ok(())
    }

    fn sample(&mut self, id: usize, row: &[f32], context: &mut CommitContext<'_>) -> Result<(), Error> {
        let raw = self.request.raw();
        let sequence = &mut self.sequences[id];
        let forbidden = if sequence.num_generated < raw.min_tokens { self.end_tokens.as_slice() } else { &[] };
        let may_end = sequence.matcher.as_mut().is_none_or(Matcher::is_accepting);
        let legal = sequence.matcher.as_mut().map(Matcher::mask).transpose()?;
        let sampler_context =
            SamplerContext { tokens: &sequence.tokens, num_prompt: sequence.num_prompt, forbidden, legal, text: context.text };
        let token = sequence.sampler.sample(row, sampler_context, context.scratch)?;
        // Where the constraint does not let the answer end, one of `stop_token_ids` is a token like any other.
        if may_end && self.end_tokens.binary_search(&token).is_ok() {
            sequence.note_token();
            self.counts.generated_tokens += 1;
            self.finish(id, FinishReason::Stop, context.pool);
            return Ok(());
        }
        let position = sequence.tokens.len();
        let scored = raw.logprobs.map(|num_top| logprob(row, token, num_top, context.text)).transpose();
        let mut logprob = scored.map_err(|error| row_error(error, position))?;
        if let (Some(logprob), Some(legal)) = (&mut logprob, legal) {
            logprob.constrained = Some(constrained_logprob(row, token, legal));
        }
        let mut reason = self.append(id, token, logprob, context)?;
        if reason.is_none() {
            reason = self.fast_forward(id, context)?;
        }
        if matches!(reason, Some(FinishReason::Length | FinishReason::Context)) && self.request.raw().finish_structure {
            self.close_structure(id, context)?;
        }
        if let Some(reason) = reason {
            self.finish(id, reason, context.pool);
        }
        Ok(())
    }

    /// Adds a token to an answer and tells. Returns why the answer is over, if it is.
    fn append(
        &mut self,
        id: usize,
        token: TokenId,
        logprob: Option<TokenLogprob>,
        context: &mut CommitContext<'_>,
    ) -> Result<Option<FinishReason>, Error> {
        let raw = self.request.raw();
        let sequence = &mut self.sequences[id];
        if let Some(matcher) = &mut sequence.matcher {
            matcher.commit(token)?;
        }
        sequence.note_token();
        self.counts.generated_tokens += 1;
        sequence.tokens.push(token);
        let (text, matched) = sequence.text.push(context.text, token);
        let reason = match matched {
            Matched::Stop(stop) => Some(FinishReason::StopString(stop)),
            // Nothing but the end could follow, so it need not be sampled.
            Matched::No if sequence.matcher.as_ref().is_some_and(Matcher::is_complete) => Some(FinishReason::Stop),
            Matched::No if raw.max_tokens == Some(sequence.num_generated) => Some(FinishReason::Length),
            Matched::No if sequence.tokens.len() >= context.max_positions => Some(FinishReason::Context),
            Matched::No => None,
        };
        let index = sequence.index;
        self.send(Event::Token { index, id: token, text, logprob });
        Ok(reason)
    }

    /// Appends what the constraint leaves no choice for; the next step computes it like a part of the prompt. Not where
    /// log-probabilities are reported: they need the row of every token.
    fn fast_forward(&mut self, id: usize, context: &mut CommitContext<'_>) -> Result<Option<FinishReason>, Error> {
        if self.request.raw().logprobs.is_some() {
            return Ok(None);
        }
        let forced = self.sequences[id].matcher.as_mut().map(Matcher::forced_tokens).unwrap_or_default();
        for token in forced {
            self.sequences[id].num_forced += 1;
            let reason = self.append(id, token, None, context)?;
            if reason.is_some() {
                return Ok(reason);
            }
        }
        Ok(None)
    }

    /// Brings an answer that is cut off to a valid end. It needs no room for keys and values: nothing comes after it.
    fn close_structure(&mut self, id: usize, context: &mut CommitContext<'_>) -> Result<(), Error> {
        let tokens = self.sequences[id].matcher.as_ref().and_then(|matcher| matcher.closing_tokens(MAX_CLOSING_TOKENS));
        for token in tokens.unwrap_or_default() {
            self.sequences[id].num_forced += 1;
            self.append(id, token, None, context)?;
        }
        Ok(())
    }

    /// One step of beam search over the rows `[beams, vocab]` of all beams, which are all computed.
    pub(crate) fn commit_beams(&mut self, rows: &[f32], vocab: usize, context: &mut CommitContext<'_>) {
        let Some(mut beam) = self.beam.take() else { return };
        let outcome = if self.request.raw().max_tokens == Some(0) {
            Ok(Some(FinishReason::Length))
        } else {
            beam.advance(&mut self.sequences, rows, vocab, &self.request, &self.end_tokens, context)
        };
        self.beam = Some(beam);
        match outcome {
            Ok(None) => {}
            Ok(Some(reason)) => self.finish_beams(reason, context.pool),
            Err(error) => self.fail(&error, context.pool),
        }
    }

    fn finish_beams(&mut self, reason: FinishReason, pool: &mut PagePool) {
        let Some(beam) = self.beam.take() else { return };
        let answers = beam.into_answers(&mut self.sequences, &reason);
        let usage = self.sequences.first().map(|first| first.usage(self.submitted, self.started)).unwrap_or_default();
        self.release(pool);
        // Fewer hypotheses than answers asked for (a vocabulary nearly all forbidden): the stream must still end.
        self.answers_left = answers.len().max(1);
        if answers.is_empty() {
            let event = Event::Finished { index: 0, text: String::new(), beam: None, reason, usage, answers_left: 0 };
            return self.send(event);
        }
        for (index, answer) in answers.into_iter().enumerate() {
            self.answers_left -= 1;
            let usage = crate::Usage { generated_tokens: answer.num_generated, ..usage };
            let (text, reason) = (answer.text, answer.reason);
            let beam = Some(crate::BeamAnswer { tokens: answer.tokens, score: answer.score as f32 });
            self.send(Event::Finished { index, text, beam, reason, usage, answers_left: self.answers_left });
        }
    }

    /// Memory is out and no other request can give any. The last of several answers waits for the others; the last one standing,
    /// or the beam search, ends with what it has.
    pub(crate) fn give_up(&mut self, sequence: usize, pool: &mut PagePool) {
        let mut standing = (0..self.sequences.len()).filter(|&id| !self.sequences[id].is_parked);
        match (&self.beam, standing.next(), standing.next_back()) {
            (Some(_), ..) => self.finish_beams(FinishReason::Context, pool),
            (None, Some(_), Some(last)) if self.shared == 0 => {
                self.sequences[last].forget(pool);
                self.sequences[last].is_parked = true;
            }
            _ => self.finish(sequence, FinishReason::Context, pool),
        }
    }

    pub(crate) fn cancel(&mut self, pool: &mut PagePool) {
        if self.beam.is_some() {
            self.release(pool);
            let (text, reason) = (String::new(), FinishReason::Cancelled);
            let usage = crate::Usage { prompt_tokens: self.request.prompt().len(), ..crate::Usage::default() };
            return self.send(Event::Finished { index: 0, text, beam: None, reason, usage, answers_left: 0 });
        }
        self.finish_all(&FinishReason::Cancelled, pool);
    }

    /// Its time is up: it ends with what it has.
    pub(crate) fn expire(&mut self, pool: &mut PagePool) {
        if self.beam.is_some() {
            self.finish_beams(FinishReason::Deadline, pool);
        } else {
            self.finish_all(&FinishReason::Deadline, pool);
        }
    }

    fn finish_all(&mut self, reason: &FinishReason, pool: &mut PagePool) {
        for id in 0..self.sequences.len() {
            self.finish(id, reason.clone(), pool);
        }
    }

    /// Ends the request with an error, unless it has ended.
    pub(crate) fn fail(&mut self, error: &Error, pool: &mut PagePool) {
        if !self.is_finished() {
            self.release(pool);
            self.send(Event::Failed(error.clone()));
        }
    }

    fn finish(&mut self, id: usize, reason: FinishReason, pool: &mut PagePool) {
        let sequence = &mut self.sequences[id];
        if sequence.is_finished {
            return;
        }
        sequence.is_finished = true;
        sequence.forget(pool);
        self.answers_left -= 1;
        let text = if matches!(reason, FinishReason::StopString(_)) { String::new() } else { sequence.text.finish() };
        let usage = sequence.usage(self.submitted, self.started);
        let (index, answers_left) = (sequence.index, self.answers_left);
        self.send(Event::Finished { index, text, beam: None, reason, usage, answers_left });
    }

    fn release(&mut self, pool: &mut PagePool) {
        for mut sequence in self.sequences.drain(..) {
            sequence.forget(pool);
        }
    }

    fn send(&mut self, event: Event) {
        match &event {
            Event::Finished { reason, .. } => self.counts.finish(reason),
            Event::Failed(_) => self.counts.failed += 1,
            _ => {}
        }
        // A reader that has gone has also sent `Cancel`; until that arrives, its events go nowhere.
        match &self.outlet {
            Outlet::Events(events) => _ = events.send(event),
            Outlet::Embedding(pooled) => {
                let part = match event {
                    Event::Finished { reason: FinishReason::Length, usage, .. } => {
                        Ok(Embedded { index: pooled.index, vector: pooled.vector(), cached_tokens: usage.cached_tokens })
                    }
                    Event::Finished { reason: FinishReason::Deadline, .. } => Err(Error::TimedOut),
                    Event::Finished { .. } => Err(Error::Cancelled),
                    Event::Failed(error) => Err(error),
                    _ => return,
                };
                _ = pooled.parts.send(part);
            }
        }
    }
}

pub(crate) fn row_error(error: RowError, position: usize) -> Error {
    match error {
        RowError::Bad { token, value } => Error::BadLogit { token, position, value },
        RowError::Empty => Error::NothingToSample { position },
    }
}
