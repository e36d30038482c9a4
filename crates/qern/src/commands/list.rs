//! `qern list`: the models on this machine, and those that the catalogue could fetch.

use crate::catalogue::{self, Entry};
use crate::cli;
use crate::output;
use crate::store::{LocalModel, ModelKind, Store};
use serde_json::json;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Prints both lists.
pub fn run(args: &cli::ListArgs) -> anyhow::Result<ExitCode> {
    let local = Store::open()?.list()?;
    let is_here = |entry: &Entry| local.iter().any(|model| model.complete && model.name == entry.name);
    let more: Vec<&Entry> = catalogue::entries().iter().filter(|entry| !args.local && !is_here(entry)).collect();
    if args.json {
        // The whole catalogue, each entry saying whether it is here.
        let catalogue: Vec<_> =
            if args.local { Vec::new() } else { catalogue::entries().iter().map(|e| describe(e, is_here(e))).collect() };
        output::print_json(&json!({ "models": local, "catalogue": catalogue }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = io::stdout().lock();
    if local.is_empty() {
        writeln!(out, "no models on this machine yet")?;
    } else {
        let rows: Vec<[String; 4]> = local.iter().map(row).collect();
        table(&mut out, ["MODEL", "FORMAT", "SIZE", "FETCHED"], &rows)?;
    }
    if !more.is_empty() {
        writeln!(out, "\nTo fetch with `qern pull`:")?;
        let rows: Vec<[String; 4]> = more
            .iter()
            .map(|entry| {
                let size = output::bytes(entry.download_size());
                [entry.name.clone(), entry.format.clone(), size, entry.description.clone()]
            })
            .collect();
        table(&mut out, ["MODEL", "FORMAT", "SIZE", "WHAT IT IS"], &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(entry: &Entry, is_here: bool) -> serde_json::Value {
    json!({
        "name": entry.name,
        "description": entry.description,
        "licence": entry.licence,
        "parameters": entry.parameters,
        "context": entry.context,
        "format": entry.format,
        "size": entry.download_size(),
        "memory": entry.memory,
        "repo": entry.repo,
        "file": entry.file,
        "local": is_here,
    })
}

fn row(model: &LocalModel) -> [String; 4] {
    let kind = match model.kind {
        ModelKind::Gguf => "GGUF",
        ModelKind::Safetensors => "safetensors",
    };
    let when = ago(UNIX_EPOCH + Duration::from_secs(model.modified));
    let when = if model.complete { when } else { format!("not whole yet: `qern pull {}` goes on", model.name) };
    [model.name.clone(), kind.to_string(), output::bytes(model.size), when]
}

fn ago(time: SystemTime) -> String {
    let seconds = SystemTime::now().duration_since(time).unwrap_or_default().as_secs();
    let (count, unit) = match seconds {
        0..60 => return "just now".to_string(),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// Columns padded to their widest cell; the last one runs free.
fn table(out: &mut impl Write, head: [&str; 4], rows: &[[String; 4]]) -> io::Result<()> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).chain([head[column].len()]).max().unwrap_or(0);
    let (a, b, c) = (width(0), width(1), width(2));
    writeln!(out, "{:a$}  {:b$}  {:>c$}  {}", head[0], head[1], head[2], head[3])?;
    for [name, format, size, rest] in rows {
        writeln!(out, "{name:a$}  {format:b$}  {size:>c$}  {rest}")?;
    }
    Ok(())
}
