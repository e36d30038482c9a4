//! The whole chain against a naive implementation of its definition, on random rows and random settings.

use std::borrow::Cow;

use proptest::prelude::*;

use super::*;

struct NoText;

impl TokenText for NoText {
    fn token_bytes(&self, _: TokenId) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(b"x"))
    }
    fn is_special(&self, _: TokenId) -> bool {
        false
    }
    fn eos_ids(&self) -> &[TokenId] {
        &[]
    }
}

fn context(tokens: &[TokenId]) -> SamplerContext<'_> {
    SamplerContext { tokens, num_prompt: 0, forbidden: &[], legal: None, text: &NoText }
}

fn sample_at(params: SamplingParams, logits: &[f32], seed: u64) -> TokenId {
    let mut sampler = Sampler::new(params.validate(logits.len()).unwrap(), seed, 0);
    sampler.sample(logits, context(&[]), &mut SamplerScratch::default()).unwrap()
}

/// The distribution that the settings define: every step over the whole sorted vocabulary, as the papers state it.
fn naive(params: &SamplingParams, logits: &[f32], xtc_happens: bool) -> Vec<(TokenId, f64)> {
    let mut list: Vec<(TokenId, f64)> = logits.iter().enumerate().map(|(id, &l)| (id as u32, f64::from(l))).collect();
    list.retain(|&(_, l)| l > f64::NEG_INFINITY);
    list.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
    let softmax = |list: &[(TokenId, f64)], temperature: f64| {
        let weights: Vec<f64> = list.iter().map(|&(_, l)| ((l - list[0].1) / temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / total).collect::<Vec<f64>>()
    };
    let entropy = |p: &[f64]| -p.iter().map(|&p| if p > 0.0 { p * p.ln() } else { 0.0 }).sum::<f64>();
    if params.top_k > 0 {
        list.truncate(params.top_k);
    }
    if params.typical_p < 1.0 {
        let p = softmax(&list, 1.0);
        let mut order: Vec<usize> = (0..list.len()).collect();
        order.sort_by(|&a, &b| {
            ((-p[a].ln() - entropy(&p)).abs()).partial_cmp(&(-p[b].ln() - entropy(&p)).abs()).unwrap().then(a.cmp(&b))
        });
        let (mut mass, mut kept) = (0.0, vec![]);
        for i in order {
            kept.push(i);
            mass += p[i];
            if mass > f64::from(params.typical_p) {
                break;
            }
        }
        kept.sort();
        list = kept.into_iter().map(|i| list[i]).collect();
    }
    if params.top_p < 1.0 {
        let p = softmax(&list, 1.0);
        let (mut mass, mut count) = (0.0, 0);
        while count < list.len() && (count == 0 || mass < f64::from(params.top_p)) {
            mass += p[count];
            count += 1;
        }
        list.truncate(count);
    }
    if params.min_p > 0.0 {
        let p = softmax(&list, 1.0);
        let count = p.iter().filter(|&&q| q >= p[0] * f64::from(params.min_p)).count();
        list.truncate(count);
    }
    if xtc_happens && params.xtc_threshold <= 0.5 {
        let above = softmax(&list, 1.0).iter().filter(|&&q| q >= f64::from(params.xtc_threshold)).count();
        list.drain(..above.saturating_sub(1));
    }
    let mut temperature = f64::from(params.temperature);
    if params.dynatemp_range > 0.0 && list.len() > 1 {
        let normal = entropy(&softmax(&list, 1.0)) / (list.len() as f64).ln();
        let range = f64::from(params.dynatemp_range);
        let low = (temperature - range).max(0.0);
        temperature = low + (temperature + range - low) * normal.powf(f64::from(params.dynatemp_exponent));
    }
    if temperature == 0.0 {
        return vec![(list[0].0, 1.0)];
    }
    list.iter().map(|&(id, _)| id).zip(softmax(&list, temperature)).collect()
}

/// Rows whose logits are distinct and far enough apart that rounding cannot reorder them.
fn row() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(prop_oneof![9 => -300..300i32, 1 => Just(i32::MIN)], 1..80).prop_map(|row| {
        let spread = |(i, x): (usize, i32)| if x == i32::MIN { f32::NEG_INFINITY } else { x as f32 / 50.0 + i as f32 * 1e-4 };
        let mut row: Vec<f32> = row.into_iter().enumerate().map(spread).collect();
        row[0] = row[0].max(-5.0);
        row
    })
}

