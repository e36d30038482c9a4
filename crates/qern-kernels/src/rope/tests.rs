//! Rotation against the formula in f64, on every instruction set.

use super::*;
use crate::test_values::uniform;

fn params(head_dim: usize, num_dims: usize, layout: RopeLayout, scaling: RopeScaling) -> RopeParams {
    RopeParams { head_dim, num_dims, theta: 10_000.0, layout, scaling }
}

struct Case {
    rope: Rope,
    num_heads: usize,
    positions: Vec<usize>,
    norm: Option<Vec<f32>>,
}

fn check(case: &Case) {
    let Case { rope, num_heads, positions, norm } = case;
    let RopeParams { head_dim, num_dims, layout, .. } = *rope.params();
    let half = num_dims / 2;
    let (mut cos, mut sin) = (vec![0.0; positions.len() * half], vec![0.0; positions.len() * half]);
    for (i, &position) in positions.iter().enumerate() {
        rope.cos_sin(position, &mut cos[i * half..][..half], &mut sin[i * half..][..half]);
    }
    let heads = uniform(3, positions.len() * num_heads * head_dim, 2.0);
    let norm = norm.as_ref().map(|weight| HeadNorm { weight, eps: 1e-6 });

    let mut exact: Vec<f64> = heads.iter().map(|&x| f64::from(x)).collect();
    for (i, head) in exact.chunks_mut(head_dim).enumerate() {
        if let Some(norm) = norm {
            let mean = head.iter().map(|x| x * x).sum::<f64>() / head_dim as f64;
            head.iter_mut().zip(norm.weight).for_each(|(x, &w)| *x *= f64::from(w) / (mean + f64::from(norm.eps)).sqrt());
        }
        for pair in 0..half {
            let row = i / num_heads * half + pair;
            let (cos, sin) = (f64::from(cos[row]), f64::from(sin[row]));
            let (a, b) = match layout {
                RopeLayout::HalfSplit => (pair, pair + half),
                RopeLayout::Interleaved => (2 * pair, 2 * pair + 1),
            };
            (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
        }
    }

    let mut bits = None;
    for isa in Isa::available() {
        for num_threads in [1, 3] {
            let mut out = heads.clone();
            let rotation = Rotation { cos: &cos, sin: &sin, num_heads: *num_heads, norm };
            rope.apply_on(isa, &Pool::new(num_threads), &rotation, &mut out);
            for (&y, &exact) in out.iter().zip(&exact) {
                // Values are below 8 (2 x the weight's 2, or the norm of two such): a few roundings at that size.
                assert!((f64::from(y) - exact).abs() < 8.0 * 8.0 * f64::from(f32::EPSILON), "{isa}: {y} for {exact}");
            }
            let these: Vec<u32> = out.iter().map(|y| y.to_bits()).collect();
            assert_eq!(*bits.get_or_insert(these.clone()), these, "{isa} differs");
        }
    }
}

#[test]
fn heads_of_every_shape_rotate_as_the_formula_says_with_equal_bits_on_every_isa() {
    for layout in [RopeLayout::HalfSplit, RopeLayout::Interleaved] {
        for (head_dim, num_dims) in [(64, 64), (128, 128), (80, 80), (96, 24), (256, 64), (16, 2), (20, 18)] {
            for norm in [None, Some(uniform(5, head_dim, 2.0))] {
                let rope = Rope::new(params(head_dim, num_dims, layout, RopeScaling::None)).unwrap();
                check(&Case { rope, num_heads: 3, positions: vec![0, 1, 2, 77, 4095, 40_000], norm });
            }
        }
    }
}

#[test]
fn both_layouts_round_alike() {
    let rope = |layout| Rope::new(params(64, 64, layout, RopeScaling::None)).unwrap();
    let (mut cos, mut sin) = (vec![0.0; 32], vec![0.0; 32]);
    rope(RopeLayout::HalfSplit).cos_sin(1234, &mut cos, &mut sin);
    let rotation = Rotation { cos: &cos, sin: &sin, num_heads: 1, norm: None };
    let mut halves = uniform(1, 64, 1.0);
    let mut pairs: Vec<f32> = (0..64).map(|i| halves[i / 2 + i % 2 * 32]).collect();
    rope(RopeLayout::HalfSplit).apply(&Pool::new(1), &rotation, &mut halves);
    rope(RopeLayout::Interleaved).apply(&Pool::new(1), &rotation, &mut pairs);
    assert!((0..64).all(|i| pairs[i] == halves[i / 2 + i % 2 * 32]));
}

/// Angles at position 1 are the inverse frequencies themselves.
fn angles(scaling: RopeScaling, position: usize) -> Vec<f64> {
    let rope = Rope::new(params(16, 16, RopeLayout::HalfSplit, scaling)).unwrap();
    let (mut cos, mut sin) = (vec![0.0; 8], vec![0.0; 8]);
    rope.cos_sin(position, &mut cos, &mut sin);
    cos.iter().zip(&sin).map(|(&c, &s)| f64::from(s).atan2(f64::from(c))).collect()
}

fn close(given: &[f64], expect: &[f64]) {
    assert_eq!(given.len(), expect.len());
    for (a, b) in given.iter().zip(expect) {
        assert!((a - b).abs() <= 2e-7 * b.abs(), "{given:?} for {expect:?}");
    }
}

/// `10000^(-i/8)`.
fn plain() -> Vec<f64> {
    (0..8).map(|i| 10_000f64.powf(-f64::from(i) / 8.0)).collect()
}

#[test]
fn linear_scaling_and_factors_divide_the_frequencies() {
    close(&angles(RopeScaling::None, 1), &plain());
    close(&angles(RopeScaling::Linear { factor: 4.0 }, 1), &plain().iter().map(|f| f / 4.0).collect::<Vec<_>>());
    let factors = (1..=8).map(|i| i as f32).collect();
    let expect: Vec<f64> = plain().iter().enumerate().map(|(i, f)| f / (i + 1) as f64).collect();
    close(&angles(RopeScaling::Factors(factors), 1), &expect);
}

#[test]
fn llama3_scaling_divides_low_frequencies_and_blends_the_middle() {
    let scaling = RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_positions: 256 };
    let expect: Vec<f64> = plain()
        .into_iter()
        .map(|f| {
            let turns = 256.0 * f / (2.0 * std::f64::consts::PI);
            let smooth = ((turns - 1.0) / 3.0).clamp(0.0, 1.0);
            f * (smooth + (1.0 - smooth) / 8.0)
        })
        .collect();
    close(&angles(scaling, 1), &expect);
}

