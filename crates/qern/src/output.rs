//! What every command's output shares: colour or not, sizes and durations in words, JSON on stdout. Not progress bars
//! (`hub::progress`) and not the chat's terminal.

use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// Whether stderr may be coloured: a terminal, and `NO_COLOR` unset or empty.
pub fn stderr_has_colour() -> bool {
    colour_allowed() && io::stderr().is_terminal()
}

/// Whether stdout may be coloured: a terminal, and `NO_COLOR` unset or empty.
pub fn stdout_has_colour() -> bool {
    colour_allowed() && io::stdout().is_terminal()
}

fn colour_allowed() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Writes `value` to stdout as indented JSON and a newline.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer_pretty(&mut stdout, value).map_err(io::Error::from)?;
    writeln!(stdout)?;
    stdout.flush()?;
    Ok(())
}

/// A byte count as people write it: `94 MB`, `2.5 GB` (powers of ten, like the hub's own figures).
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.95 { format!("{value:.0} {}", UNITS[unit]) } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A duration as people write it: `12 s`, `3 min 20 s`, `2 h 5 min`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        for (count, words) in
            [(0, "0 B"), (999, "999 B"), (98_362_432, "98.4 MB"), (999_960, "1.0 MB"), (2_497_281_120, "2.5 GB")]
        {
            assert_eq!(bytes(count), words);
        }
    }

    #[test]
    fn durations_read_well() {
        for (seconds, words) in [(0, "0 s"), (59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")] {
            assert_eq!(duration(Duration::from_secs(seconds)), words);
        }
    }
}
