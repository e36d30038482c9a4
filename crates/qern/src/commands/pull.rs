//! `qern pull`: fetches a model, or finishes a fetch that was interrupted.

use crate::cli;
use crate::hub::Progress;
use crate::output;
use crate::store::{ModelRef, Store};
use anyhow::bail;
use serde_json::json;
use std::io::{self, Write};
use std::process::ExitCode;

/// Fetches the model and prints where it is.
pub fn run(args: &cli::PullArgs) -> anyhow::Result<ExitCode> {
    let store = Store::open()?;
    let model = store.resolve(&args.model)?;
    if let ModelRef::File(path) | ModelRef::Folder(path) = &model {
        bail!("`{}` is already on this machine, at {}; there is nothing to fetch", args.model, path.display());
    }
    let here = store.locate(&model)?.is_some();
    let path = store.locate_or_fetch(&model, Progress::unless(args.log.quiet))?;
    let size = store.list()?.iter().find(|local| local.path == path).map(|local| local.size);
    if args.json {
        output::print_json(&json!({ "name": args.model, "path": path, "size": size, "fetched": !here }))?;
    } else {
        let size = size.map(|size| format!(" ({})", output::bytes(size))).unwrap_or_default();
        writeln!(io::stdout(), "{}{size}", path.display())?;
    }
    Ok(ExitCode::SUCCESS)
}
