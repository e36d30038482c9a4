//! A toy model that keeps token ids for KV and answers by a hash of the history that it finds in its pages; and a driver that
//! steps a scheduler without a thread. A page that holds anything but the sequence's own history fails the test at once.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use flume::{Receiver, unbounded};
use qern_model::lora::Adapter;

use crate::embed::Part;
use crate::engine::Arrival;
use crate::scheduler::Scheduler;
use crate::*;

pub(crate) const VOCAB: usize = 24;
pub(crate) const WIDTH: usize = 5;
pub(crate) const EOS: TokenId = 0;
pub(crate) const SPECIAL: TokenId = 1;

/// One position of a page: the token, and the hash of everything up to it.
type Slot = Option<(usize, TokenId, u64)>;

pub(crate) struct Toy {
    pages: Vec<[Slot; PAGE_LEN]>,
    max_positions: usize,
    logits: Vec<f32>,
    hidden: Vec<f32>,
    /// Fails the forward pass at this step, counted from 0.
    pub(crate) fail_at: Option<usize>,
    /// Makes logits NaN when this token is in the batch.
    pub(crate) poison: Option<TokenId>,
    num_steps: usize,
    num_adapters: u32,
    unloaded: HashSet<AdapterId>,
}

impl Toy {
    pub(crate) fn new(num_pages: usize, max_positions: usize) -> Self {
        let pages = vec![[None; PAGE_LEN]; num_pages];
        Self {
            pages,
            max_positions,
            logits: Vec::new(),
            hidden: Vec::new(),
            fail_at: None,
            poison: None,
            num_steps: 0,
            num_adapters: 0,
            unloaded: HashSet::new(),
        }
    }

    fn slot(&mut self, pages: &[PageId], position: usize) -> &mut Slot {
        &mut self.pages[pages[position / PAGE_LEN].0 as usize][position % PAGE_LEN]
    }

    fn check_history(&mut self, run: &BatchSequence<'_>) -> u64 {
        let mut hash = 0;
        for position in 0..run.position {
            let slot = *self.slot(run.pages, position);
            let (at, token, stored) = slot.unwrap_or_else(|| panic!("position {position} of {:?} was never computed", run.pages));
            hash = extend(hash, token);
            assert_eq!((at, stored), (position, hash), "the page of position {position} holds another sequence's history");
        }
        hash
    }
}

impl LanguageModel for Toy {
    fn vocab_size(&self) -> usize {
        VOCAB
    }
    fn num_pages(&self) -> usize {
        self.pages.len()
    }
    fn max_positions(&self) -> usize {
        self.max_positions
    }

