//! AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", algorithm 2), with the operations in the order of
//! PyTorch's `torch.optim.AdamW`, in f32. LoRA+ (Hayou et al. 2024) is a higher learning rate for B.

use crate::trainable::{Gradients, ParameterKind, Trainable};
use crate::{Error, Result};

/// How AdamW steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decay of the values themselves, in units of the learning rate.
    pub weight_decay: f64,
    /// LoRA+: the learning rate of B over that of A; 1 is plain LoRA.
    pub lora_plus: f64,
}

impl Default for AdamWSettings {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, lora_plus: 1.0 }
    }
}

/// The optimizer's state.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    settings: AdamWSettings,
    /// Steps taken.
    step: u64,
    first: Vec<Vec<f32>>,  // [num_parameters][shape product]
    second: Vec<Vec<f32>>, // [num_parameters][shape product]
}

impl AdamW {
    /// A state before the first step.
    pub fn new(settings: AdamWSettings, model: &dyn Trainable) -> Self {
        let zeros = || model.parameters().iter().map(|parameter| vec![0.0; parameter.num_values()]).collect();
        Self { settings, step: 0, first: zeros(), second: zeros() }
    }

    /// A state that was stored.
    pub fn resume(settings: AdamWSettings, step: u64, first: Vec<Vec<f32>>, second: Vec<Vec<f32>>) -> Self {
        Self { settings, step, first, second }
    }

    /// Steps taken.
    pub fn num_steps(&self) -> u64 {
        self.step
    }

    /// The first and second moments of every parameter.
    pub fn moments(&self) -> (&[Vec<f32>], &[Vec<f32>]) {
        (&self.first, &self.second)
    }

    /// Bytes of the moments.
    pub fn memory_bytes(&self) -> usize {
        8 * self.first.iter().map(Vec::len).sum::<usize>()
    }

    /// Takes one step. The model's values are changed in place.
    pub fn step(&mut self, model: &mut dyn Trainable, gradients: &Gradients, learning_rate: f64) -> Result<()> {
        self.step += 1;
        let AdamWSettings { beta1, beta2, eps, weight_decay, lora_plus } = self.settings;
        let power = i32::try_from(self.step).map_err(|_| Error::Config("a run must have fewer than 2^31 steps".into()))?;
        let (bias1, bias2) = (1.0 - beta1.powi(power), (1.0 - beta2.powi(power)).sqrt());
        for id in 0..self.first.len() {
            let rate = learning_rate * if model.parameters()[id].kind == ParameterKind::LoraB { lora_plus } else { 1.0 };
            let keep = (1.0 - rate * weight_decay) as f32;
            let step_size = (rate / bias1) as f32;
            let (lerp, beta2, new) = ((1.0 - beta1) as f32, beta2 as f32, (1.0 - beta2) as f32);
            let (bias2, eps) = (bias2 as f32, eps as f32);
            let moments = self.first[id].iter_mut().zip(&mut self.second[id]);
            for ((value, &gradient), (m, v)) in model.values_mut(id).iter_mut().zip(gradients.get(id)).zip(moments) {
                *value *= keep;
                *m += lerp * (gradient - *m);
                *v = *v * beta2 + new * gradient * gradient;
                *value -= step_size * (*m / (v.sqrt() / bias2 + eps));
            }
        }
        model.values_changed()
    }
}
