//! What every dialect has in common: settings and a conversation (or tokens) become a valid request, and the engine's events
//! become deltas of thoughts and answers. No dialect's JSON.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use qern_engine::{
    AdapterId, BeamAnswer, BeamParams, Event, FinishReason, GenerateRequest, RequestStream, SamplingOverrides, SamplingParams,
    TokenId, TokenLogprob, Usage, ValidRequest, recommended,
};
use qern_model::chat::Conversation;
use qern_model::context_window::ContextReport;
use qern_model::prompt::{PromptRules, has_thinking_switch, opens_thinking, prompt};
use qern_model::template::{ChatTemplate, TemplateOptions};
use qern_model::thinking::{Part, Splitter};

use crate::error::ApiError;
use crate::state::{AppState, Model};

/// How to answer, whatever is asked.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Sampling, as far as the client has wishes.
    pub sampling: SamplingOverrides,
    /// Most tokens of an answer; `None` is what fits.
    pub max_tokens: Option<usize>,
    /// Least tokens of an answer.
    pub min_tokens: usize,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// Whether they are part of it.
    pub include_stop: bool,
    /// Tokens that end an answer.
    pub stop_token_ids: Vec<TokenId>,
    /// The model's end tokens do not end it.
    pub ignore_eos: bool,
    /// Special tokens are part of the text.
    pub show_special: bool,
    /// How many answers; 0 is one.
    pub n: usize,
    /// Report each token's log-probability, with so many alternatives.
    pub logprobs: Option<usize>,
    /// The same for the prompt's.
    pub prompt_logprobs: Option<usize>,
    /// Search instead of sampling.
    pub beam: Option<BeamParams>,
    /// Seed of the random choices.
    pub seed: Option<u64>,
    /// Time after which answers end with what they have.
    pub timeout: Option<Duration>,
    /// The adapter to answer with.
    pub adapter: Option<AdapterId>,
}

/// A conversation to answer.
#[derive(Debug)]
pub struct ChatRequest {
    /// What was said.
    pub conversation: Conversation,
    /// How to answer.
    pub settings: Settings,
    /// How to render it.
    pub template: TemplateOptions,
    /// Refuse a conversation that does not fit, instead of dropping turns.
    pub strict_context: bool,
}

/// A request that is ready for the engine.
#[derive(Debug)]
pub struct Prepared {
    /// The request.
    pub request: ValidRequest,
    /// What became of the conversation; there is none behind plain text.
    pub report: Option<ContextReport>,
    /// Where thoughts are split from answers: `Some(true)` when the prompt has opened a thought.
    pub thinking: Option<bool>,
}

/// Renders and checks a conversation. Takes a core for as long as templates and tokenization take: not for async threads.
pub fn prepare_chat(model: &Model, request: ChatRequest) -> Result<Prepared, ApiError> {
    let Some(template) = &model.template else {
        let message = format!("`{}` has no chat template; complete plain text with it by /v1/completions", model.name);
        return Err(ApiError::invalid(message).of_param("model"));
    };
    let ChatRequest { conversation, settings, template: options, strict_context } = request;
    check_template(template, &conversation, &options)?;
    let rules = PromptRules { context_len: model.context_len, max_tokens: settings.max_tokens, strict: strict_context };
    let fitted = prompt(&conversation, template, &model.tokenizer, rules, &options)?;
    let thinking = Some(opens_thinking(&fitted));
    let request = prepare(model, fitted.tokens, settings)?;
    Ok(Prepared { request, report: Some(fitted.report), thinking })
}

/// Checks the request to go on with these tokens.
pub fn prepare_tokens(model: &Model, tokens: Vec<TokenId>, settings: Settings) -> Result<Prepared, ApiError> {
    Ok(Prepared { request: prepare(model, tokens, settings)?, report: None, thinking: None })
}

fn prepare(model: &Model, prompt: Vec<TokenId>, settings: Settings) -> Result<ValidRequest, ApiError> {
    // Beam search does not sample: what was recommended for sampling is not for it.
    let base = if settings.beam.is_some() { SamplingParams::default() } else { recommended(&model.defaults) };
    let request = GenerateRequest {
        prompt,
        sampling: settings.sampling.over(base),
        max_tokens: settings.max_tokens,
        min_tokens: settings.min_tokens,
        stop: settings.stop,
        include_stop: settings.include_stop,
        stop_token_ids: settings.stop_token_ids,
        ignore_eos: settings.ignore_eos,
        show_special: settings.show_special,
        n: settings.n,
        logprobs: settings.logprobs,
        prompt_logprobs: settings.prompt_logprobs,
        beam: settings.beam,
        seed: settings.seed,
        priority: 0,
        timeout: settings.timeout,
        constraint: None,
        finish_structure: false,
        adapter: settings.adapter,
    };
    Ok(request.validate(&model.engine.limits())?)
}

