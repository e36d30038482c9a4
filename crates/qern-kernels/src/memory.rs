//! Buffers of zeroed bytes, aligned for vector loads and on large pages where the system gives them. Knows nothing of what
//! the bytes mean. How much memory the machine has is in `memory_limits`.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use memmap2::{MmapMut, MmapOptions};
use thiserror::Error;

/// The alignment of every [`AlignedBytes`]: a cache line, which is also one 512-bit vector.
pub const ALIGNMENT: usize = 64;

/// The size of a large page on x86-64 and (with 4 kB base pages) on AArch64.
const LARGE_PAGE: usize = 2 << 20;

/// From here on a buffer gets a mapping of its own: it starts on a large page, is zeroed page by page when first touched
/// (by the thread that fills it, rather than by the one that allocates it), and goes back to the system when dropped.
const MAPPED_FROM: usize = 1 << 20;

/// A fixed number of bytes, zero at first, whose address is a multiple of [`ALIGNMENT`] (of 2 MB from 1 MB on, with large
/// pages where the system allows them). Dereferences to a slice of bytes, and can be viewed as `f32`.
pub struct AlignedBytes {
    len: usize,
    storage: Storage,
}

enum Storage {
    Empty,
    Heap(HeapBlock),
    /// The bytes begin `offset` bytes into the mapping.
    Mapped {
        map: MmapMut,
        offset: usize,
    },
}

/// The system gave no memory for a buffer.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("out of memory: a buffer of {bytes} bytes could not be allocated; use a smaller model, context or batch")]
pub struct OutOfMemory {
    /// The size of the buffer that was asked for.
    pub bytes: usize,
}

impl AlignedBytes {
    /// `len` zeroed bytes.
    pub fn try_new(len: usize) -> Result<Self, OutOfMemory> {
        let storage = match len {
            0 => Some(Storage::Empty),
            1..MAPPED_FROM => HeapBlock::zeroed(len).map(Storage::Heap),
            _ => map_zeroed(len),
        };
        Ok(Self { len, storage: storage.ok_or(OutOfMemory { bytes: len })? })
    }

    /// Zeroed room for `num_values` values of `f32`.
    pub fn try_new_f32(num_values: usize) -> Result<Self, OutOfMemory> {
        let bytes = num_values.checked_mul(size_of::<f32>()).ok_or(OutOfMemory { bytes: usize::MAX })?;
        Self::try_new(bytes)
    }

    /// A copy of `bytes`, aligned.
    pub fn try_from_slice(bytes: &[u8]) -> Result<Self, OutOfMemory> {
        let mut copy = Self::try_new(bytes.len())?;
        copy.copy_from_slice(bytes);
        Ok(copy)
    }

    /// The bytes as `f32` in the machine's byte order; up to three bytes at the end that make no whole value are left out.
    pub fn as_f32(&self) -> &[f32] {
        // SAFETY: the pointer is valid for `len` initialized bytes and aligned for `f32`; every bit pattern is an `f32`;
        // the slice borrows `self`.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len / size_of::<f32>()) }
    }

    /// The bytes as `f32`, to write to. As [`AlignedBytes::as_f32`].
    pub fn as_f32_mut(&mut self) -> &mut [f32] {
        let num_values = self.len / size_of::<f32>();
        // SAFETY: as in `as_f32`, and the slice borrows `self` mutably; every `f32` is four valid bytes.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), num_values) }
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.storage {
            Storage::Empty => AlignedEmpty::slice(),
            Storage::Heap(block) => block.bytes(),
            Storage::Mapped { map, offset } => &map[*offset..*offset + self.len],
        }
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.storage {
            Storage::Empty => AlignedEmpty::slice_mut(),
            Storage::Heap(block) => block.bytes_mut(),
            Storage::Mapped { map, offset } => &mut map[*offset..*offset + self.len],
        }
    }
}

impl std::fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBytes({} bytes)", self.len)
    }
}

/// The empty slice, aligned like every other, so that views of it as other types are valid.
#[repr(align(64))]
struct AlignedEmpty([u8; 0]);

