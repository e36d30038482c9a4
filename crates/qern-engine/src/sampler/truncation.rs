//! Filters that keep some of the candidates: top-p, min-p, typical-p, XTC; and the dynamic temperature, which looks at them all.
//! Takes and leaves candidates best first; never empties the list. Draws nothing.

use super::row::Candidate;

/// Probabilities of the candidates among themselves, in their order (softmax).
pub(crate) fn probabilities(candidates: &[Candidate], out: &mut Vec<f64>) {
    out.clear();
    let Some(best) = candidates.first() else { return };
    out.extend(candidates.iter().map(|candidate| (f64::from(candidate.logit) - f64::from(best.logit)).exp()));
    let total: f64 = out.iter().sum();
    out.iter_mut().for_each(|probability| *probability /= total);
}

/// Nucleus sampling (Holtzman et al. 2020): the smallest best-first set whose probability reaches `p`.
pub(crate) fn top_p(candidates: &mut Vec<Candidate>, p: f32, scratch: &mut Vec<f64>) {
    if p >= 1.0 {
        return;
    }
    probabilities(candidates, scratch);
    if let Some(keep) = reaching(scratch, f64::from(p)) {
        candidates.truncate(keep);
    }
}

/// How many of the first probabilities reach `p`, at least one; `None` if all together do not.
pub(crate) fn reaching(probabilities: &[f64], p: f64) -> Option<usize> {
    let mut sum = 0.0;
    let last = probabilities.iter().position(|&probability| {
        sum += probability;
        sum >= p
    });
    last.map(|last| last + 1)
}

/// Min-p (Nguyen et al. 2024): at least `p` times as probable as the best.
pub(crate) fn min_p(candidates: &mut Vec<Candidate>, p: f32) {
    if let (Some(best), true) = (candidates.first(), p > 0.0) {
        let threshold = min_p_threshold(best.logit, p);
        let keep = candidates.partition_point(|candidate| candidate.logit >= threshold);
        candidates.truncate(keep.max(1));
    }
}

/// The smallest logit that min-p keeps.
pub(crate) fn min_p_threshold(best: f32, p: f32) -> f32 {
    best + p.ln()
}

/// Locally typical sampling (Meister et al. 2022): those whose surprise is nearest the entropy, until their mass exceeds `p`.
pub(crate) fn typical_p(candidates: &mut Vec<Candidate>, p: f32, scratch: &mut Vec<f64>) {
    if p >= 1.0 {
        return;
    }
    probabilities(candidates, scratch);
    let entropy = entropy(scratch);
    let mut by_distance: Vec<(f64, usize)> =
        scratch.iter().enumerate().map(|(i, &probability)| ((-probability.ln() - entropy).abs(), i)).collect();
    by_distance.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut sum = 0.0;
    let last = by_distance.iter().position(|&(_, i)| {
        sum += scratch[i];
        sum > f64::from(p)
    });
    by_distance.truncate(last.map_or(by_distance.len(), |last| last + 1));
    let mut kept: Vec<usize> = by_distance.into_iter().map(|(_, i)| i).collect();
    kept.sort_unstable();
    for (to, from) in kept.iter().copied().enumerate() {
        candidates[to] = candidates[from];
    }
    candidates.truncate(kept.len());
}

/// XTC, "exclude top choices" (p-e-w, text-generation-webui pull request 6335): of the candidates at least `threshold` probable,
/// all but the least probable go. The caller has drawn that it happens.
pub(crate) fn xtc(candidates: &mut Vec<Candidate>, threshold: f32, scratch: &mut Vec<f64>) {
    probabilities(candidates, scratch);
    let num_above = scratch.iter().take_while(|&&probability| probability >= f64::from(threshold)).count();
    candidates.drain(..num_above.saturating_sub(1));
}

/// Dynamic temperature (llama.cpp's `temp_ext`): `low + (high - low) * (entropy / ln count) ^ exponent`, where low and high are
/// the temperature minus (not below 0) and plus the range.
pub(crate) fn dynamic_temperature(
    candidates: &[Candidate],
    temperature: f32,
    range: f32,
    exponent: f32,
    scratch: &mut Vec<f64>,
) -> f32 {
    if range == 0.0 || candidates.len() < 2 {
        return temperature;
    }
    probabilities(candidates, scratch);
    let normalised = (entropy(scratch) / (candidates.len() as f64).ln()).min(1.0);
    let (low, high) = (f64::from((temperature - range).max(0.0)), f64::from(temperature + range));
    (low + (high - low) * normalised.powf(f64::from(exponent))) as f32
}

