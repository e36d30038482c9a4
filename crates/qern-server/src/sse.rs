//! Server-sent events: one JSON object each, a comment whenever some time passes in silence (clients give up on connections that
//! say nothing), errors as events once the answer has begun.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use serde_json::Value;

/// An event whose data is a JSON object.
pub fn data(value: &Value) -> Event {
    // JSON has no line ends outside of strings, and none unescaped within.
    Event::default().data(value.to_string())
}

/// The event that ends OpenAI's streams.
pub fn done() -> Event {
    Event::default().data("[DONE]")
}

/// A response that sends events as they come, and a comment after so much silence. When its reader goes, the stream is dropped.
pub fn respond(events: impl Stream<Item = Event> + Send + 'static, ping_after: Duration) -> Response {
    use futures_util::StreamExt;
    let events = events.map(Ok::<_, Infallible>);
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(ping_after).text("ping")).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Reverse proxies of nginx's kind hold events back unless told not to.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
