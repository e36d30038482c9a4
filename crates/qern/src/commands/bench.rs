//! `qern bench`: prompt processing and generation, each beside what this machine could do at best. Measures the model alone:
//! no sampling, no text.

use std::process::ExitCode;
use std::time::Instant;

use qern_engine::{BatchSequence, LogitsFor, PAGE_LEN, PageId, TokenId};
use qern_kernels::kv::KvPages;
use qern_kernels::machine::MachineLimits;
use qern_model::transformer::{Scratch, Transformer};
use serde::Serialize;

use crate::cli::BenchArgs;
use crate::loading::{self, PackedModel};
use crate::output;

/// Runs `qern bench`.
pub fn run(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    let PackedModel { transformer, summary, .. } = loading::pack(args.model.name(), &args.machine, &args.log)?;
    let limits = MachineLimits::measure(transformer.pool())?;
    let mut bench = Bench::new(&transformer, args, limits)?;
    if !args.json {
        println!("{summary}");
        println!("{}\n", bench.machine());
        println!("{:<22} {:>10} {:>18} {:>20} {:>9}", "test", "tokens/s", "memory", "integers", "of limit");
    }
    let mut figures = vec![];
    for test in bench.tests() {
        let figure = bench.measure(test)?;
        if !args.json {
            println!("{}", figure.line());
        }
        figures.push(figure);
    }
    if args.json {
        output::print_json(&Report {
            model: args.model.name(),
            cpu: bench.limits.cpu_name.clone(),
            isa: bench.limits.isa.name(),
            threads: bench.limits.num_threads,
            read_bandwidth: bench.limits.read_bandwidth,
            integer_peak: bench.limits.integer_peak,
            float_peak: bench.limits.float_peak,
            figures,
        })?;
    } else {
        println!("\nof limit: the larger of bytes / bandwidth and operations / peak, over the time taken");
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    cpu: Option<String>,
    isa: &'static str,
    threads: usize,
    /// bytes/s
    read_bandwidth: f64,
    /// 8-bit operations/s
    integer_peak: f64,
    /// f32 operations/s
    float_peak: f64,
    figures: Vec<Figure>,
}

/// One thing to measure.
#[derive(Clone, Copy)]
enum Test {
    /// One prompt in one pass.
    Prefill { num_tokens: usize },
    /// `steps` steps of `batch` sequences.
    Decode { batch: usize, steps: usize },
}

/// What was measured, and the limits it can be held against.
#[derive(Serialize)]
struct Figure {
    test: String,
    depth: usize,
    /// Median over the repetitions.
    tokens_per_second: f64,
    /// Of each repetition.
    runs: Vec<f64>,
    /// Weights and KV moved, bytes/s.
    bytes_per_second: f64,
    /// `bytes_per_second` over the measured bandwidth.
    bandwidth_fraction: f64,
    /// Integer operations of the matrices, per second.
    operations_per_second: f64,
    /// `operations_per_second` over the measured integer peak.
    integer_fraction: f64,
    /// The limit's time over the time taken.
    limit_fraction: f64,
}

impl Figure {
    fn line(&self) -> String {
        format!(
            "{:<22} {:>10.1} {:>9.1} GB/s {:>3.0}% {:>10.0} Gop/s {:>3.0}% {:>8.0}%",
            self.test,
            self.tokens_per_second,
            self.bytes_per_second / 1e9,
            100.0 * self.bandwidth_fraction,
            self.operations_per_second / 1e9,
            100.0 * self.integer_fraction,
            100.0 * self.limit_fraction
        )
    }
}

struct Bench<'a> {
    transformer: &'a Transformer,
    args: &'a BenchArgs,
    limits: MachineLimits,
    kv: KvPages,
    pages_per_sequence: usize,
    scratch: Scratch,
}

