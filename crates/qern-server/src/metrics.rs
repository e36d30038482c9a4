//! Counts and times of requests, and `/metrics` in Prometheus' text format. Where vLLM has a metric of the same meaning, it is
//! given under vLLM's name too, so that dashboards made for it work.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use qern_engine::{FinishReason, Usage};

use crate::state::AppState;

/// The metrics of a server.
pub(crate) struct Metrics {
    models: BTreeMap<String, ModelMetrics>,
    http: Mutex<BTreeMap<HttpLabels, (u64, f64)>>,
}

/// Path, method and status.
type HttpLabels = (String, &'static str, u16);

/// The metrics of one model.
#[derive(Default)]
pub(crate) struct ModelMetrics {
    first_token: Histogram,
    between_tokens: Histogram,
    whole: Histogram,
    queued: Histogram,
    prompt: Histogram,
    generated: Histogram,
    finished: [AtomicU64; REASONS.len()],
    refused: AtomicU64,
}

/// Words for why answers end, as labels.
const REASONS: [&str; 5] = ["stop", "length", "abort", "deadline", "error"];

/// Upper bounds in seconds, vLLM's for first tokens with two below.
const SECONDS: [f64; 18] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0];
/// Upper bounds in tokens.
const TOKENS: [f64; 18] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5];

/// How often values fell under each bound.
#[derive(Default)]
struct Histogram {
    /// The last is above all bounds.
    counts: [AtomicU64; 19],
    /// Bits of an `f64`.
    sum: AtomicU64,
}

impl Histogram {
    fn add(&self, value: f64, bounds: &[f64; 18]) {
        let bucket = bounds.iter().position(|bound| value <= *bound).unwrap_or(bounds.len());
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // Never fails: `add` always gives a value.
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    fn write(&self, out: &mut String, name: &str, labels: &str, bounds: &[f64; 18]) {
        let mut total = 0;
        for (count, bound) in self.counts.iter().zip(bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()])) {
            total += count.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {total}");
        }
        let sum = f64::from_bits(self.sum.load(Ordering::Relaxed));
        let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {total}");
    }
}

impl ModelMetrics {
    /// A request left the queue.
    pub fn started(&self, queued_seconds: f64) {
        self.queued.add(queued_seconds, &SECONDS);
    }

    /// The next token of an answer came so long after the one before.
    pub fn token(&self, seconds: f64) {
        self.between_tokens.add(seconds, &SECONDS);
    }

    /// An answer is complete; `seconds` since its request came.
    pub fn finished(&self, reason: &FinishReason, usage: &Usage, seconds: f64) {
        let reason = match reason {
            FinishReason::Stop | FinishReason::StopString(_) => 0,
            FinishReason::Length | FinishReason::Context => 1,
            FinishReason::Cancelled => 2,
            FinishReason::Deadline => 3,
        };
        self.finished[reason].fetch_add(1, Ordering::Relaxed);
        self.whole.add(seconds, &SECONDS);
        self.prompt.add(usage.prompt_tokens as f64, &TOKENS);
        self.generated.add(usage.generated_tokens as f64, &TOKENS);
        if let Some(seconds) = usage.time_to_first_token {
            self.first_token.add(seconds, &SECONDS);
        }
    }

    /// A request ended without an answer.
    pub fn failed(&self) {
        self.finished[4].fetch_add(1, Ordering::Relaxed);
    }

    /// Nobody waits for the request any more.
    pub fn abandoned(&self) {
        self.finished[2].fetch_add(1, Ordering::Relaxed);
    }

    /// A request was refused because too many wait.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

impl Metrics {
    pub fn new(models: impl Iterator<Item = String>) -> Self {
        Self { models: models.map(|name| (name, ModelMetrics::default())).collect(), http: Mutex::default() }
    }

    /// Those of a model that the server has.
    pub fn of(&self, model: &str) -> Option<&ModelMetrics> {
        self.models.get(model)
    }

