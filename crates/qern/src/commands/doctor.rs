//! `qern doctor`: prints the findings of the module `doctor`.

use crate::cli;
use crate::doctor::{Level, Report};
use crate::output;
use std::io::{self, Write};
use std::process::ExitCode;

/// Examines the machine and prints what was found. Succeeds whatever that is: a slow machine is no failure.
pub fn run(args: &cli::DoctorArgs) -> anyhow::Result<ExitCode> {
    let report = Report::examine(!args.offline)?;
    if args.json {
        output::print_json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    let colour = output::stdout_has_colour();
    let mut out = io::stdout().lock();
    for finding in &report.findings {
        let (mark, code) = match finding.level {
            Level::Good => ("ok  ", "32"),
            Level::Note => ("note", "36"),
            Level::Warning => ("slow", "33"),
            Level::Problem => ("bad ", "31"),
        };
        let mark = if colour { format!("\x1b[{code}m{mark}\x1b[0m") } else { mark.to_string() };
        writeln!(out, "{mark}  {:14}{}", finding.subject, finding.words)?;
        if let Some(advice) = &finding.advice {
            writeln!(out, "{:20}-> {advice}", "")?;
        }
    }
    writeln!(out, "\nModels of the catalogue on this machine:")?;
    for model in &report.models {
        let here = if model.local { ", is here" } else { "" };
        let words = if model.fits { "fits" } else { "does not fit" };
        writeln!(out, "  {:12}{words}: needs {} of memory{here}", model.name, output::bytes(model.memory))?;
    }
    Ok(ExitCode::SUCCESS)
}
