//! The angles of rotary embedding: inverse frequencies and their scaling to long contexts, as transformers'
//! `modeling_rope_utils` computes them (in f32, step by step). Rotates nothing.
//!
//! Angles are a function of the position alone, because a rotated key may be shared by sequences of different lengths. So
//! dynamic NTK scaling takes the frequencies of a sequence that ends at the position itself: what transformers computes
//! when it decodes that position, and for every position up to `original_positions`. Only a prefill that goes beyond those in one
//! forward differs there (it rotates all of its positions with the frequencies of the last).

use thiserror::Error;

/// Which dimensions make a pair that is rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// (i, i + num_dims / 2): checkpoints of transformers, and the `neox` type of ggml.
    HalfSplit,
    /// (2i, 2i + 1): the `norm` type of ggml, which GGUF files of the architecture `llama` use.
    Interleaved,
}

/// How frequencies are changed to reach beyond the context a model was first trained with.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Positions divided by a factor (Chen et al. 2023).
    Linear {
        /// How many times longer.
        factor: f32,
    },
    /// The base grows with the length reached. A function of the position alone here: see the head of this module.
    DynamicNtk {
        /// How many times longer at most.
        factor: f32,
        /// Positions of the first training.
        original_positions: usize,
    },
    /// YaRN (Peng et al. 2023): low frequencies interpolated, high ones kept.
    Yarn {
        /// How many times longer.
        factor: f32,
        /// Positions of the first training.
        original_positions: usize,
        /// Rotations within `original_positions` from which on a frequency is kept (32 in the paper).
        beta_fast: f32,
        /// Rotations below which it is interpolated (1 in the paper).
        beta_slow: f32,
        /// Multiplies cosine and sine; `0.1 ln(factor) + 1` by default.
        attention_factor: Option<f32>,
    },
    /// Llama 3.1: as YaRN, but with wavelengths for bounds.
    Llama3 {
        /// How many times longer.
        factor: f32,
        /// `original_positions` over the wavelength from which on a frequency is divided by `factor`.
        low_freq_factor: f32,
        /// `original_positions` over the wavelength up to which it is kept.
        high_freq_factor: f32,
        /// Positions of the first training.
        original_positions: usize,
    },
    /// Each frequency divided by its factor: the tensor `rope_freqs.weight` of GGUF files.  `[num_dims / 2]`
    Factors(Vec<f32>),
}

/// What a rotary embedding is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeParams {
    /// Dimensions of a head.
    pub head_dim: usize,
    /// How many of them are rotated (from the first on); even.
    pub num_dims: usize,
    /// The base of the frequencies: 10,000 in the paper.
    pub theta: f32,
    /// Which dimensions make a pair.
    pub layout: RopeLayout,
    /// Scaling to long contexts.
    pub scaling: RopeScaling,
}

/// Why parameters make no rotary embedding.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum RopeError {
    /// `num_dims` does not fit.
    #[error("rotated dimensions must be an even number from 2 to the head's {head_dim}; given {num_dims}")]
    NumDims {
        /// Dimensions of a head.
        head_dim: usize,
        /// Those to be rotated.
        num_dims: usize,
    },
    /// A number that must be above zero is not.
    #[error("rope `{name}` must be a finite number above 0; given {value}")]
    NotPositive {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: f32,
    },
    /// Not one factor for each frequency.
    #[error("rope frequency factors must be one for each pair of dimensions, {expected}; given {given}")]
    NumFactors {
        /// Pairs of dimensions.
        expected: usize,
        /// Factors.
        given: usize,
    },
    /// Bounds in the wrong order.
    #[error("rope `{high_name}` must be above `{low_name}`; given {high} and {low}")]
    Order {
        /// The parameter that should be the smaller.
        low_name: &'static str,
        /// The parameter that should be the larger.
        high_name: &'static str,
        /// Value of the first.
        low: f32,
        /// Value of the second.
        high: f32,
    },
}

/// A rotary embedding: the frequencies of one model.
#[derive(Clone, Debug)]
pub struct Rope {
    params: RopeParams,
    /// Radians per position.  // [num_dims / 2]
    inv_freq: Vec<f32>,
    /// Multiplies cosine and sine.
    attention_factor: f32,
}

impl Rope {
    /// Computes the frequencies, or says which parameter is out of range.
    pub fn new(params: RopeParams) -> Result<Self, RopeError> {
        check(&params)?;
        let RopeParams { num_dims, theta, .. } = params;
        let mut inv_freq = default_inv_freq(theta, num_dims);
        let mut attention_factor = 1.0;
        match &params.scaling {
            RopeScaling::None | RopeScaling::DynamicNtk { .. } => {}
            RopeScaling::Linear { factor } => inv_freq.iter_mut().for_each(|f| *f /= factor),
            RopeScaling::Factors(factors) => inv_freq.iter_mut().zip(factors).for_each(|(f, factor)| *f /= factor),
            &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
                let context = original_positions as f32;
                for f in &mut inv_freq {
                    let wavelength = 2.0 * std::f32::consts::PI / *f;
                    if wavelength > context / low_freq_factor {
                        *f /= factor;
                    } else if wavelength >= context / high_freq_factor {
                        let smooth = (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        *f = (1.0 - smooth) * *f / factor + smooth * *f;
                    }
                }
            }
            &RopeScaling::Yarn { factor, original_positions, beta_fast, beta_slow, attention_factor: given } => {
                let [low, high] = yarn_bounds(&params, original_positions, [beta_fast, beta_slow]);
                for (i, f) in inv_freq.iter_mut().enumerate() {
                    let extrapolated = 1.0 - ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
                    let interpolation = 1.0 / (factor * (1.0 / *f));
                    *f = interpolation * (1.0 - extrapolated) + *f * extrapolated;
                }
                let default = if factor <= 1.0 { 1.0 } else { (0.1 * f64::from(factor).ln() + 1.0) as f32 };
                attention_factor = given.unwrap_or(default);
            }
        }
        Ok(Self { params, inv_freq, attention_factor })
    }

