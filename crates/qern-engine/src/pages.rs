//! Page allocation policy: which sequence owns which page of the KV pool. Handles ids and counts, never tensor memory.
//!
//! Pages are shared by counting owners. A shared page is never written: before a sequence writes into a partly filled page
//! that has other owners, it gets a copy. A prefix cache would be one more owner of full pages; nothing here would change.

use crate::{PAGE_LEN, PageId};

/// Pages needed for the first `num_positions` positions.
pub(crate) fn pages_for(num_positions: usize) -> usize {
    num_positions.div_ceil(PAGE_LEN)
}

/// The pool's bookkeeping.
#[derive(Debug)]
pub(crate) struct PagePool {
    /// Number of owners of each page.
    owners: Vec<u32>,
    free: Vec<PageId>,
}

/// A page whose content must be copied before the next forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageCopy {
    pub(crate) from: PageId,
    pub(crate) to: PageId,
}

/// The pool has too few free pages for what was asked; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfPages;

/// The pages of one sequence, in order. Must be cleared before it is dropped.
#[derive(Debug, Default)]
pub(crate) struct PageTable {
    pages: Vec<PageId>,
}

impl PagePool {
    pub(crate) fn new(num_pages: usize) -> Self {
        let ids =
            (0..num_pages).rev().map(|id| PageId(u32::try_from(id).expect("page ids fit 32 bits: checked at engine start")));
        Self { owners: vec![0; num_pages], free: ids.collect() }
    }

    pub(crate) fn num_pages(&self) -> usize {
        self.owners.len()
    }

    pub(crate) fn num_free(&self) -> usize {
        self.free.len()
    }

    fn allocate(&mut self) -> Option<PageId> {
        let page = self.free.pop()?;
        self.owners[page.0 as usize] = 1;
        Some(page)
    }

    fn share(&mut self, page: PageId) {
        debug_assert!(self.owners[page.0 as usize] > 0, "a free page cannot be shared");
        self.owners[page.0 as usize] += 1;
    }

    fn release(&mut self, page: PageId) {
        let owners = &mut self.owners[page.0 as usize];
        debug_assert!(*owners > 0, "a free page cannot be released");
        *owners -= 1;
        if *owners == 0 {
            self.free.push(page);
        }
    }

    fn is_shared(&self, page: PageId) -> bool {
        self.owners[page.0 as usize] > 1
    }

    /// Checks that `tables` are all the owners there are, and that exactly the other pages are free, each once.
    pub(crate) fn check_integrity<'a>(&self, tables: impl Iterator<Item = &'a PageTable>) -> Result<(), String> {
        let mut counted = vec![0u32; self.owners.len()];
        for page in tables.flat_map(|table| &table.pages) {
            counted[page.0 as usize] += 1;
        }
        if let Some(page) = (0..counted.len()).find(|&page| counted[page] != self.owners[page]) {
            return Err(format!("page {page} has {} owners on the books and {} in the tables", self.owners[page], counted[page]));
        }
        let mut seen = vec![false; self.owners.len()];
        for page in &self.free {
            let id = page.0 as usize;
            if self.owners[id] != 0 || std::mem::replace(&mut seen[id], true) {
                return Err(format!("page {id} is on the free list twice, or with {} owners", self.owners[id]));
            }
        }
        let num_owned = self.owners.iter().filter(|&&owners| owners > 0).count();
        if num_owned + self.free.len() != self.owners.len() {
            return Err(format!("{num_owned} pages owned and {} free of {}", self.free.len(), self.owners.len()));
        }
        Ok(())
    }
}

impl PageTable {
    pub(crate) fn pages(&self) -> &[PageId] {
        &self.pages
    }

    /// Makes positions `from..to` writable: grows the table to cover `to` and takes the page that holds `from` out of sharing.
    /// All or nothing.
    pub(crate) fn reserve(&mut self, pool: &mut PagePool, from: usize, to: usize) -> Result<Option<PageCopy>, OutOfPages> {
        let missing = pages_for(to).saturating_sub(self.pages.len());
        let first = from / PAGE_LEN;
        let shared = self.pages.get(first).copied().filter(|&page| pool.is_shared(page));
        debug_assert!(
            self.pages.iter().skip(first + 1).all(|&page| !pool.is_shared(page)),
            "only the first written page is shared"
        );
        if pool.num_free() < missing + usize::from(shared.is_some()) {
            return Err(OutOfPages);
        }
        let copy = match shared {
            Some(page) => {
                let to = pool.allocate().ok_or(OutOfPages)?;
                pool.release(page);
                self.pages[first] = to;
                Some(PageCopy { from: page, to })
            }
            None => None,
        };
        for _ in 0..missing {
            self.pages.push(pool.allocate().ok_or(OutOfPages)?);
        }
        Ok(copy)
    }

