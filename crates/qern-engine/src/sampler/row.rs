//! Passes over one row of logits, a value for each token of the vocabulary. Written in lanes so that the compiler vectorises
//! them; the order of every sum is fixed. No sampling policy, no randomness.

use crate::TokenId;

const LANES: usize = 16;
/// Elements per block of a pass: small enough to search again for free, large enough to amortise the end of a block.
const BLOCK: usize = 1024;

/// A token and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) id: TokenId,
    pub(crate) logit: f32,
}

impl Candidate {
    /// Best first; of equals the lower id first.
    pub(crate) fn order(&self, other: &Self) -> std::cmp::Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// Why no token can be taken from a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RowError {
    /// NaN or +inf at this token.
    Bad { token: TokenId, value: f32 },
    /// Every logit is -inf (or there are none).
    Empty,
}

/// The largest logit, of equals the lowest id. Fails on NaN, +inf, and rows without any finite logit.
pub(crate) fn best(row: &[f32]) -> Result<Candidate, RowError> {
    let (mut top, mut top_block) = (f32::NEG_INFINITY, 0);
    for (block_id, block) in row.chunks(BLOCK).enumerate() {
        let (max, has_nan) = block_max(block);
        if has_nan {
            return Err(bad(row));
        }
        if max > top {
            (top, top_block) = (max, block_id);
        }
    }
    if top == f32::INFINITY {
        return Err(bad(row));
    }
    let start = top_block * BLOCK;
    let offset = row.iter().skip(start).position(|&logit| logit == top && top > f32::NEG_INFINITY);
    offset.map(|offset| Candidate { id: (start + offset) as TokenId, logit: top }).ok_or(RowError::Empty)
}

fn bad(row: &[f32]) -> RowError {
    let is_bad = |logit: &f32| logit.is_nan() || *logit == f32::INFINITY;
    match row.iter().position(is_bad) {
        Some(token) => RowError::Bad { token: token as TokenId, value: row[token] },
        None => RowError::Empty,
    }
}

/// Largest value (NaN ignored), and whether there is a NaN.
fn block_max(block: &[f32]) -> (f32, bool) {
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut nan = [0u32; LANES];
    let chunks = block.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for lane in 0..LANES {
            // Not `f32::max`: this form is one instruction.
            max[lane] = if chunk[lane] > max[lane] { chunk[lane] } else { max[lane] };
            nan[lane] |= u32::from(chunk[lane].is_nan());
        }
    }
    for (lane, &logit) in tail.iter().enumerate() {
        max[lane] = if logit > max[lane] { logit } else { max[lane] };
        nan[lane] |= u32::from(logit.is_nan());
    }
    (max.into_iter().fold(f32::NEG_INFINITY, f32::max), nan.into_iter().any(|flag| flag != 0))
}

/// The `k` largest logits above -inf, best first, into `out`. The row has no NaN (`best` has seen it).
pub(crate) fn top_k(row: &[f32], k: usize, out: &mut Vec<Candidate>) {
    out.clear();
    let capacity = 2 * k.max(32);
    // Once `k` candidates are kept only larger ones matter: an equal one has a higher id.
    let mut threshold = f32::NEG_INFINITY;
    const STEP: usize = 128;
    for (step, chunk) in row.chunks(STEP).enumerate() {
        if block_max(chunk).0 <= threshold {
            continue;
        }
        for (offset, &logit) in chunk.iter().enumerate() {
            if logit > threshold {
                out.push(Candidate { id: (step * STEP + offset) as TokenId, logit });
            }
        }
        if out.len() >= capacity {
            keep_best(out, k);
            threshold = out[k - 1].logit;
        }
    }
    keep_best(out, k);
    out.sort_unstable_by(Candidate::order);
}

/// Keeps the `k` best, the `k`-th of them in the last place.
fn keep_best(candidates: &mut Vec<Candidate>, k: usize) {
    if candidates.len() > k {
        candidates.select_nth_unstable_by(k - 1, Candidate::order);
        candidates.truncate(k);
    }
}

/// All logits of at least `threshold` and above -inf, best first, into `out`.
pub(crate) fn at_least(row: &[f32], threshold: f32, out: &mut Vec<Candidate>) {
    out.clear();
    const STEP: usize = 128;
    for (step, chunk) in row.chunks(STEP).enumerate() {
        if block_max(chunk).0 < threshold {
            continue;
        }
        let kept = chunk.iter().enumerate().filter(|&(_, &logit)| logit >= threshold && logit > f32::NEG_INFINITY);
        out.extend(kept.map(|(offset, &logit)| Candidate { id: (step * STEP + offset) as TokenId, logit }));
    }
    out.sort_unstable_by(Candidate::order);
}