    /// An HTTP request was answered.
    pub fn http(&self, path: &str, method: &str, status: u16, seconds: f64) {
        const METHODS: [&str; 5] = ["GET", "POST", "HEAD", "OPTIONS", "DELETE"];
        // A label takes what clients send only where that is bounded.
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or("other");
        let mut http = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, sum) = http.entry((path.to_owned(), method, status)).or_default();
        *count += 1;
        *sum += seconds;
    }
}

/// `GET /metrics`.
pub(crate) async fn metrics(State(state): State<AppState>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render(&state)).into_response()
}

fn render(state: &AppState) -> String {
    let mut out = String::new();
    let all = &state.metrics;
    let stats: Vec<(String, &ModelMetrics, qern_engine::Stats)> = state
        .models
        .iter()
        .filter_map(|model| Some((label(&model.name), all.of(&model.name)?, model.engine.stats().ok()?)))
        .collect();

    let mut number = |names: &[&str], kind: &str, help: &str, value: &dyn Fn(&ModelMetrics, &qern_engine::Stats) -> f64| {
        for name in names {
            head(&mut out, name, kind, help);
            for (labels, metrics, stats) in &stats {
                let _ = writeln!(out, "{name}{{{labels}}} {}", value(metrics, stats));
            }
        }
    };
    number(&["qern_requests_running", "vllm:num_requests_running"], "gauge", "Requests that are computed", &|_, s| {
        s.running as f64
    });
    number(&["qern_requests_waiting", "vllm:num_requests_waiting"], "gauge", "Requests in the queue", &|_, s| s.waiting as f64);
    let used =
        |_: &ModelMetrics, s: &qern_engine::Stats| 1.0 - (s.free_pages + s.cached_pages) as f64 / s.num_pages.max(1) as f64;
    let names = ["qern_kv_usage_ratio", "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"];
    number(&names, "gauge", "Share of the memory for keys and values in use", &used);
    number(&["qern_kv_pages"], "gauge", "Pages for keys and values", &|_, s| s.num_pages as f64);
    number(&["qern_kv_pages_free"], "gauge", "Pages that hold nothing", &|_, s| s.free_pages as f64);
    number(&["qern_kv_pages_cached"], "gauge", "Pages kept for later requests only", &|_, s| s.cached_pages as f64);
    let names = ["qern_preemptions_total", "vllm:num_preemptions_total"];
    number(&names, "counter", "Requests set back because pages ran out", &|_, s| s.preemptions as f64);
    number(&["qern_steps_total"], "counter", "Steps of the engine", &|_, s| s.steps as f64);
    number(&["qern_computed_tokens_total"], "counter", "Tokens computed in all steps", &|_, s| s.computed_tokens as f64);
    type Counter = (&'static [&'static str], &'static str, fn(&qern_engine::Counts) -> u64);
    let counters: [Counter; 5] = [
        (&["qern_prompt_tokens_total", "vllm:prompt_tokens_total", "vllm:prefix_cache_queries_total"], "Prompt tokens", |c| {
            c.prompt_tokens
        }),
        (&["qern_cached_tokens_total", "vllm:prefix_cache_hits_total"], "Prompt tokens that were not computed again", |c| {
            c.cached_tokens
        }),
        (&["qern_generated_tokens_total", "vllm:generation_tokens_total"], "Tokens sampled", |c| c.generated_tokens),
        (&["qern_drafted_tokens_total", "vllm:spec_decode_num_draft_tokens_total"], "Tokens drafted", |c| c.drafted_tokens),
        (&["qern_accepted_tokens_total", "vllm:spec_decode_num_accepted_tokens_total"], "Drafts that were right", |c| {
            c.accepted_tokens
        }),
    ];
    for (names, help, of) in counters {
        number(names, "counter", help, &|_, s| of(&s.counts) as f64);
    }
    let refused = |m: &ModelMetrics, _: &qern_engine::Stats| m.refused.load(Ordering::Relaxed) as f64;
    number(&["qern_requests_refused_total"], "counter", "Requests refused because too many wait", &refused);

    head(&mut out, "qern_adapters_loaded", "gauge", "Adapters that requests may name");
    for model in &state.models {
        let _ = writeln!(out, "qern_adapters_loaded{{{}}} {}", label(&model.name), model.engine.adapters().len());
    }
    for name in ["qern_answers_total", "vllm:request_success_total"] {
        head(&mut out, name, "counter", "Answers by why they ended");
        for (labels, metrics, _) in &stats {
            for (count, reason) in metrics.finished.iter().zip(REASONS) {
                let _ = writeln!(out, "{name}{{{labels},finished_reason=\"{reason}\"}} {}", count.load(Ordering::Relaxed));
            }
        }
    }

    type Of = fn(&ModelMetrics) -> &Histogram;
    let histograms: [(&[&str], &str, &[f64; 18], Of); 6] = [
        (
            &["qern_time_to_first_token_seconds", "vllm:time_to_first_token_seconds"],
            "From arrival to the first token",
            &SECONDS,
            |m| &m.first_token,
        ),
        (
            &["qern_inter_token_seconds", "vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"],
            "From one token of an answer to the next",
            &SECONDS,
            |m| &m.between_tokens,
        ),
        (&["qern_request_seconds", "vllm:e2e_request_latency_seconds"], "From arrival to the end of an answer", &SECONDS, |m| {
            &m.whole
        }),
        (&["qern_queue_seconds", "vllm:request_queue_time_seconds"], "From arrival to leaving the queue", &SECONDS, |m| {
            &m.queued
        }),
        (&["qern_request_prompt_tokens", "vllm:request_prompt_tokens"], "Tokens of prompts", &TOKENS, |m| &m.prompt),
        (&["qern_request_generated_tokens", "vllm:request_generation_tokens"], "Tokens of answers", &TOKENS, |m| &m.generated),
    ];
    for (names, help, bounds, of) in histograms {
        for name in names {
            head(&mut out, name, "histogram", help);
            for (labels, metrics, _) in &stats {
                of(metrics).write(&mut out, name, labels, bounds);
            }
        }
    }
    write_http(&mut out, state);
    out
}

