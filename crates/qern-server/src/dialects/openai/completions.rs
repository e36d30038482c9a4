//! `POST /v1/completions`: plain text or tokens go on, one prompt or several, with the prompt's own log-probabilities if asked
//! for. Streams are in `completions_stream`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::future::try_join_all;
use qern_engine::{TokenId, TokenLogprob};
use qern_model::tokenizer::{Specials, Tokenizer};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::chat::FINGERPRINT;
use super::completions_stream;
use super::settings::{MANY, SETTINGS, StreamOptions, settings, streaming, twice};
use super::shapes::{Tally, finish_detail, finish_reason, finite, stop_reason};
use crate::error::ApiError;
use crate::generate::{Generation, Prepared, Whole, on_a_core, prepare_tokens};
use crate::limits::JsonBody;
use crate::params::Kind::{Bool, Integer, Refused, Shaped};
use crate::params::{Param, Params, is_token_id, param, refused, whole};
use crate::state::{AppState, Model, now};

/// The fields beside the shared ones.
pub(crate) const COMPLETIONS: &[Param] = &[
    param("prompt", Shaped(prompt_schema), "A text, its tokens, or a list of either."),
    param("max_tokens", Integer(0, MANY), "At most so many tokens in an answer. Default 16, as OpenAI has it."),
    param("max_completion_tokens", Integer(0, MANY), "Another name of `max_tokens`."),
    param("n_predict", Integer(-1, MANY), "llama.cpp's name of `max_tokens`; -1 is what the context leaves."),
    param("echo", Bool, "Begin the text with the prompt, and its log-probabilities."),
    param(
        "logprobs",
        Integer(0, 128),
        "Report the log-probability of each token, with so many of the most probable at its place.",
    ),
    param("return_tokens_as_token_ids", Bool, "Write tokens in `logprobs` as `token_id:123`."),
    param("suffix", Refused(&[r#""""#]), "the model goes on after a prompt, it does not fill in"),
    param("prompt_logprobs", Refused(&[]), "use `echo` with `logprobs`"),
    param("messages", Refused(&[]), "use /v1/chat/completions"),
    param("store", Refused(&["false"]), "nothing is stored; leave it out"),
];

/// Prompts of one request.
const MAX_PROMPTS: usize = 128;
/// OpenAI's default, which its clients count on.
const DEFAULT_MAX_TOKENS: usize = 16;

/// What the answers of a request have in common.
pub(crate) struct Common {
    pub id: String,
    pub created: u64,
    pub name: String,
    pub echo: bool,
    pub logprobs: bool,
    pub as_ids: bool,
    /// Answers per prompt.
    pub n: usize,
    pub prompts: Vec<Prompt>,
}

/// A prompt, and its text where it is to be given back.
pub(crate) struct Prompt {
    pub text: String,
    pub tokens: Vec<TokenId>,
    /// The bytes of its tokens, for their log-probabilities.
    pub bytes: Vec<Vec<u8>>,
}

struct Read {
    model: Arc<Model>,
    common: Common,
    prepared: Vec<Prepared>,
    streamed: Option<StreamOptions>,
}

/// The handler.
pub(crate) async fn completions(State(state): State<AppState>, JsonBody(body): JsonBody) -> Result<Response, ApiError> {
    let shared = state.clone();
    let Read { model, common, prepared, streamed } = on_a_core(&state, move || read(&shared, &body)).await?;
    // All at once: they share batches, and common beginnings.
    let generations: Vec<Generation> =
        prepared.into_iter().map(|prepared| Generation::start(&state, &model, prepared)).collect::<Result<_, _>>()?;
    match streamed {
        Some(StreamOptions { include_usage }) => {
            Ok(completions_stream::respond(generations, common, include_usage, state.config.ping_after))
        }
        None => {
            let wholes = try_join_all(generations.into_iter().map(Generation::collect)).await?;
            Ok(Json(body_of(&common, &wholes)).into_response())
        }
    }
}

fn read(state: &AppState, body: &[u8]) -> Result<Read, ApiError> {
    let mut params = Params::parse(body, &[COMPLETIONS, SETTINGS])?;
    if state.config.log_text {
        tracing::info!(body = %String::from_utf8_lossy(body), "a completion was asked for");
    }
    let target = state.target(params.str("model"))?;
    let model = target.model;
    let streamed = streaming(&params)?;
    let echo = params.bool("echo").unwrap_or(false);
    let mut settings = settings(&params)?;
    settings.max_tokens = max_tokens(&params)?;
    settings.adapter = target.adapter;
    settings.logprobs = params.count("logprobs");
    if echo {
        settings.prompt_logprobs = settings.logprobs;
    }
    let prompts = prompts(params.take("prompt").ok_or_else(|| Params::missing("prompt"))?, &model.tokenizer, echo)?;
    let prepared = prompts.iter().map(|prompt| prepare_tokens(&model, prompt.tokens.clone(), settings.clone()));
    let prepared: Vec<Prepared> = prepared.collect::<Result<_, _>>()?;
    let common = Common {
        id: format!("cmpl-{}", Uuid::new_v4().simple()),
        created: now(),
        name: params.str("model").unwrap_or(&model.name).to_owned(),
        echo,
        logprobs: settings.logprobs.is_some(),
        as_ids: params.bool("return_tokens_as_token_ids").unwrap_or(false),
        n: settings.n.max(1),
        prompts,
    };
    Ok(Read { model, common, prepared, streamed })
}

fn max_tokens(params: &Params) -> Result<Option<usize>, ApiError> {
    let names = ["max_tokens", "max_completion_tokens", "n_predict"];
    let given: Vec<(&str, i128)> = names.into_iter().filter_map(|name| Some((name, params.integer(name)?))).collect();
    match given.as_slice() {
        [] => Ok(Some(DEFAULT_MAX_TOKENS)),
        [(_, count)] => Ok(usize::try_from(*count).ok()),
        [(one, _), (other, _), ..] => Err(twice(one, other)),
    }
}

/// The prompts, each with its tokens.
fn prompts(value: Value, tokenizer: &Tokenizer, echo: bool) -> Result<Vec<Prompt>, ApiError> {
    let rule = "be a text, a list of token ids, or a list of either";
    let list = match value {
        Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_number) => vec![Value::Array(list)],
        Value::Array(list) => list,
        Value::String(_) => vec![value],
        other => return Err(refused("prompt", rule, &other)),
    };
    if list.is_empty() || list.len() > MAX_PROMPTS {
        let given = format!("`prompt` must hold 1 to {MAX_PROMPTS} prompts; given {}", list.len());
        return Err(ApiError::invalid(given).of_param("prompt"));
    }
    let one = |value: Value| {
        let (text, tokens) = match value {
            Value::String(text) => {
                let bos = tokenizer.add_bos().then(|| tokenizer.bos_id()).flatten();
                let mut tokens: Vec<TokenId> = bos.into_iter().collect();
                tokens.extend(tokenizer.encode(&text, Specials::Parse)?);
                (text, tokens)
            }
            Value::Array(ids) if ids.iter().all(is_token_id) => {
                let ids = ids.iter().filter_map(whole).filter_map(|id| TokenId::try_from(id).ok());
                let tokens: Vec<TokenId> = ids.collect();
                let text =
                    if echo { String::from_utf8_lossy(&tokenizer.decode(&tokens, true)).into_owned() } else { String::new() };
                (text, tokens)
            }
            other => return Err(refused("prompt", rule, &other)),
        };
        let bytes = match echo {
            true => tokens.iter().map(|&id| tokenizer.token_bytes(id).unwrap_or_default().to_vec()).collect(),
            false => Vec::new(),
        };
        Ok(Prompt { text, tokens, bytes })
    };
    list.into_iter().map(one).collect()
}

fn prompt_schema() -> Value {
    let text = json!({"type": "string"});
    let tokens = json!({"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": u32::MAX}, "minItems": 1});
    json!({"anyOf": [
        text,
        tokens,
        {"type": "array", "items": text, "minItems": 1, "maxItems": MAX_PROMPTS},
        {"type": "array", "items": tokens, "minItems": 1, "maxItems": MAX_PROMPTS},
    ]})
}

/// The whole answer.
fn body_of(common: &Common, wholes: &[Whole]) -> Value {
    let mut tally = Tally::default();
    let mut choices = Vec::new();
    for (prompt, whole) in common.prompts.iter().zip(wholes) {
        let mut of_prompt = Tally::default();
        for answer in &whole.answers {
            let mut logprobs = Logprobs::new(common.as_ids);
            let mut text = String::new();
            if common.echo {
                text.push_str(&prompt.text);
                logprobs.push_prompt(prompt, &whole.prompt_logprobs);
            }
            text.push_str(&answer.content);
            answer.logprobs.iter().for_each(|token| logprobs.push(token));
            let mut choice = json!({
                "index": choices.len(),
                "text": text,
                "logprobs": if common.logprobs { logprobs.object() } else { Value::Null },
            });
            if let Some(finished) = &answer.finished {
                of_prompt.add(finished);
                choice["finish_reason"] = finish_reason(&finished.reason).into();
                choice["stop_reason"] = stop_reason(&finished.reason);
                choice["finish_detail"] = finish_detail(&finished.reason).into();
            }
            choices.push(choice);
        }
        tally.join(of_prompt);
    }
    json!({
        "id": common.id,
        "object": "text_completion",
        "created": common.created,
        "model": common.name,
        "choices": choices,
        "usage": tally.usage(),
        "system_fingerprint": FINGERPRINT,
        "seed": wholes.first().map(|whole| whole.seed),
    })
}

/// The older shape of log-probabilities: four lists side by side.
pub(crate) struct Logprobs {
    as_ids: bool,
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<Value>,
    /// Characters so far.
    offset: usize,
}

impl Logprobs {
    pub fn new(as_ids: bool) -> Self {
        let none = Vec::new;
        Self { as_ids, tokens: none(), token_logprobs: none(), top_logprobs: none(), text_offset: none(), offset: 0 }
    }

    /// Tokens of the prompt; nothing predicts the first.
    pub fn push_prompt(&mut self, prompt: &Prompt, logprobs: &[TokenLogprob]) {
        if let (Some(&id), Some(bytes)) = (prompt.tokens.first(), prompt.bytes.first()) {
            self.push_with(id, bytes, Value::Null, Value::Null);
        }
        logprobs.iter().for_each(|token| self.push(token));
    }

    /// The next token.
    pub fn push(&mut self, token: &TokenLogprob) {
        let mut top: Map<String, Value> = Map::new();
        // Several tokens may be written alike (parts of characters): the most probable of them is kept.
        for one in &token.top {
            top.entry(self.name(one.id, &one.bytes)).or_insert_with(|| finite(one.logprob).into());
        }
        top.entry(self.name(token.id, &token.bytes)).or_insert_with(|| finite(token.logprob).into());
        self.push_with(token.id, &token.bytes, finite(token.logprob).into(), top.into());
    }

    fn push_with(&mut self, id: TokenId, bytes: &[u8], logprob: Value, top: Value) {
        self.tokens.push(self.name(id, bytes).into());
        self.token_logprobs.push(logprob);
        self.top_logprobs.push(top);
        self.text_offset.push(self.offset.into());
        self.offset += String::from_utf8_lossy(bytes).chars().count();
    }

    fn name(&self, id: TokenId, bytes: &[u8]) -> String {
        if self.as_ids { format!("token_id:{id}") } else { String::from_utf8_lossy(bytes).into_owned() }
    }

    /// The `logprobs` object of what was pushed since it was last taken.
    pub fn take(&mut self) -> Value {
        let next = Self { offset: self.offset, ..Self::new(self.as_ids) };
        std::mem::replace(self, next).object()
    }

    /// The `logprobs` object.
    pub fn object(self) -> Value {
        json!({
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qern_engine::TopLogprob;

    #[test]
    fn the_likeliest_of_the_alternatives_is_the_token_itself_when_it_was_greedy() {
        let top = |id, logprob| TopLogprob { id, bytes: vec![b'a' + id as u8], logprob };
        let mut logprobs = Logprobs::new(false);
        let prompt = Prompt { text: "é".into(), tokens: vec![9], bytes: vec!["é".into()] };
        let greedy = TokenLogprob { id: 1, bytes: b"b".to_vec(), logprob: -0.1, constrained: None, top: vec![top(1, -0.1)] };
        let other =
            TokenLogprob { id: 2, bytes: b"c".to_vec(), logprob: f32::NEG_INFINITY, constrained: None, top: vec![top(1, -0.1)] };
        logprobs.push_prompt(&prompt, &[greedy]);
        logprobs.push(&other);
        let object = logprobs.object();
        assert_eq!(object["tokens"], json!(["é", "b", "c"]));
        assert_eq!(object["token_logprobs"], json!([null, -0.1, -9999.0]));
        assert_eq!(object["top_logprobs"], json!([null, {"b": -0.1}, {"b": -0.1, "c": -9999.0}]));
        assert_eq!(object["text_offset"], json!([0, 1, 2]), "offsets are characters, not bytes");
    }
}
