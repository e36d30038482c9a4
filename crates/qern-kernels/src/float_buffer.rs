//! A buffer of floats that is kept from step to step and grows when it must. On large pages: a product writes its output row
//! by row at a stride, and on small pages that is one address translation a row.

use std::ops::{Deref, DerefMut};

use crate::memory::{AlignedBytes, OutOfMemory};

/// Floats whose number changes from use to use. What they hold after a resize is unspecified (but some number).
#[derive(Debug)]
pub struct FloatBuffer {
    storage: AlignedBytes,
    len: usize,
}

impl FloatBuffer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self { storage: AlignedBytes::try_new(0).expect("no memory is needed for no bytes"), len: 0 }
    }

    /// Makes the buffer `len` floats long. Memory is only taken when it was never that long.
    pub fn resize(&mut self, len: usize) -> Result<(), OutOfMemory> {
        if self.storage.as_f32().len() < len {
            // Not both at once.
            *self = Self::new();
            self.storage = AlignedBytes::try_new_f32(len)?;
        }
        self.len = len;
        Ok(())
    }

    /// Keeps the first `len` floats, where there are more.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Default for FloatBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for FloatBuffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.storage.as_f32()[..self.len]
    }
}

impl DerefMut for FloatBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.storage.as_f32_mut()[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_grows_and_keeps_its_start_when_cut() {
        let mut buffer = FloatBuffer::new();
        assert!(buffer.is_empty());
        buffer.resize(1 << 20).unwrap();
        buffer[7] = 7.0;
        buffer.truncate(8);
        assert_eq!((buffer.len(), buffer[7]), (8, 7.0));
        let before = buffer.as_ptr();
        buffer.resize(1000).unwrap();
        assert_eq!((buffer.len(), buffer.as_ptr()), (1000, before));
    }

    #[test]
    fn too_much_is_an_error_and_leaves_an_empty_buffer() {
        let mut buffer = FloatBuffer::new();
        buffer.resize(16).unwrap();
        assert!(buffer.resize(usize::MAX / 8).is_err());
        assert!(buffer.is_empty());
    }
}
