//! What `/stats` and `/context` say, as text. Measures nothing.

use qern_engine::{FinishReason, Usage};

use super::generate::reason_name;

/// What the answers of a chat took.
#[derive(Debug, Default)]
pub struct Stats {
    /// The last answer.
    pub last: Option<(Usage, Option<FinishReason>)>,
    answers: usize,
    prompt_tokens: usize,
    generated_tokens: usize,
}

impl Stats {
    /// Counts one more answer.
    pub fn add(&mut self, usage: Usage, reason: Option<FinishReason>) {
        self.answers += 1;
        self.prompt_tokens += usage.prompt_tokens;
        self.generated_tokens += usage.generated_tokens;
        self.last = Some((usage, reason));
    }

    /// The text of `/stats`.
    pub fn text(&self) -> String {
        let Some((usage, reason)) = &self.last else { return "no answer yet\n".into() };
        let speed = |tokens: usize, seconds: f64| match rate(tokens, seconds) {
            Some(rate) => format!(", {rate:.1} tokens/s"),
            None => String::new(),
        };
        let first = usage.time_to_first_token.map_or("none".into(), |seconds| format!("after {seconds:.2} s"));
        // The first token comes out of the prefill; only the others are decoded.
        let decoded = usage.generated_tokens.saturating_sub(1);
        format!(
            "last answer\n  prompt       {} tokens{}\n  answer       {} tokens{}\n  first token  {first}\n  ended by     {}\n\
             whole chat     {} answers, {} tokens read, {} tokens written\n",
            usage.prompt_tokens,
            speed(usage.prompt_tokens, usage.prefill_seconds),
            usage.generated_tokens,
            speed(decoded, usage.decode_seconds),
            reason_name(reason.as_ref()),
            self.answers,
            self.prompt_tokens,
            self.generated_tokens,
        )
    }
}

/// What the user must know about how an answer ended, if it did not end by itself.
pub fn answer_note(reason: Option<&FinishReason>, context_len: usize, max_tokens: Option<usize>) -> Option<String> {
    match reason {
        Some(FinishReason::Stop | FinishReason::StopString(_)) => None,
        Some(FinishReason::Length) => Some(match max_tokens {
            Some(tokens) => format!("note: the answer was cut at max-tokens ({tokens})"),
            None => "note: the answer was cut at its longest".into(),
        }),
        Some(FinishReason::Context) => Some(format!("note: the answer was cut: the context of {context_len} tokens is full")),
        Some(FinishReason::Deadline) => Some("note: the answer was cut: its time was up".into()),
        Some(FinishReason::Cancelled) | None => Some("(stopped)".into()),
    }
}

/// Tokens per second, where enough time passed to say.
pub fn rate(tokens: usize, seconds: f64) -> Option<f64> {
    (tokens > 0 && seconds > 1e-6).then(|| tokens as f64 / seconds)
}

/// What fills a context.
#[derive(Debug, Clone, Copy, Default)]
pub struct ContextUse {
    /// Tokens that it holds.
    pub context_len: usize,
    /// Tokens of the system prompt.
    pub system: usize,
    /// Tokens of the turns that are in view, and of the template around them.
    pub turns: usize,
    /// How many turns those are.
    pub num_turns: usize,
    /// Tokens of turns that are no longer in view.
    pub dropped: usize,
    /// How many those are.
    pub num_dropped: usize,
}

const METER_WIDTH: usize = 40;

impl ContextUse {
    /// The text of `/context`, with a meter.
    pub fn text(&self) -> String {
        let free = self.context_len.saturating_sub(self.system + self.turns);
        let cells = |tokens: usize| match tokens {
            0 => 0,
            tokens => (tokens * METER_WIDTH).div_ceil(self.context_len.max(1)).min(METER_WIDTH),
        };
        let system = cells(self.system);
        let turns = cells(self.turns).min(METER_WIDTH - system);
        let meter = ["▓".repeat(system), "█".repeat(turns), "░".repeat(METER_WIDTH - system - turns)].concat();
        let percent = 100 * (self.system + self.turns) / self.context_len.max(1);
        let mut text = format!("{meter} {percent}% of {} tokens\n", self.context_len);
        let mut row = |sign: &str, what: &str, tokens: usize| text.push_str(&format!("  {sign} {what:<24} {tokens:>8}\n"));
        row("▓", "system prompt", self.system);
        row("█", &turns_in_words(self.num_turns), self.turns);
        row("░", "free", free);
        if self.num_dropped > 0 {
            row(" ", &format!("left out: {}", turns_in_words(self.num_dropped)), self.dropped);
        }
        text
    }
}

fn turns_in_words(turns: usize) -> String {
    if turns == 1 { "1 turn".into() } else { format!("{turns} turns") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meter_shows_parts_in_proportion_and_what_was_left_out() {
        let full = ContextUse { context_len: 400, system: 100, turns: 200, num_turns: 2, dropped: 50, num_dropped: 1 };
        let expected = "▓▓▓▓▓▓▓▓▓▓████████████████████░░░░░░░░░░ 75% of 400 tokens\n  \
                          ▓ system prompt                 100\n  \
                          █ 2 turns                       200\n  \
                          ░ free                          100\n    \
                            left out: 1 turn               50\n";
        assert_eq!(full.text(), expected);
        let line = |text: String| text.lines().next().unwrap().to_string();
        let tiny = ContextUse { context_len: 8000, system: 1, turns: 1, num_turns: 1, ..ContextUse::default() };
        assert_eq!(line(tiny.text()), format!("▓█{} 0% of 8000 tokens", "░".repeat(38)));
        assert!(ContextUse::default().text().starts_with('░'), "an unknown context divides nothing by zero");
    }

    #[test]
    fn statistics_add_up() {
        let mut stats = Stats::default();
        assert_eq!(stats.text(), "no answer yet\n");
        let usage = Usage {
            prompt_tokens: 100,
            cached_tokens: 0,
            generated_tokens: 21,
            forced_tokens: 0,
            prefill_seconds: 0.5,
            decode_seconds: 2.0,
            time_to_first_token: Some(0.51),
        };
        stats.add(usage, Some(FinishReason::Stop));
        stats.add(usage, Some(FinishReason::Length));
        let text = stats.text();
        for part in
            ["100 tokens, 200.0 tokens/s", "21 tokens, 10.0 tokens/s", "after 0.51 s", "length", "2 answers, 200 tokens read, 42"]
        {
            assert!(text.contains(part), "{text} should say {part}");
        }
    }
}