fn settings() -> impl Strategy<Value = SamplingParams> {
    let fraction = |off: f32| prop_oneof![2 => Just(off), 3 => 0.01..0.99f32];
    (
        prop_oneof![1 => Just(0.0f32), 4 => 0.2..3.0f32],
        prop_oneof![Just(0usize), 1..20usize],
        (fraction(1.0), fraction(0.0), fraction(1.0)),
        (prop_oneof![2 => Just(0.0f32), 1 => Just(1.0f32)], 0.01..0.6f32),
        (prop_oneof![2 => Just(0.0f32), 1 => 0.1..1.0f32], 0.3..3.0f32),
    )
        .prop_map(|(temperature, top_k, (top_p, min_p, typical_p), (xtc, xtc_threshold), (range, exponent))| {
            SamplingParams {
                temperature,
                top_k,
                top_p,
                min_p,
                typical_p,
                xtc_probability: xtc,
                xtc_threshold,
                dynatemp_range: range,
                dynatemp_exponent: exponent,
                ..SamplingParams::default()
            }
        })
}

/// The token that the definition gives for the sampler's own uniform number.
fn expected(params: &SamplingParams, logits: &[f32], seed: u64) -> (Vec<TokenId>, TokenId) {
    let distribution = naive(params, logits, params.xtc_probability > 0.0);
    let mut draws = RandomStream::new(seed, 0).at(0);
    if uses_xtc(params) {
        draws.uniform();
    }
    let uniform = draws.uniform();
    // `row::draw` walks the row by id, the chain by probability: both are inverse transforms of the same distribution.
    let mut walk = distribution.clone();
    if is_untruncated(params) {
        walk.sort_by_key(|&(id, _)| id);
    }
    let (mut below, mut near) = (0.0, vec![]);
    for &(id, p) in &walk {
        if uniform >= below - 1e-5 && uniform < below + p + 1e-5 {
            near.push(id);
        }
        below += p;
    }
    (near, distribution[0].0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_chain_equals_its_naive_definition(logits in row(), params in settings(), seed in any::<u64>()) {
        let (near, best) = expected(&params, &logits, seed);
        let token = sample_at(params.clone(), &logits, seed);
        if params.temperature == 0.0 && params.dynatemp_range == 0.0 {
            prop_assert_eq!(token, best);
        } else {
            prop_assert!(near.contains(&token), "sampled {}, the definition gives one of {:?}", token, near);
        }
    }
}

#[test]
fn frequencies_over_many_draws_match_the_distribution() {
    let logits = [2.0, 1.0, 0.5, 0.0, -1.0, -3.0];
    let params = SamplingParams { temperature: 0.8, top_k: 5, top_p: 0.95, min_p: 0.05, ..SamplingParams::default() };
    let distribution = naive(&params, &logits, false);
    let mut sampler = Sampler::new(params.validate(6).unwrap(), 7, 0);
    let mut counts = [0u32; 6];
    let tokens = vec![0; 20_000];
    for position in 0..tokens.len() {
        let token = sampler.sample(&logits, context(&tokens[..position]), &mut SamplerScratch::default()).unwrap();
        counts[token as usize] += 1;
    }
    for (id, p) in distribution {
        let share = f64::from(counts[id as usize]) / tokens.len() as f64;
        // Five standard deviations of a share over 20,000 draws are at most 0.018.
        assert!((share - p).abs() < 0.018, "token {id}: share {share}, probability {p}");
    }
}

#[test]
fn xtc_happens_with_its_probability() {
    let logits = [3.0, 2.9, -20.0];
    let params = SamplingParams { xtc_probability: 0.3, temperature: 0.01, top_k: 3, ..SamplingParams::default() };
    let mut sampler = Sampler::new(params.validate(3).unwrap(), 7, 0);
    let tokens = vec![0; 5000];
    let excluded = (0..tokens.len())
        .filter(|&position| sampler.sample(&logits, context(&tokens[..position]), &mut SamplerScratch::default()).unwrap() == 1)
        .count();
    assert!((1350..1650).contains(&excluded), "{excluded} of 5000, 1500 expected");
}

#[test]
fn mirostat_equals_its_naive_definition_over_a_text() {
    let params =
        SamplingParams { mirostat: 2, mirostat_tau: 2.0, mirostat_eta: 0.3, temperature: 0.9, ..SamplingParams::default() };
    let mut sampler = Sampler::new(params.validate(50).unwrap(), 3, 0);
    let stream = RandomStream::new(3, 0);
    let (mut mu, mut tokens) = (4.0f64, Vec::new());
    for step in 0..200u32 {
        let logits: Vec<f32> = (0..50u32).map(|id| (id * 37 + step * 11) as f32 % 53.0 / 8.0 + id as f32 * 1e-3).collect();
        let mut list: Vec<(u32, f64)> = logits.iter().enumerate().map(|(id, &l)| (id as u32, f64::from(l) / 0.9)).collect();
        list.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap());
        let total: f64 = list.iter().map(|&(_, l)| l.exp()).sum();
        let keep = list.iter().take_while(|&&(_, l)| -(l.exp() / total).log2() <= mu).count().max(1);
        list.truncate(keep);
        let total: f64 = list.iter().map(|&(_, l)| l.exp()).sum();
        let mut target = stream.at(tokens.len()).uniform();
        let chosen = list.iter().position(|&(_, l)| {
            target -= l.exp() / total;
            target < 0.0
        });
        let (id, l) = list[chosen.unwrap()];
        mu -= 0.3 * (-(l.exp() / total).log2() - 2.0);
        let token = sampler.sample(&logits, context(&tokens), &mut SamplerScratch::default()).unwrap();
        assert_eq!(token, id, "step {step}");
        tokens.push(token);
    }
}