/// Sum of `exp((logit - max) / temperature)`, where `max` is the row's largest. At temperature 1 its logarithm plus `max` is
/// log-sum-exp.
pub(crate) fn sum_exp(row: &[f32], max: f32, temperature: f32) -> f64 {
    row.chunks(BLOCK).map(|block| block_sum_exp(block, max, 1.0 / temperature)).sum()
}

/// A logit such that those of at least it have together a mass (sum of `exp(logit - max)`) of at least `mass`, and little more.
pub(crate) fn mass_threshold(row: &[f32], max: f32, mass: f64, bins: &mut Vec<f64>) -> f32 {
    const BINS_PER_NAT: f32 = 16.0;
    bins.clear();
    bins.resize((88.0 * BINS_PER_NAT) as usize, 0.0);
    for &logit in row {
        if let Some(bin) = bins.get_mut(((max - logit) * BINS_PER_NAT) as usize) {
            *bin += f64::from(exp_nonpositive(logit - max));
        }
    }
    let mut sum = 0.0;
    let last = bins.iter().position(|bin| {
        sum += bin;
        sum >= mass
    });
    // The slack covers the rounding of the division into bins.
    last.map_or(f32::NEG_INFINITY, |last| max - (last + 1) as f32 / BINS_PER_NAT - 1e-3)
}

/// Draws from the softmax of the whole row at a temperature, without copying it. `uniform` is in [0, 1).
pub(crate) fn draw(row: &[f32], max: f32, temperature: f32, uniform: f64, sums: &mut Vec<f64>) -> TokenId {
    let scale = 1.0 / temperature;
    sums.clear();
    sums.extend(row.chunks(BLOCK).map(|block| block_sum_exp(block, max, scale)));
    let mut target = uniform * sums.iter().sum::<f64>();
    let mut last_possible = 0;
    for (block_id, block) in row.chunks(BLOCK).enumerate() {
        if target >= sums[block_id] {
            target -= sums[block_id];
            continue;
        }
        for (offset, &logit) in block.iter().enumerate() {
            let weight = f64::from(exp_nonpositive((logit - max) * scale));
            if weight > 0.0 {
                last_possible = block_id * BLOCK + offset;
                if target < weight {
                    return last_possible as TokenId;
                }
                target -= weight;
            }
        }
        // Rounding has left a crumb of the target: it belongs to the block's last token.
        return last_possible as TokenId;
    }
    // The crumb is at the end of the row.
    row.iter().rposition(|&logit| exp_nonpositive((logit - max) * scale) > 0.0).unwrap_or(0) as TokenId
}

fn block_sum_exp(block: &[f32], max: f32, scale: f32) -> f64 {
    let mut sums = [0.0f32; LANES];
    let chunks = block.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += exp_nonpositive((chunk[lane] - max) * scale);
        }
    }
    for (lane, &logit) in tail.iter().enumerate() {
        sums[lane] += exp_nonpositive((logit - max) * scale);
    }
    sums.into_iter().map(f64::from).sum()
}

