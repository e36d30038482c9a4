//! Decides what each step computes and steps the model: `schedule -> forward -> sample -> commit`. First come, first served;
//! decode rows first, then prefill chunks within the token budget; when pages run out the youngest request is set back.
//! No threads, no channels in: `engine.rs` has those.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use flume::Sender;
use qern_model::lora::Adapter;

use crate::embed::{EmbedRequest, Part};
use crate::engine::{Arrival, RequestId};
use crate::group::{CommitContext, Group};
use crate::pages::PagePool;
use crate::sequence::Run;
use crate::stats::Counts;
use crate::{
    AdapterId, BatchSequence, EngineConfig, Error, Event, LanguageModel, Limits, LogitsFor, Rows, SamplerScratch, Stats,
    TokenText, ValidRequest,
};

pub(crate) struct Scheduler<M> {
    model: M,
    text: Arc<dyn TokenText>,
    config: EngineConfig,
    pool: PagePool,
    /// Requests that hold pages, oldest first.
    running: Vec<Group>,
    /// Requests that hold none, oldest first. All are younger than the running ones.
    waiting: VecDeque<Group>,
    scratch: SamplerScratch,
    preemptions: u64,
    steps: u64,
    computed_tokens: u64,
    /// What requests came to.
    counts: Counts,
    /// Requests that left the queue for the first time since it was last asked.
    starts: u64,
}

impl<M: LanguageModel> Scheduler<M> {
    pub(crate) fn new(model: M, text: Arc<dyn TokenText>, config: EngineConfig) -> Result<Self, Error> {
        if config.max_sequences == 0 {
            return Err(Error::invalid("max_sequences", "be at least 1", 0));
        }
        if config.max_batch_tokens < config.max_sequences {
            let rule = format!("be at least `max_sequences` ({})", config.max_sequences);
            return Err(Error::invalid("max_batch_tokens", rule, config.max_batch_tokens));
        }
        if config.max_waiting == 0 {
            return Err(Error::invalid("max_waiting", "be at least 1", 0));
        }
        let num_pages = model.num_pages();
        if num_pages == 0 || u32::try_from(num_pages).is_err() {
            return Err(Error::invalid("num_pages", "be 1 to 4294967295", num_pages));
        }
        if model.max_positions() < 2 {
            return Err(Error::invalid("max_positions", "be at least 2", model.max_positions()));
        }
        Ok(Self {
            model,
            text,
            config,
            pool: PagePool::new(num_pages),
            running: Vec::new(),
            waiting: VecDeque::new(),
            scratch: SamplerScratch::default(),
            preemptions: 0,
            steps: 0,
            computed_tokens: 0,
            counts: Counts::default(),
            starts: 0,
        })
    }

    /// One step of everything that runs. False if there was nothing to compute.
    pub(crate) fn step(&mut self) -> bool {
        self.expire(Instant::now());
        self.set_unread_back();
        self.admit();
        let runs = self.schedule();
        if !runs.is_empty() {
            self.steps += 1;
            self.computed_tokens += runs.iter().map(|run| run.num_tokens as u64).sum::<u64>();
            let batch: Vec<_> = runs.iter().map(|run| self.running[run.group].sequences[run.sequence].batch(run)).collect();
            match forward(&mut self.model, &batch) {
                Ok(rows) => {
                    let context = CommitContext {
                        text: &*self.text,
                        max_positions: rows.max_positions,
                        pool: &mut self.pool,
                        scratch: &mut self.scratch,
                    };
                    commit(&mut self.running, &runs, &rows, context);
                }
                Err(error) => runs.iter().for_each(|run| self.running[run.group].fail(&error, &mut self.pool)),
            }
        }
        self.sweep();
        debug_assert_eq!(self.check_integrity(), Ok(()));
        !runs.is_empty()
    }

    /// Ends what has run out of time.
    pub(crate) fn expire(&mut self, now: Instant) {
        let groups = self.running.iter_mut().chain(&mut self.waiting);
        groups
            .filter(|group| group.deadline.is_some_and(|deadline| deadline <= now))
            .for_each(|group| group.expire(&mut self.pool));
        self.sweep();
    }