fn entropy(probabilities: &[f64]) -> f64 {
    -probabilities.iter().filter(|&&p| p > 0.0).map(|&p| p * p.ln()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Candidates with these probabilities, best first.
    fn of(probabilities: &[f32]) -> Vec<Candidate> {
        probabilities.iter().enumerate().map(|(id, p)| Candidate { id: id as u32, logit: p.ln() + 3.0 }).collect()
    }

    fn check(filter: impl FnOnce(&mut Vec<Candidate>, &mut Vec<f64>), probabilities: &[f32], kept: &[u32]) {
        let mut candidates = of(probabilities);
        filter(&mut candidates, &mut Vec::new());
        assert_eq!(candidates.iter().map(|candidate| candidate.id).collect::<Vec<_>>(), kept);
    }

    const P: [f32; 4] = [0.5, 0.3, 0.15, 0.05];

    #[test]
    fn top_p_keeps_the_smallest_set_that_reaches_it() {
        check(|c, s| top_p(c, 0.0, s), &P, &[0]);
        check(|c, s| top_p(c, 0.49, s), &P, &[0]);
        check(|c, s| top_p(c, 0.51, s), &P, &[0, 1]);
        check(|c, s| top_p(c, 0.79, s), &P, &[0, 1]);
        check(|c, s| top_p(c, 0.81, s), &P, &[0, 1, 2]);
        check(|c, s| top_p(c, 1.0, s), &P, &[0, 1, 2, 3]);
    }

    #[test]
    fn min_p_is_relative_to_the_best() {
        check(|c, _| min_p(c, 0.0), &P, &[0, 1, 2, 3]);
        check(|c, _| min_p(c, 0.09), &P, &[0, 1, 2, 3]);
        check(|c, _| min_p(c, 0.11), &P, &[0, 1, 2]);
        check(|c, _| min_p(c, 0.31), &P, &[0, 1]);
        check(|c, _| min_p(c, 1.0), &P, &[0]);
    }

    #[test]
    fn typical_p_prefers_the_surprise_nearest_the_entropy() {
        // Entropy 1.142 nats; surprises 0.693, 1.204, 1.897, 2.996; distances 0.449, 0.062, 0.755, 1.854.
        check(|c, s| typical_p(c, 0.2, s), &P, &[1]);
        check(|c, s| typical_p(c, 0.31, s), &P, &[0, 1]);
        check(|c, s| typical_p(c, 0.81, s), &P, &[0, 1, 2]);
        check(|c, s| typical_p(c, 1.0, s), &P, &[0, 1, 2, 3]);
        // A likely token far from typical is dropped: entropy 0.69, surprises 0.163 and 2.996 each.
        check(|c, s| typical_p(c, 0.05, s), &[0.85, 0.05, 0.05, 0.05], &[0]);
    }

    #[test]
    fn xtc_leaves_the_least_probable_of_the_top_choices() {
        check(|c, s| xtc(c, 0.1, s), &P, &[2, 3]);
        check(|c, s| xtc(c, 0.2, s), &P, &[1, 2, 3]);
        check(|c, s| xtc(c, 0.4, s), &P, &[0, 1, 2, 3]);
        check(|c, s| xtc(c, 0.01, s), &P, &[3]);
    }

    #[test]
    fn dynamic_temperature_follows_the_entropy() {
        let at = |probabilities: &[f32], exponent| dynamic_temperature(&of(probabilities), 1.0, 0.5, exponent, &mut Vec::new());
        assert!((at(&[0.25; 4], 1.0) - 1.5).abs() < 1e-6);
        // Entropy of P is 1.1421 of ln 4 = 1.3863: 0.5 + 0.82386.
        assert!((at(&P, 1.0) - 1.323_86).abs() < 1e-4);
        assert!((at(&P, 2.0) - (0.5 + 0.82386f32.powi(2))).abs() < 1e-4);
        assert_eq!(at(&[1.0], 1.0), 1.0);
        assert!((at(&[0.999_999, 0.000_001], 1.0) - 0.5).abs() < 1e-3);
    }
}
