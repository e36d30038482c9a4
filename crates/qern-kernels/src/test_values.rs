//! Seeded values for the tests of this crate.

/// `len` values spread evenly over `-limit..limit`; the same for the same seed on every machine (splitmix64).
pub(crate) fn uniform(seed: u64, len: usize, limit: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..len).map(|_| ((next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * limit).collect()
}
