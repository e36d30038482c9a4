//! `qern show`: what a model is. Reads headers, loads no weights, and fetches nothing.

use crate::catalogue::{self, Entry};
use crate::cli;
use crate::output;
use crate::store::{ModelRef, Store};
use anyhow::{Context, bail};
use qern_model::checkpoint::Checkpoint;
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Prints what is known about the model.
pub fn run(args: &cli::ShowArgs) -> anyhow::Result<ExitCode> {
    let store = Store::open()?;
    let model = store.resolve(&args.model)?;
    let path = store.locate(&model)?;
    let entry = match &model {
        ModelRef::Catalogue(entry) => Some(*entry),
        _ => path.as_deref().and_then(|path| catalogue::entries().iter().find(|entry| store.catalogue_path(entry) == path)),
    };
    let mut facts = Facts(Map::new());
    if let Some(entry) = entry {
        facts.of_entry(entry);
    }
    match &path {
        Some(path) => facts.of_file(path).with_context(|| format!("cannot read the model `{}`", args.model))?,
        None if entry.is_some() => facts.set("path", Value::Null),
        None => bail!("`{}` is not on this machine; `qern pull {}` fetches it", args.model, args.model),
    }
    if args.json {
        output::print_json(&facts.0)?
    } else {
        facts.print(&args.model)?
    }
    Ok(ExitCode::SUCCESS)
}

/// What is known, in the order it is said. One list for both outputs, so that they cannot disagree.
struct Facts(Map<String, Value>);

impl Facts {
    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_string(), value.into());
    }

    fn of_entry(&mut self, entry: &Entry) {
        self.set("name", entry.name.clone());
        self.set("description", entry.description.clone());
        self.set("licence", entry.licence.clone());
        self.set("source", format!("hf:{}:{}", entry.repo, entry.file));
        self.set("unquantized", format!("hf:{}", entry.safetensors));
        self.set("parameters", entry.parameters);
        self.set("context", entry.context);
        self.set("size", entry.download_size());
        self.set("memory", entry.memory);
    }

    fn of_file(&mut self, path: &Path) -> anyhow::Result<()> {
        let checkpoint = Checkpoint::open(path)?;
        let config = checkpoint.config();
        let files: Vec<PathBuf> = checkpoint.paths().into_iter().map(Path::to_path_buf).collect();
        let size: u64 = files.iter().filter_map(|file| file.metadata().ok()).map(|data| data.len()).sum();
        self.set("path", path.to_string_lossy());
        self.set("files", files.len());
        self.set("size", size);
        self.set("container", if checkpoint.gguf().is_some() { "GGUF" } else { "safetensors" });
        self.set("architecture", config.architecture.name());
        self.set("parameters", checkpoint.num_parameters());
        let formats = checkpoint.formats().iter();
        let formats: Vec<Value> = formats
            .map(|share| json!({ "format": share.format.to_string(), "tensors": share.num_tensors, "bytes": share.num_bytes }))
            .collect();
        self.set("formats", formats);
        self.set("context", config.max_positions);
        self.set("layers", config.num_layers);
        self.set("hidden_size", config.hidden_size);
        self.set("intermediate_size", config.intermediate_size);
        self.set("heads", config.num_heads);
        self.set("kv_heads", config.num_kv_heads);
        self.set("head_dim", config.head_dim);
        self.set("vocabulary", config.vocab_size);
        // Keys and values of one token, at 16 bits.
        self.set("kv_bytes_per_token", 2 * 2 * config.num_layers * config.num_kv_heads * config.head_dim);
        self.set("chat_template", checkpoint.chat_template().is_some());
        Ok(())
    }

    fn print(&self, name: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for (key, value) in &self.0 {
            let words = match (key.as_str(), value) {
                ("size" | "memory" | "kv_bytes_per_token", Value::Number(count)) => {
                    output::bytes(count.as_u64().unwrap_or_default())
                }
                ("parameters", Value::Number(count)) => parameters(count.as_u64().unwrap_or_default()),
                ("context", count) => format!("{count} tokens"),
                ("path", Value::Null) => format!("not on this machine; `qern pull {name}` fetches it"),
                ("formats", Value::Array(shares)) => formats(shares),
                (_, Value::Bool(yes)) => if *yes { "yes" } else { "no" }.to_string(),
                (_, Value::String(text)) => text.clone(),
                (_, other) => other.to_string(),
            };
            writeln!(out, "{:20}{words}", key.replace('_', " "))?;
        }
        Ok(())
    }
}

fn formats(shares: &[Value]) -> String {
    let share = |share: &Value| {
        let bytes = output::bytes(share["bytes"].as_u64().unwrap_or_default());
        format!("{} ({} tensors, {bytes})", share["format"].as_str().unwrap_or_default(), share["tensors"])
    };
    shares.iter().map(share).collect::<Vec<_>>().join(", ")
}

fn parameters(count: u64) -> String {
    if count >= 1_000_000_000 {
        format!("{:.2} billion", count as f64 / 1e9)
    } else {
        format!("{:.0} million", count as f64 / 1e6)
    }
}