#[test]
fn bias_and_forbidden_tokens_change_the_choice() {
    let logits = [1.0, 5.0, 4.0, 3.0];
    let greedy = |bias: &[(u32, f32)], forbidden: &[u32]| {
        let params = SamplingParams { logit_bias: bias.iter().copied().collect(), ..SamplingParams::greedy() };
        let mut sampler = Sampler::new(params.validate(4).unwrap(), 0, 0);
        sampler
            .sample(&logits, SamplerContext { forbidden, ..context(&[]) }, &mut SamplerScratch::default())
            .map_err(|e| e.to_string())
    };
    assert_eq!(greedy(&[], &[]), Ok(1));
    assert_eq!(greedy(&[(1, -100.0)], &[]), Ok(2));
    assert_eq!(greedy(&[(0, 4.5)], &[]), Ok(0));
    assert_eq!(greedy(&[], &[1, 2]), Ok(3));
    assert_eq!(
        greedy(&[(0, -100.0)], &[1, 2, 3]).unwrap_err(),
        "no token can be sampled at position 0: every logit is -inf; loosen `logit_bias` or `min_tokens`"
    );
}

#[test]
fn broken_logits_are_named() {
    for params in [SamplingParams::greedy(), SamplingParams::default(), SamplingParams { top_k: 2, ..SamplingParams::default() }]
    {
        let mut sampler = Sampler::new(params.validate(3).unwrap(), 0, 0);
        let error = sampler.sample(&[0.0, f32::NAN, 0.0], context(&[5, 5]), &mut SamplerScratch::default()).unwrap_err();
        assert_eq!(error.to_string(), "the logit of token 1 at position 2 is NaN; the weights or the computation are broken");
    }
}

#[test]
fn all_logits_equal_takes_the_lowest_id_when_greedy_and_any_when_not() {
    assert_eq!(sample_at(SamplingParams::greedy(), &[0.5; 1000], 1), 0);
    let tokens: std::collections::BTreeSet<u32> =
        (0..50).map(|seed| sample_at(SamplingParams::default(), &[0.5; 1000], seed)).collect();
    assert!(tokens.len() > 40);
}

#[test]
fn top_p_over_a_wide_flat_row_equals_its_naive_definition() {
    // Far more than the few hundred candidates that are tried first.
    let logits: Vec<f32> = (0..3000).map(|id| ((id * 7919) % 3001) as f32 / 1500.0).collect();
    for (seed, top_p) in [(1, 0.5), (2, 0.9), (3, 0.99), (4, 0.05)] {
        let params = SamplingParams { top_p, min_p: 0.01, ..SamplingParams::default() };
        let (near, _) = expected(&params, &logits, seed);
        assert!(near.contains(&sample_at(params, &logits, seed)), "top-p {top_p}");
    }
}
