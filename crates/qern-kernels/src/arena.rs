//! Many buffers from few large allocations: the matrices of a small model lie side by side on large pages, where each alone
//! would be too small for one. Parts are never given back singly; the memory goes when the last part of its block goes.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use crate::memory::{ALIGNMENT, AlignedBytes, OutOfMemory};

/// What is allocated at once: 32 large pages. Pages that no part touches cost nothing.
const BLOCK_BYTES: usize = 64 << 20;

/// Hands out parts of large blocks.
#[derive(Default)]
pub struct Arena {
    current: Mutex<Option<Current>>,
}

struct Current {
    block: Arc<Block>,
    used: usize,
}

/// Bytes that parts point into.
struct Block {
    start: *mut u8,
    len: usize,
    /// Never touched again but to be dropped: `start` points into it.
    _bytes: AlignedBytes,
}

// SAFETY: the block itself only keeps the memory alive; every byte is reachable through one part alone (`Arena::take`).
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

/// A part of an arena: zeroed bytes of its own, aligned to [`ALIGNMENT`].
pub struct ArenaBytes {
    block: Arc<Block>,
    start: usize,
    len: usize,
}

impl Arena {
    /// An arena that has allocated nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// `len` zeroed bytes.
    pub fn take(&self, len: usize) -> Result<ArenaBytes, OutOfMemory> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Current { block, used }) = &mut *current {
            let start = used.next_multiple_of(ALIGNMENT);
            if block.len.checked_sub(start).is_some_and(|free| free >= len) {
                *used = start + len;
                return Ok(ArenaBytes { block: Arc::clone(block), start, len });
            }
        }
        let mut bytes = AlignedBytes::try_new(len.max(BLOCK_BYTES))?;
        let block = Arc::new(Block { start: bytes.as_mut_ptr(), len: bytes.len(), _bytes: bytes });
        *current = Some(Current { block: Arc::clone(&block), used: len });
        Ok(ArenaBytes { block, start: 0, len })
    }
}

impl Deref for ArenaBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start + len` is within the block, which lives as long as `self`; no other part overlaps it, since `take`
        // hands out each byte once and parts cannot be cloned.
        unsafe { std::slice::from_raw_parts(self.block.start.add(self.start), self.len) }
    }
}

impl DerefMut for ArenaBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.block.start.add(self.start), self.len) }
    }
}

impl fmt::Debug for ArenaBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArenaBytes({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_zeroed_aligned_and_apart() {
        let arena = Arena::new();
        let sizes = [1, 64, 63, 0, 5 << 20, BLOCK_BYTES, BLOCK_BYTES + 1, 100, 60 << 20, 8 << 20];
        let mut parts: Vec<ArenaBytes> = sizes.iter().map(|&len| arena.take(len).unwrap()).collect();
        for (i, part) in parts.iter_mut().enumerate() {
            assert_eq!(part.len(), sizes[i]);
            assert_eq!(part.as_ptr() as usize % ALIGNMENT, 0, "part {i}");
            assert!(part.iter().all(|&byte| byte == 0), "part {i} overlaps one that was filled before");
            part.fill(i as u8 + 1);
        }
        for (i, part) in parts.iter().enumerate() {
            assert!(part.iter().all(|&byte| byte == i as u8 + 1), "part {i} was overwritten");
        }
    }

    #[test]
    fn parts_outlive_their_arena() {
        let arena = Arena::new();
        let mut part = arena.take(1000).unwrap();
        drop(arena);
        part.fill(7);
        assert_eq!(part[999], 7);
    }

    #[test]
    fn too_much_is_an_error() {
        assert!(Arena::new().take(usize::MAX / 4).is_err());
    }
}
