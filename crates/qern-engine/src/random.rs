//! Random streams that belong to sequences, never to the engine: a draw depends on the request's seed, on which of its answers it
//! is for, on the position of the token and on nothing else. So text does not depend on batch mates, chunking or preemption.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::hash::{BuildHasher, Hasher, RandomState};

/// The random stream of one answer.
#[derive(Clone, Debug)]
pub(crate) struct RandomStream {
    key: [u8; 32],
}

/// The draws for the token at one position.
pub(crate) struct Draws {
    generator: ChaCha8Rng,
}

impl RandomStream {
    /// The stream of answer `index` of a request with this seed.
    pub(crate) fn new(seed: u64, index: usize) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&(index as u64).to_le_bytes());
        // Any other use of ChaCha with the same seed must not share our key.
        key[16..].copy_from_slice(b"qern token draws");
        Self { key }
    }

    /// The draws for the token at `position`: the key is the answer's, the stream number (nonce) is the position.
    pub(crate) fn at(&self, position: usize) -> Draws {
        let mut generator = ChaCha8Rng::from_seed(self.key);
        generator.set_stream(position as u64);
        Draws { generator }
    }
}

impl Draws {
    /// Uniform in [0, 1), 53 bits.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.generator.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// A seed that nobody can predict, for requests that name none.
pub(crate) fn fresh_seed() -> u64 {
    // 53 bits, so that a seed survives a trip through JSON.
    RandomState::new().build_hasher().finish() >> 11
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(seed: u64, index: usize, position: usize) -> f64 {
        RandomStream::new(seed, index).at(position).uniform()
    }

    #[test]
    fn a_draw_depends_on_seed_index_and_position_alone() {
        assert_eq!(first(1, 2, 3), first(1, 2, 3));
        let others = [first(2, 2, 3), first(1, 3, 3), first(1, 2, 4)];
        assert!(others.iter().all(|&other| other != first(1, 2, 3)));
        let stream = RandomStream::new(1, 2);
        _ = stream.at(7).uniform();
        assert_eq!(stream.at(3).uniform(), first(1, 2, 3));
    }

    #[test]
    fn draws_are_uniform_over_positions() {
        let stream = RandomStream::new(42, 0);
        let draws: Vec<f64> = (0..10_000).map(|position| stream.at(position).uniform()).collect();
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        for bin in 0..10 {
            let count = draws.iter().filter(|&&draw| (draw * 10.0) as usize == bin).count();
            // 1,000 expected, standard deviation 30.
            assert!((850..1150).contains(&count), "bin {bin} has {count} of 10,000");
        }
    }

    #[test]
    fn draws_never_change_between_releases() {
        // Committed text depends on these numbers: the same seed must give the same text with the next version.
        let mut draws = RandomStream::new(42, 1).at(100);
        assert_eq!([draws.uniform(), draws.uniform()], [0.7025744364731253, 0.6747560469269718]);
    }

    #[test]
    fn fresh_seeds_differ() {
        assert_ne!(fresh_seed(), fresh_seed());
    }
}
