//! A file mapped read-only into memory. Hands out bytes and says which of them are needed; knows nothing of their format.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

/// A file mapped read-only: its bytes are read when they are touched, and can be let go again without closing it.
///
/// **Hazard.** A mapping is a window on the file, not a copy. If another process overwrites the file, the bytes change
/// under the reader; if it truncates the file, touching a page past the new end kills this process with `SIGBUS`. Neither
/// can be prevented portably (advisory locks bind only those who ask), so replace a model file by renaming a new one over
/// it, never by writing into it: the mapping then keeps the old file alive, whole and unchanged. Parsers must bound-check
/// every value where they use it, and never trust a value because a check passed the first time it was read.
#[derive(Debug)]
pub struct MappedFile {
    /// `None` for an empty file, which cannot be mapped.
    map: Option<Mmap>,
}

impl MappedFile {
    /// Maps the whole file. An empty file is fine; a folder, or a file longer than the address space, is an error.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if metadata.len() == 0 {
            return Ok(Self { map: None });
        }
        // SAFETY: the mapping is private and read-only, and lives as long as every slice of it. That nobody else changes
        // the file meanwhile cannot be guaranteed; the type's documentation states the hazard, and it is the accepted one
        // of every engine that maps its weights.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map: Some(map) })
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }

    /// The length of the file in bytes, when it was opened.
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Whether the file is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lets go of the memory of the pages that lie wholly inside `range` (cut to the file). The bytes stay readable: a
    /// later touch reads them from the file again. Does nothing where the system has no such call.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Some((map, pages)) = self.map.as_ref().zip(whole_pages(range, self.len(), page_size())) {
            // SAFETY: `MADV_DONTNEED` on a read-only file mapping discards no data: nothing can have been written to the
            // pages, so the next touch brings the same bytes back from the file. Slices of them stay valid.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, pages.start, pages.len()) };
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Asks the system to read `range` (cut to the file) ahead of its use. Returns at once; a hint, never an error.
    pub fn prefetch(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            let (start, end) = (range.start.min(self.len()), range.end.min(self.len()));
            if start < end {
                let _ = map.advise_range(memmap2::Advice::WillNeed, start, end - start);
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Tells the system that the file will be read from front to back, so that it reads further ahead. A hint.
    pub fn advise_sequential(&self) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            let _ = map.advise(memmap2::Advice::Sequential);
        }
    }
}

/// The bytes of the pages that lie wholly inside `range`, once cut to `len`. The page that holds the end of the file counts
/// as whole when the range reaches that end.
#[cfg(unix)]
fn whole_pages(range: Range<usize>, len: usize, page_size: usize) -> Option<Range<usize>> {
    let start = range.start.min(len).next_multiple_of(page_size);
    let end = if range.end >= len { len } else { range.end / page_size * page_size };
    (start < end).then_some(start..end)
}

#[cfg(unix)]
fn page_size() -> usize {
    // SAFETY: `sysconf` takes a constant and touches no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of `len` bytes (`i * 7 mod 251`) in the folder for temporary files, deleted on drop.
    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str, len: usize) -> Self {
            let path = std::env::temp_dir().join(format!("qern-mmap-{}-{name}", std::process::id()));
            std::fs::write(&path, content(len)).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 % 251) as u8).collect()
    }

    #[test]
    fn bytes_are_those_of_the_file_and_survive_release() {
        let scratch = Scratch::new("release", 100_001);
        let file = MappedFile::open(&scratch.0).unwrap();
        file.advise_sequential();
        let far = usize::MAX;
        for range in
            [0..0, 0..100_001, 5..5000, 4096..8192, 0..far, 100_000..far, 200_000..far, far..far, Range { start: 9000, end: 100 }]
        {
            file.prefetch(range.clone());
            file.release(range);
            assert_eq!(file.bytes(), content(100_001));
        }
        assert_eq!(file.len(), 100_001);
    }

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        let scratch = Scratch::new("empty", 0);
        let file = MappedFile::open(&scratch.0).unwrap();
        file.advise_sequential();
        file.prefetch(0..10);
        file.release(0..10);
        assert!(file.is_empty() && file.bytes().is_empty());
    }

    #[test]
    fn a_missing_file_and_a_folder_are_errors() {
        assert_eq!(MappedFile::open(Path::new("/nowhere/model.gguf")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(MappedFile::open(&std::env::temp_dir()).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn only_whole_pages_are_released() {
        let check = |range: Range<usize>, expect: Option<Range<usize>>| assert_eq!(whole_pages(range, 10_000, 4096), expect);
        check(0..4095, None);
        check(0..4096, Some(0..4096));
        check(1..8192, Some(4096..8192));
        check(1..8191, None);
        check(4096..9999, Some(4096..8192));
        check(4096..10_000, Some(4096..10_000));
        check(8193..10_000, None);
        check(0..usize::MAX, Some(0..10_000));
        check(20_000..30_000, None);
    }
}
