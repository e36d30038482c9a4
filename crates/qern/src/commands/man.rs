//! `qern man`: the manual pages, one for the program and one for every command, generated from the command tree.

use crate::cli;
use anyhow::Context;
use clap::CommandFactory;
use std::path::Path;
use std::process::ExitCode;
use std::{fs, io};

/// Writes the pages into the folder.
pub fn run(args: &cli::ManArgs) -> anyhow::Result<ExitCode> {
    let dir = &args.dir;
    fs::create_dir_all(dir).with_context(|| format!("cannot create the folder {}", dir.display()))?;
    let mut root = cli::Cli::command();
    root.build();
    let count =
        write_pages(&root, "qern", dir).with_context(|| format!("cannot write the manual pages into {}", dir.display()))?;
    eprintln!("wrote {count} manual pages into {}", dir.display());
    Ok(ExitCode::SUCCESS)
}

fn write_pages(command: &clap::Command, name: &str, dir: &Path) -> io::Result<usize> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).title(name.to_uppercase()).render(&mut page)?;
    fs::write(dir.join(format!("{name}.1")), page)?;
    let mut count = 1;
    for child in command.get_subcommands().filter(|child| child.get_name() != "help") {
        count += write_pages(child, &format!("{name}-{}", child.get_name()), dir)?;
    }
    Ok(count)
}