/// Refuses what the template would leave out in silence.
pub(crate) fn check_template(
    template: &ChatTemplate,
    conversation: &Conversation,
    options: &TemplateOptions,
) -> Result<(), ApiError> {
    let able = template.capabilities();
    let refuse = |message: &str| Err(ApiError::invalid(message).of_param("messages"));
    if !able.system && conversation.messages.iter().any(|message| message.is_instruction()) {
        return refuse("the model's chat template has no place for a system message; put what it says into the user's");
    }
    let calls = |message: &qern_model::chat::Message| message.tool_calls.is_some() || message.role == "tool";
    if !able.tool_calls && conversation.messages.iter().any(calls) {
        return refuse("the model's chat template has no place for tool calls and their results");
    }
    if options.kwargs.contains_key("enable_thinking") && !has_thinking_switch(template)? {
        let message = "`enable_thinking` must be left out: the model's chat template has no switch for thinking";
        return Err(ApiError::invalid(message).of_param("chat_template_kwargs"));
    }
    Ok(())
}

/// Runs what takes a core (templates, tokenization) off the async threads, a few at a time.
pub(crate) async fn on_a_core<T: Send + 'static>(
    state: &AppState,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    // The semaphore is never closed.
    let _place = state.preparing.acquire().await;
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::internal("the request could not be prepared: an internal error")),
    }
}

/// A piece of a generation.
#[derive(Clone, Debug)]
pub enum Delta {
    /// The engine took the request up.
    Started {
        /// The seed in use; it gives the same text again.
        seed: u64,
    },
    /// Log-probabilities of the prompt's tokens but the first.
    Prompt(Vec<TokenLogprob>),
    /// More of an answer.
    Text {
        /// Which answer.
        index: usize,
        /// Thought.
        reasoning: String,
        /// Said.
        content: String,
        /// The token, when it is one that was sampled, and its log-probability if asked for.
        token: Option<(TokenId, Option<TokenLogprob>)>,
    },
    /// An answer is complete.
    Finished(Finished),
}

/// The end of an answer.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Which answer.
    pub index: usize,
    /// Why it ended.
    pub reason: FinishReason,
    /// What it took.
    pub usage: Usage,
    /// How many of its tokens were thoughts.
    pub reasoning_tokens: usize,
    /// With beam search.
    pub beam: Option<BeamAnswer>,
    /// Answers still to come.
    pub answers_left: usize,
}

/// A running request. Dropping it cancels it.
pub struct Generation {
    stream: RequestStream,
    state: AppState,
    model: Arc<Model>,
    thinking: Option<bool>,
    answers: Vec<AnswerState>,
    ready: VecDeque<Delta>,
    submitted: Instant,
    ended: bool,
}

struct AnswerState {
    splitter: Option<Splitter>,
    reasoning_tokens: usize,
    last_token: Option<Instant>,
}

impl Generation {
    /// Queues a request.
    pub(crate) fn start(state: &AppState, model: &Arc<Model>, prepared: Prepared) -> Result<Self, ApiError> {
        let stream = model.engine.submit(prepared.request).map_err(|error| {
            let error = ApiError::from(error);
            if error.status == StatusCode::TOO_MANY_REQUESTS
                && let Some(metrics) = state.metrics.of(&model.name)
            {
                metrics.refused();
            }
            error
        })?;
        Ok(Self {
            stream,
            state: state.clone(),
            model: model.clone(),
            thinking: prepared.thinking,
            answers: Vec::new(),
            ready: VecDeque::new(),
            submitted: Instant::now(),
            ended: false,
        })
    }

    /// The next piece; `None` after the last answer's end or after an error.
    pub async fn next(&mut self) -> Option<Result<Delta, ApiError>> {
        loop {
            if let Some(delta) = self.ready.pop_front() {
                return Some(Ok(delta));
            }
            let event = if self.ended { None } else { self.stream.next_async().await };
            let Some(event) = event else {
                self.ended = true;
                return None;
            };
            if let Err(error) = self.take(event) {
                self.ended = true;
                if let Some(metrics) = self.state.metrics.of(&self.model.name) {
                    metrics.failed();
                }
                return Some(Err(error));
            }
        }
    }

