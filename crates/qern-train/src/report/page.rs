//! The page: markup and style. Everything that came from data or models is escaped; there is no script and no address.

use std::fmt::Write;

use super::{ExactMatch, Report, curves};

const STYLE: &str = include_str!("style.css");

/// The report as HTML.
pub fn render(report: &Report) -> String {
    let mut body = format!("<h1>{}</h1><p class=\"lead\">{}</p>", escape(&report.name), escape(&report.summary));
    body.push_str(&figures(report));
    let charts = curves::charts(report);
    if !charts.is_empty() {
        _ = write!(body, "<h2>Curves</h2><div class=\"charts\"><figure>{}</figure></div>", charts.join("</figure><figure>"));
    }
    if !report.samples.is_empty() {
        body.push_str("<h2>Held-out examples, answered before and after</h2>");
        for sample in &report.samples {
            let cell = |title: &str, class: &str, text: &str| {
                let text = if text.trim().is_empty() { "<em>nothing</em>".into() } else { escape(text.trim()) };
                format!("<div class=\"{class}\"><h3>{title}</h3><pre>{text}</pre></div>")
            };
            _ = write!(
                body,
                "<section class=\"sample\">{}{}{}{}</section>",
                cell("Asked", "asked", &sample.prompt),
                cell("Expected", "expected", &sample.expected),
                cell("Before", "before", &sample.before),
                cell("After", "after", &sample.after)
            );
        }
    }
    body.push_str("<div class=\"columns\">");
    for (title, rows) in [("Data", &report.data), ("Environment", &report.environment)] {
        if !rows.is_empty() {
            _ = write!(body, "<div><h2>{title}</h2><table>");
            for (name, value) in rows {
                _ = write!(body, "<tr><th>{}</th><td>{}</td></tr>", escape(name), escape(value));
            }
            body.push_str("</table></div>");
        }
    }
    body.push_str("</div>");
    _ = write!(
        body,
        "<details><summary>Configuration</summary><pre class=\"toml\">{}</pre></details>",
        escape(&report.configuration)
    );
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, \
         initial-scale=1\"><title>{} - training report</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n",
        escape(&report.name)
    )
}

/// The few numbers that matter, large.
fn figures(report: &Report) -> String {
    let mut figures = Vec::new();
    if let Some(ExactMatch { num_asked, before, after, shots }) = report.exact_match {
        let percent = |num: usize| format!("{:.1}%", 100.0 * num as f64 / num_asked.max(1) as f64);
        let note = if shots > 0 { format!("the base saw {shots} examples each time") } else { "the base saw no examples".into() };
        figures.push(("Held-out answers exactly right", percent(before), percent(after), format!("of {num_asked}; {note}")));
    }
    let evaluations = &report.log.evaluations;
    let kept = report.kept_step.and_then(|step| evaluations.iter().find(|line| line.step == step)).or(evaluations.last());
    if let (Some(first), Some(kept)) = (evaluations.first(), kept) {
        let perplexity = format!("perplexity {:.2} to {:.2}", first.held_out_loss.exp(), kept.held_out_loss.exp());
        figures.push(("Held-out loss", format!("{:.3}", first.held_out_loss), format!("{:.3}", kept.held_out_loss), perplexity));
    }
    let (steps, speed) = (&report.log.steps, report.log.tokens_per_second());
    if let (Some(last), Some(speed)) = (steps.last(), speed) {
        let seconds: f64 = steps.iter().map(|step| step.seconds).sum();
        let time = if seconds < 120.0 { format!("{seconds:.0} s") } else { format!("{:.1} min", seconds / 60.0) };
        figures.push(("Training time", String::new(), time, format!("{} steps, {speed:.0} tokens/s", last.step)));
        let memory = steps.iter().map(|step| step.memory_bytes).max().unwrap_or_default();
        figures.push(("Memory", String::new(), format!("{:.2} GB", memory as f64 / 1e9), "model, gradients, optimizer".into()));
    }
    let figure = |(title, before, after, note): (&str, String, String, String)| {
        let before = if before.is_empty() { before } else { format!("<span class=\"was\">{before} &rarr;</span> ") };
        format!("<div class=\"figure\"><h3>{title}</h3><p>{before}{after}</p><small>{}</small></div>", escape(&note))
    };
    format!("<div class=\"figures\">{}</div>", figures.into_iter().map(figure).collect::<String>())
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            char if char.is_control() && !matches!(char, '\n' | '\t') => escaped.push('\u{fffd}'),
            char => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::{LogLines, Sample};
    use super::*;

    fn report() -> Report {
        let log = "{\"step\":0,\"held_out_loss\":2.0}\n{\"step\":1,\"loss\":2.5,\"norm\":1.0,\"rate\":0.1,\"tokens\":64,\"seconds\":2.0,\
                   \"memory_bytes\":5}\n{\"step\":1,\"held_out_loss\":1.5}\n";
        Report {
            name: "<b>".into(),
            log: LogLines::parse(log),
            samples: vec![Sample { prompt: "<script>alert(1)</script>".into(), after: "\u{1b}[31m".into(), ..Sample::default() }],
            exact_match: Some(ExactMatch { num_asked: 8, before: 1, after: 6, shots: 5 }),
            ..Report::default()
        }
    }

    #[test]
    fn a_report_shows_what_was_measured() {
        let page = render(&report());
        for text in ["12.5%", "75.0%", "2.000 &rarr;</span> 1.500", "perplexity 7.39 to 4.48", "1 steps, 32 tokens/s", "<svg"] {
            assert!(page.contains(text), "{text}");
        }
    }

    #[test]
    fn a_report_runs_nothing_and_fetches_nothing() {
        let page = render(&report());
        for text in ["<script", "<b>", "http", "src=", "url(", "@import", "\u{1b}"] {
            assert!(!page.contains(text), "{text}");
        }
    }
}
