//! Requests to the hub: the endpoint, the token, proxies, timeouts, and redirects followed by hand so that the token stays
//! with the endpoint and no redirect leads where it should not. Not retries and not files.

use super::address::{GuardedResolver, PRIVATE_ADDRESS, is_private_host};
use super::{DEFAULT_ENDPOINT, HubError};
use std::env;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use ureq::http::{HeaderMap, Response, Uri, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body, Proxy};

const MAX_REDIRECTS: usize = 6;
/// A hub that asks for a longer wait than this is asked again all the same.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// How the hub is reached.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// `HF_ENDPOINT`, without a slash at its end.
    pub endpoint: String,
    /// `HF_TOKEN`.
    pub token: Option<String>,
    /// The proxy, if any.
    pub proxy: Option<Proxy>,
    /// Limit for resolving and connecting.
    pub connect_timeout: Duration,
    /// Limit for the time between two pieces of an answer.
    pub read_timeout: Duration,
    /// How many attempts in a row may bring nothing before a download gives up.
    pub attempts: u32,
    /// The wait before the second attempt; doubled for each further one.
    pub backoff: Duration,
    /// How much room a folder's disk has; `None` where the system does not say.
    pub free_space: fn(&Path) -> Option<u64>,
}

impl HubConfig {
    /// Reads `HF_ENDPOINT`, `HF_TOKEN`, `ALL_PROXY`, `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`.
    pub fn from_env() -> Result<Self, HubError> {
        let endpoint = env::var("HF_ENDPOINT").ok().filter(|value| !value.trim().is_empty());
        let endpoint = endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT).trim().trim_end_matches('/').to_string();
        let token = env::var("HF_TOKEN").ok().map(|token| token.trim().to_string()).filter(|token| !token.is_empty());
        let proxy = Proxy::try_from_env();
        if proxy.is_none() {
            for name in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "https_proxy", "http_proxy"] {
                if let Some(value) = env::var(name).ok().filter(|value| !value.is_empty()) {
                    return Err(HubError::Setting {
                        name,
                        rule: "must be the address of a proxy, as in http://host:3128",
                        value,
                    });
                }
            }
        }
        Ok(Self { token, proxy, ..Self::at(&endpoint) })
    }

    /// The defaults for an endpoint, taking nothing from the environment.
    pub fn at(endpoint: &str) -> Self {
        Self {
            endpoint: endpoint.trim_end_matches('/').to_string(),
            token: None,
            proxy: None,
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(30),
            attempts: 5,
            backoff: Duration::from_secs(1),
            free_space: super::free_space,
        }
    }
}

/// A connection to one hub.
#[derive(Debug)]
pub struct Client {
    pub(super) config: HubConfig,
    endpoint: Uri,
    agent: Agent,
    endpoint_is_private: Arc<AtomicBool>,
}

/// An answer, with the headers of every hop: the hub says what a file is, the host it redirects to sends it.
pub(super) struct Answer {
    /// The endpoint's own headers.
    pub(super) first: HeaderMap,
    /// The last answer.
    pub(super) response: Response<Body>,
}

/// Why there is no answer.
pub(super) enum RequestError {
    /// Trying again may help, after the wait that the hub asks for.
    Transient(String, Duration),
    /// It will not.
    Fatal(HubError),
}

impl Client {
    /// A client; connects to nothing yet.
    pub fn new(config: HubConfig) -> Result<Self, HubError> {
        let setting = |rule| HubError::Setting { name: "HF_ENDPOINT", rule, value: config.endpoint.clone() };
        let endpoint: Uri = config.endpoint.parse().map_err(|_| setting("must be an http or https address"))?;
        let host = endpoint.host().ok_or_else(|| setting("must be an http or https address with a host"))?.to_string();
        if !matches!(endpoint.scheme_str(), Some("http" | "https")) {
            return Err(setting("must be an http or https address"));
        }
        if has_userinfo(&endpoint) {
            return Err(setting("must not hold a user name; use HF_TOKEN"));
        }
        let endpoint_is_private = Arc::new(AtomicBool::new(is_private_host(&host)));
        let mut trusted = vec![host.clone()];
        trusted.extend(config.proxy.as_ref().map(|proxy| proxy.host().to_string()));
        let resolver = GuardedResolver { trusted, endpoint: host, endpoint_is_private: endpoint_is_private.clone() };
        let settings = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(config.proxy.clone())
            .timeout_resolve(Some(config.connect_timeout))
            .timeout_connect(Some(config.connect_timeout))
            .timeout_send_request(Some(config.read_timeout))
            .timeout_recv_response(Some(config.read_timeout))
            .timeout_per_read(Some(config.read_timeout))
            .user_agent(concat!("qern/", env!("CARGO_PKG_VERSION")))
            // Files are asked for byte by byte: a compressed answer has no byte to resume at.
            .accept_encoding("identity")
            .tls_config(tls_config()?)
            .build();
        let agent = Agent::with_parts(settings, DefaultConnector::default(), resolver);
        Ok(Self { config, endpoint, agent, endpoint_is_private })
    }