    /// Takes the pages of requests whose readers are too far behind: they go on when they have caught up.
    fn set_unread_back(&mut self) {
        while let Some(unread) = self.running.iter().position(Group::is_unread) {
            let mut group = self.running.remove(unread);
            group.preempt(&mut self.pool);
            self.put_back(group);
        }
    }

    /// Back to the queue, where its age puts it.
    fn put_back(&mut self, group: Group) {
        let place = self.waiting.partition_point(|other| other.id < group.id);
        self.waiting.insert(place, group);
    }

    /// Requests that left the queue for the first time since this was last asked.
    pub(crate) fn take_starts(&mut self) -> u64 {
        std::mem::take(&mut self.starts)
    }

    /// Moves requests from the queue to the running ones, in order, while there are sequences and pages for them.
    fn admit(&mut self) {
        let mut num_sequences: usize = self.running.iter().map(Group::num_slots).sum();
        let mut num_free = self.pool.num_free();
        while let Some(place) = self.waiting.iter().position(|group| !group.is_unread()) {
            let next = &self.waiting[place];
            // Each running request gets a page to grow by, or it would set the new one back at once. Alone, it starts anyway.
            let num_pages = next.pages_needed() + self.running.len();
            let fits = num_sequences + next.num_slots() <= self.config.max_sequences && num_pages <= num_free;
            if !fits && !self.running.is_empty() {
                return;
            }
            num_sequences += next.num_slots();
            num_free = num_free.saturating_sub(num_pages);
            if let Some(mut group) = self.waiting.remove(place) {
                self.starts += u64::from(group.start());
                let place = self.running.partition_point(|other| other.id < group.id);
                self.running.insert(place, group);
            }
        }
    }

    /// Reserves pages for all that is pending, oldest first, and picks what this step computes.
    fn schedule(&mut self) -> Vec<Run> {
        let mut num_reserved = 0;
        while num_reserved < self.running.len() {
            match self.running[num_reserved].reserve(&mut self.pool, &mut self.model) {
                Ok(()) => num_reserved += 1,
                Err(_) if self.running.len() > 1 => self.preempt_youngest(),
                Err(sequence) => {
                    self.running[num_reserved].give_up(sequence, &mut self.pool);
                    self.sweep();
                }
            }
        }
        let mut runs = Vec::new();
        for (id, group) in self.running.iter().enumerate() {
            group.decode_runs(id, &mut runs);
        }
        // `max_batch_tokens >= max_sequences` leaves at least one token to a sequence that does not decode.
        let mut budget = self.config.max_batch_tokens.saturating_sub(runs.len());
        for (id, group) in self.running.iter().enumerate() {
            group.prefill_runs(id, &mut budget, &mut runs);
        }
        runs
    }

    fn preempt_youngest(&mut self) {
        if let Some(mut group) = self.running.pop() {
            tracing::debug!(request = group.id, "out of pages: set back to be computed again");
            self.preemptions += 1;
            group.preempt(&mut self.pool);
            self.put_back(group);
        }
    }

    pub(crate) fn submit(&mut self, arrival: Arrival, request: ValidRequest, events: Sender<Event>) {
        self.waiting.push_back(Group::new(arrival, request, events, &*self.text));
    }

    /// Each input runs by itself.
    pub(crate) fn embed(&mut self, arrival: &Arrival, request: &EmbedRequest, parts: &Sender<Part>) {
        for index in 0..request.inputs.len() {
            self.waiting.push_back(Group::embedding(arrival.clone(), request, index, parts.clone(), &*self.text));
        }
    }

    pub(crate) fn load_adapter(&mut self, adapter: Arc<Adapter>) -> Result<AdapterId, Error> {
        self.model.load_adapter(adapter).map_err(|error| Error::Adapter(Arc::from(error)))
    }

    /// Whether any request runs or waits to run with the adapter.
    pub(crate) fn uses_adapter(&self, id: AdapterId) -> bool {
        self.running.iter().chain(&self.waiting).any(|group| group.adapter() == Some(id))
    }

