//! What is to be trained, resolved: every module by name, with its own rank and scale. Made from patterns and settings elsewhere;
//! a model makes its parameters from this and from nothing else.

use crate::trainable::{Parameter, ParameterKind};

/// The adapter of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdapterSpec {
    /// The linear layers that get a LoRA pair, in the order of the model.
    pub modules: Vec<ModuleSpec>,
    /// Modules of the base that are trained whole (`modules_to_save`): `model.embed_tokens`, `lm_head`.
    pub saved: Vec<SavedModule>,
    /// The rate at which inputs of A are dropped in training, in [0, 1).
    pub dropout: f32,
}

/// One linear layer's LoRA pair.
#[derive(Clone, Debug, PartialEq)]
pub struct ModuleSpec {
    /// The module's name in the checkpoint: `model.layers.3.self_attn.q_proj`.
    pub name: String,
    /// Values of its input.
    pub in_features: usize,
    /// Values of its output.
    pub out_features: usize,
    /// Rows of A.
    pub rank: usize,
    /// What `B A x` is multiplied by: alpha / rank, or alpha / sqrt(rank) for rank-stabilized LoRA.
    pub scale: f32,
    /// Whether the direction is normalized and a magnitude is trained beside it (DoRA).
    pub dora: bool,
}

/// A module that is trained whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedModule {
    /// The module's name in the checkpoint.
    pub name: String,
    /// The shape of its weight.
    pub shape: [usize; 2],
}

impl AdapterSpec {
    /// The parameters that a model with this adapter has, in their order: A, B and magnitude of each module, then the
    /// modules trained whole.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut parameters = Vec::new();
        for module in &self.modules {
            let mut add = |part: &str, shape: &[usize], kind| {
                parameters.push(Parameter { name: format!("{}.{part}", module.name), shape: shape.to_vec(), kind });
            };
            add("lora_A.weight", &[module.rank, module.in_features], ParameterKind::LoraA);
            add("lora_B.weight", &[module.out_features, module.rank], ParameterKind::LoraB);
            if module.dora {
                add("lora_magnitude_vector", &[module.out_features], ParameterKind::Magnitude);
            }
        }
        for saved in &self.saved {
            let name = format!("{}.weight", saved.name);
            parameters.push(Parameter { name, shape: saved.shape.to_vec(), kind: ParameterKind::Full });
        }
        parameters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_carry_the_names_and_shapes_of_peft() {
        let module =
            |name: &str, dora| ModuleSpec { name: name.into(), in_features: 6, out_features: 4, rank: 2, scale: 1.0, dora };
        let saved = vec![SavedModule { name: "lm_head".into(), shape: [9, 6] }];
        let spec = AdapterSpec { modules: vec![module("a.q_proj", false), module("b.q_proj", true)], saved, dropout: 0.0 };
        let names: Vec<_> = spec.parameters().into_iter().map(|p| (p.name, p.shape)).collect();
        let expected: [(&str, &[usize]); 6] = [
            ("a.q_proj.lora_A.weight", &[2, 6]),
            ("a.q_proj.lora_B.weight", &[4, 2]),
            ("b.q_proj.lora_A.weight", &[2, 6]),
            ("b.q_proj.lora_B.weight", &[4, 2]),
            ("b.q_proj.lora_magnitude_vector", &[4]),
            ("lm_head.weight", &[9, 6]),
        ];
        assert_eq!(names, expected.map(|(name, shape)| (name.to_string(), shape.to_vec())));
    }
}
