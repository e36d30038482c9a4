//! A mutable slice that several threads write disjoint parts of. Does no scheduling.

use std::marker::PhantomData;
use std::ops::Range;

/// A borrowed slice whose parts are handed out by range. The borrow keeps everyone else away; that ranges handed out at
/// the same time do not overlap is the caller's promise.
pub(crate) struct Disjoint<'a, T> {
    pointer: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are `&mut [T]` that do not overlap (the promise of `part`), so sharing this is sending those.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { pointer: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// The part in `range`, which must lie within the slice.
    ///
    /// # Safety
    /// No other part that overlaps `range` is alive.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part {range:?} of a slice of {}", self.len);
        // SAFETY: within the borrowed slice; the caller's promise makes it exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(range.start), range.end - range.start) }
    }
}
