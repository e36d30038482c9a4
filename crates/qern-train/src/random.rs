//! Random numbers by counter: a draw depends on the seed, on what it is for and on which one it is, and on nothing else. So a run
//! that is resumed at any step draws what the uninterrupted run would have drawn, without any generator's state in a checkpoint.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What random numbers are for. Streams of different purposes never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The first values of parameters; the counter is the parameter's index.
    Initial,
    /// The order of the examples; the counter is the epoch.
    Order,
    /// Which examples are held out.
    HeldOut,
    /// Which activations are dropped; see [`Dropout`](crate::trainable::Dropout).
    Dropout,
    /// Which examples the base is shown before a question; the counter is the question.
    Shots,
}

/// The draws of one purpose under one seed at one counter.
#[derive(Clone, Debug)]
pub struct Draws(ChaCha8Rng);

impl Draws {
    /// The draws for `purpose` at `counter`.
    pub fn new(seed: u64, purpose: Purpose, counter: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8] = purpose as u8;
        // Any other use of ChaCha with the same seed must not share our key.
        key[16..].copy_from_slice(b"qern train draws");
        let mut generator = ChaCha8Rng::from_seed(key);
        generator.set_stream(counter);
        Self(generator)
    }

    /// Uniform 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in [0, 1), 24 bits.
    pub fn uniform(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 * (1.0 / (1u32 << 24) as f32)
    }

    /// Uniform below `limit`, which must not be 0. Its bias is below 2^-32 for any limit that fits in memory.
    pub fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.0.next_u64()) * limit as u128) >> 64) as usize
    }

    /// Puts `items` in random order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// The first values of a LoRA A matrix `[rank, in_features]`: uniform within 1/sqrt(in_features), as PEFT draws them
/// (`kaiming_uniform_` with a = sqrt(5)).
pub fn fill_lora_a(values: &mut [f32], in_features: usize, seed: u64, parameter_id: usize) {
    let bound = 1.0 / (in_features as f32).sqrt();
    let mut draws = Draws::new(seed, Purpose::Initial, parameter_id as u64);
    for value in values {
        *value = (2.0 * draws.uniform() - 1.0) * bound;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_depends_on_seed_purpose_and_counter_alone() {
        let first = |seed, purpose, counter| Draws::new(seed, purpose, counter).bits();
        let one = first(1, Purpose::Order, 3);
        assert_eq!(one, first(1, Purpose::Order, 3));
        for other in [first(2, Purpose::Order, 3), first(1, Purpose::HeldOut, 3), first(1, Purpose::Order, 4)] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn draws_never_change_between_releases() {
        // A run that was begun by one release is resumed by the next.
        let mut items: Vec<u32> = (0..10).collect();
        Draws::new(42, Purpose::Order, 1).shuffle(&mut items);
        assert_eq!(items, [2, 1, 7, 0, 4, 5, 9, 6, 8, 3]);
    }

    #[test]
    fn every_order_is_about_as_likely() {
        let mut counts = std::collections::HashMap::new();
        for counter in 0..6000 {
            let mut items = [0, 1, 2];
            Draws::new(7, Purpose::Order, counter).shuffle(&mut items);
            *counts.entry(items).or_insert(0) += 1;
        }
        // 1,000 expected each, standard deviation 29.
        assert!(counts.len() == 6 && counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
