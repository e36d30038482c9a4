//! The log and the identity of requests: `x-request-id` is taken from the client or made, returned, and in every line of the
//! log. The log never has texts unless the configuration asks for them (`log_text`).

use std::net::IpAddr;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use uuid::Uuid;

use crate::limits::Held;
use crate::listen::Peer;
use crate::state::AppState;

/// Identifies a request.
pub(crate) const REQUEST_ID: &str = "x-request-id";
/// What became of a conversation that was too long, in an answer's head.
pub(crate) const CONTEXT_HEADER: &str = "x-qern-context";

/// The middleware around everything.
pub(crate) async fn observe(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let id = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|id| is_usable(id));
    let id = id.map_or_else(|| format!("req-{}", Uuid::new_v4().simple()), str::to_owned);
    let path = request.extensions().get::<MatchedPath>().map_or("(none)", MatchedPath::as_str).to_owned();
    let record = Record {
        id: id.clone(),
        method: request.method().clone(),
        path,
        status: StatusCode::OK,
        peer: request.extensions().get::<Peer>().map(|peer| peer.0.ip()),
        started: Instant::now(),
        state: state.clone(),
    };
    let mut record = Guard(Some(record));
    let mut response = next.run(request).await;
    if let Some(record) = &mut record.0 {
        record.status = response.status();
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HeaderName::from_static(REQUEST_ID), value);
    }
    // The line is written when the body has been sent, or the client has gone.
    response.map(|body| Body::new(Held::new(body, record)))
}

/// What a client may call its request: short, and of characters that cannot fake a line of the log.
fn is_usable(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

struct Record {
    id: String,
    method: Method,
    path: String,
    status: StatusCode,
    peer: Option<IpAddr>,
    started: Instant,
    state: AppState,
}

/// Writes its record when it goes.
struct Guard(Option<Record>);

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(Record { id, method, path, status, peer, started, state }) = self.0.take() else { return };
        let seconds = started.elapsed().as_secs_f64();
        state.metrics.http(&path, method.as_str(), status.as_u16(), seconds);
        let status = status.as_u16();
        let peer = peer.map(tracing::field::display);
        // Probes would fill the log.
        if path.starts_with("/health") || path == "/metrics" {
            tracing::debug!(request_id = %id, %method, %path, status, peer, seconds, "answered");
        } else {
            tracing::info!(request_id = %id, %method, %path, status, peer, seconds, "answered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_that_could_fake_a_line_of_the_log_are_not_taken() {
        assert!(is_usable("req-1_A/b"));
        for wrong in ["", "a b", "a\nb", "é", &"x".repeat(129)] {
            assert!(!is_usable(wrong), "{wrong:?}");
        }
    }
}
