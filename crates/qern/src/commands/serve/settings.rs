//! The settings of `qern serve` from the configuration file, the environment and the flags, with one precedence. Environment and
//! flags are clap's; this lays them over the file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use qern_server::{Config, Wanted};
use serde::{Deserialize, Serialize};

use crate::catalogue::DEFAULT_MODEL;
use crate::cli::{KvFormat, LogFormat, ServeArgs};
use crate::exit::UsageError;
use crate::store;

/// Everything that `qern serve` can be told, as the file has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Settings {
    /// The models, each `MODEL` or `NAME=MODEL`.
    pub models: Vec<String>,
    /// The adapters, each `NAME=PATH`.
    pub adapters: Vec<String>,
    /// The file with the API keys.
    pub api_key_file: Option<PathBuf>,
    /// Threads to compute with.
    pub threads: Option<u16>,
    /// How keys and values are kept.
    pub kv: KvFormat,
    /// Context length.
    pub ctx: Option<u32>,
    /// How the log is written.
    pub log_format: LogFormat,
    /// The server's own.
    pub server: Config,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            models: Vec::new(),
            adapters: Vec::new(),
            api_key_file: None,
            threads: None,
            kv: KvFormat::F16,
            ctx: None,
            log_format: LogFormat::Text,
            server: Config::default(),
        }
    }
}

/// A model and what it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named<'a> {
    /// For clients.
    pub name: &'a str,
    /// For loading.
    pub source: &'a str,
}

impl Settings {
    /// Reads the file, if there is one, and lays flags and environment over it.
    pub fn new(args: &ServeArgs) -> anyhow::Result<Self> {
        let file = match &args.config {
            Some(path) => read(path)?,
            None => Self::default(),
        };
        let mut settings = file.overlaid(args);
        let server = &mut settings.server;
        // A port names a server; one that takes any free port cannot be found again.
        if server.state_dir.is_none() && server.adapter_dir.is_some() && server.port != 0 {
            server.state_dir = Some(store::home()?.join("serve").join(server.port.to_string()));
        }
        Ok(settings)
    }

    fn overlaid(mut self, args: &ServeArgs) -> Self {
        fn set<T: Clone>(place: &mut T, given: &Option<T>) {
            if let Some(given) = given {
                place.clone_from(given);
            }
        }
        fn list(place: &mut Vec<String>, given: &[String]) {
            if !given.is_empty() {
                *place = given.to_vec();
            }
        }
        let time = |seconds: Option<u32>| seconds.map(|seconds| Duration::from_secs(seconds.into()));
        list(&mut self.models, &args.model);
        list(&mut self.adapters, &args.adapter);
        if self.models.is_empty() {
            self.models.push(DEFAULT_MODEL.to_owned());
        }
        self.api_key_file = args.api_key_file.clone().or(self.api_key_file);
        self.threads = args.threads.or(self.threads);
        self.ctx = args.ctx.or(self.ctx);
        set(&mut self.kv, &args.kv);
        set(&mut self.log_format, &args.log_format);
        let server = &mut self.server;
        set(&mut server.host, &args.host);
        set(&mut server.port, &args.port);
        list(&mut server.allowed_hosts, &args.allowed_host);
        list(&mut server.cors_origins, &args.cors_origin);
        server.adapter_dir = args.adapter_dir.clone().or(server.adapter_dir.take());
        server.state_dir = args.state_dir.clone().or(server.state_dir.take());
        set(&mut server.drain_timeout, &time(args.drain_timeout));
        set(&mut server.max_requests, &args.max_requests);
        set(&mut server.max_connections, &args.max_connections);
        set(&mut server.max_body_bytes, &args.max_body_bytes);
        set(&mut server.max_header_bytes, &args.max_header_bytes);
        set(&mut server.header_timeout, &time(args.header_timeout));
        set(&mut server.body_timeout, &time(args.body_timeout));
        set(&mut server.write_timeout, &time(args.write_timeout));
        set(&mut server.ping_after, &time(args.ping_after));
        server.strict_context |= args.strict_context;
        server.log_text |= args.log_text;
        self
    }

    /// The models with their names.
    pub fn models(&self) -> Vec<Named<'_>> {
        self.models.iter().map(|given| named(given)).collect()
    }

    /// The adapters with their names.
    pub fn adapters(&self) -> anyhow::Result<Vec<Wanted>> {
        let wanted = |given: &String| {
            let (name, path) = given
                .split_once('=')
                .filter(|(name, path)| !name.is_empty() && !path.is_empty())
                .ok_or_else(|| UsageError(format!("an adapter must be given as NAME=PATH; given `{given}`")))?;
            Ok(Wanted { name: name.to_owned(), path: path.into(), model: None })
        };
        self.adapters.iter().map(wanted).collect()
    }

    /// The settings in the form of the file.
    pub fn to_toml(&self) -> anyhow::Result<String> {
        toml::to_string_pretty(self).context("the configuration cannot be written as TOML")
    }
}

/// `NAME=MODEL`, or a model that is called as it is given; a path is called by its last part, without `.gguf`.
fn named(given: &str) -> Named<'_> {
    if let Some((name, source)) = given.split_once('=')
        && !name.contains(['/', '\\'])
    {
        return Named { name, source };
    }
    let name = match Path::new(given).exists() {
        true => given.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(given),
        false => given,
    };
    Named { name: name.strip_suffix(".gguf").unwrap_or(name), source: given }
}

fn read(path: &Path) -> anyhow::Result<Settings> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration `{}`", path.display()))?;
    toml::from_str(&text).with_context(|| format!("the configuration `{}` cannot be used", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    use crate::cli::{Cli, Command};

    fn settings(file: &str, flags: &str) -> Settings {
        let line = format!("qern serve {flags}");
        let Command::Serve(args) = Cli::parse_from(line.split_whitespace()).command else { unreachable!() };
        toml::from_str::<Settings>(file).unwrap().overlaid(&args)
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = "models = ['a=smollm2']\nkv = 'q8'\n[server]\nport = 9000\ndrain-timeout = 2.5\ncors-origins = ['http://a']\n";
        let ours = settings(file, "--port 9001 --cors-origin http://b");
        assert_eq!((ours.server.port, ours.kv), (9001, KvFormat::Q8));
        assert_eq!(ours.server.cors_origins, ["http://b"]);
        assert_eq!(ours.server.drain_timeout, Duration::from_millis(2500));
        assert_eq!(ours.server.max_requests, Config::default().max_requests);
        assert_eq!(ours.models(), [Named { name: "a", source: "smollm2" }]);
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let ours = settings("", "-m x=qwen3:4b -m smollm2 --host 0.0.0.0 --kv q8 --ctx 4096 --strict-context");
        assert_eq!(toml::from_str::<Settings>(&ours.to_toml().unwrap()).unwrap(), ours);
    }

    #[test]
    fn models_have_names() {
        let check = |given, name, source| assert_eq!(named(given), Named { name, source });
        check("smollm2", "smollm2", "smollm2");
        check("hf:owner/repo:Q8_0", "hf:owner/repo:Q8_0", "hf:owner/repo:Q8_0");
        check("fast=qwen3:0.6b", "fast", "qwen3:0.6b");
        check("./a=b/model.gguf", "./a=b/model", "./a=b/model.gguf");
    }

    #[test]
    fn unknown_keys_of_the_file_are_refused() {
        assert!(toml::from_str::<Settings>("prot = 1").unwrap_err().to_string().contains("unknown field `prot`"));
        assert!(toml::from_str::<Settings>("[server]\nprot = 1").unwrap_err().to_string().contains("unknown field `prot`"));
    }
}
