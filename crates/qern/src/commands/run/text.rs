//! The answers of a run as text: the first as it comes, each further one after the one before it.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Stdout, Write};

use qern_engine::TokenLogprob;
use qern_engine::constraint::FieldConfidence;

use crate::cli::RunArgs;
use crate::interrupt::Listener;
use crate::output;
use crate::session::generate::{Follower, Outcome};
use crate::session::report::rate;
use crate::terminal::answer::{AnswerView, Look};
use crate::terminal::markdown::visible;
use crate::terminal::prefill::PrefillBar;

/// Writes answers to stdout in order. With several, an empty line stands between them.
pub struct InOrder<'a> {
    view: AnswerView<Stdout>,
    look: Look,
    inside_thinking: bool,
    /// The answer that is being shown.
    current: usize,
    /// Text of later answers, and whether they are complete.
    waiting: BTreeMap<usize, (String, bool)>,
    listener: &'a Listener,
    prefill: PrefillBar,
}

impl<'a> InOrder<'a> {
    pub fn new(listener: &'a Listener, inside_thinking: bool, args: &RunArgs) -> Self {
        let look = Look::of(io::stdout().is_terminal(), output::stdout_has_colour());
        // Plain completion continues the prompt: it is text, not markdown of an answer.
        let look = if args.raw && look == Look::Styled { Look::Plain } else { look };
        let prefill = PrefillBar::new(!args.log.quiet);
        let view = AnswerView::new(io::stdout(), look, inside_thinking);
        Self { view, look, inside_thinking, current: 0, waiting: BTreeMap::new(), listener, prefill }
    }

    /// Ends the answer that is being shown.
    pub fn finish(&mut self) -> io::Result<()> {
        self.prefill.clear();
        self.view.finish(true)
    }

    fn next_answer(&mut self) -> io::Result<()> {
        self.current += 1;
        if let Some((text, complete)) = self.waiting.remove(&self.current) {
            self.begin_next(&text)?;
            if complete {
                self.next_answer()?;
            }
        }
        Ok(())
    }

    fn begin_next(&mut self, text: &str) -> io::Result<()> {
        self.view.finish(true)?;
        self.view = AnswerView::new(io::stdout(), self.look, self.inside_thinking);
        if !text.is_empty() {
            writeln!(io::stdout())?;
            self.view.push(text)?;
        }
        Ok(())
    }
}

impl Follower for InOrder<'_> {
    fn prefilling(&mut self, computed: usize, total: usize) {
        self.prefill.show(computed, total);
    }

    fn text(&mut self, index: usize, text: &str) -> io::Result<()> {
        self.prefill.clear();
        if index != self.current {
            self.waiting.entry(index).or_default().0.push_str(text);
            return Ok(());
        }
        self.view.push(text)
    }

    fn finished(&mut self, index: usize) -> io::Result<()> {
        if index != self.current {
            self.waiting.entry(index).or_default().1 = true;
            return Ok(());
        }
        self.next_answer()
    }

    fn wants_stop(&mut self) -> bool {
        self.listener.take()
    }
}

/// Shows nothing but the progress of the prompt: the answer is printed whole, as JSON.
pub struct Silent<'a> {
    listener: &'a Listener,
    prefill: PrefillBar,
}

impl<'a> Silent<'a> {
    pub fn new(listener: &'a Listener, progress: bool) -> Self {
        Self { listener, prefill: PrefillBar::new(progress) }
    }
}

impl Follower for Silent<'_> {
    fn prefilling(&mut self, computed: usize, total: usize) {
        self.prefill.show(computed, total);
    }

    fn text(&mut self, _index: usize, _text: &str) -> io::Result<()> {
        self.prefill.clear();
        Ok(())
    }

    fn wants_stop(&mut self) -> bool {
        self.listener.take()
    }
}

/// The probability of each value of a JSON answer.
pub fn confidence_table(fields: &[FieldConfidence]) -> String {
    let width = fields.iter().map(|field| field.path.chars().count()).max().unwrap_or(0);
    fields.iter().map(|field| format!("{:>6.1}%  {:width$}  {}\n", field.probability * 100.0, field.path, field.text)).collect()
}

/// One line per token: its probability in percent, its text, the likeliest at its place.
pub fn logprobs_table(tokens: &[TokenLogprob]) -> String {
    let text = |bytes: &[u8]| format!("{:?}", String::from_utf8_lossy(bytes).chars().map(visible).collect::<String>());
    let percent = |logprob: f32| 100.0 * logprob.exp();
    let mut table = String::new();
    for token in tokens {
        table.push_str(&format!("{:6.2}% {:<16}", percent(token.logprob), text(&token.bytes)));
        for top in &token.top {
            table.push_str(&format!("  {:.2}% {}", percent(top.logprob), text(&top.bytes)));
        }
        table = table.trim_end().to_string() + "\n";
    }
    table
}

/// Tokens and speed in a line.
pub fn speed_line(outcome: &Outcome) -> String {
    let Some(first) = outcome.answers.first() else { return "no answer".into() };
    let usage = &first.usage;
    let generated: usize = outcome.answers.iter().map(|answer| answer.usage.generated_tokens).sum();
    let decode_seconds = outcome.answers.iter().map(|answer| answer.usage.decode_seconds).fold(0.0, f64::max);
    let speed = |rate: Option<f64>| rate.map_or(String::new(), |rate| format!(" at {rate:.1} tokens/s"));
    format!(
        "{} prompt tokens{}, {generated} tokens{}, seed {}",
        usage.prompt_tokens,
        speed(rate(usage.prompt_tokens, usage.prefill_seconds)),
        speed(rate(generated.saturating_sub(outcome.answers.len()), decode_seconds)),
        outcome.seed,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use qern_engine::TopLogprob;

    #[test]
    fn tokens_are_listed_with_their_probability() {
        let top = TopLogprob { id: 1, bytes: b" no".to_vec(), logprob: 0.25_f32.ln() };
        let token = TokenLogprob { id: 0, bytes: b"yes\n".to_vec(), logprob: 0.5_f32.ln(), constrained: None, top: vec![top] };
        assert_eq!(logprobs_table(&[token]), " 50.00% \"yes\\n\"           25.00% \" no\"\n");
    }
}