    /// What it was made from.
    pub fn params(&self) -> &RopeParams {
        &self.params
    }

    /// Writes the cosines and sines of a position's angles, `[num_dims / 2]` each. The angle is the f32 product of position
    /// and inverse frequency, as in transformers.
    pub fn cos_sin(&self, position: usize, cos: &mut [f32], sin: &mut [f32]) {
        let half = self.inv_freq.len();
        assert_eq!(cos.len(), half, "`cos` must be [{half}]");
        assert_eq!(sin.len(), half, "`sin` must be [{half}]");
        let long = self.dynamic_inv_freq(position);
        let inv_freq = long.as_deref().unwrap_or(&self.inv_freq);
        for ((cos, sin), inv_freq) in cos.iter_mut().zip(sin).zip(inv_freq) {
            let (s, c) = f64::from(position as f32 * inv_freq).sin_cos();
            *cos = c as f32 * self.attention_factor;
            *sin = s as f32 * self.attention_factor;
        }
    }

    /// The frequencies of dynamic NTK scaling beyond the original positions.
    fn dynamic_inv_freq(&self, position: usize) -> Option<Vec<f32>> {
        let RopeScaling::DynamicNtk { factor, original_positions } = self.params.scaling else { return None };
        (position >= original_positions).then(|| {
            let (factor, length, dims) = (f64::from(factor), (position + 1) as f64, self.params.num_dims as f64);
            let growth = factor * length / original_positions as f64 - (factor - 1.0);
            // With one pair there is no second frequency to keep: its exponent would divide by zero, and its frequency is 1.
            let exponent = if dims > 2.0 { dims / (dims - 2.0) } else { 0.0 };
            default_inv_freq((f64::from(self.params.theta) * growth.powf(exponent)) as f32, self.params.num_dims)
        })
    }
}

/// `1 / theta^(2 i / num_dims)`; the power is rounded once (transformers' is within an ulp of it).
fn default_inv_freq(theta: f32, num_dims: usize) -> Vec<f32> {
    let exponent = |i: usize| (2 * i) as f32 / num_dims as f32;
    (0..num_dims / 2).map(|i| 1.0 / f64::from(theta).powf(f64::from(exponent(i))) as f32).collect()
}

/// The pairs between which YaRN's ramp runs.
fn yarn_bounds(params: &RopeParams, original_positions: usize, [beta_fast, beta_slow]: [f32; 2]) -> [f32; 2] {
    let dims = params.num_dims as f64;
    let pair = |num_rotations: f32| {
        let turns = original_positions as f64 / (f64::from(num_rotations) * 2.0 * std::f64::consts::PI);
        dims * turns.ln() / (2.0 * f64::from(params.theta).ln())
    };
    let low = pair(beta_fast).floor().max(0.0);
    let high = pair(beta_slow).ceil().min(dims - 1.0);
    // As there: keeps the ramp from dividing by zero.
    let high = if low == high { high + 0.001 } else { high };
    [low as f32, high as f32]
}

fn check(params: &RopeParams) -> Result<(), RopeError> {
    let RopeParams { head_dim, num_dims, theta, .. } = *params;
    if num_dims < 2 || num_dims > head_dim || num_dims % 2 != 0 {
        return Err(RopeError::NumDims { head_dim, num_dims });
    }
    let positive = |name, value: f32| match value > 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(RopeError::NotPositive { name, value }),
    };
    positive("theta", theta)?;
    match &params.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => positive("factor", *factor)?,
        &RopeScaling::DynamicNtk { factor, original_positions } => {
            positive("factor", factor)?;
            positive("original positions", original_positions as f32)?;
        }
        &RopeScaling::Yarn { factor, original_positions, beta_fast, beta_slow, attention_factor } => {
            positive("factor", factor)?;
            positive("original positions", original_positions as f32)?;
            positive("beta_fast", beta_fast)?;
            positive("beta_slow", beta_slow)?;
            positive("attention factor", attention_factor.unwrap_or(1.0))?;
        }
        &RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_positions } => {
            positive("factor", factor)?;
            positive("low_freq_factor", low)?;
            positive("high_freq_factor", high)?;
            positive("original positions", original_positions as f32)?;
            if high <= low {
                let (low_name, high_name) = ("low_freq_factor", "high_freq_factor");
                return Err(RopeError::Order { low_name, high_name, low, high });
            }
        }
        RopeScaling::Factors(factors) => {
            if factors.len() != num_dims / 2 {
                return Err(RopeError::NumFactors { expected: num_dims / 2, given: factors.len() });
            }
            factors.iter().try_for_each(|&factor| positive("frequency factor", factor))?;
        }
    }
    Ok(())
}
