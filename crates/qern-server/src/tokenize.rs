//! `/tokenize`, `/detokenize` and `/tokenizer_info`, as vLLM has them and lm-eval reads them.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use qern_model::chat::Conversation;
use qern_model::template::TemplateOptions;
use qern_model::tokenizer::{Specials, Tokenizer};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::dialects::openai::chat::{kwargs, kwargs_schema};
use crate::dialects::openai::messages::{self, messages};
use crate::error::ApiError;
use crate::generate::{check_template, on_a_core};
use crate::limits::JsonBody;
use crate::params::Kind::{Bool, Shaped, Text, TokenIds};
use crate::params::{Param, Params, param};
use crate::state::AppState;

const MODEL: Param = param("model", Text, "The model, by its name in /v1/models; the first one when left out.");

/// The fields of `/tokenize`.
pub(crate) const TOKENIZE: &[Param] = &[
    MODEL,
    param("prompt", Text, "A text; special tokens in it are tokens."),
    param("messages", Shaped(messages::schema), "A conversation, in place of a text."),
    param("add_special_tokens", Bool, "Whether the tokens that the model wants around a text are added. Default true for texts."),
    param("add_generation_prompt", Bool, "End a conversation with the opening of an assistant's message. Default true."),
    param("continue_final_message", Bool, "End a conversation within its last message."),
    param("chat_template_kwargs", Shaped(kwargs_schema), "Variables of the chat template."),
    param("return_token_strs", Bool, "Also give the text of each token."),
];

/// The fields of `/detokenize`.
pub(crate) const DETOKENIZE: &[Param] = &[MODEL, param("tokens", TokenIds(1 << 20), "The tokens.")];

/// `POST /tokenize`.
pub(crate) async fn tokenize(State(state): State<AppState>, JsonBody(body): JsonBody) -> Result<Json<Value>, ApiError> {
    let shared = state.clone();
    on_a_core(&state, move || {
        let mut params = Params::parse(&body, &[TOKENIZE])?;
        let model = shared.target(params.str("model"))?;
        let tokenizer = &model.tokenizer;
        let tokens = match (params.take("prompt"), params.take("messages")) {
            (Some(Value::String(text)), None) => {
                text_tokens(tokenizer, &text, params.bool("add_special_tokens").unwrap_or(true))?
            }
            (None, Some(list)) => {
                let Some(template) = &model.template else {
                    return Err(
                        ApiError::invalid(format!("`{}` has no chat template; give `prompt`", model.name)).of_param("messages")
                    );
                };
                let continued = params.bool("continue_final_message").unwrap_or(false);
                let options = TemplateOptions {
                    add_generation_prompt: params.bool("add_generation_prompt").unwrap_or(!continued),
                    continue_final_message: continued,
                    kwargs: kwargs(&mut params)?,
                    ..TemplateOptions::default()
                };
                let conversation = Conversation::new(messages(list)?);
                check_template(template, &conversation, &options)?;
                tokenizer.encode_prompt(&template.render(&conversation, &options)?)?
            }
            (Some(_), Some(_)) => return Err(ApiError::invalid("give `prompt` or `messages`, not both").of_param("messages")),
            _ => return Err(Params::missing("prompt")),
        };
        let mut answer = json!({"count": tokens.len(), "max_model_len": model.context_len, "tokens": tokens});
        if params.bool("return_token_strs").unwrap_or(false) {
            let text = |id: &u32| String::from_utf8_lossy(tokenizer.token_bytes(*id).unwrap_or_default()).into_owned();
            answer["token_strs"] = tokens.iter().map(text).collect();
        }
        Ok(Json(answer))
    })
    .await
}

/// `POST /detokenize`.
pub(crate) async fn detokenize(State(state): State<AppState>, JsonBody(body): JsonBody) -> Result<Json<Value>, ApiError> {
    let shared = state.clone();
    on_a_core(&state, move || {
        let params = Params::parse(&body, &[DETOKENIZE])?;
        let model = shared.target(params.str("model"))?;
        let tokens = params.token_ids("tokens").ok_or_else(|| Params::missing("tokens"))?;
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= model.tokenizer.vocab_size()) {
            let message = format!("`tokens` must hold ids below {}; given {id}", model.tokenizer.vocab_size());
            return Err(ApiError::invalid(message).of_param("tokens"));
        }
        let text = model.tokenizer.decode(&tokens, true);
        Ok(Json(json!({"prompt": String::from_utf8_lossy(&text)})))
    })
    .await
}

/// What `GET /tokenizer_info` may be asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InfoQuery {
    model: Option<String>,
}

/// `GET /tokenizer_info`.
pub(crate) async fn info(
    State(state): State<AppState>,
    query: Result<Query<InfoQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let query = query.map_err(|_| ApiError::invalid("the query must be empty or `model=NAME`; given another"))?;
    let model = state.target(query.model.as_deref())?;
    let tokenizer = &model.tokenizer;
    let text =
        |id: Option<u32>| id.and_then(|id| tokenizer.token_bytes(id)).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    Ok(Json(json!({
        "model": model.name,
        "tokenizer_class": "qern",
        "vocab_size": tokenizer.vocab_size(),
        "model_max_length": model.context_len,
        "bos_token": text(tokenizer.bos_id()),
        "eos_token": text(tokenizer.eos_id()),
        "pad_token": text(tokenizer.pad_id()),
        "add_bos_token": tokenizer.add_bos(),
        "add_eos_token": tokenizer.add_eos(),
        "chat_template": model.template_source,
    })))
}

fn text_tokens(tokenizer: &Tokenizer, text: &str, around: bool) -> Result<Vec<u32>, ApiError> {
    let mut tokens: Vec<u32> = tokenizer.bos_id().filter(|_| around && tokenizer.add_bos()).into_iter().collect();
    tokens.extend(tokenizer.encode(text, Specials::Parse)?);
    tokens.extend(tokenizer.eos_id().filter(|_| around && tokenizer.add_eos()));
    Ok(tokens)
}