impl<'a> Bench<'a> {
    fn new(transformer: &'a Transformer, args: &'a BenchArgs, limits: MachineLimits) -> anyhow::Result<Self> {
        let depth = args.depth as usize;
        let num_positions = depth + (args.prompt.max(args.r#gen) as usize).max(1);
        let max_positions = transformer.config().max_positions;
        anyhow::ensure!(
            num_positions <= max_positions,
            "--depth and --prompt (or --gen) must be at most the model's {max_positions} positions together; given {num_positions}"
        );
        let max_batch = args.batch.iter().copied().max().unwrap_or(1) as usize;
        let pages_per_sequence = num_positions.div_ceil(PAGE_LEN);
        let geometry = transformer.kv_geometry(loading::kv_format(args.machine.kv));
        loading::check_context_memory(&geometry, pages_per_sequence * max_batch * PAGE_LEN, "lower --batch or --depth")?;
        let kv = KvPages::new(geometry, pages_per_sequence * max_batch)?;
        Ok(Self { transformer, args, limits, kv, pages_per_sequence, scratch: Scratch::default() })
    }

    fn machine(&self) -> String {
        let MachineLimits { cpu_name, isa, num_threads, read_bandwidth, integer_peak, float_peak, .. } = &self.limits;
        format!(
            "{}, {isa}, {num_threads} threads: reads {:.1} GB/s, {:.0} G 8-bit operations/s, {:.0} GFLOP/s",
            cpu_name.as_deref().unwrap_or("unknown processor"),
            read_bandwidth / 1e9,
            integer_peak / 1e9,
            float_peak / 1e9
        )
    }

    fn tests(&self) -> Vec<Test> {
        let mut tests = vec![];
        if self.args.prompt > 0 {
            tests.push(Test::Prefill { num_tokens: self.args.prompt as usize });
        }
        if self.args.r#gen > 0 {
            let steps = self.args.r#gen as usize;
            tests.extend(self.args.batch.iter().map(|&batch| Test::Decode { batch: batch as usize, steps }));
        }
        tests
    }

    fn measure(&mut self, test: Test) -> anyhow::Result<Figure> {
        let depth = self.args.depth as usize;
        let num_sequences = match test {
            Test::Prefill { .. } => 1,
            Test::Decode { batch, .. } => batch,
        };
        for sequence in 0..num_sequences {
            self.fill(sequence, depth)?;
        }
        // Once unmeasured: pages touched, buffers grown, the processor awake.
        self.once(test, depth, true)?;
        let mut runs = vec![];
        for _ in 0..self.args.repeat {
            let started = Instant::now();
            let num_tokens = self.once(test, depth, false)?;
            runs.push(num_tokens as f64 / started.elapsed().as_secs_f64());
        }
        Ok(self.figure(test, depth, runs))
    }

    /// Runs the test; a warm-up is a short one. Returns the tokens it processed.
    fn once(&mut self, test: Test, depth: usize, warm_up: bool) -> anyhow::Result<usize> {
        match test {
            Test::Prefill { num_tokens } => {
                let num_tokens = if warm_up { num_tokens.min(64) } else { num_tokens };
                self.step(&tokens(num_tokens), depth, 1, LogitsFor::Last)?;
                Ok(num_tokens)
            }
            Test::Decode { batch, steps } => {
                let steps = if warm_up { steps.min(2) } else { steps };
                for step in 0..steps {
                    self.step(&tokens(1), depth + step, batch, LogitsFor::Last)?;
                }
                Ok(steps * batch)
            }
        }
    }

    /// Puts `depth` tokens into a sequence's pages.
    fn fill(&mut self, sequence: usize, depth: usize) -> anyhow::Result<()> {
        let pages = self.pages(sequence);
        for position in (0..depth).step_by(512) {
            let tokens = tokens((depth - position).min(512));
            let batch = [BatchSequence { tokens: &tokens, position, pages: &pages, logits: LogitsFor::None, adapter: None }];
            self.transformer.forward(&batch, &mut self.kv, &mut self.scratch)?;
        }
        Ok(())
    }

    /// The same tokens at the same position of `batch` sequences.
    fn step(&mut self, tokens: &[TokenId], position: usize, batch: usize, logits: LogitsFor) -> anyhow::Result<()> {
        let pages: Vec<_> = (0..batch).map(|sequence| self.pages(sequence)).collect();
        let runs: Vec<_> = pages.iter().map(|pages| BatchSequence { tokens, position, pages, logits, adapter: None }).collect();
        self.transformer.forward(&runs, &mut self.kv, &mut self.scratch)?;
        Ok(())
    }

    fn pages(&self, sequence: usize) -> Vec<PageId> {
        let first = (sequence * self.pages_per_sequence) as u32;
        (first..first + self.pages_per_sequence as u32).map(PageId).collect()
    }

    fn figure(&self, test: Test, depth: usize, mut runs: Vec<f64>) -> Figure {
        let weights = self.transformer.weights();
        let kv_bytes = self.kv.page_bytes() as f64 / PAGE_LEN as f64;
        let seen = |positions: usize| self.transformer.config().sliding_window.map_or(positions, |w| w.min(positions)) as f64;
        // Per step: bytes moved, operations, tokens.
        let (name, bytes, operations, num_tokens) = match test {
            Test::Prefill { num_tokens } => (
                format!("prefill {num_tokens}"),
                weights.bytes_per_token() as f64 + kv_bytes * seen(depth),
                weights.operations(num_tokens, 1),
                num_tokens,
            ),
            Test::Decode { batch, steps } => (
                if batch == 1 { format!("decode {steps}") } else { format!("decode {steps} x {batch}") },
                weights.bytes_per_token() as f64 + kv_bytes * batch as f64 * seen(depth + steps / 2),
                weights.operations(batch, batch),
                batch,
            ),
        };
        runs.sort_by(f64::total_cmp);
        let tokens_per_second = runs[runs.len() / 2];
        let seconds = num_tokens as f64 / tokens_per_second;
        let computing = operations.integer / self.limits.integer_peak + operations.float / self.limits.float_peak;
        let limit = (bytes / self.limits.read_bandwidth).max(computing);
        let operations = operations.integer;
        Figure {
            test: if depth > 0 { format!("{name} @ {depth}") } else { name },
            depth,
            tokens_per_second,
            runs,
            bytes_per_second: bytes / seconds,
            bandwidth_fraction: bytes / seconds / self.limits.read_bandwidth,
            operations_per_second: operations / seconds,
            integer_fraction: operations / seconds / self.limits.integer_peak,
            limit_fraction: limit / seconds,
        }
    }
}

/// Token ids that every vocabulary has.
fn tokens(num_tokens: usize) -> Vec<TokenId> {
    (0..num_tokens as u32).map(|i| 10 + i * 37 % 200).collect()
}