    fn take(&mut self, event: Event) -> Result<(), ApiError> {
        match event {
            Event::Started { seed, queued_seconds, .. } => {
                if let Some(metrics) = self.state.metrics.of(&self.model.name) {
                    metrics.started(queued_seconds);
                }
                self.ready.push_back(Delta::Started { seed });
            }
            Event::Prefilling { .. } => {}
            Event::PromptLogprobs { logprobs } => self.ready.push_back(Delta::Prompt(logprobs)),
            Event::Token { index, id, text, logprob } => self.token(index, &text, (id, logprob)),
            Event::Finished { index, text, beam, reason, usage, answers_left } => {
                self.text(index, &text, None);
                self.finish_text(index);
                if let Some(metrics) = self.state.metrics.of(&self.model.name) {
                    metrics.finished(&reason, &usage, self.submitted.elapsed().as_secs_f64());
                }
                let reasoning_tokens = self.answer(index).reasoning_tokens;
                self.ended = answers_left == 0;
                self.ready.push_back(Delta::Finished(Finished { index, reason, usage, reasoning_tokens, beam, answers_left }));
            }
            Event::Failed(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn token(&mut self, index: usize, text: &str, token: (TokenId, Option<TokenLogprob>)) {
        let now = Instant::now();
        if let Some(before) = self.answer(index).last_token.replace(now)
            && let Some(metrics) = self.state.metrics.of(&self.model.name)
        {
            metrics.token(now.duration_since(before).as_secs_f64());
        }
        self.text(index, text, Some(token));
        let answer = self.answer(index);
        answer.reasoning_tokens += usize::from(answer.splitter.as_ref().is_some_and(Splitter::is_thinking));
    }

    fn text(&mut self, index: usize, text: &str, token: Option<(TokenId, Option<TokenLogprob>)>) {
        let (mut reasoning, mut content) = (String::new(), String::new());
        match &mut self.answer(index).splitter {
            Some(splitter) => splitter.push(text).into_iter().for_each(|part| match part {
                Part::Thinking(text) => reasoning.push_str(&text),
                Part::Answer(text) => content.push_str(&text),
            }),
            None => content.push_str(text),
        }
        if token.is_some() || !reasoning.is_empty() || !content.is_empty() {
            self.ready.push_back(Delta::Text { index, reasoning, content, token });
        }
    }

    fn finish_text(&mut self, index: usize) {
        let (reasoning, content) = match self.answer(index).splitter.as_mut().and_then(Splitter::finish) {
            Some(Part::Thinking(text)) => (text, String::new()),
            Some(Part::Answer(text)) => (String::new(), text),
            None => return,
        };
        self.ready.push_back(Delta::Text { index, reasoning, content, token: None });
    }

    fn answer(&mut self, index: usize) -> &mut AnswerState {
        while self.answers.len() <= index {
            let splitter = self.thinking.map(Splitter::new);
            self.answers.push(AnswerState { splitter, reasoning_tokens: 0, last_token: None });
        }
        &mut self.answers[index]
    }

    /// Runs to the end.
    pub async fn collect(mut self) -> Result<Whole, ApiError> {
        let mut whole = Whole::default();
        while let Some(delta) = self.next().await {
            whole.add(delta?);
        }
        Ok(whole)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.ended
            && let Some(metrics) = self.state.metrics.of(&self.model.name)
        {
            metrics.abandoned();
        }
    }
}

/// Everything a request gave.
#[derive(Debug, Default)]
pub struct Whole {
    /// The seed in use.
    pub seed: u64,
    /// Log-probabilities of the prompt's tokens but the first, if asked for.
    pub prompt_logprobs: Vec<TokenLogprob>,
    /// The answers by index.
    pub answers: Vec<Answer>,
}

/// One answer.
#[derive(Debug, Default)]
pub struct Answer {
    /// Thought.
    pub reasoning: String,
    /// Said.
    pub content: String,
    /// Its tokens.
    pub tokens: Vec<TokenId>,
    /// Their log-probabilities, if asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// How it ended.
    pub finished: Option<Finished>,
}

impl Whole {
    fn add(&mut self, delta: Delta) {
        match delta {
            Delta::Started { seed } => self.seed = seed,
            Delta::Prompt(logprobs) => self.prompt_logprobs = logprobs,
            Delta::Text { index, reasoning, content, token } => {
                let answer = self.answer(index);
                answer.reasoning.push_str(&reasoning);
                answer.content.push_str(&content);
                if let Some((id, logprob)) = token {
                    answer.tokens.push(id);
                    answer.logprobs.extend(logprob);
                }
            }
            Delta::Finished(finished) => {
                let answer = self.answer(finished.index);
                if let Some(beam) = &finished.beam {
                    answer.tokens.clone_from(&beam.tokens);
                }
                answer.finished = Some(finished);
            }
        }
    }

    fn answer(&mut self, index: usize) -> &mut Answer {
        if self.answers.len() <= index {
            self.answers.resize_with(index + 1, Answer::default);
        }
        &mut self.answers[index]
    }
}
