//! `qern rm`: removes a fetched model. Only from the store: files elsewhere are their owner's to remove.

use crate::catalogue;
use crate::cli;
use crate::exit::{INTERRUPTED, UsageError};
use crate::output;
use crate::store::{LocalModel, Store};
use anyhow::bail;
use serde_json::json;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

/// Removes the model, after asking.
pub fn run(args: &cli::RmArgs) -> anyhow::Result<ExitCode> {
    let store = Store::open()?;
    let model = find(&store, &args.model)?;
    if !args.yes {
        if !io::stdin().is_terminal() {
            return Err(
                UsageError(format!("`qern rm {}` asks before it removes; without a terminal, say --yes", args.model)).into()
            );
        }
        eprint!("remove {} ({}, {})? [y/N] ", model.name, output::bytes(model.size), model.path.display());
        io::stderr().flush()?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        if !matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            eprintln!("nothing was removed");
            return Ok(ExitCode::from(INTERRUPTED));
        }
    }
    store.remove(&model)?;
    if args.json {
        output::print_json(&json!({ "name": model.name, "path": model.path, "freed": model.size }))?;
    } else {
        writeln!(io::stdout(), "removed {}, {} freed", model.name, output::bytes(model.size))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn find(store: &Store, name: &str) -> anyhow::Result<LocalModel> {
    let local = store.list()?;
    let canonical = catalogue::find(name).map_or(name, |entry| entry.name.as_str());
    if let Some(model) = local.iter().find(|model| model.name == canonical || model.path == Path::new(name)) {
        return Ok(model.clone());
    }
    // `hf:owner/repo` for the one file fetched from there.
    let mut of_repo = local
        .iter()
        .filter(|model| name.starts_with("hf:") && model.name.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')));
    if let (Some(model), None) = (of_repo.next(), of_repo.next()) {
        return Ok(model.clone());
    }
    if Path::new(name).exists() {
        bail!("`{name}` is not in the store ({}); `qern rm` removes only what is", store.models().display());
    }
    if catalogue::find(name).is_some() {
        bail!("`{name}` is not on this machine; there is nothing to remove");
    }
    let nearest = local.iter().map(|model| (strsim::normalized_damerau_levenshtein(name, &model.name), &model.name));
    match nearest.filter(|(score, _)| *score >= 0.6).max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((_, near)) => bail!("no model called `{name}` on this machine; did you mean `{near}`?"),
        None => bail!("no model called `{name}` on this machine; `qern list --local` shows those there are"),
    }
}
