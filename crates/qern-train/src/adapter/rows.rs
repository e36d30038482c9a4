//! The order of rows in files. GGUF files of the Llama architecture have the rows of q and k interleaved within each head, so that
//! neighbours rotate together; PEFT's files, like all of Hugging Face's, have the two halves of a head one after the other.

use qern_model::config::{ModelConfig, RopeLayout};

use crate::run::Export;
use crate::trainable::{Parameter, ParameterKind};

/// Parameters of a base as loaded, to those of PEFT's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeftRows {
    /// The rows of a head, where q and k are interleaved.
    interleaved_head: Option<usize>,
}

impl PeftRows {
    /// For a base with this configuration.
    pub fn of(config: &ModelConfig) -> Self {
        Self { interleaved_head: (config.rope.layout == RopeLayout::Interleaved).then_some(config.head_dim) }
    }
}

impl Export for PeftRows {
    fn values(&self, parameter: &Parameter, values: &[f32]) -> Vec<f32> {
        let is_rotated = [".q_proj.", ".k_proj."].iter().any(|name| parameter.name.contains(name));
        let has_outputs = matches!(parameter.kind, ParameterKind::LoraB | ParameterKind::Magnitude);
        let Some(head) = self.interleaved_head.filter(|_| is_rotated && has_outputs) else { return values.to_vec() };
        let width = values.len() / parameter.shape[0];
        let mut rows = vec![0.0; values.len()];
        for (row, from) in values.chunks_exact(width).enumerate() {
            let (start, within) = (row / head * head, row % head);
            let to = start + within % 2 * (head / 2) + within / 2;
            rows[to * width..(to + 1) * width].copy_from_slice(from);
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_rows_of_q_and_k_come_apart() {
        let check = |interleaved_head, name: &str, kind, expected: [f32; 8]| {
            let parameter = Parameter { name: format!("model.layers.0.self_attn.{name}.x"), shape: vec![8, 1], kind };
            let values: Vec<f32> = (0..8u8).map(f32::from).collect();
            assert_eq!(PeftRows { interleaved_head }.values(&parameter, &values), expected, "{name}");
        };
        let as_is = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        // Loaded: pairs (0, 1) and (2, 3) of a head of four; in PEFT's file, 0 and 2 are the first half.
        let apart = [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0];
        check(Some(4), "q_proj", ParameterKind::LoraB, apart);
        check(Some(4), "k_proj", ParameterKind::Magnitude, apart);
        check(Some(4), "q_proj", ParameterKind::LoraA, as_is);
        check(Some(4), "v_proj", ParameterKind::LoraB, as_is);
        check(None, "q_proj", ParameterKind::LoraB, as_is);
    }
}
