//! The memory of keys and values: pages of 64 positions, for all layers, in floats, half floats or 8 bits. Which page belongs to
//! whom is decided elsewhere; what is read from them is in `attention`.
//!
//! A page holds, layer by layer and head by head, one block:
//! - F32, F16: keys `[head_dim, 64]` and values `[64, head_dim]`, floats or half floats.
//! - Q8: the same as signed bytes, then the scales of the keys `[64]` and of the values `[64]`, f32: a key or value is its
//!   bytes times its scale.
//!
//! Keys are transposed so that scores of 16 positions are one vector. Attention only ever reads what is stored here, also for the
//! tokens that a forward has just appended: so rounding never depends on how a prompt was cut into chunks.

#[cfg(test)]
mod tests;

use thiserror::Error;

use crate::activation::{byte_scale, quantize};
use crate::isa::Isa;
use crate::memory::{AlignedBytes, OutOfMemory};
use crate::pool::Pool;
use crate::simd::{Simd, dispatch};

/// Positions in a page.
pub const PAGE_LEN: usize = 64;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// Floats as they are: for comparisons with references.
    F32,
    /// Half floats; values beyond 65504 are stored as 65504.
    F16,
    /// Signed bytes with one f32 scale for each key and each value (of one position and head).
    Q8,
}

/// The shape of what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvGeometry {
    /// Layers of the model.
    pub num_layers: usize,
    /// Key and value heads of each layer.
    pub num_kv_heads: usize,
    /// Dimensions of a head: a multiple of 16.
    pub head_dim: usize,
    /// How they are stored.
    pub format: KvFormat,
}

impl KvGeometry {
    /// Bytes of one page: [`PAGE_LEN`] positions of every layer and head. Saturates.
    pub fn page_bytes(&self) -> usize {
        self.block_bytes().saturating_mul(self.num_kv_heads).saturating_mul(self.num_layers)
    }

    /// Bytes of the keys (or of the values) of one block, without scales.
    fn half_bytes(&self) -> usize {
        let element = match self.format {
            KvFormat::F32 => 4,
            KvFormat::F16 => 2,
            KvFormat::Q8 => 1,
        };
        self.head_dim.saturating_mul(PAGE_LEN * element)
    }

    fn block_bytes(&self) -> usize {
        let scales = match self.format {
            KvFormat::F32 | KvFormat::F16 => 0,
            KvFormat::Q8 => 2 * PAGE_LEN * size_of::<f32>(),
        };
        self.half_bytes().saturating_mul(2).saturating_add(scales)
    }
}

/// Why pages could not be made.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum KvError {
    /// Vectors hold 16 lanes.
    #[error("`head_dim` must be a multiple of 16, at least 16; given {0}")]
    HeadDim(usize),
    /// No layers or heads.
    #[error("a model must have layers and key-value heads; given {num_layers} layers of {num_kv_heads} heads")]
    Empty {
        /// Layers of the model.
        num_layers: usize,
        /// Key and value heads of each layer.
        num_kv_heads: usize,
    },
    /// The system gave no memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// Where a token's key and value go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvSlot {
    /// The page.
    pub page: u32,
    /// The position in the page, below [`PAGE_LEN`].
    pub offset: u32,
}

/// Keys and values of one layer to be stored.
#[derive(Clone, Copy, Debug)]
pub struct KvRows<'a> {
    /// `[num_tokens]`
    pub slots: &'a [KvSlot],
    /// `[num_tokens, num_kv_heads, head_dim]`, rotated.
    pub k: &'a [f32],
    /// `[num_tokens, num_kv_heads, head_dim]`
    pub v: &'a [f32],
}

/// All pages of a model. Memory is taken from the system when a page is first written to.
#[derive(Debug)]
pub struct KvPages {
    geometry: KvGeometry,
    num_pages: usize,
    bytes: AlignedBytes, // [num_pages, num_layers, num_kv_heads, block]
}

impl KvPages {
    /// `num_pages` pages of zeros.
    pub fn new(geometry: KvGeometry, num_pages: usize) -> Result<Self, KvError> {
        let KvGeometry { num_layers, num_kv_heads, head_dim, .. } = geometry;
        if head_dim == 0 || !head_dim.is_multiple_of(16) {
            return Err(KvError::HeadDim(head_dim));
        }
        if num_layers == 0 || num_kv_heads == 0 {
            return Err(KvError::Empty { num_layers, num_kv_heads });
        }
        let bytes = AlignedBytes::try_new(geometry.page_bytes().saturating_mul(num_pages))?;
        Ok(Self { geometry, num_pages, bytes })
    }

    /// The shape of what is stored.
    pub fn geometry(&self) -> &KvGeometry {
        &self.geometry
    }

    /// How many pages there are.
    pub fn num_pages(&self) -> usize {
        self.num_pages
    }

    /// Bytes of one page.
    pub fn page_bytes(&self) -> usize {
        self.geometry.page_bytes()
    }

