//! Which web pages and which names of this server are let in: `Host` against DNS rebinding, `Origin` against pages of others.
//! Answers to pages that were allowed carry the CORS headers of `tower-http`; an origin is never reflected without being listed.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderName, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::config::Config;
use crate::error::ApiError;
use crate::observe::{CONTEXT_HEADER, REQUEST_ID};
use crate::params::short;
use crate::state::AppState;

/// CORS headers for the origins that were configured, and for no others.
pub(crate) fn cors(config: &Config) -> CorsLayer {
    let origins = &config.cors_origins;
    let origin = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| origin.parse().ok()))
    };
    let exposed = [header::RETRY_AFTER, HeaderName::from_static(REQUEST_ID), HeaderName::from_static(CONTEXT_HEADER)];
    CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(exposed)
}

/// The middleware that refuses foreign names and foreign pages.
pub(crate) async fn check(State(state): State<AppState>, request: Request, next: Next) -> Response {
    match check_request(&state.config, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn check_request(config: &Config, request: &Request) -> Result<(), ApiError> {
    let text = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or_default().to_owned());
    // In HTTP/1.1 the target may name the host too, and then counts.
    let host = request.uri().authority().map(ToString::to_string).or_else(|| text(header::HOST));
    check_host(config, host.as_deref())?;
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    match text(header::ORIGIN) {
        Some(origin) if changes && !may_use(config, &origin, host.as_deref()) => {
            let message = format!(
                "pages of `{}` may not use this server; list the origin in `cors-origins` (--cors-origin) if they should",
                short(&origin)
            );
            Err(ApiError::new(StatusCode::FORBIDDEN, message).coded("origin_not_allowed"))
        }
        _ => Ok(()),
    }
}

fn check_host(config: &Config, host: Option<&str>) -> Result<(), ApiError> {
    let name = host.map(name_of).unwrap_or_default();
    let is_loopback_name = name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let listed = config.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name));
    let checked = config.host.is_loopback() || !config.allowed_hosts.is_empty();
    if !checked || listed || is_loopback_name {
        return Ok(());
    }
    let message = format!(
        "this server is not called `{}`; ask for localhost, or list the name in `allowed-hosts` (--allowed-host)",
        short(name)
    );
    Err(ApiError::new(StatusCode::FORBIDDEN, message).coded("host_not_allowed"))
}

/// The host without its port, and without the brackets of IPv6.
fn name_of(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

/// Whether pages of this origin may use the server: its own, and those listed.
fn may_use(config: &Config, origin: &str, host: Option<&str>) -> bool {
    let own = host.is_some_and(|host| origin.split_once("://").is_some_and(|(_, of)| of.eq_ignore_ascii_case(host)));
    own || config.cors_origins.iter().any(|listed| listed == "*" || listed == origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_loopback_only_names_of_loopback_are_answered() {
        let mut config = Config::default();
        let is_let_in = |config: &Config, host| check_host(config, host).is_ok();
        for host in ["localhost", "LOCALHOST:8420", "127.0.0.1:8420", "127.9.9.9", "[::1]:8420", "[::1]"] {
            assert!(is_let_in(&config, Some(host)), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:8420", "127.0.0.1.evil.example", "", "[", "0.0.0.0:8420"] {
            assert!(!is_let_in(&config, Some(host)), "{host}");
        }
        assert!(!is_let_in(&config, None));
        config.allowed_hosts.push("llm.example".into());
        assert!(is_let_in(&config, Some("LLM.example:443")));
    }

    #[test]
    fn on_the_network_names_count_only_when_listed() {
        let mut config = Config { host: "0.0.0.0".parse().unwrap(), ..Config::default() };
        assert!(check_host(&config, Some("any.example")).is_ok());
        config.allowed_hosts.push("llm.example".into());
        assert!(check_host(&config, Some("any.example")).is_err());
    }

    #[test]
    fn only_own_and_listed_origins_may_use_the_server() {
        let mut config = Config::default();
        let host = Some("localhost:8420");
        assert!(may_use(&config, "http://localhost:8420", host));
        for origin in ["http://localhost:1", "http://evil.example", "null", "", "localhost:8420"] {
            assert!(!may_use(&config, origin, host), "{origin}");
        }
        config.cors_origins.push("https://chat.example".into());
        assert!(may_use(&config, "https://chat.example", host));
        assert!(!may_use(&config, "http://chat.example", host));
    }
}