#[test]
fn yarn_interpolates_low_frequencies_and_scales_attention() {
    let yarn = |attention_factor| RopeScaling::Yarn {
        factor: 4.0,
        original_positions: 256,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor,
    };
    // Bounds for 16 dimensions, base 10000, 256 positions: floor(0.21) = 0 and ceil(3.22) = 4.
    let ramp = |i: usize| (i as f64 / 4.0).min(1.0);
    let expect: Vec<f64> = plain().iter().enumerate().map(|(i, f)| f / 4.0 * ramp(i) + f * (1.0 - ramp(i))).collect();
    close(&angles(yarn(None), 1), &expect);
    let length = |attention_factor| {
        let rope = Rope::new(params(16, 16, RopeLayout::HalfSplit, yarn(attention_factor))).unwrap();
        let (mut cos, mut sin) = (vec![0.0; 8], vec![0.0; 8]);
        rope.cos_sin(3, &mut cos, &mut sin);
        f64::from(cos[1]).hypot(f64::from(sin[1]))
    };
    close(&[length(None), length(Some(1.0))], &[0.1 * 4f64.ln() + 1.0, 1.0]);
}

#[test]
fn dynamic_ntk_follows_the_position() {
    let scaling = RopeScaling::DynamicNtk { factor: 2.0, original_positions: 8 };
    close(&angles(scaling.clone(), 7)[4..], &angles(RopeScaling::None, 7)[4..]);
    // Position 15 is the end of 16: the base grows by (2 * 16 / 8 - 1)^(16 / 14).
    let base = 10_000.0 * 3f64.powf(16.0 / 14.0);
    let expect: Vec<f64> = (4..8).map(|i| 15.0 * base.powf(-f64::from(i) / 8.0)).collect();
    close(&angles(scaling, 15)[4..], &expect);
}

#[test]
fn parameters_out_of_range_are_errors() {
    let check = |params: RopeParams, text: &str| assert_eq!(Rope::new(params).unwrap_err().to_string(), text);
    let (half, none) = (RopeLayout::HalfSplit, RopeScaling::None);
    let rule = "rotated dimensions must be an even number from 2 to the head's 64; given";
    check(params(64, 66, half, none.clone()), &format!("{rule} 66"));
    check(params(64, 0, half, none.clone()), &format!("{rule} 0"));
    check(params(64, 33, half, none.clone()), &format!("{rule} 33"));
    let zero = RopeParams { theta: 0.0, ..params(64, 64, half, none) };
    check(zero, "rope `theta` must be a finite number above 0; given 0");
    let linear = RopeScaling::Linear { factor: f32::NAN };
    check(params(64, 64, half, linear), "rope `factor` must be a finite number above 0; given NaN");
    let factors = RopeScaling::Factors(vec![1.0; 3]);
    check(params(64, 64, half, factors), "rope frequency factors must be one for each pair of dimensions, 32; given 3");
    let llama3 = RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 4.0, high_freq_factor: 4.0, original_positions: 8 };
    check(params(64, 64, half, llama3), "rope `high_freq_factor` must be above `low_freq_factor`; given 4 and 4");
}
