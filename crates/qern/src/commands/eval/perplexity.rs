//! `qern eval perplexity`: how well the model predicts a text, and its predictions saved for `qern eval kl`.

use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use super::logits_file::{Header, LogitsWriter};
use super::scorer::Scorer;
use super::show;
use super::statistics::Perplexity;
use super::windows::Windows;
use crate::cli::PerplexityArgs;
use crate::loading::{self, PackedModel};
use crate::output;

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    context: usize,
    windows: usize,
    scored_tokens: usize,
    /// Tokens after the last whole window.
    left_out_tokens: usize,
    #[serde(flatten)]
    perplexity: Perplexity,
    tokens_per_second: f64,
}

/// Runs `qern eval perplexity`.
pub(super) fn run(args: &PerplexityArgs) -> anyhow::Result<ExitCode> {
    let common = &args.common;
    let PackedModel { transformer, tokenizer, summary, .. } = loading::pack(common.model.name(), &common.machine, &common.log)?;
    if common.log.verbose > 0 {
        super::say(common, &summary);
    }
    let windows = Windows::read(&args.text, &tokenizer)?;
    let mut scorer = Scorer::new(&transformer, loading::kv_format(common.machine.kv), windows.context())?;
    let mut writer = None;
    if let Some(path) = &args.save_logits {
        let header = Header {
            vocab_size: u32::try_from(transformer.config().vocab_size)?,
            context: args.text.context,
            num_rows: windows.num_scored() as u64,
            tokens_sha256: windows.sha256(),
            model: name(common.model.name()),
        };
        let size = output::bytes(header.file_bytes().unwrap_or(u64::MAX));
        writer = Some(LogitsWriter::create(path, &header)?);
        super::say(common, &format!("the logits in `{}` will take {size}", path.display()));
    }

    let mut nlls = Vec::with_capacity(windows.num_scored());
    let took = scorer.score(&windows, common.log.quiet, &mut |rows| {
        nlls.extend(rows.nlls());
        writer.as_mut().map_or(Ok(()), |writer| writer.write(rows.log_probs))
    })?;
    if let Some(writer) = writer {
        writer.finish().context("the logits were not saved")?;
    }

    let report = Report {
        model: common.model.name(),
        context: windows.context(),
        windows: windows.len(),
        scored_tokens: nlls.len(),
        left_out_tokens: windows.num_left_out(),
        perplexity: Perplexity::of(&nlls),
        tokens_per_second: windows.tokens_per_second(took),
    };
    show(common, &report, || report.text(&windows))
}

impl Report<'_> {
    fn text(&self, windows: &Windows) -> String {
        let Perplexity { perplexity, standard_error, nll } = self.perplexity;
        format!(
            "perplexity  {perplexity:.4} ± {standard_error:.4}\nmean NLL    {:.5} ± {:.5} nats\n{}\n{:.1} tokens/s\n",
            nll.mean,
            nll.standard_error,
            windows.summary(),
            self.tokens_per_second
        )
    }
}

/// A model's name as it fits into a header.
fn name(name: &str) -> String {
    let end = (0..=name.len().min(4096)).rev().find(|&at| name.is_char_boundary(at)).unwrap_or(0);
    name[..end].to_owned()
}