fn write_http(out: &mut String, state: &AppState) {
    head(out, "qern_http_active", "gauge", "Requests that are answered now");
    let _ = writeln!(out, "qern_http_active {}", state.num_active());
    let http = state.metrics.http.lock().unwrap_or_else(PoisonError::into_inner);
    head(out, "qern_http_requests_total", "counter", "HTTP requests answered");
    for ((path, method, status), (count, _)) in &*http {
        let _ = writeln!(out, "qern_http_requests_total{{path=\"{path}\",method=\"{method}\",status=\"{status}\"}} {count}");
    }
    head(out, "qern_http_request_seconds_total", "counter", "Time from the head of a request to the end of its answer");
    for ((path, method, status), (_, sum)) in &*http {
        let _ = writeln!(out, "qern_http_request_seconds_total{{path=\"{path}\",method=\"{method}\",status=\"{status}\"}} {sum}");
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn label(model: &str) -> String {
    let escaped = model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("model_name=\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_count_all_that_is_below() {
        let histogram = Histogram::default();
        for seconds in [0.0005, 0.02, 0.021, 1e9] {
            histogram.add(seconds, &SECONDS);
        }
        let mut out = String::new();
        histogram.write(&mut out, "x", "model_name=\"m\"", &SECONDS);
        for line in [
            "x_bucket{model_name=\"m\",le=\"0.001\"} 1",
            "x_bucket{model_name=\"m\",le=\"0.02\"} 2",
            "x_bucket{model_name=\"m\",le=\"0.04\"} 3",
            "x_bucket{model_name=\"m\",le=\"+Inf\"} 4",
            "x_count{model_name=\"m\"} 4",
        ] {
            assert!(out.lines().any(|given| given == line), "{line} in\n{out}");
        }
    }

    #[test]
    fn names_of_models_cannot_fake_labels() {
        assert_eq!(label("a\"b\\c\n"), r#"model_name="a\"b\\c\n""#);
    }
}