    /// The endpoint's address.
    pub fn endpoint(&self) -> &str {
        &self.config.endpoint
    }

    /// How free disk space is found out.
    pub fn free_space(&self) -> fn(&Path) -> Option<u64> {
        self.config.free_space
    }

    /// Whether the hub answers at all within the connect timeout; the reason if not.
    pub fn probe(&self) -> Result<(), String> {
        let request =
            self.agent.head(self.config.endpoint.as_str()).config().timeout_global(Some(self.config.connect_timeout)).build();
        request.call().map(|_| ()).map_err(|error| plain_reason(&error))
    }

    /// `GET` of a path under the endpoint, following redirects. `what` is what errors call it.
    pub(super) fn get(&self, path: &str, what: &str, headers: &[(&str, String)]) -> Result<Answer, RequestError> {
        let start = format!("{}{path}", self.config.endpoint);
        let mut uri: Uri = start.parse().map_err(|_| malformed(what, "its name does not make an address"))?;
        let mut first = None;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(uri.clone());
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            if let Some(token) = &self.config.token
                && same_origin(&uri, &self.endpoint)
            {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.call().map_err(|error| self.request_error(what, &uri, &error))?;
            let first = first.get_or_insert_with(|| response.headers().clone());
            if !response.status().is_redirection() {
                return self.check_status(what, Answer { first: std::mem::take(first), response });
            }
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let location = location.ok_or_else(|| malformed(what, "a redirect without a target"))?;
            uri = self.redirect_target(what, &uri, location).map_err(RequestError::Fatal)?;
        }
        Err(malformed(what, "too many redirects"))
    }

    /// The address a redirect leads to, if it may be followed.
    fn redirect_target(&self, what: &str, from: &Uri, location: &str) -> Result<Uri, HubError> {
        let refuse = |rule| {
            let target =
                location.split(['?', '#']).next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect();
            HubError::Redirect { what: what.to_string(), target, rule }
        };
        let target = join(from, location).ok_or_else(|| refuse("only http and https addresses are"))?;
        match (from.scheme_str(), target.scheme_str()) {
            (_, Some("https")) | (Some("http"), Some("http")) => {}
            (Some("https"), Some("http")) => return Err(refuse("it would leave encryption")),
            _ => return Err(refuse("only http and https addresses are")),
        }
        if has_userinfo(&target) {
            return Err(refuse("it holds a user name"));
        }
        let host = target.host().ok_or_else(|| refuse("it names no host"))?;
        if is_private_host(host) && !self.endpoint_is_private.load(Ordering::Relaxed) {
            return Err(refuse("a private address, and the hub is not on one"));
        }
        Ok(target)
    }

    fn request_error(&self, what: &str, uri: &Uri, error: &ureq::Error) -> RequestError {
        let reason = plain_reason(error);
        if reason.contains(PRIVATE_ADDRESS) {
            let rule = "a private address, and the hub is not on one";
            return RequestError::Fatal(HubError::Redirect { what: what.to_string(), target: without_query(uri), rule });
        }
        match error {
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed if same_origin(uri, &self.endpoint) => {
                RequestError::Fatal(HubError::Unreachable { endpoint: self.config.endpoint.clone(), reason })
            }
            ureq::Error::Io(io) if same_origin(uri, &self.endpoint) && is_no_connection(io) => {
                RequestError::Fatal(HubError::Unreachable { endpoint: self.config.endpoint.clone(), reason })
            }
            ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) if same_origin(uri, &self.endpoint) => {
                RequestError::Fatal(HubError::Unreachable { endpoint: self.config.endpoint.clone(), reason })
            }
            _ => RequestError::Transient(reason, Duration::ZERO),
        }
    }

    fn check_status(&self, what: &str, answer: Answer) -> Result<Answer, RequestError> {
        let status = answer.response.status().as_u16();
        let what = what.to_string();
        // The hub explains itself in a header; it is someone else's text, so only a printable line of it is shown.
        let header = |name| answer.first.get(name).and_then(|value| value.to_str().ok());
        let detail = header("x-error-message").or_else(|| header("x-error-code")).map(|text| {
            let line: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
            format!(": {line}")
        });
        let detail = detail.unwrap_or_default();
        match status {
            200..=299 | 416 => Ok(answer),
            401 | 403 => {
                let token_hint = if self.config.token.is_some() { " (one is set, and was sent)" } else { " (none is set)" };
                Err(RequestError::Fatal(HubError::Refused { what, status, detail, token_hint }))
            }
            404 | 410 => Err(RequestError::Fatal(HubError::NotFound { what, detail })),
            408 | 425 | 429 | 500..=599 => {
                let wait = answer.response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                let wait = Duration::from_secs(wait.unwrap_or(0)).min(MAX_WAIT);
                Err(RequestError::Transient(format!("status {status}{detail}"), wait))
            }
            _ => Err(RequestError::Fatal(HubError::Status { what, status, detail })),
        }
    }
}

