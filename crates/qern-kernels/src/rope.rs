//! Rotary position embedding (RoFormer, Su et al. 2021) of query and key heads, with the head normalization of Qwen3 fused
//! in. The frequencies and their scaling to long contexts are in `rope/frequencies`.

mod frequencies;
#[cfg(test)]
mod tests;

pub use frequencies::{Rope, RopeError, RopeLayout, RopeParams, RopeScaling};

use crate::disjoint::Disjoint;
use crate::isa::Isa;
use crate::norm::rms_norm_row;
use crate::pool::Pool;
use crate::simd::{Simd, dispatch};

/// RMSNorm of each head before its rotation (`q_norm` and `k_norm` of Qwen3).
#[derive(Clone, Copy, Debug)]
pub struct HeadNorm<'a> {
    /// `[head_dim]`
    pub weight: &'a [f32],
    /// Added to the mean of squares.
    pub eps: f32,
}

/// How the heads of a batch are rotated.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    /// `[num_tokens, num_dims / 2]`, rows of [`Rope::cos_sin`].
    pub cos: &'a [f32],
    /// `[num_tokens, num_dims / 2]`
    pub sin: &'a [f32],
    /// Heads of each token.
    pub num_heads: usize,
    /// Applied to each head first.
    pub norm: Option<HeadNorm<'a>>,
}

impl Rope {
    /// Normalizes (where asked to) and rotates `heads`, `[num_tokens, num_heads, head_dim]`, in place. Dimensions from
    /// `num_dims` on are normalized but not rotated.
    pub fn apply(&self, pool: &Pool, rotation: &Rotation<'_>, heads: &mut [f32]) {
        self.apply_on(Isa::active(), pool, rotation, heads);
    }

    pub(crate) fn apply_on(&self, isa: Isa, pool: &Pool, rotation: &Rotation<'_>, heads: &mut [f32]) {
        let RopeParams { head_dim, num_dims, layout, .. } = *self.params();
        let (half, row) = (num_dims / 2, rotation.num_heads * head_dim);
        assert!(row > 0, "`num_heads` must be at least 1");
        assert_eq!(heads.len() % row, 0, "`heads` must hold whole tokens of {} heads of {head_dim}", rotation.num_heads);
        let num_tokens = heads.len() / row;
        assert_eq!(rotation.cos.len(), num_tokens * half, "`cos` must be [{num_tokens}, {half}]");
        assert_eq!(rotation.sin.len(), num_tokens * half, "`sin` must be [{num_tokens}, {half}]");
        if let Some(norm) = rotation.norm {
            assert_eq!(norm.weight.len(), head_dim, "the norm's weight must be [{head_dim}]");
        }
        let heads = Disjoint::new(heads);
        // About 32 kB a chunk: fewer tokens are not worth waking another thread.
        pool.for_chunks(num_tokens, (8192 / row).max(1), &|tokens| {
            for token in tokens {
                // SAFETY: every token is in one chunk.
                let heads = unsafe { heads.part(token * row..(token + 1) * row) };
                let cos = &rotation.cos[token * half..(token + 1) * half];
                let sin = &rotation.sin[token * half..(token + 1) * half];
                let norm = rotation.norm;
                let head = &Head { head_dim, layout, norm };
                dispatch!(isa, token_body [] (head: &Head<'_>, cos: &[f32], sin: &[f32], heads: &mut [f32]));
            }
        });
    }
}

struct Head<'a> {
    head_dim: usize,
    layout: RopeLayout,
    norm: Option<HeadNorm<'a>>,
}

/// The heads of one token: `[num_heads, head_dim]`.
#[inline(always)]
unsafe fn token_body<S: Simd>(head: &Head<'_>, cos: &[f32], sin: &[f32], heads: &mut [f32]) {
    let dim = head.head_dim;
    // SAFETY: each head lies within `heads`; `cos` and `sin` hold half the rotated dimensions; the norm's weight is one head.
    unsafe {
        let mut i = 0;
        while i < heads.len() {
            let x = heads.as_mut_ptr().add(i);
            if let Some(norm) = head.norm {
                rms_norm_row::<S>(x, norm.weight.as_ptr(), dim, norm.eps, x);
            }
            match head.layout {
                RopeLayout::HalfSplit => rotate_halves::<S>(x, cos, sin),
                RopeLayout::Interleaved => rotate_pairs::<S>(x, cos, sin),
            }
            i += dim;
        }
    }
}

/// `(x, y) -> (x cos - y sin, y cos + x sin)`; one rounding of each first product, one of each sum.
#[inline(always)]
unsafe fn rotate<S: Simd>(x: S::Floats, y: S::Floats, cos: S::Floats, sin: S::Floats) -> (S::Floats, S::Floats) {
    // SAFETY: the caller's promise.
    unsafe {
        let minus_sin = S::sub(S::splat(0.0), sin);
        (S::fma(y, minus_sin, S::mul(x, cos)), S::fma(x, sin, S::mul(y, cos)))
    }
}

/// Pairs are (i, i + half).
#[inline(always)]
unsafe fn rotate_halves<S: Simd>(x: *mut f32, cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    // SAFETY: `x` holds two halves; every access is below `half` of its own half.
    unsafe {
        let y = x.add(half);
        let mut i = 0;
        while i + 16 <= half {
            let (cos, sin) = (S::load(cos.as_ptr().add(i)), S::load(sin.as_ptr().add(i)));
            let (a, b) = rotate::<S>(S::load(x.add(i)), S::load(y.add(i)), cos, sin);
            S::store(x.add(i), a);
            S::store(y.add(i), b);
            i += 16;
        }
        if i < half {
            let n = half - i;
            let (cos, sin) = (S::load_first(cos.as_ptr().add(i), n), S::load_first(sin.as_ptr().add(i), n));
            let (a, b) = rotate::<S>(S::load_first(x.add(i), n), S::load_first(y.add(i), n), cos, sin);
            S::store_first(x.add(i), a, n);
            S::store_first(y.add(i), b, n);
        }
    }
}

/// Pairs are (2i, 2i + 1): a vector holds eight of them. Rounds as `rotate_halves` does.
#[inline(always)]
unsafe fn rotate_pairs<S: Simd>(x: *mut f32, cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    // SAFETY: `x` holds `2 * half` values; `load_first` and `store_first` bound the tail.
    unsafe {
        let mut i = 0;
        while i < half {
            let n = (half - i).min(8);
            // Each cosine twice; each sine as (-sin, sin), for x and y.
            let (mut cos2, mut sin2) = ([0.0f32; 16], [0.0f32; 16]);
            for pair in 0..n {
                (cos2[2 * pair], cos2[2 * pair + 1]) = (cos[i + pair], cos[i + pair]);
                (sin2[2 * pair], sin2[2 * pair + 1]) = (0.0 - sin[i + pair], sin[i + pair]);
            }
            let (cos2, sin2) = (S::load(cos2.as_ptr()), S::load(sin2.as_ptr()));
            let p = x.add(2 * i);
            if n == 8 {
                let v = S::load(p);
                S::store(p, S::fma(S::swap_pairs(v), sin2, S::mul(v, cos2)));
            } else {
                let v = S::load_first(p, 2 * n);
                S::store_first(p, S::fma(S::swap_pairs(v), sin2, S::mul(v, cos2)), 2 * n);
            }
            i += 8;
        }
    }
}
