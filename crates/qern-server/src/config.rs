//! What a server may be told, with its defaults: addresses, limits, times. Keys are apart (`auth`), so that a configuration can
//! be printed. Where the values come from (file, environment, flags) is the program's business.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The configuration of a server. In a file, times are seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The address to listen on. Others than loopback are reachable from the network. Default 127.0.0.1.
    pub host: IpAddr,
    /// The port; 0 takes a free one. Default 8420.
    pub port: u16,
    /// Names that requests may call this server by in `Host`, beside those of loopback; without a port. When listening on
    /// loopback any other name is refused (a web page whose name points here is not let in); elsewhere only if this is not empty.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may use this server, such as `https://chat.example.org`; `*` for all. Default none.
    pub cors_origins: Vec<String>,
    /// The folder that requests may load adapters from; without it they may not load any.
    pub adapter_dir: Option<PathBuf>,
    /// The folder where the server keeps what must outlive it: the list of adapters that requests loaded. Without it nothing is
    /// kept.
    pub state_dir: Option<PathBuf>,
    /// How long running requests may go on after the wish to stop. Default 30.
    #[serde(with = "seconds")]
    pub drain_timeout: Duration,
    /// Largest body of a request in bytes. Default 8 MiB.
    pub max_body_bytes: usize,
    /// Largest head of a request in bytes, at least 8192. Default 32 KiB.
    pub max_header_bytes: usize,
    /// Connections at once; more wait to be accepted. Default 1024.
    pub max_connections: usize,
    /// Requests answered at once; more are refused with 429. Default 512.
    pub max_requests: usize,
    /// How long a client may take to send the head of a request. Default 15.
    #[serde(with = "seconds")]
    pub header_timeout: Duration,
    /// How long a client may take to send the body of a request. Default 60.
    #[serde(with = "seconds")]
    pub body_timeout: Duration,
    /// How long a client may take to read anything at all of its answer. Default 30.
    #[serde(with = "seconds")]
    pub write_timeout: Duration,
    /// After how much silence a comment is sent on a stream, for clients and proxies that give up on silent ones. Default 10.
    #[serde(with = "seconds")]
    pub ping_after: Duration,
    /// Refuse conversations that do not fit the context, unless a request says otherwise, instead of dropping their oldest turns
    /// (and saying so). Default no.
    pub strict_context: bool,
    /// Also log the texts of requests. Default no.
    pub log_text: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8420,
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            adapter_dir: None,
            state_dir: None,
            drain_timeout: Duration::from_secs(30),
            max_body_bytes: 8 << 20,
            max_header_bytes: 32 << 10,
            max_connections: 1024,
            max_requests: 512,
            header_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            ping_after: Duration::from_secs(10),
            strict_context: false,
            log_text: false,
        }
    }
}

/// A value that a server cannot work with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` must {rule}; given {given}")]
pub struct ConfigError {
    field: &'static str,
    rule: &'static str,
    given: String,
}

impl Config {
    /// Checks what the types leave open.
    pub fn check(&self) -> Result<(), ConfigError> {
        let check = |holds: bool, field, rule, given: &dyn ToString| match holds {
            true => Ok(()),
            false => Err(ConfigError { field, rule, given: given.to_string() }),
        };
        check(self.max_header_bytes >= 8192, "max-header-bytes", "be at least 8192", &self.max_header_bytes)?;
        for (field, count) in [
            ("max-body-bytes", self.max_body_bytes),
            ("max-connections", self.max_connections),
            ("max-requests", self.max_requests),
        ] {
            // Tokio's semaphores count no further than this.
            check((1..=usize::MAX >> 3).contains(&count), field, "be at least 1", &count)?;
        }
        for (field, time) in [
            ("header-timeout", self.header_timeout),
            ("body-timeout", self.body_timeout),
            ("write-timeout", self.write_timeout),
            ("ping-after", self.ping_after),
        ] {
            check(!time.is_zero(), field, "be above 0", &time.as_secs_f64())?;
        }
        for origin in &self.cors_origins {
            let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            let holds = origin == "*" || host.is_some_and(|host| !host.is_empty() && !host.contains(['/', ' ', '*']));
            check(holds, "cors-origins", "hold `*` or origins like `https://chat.example.org`", origin)?;
        }
        for host in &self.allowed_hosts {
            let holds = !host.is_empty() && !host.contains(['/', ' ', '*', ':']);
            check(holds, "allowed-hosts", "hold names like `llm.example.org`, without a port", host)?;
        }
        Ok(())
    }
}

/// Durations as seconds, whole or not.
mod seconds {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use std::time::Duration;

    pub fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(time.as_secs_f64())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|time| time.as_secs() < 1 << 32)
            .ok_or_else(|| de::Error::custom(format!("a time must be a number of seconds that is not negative; given {seconds}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_values_are_refused_by_name() {
        let refused = |edit: fn(&mut Config)| {
            let mut config = Config::default();
            edit(&mut config);
            config.check().expect_err("must be refused").to_string()
        };
        assert_eq!(refused(|c| c.max_header_bytes = 1), "`max-header-bytes` must be at least 8192; given 1");
        assert_eq!(refused(|c| c.max_requests = 0), "`max-requests` must be at least 1; given 0");
        assert_eq!(refused(|c| c.write_timeout = Duration::ZERO), "`write-timeout` must be above 0; given 0");
        assert!(refused(|c| c.cors_origins.push("chat.example.org".into())).ends_with("given chat.example.org"));
        assert!(refused(|c| c.allowed_hosts.push("a:1".into())).ends_with("given a:1"));
        assert_eq!(Config::default().check(), Ok(()));
    }
}