    fn forward(&mut self, batch: &[BatchSequence<'_>]) -> Result<Rows<'_>, BoxError> {
        self.num_steps += 1;
        if self.fail_at == Some(self.num_steps - 1) {
            return Err("the toy broke".into());
        }
        self.logits.clear();
        self.hidden.clear();
        let mut written = HashSet::new();
        for run in batch {
            assert!(run.adapter.is_none_or(|id| !self.unloaded.contains(&id)), "{:?} is unloaded", run.adapter);
            assert!(!run.tokens.is_empty() && run.position + run.tokens.len() <= self.max_positions);
            assert_eq!(run.pages.len(), (run.position + run.tokens.len()).div_ceil(PAGE_LEN), "pages cover exactly the run");
            let mut hash = self.check_history(run);
            for (offset, &token) in run.tokens.iter().enumerate() {
                let position = run.position + offset;
                hash = extend(hash, token);
                assert!(written.insert((run.pages[position / PAGE_LEN], position)), "two runs write position {position}");
                *self.slot(run.pages, position) = Some((position, token, hash));
                let is_last = offset + 1 == run.tokens.len();
                if run.logits == LogitsFor::All || (run.logits == LogitsFor::Last && is_last) {
                    self.logits.extend(logits_of(hash));
                }
                if run.logits == LogitsFor::HiddenAll || (run.logits == LogitsFor::HiddenLast && is_last) {
                    self.hidden.extend(hidden_of(hash));
                }
                if self.poison == Some(token) {
                    self.logits.iter_mut().for_each(|logit| *logit = f32::NAN);
                }
            }
        }
        Ok(Rows { logits: &self.logits, hidden: &self.hidden })
    }

    fn hidden_size(&self) -> Option<usize> {
        Some(WIDTH)
    }

    fn load_adapter(&mut self, adapter: Arc<Adapter>) -> Result<AdapterId, BoxError> {
        if adapter.config().num_layers == 9 {
            return Err("the toy has no nine layers".into());
        }
        self.num_adapters += 1;
        Ok(AdapterId(self.num_adapters - 1))
    }

    fn unload_adapter(&mut self, id: AdapterId) -> Result<(), BoxError> {
        assert!(self.unloaded.insert(id), "{id:?} was unloaded before");
        Ok(())
    }

    fn copy_page(&mut self, from: PageId, to: PageId) {
        self.pages[to.0 as usize] = self.pages[from.0 as usize];
    }
}

fn extend(hash: u64, token: TokenId) -> u64 {
    let mut x = (hash ^ u64::from(token).wrapping_add(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^= x >> 29;
    x = x.wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 32)
}

fn hidden_of(hash: u64) -> impl Iterator<Item = f32> {
    (0..WIDTH as u32).map(move |place| (extend(hash, place + 2000) >> 40) as f32 / (1 << 24) as f32 - 0.5)
}

/// The hidden state after a history, straight from the definition.
pub(crate) fn hidden_after(history: &[TokenId]) -> Vec<f32> {
    hidden_of(history.iter().fold(0, |hash, &token| extend(hash, token))).collect()
}

fn logits_of(hash: u64) -> impl Iterator<Item = f32> {
    (0..VOCAB as u32).map(move |token| {
        let noise = (extend(hash, token + 1000) >> 40) as f32 / (1 << 24) as f32 * 4.0;
        if token == EOS { noise - 0.5 } else { noise }
    })
}

/// The logits after a history, straight from the definition.
pub(crate) fn logits_after(history: &[TokenId]) -> Vec<f32> {
    logits_of(history.iter().fold(0, |hash, &token| extend(hash, token))).collect()
}

/// Tokens 2 and on are letters, but for pieces of a two-byte character.
pub(crate) struct ToyText;

impl TokenText for ToyText {
    fn token_bytes(&self, id: TokenId) -> Option<Cow<'_, [u8]>> {
        let bytes: &[u8] = match id {
            0 => b"<end>",
            1 => b"<special>",
            2 => b"\xC3",
            3 => b"\xA9",
            4..24 => return Some(Cow::Owned(vec![b'a' + (id - 4) as u8])),
            _ => return None,
        };
        Some(Cow::Borrowed(bytes))
    }
    fn is_special(&self, id: TokenId) -> bool {
        id <= SPECIAL
    }
    fn eos_ids(&self) -> &[TokenId] {
        &[EOS]
    }
}

/// What came of one answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) text: String,
    pub(crate) reason: Option<FinishReason>,
    pub(crate) logprobs: Vec<TokenLogprob>,
    pub(crate) generated: usize,
    pub(crate) score: Option<f32>,
}

/// All answers of a request, by index; and the prompt's log-probabilities.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcomes {
    pub(crate) answers: Vec<Outcome>,
    pub(crate) prompt: Option<Vec<TokenLogprob>>,
    pub(crate) failed: Option<String>,
}