    /// Stores keys and values of one layer, rounded to the format. A slot given twice keeps the later row.
    pub fn append(&mut self, pool: &Pool, layer: usize, rows: &KvRows<'_>) {
        self.append_on(Isa::active(), pool, layer, rows);
    }

    pub(crate) fn append_on(&mut self, isa: Isa, pool: &Pool, layer: usize, rows: &KvRows<'_>) {
        let KvGeometry { num_layers, num_kv_heads, head_dim, format } = self.geometry;
        assert!(layer < num_layers, "layer {layer} of {num_layers}");
        for slot in rows.slots {
            assert!((slot.page as usize) < self.num_pages, "page {} of {}", slot.page, self.num_pages);
            assert!((slot.offset as usize) < PAGE_LEN, "position {} of a page of {PAGE_LEN}", slot.offset);
        }
        let len = rows.slots.len() * num_kv_heads * head_dim;
        assert_eq!(rows.k.len(), len, "`k` must be [{}, {num_kv_heads}, {head_dim}]", rows.slots.len());
        assert_eq!(rows.v.len(), len, "`v` must be [{}, {num_kv_heads}, {head_dim}]", rows.slots.len());

        let target = Target { bytes: self.bytes.as_mut_ptr(), geometry: self.geometry, layer };
        // A head's keys are one item and its values another, so that no two threads write the same block's half.
        let num_items = 2 * num_kv_heads;
        // A few tokens are not worth waking another thread.
        let chunk = if len < 32 * 1024 { num_items } else { 1 };
        pool.for_chunks(num_items, chunk, &|items| {
            for item in items {
                let (target, kv_head) = (&target, item / 2);
                match (item % 2, format) {
                    (0, KvFormat::F32) => dispatch!(isa, keys_f32 [] (target: &Target, kv_head: usize, rows: &KvRows<'_>)),
                    (_, KvFormat::F32) => dispatch!(isa, values_f32 [] (target: &Target, kv_head: usize, rows: &KvRows<'_>)),
                    (0, KvFormat::F16) => dispatch!(isa, keys_f16 [] (target: &Target, kv_head: usize, rows: &KvRows<'_>)),
                    (0, KvFormat::Q8) => dispatch!(isa, keys_q8 [] (target: &Target, kv_head: usize, rows: &KvRows<'_>)),
                    (_, KvFormat::F16) => dispatch!(isa, values_f16 [] (target: &Target, kv_head: usize, rows: &KvRows<'_>)),
                    (_, KvFormat::Q8) => dispatch!(isa, values_q8 [] (target: &Target, kv_head: usize, rows: &KvRows<'_>)),
                }
            }
        });
    }

    /// Copies all layers of a page onto another.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        let (from, to, len) = (from as usize, to as usize, self.page_bytes());
        assert!(from < self.num_pages && to < self.num_pages, "pages {from} and {to} of {}", self.num_pages);
        self.bytes.copy_within(from * len..(from + 1) * len, to * len);
    }

    /// The block of a page, layer and head.
    pub(crate) fn block(&self, page: u32, layer: usize, kv_head: usize) -> Block {
        let KvGeometry { num_layers, num_kv_heads, .. } = self.geometry;
        assert!((page as usize) < self.num_pages, "page {page} of {}", self.num_pages);
        assert!(layer < num_layers && kv_head < num_kv_heads, "layer {layer}, head {kv_head}");
        // SAFETY: the block lies within the bytes, by the assertions above.
        unsafe { Block::at(self.bytes.as_ptr(), &self.geometry, (page as usize * num_layers + layer) * num_kv_heads + kv_head) }
    }
}

/// Pointers to the parts of one block. Valid as long as the pages they come from.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    /// `[head_dim, 64]`
    pub(crate) keys: *const u8,
    /// `[64, head_dim]`
    pub(crate) values: *const u8,
    /// `[64]`; Q8 only.
    pub(crate) key_scales: *const f32,
    /// `[64]`; Q8 only.
    pub(crate) value_scales: *const f32,
}

impl Block {
    /// # Safety
    /// `bytes` holds more than `block_id` blocks.
    unsafe fn at(bytes: *const u8, geometry: &KvGeometry, block_id: usize) -> Self {
        let half = geometry.half_bytes();
        // SAFETY: the caller's promise; where there are no scales, their pointers are at most the end of the block and the
        // wrapping addition keeps the second from being undefined.
        unsafe {
            let keys = bytes.add(block_id * geometry.block_bytes());
            let key_scales = keys.add(2 * half).cast::<f32>();
            Self { keys, values: keys.add(half), key_scales, value_scales: key_scales.wrapping_add(PAGE_LEN) }
        }
    }
}

/// Where rows of one layer are written to.
struct Target {
    bytes: *mut u8,
    geometry: KvGeometry,
    layer: usize,
}

// SAFETY: made from a mutable borrow of the pages; threads write different halves of blocks (`append_on`).
unsafe impl Sync for Target {}

impl Target {
    /// # Safety
    /// The slot's page and the head exist.
    unsafe fn block(&self, slot: KvSlot, kv_head: usize) -> Block {
        let KvGeometry { num_layers, num_kv_heads, .. } = self.geometry;
        let block_id = (slot.page as usize * num_layers + self.layer) * num_kv_heads + kv_head;
        // SAFETY: the caller's promise.
        unsafe { Block::at(self.bytes, &self.geometry, block_id) }
    }
}

/// Runs `$body` for each token of a head, with its row `$x`, its block and its position in it.
macro_rules! each_row {
    ($target:ident, $kv_head:ident, $rows:ident . $field:ident, |$x:ident, $block:ident, $offset:ident, $dim:ident| $body:block) => {
        let (heads, $dim) = ($target.geometry.num_kv_heads, $target.geometry.head_dim);
        let mut token = 0;
        while token < $rows.slots.len() {
            let slot = $rows.slots[token];
            // SAFETY: `append_on` has checked slots and lengths.
            unsafe {
                let $x = $rows.$field.as_ptr().add((token * heads + $kv_head) * $dim);
                let ($block, $offset) = ($target.block(slot, $kv_head), slot.offset as usize);
                $body
            }
            token += 1;
        }
    };
}

#[inline(always)]
unsafe fn keys_f32<S: Simd>(target: &Target, kv_head: usize, rows: &KvRows<'_>) {
    each_row!(target, kv_head, rows.k, |x, block, offset, dim| {
        let keys = block.keys.cast_mut().cast::<f32>().add(offset);
        for d in 0..dim {
            keys.add(d * PAGE_LEN).write(*x.add(d));
        }
    });
}

#[inline(always)]
unsafe fn values_f32<S: Simd>(target: &Target, kv_head: usize, rows: &KvRows<'_>) {
    each_row!(target, kv_head, rows.v, |x, block, offset, dim| {
        x.copy_to_nonoverlapping(block.values.cast_mut().cast::<f32>().add(offset * dim), dim);
    });
}

#[inline(always)]
unsafe fn keys_f16<S: Simd>(target: &Target, kv_head: usize, rows: &KvRows<'_>) {
    each_row!(target, kv_head, rows.k, |x, block, offset, dim| {
        let keys = block.keys.cast_mut().cast::<u16>().add(offset);
        let mut lanes = [0u16; 16];
        let mut d = 0;
        while d < dim {
            S::store_f16(lanes.as_mut_ptr(), finite_f16::<S>(S::load(x.add(d))));
            for (lane, value) in lanes.iter().enumerate() {
                keys.add((d + lane) * PAGE_LEN).write(*value);
            }
            d += 16;
        }
    });
}

#[inline(always)]
unsafe fn values_f16<S: Simd>(target: &Target, kv_head: usize, rows: &KvRows<'_>) {
    each_row!(target, kv_head, rows.v, |x, block, offset, dim| {
        let values = block.values.cast_mut().cast::<u16>().add(offset * dim);
        let mut d = 0;
        while d < dim {
            S::store_f16(values.add(d), finite_f16::<S>(S::load(x.add(d))));
            d += 16;
        }
    });
}

#[inline(always)]
unsafe fn keys_q8<S: Simd>(target: &Target, kv_head: usize, rows: &KvRows<'_>) {
    each_row!(target, kv_head, rows.k, |x, block, offset, dim| {
        let keys = block.keys.cast_mut().cast::<i8>().add(offset);
        let (scale, inverse) = byte_scale::<S>(x, dim);
        block.key_scales.cast_mut().add(offset).write(scale);
        let mut lanes = [0i8; 16];
        let mut d = 0;
        while d < dim {
            S::store_low_bytes(lanes.as_mut_ptr(), S::to_ints(S::mul(S::load(x.add(d)), S::splat(inverse))));
            for (lane, value) in lanes.iter().enumerate() {
                keys.add((d + lane) * PAGE_LEN).write(*value);
            }
            d += 16;
        }
    });
}

#[inline(always)]
unsafe fn values_q8<S: Simd>(target: &Target, kv_head: usize, rows: &KvRows<'_>) {
    each_row!(target, kv_head, rows.v, |x, block, offset, dim| {
        let values = block.values.cast_mut().cast::<i8>().add(offset * dim);
        block.value_scales.cast_mut().add(offset).write(quantize::<S>(x, dim, values));
    });
}

/// Within the range of a half float where it is finite, else NaN: what went wrong before stays so.
#[inline(always)]
unsafe fn finite_f16<S: Simd>(v: S::Floats) -> S::Floats {
    // SAFETY: the caller's promise.
    unsafe { S::fma(v, S::splat(0.0), S::min(S::splat(65504.0), S::max(S::splat(-65504.0), v))) }
}
