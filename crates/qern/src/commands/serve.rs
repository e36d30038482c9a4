//! `qern serve`: reads the configuration, loads the models, runs the server until it is told to stop. What is served, and how,
//! is in `qern-server`.

mod settings;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use qern_server::{Keys, Model, Server, check_names};

use crate::cli::{ContextArgs, MachineArgs, ServeArgs};
use crate::interrupt::{self, Listener};
use crate::loading::{self, LoadedModel};
use crate::logging;
use crate::output;
use settings::{Named, Settings};

/// Where keys may stand beside the file.
const KEYS_VARIABLE: &str = "QERN_API_KEYS";
/// Threads for HTTP: the cores are the engine's.
const HTTP_THREADS: usize = 2;

/// Runs `qern serve`.
pub fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let settings = Settings::new(args)?;
    logging::start_server(&args.log, settings.log_format);
    let models = settings.models();
    settings.adapters()?;
    check_names(models.iter().map(|model| model.name))?;
    settings.server.check()?;
    let keys = keys(&settings)?;
    if args.print_config {
        io::stdout().write_all(settings.to_toml()?.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(HTTP_THREADS)
        .thread_name("qern-http")
        .enable_all()
        .build()
        .context("cannot start the threads of the server")?;
    // Signals that come while models load end the program, as they do elsewhere.
    let listener = runtime.block_on(Server::bind(&settings.server))?;
    let num_keys = keys.len();
    let mut lines = Vec::new();
    let mut loaded = Vec::new();
    for model in models {
        let ready = load(&model, &settings, args)?;
        lines.push(format!("  {}  {}", model.name, ready.summary));
        loaded.push(served(&model, ready));
    }
    let server = Server::new(listener, settings.server.clone(), keys, loaded)?;
    runtime.block_on(server.load_adapters(settings.adapters()?))?;
    if !args.log.quiet {
        let address = server.address().context("cannot tell the address of the server")?;
        let keys = match num_keys {
            0 => "no API keys: everyone who can reach it may use it".to_owned(),
            1 => "1 API key".to_owned(),
            keys => format!("{keys} API keys"),
        };
        say(&format!("qern serves on http://{address}; {keys}\n{}", lines.join("\n")));
    }
    let interrupts = interrupt::listen();
    let num_left = runtime.block_on(server.run(told_to_stop(&interrupts, args.log.quiet)));
    if num_left > 0 {
        say(&format!("{num_left} running requests were broken off after the drain timeout; raise it by --drain-timeout"));
    }
    // Whatever still computes for clients that have gone must not hold the program.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(ExitCode::SUCCESS)
}

fn keys(settings: &Settings) -> anyhow::Result<Keys> {
    let mut keys = Keys::default();
    if let Some(path) = &settings.api_key_file {
        keys.add_file(path)?;
    }
    if let Ok(list) = std::env::var(KEYS_VARIABLE) {
        keys.add_list(&list, KEYS_VARIABLE)?;
    }
    Ok(keys)
}

fn load(model: &Named<'_>, settings: &Settings, args: &ServeArgs) -> anyhow::Result<LoadedModel> {
    let machine = MachineArgs { threads: settings.threads, kv: settings.kv };
    let context = ContextArgs { ctx: settings.ctx, strict_context: false };
    loading::load(model.source, &machine, &context, &args.log).with_context(|| format!("cannot serve `{}`", model.name))
}

fn served(model: &Named<'_>, loaded: LoadedModel) -> Model {
    let LoadedModel { engine, tokenizer, template, template_source, defaults, context_len, open_adapter, .. } = loaded;
    // What a path says about this machine is nobody's business.
    let root = model.source.rsplit(['/', '\\']).next().unwrap_or(model.source).to_owned();
    let root = if std::path::Path::new(model.source).exists() { root } else { model.source.to_owned() };
    Model { name: model.name.to_owned(), root, engine, tokenizer, template, template_source, defaults, context_len, open_adapter }
}

/// Done at the first Ctrl-C or SIGTERM. A second one ends the program at once, since the first is left raised.
async fn told_to_stop(interrupts: &Listener, quiet: bool) {
    while !interrupts.raised() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    if !quiet && io::stderr().is_terminal() {
        say("finishing the running requests; again to stop at once");
    }
}

fn say(text: &str) {
    // Nothing can be done about a stderr that is closed.
    let _ = writeln!(io::stderr(), "{}", if output::stderr_has_colour() { format!("\x1b[2m{text}\x1b[0m") } else { text.into() });
}
