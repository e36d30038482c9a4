//! What every [`Trainable`] promises, held against the toy; the real model's tests are beside it.

mod toy;

use qern_train::trainable::{Dropout, Gradients, TrainBatch, Trainable, Which};
use toy::Toy;

fn batch() -> TrainBatch {
    let mut batch = TrainBatch { dropout: Some(Dropout { seed: 3, batch_id: 9 }), ..TrainBatch::default() };
    batch.push(&[1, 2, 3, 4, 2], &[0.0, 0.0, 1.0, 0.5, 1.0], 1);
    batch.push(&[7, 30, 7], &[1.0, 1.0, -1.0], 2);
    batch
}

/// A toy whose B is not zero, so that A has a gradient too.
fn toy() -> Toy {
    let mut toy = Toy::new(5).with_dropout(0.25);
    toy.values_mut(1).iter_mut().enumerate().for_each(|(i, value)| *value = 0.1 * (i % 7) as f32 - 0.2);
    toy.values_changed().unwrap();
    toy
}

#[test]
fn gradients_agree_with_finite_differences() {
    let (mut toy, batch) = (toy(), batch());
    let mut gradients = Gradients::zeros(toy.parameters());
    toy.accumulate(&batch, &mut gradients).unwrap();
    for id in 0..toy.parameters().len() {
        for index in 0..toy.values(id).len() {
            let mut at = |delta: f32| {
                toy.values_mut(id)[index] += delta;
                toy.values_changed().unwrap();
                let loss = toy.losses(&batch, Which::Adapted).unwrap().sum();
                toy.values_mut(id)[index] -= delta;
                loss
            };
            let numeric = (at(5e-3) - at(-5e-3)) / 1e-2;
            let given = f64::from(gradients.get(id)[index]);
            // Rounding of f32 losses over the step, and the step's own error.
            assert!((numeric - given).abs() < 2e-3, "parameter {id}[{index}]: {given}, numerically {numeric}");
        }
    }
}

#[test]
fn gradients_are_added_and_sequences_do_not_see_each_other() {
    let (mut toy, batch) = (toy(), TrainBatch { dropout: None, ..batch() });
    let mut together = Gradients::zeros(toy.parameters());
    let losses = toy.accumulate(&batch, &mut together).unwrap();
    let mut apart = Gradients::zeros(toy.parameters());
    for (id, (tokens, weights)) in batch.sequences().enumerate() {
        let mut alone = TrainBatch::default();
        alone.push(tokens, weights, 1);
        assert_eq!(toy.accumulate(&alone, &mut apart).unwrap().per_sequence, [losses.per_sequence[id]]);
    }
    assert_eq!(together, apart);
}

#[test]
fn the_base_alone_is_what_the_adapter_was_at_first() {
    let batch = TrainBatch { dropout: None, ..batch() };
    assert_eq!(Toy::new(1).losses(&batch, Which::Adapted).unwrap(), toy().losses(&batch, Which::Base).unwrap());
}
