//! How much is answered at once, and how much of a body is read. Connections are limited in `listen`, waiting requests by the
//! engine.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::{FromRequest, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;
use crate::state::AppState;

/// The middleware that lets a request in if there is a place for it, and none are let in once the server drains.
pub(crate) async fn admit(State(state): State<AppState>, request: Request, next: Next) -> Response {
    if state.is_draining() {
        return ApiError::draining().into_response();
    }
    let Ok(place) = state.places.clone().try_acquire_owned() else {
        let message = format!("the server answers {} requests already, its limit; try again later", state.config.max_requests);
        let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).coded("too_many_requests");
        return error.retry_in(Duration::from_secs(1)).into_response();
    };
    state.begin();
    let active = Active(state.clone());
    let response = next.run(request).await;
    response.map(|body| Body::new(Held::new(body, (place, active))))
}

/// Counts a request as active while it lives.
struct Active(AppState);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A body that holds something until it is sent, or given up.
pub(crate) struct Held<T> {
    body: Body,
    _held: T,
}

impl<T> Held<T> {
    pub fn new(body: Body, held: T) -> Self {
        Self { body, _held: held }
    }
}

impl<T: Send + Unpin + 'static> HttpBody for Held<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// The body of a request that says it is JSON: whole, within the limits of size and time.
pub(crate) struct JsonBody(pub Bytes);

impl FromRequest<AppState> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        check_type(&request)?;
        let limit = state.config.max_body_bytes;
        let too_large = || {
            let message = format!("the body must have at most {limit} bytes; it has more");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).coded("body_too_large")
        };
        // A body that says it is too large is not even begun.
        if request.body().size_hint().lower() > limit as u64 {
            return Err(too_large());
        }
        let time = state.config.body_timeout;
        match tokio::time::timeout(time, to_bytes(request.into_body(), limit)).await {
            Ok(Ok(bytes)) => Ok(Self(bytes)),
            Ok(Err(error)) if is_length_limit(&error) => Err(too_large()),
            Ok(Err(error)) => Err(ApiError::invalid(format!("the body cannot be read: {error}"))),
            Err(_) => {
                let message = format!("the body must arrive within {} seconds; it did not", time.as_secs_f64());
                Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message).coded("body_timeout"))
            }
        }
    }
}

fn check_type(request: &Request) -> Result<(), ApiError> {
    let given = request.headers().get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("not text"));
    let essence = given.and_then(|given| given.split(';').next()).unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let given = given.map_or("none".to_owned(), |given| format!("`{}`", crate::params::short(given)));
    let message = format!("`Content-Type` must be `application/json`; given {given}");
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message).coded("unsupported_media_type"))
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