    /// A table that shares this one's pages for the first `num_positions` positions.
    pub(crate) fn fork(&self, pool: &mut PagePool, num_positions: usize) -> Self {
        let pages = self.pages[..pages_for(num_positions)].to_vec();
        for &page in &pages {
            pool.share(page);
        }
        Self { pages }
    }

    /// Gives every page back.
    pub(crate) fn clear(&mut self, pool: &mut PagePool) {
        for page in self.pages.drain(..) {
            pool.release(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_grows_by_whole_pages_and_gives_them_back() {
        let mut pool = PagePool::new(4);
        let mut table = PageTable::default();
        assert_eq!(table.reserve(&mut pool, 0, 1), Ok(None));
        assert_eq!(table.reserve(&mut pool, 1, PAGE_LEN), Ok(None));
        assert_eq!(table.pages().len(), 1);
        assert_eq!(table.reserve(&mut pool, PAGE_LEN, 3 * PAGE_LEN + 1), Ok(None));
        assert_eq!((table.pages().len(), pool.num_free()), (4, 0));
        pool.check_integrity([&table].into_iter()).unwrap();
        table.clear(&mut pool);
        assert_eq!(pool.num_free(), 4);
        pool.check_integrity([&table].into_iter()).unwrap();
    }

    #[test]
    fn a_reservation_that_does_not_fit_changes_nothing() {
        let mut pool = PagePool::new(2);
        let mut table = PageTable::default();
        table.reserve(&mut pool, 0, 1).unwrap();
        assert_eq!(table.reserve(&mut pool, 1, 2 * PAGE_LEN + 1), Err(OutOfPages));
        assert_eq!((table.pages().len(), pool.num_free()), (1, 1));
    }

    #[test]
    fn the_first_writer_of_a_shared_page_copies_and_the_last_writes_in_place() {
        let mut pool = PagePool::new(4);
        let mut first = PageTable::default();
        first.reserve(&mut pool, 0, PAGE_LEN + 10).unwrap();
        let mut second = first.fork(&mut pool, PAGE_LEN + 10);
        assert_eq!(pool.num_free(), 2);
        let shared = first.pages()[1];
        let copy = first.reserve(&mut pool, PAGE_LEN + 10, PAGE_LEN + 11).unwrap().expect("the page is shared");
        assert_eq!((copy.from, copy.to), (shared, first.pages()[1]));
        assert_ne!(copy.to, shared);
        assert_eq!(second.reserve(&mut pool, PAGE_LEN + 10, PAGE_LEN + 11), Ok(None));
        assert_eq!(first.pages()[0], second.pages()[0]);
        pool.check_integrity([&first, &second].into_iter()).unwrap();
        first.clear(&mut pool);
        second.clear(&mut pool);
        assert_eq!(pool.num_free(), 4);
    }

    #[test]
    fn a_fork_at_a_page_boundary_needs_no_copy() {
        let mut pool = PagePool::new(4);
        let mut first = PageTable::default();
        first.reserve(&mut pool, 0, PAGE_LEN).unwrap();
        let mut second = first.fork(&mut pool, PAGE_LEN);
        assert_eq!(first.reserve(&mut pool, PAGE_LEN, PAGE_LEN + 1), Ok(None));
        assert_eq!(second.reserve(&mut pool, PAGE_LEN, PAGE_LEN + 1), Ok(None));
        assert_eq!(pool.num_free(), 1);
    }

    #[test]
    fn integrity_names_the_page_that_leaked() {
        let mut pool = PagePool::new(2);
        let mut table = PageTable::default();
        table.reserve(&mut pool, 0, 1).unwrap();
        assert_eq!(pool.check_integrity(std::iter::empty()).unwrap_err(), "page 0 has 1 owners on the books and 0 in the tables");
    }
}
