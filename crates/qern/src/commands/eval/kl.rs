//! `qern eval kl`: how far the model's predictions are from a reference model's, which `qern eval perplexity` saved.

use std::process::ExitCode;

use anyhow::ensure;
use serde::Serialize;

use super::logits_file::{Header, LogitsReader};
use super::scorer::{Rows, Scorer};
use super::show;
use super::statistics::{Mean, Perplexity, quantile};
use super::windows::Windows;
use crate::cli::KlArgs;
use crate::loading::{self, PackedModel};

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    /// Its name when its logits were saved.
    reference: &'a str,
    context: usize,
    windows: usize,
    scored_tokens: usize,
    left_out_tokens: usize,
    kl: Divergence,
    /// Share of positions where both find the same token likeliest.
    top1_agreement: Mean,
    /// Of what the model gives the text's own next token, minus what the reference gives it.
    rms_delta_p: f64,
    perplexity: Perplexity,
    reference_perplexity: Perplexity,
    tokens_per_second: f64,
}

/// KL(reference || model) over the positions, in nats.
#[derive(Serialize)]
struct Divergence {
    #[serde(flatten)]
    mean: Mean,
    median: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

/// One position under both models.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Comparison {
    kl: f64,
    same_top: bool,
}

/// Runs `qern eval kl`.
pub(super) fn run(args: &KlArgs) -> anyhow::Result<ExitCode> {
    let common = &args.common;
    // Before the model: a wrong file should not cost its loading.
    let mut reader = LogitsReader::open(&args.reference)?;
    let PackedModel { transformer, tokenizer, summary, .. } = loading::pack(common.model.name(), &common.machine, &common.log)?;
    if common.log.verbose > 0 {
        super::say(common, &summary);
    }
    let windows = Windows::read(&args.text, &tokenizer)?;
    let reference = reader.header().clone();
    check_same(&reference, &windows, transformer.config().vocab_size, args)?;
    let mut scorer = Scorer::new(&transformer, loading::kv_format(common.machine.kv), windows.context())?;

    let (mut nlls, mut reference_nlls) = (vec![], vec![]);
    let mut comparisons: Vec<Comparison> = vec![];
    let mut reference_rows = vec![]; // [num_rows, vocab_size]
    let took = scorer.score(&windows, common.log.quiet, &mut |rows| {
        reader.read(rows.targets.len(), &mut reference_rows)?;
        let of_reference = Rows { log_probs: &reference_rows, ..*rows };
        nlls.extend(rows.nlls());
        reference_nlls.extend(of_reference.nlls());
        comparisons.extend(rows.map(|row| compare(of_reference.row(row), rows.row(row))));
        Ok(())
    })?;

    let squares = nlls.iter().zip(&reference_nlls).map(|(q, p)| ((-q).exp() - (-p).exp()).powi(2));
    let agreements: Vec<f64> = comparisons.iter().map(|position| f64::from(position.same_top)).collect();
    let report = Report {
        model: common.model.name(),
        reference: &reference.model,
        context: windows.context(),
        windows: windows.len(),
        scored_tokens: nlls.len(),
        left_out_tokens: windows.num_left_out(),
        kl: Divergence::of(comparisons.iter().map(|position| position.kl).collect()),
        top1_agreement: Mean::of(&agreements),
        rms_delta_p: (squares.sum::<f64>() / nlls.len() as f64).sqrt(),
        perplexity: Perplexity::of(&nlls),
        reference_perplexity: Perplexity::of(&reference_nlls),
        tokens_per_second: windows.tokens_per_second(took),
    };
    show(common, &report, || report.text(&windows))
}

/// The reference must have predicted the same tokens of the same vocabulary.
fn check_same(reference: &Header, windows: &Windows, vocab_size: usize, args: &KlArgs) -> anyhow::Result<()> {
    let (file, model) = (args.reference.display(), args.common.model.name());
    let of = &reference.model;
    ensure!(
        reference.vocab_size as usize == vocab_size,
        "both models must have one vocabulary: that of `{of}` in `{file}` has {} tokens, that of `{model}` has {vocab_size}",
        reference.vocab_size
    );
    ensure!(
        reference.context as usize == windows.context(),
        "--context must be what `{file}` was saved with, {}; given {}",
        reference.context,
        windows.context()
    );
    let (saved, given) = (reference.tokens_sha256, windows.sha256());
    ensure!(
        saved == given && reference.num_rows == windows.num_scored() as u64,
        "both models must read the same tokens: those of `{of}` in `{file}` ({} scored, SHA-256 {}...) are not those of `{model}` \
         in `{}` ({} scored, SHA-256 {}...); use the text that the logits were saved with, and a model with the same tokenizer",
        reference.num_rows,
        hex(&saved[..6]),
        args.text.file.display(),
        windows.num_scored(),
        hex(&given[..6]),
    );
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Log-probabilities of the reference (`p`) and the model (`q`), `[vocab_size]`.
fn compare(p: &[f32], q: &[f32]) -> Comparison {
    let kl: f64 = p.iter().zip(q).map(|(&p, &q)| f64::from(p).exp() * (f64::from(p) - f64::from(q))).sum();
    // Rounding to f32 leaves rows that do not sum to 1 exactly: without the bound, equals could differ by -1e-7.
    Comparison { kl: kl.max(0.0), same_top: likeliest(p) == likeliest(q) }
}

/// The first of the largest.
fn likeliest(log_probs: &[f32]) -> usize {
    (0..log_probs.len()).reduce(|best, at| if log_probs[at] > log_probs[best] { at } else { best }).unwrap_or(0)
}

impl Divergence {
    fn of(mut values: Vec<f64>) -> Self {
        let mean = Mean::of(&values);
        values.sort_by(f64::total_cmp);
        let at = |q| quantile(&values, q);
        Self { mean, median: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) }
    }
}

impl Report<'_> {
    fn text(&self, windows: &Windows) -> String {
        let Divergence { mean, median, p90, p99, max } = self.kl;
        let with_error = |perplexity: &Perplexity| format!("{:.4} ± {:.4}", perplexity.perplexity, perplexity.standard_error);
        format!(
            "KL divergence     {:.6} ± {:.6} nats; median {median:.6}, 90% {p90:.6}, 99% {p99:.6}, max {max:.6}\n\
             same top token    {:.2} ± {:.2} %\n\
             RMS of delta p    {:.3} %\n\
             perplexity        {}\n\
             of the reference  {} ({})\n\
             {}\n{:.1} tokens/s\n",
            mean.mean,
            mean.standard_error,
            100.0 * self.top1_agreement.mean,
            100.0 * self.top1_agreement.standard_error,
            100.0 * self.rms_delta_p,
            with_error(&self.perplexity),
            with_error(&self.reference_perplexity),
            self.reference,
            windows.summary(),
            self.tokens_per_second
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn the_divergence_is_that_of_the_textbook() {
        let (p, q) = (logs(&[0.5, 0.25, 0.25]), logs(&[0.25, 0.25, 0.5]));
        let Comparison { kl, same_top } = compare(&p, &q);
        // 0.5 ln 2 + 0.25 ln 1/2
        assert!((kl - 0.25 * 2f64.ln()).abs() < 1e-7 && !same_top);
        assert_eq!(compare(&p, &p), Comparison { kl: 0.0, same_top: true });
    }

    #[test]
    fn the_first_of_equals_is_the_likeliest() {
        assert_eq!(likeliest(&[-3.0, -1.0, -1.0]), 1);
    }
}
