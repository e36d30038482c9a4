//! What an adapter is, for people and scripts. Says what the files say; computes nothing with the weights.

use std::collections::BTreeMap;

use serde::Serialize;

use super::file::{AdapterFile, Weights};
use super::site::Site;
use crate::error::Result;

/// What `qern adapter inspect` shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// `PEFT` or `GGUF`.
    pub container: &'static str,
    /// The base that the files name.
    pub base_model: Option<String>,
    /// The fingerprint of the base, where it is recorded.
    pub base_fingerprint: Option<String>,
    /// Whether scales are alpha / sqrt(rank).
    pub rslora: bool,
    /// Whether outputs are rescaled by learned magnitudes.
    pub dora: bool,
    /// What is changed, by the modules' names, with the layers.
    pub modules: Vec<SiteSummary>,
    /// Modules that are replaced whole.
    pub replaced: Vec<String>,
    /// Values of all tensors that are used.
    pub parameters: u64,
    /// Their bytes in the files.
    pub bytes: u64,
    /// The formats they are stored in.
    pub formats: Vec<String>,
    /// What the reader should know.
    pub notes: Vec<String>,
}

/// The low-rank additions to the modules of one name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteSummary {
    /// The name, as in `q_proj`.
    pub module: &'static str,
    /// How many of them there are: one a layer at most.
    pub count: usize,
    /// Their ranks, each once.
    pub ranks: Vec<usize>,
    /// Their alphas, each once.
    pub alphas: Vec<f64>,
    /// Their scales, each once: what B A is multiplied with.
    pub scales: Vec<f64>,
}

impl AdapterFile {
    /// What the files say.
    pub fn summary(&self) -> Result<Summary> {
        let mut modules: Vec<SiteSummary> = Vec::new();
        for (site, addition) in &self.additions {
            let module = site.name();
            let index = modules.iter().position(|summary| summary.module == module).unwrap_or_else(|| {
                modules.push(SiteSummary { module, count: 0, ranks: Vec::new(), alphas: Vec::new(), scales: Vec::new() });
                modules.len() - 1
            });
            let summary = &mut modules[index];
            summary.count += 1;
            if !summary.ranks.contains(&addition.rank) {
                summary.ranks.push(addition.rank);
            }
            if !summary.alphas.contains(&addition.alpha) {
                summary.alphas.push(addition.alpha);
            }
            if !summary.scales.contains(&addition.scale) {
                summary.scales.push(addition.scale);
            }
        }
        let used =
            self.additions.values().flat_map(|addition| [Some(&addition.a), Some(&addition.b), addition.magnitude.as_ref()]);
        let (mut parameters, mut bytes, mut formats) = (0, 0, BTreeMap::new());
        for name in used.flatten().chain(self.replacements.values()) {
            let tensor = self.tensor(name)?;
            parameters += tensor.num_values() as u64;
            bytes += tensor.bytes.len() as u64;
            *formats.entry(tensor.format.name()).or_insert(0) += 1;
        }
        let base_model = match &self.weights {
            Weights::Peft { config, .. } => config.base_model.clone(),
            Weights::Gguf { file, .. } => file.metadata().str("general.base_model.0.name")?.map(str::to_owned),
        };
        Ok(Summary {
            container: if self.is_gguf() { "GGUF" } else { "PEFT" },
            base_model,
            base_fingerprint: self.fingerprint().map(str::to_owned),
            rslora: self.use_rslora(),
            dora: self.use_dora(),
            modules,
            replaced: self.replacements.keys().map(Site::to_string).collect(),
            parameters,
            bytes,
            formats: formats.into_iter().map(|(format, count)| format!("{format} {count}")).collect(),
            notes: self.notes.clone(),
        })
    }
}