impl AlignedEmpty {
    fn slice() -> &'static [u8] {
        static EMPTY: AlignedEmpty = AlignedEmpty([]);
        &EMPTY.0
    }

    fn slice_mut() -> &'static mut [u8] {
        // SAFETY: a slice of no bytes touches no memory; the address is not null and aligned.
        unsafe { std::slice::from_raw_parts_mut(NonNull::<AlignedEmpty>::dangling().as_ptr().cast(), 0) }
    }
}

/// Zeroed bytes of the global allocator, aligned to [`ALIGNMENT`]. Never empty.
struct HeapBlock {
    pointer: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the block owns its bytes alone, and shares them only through borrows of itself.
unsafe impl Send for HeapBlock {}
// SAFETY: as above; a shared borrow only reads.
unsafe impl Sync for HeapBlock {}

impl HeapBlock {
    fn zeroed(len: usize) -> Option<Self> {
        assert!(len > 0);
        let layout = Layout::from_size_align(len, ALIGNMENT).ok()?;
        // SAFETY: the layout has a size above zero.
        let pointer = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { pointer, layout })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the allocation is `layout.size()` initialized bytes and lives until `drop`.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.layout.size()) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.layout.size()) }
    }
}

impl Drop for HeapBlock {
    fn drop(&mut self) {
        // SAFETY: allocated with this very layout, and not freed before.
        unsafe { dealloc(self.pointer.as_ptr(), self.layout) }
    }
}

/// An anonymous mapping with `len` bytes from a multiple of [`LARGE_PAGE`] on. The bytes before and after stay untouched and
/// so cost address space only.
fn map_zeroed(len: usize) -> Option<Storage> {
    let map_len = len.checked_add(LARGE_PAGE).filter(|&len| isize::try_from(len).is_ok())?;
    let map = MmapOptions::new().len(map_len).map_anon().ok()?;
    let offset = map.as_ptr().align_offset(LARGE_PAGE);
    #[cfg(target_os = "linux")]
    {
        // The last large page is asked for only when most of it will be used: memory is scarcer than address translations.
        let tail = len % LARGE_PAGE;
        let on_large_pages = if tail >= LARGE_PAGE / 4 * 3 { len.next_multiple_of(LARGE_PAGE) } else { len - tail };
        if on_large_pages > 0 {
            // A kernel built without large pages refuses; the buffer then stays on small ones.
            let _ = map.advise_range(memmap2::Advice::HugePage, offset, on_large_pages);
        }
    }
    Some(Storage::Mapped { map, offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_every_size_are_zeroed_aligned_and_writable() {
        let mb = 1 << 20;
        for len in [0, 1, 3, 4, 63, 64, 65, 4095, mb - 1, mb, mb + 1, 2 * mb, 4 * mb - 1, 4 * mb, 5 * mb + 13, 16 * mb] {
            let mut buffer = AlignedBytes::try_new(len).unwrap();
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr() as usize % if len < MAPPED_FROM { ALIGNMENT } else { LARGE_PAGE }, 0, "{len}");
            assert!(buffer.iter().all(|&b| b == 0));
            buffer.fill(0xa5);
            assert!(buffer.iter().all(|&b| b == 0xa5));
            assert_eq!(buffer.as_f32().len(), len / 4);
            buffer.as_f32_mut().fill(1.5);
            assert!(buffer.as_f32().iter().all(|&v| v == 1.5));
        }
    }

    #[test]
    fn a_copy_holds_the_same_bytes() {
        let bytes: Vec<u8> = (0..1000).map(|i| i as u8).collect();
        assert_eq!(&AlignedBytes::try_from_slice(&bytes).unwrap()[..], &bytes[..]);
    }

    #[test]
    fn impossible_sizes_are_errors_that_say_the_size() {
        for bytes in [1 << 60, isize::MAX as usize, isize::MAX as usize + 1, usize::MAX] {
            assert_eq!(AlignedBytes::try_new(bytes).unwrap_err(), OutOfMemory { bytes });
        }
        assert!(AlignedBytes::try_new_f32(usize::MAX / 2).is_err());
        let text = "out of memory: a buffer of 7 bytes could not be allocated; use a smaller model, context or batch";
        assert_eq!(OutOfMemory { bytes: 7 }.to_string(), text);
    }

    #[test]
    fn buffers_may_be_shared_between_threads() {
        fn check<T: Send + Sync>() {}
        check::<AlignedBytes>();
    }
}
