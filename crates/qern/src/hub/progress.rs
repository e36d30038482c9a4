//! How far a download is, on stderr: a bar with speed and time left on a terminal, a line every ten seconds elsewhere,
//! nothing when the user wants quiet. Knows bytes only.

use crate::output;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

/// How often progress is said where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Where progress is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A bar that redraws itself.
    Bar,
    /// A line now and then.
    Lines,
    /// Nowhere.
    Silent,
}

impl Progress {
    /// A bar if stderr is a terminal, else lines.
    pub fn stderr() -> Self {
        if io::stderr().is_terminal() { Self::Bar } else { Self::Lines }
    }

    /// As [`Progress::stderr`], or silent.
    pub fn unless(quiet: bool) -> Self {
        if quiet { Self::Silent } else { Self::stderr() }
    }

    /// Says one line.
    pub fn say(self, line: &str) {
        if self != Self::Silent {
            eprintln!("{line}");
        }
    }

    /// Starts measuring one piece of work of `total` bytes, `done` of which are there already.
    pub fn start(self, label: &str, total: Option<u64>, done: u64) -> Meter {
        let bar = (self == Self::Bar).then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
            let known = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
            let unknown = "{msg} {spinner} {bytes} {bytes_per_sec}";
            let style = ProgressStyle::with_template(if total.is_some() { known } else { unknown });
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(label.to_string());
            bar.set_position(done);
            bar.reset_eta();
            bar
        });
        let now = Instant::now();
        Meter { label: label.to_string(), progress: self, bar, total, done, fetched: 0, started: now, said: now }
    }
}

/// The progress of one piece of work.
#[derive(Debug)]
pub struct Meter {
    label: String,
    progress: Progress,
    bar: Option<ProgressBar>,
    total: Option<u64>,
    done: u64,
    /// Bytes of `done` that this meter saw arrive; speed counts these alone.
    fetched: u64,
    started: Instant,
    said: Instant,
}

impl Meter {
    /// `count` more bytes are there.
    pub fn add(&mut self, count: u64) {
        self.done += count;
        self.fetched += count;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        } else if self.progress == Progress::Lines && self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            eprintln!("{}", self.line());
        }
    }

    /// Back to `done` bytes: the work starts over from there.
    pub fn restart(&mut self, done: u64) {
        self.done = done;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.reset_eta();
        }
    }

    /// The work is over, well or not: the bar goes.
    pub fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self) -> String {
        let rate = self.fetched as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        let rate_text = output::bytes(rate as u64);
        match self.total {
            Some(total) if total > 0 => {
                let left = Duration::from_secs_f64((total.saturating_sub(self.done)) as f64 / rate.max(1.0));
                let percent = self.done * 100 / total;
                let (done, total, left) = (output::bytes(self.done), output::bytes(total), output::duration(left));
                format!("{}: {percent}% ({done} of {total}), {rate_text}/s, {left} left", self.label)
            }
            _ => format!("{}: {}, {rate_text}/s", self.label, output::bytes(self.done)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_percent_speed_and_time_left() {
        let mut meter = Progress::Silent.start("model.gguf", Some(1_000_000), 250_000);
        meter.add(250_000);
        let line = meter.line();
        assert!(line.starts_with("model.gguf: 50% (500 kB of 1.0 MB), "), "{line}");
        assert!(line.ends_with(" left"), "{line}");
    }
}
