//! The flags of `qern serve`. `None` and empty mean: not given, so that the configuration file's value counts, and then the
//! default.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::{KvFormat, LogArgs};

/// `qern serve`
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "\
Examples:
  qern serve                                           the small default model on http://127.0.0.1:8420
  qern serve -m qwen3:4b -m small=smollm2              two models, the second called `small`
  qern serve --host 0.0.0.0 --api-key-file keys.txt    for others, with keys
  qern serve --config serve.toml --print-config        what would be in effect

Flags win over environment variables, these over the configuration file, this over the defaults. --print-config shows the result
in the form of the file. A key file has one key a line, plain or as sha256:HEX; `admin:` before a key lets it change adapters.
Ctrl-C or SIGTERM lets running requests finish; a second one ends at once.")]
pub struct ServeArgs {
    /// A model to serve, by path, catalogue name or hub name, with a name of its own if wanted (may be given again)
    /// [default: smollm2]
    #[arg(short, long, value_name = "[NAME=]MODEL", env = "QERN_MODELS", value_delimiter = ',')]
    pub model: Vec<String>,
    /// An adapter to serve under a name of its own: a PEFT folder or an adapter GGUF (may be given again). It goes to the first
    /// model that it fits
    #[arg(long, value_name = "NAME=PATH", env = "QERN_ADAPTERS", value_delimiter = ',')]
    pub adapter: Vec<String>,
    /// Let administrators load adapters from this folder while the server runs
    #[arg(long, value_name = "DIR", env = "QERN_ADAPTER_DIR")]
    pub adapter_dir: Option<PathBuf>,
    /// Keep what must outlive the server here: which adapters were loaded [default: in QERN_HOME, by port]
    #[arg(long, value_name = "DIR", env = "QERN_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Read the configuration from this TOML file
    #[arg(long, value_name = "FILE", env = "QERN_CONFIG")]
    pub config: Option<PathBuf>,
    /// Print the configuration that is in effect, and end
    #[arg(long)]
    pub print_config: bool,

    /// The address to listen on; 0.0.0.0 for every network [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS", env = "QERN_HOST", help_heading = "Network")]
    pub host: Option<IpAddr>,
    /// The port; 0 takes a free one [default: 8420]
    #[arg(short, long, value_name = "PORT", env = "QERN_PORT", help_heading = "Network")]
    pub port: Option<u16>,
    /// A name that requests may call this server by, beside localhost (may be given again)
    #[arg(long, value_name = "NAME", env = "QERN_ALLOWED_HOSTS", value_delimiter = ',', help_heading = "Network")]
    pub allowed_host: Vec<String>,
    /// An origin whose web pages may use this server, or * (may be given again) [default: none]
    #[arg(long, value_name = "ORIGIN", env = "QERN_CORS_ORIGINS", value_delimiter = ',', help_heading = "Network")]
    pub cors_origin: Vec<String>,
    /// Ask for API keys: those in this file, which only its owner may read; QERN_API_KEYS may hold more, separated by commas
    #[arg(long, value_name = "FILE", env = "QERN_API_KEY_FILE", help_heading = "Network")]
    pub api_key_file: Option<PathBuf>,

    /// How long running requests may go on after Ctrl-C or SIGTERM [default: 30]
    #[arg(long, value_name = "SECONDS", env = "QERN_DRAIN_TIMEOUT", help_heading = "Limits")]
    pub drain_timeout: Option<u32>,
    /// Requests answered at once; more are refused [default: 512]
    #[arg(long, value_name = "N", env = "QERN_MAX_REQUESTS", help_heading = "Limits")]
    pub max_requests: Option<usize>,
    /// Connections at once; more wait [default: 1024]
    #[arg(long, value_name = "N", env = "QERN_MAX_CONNECTIONS", help_heading = "Limits")]
    pub max_connections: Option<usize>,
    /// Largest body of a request [default: 8388608]
    #[arg(long, value_name = "BYTES", env = "QERN_MAX_BODY_BYTES", help_heading = "Limits")]
    pub max_body_bytes: Option<usize>,
    /// Largest head of a request [default: 32768]
    #[arg(long, value_name = "BYTES", env = "QERN_MAX_HEADER_BYTES", help_heading = "Limits")]
    pub max_header_bytes: Option<usize>,
    /// How long a client may take to send the head of a request [default: 15]
    #[arg(long, value_name = "SECONDS", env = "QERN_HEADER_TIMEOUT", help_heading = "Limits")]
    pub header_timeout: Option<u32>,
    /// How long a client may take to send the body of a request [default: 60]
    #[arg(long, value_name = "SECONDS", env = "QERN_BODY_TIMEOUT", help_heading = "Limits")]
    pub body_timeout: Option<u32>,
    /// How long a client may read nothing of its answer [default: 30]
    #[arg(long, value_name = "SECONDS", env = "QERN_WRITE_TIMEOUT", help_heading = "Limits")]
    pub write_timeout: Option<u32>,
    /// After how much silence a comment is sent on a stream [default: 10]
    #[arg(long, value_name = "SECONDS", env = "QERN_PING_AFTER", help_heading = "Limits")]
    pub ping_after: Option<u32>,

    /// Number of threads to compute with [default: one per physical core]
    #[arg(short, long, value_name = "N", env = "QERN_THREADS", help_heading = "Machine")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// How keys and values are kept in memory: f16 is exact enough for everything, q8 takes half the space [default: f16]
    #[arg(long, value_name = "FORMAT", value_enum, env = "QERN_KV", help_heading = "Machine")]
    pub kv: Option<KvFormat>,
    /// Context length in tokens [default: what the model was trained for, as far as memory allows]
    #[arg(short, long, value_name = "TOKENS", env = "QERN_CTX", help_heading = "Machine")]
    #[arg(value_parser = clap::value_parser!(u32).range(16..))]
    pub ctx: Option<u32>,
    /// Refuse conversations that do not fit, unless a request says otherwise; else their oldest turns are dropped, and said to be
    #[arg(long, env = "QERN_STRICT_CONTEXT", help_heading = "Machine")]
    pub strict_context: bool,

    /// How the log is written [default: text]
    #[arg(long, value_name = "FORMAT", value_enum, env = "QERN_LOG_FORMAT", help_heading = "Output")]
    pub log_format: Option<LogFormat>,
    /// Also log the texts of requests and answers
    #[arg(long, env = "QERN_LOG_TEXT", help_heading = "Output")]
    pub log_text: bool,
    /// Messages.
    #[command(flatten)]
    pub log: LogArgs,
}

/// How a server's log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}
