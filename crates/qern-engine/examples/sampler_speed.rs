//! Times the sampler on one row of Qwen3's vocabulary: `cargo run --release -p qern-engine --example sampler_speed`.

use std::borrow::Cow;
use std::time::Instant;

use qern_engine::{Sampler, SamplerContext, SamplerScratch, SamplingParams, TokenId, TokenText};

const VOCAB: usize = 151_936;

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

fn main() {
    // Roughly normal logits: the sum of four uniform ones, spread like a trained model's.
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let logits: Vec<f32> = (0..VOCAB).map(|_| (uniform() + uniform() + uniform() + uniform()) * 5.0).collect();
    let tokens: Vec<TokenId> = (0..2000).map(|i| i * 31 % 5000).collect();
    let off = SamplingParams::default();
    let qwen = SamplingParams { temperature: 0.7, top_k: 20, top_p: 0.8, min_p: 0.01, ..off.clone() };
    time("greedy", SamplingParams::greedy(), &logits, &tokens);
    time("temperature 0.7, top-k 20, top-p 0.8, min-p", qwen.clone(), &logits, &tokens);
    time("the same, presence penalty", SamplingParams { presence_penalty: 1.0, ..qwen.clone() }, &logits, &tokens);
    time("the same, DRY", SamplingParams { dry_multiplier: 0.8, ..qwen }, &logits, &tokens);
    time("temperature 1 alone", off.clone(), &logits, &tokens);
    time("top-p 0.9 alone", SamplingParams { top_p: 0.9, ..off.clone() }, &logits, &tokens);
    time("top-k 1000", SamplingParams { top_k: 1000, ..off.clone() }, &logits, &tokens);
    time("mirostat 2", SamplingParams { mirostat: 2, ..off }, &logits, &tokens);
}

/// Prints the median of 201 samples.
fn time(name: &str, params: SamplingParams, logits: &[f32], tokens: &[TokenId]) {
    let mut sampler = Sampler::new(params.validate(VOCAB).expect("the settings above are valid"), 1, 0);
    let mut scratch = SamplerScratch::default();
    let mut times: Vec<f64> = (0..201)
        .map(|step| {
            let context =
                SamplerContext { tokens: &tokens[..1000 + step], num_prompt: 500, forbidden: &[], legal: None, text: &NoText };
            let start = Instant::now();
            sampler.sample(logits, context, &mut scratch).expect("the logits are finite");
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{name:<48}{:8.1} us", times[times.len() / 2]);
}