/// `exp(x)` for `x <= 0` within 2e-7 relative; exactly 0 below -87. Cephes' `expf` in a form without branches or table.
#[inline(always)]
#[expect(clippy::excessive_precision, reason = "the coefficients as Cephes prints them")]
fn exp_nonpositive(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer, which stands in the low bits.
    let clamped = if x > -87.0 { x } else { -87.0 };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = clamped - n * 0.693_359_375 - n * -2.121_944_40e-4;
    let mut poly = 1.987_569_150_0e-4;
    poly = poly * r + 1.398_199_950_7e-3;
    poly = poly * r + 8.333_451_907_3e-3;
    poly = poly * r + 4.166_579_589_4e-2;
    poly = poly * r + 1.666_666_545_9e-1;
    poly = poly * r + 5.000_000_120_1e-1;
    let value = poly * r * r + r + 1.0;
    let power = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x > -87.0 { value * power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INF: f32 = f32::INFINITY;

    #[test]
    fn the_best_of_equals_is_the_lowest_id() {
        assert_eq!(best(&[1.0, 3.0, 3.0]), Ok(Candidate { id: 1, logit: 3.0 }));
        let mut row = vec![0.0; 5000];
        (row[4099], row[2050], row[2049]) = (7.0, 7.0, 7.0);
        assert_eq!(best(&row), Ok(Candidate { id: 2049, logit: 7.0 }));
    }

    #[test]
    fn rows_without_a_best_say_why() {
        assert_eq!(best(&[-INF, -INF]), Err(RowError::Empty));
        assert_eq!(best(&[]), Err(RowError::Empty));
        assert_eq!(best(&[0.0, INF]), Err(RowError::Bad { token: 1, value: INF }));
        let mut row = vec![0.0; 5000];
        row[4999] = f32::NAN;
        assert!(matches!(best(&row), Err(RowError::Bad { token: 4999, value }) if value.is_nan()));
    }

    #[test]
    fn exp_is_within_its_bound() {
        for i in 0..=870_000 {
            let x = -(i as f32) * 1e-4;
            let (ours, exact) = (f64::from(exp_nonpositive(x)), f64::from(x).exp());
            assert!((ours - exact).abs() <= 2e-7 * exact || x <= -87.0, "exp({x}) = {ours}, exact {exact}");
        }
        assert_eq!((exp_nonpositive(0.0), exp_nonpositive(-INF), exp_nonpositive(-88.0)), (1.0, 0.0, 0.0));
    }

    #[test]
    fn a_draw_follows_the_softmax_and_never_takes_a_forbidden_token() {
        let row: Vec<f32> = (0..3000).map(|i| if i % 3 == 0 { -INF } else { (i % 7) as f32 }).collect();
        let weights: Vec<f64> = row.iter().map(|&logit| ((f64::from(logit) - 6.0) / 0.5).exp()).collect();
        let total: f64 = weights.iter().sum();
        for step in 0..1000 {
            let uniform = (f64::from(step) + 0.5) / 1000.0;
            let token = draw(&row, 6.0, 0.5, uniform, &mut Vec::new()) as usize;
            let below: f64 = weights[..token].iter().sum::<f64>() / total;
            let slack = 1e-6;
            assert!(below - slack <= uniform && uniform <= below + weights[token] / total + slack);
            assert!(weights[token] > 0.0);
        }
        assert_eq!(draw(&row, 6.0, 0.5, 1.0, &mut Vec::new()), 2999);
    }

    #[test]
    fn a_mass_threshold_keeps_enough_and_little_more() {
        let row: Vec<f32> = (0..5000).map(|i| ((i * 7919) % 5000) as f32 / 1000.0).collect();
        let mass = |threshold: f32| -> f64 {
            row.iter().filter(|&&logit| logit >= threshold).map(|&logit| f64::from(logit - 4.999).exp()).sum()
        };
        for share in [0.01, 0.5, 0.9, 0.999] {
            let wanted = share * mass(-INF);
            let kept = mass(mass_threshold(&row, 4.999, wanted, &mut Vec::new()));
            assert!(kept >= wanted && kept <= wanted + 0.08 * mass(-INF), "{share}: {kept} of {wanted}");
        }
        assert_eq!(mass_threshold(&row, 4.999, 1e9, &mut Vec::new()), -INF);
    }

    proptest! {
        #[test]
        fn selections_equal_sorting_everything(
            row in prop::collection::vec(prop_oneof![-3..3i8, -100..100i8], 1..700),
            k in 1..100usize,
            threshold in -4.0..4.0f32,
        ) {
            let row: Vec<f32> = row.into_iter().map(|x| if x == -100 { -INF } else { f32::from(x) / 2.0 }).collect();
            let mut sorted: Vec<Candidate> =
                row.iter().enumerate().map(|(id, &logit)| Candidate { id: id as u32, logit }).collect();
            sorted.retain(|candidate| candidate.logit > -INF);
            sorted.sort_by(|a, b| b.logit.partial_cmp(&a.logit).unwrap().then(a.id.cmp(&b.id)));
            let mut out = Vec::new();
            top_k(&row, k, &mut out);
            prop_assert_eq!(&out, &sorted[..k.min(sorted.len())]);
            at_least(&row, threshold, &mut out);
            let kept: Vec<Candidate> = sorted.iter().copied().filter(|candidate| candidate.logit >= threshold).collect();
            prop_assert_eq!(&out, &kept);
            prop_assert_eq!(best(&row).ok(), sorted.first().copied());
        }
    }
}
