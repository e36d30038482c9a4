//! What of a run is kept: checkpoints out and in, and the adapter at the end.

use serde_json::Value;

use super::{Run, adamw};
use crate::checkpoint::{Checkpoint, Identity, State, tensors_from_bytes, tensors_to_bytes};
use crate::optim::AdamW;
use crate::{Error, Result};

/// PEFT's file of tensors.
pub const ADAPTER: &str = "adapter_model.safetensors";
/// PEFT's file of settings.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// Values in the model's own order, and the optimizer's moments.
const TENSORS: &str = "state.safetensors";
const STATE: &str = "state.json";
/// What PEFT puts before the names of modules.
const PEFT_PREFIX: &str = "base_model.model.";

impl State {
    /// Before the first step.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            step: 0,
            best: None,
            last_held_out: None,
            first_held_out: None,
            num_without_gain: 0,
            has_stopped: false,
            num_tokens: 0,
            seconds: 0.0,
            log_bytes: 0,
        }
    }
}

impl Run<'_> {
    /// Goes on with the newest checkpoint, if there is one. Says what was wrong with newer ones.
    pub fn resume(&mut self) -> Result<Vec<String>> {
        let (latest, notes) = self.parts.folder.latest()?;
        if let Some(checkpoint) = latest {
            let state: State = serde_json::from_slice(checkpoint.file(STATE)?)
                .map_err(|error| Error::Checkpoint(format!("the checkpoint of step {}: {error}", checkpoint.step)))?;
            self.parts.identity.check(&state.identity)?;
            self.restore(&checkpoint)?;
            self.state = state;
        }
        Ok(notes)
    }

    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let parameters = self.parts.model.parameters().to_vec();
        let mut expected = Vec::new();
        for part in ["value", "first", "second"] {
            expected.extend(parameters.iter().map(|parameter| (format!("{part}.{}", parameter.name), parameter.num_values())));
        }
        let names = expected.iter().map(|(name, len)| (name.as_str(), *len));
        let mut tensors = tensors_from_bytes(checkpoint.file(TENSORS)?, names)?.into_iter();
        for id in 0..parameters.len() {
            let values = tensors.next().unwrap_or_default();
            self.parts.model.values_mut(id).copy_from_slice(&values);
        }
        self.parts.model.values_changed()?;
        let first = tensors.by_ref().take(parameters.len()).collect();
        self.optimizer = AdamW::resume(adamw(self.parts.settings), checkpoint.step, first, tensors.collect());
        Ok(())
    }

    /// Writes a checkpoint, and removes old ones.
    pub fn save(&mut self) -> Result<()> {
        let step = self.state.step;
        let model = &*self.parts.model;
        let (first, second) = self.optimizer.moments();
        let mut tensors = Vec::new();
        for (id, parameter) in model.parameters().iter().enumerate() {
            for (part, values) in [("value", model.values(id)), ("first", &first[id]), ("second", &second[id])] {
                tensors.push((format!("{part}.{}", parameter.name), parameter.shape.as_slice(), values));
            }
        }
        let state = serde_json::to_vec_pretty(&self.state).map_err(|error| Error::Checkpoint(format!("state: {error}")))?;
        let files = [
            (ADAPTER.to_string(), self.adapter()?),
            (ADAPTER_CONFIG.to_string(), self.parts.adapter_config.clone()),
            (TENSORS.to_string(), tensors_to_bytes(&tensors)?),
            (STATE.to_string(), state),
        ];
        self.log.sync()?;
        self.parts.folder.save(step, &files)?;
        let best = self.state.best.map(|best| best.step);
        self.parts.folder.prune(self.parts.settings.keep_checkpoints, best)
    }

    /// PEFT's file of the values as they are.
    fn adapter(&self) -> Result<Vec<u8>> {
        let model = &*self.parts.model;
        let values: Vec<Vec<f32>> =
            model.parameters().iter().enumerate().map(|(id, p)| self.parts.export.values(p, model.values(id))).collect();
        let tensors: Vec<_> = (model.parameters().iter().zip(&values))
            .map(|(p, values)| (format!("{PEFT_PREFIX}{}", p.name), p.shape.as_slice(), values.as_slice()))
            .collect();
        tensors_to_bytes(&tensors)
    }

    /// Writes the adapter into the run's folder: the best, if it is to be and there is one, or the last. The model has its values
    /// then. Returns the step that it is of.
    pub fn finish(&mut self) -> Result<u64> {
        let mut step = self.state.step;
        // The best may be the untrained model, of which there is no checkpoint: an adapter that does nothing helps nobody.
        if let Some(best) = self.state.best.filter(|best| self.parts.settings.keep_best && best.step > 0 && best.step != step) {
            let checkpoint = self.parts.folder.load(best.step)?;
            self.restore(&checkpoint)?;
            step = best.step;
        }
        let adapter = self.adapter()?;
        self.parts.folder.write(ADAPTER_CONFIG, &self.parts.adapter_config)?;
        self.parts.folder.write(ADAPTER, &adapter)?;
        Ok(step)
    }
}

/// `adapter_config.json` as bytes.
pub fn config_bytes(config: &Value) -> Vec<u8> {
    format!("{config:#}\n").into_bytes()
}
