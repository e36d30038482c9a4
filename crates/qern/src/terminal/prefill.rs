//! A bar for long prompts, on stderr, until the first text of the answer. Nothing where stderr is no terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Progress of reading the prompt.
#[derive(Debug)]
pub struct PrefillBar {
    enabled: bool,
    bar: Option<ProgressBar>,
}

impl PrefillBar {
    /// Shows nothing until [`PrefillBar::show`], and never if not `enabled`.
    pub fn new(enabled: bool) -> Self {
        Self { enabled, bar: None }
    }

    /// `computed` of `total` tokens are done.
    pub fn show(&mut self, computed: usize, total: usize) {
        if !self.enabled {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr_with_hz(10));
            let style = ProgressStyle::with_template("reading the prompt {wide_bar} {pos}/{len} tokens, {eta} left");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        bar.set_position(computed as u64);
    }

    /// Makes room for the answer.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
