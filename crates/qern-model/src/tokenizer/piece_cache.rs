//! The ids of short pieces seen before: most text repeats its words. Bounded, and freed with its tokenizer.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use crate::Result;
use crate::batch::TokenId;

const MAX_PIECES: usize = 1 << 15;
const MAX_PIECE_LEN: usize = 64;

type Pieces = HashMap<Box<str>, Box<[TokenId]>>;

#[derive(Debug, Default)]
pub struct PieceCache(Mutex<Pieces>);

/// The cache for the time of one text, or nothing while another thread has it: encoding never waits.
pub struct Locked<'a>(Option<MutexGuard<'a, Pieces>>);

impl PieceCache {
    pub fn lock(&self) -> Locked<'_> {
        Locked(self.0.try_lock().ok())
    }
}

impl Locked<'_> {
    /// Appends the piece's ids to `ids`, computing them only if they are not known.
    pub fn get_or_insert(
        &mut self,
        piece: &str,
        ids: &mut Vec<TokenId>,
        encode: impl FnOnce(&mut Vec<TokenId>) -> Result<()>,
    ) -> Result<()> {
        let Some(known) = self.0.as_mut().filter(|_| piece.len() <= MAX_PIECE_LEN) else {
            return encode(ids);
        };
        if let Some(found) = known.get(piece) {
            ids.extend_from_slice(found);
            return Ok(());
        }
        let start = ids.len();
        encode(ids)?;
        if known.len() >= MAX_PIECES {
            known.clear();
        }
        known.insert(piece.into(), ids[start..].into());
        Ok(())
    }
}
