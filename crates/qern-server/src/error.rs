//! The one place where errors become HTTP: status, OpenAI's error object, `Retry-After`. Messages are the errors' own.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// An answer that is an error.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// The status.
    pub status: StatusCode,
    /// What the client reads: the thing, the rule, the value, the fix.
    pub message: String,
    /// The field at fault.
    pub param: Option<String>,
    /// A name that programs tell errors apart by.
    pub code: Option<&'static str>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    /// An error of this status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// The client's to fix.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Ours to fix. The message is for the log too.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The server is about to stop.
    pub fn draining() -> Self {
        let message = "the server is shutting down and takes no new requests; try again in a moment";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).coded("draining").retry_in(Duration::from_secs(5))
    }

    /// With the field at fault.
    pub fn of_param(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    /// With a code.
    pub fn coded(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// With the time after which another try makes sense.
    pub fn retry_in(mut self, time: Duration) -> Self {
        self.retry_after = Some(time);
        self
    }

    /// OpenAI's word for the kind of error.
    pub fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The object `{"error": ...}`, for bodies and for events inside a stream.
    pub fn body(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind(), "param": self.param, "code": self.code}})
    }

    /// The seconds of `Retry-After`: whole, and at least one.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after.map(|time| time.as_secs_f64().ceil().max(1.0) as u64)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status.is_server_error() && self.status != StatusCode::SERVICE_UNAVAILABLE {
            tracing::error!("{}", self.message);
        }
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after_seconds() {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<qern_engine::Error> for ApiError {
    fn from(error: qern_engine::Error) -> Self {
        use qern_engine::Error;
        let message = error.to_string();
        match error {
            Error::Invalid { field, .. } => Self::invalid(message).of_param(public_name(field)),
            Error::PromptTooLong { .. } => Self::invalid(message).coded("context_length_exceeded"),
            // It was unloaded after the request had found it.
            Error::UnknownAdapter(_) => {
                let message = "the adapter was unloaded just now; /v1/models lists those that are there";
                Self::new(StatusCode::NOT_FOUND, message).of_param("model").coded("model_not_found")
            }
            Error::Adapter(_) => Self::invalid(message).of_param("lora_path").coded("adapter_refused"),
            Error::NothingToSample { .. } => Self::invalid(message).of_param("logit_bias"),
            Error::QueueFull { retry_after, .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, message).coded("queue_full").retry_in(retry_after)
            }
            Error::TimedOut => Self::new(StatusCode::GATEWAY_TIMEOUT, message).of_param("timeout").coded("timed_out"),
            Error::Draining | Error::Cancelled | Error::Stopped => Self::draining(),
            _ => Self::internal(message),
        }
    }
}

impl From<qern_model::Error> for ApiError {
    fn from(error: qern_model::Error) -> Self {
        use qern_model::Error;
        let message = error.to_string();
        match error {
            Error::ContextTooSmall { .. } | Error::StrictContext { .. } => {
                Self::invalid(message).of_param("messages").coded("context_length_exceeded")
            }
            // The template refuses the conversation, or the vocabulary cannot spell the text.
            Error::Template(_) | Error::Tokenizer(_) => Self::invalid(message),
            _ => Self::internal(message),
        }
    }
}

/// The engine's name of a field to the one that requests have.
fn public_name(field: &'static str) -> &'static str {
    match field {
        "penalty_last_n" => "repeat_last_n",
        "dry_last_n" => "dry_penalty_last_n",
        "inputs" => "input",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_openais_shape() {
        let error = ApiError::invalid("`n` must be at most 4; given 5").of_param("n");
        assert_eq!(
            error.body(),
            json!({"error": {"message": "`n` must be at most 4; given 5", "type": "invalid_request_error", "param": "n", "code": null}})
        );
    }

    #[test]
    fn a_retry_is_never_asked_for_at_once() {
        let seconds = |time| ApiError::draining().retry_in(time).retry_after_seconds();
        assert_eq!(seconds(Duration::from_millis(20)), Some(1));
        assert_eq!(seconds(Duration::from_millis(1200)), Some(2));
    }

    #[test]
    fn too_long_a_prompt_has_openais_code() {
        let error = ApiError::from(qern_engine::Error::PromptTooLong { num_tokens: 9, limit: 8, limited_by: "x" });
        assert_eq!((error.status, error.code), (StatusCode::BAD_REQUEST, Some("context_length_exceeded")));
        let error = ApiError::from(qern_model::Error::ContextTooSmall { needed: 9, available: 8 });
        assert_eq!((error.status, error.code), (StatusCode::BAD_REQUEST, Some("context_length_exceeded")));
    }
}