/// The public roots, or those in `SSL_CERT_FILE` for networks that sign with their own.
fn tls_config() -> Result<TlsConfig, HubError> {
    let Some(path) = env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) else {
        return Ok(TlsConfig::default());
    };
    let setting = |rule| HubError::Setting { name: "SSL_CERT_FILE", rule, value: path.to_string_lossy().into_owned() };
    let pem = std::fs::read(&path).map_err(|_| setting("must be a file that can be read"))?;
    let certificates: Vec<_> =
        parse_pem(&pem).filter_map(|item| if let Ok(PemItem::Certificate(c)) = item { Some(c) } else { None }).collect();
    if certificates.is_empty() {
        return Err(setting("must hold at least one PEM certificate"));
    }
    Ok(TlsConfig::builder().root_certs(RootCerts::from(certificates)).build())
}

fn malformed(what: &str, reason: &str) -> RequestError {
    RequestError::Fatal(HubError::Malformed { what: what.to_string(), reason: reason.to_string() })
}

fn is_no_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable};
    // A name that cannot be resolved has no kind of its own.
    matches!(error.kind(), AddrNotAvailable | ConnectionRefused | HostUnreachable | NetworkDown | NetworkUnreachable)
        || format!("{:?}", error.kind()) == "Uncategorized"
}

fn plain_reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(io) => io.to_string(),
        ureq::Error::HostNotFound => "the host is not found".to_string(),
        ureq::Error::Timeout(_) => "no answer in time".to_string(),
        other => other.to_string(),
    }
}

fn same_origin(a: &Uri, b: &Uri) -> bool {
    a.scheme() == b.scheme()
        && a.host().map(str::to_ascii_lowercase) == b.host().map(str::to_ascii_lowercase)
        && port(a) == port(b)
}

fn port(uri: &Uri) -> u16 {
    uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 })
}

fn has_userinfo(uri: &Uri) -> bool {
    uri.authority().is_some_and(|authority| authority.as_str().contains('@'))
}

fn without_query(uri: &Uri) -> String {
    uri.to_string().split('?').next().unwrap_or_default().to_string()
}

/// Resolves a `Location` against the address it came from (RFC 3986, section 5, as far as hubs use it).
fn join(from: &Uri, location: &str) -> Option<Uri> {
    let scheme = from.scheme_str()?;
    let authority = from.authority()?;
    let text = if location.contains("://") || location.starts_with("file:") {
        location.to_string()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    text.split('#').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirect(endpoint: &str, location: &str) -> Result<String, String> {
        let client = Client::new(HubConfig::at(endpoint)).unwrap();
        let from = format!("{endpoint}/a/b/resolve/main/f").parse().unwrap();
        client.redirect_target("f", &from, location).map(|uri| uri.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn redirects_are_followed_where_they_may_lead() {
        let hub = "https://hub.example";
        assert_eq!(redirect(hub, "https://cdn.example/x?sig=1"), Ok("https://cdn.example/x?sig=1".into()));
        assert_eq!(redirect(hub, "/c/d"), Ok("https://hub.example/c/d".into()));
        assert_eq!(redirect(hub, "//cdn.example/d"), Ok("https://cdn.example/d".into()));
        assert_eq!(redirect(hub, "g"), Ok("https://hub.example/a/b/resolve/main/g".into()));
        assert_eq!(redirect("http://127.0.0.1:9", "http://localhost:8/x"), Ok("http://localhost:8/x".into()));
    }

    #[test]
    fn redirects_elsewhere_are_refused() {
        let hub = "https://hub.example";
        for (location, rule) in [
            ("http://cdn.example/x", "leave encryption"),
            ("https://127.0.0.1/x", "private address"),
            ("https://169.254.169.254/latest", "private address"),
            ("https://[::ffff:10.0.0.1]/x", "private address"),
            ("https://localhost/x", "private address"),
            ("file:///etc/passwd", "only http and https"),
            ("ftp://cdn.example/x", "only http and https"),
            ("https://hub.example@evil.example/x", "user name"),
        ] {
            let error = redirect(hub, location).unwrap_err();
            assert!(error.contains(rule), "{location}: {error}");
        }
    }

    #[test]
    fn an_endpoint_is_an_http_address() {
        for wrong in ["file:///models", "hub.example", "ftp://hub.example", "https://user:secret@hub.example"] {
            assert!(Client::new(HubConfig::at(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_same_host_on_another_port_is_another_origin() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        assert!(same_origin(&uri("https://Hub.example/x"), &uri("https://hub.example:443/y")));
        assert!(!same_origin(&uri("https://hub.example/x"), &uri("http://hub.example/x")));
        assert!(!same_origin(&uri("https://hub.example:8443/x"), &uri("https://hub.example/x")));
    }
}
