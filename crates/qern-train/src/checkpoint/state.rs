//! What a checkpoint says beside the tensors, and the tensors' files. Everything that a run needs to go on as if it had never
//! stopped; order and dropout follow from the seed and the step, so there is no generator's state in it.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Result};

/// A run between two steps: `state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// What must be the same for the run to go on with the same bits.
    pub identity: Identity,
    /// Steps taken.
    pub step: u64,
    /// The best held-out loss so far.
    pub best: Option<Best>,
    /// The last held-out loss.
    pub last_held_out: Option<f64>,
    /// The held-out loss before the first step.
    pub first_held_out: Option<f64>,
    /// Evaluations since the best.
    pub num_without_gain: u32,
    /// Whether early stopping has ended the run.
    pub has_stopped: bool,
    /// Tokens run through the model in training.
    pub num_tokens: u64,
    /// Time spent in training.
    pub seconds: f64,
    /// Bytes of `train.jsonl` that belong to these steps.
    pub log_bytes: u64,
}

/// A held-out loss and when it was reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Steps taken.
    pub step: u64,
    /// The loss.
    pub loss: f64,
}

/// Everything that decides the numbers of a run, by name: settings, hashes of the examples and of the base.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Identity(pub BTreeMap<String, Value>);

impl Identity {
    /// Refuses to go on with a run that was begun otherwise.
    pub fn check(&self, stored: &Self) -> Result<()> {
        let names: std::collections::BTreeSet<_> = self.0.keys().chain(stored.0.keys()).collect();
        let differing: Vec<_> = names.into_iter().filter(|&name| self.0.get(name) != stored.0.get(name)).collect();
        let Some(&first) = differing.first() else { return Ok(()) };
        let show = |value: Option<&Value>| value.map_or("nothing".to_string(), Value::to_string);
        let others = if differing.len() > 1 { format!(" (and {} more differ)", differing.len() - 1) } else { String::new() };
        Err(Error::Checkpoint(format!(
            "a run goes on only as it was begun: `{first}` was {}, and is now {}{others}; restore it, or begin in another folder",
            show(stored.0.get(first)),
            show(self.0.get(first))
        )))
    }
}

/// Tensors of f32 as a safetensors file: name, shape, values.
pub fn tensors_to_bytes(tensors: &[(String, &[usize], &[f32])]) -> Result<Vec<u8>> {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, _, values)| values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let failed = |error: safetensors::SafeTensorError| Error::Checkpoint(format!("tensors cannot be written: {error}"));
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        TensorView::new(Dtype::F32, shape.to_vec(), bytes).map(|view| (name.as_str(), view)).map_err(failed)
    });
    let views: Vec<_> = views.collect::<Result<_>>()?;
    // What PEFT and transformers want to see.
    let metadata = [("format".to_string(), "pt".to_string())].into_iter().collect();
    safetensors::serialize(views, Some(metadata)).map_err(failed)
}

/// The tensors of a file that `tensors_to_bytes` made, which must have these names and numbers of values; in this order.
pub fn tensors_from_bytes<'a>(bytes: &[u8], expected: impl Iterator<Item = (&'a str, usize)>) -> Result<Vec<Vec<f32>>> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| Error::Checkpoint(format!("tensors cannot be read: {error}")))?;
    let read = |(name, num_values): (&str, usize)| {
        let wrong = || Error::Checkpoint(format!("the tensor `{name}` must be there with {num_values} values of f32; it is not"));
        let view = file.tensor(name).map_err(|_| wrong())?;
        let (values, []) = view.data().as_chunks::<4>() else { return Err(wrong()) };
        if view.dtype() != Dtype::F32 || values.len() != num_values {
            return Err(wrong());
        }
        Ok(values.iter().map(|value| f32::from_le_bytes(*value)).collect())
    };
    expected.map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_come_back_to_the_bit() {
        let values = [1.0, f32::MIN_POSITIVE / 2.0, -0.0, 3.4e38];
        let bytes = tensors_to_bytes(&[("b".into(), &[2, 2], &values), ("a".into(), &[1], &[7.0])]).unwrap();
        let read = tensors_from_bytes(&bytes, [("b", 4), ("a", 1)].into_iter()).unwrap();
        assert_eq!(read[0].iter().map(|v| v.to_bits()).collect::<Vec<_>>(), values.map(f32::to_bits));
        assert_eq!(read[1], [7.0]);
        for (name, len) in [("c", 1), ("a", 2)] {
            assert!(tensors_from_bytes(&bytes, [(name, len)].into_iter()).unwrap_err().to_string().contains(name));
        }
    }

    #[test]
    fn a_run_that_was_begun_otherwise_is_refused() {
        let identity = |rank: u32| Identity([("lora.rank".to_string(), rank.into()), ("seed".into(), 1.into())].into());
        assert!(identity(8).check(&identity(8)).is_ok());
        let message = identity(8).check(&identity(16)).unwrap_err().to_string();
        assert!(message.contains("`lora.rank` was 16, and is now 8;"), "{message}");
    }
}
