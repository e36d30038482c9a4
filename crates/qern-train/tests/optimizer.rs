//! AdamW, clipping, the schedule and LoRA+ against PyTorch: `reference/optimizer.py`.

use std::path::Path;

use qern_train::Result;
use qern_train::optim::{AdamW, AdamWSettings, Decay, Schedule, clip};
use qern_train::trainable::{Gradients, Losses, Parameter, ParameterId, ParameterKind, TrainBatch, Trainable, Which};
use serde_json::Value;

/// Values and nothing else.
struct Values(Vec<Parameter>, Vec<Vec<f32>>);

impl Trainable for Values {
    fn parameters(&self) -> &[Parameter] {
        &self.0
    }
    fn values(&self, id: ParameterId) -> &[f32] {
        &self.1[id]
    }
    fn values_mut(&mut self, id: ParameterId) -> &mut [f32] {
        &mut self.1[id]
    }
    fn values_changed(&mut self) -> Result<()> {
        Ok(())
    }
    fn accumulate(&mut self, _: &TrainBatch, _: &mut Gradients) -> Result<Losses> {
        unreachable!("gradients are given")
    }
    fn losses(&mut self, _: &TrainBatch, _: Which) -> Result<Losses> {
        unreachable!("gradients are given")
    }
    fn memory_bytes(&self) -> usize {
        0
    }
}

#[test]
fn twenty_steps_agree_with_pytorch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../reference/goldens/training/optimizer.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let parameter = |name: &str, len, kind| Parameter { name: name.into(), shape: vec![len], kind };
    let parameters = vec![parameter("a", 6, ParameterKind::LoraA), parameter("b", 4, ParameterKind::LoraB)];
    let a = (0..6).map(|i| (0.5 - 0.1 * f64::from(i)) as f32).collect();
    let mut values = Values(parameters, vec![a, vec![0.0; 4]]);
    let settings = AdamWSettings { beta2: 0.99, weight_decay: 0.05, lora_plus: 16.0, ..AdamWSettings::default() };
    let mut optimizer = AdamW::new(settings, &values);
    let schedule = Schedule { peak: 1e-2, warmup_steps: 3, total_steps: 20, decay: Decay::Cosine };
    for step in 0..20u64 {
        let expected = &golden["steps"][step as usize];
        let scale = if step % 5 == 0 { 4.0 } else { 1.0 };
        let gradient = |i: usize| ((1.7 * step as f64 + 0.9 * i as f64).sin() * scale) as f32;
        let mut gradients = Gradients::zeros(values.parameters());
        gradients.get_mut(0).iter_mut().enumerate().for_each(|(i, g)| *g = gradient(i));
        gradients.get_mut(1).iter_mut().enumerate().for_each(|(i, g)| *g = gradient(6 + i));
        let norm = clip(&mut gradients, Some(2.0));
        let rate = schedule.rate(step);
        optimizer.step(&mut values, &gradients, rate).unwrap();
        let close = |given: f64, expected: &Value, what: &str| {
            let expected = expected.as_f64().unwrap();
            // A few roundings of f32 in each step.
            assert!((given - expected).abs() <= 1e-6 * expected.abs().max(0.1), "step {step}, {what}: {given}, torch {expected}");
        };
        close(norm, &expected["norm"], "norm");
        close(rate, &expected["rate"], "rate");
        for (id, name) in [(0, "a"), (1, "b")] {
            for (i, &value) in values.values(id).iter().enumerate() {
                close(value.into(), &expected[name][i], &format!("{name}[{i}]"));
            }
        }
    }
    assert_eq!(optimizer.num_steps(), 20);
}
