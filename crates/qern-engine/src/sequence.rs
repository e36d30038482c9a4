//! One token sequence in the engine: prompt and answer so far, how much of it the KV pages hold, and which pages.
//! No policy: what runs when is `scheduler.rs`, what a sampled token leads to is `group.rs`.

use std::time::Instant;

use crate::answer_text::AnswerText;
use crate::constraint::Matcher;
use crate::model::LanguageModel;
use crate::pages::{OutOfPages, PagePool, PageTable, pages_for};
use crate::{AdapterId, BatchSequence, LogitsFor, PAGE_LEN, Sampler, TokenId, Usage};

#[derive(Debug)]
pub(crate) struct Sequence {
    /// Which of the request's answers.
    pub(crate) index: usize,
    /// Prompt and answer.
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) num_prompt: usize,
    /// Positions whose KV is in the pages. The rest is pending: one token when decoding, more in prefill.
    pub(crate) computed: usize,
    pub(crate) table: PageTable,
    pub(crate) adapter: Option<AdapterId>,
    pub(crate) sampler: Sampler,
    pub(crate) text: AnswerText,
    /// Of the request's constraint.
    pub(crate) matcher: Option<Matcher>,
    /// Tokens of the answer, the one that ended it included.
    pub(crate) num_generated: usize,
    /// Those of them that were not sampled.
    pub(crate) num_forced: usize,
    pub(crate) first_token: Option<Instant>,
    pub(crate) last_token: Option<Instant>,
    /// Its `Finished` event is sent and its pages are back; it only waits to be swept.
    pub(crate) is_finished: bool,
    /// It waits, without pages, for another answer of its request to finish: the pool does not hold them all.
    pub(crate) is_parked: bool,
}

/// A part of a sequence to be computed in this step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Index into the running groups.
    pub(crate) group: usize,
    /// Index into the group's sequences.
    pub(crate) sequence: usize,
    pub(crate) num_tokens: usize,
    pub(crate) logits: LogitsFor,
}

impl Sequence {
    pub(crate) fn new(index: usize, prompt: &[TokenId], adapter: Option<AdapterId>, sampler: Sampler, text: AnswerText) -> Self {
        Self {
            index,
            adapter,
            tokens: prompt.to_vec(),
            num_prompt: prompt.len(),
            computed: 0,
            table: PageTable::default(),
            sampler,
            text,
            matcher: None,
            num_generated: 0,
            num_forced: 0,
            first_token: None,
            last_token: None,
            is_finished: false,
            is_parked: false,
        }
    }

    pub(crate) fn num_pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Makes the pending positions up to `end` writable, copying the page that others share.
    pub(crate) fn reserve(&mut self, end: usize, pool: &mut PagePool, model: &mut impl LanguageModel) -> Result<(), OutOfPages> {
        if let Some(copy) = self.table.reserve(pool, self.computed, end)? {
            model.copy_page(copy.from, copy.to);
        }
        Ok(())
    }

    /// Takes over the first `num_positions` computed positions of another sequence.
    pub(crate) fn share(&mut self, other: &Self, num_positions: usize, pool: &mut PagePool) {
        self.table.clear(pool);
        self.table = other.table.fork(pool, num_positions);
        self.computed = num_positions;
    }

    /// Gives the pages back; everything is pending again.
    pub(crate) fn forget(&mut self, pool: &mut PagePool) {
        self.table.clear(pool);
        self.computed = 0;
    }

    /// What a run of this sequence looks like to the model.
    pub(crate) fn batch(&self, run: &Run) -> BatchSequence<'_> {
        let end = self.computed + run.num_tokens;
        BatchSequence {
            tokens: &self.tokens[self.computed..end],
            position: self.computed,
            pages: &self.table.pages()[..pages_for(end)],
            logits: run.logits,
            adapter: self.adapter,
        }
    }

    /// Notes that a token of the answer came now.
    pub(crate) fn note_token(&mut self) {
        let now = Instant::now();
        self.num_generated += 1;
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
    }

    pub(crate) fn usage(&self, submitted: Instant, started: Option<Instant>) -> Usage {
        let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.duration_since(from).as_secs_f64(),
            _ => 0.0,
        };
        Usage {
            prompt_tokens: self.num_prompt,
            cached_tokens: 0,
            generated_tokens: self.num_generated,
            forced_tokens: self.num_forced,
            prefill_seconds: between(started, self.first_token.or_else(|| Some(Instant::now()))),
            decode_seconds: between(self.first_token, self.last_token),
            time_to_first_token: self.first_token.map(|first| first.duration_since(submitted).as_secs_f64()),
        }
    }
}

/// How many first tokens all have in common and may compute once: at least one token must stay for each of its own, to get logits.
pub(crate) fn shareable(sequences: &[Sequence]) -> usize {
    let [first, rest @ ..] = sequences else { return 0 };
    if rest.is_empty() {
        return 0;
    }
    let common = |other: &Sequence| first.tokens.iter().zip(&other.tokens).take_while(|(a, b)| a == b).count();
    let shortest = sequences.iter().map(|sequence| sequence.tokens.len()).min().unwrap_or(0);
    rest.iter().map(common).min().unwrap_or(0).min(shortest - 1)
}

/// Pages that these sequences take when they share their first `shared` positions.
pub(crate) fn pages_needed(sequences: &[Sequence], shared: usize) -> usize {
    let own = |sequence: &Sequence| pages_for(sequence.tokens.len()) - shared / PAGE_LEN;
    shared / PAGE_LEN + sequences.iter().map(own).sum::<usize>()
}