    pub(crate) fn unload_adapter(&mut self, id: AdapterId) -> Result<(), Error> {
        self.model.unload_adapter(id).map_err(|error| Error::Adapter(Arc::from(error)))
    }

    pub(crate) fn cancel(&mut self, id: RequestId) {
        let groups = self.running.iter_mut().chain(&mut self.waiting);
        groups.filter(|group| group.id == id).for_each(|group| group.cancel(&mut self.pool));
        self.sweep();
    }

    /// Drops what is finished; its pages are back already.
    fn sweep(&mut self) {
        self.running.iter_mut().for_each(Group::sweep);
        for group in self.running.iter_mut().chain(&mut self.waiting) {
            self.counts += std::mem::take(&mut group.counts);
        }
        self.running.retain(|group| !group.is_finished());
        self.waiting.retain(|group| !group.is_finished());
    }

    pub(crate) fn cancel_all(&mut self) {
        for mut group in self.running.drain(..).chain(self.waiting.drain(..)) {
            group.cancel(&mut self.pool);
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            vocab_size: self.model.vocab_size(),
            max_positions: self.model.max_positions(),
            num_pages: self.model.num_pages(),
            max_sequences: self.config.max_sequences,
            hidden_size: self.model.hidden_size(),
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            num_pages: self.pool.num_pages(),
            free_pages: self.pool.num_free(),
            cached_pages: 0,
            steps: self.steps,
            computed_tokens: self.computed_tokens,
            preemptions: self.preemptions,
            counts: self.counts,
        }
    }

    /// Checks that pages and tables agree; after every step of a debug build.
    pub(crate) fn check_integrity(&self) -> Result<(), String> {
        let groups = self.running.iter().chain(&self.waiting);
        self.pool.check_integrity(groups.flat_map(|group| group.sequences.iter().map(|sequence| &sequence.table)))
    }
}

/// What one step computed.
struct StepRows<'a> {
    rows: Rows<'a>,
    vocab: usize,
    /// Of a hidden state.
    width: usize,
    max_positions: usize,
}

fn forward<'a>(model: &'a mut impl LanguageModel, batch: &[BatchSequence<'_>]) -> Result<StepRows<'a>, Error> {
    let (vocab, max_positions, width) = (model.vocab_size(), model.max_positions(), model.hidden_size().unwrap_or(0));
    let expect = |what, width: usize, num_rows: fn(LogitsFor, usize) -> usize, given: usize| {
        let expected = width * batch.iter().map(|run| num_rows(run.logits, run.tokens.len())).sum::<usize>();
        if given == expected { Ok(()) } else { Err(Error::Shape { what, expected, given }) }
    };
    let rows = model.forward(batch).map_err(|error| Error::Model(Arc::from(error)))?;
    expect("logits", vocab, LogitsFor::num_rows, rows.logits.len())?;
    expect("values of hidden states", width, LogitsFor::num_hidden_rows, rows.hidden.len())?;
    Ok(StepRows { rows, vocab, width, max_positions })
}

/// Hands each run its rows, and each beam search the rows of all its beams once they are complete.
fn commit(running: &mut [Group], runs: &[Run], step: &StepRows<'_>, mut context: CommitContext<'_>) {
    let (vocab, logits) = (step.vocab, step.rows.logits);
    let (mut end, mut hidden_end) = (0, 0);
    for run in runs {
        let (start, hidden_start) = (end, hidden_end);
        end += vocab * run.logits.num_rows(run.num_tokens);
        hidden_end += step.width * run.logits.num_hidden_rows(run.num_tokens);
        let group = &mut running[run.group];
        if group.is_finished() {
            continue;
        }
        let rows = Rows { logits: &logits[start..end], hidden: &step.rows.hidden[hidden_start..hidden_end] };
        group.commit(run, rows, vocab, &mut context);
        if group.beams_complete(run) {
            // The beams' runs of one row each stand side by side, this one last.
            let num_rows = if end > start { run.sequence + 1 } else { 0 };
            group.commit_beams(&logits[end - num_rows * vocab..end], vocab, &mut context);
        }
    }
}