pub(crate) fn collect(events: impl IntoIterator<Item = Event>) -> Outcomes {
    let mut outcomes = Outcomes::default();
    fn at(answers: &mut Vec<Outcome>, index: usize) -> &mut Outcome {
        if answers.len() <= index {
            answers.resize(index + 1, Outcome::default());
        }
        &mut answers[index]
    }
    for event in events {
        match event {
            Event::Started { .. } | Event::Prefilling { .. } => {}
            Event::PromptLogprobs { logprobs } => assert!(outcomes.prompt.replace(logprobs).is_none()),
            Event::Token { index, id, text, logprob } => {
                let answer = at(&mut outcomes.answers, index);
                assert_eq!(answer.reason, None, "a token after the end");
                answer.tokens.push(id);
                answer.text.push_str(&text);
                answer.logprobs.extend(logprob);
            }
            Event::Finished { index, text, beam, reason, usage, .. } => {
                let answer = at(&mut outcomes.answers, index);
                answer.text.push_str(&text);
                assert_eq!(answer.reason.replace(reason), None, "finished twice");
                answer.generated = usage.generated_tokens;
                if let Some(beam) = beam {
                    (answer.tokens, answer.score) = (beam.tokens, Some(beam.score));
                }
            }
            Event::Failed(error) => outcomes.failed = Some(error.to_string()),
        }
    }
    outcomes
}

/// A scheduler stepped by hand.
pub(crate) struct Bench {
    pub(crate) scheduler: Scheduler<Toy>,
    next_id: u64,
}

impl Bench {
    pub(crate) fn new(num_pages: usize, max_batch_tokens: usize, max_sequences: usize) -> Self {
        Self::with(Toy::new(num_pages, 1000), max_batch_tokens, max_sequences)
    }

    pub(crate) fn with(toy: Toy, max_batch_tokens: usize, max_sequences: usize) -> Self {
        let config = EngineConfig { max_batch_tokens, max_sequences, ..EngineConfig::default() };
        Self { scheduler: Scheduler::new(toy, Arc::new(ToyText), config).unwrap(), next_id: 0 }
    }

    pub(crate) fn submit(&mut self, request: GenerateRequest) -> (u64, Receiver<Event>) {
        let (events, receiver) = unbounded();
        self.next_id += 1;
        let arrival = Arrival { id: self.next_id, submitted: Instant::now(), place: None };
        self.scheduler.submit(arrival, request.validate(&self.scheduler.limits()).unwrap(), events);
        (self.next_id, receiver)
    }

    pub(crate) fn embed(&mut self, request: &EmbedRequest) -> Receiver<Part> {
        request.validate(&self.scheduler.limits()).unwrap();
        let (parts, receiver) = unbounded();
        self.next_id += 1;
        self.scheduler.embed(&Arrival { id: self.next_id, submitted: Instant::now(), place: None }, request, &parts);
        receiver
    }

    /// Runs a request to its end, while others wait for something.
    pub(crate) fn run_beside(&mut self, request: GenerateRequest) -> Outcomes {
        let (_, events) = self.submit(request);
        while self.scheduler.step() {}
        collect(events.try_iter())
    }

    /// Steps until idle, checking the pages after each step.
    pub(crate) fn finish(&mut self) {
        for _ in 0..100_000 {
            self.scheduler.check_integrity().unwrap();
            if self.scheduler.is_idle() {
                let stats = self.scheduler.stats();
                assert_eq!(stats.free_pages, stats.num_pages, "pages leaked");
                return;
            }
            self.scheduler.step();
        }
        panic!("the scheduler makes no progress: {:?}", self.scheduler.stats());
    }

    pub(crate) fn run(&mut self, requests: Vec<GenerateRequest>) -> Vec<Outcomes> {
        let streams: Vec<_> = requests.into_iter().map(|request| self.submit(request).1).collect();
        self.finish();
        streams.into_iter().map(|events| collect(events.try_iter())).collect()
    }
}

/// One request alone on a machine with room.
pub(crate) fn alone(request: GenerateRequest) -> Outcomes {
    Bench::new(400, 512, 16).run(vec![request]).remove(0)
}

pub(crate) fn prompt(len: usize, salt: u32) -> Vec<TokenId> {
    (0..len as u32).map(|i| 2 + (i * 7 + salt * 13 + i * i) % (VOCAB as u32 - 2)).collect()
}
