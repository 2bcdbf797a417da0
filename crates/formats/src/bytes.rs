//! Bytes shared without copying: of a mapped file, of the binary itself, or of a buffer.
//!
//! The only unsafe code of the crate is here: the memory map and the advice that drops its pages.
#![allow(unsafe_code)]

use crate::Error;
use memmap2::Mmap;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

/// Bytes of a mapped file (or of a buffer in memory), shared without copying.
///
/// ```
/// use medgemma_formats::Bytes;
/// let bytes = Bytes::from(vec![1, 2, 3, 4]);
/// let middle = bytes.slice(1..3).unwrap();
/// assert_eq!(&*middle, &[2, 3]);
/// assert!(bytes.slice(3..5).is_none());
/// ```
#[derive(Clone, Debug)]
pub struct Bytes {
    source: Source,
    range: Range<usize>,
}

#[derive(Clone, Debug)]
enum Source {
    Map(Arc<Mmap>),
    Static(&'static [u8]),
    Owned(Arc<Vec<u8>>),
}

impl Bytes {
    /// Maps a file read-only. Pages are read ahead, since weights are read from front to back.
    ///
    /// The file must not be cut short while it is mapped: reading what is gone then ends the process (SIGBUS), as
    /// with every program that maps its weights.
    ///
    /// # Errors
    /// [`Error::Io`] when it can't be opened or isn't a regular file (opening a pipe would wait for ever).
    pub fn map(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::io(path, source);
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(io(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file")));
        }
        let file = File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() == 0 {
            return Ok(Self::from(Vec::new()));
        }
        // SAFETY: the map is read-only and private, and lives as long as any `Bytes` of it. Another process that
        // changes the file while it is mapped is outside what can be guarded against; values read from it are only
        // ever used as numbers and were checked, or are checked again, at each use.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        #[cfg(unix)]
        // Only a hint: a file system that can't follow it still serves the pages.
        let _ = map.advise(memmap2::Advice::Sequential);
        let range = 0..map.len();
        Ok(Self { source: Source::Map(Arc::new(map)), range })
    }

    /// Maps `len` bytes of an open file from `offset` on, read-only, for reading in any order; `path` is for errors.
    ///
    /// # Errors
    /// [`Error::Io`] when the file has no such bytes or can't be mapped.
    pub fn map_part(file: &File, path: &Path, offset: u64, len: usize) -> Result<Self, Error> {
        let io = |source| Error::io(path, source);
        let end = u64::try_from(len).ok().and_then(|len| offset.checked_add(len));
        if end.is_none_or(|end| file.metadata().is_ok_and(|meta| meta.len() < end)) {
            return Err(io(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the file is shorter than that")));
        }
        if len == 0 {
            return Ok(Self::from(Vec::new()));
        }
        // SAFETY: as in `map`; the range is within the file.
        let map = unsafe { memmap2::MmapOptions::new().offset(offset).len(len).map(file) }.map_err(io)?;
        Ok(Self { source: Source::Map(Arc::new(map)), range: 0..len })
    }

    /// Makes the pages of a mapped file ready to be read, reading them from the disk where they aren't in memory: one
    /// call instead of a fault at every few pages. Where the system can't, nothing happens.
    pub fn populate(&self) {
        #[cfg(target_os = "linux")]
        if let Source::Map(map) = &self.source
            && !self.range.is_empty()
        {
            let _ = map.advise_range(memmap2::Advice::PopulateRead, self.range.start, self.range.len());
        }
    }

    /// Bytes embedded in the binary.
    pub const fn from_static(bytes: &'static [u8]) -> Self {
        Self { source: Source::Static(bytes), range: 0..bytes.len() }
    }

    /// The part `range` of these bytes, sharing their memory; `None` when it reaches past them.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        let start = self.range.start.checked_add(range.start)?;
        let end = self.range.start.checked_add(range.end)?;
        (start <= end && end <= self.range.end).then(|| Self { source: self.source.clone(), range: start..end })
    }

    /// Lets go of the memory these bytes take: for use once a tensor has been packed into a backend's own layout.
    ///
    /// Pages of a mapped file leave the process's resident set and are read again from the file if they are used
    /// again; the bytes stay valid. Buffers and embedded bytes are left as they are.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Source::Map(map) = &self.source
            && !self.range.is_empty()
        {
            // SAFETY: the map is a private, read-only map of a file, so no page holds anything that the file
            // doesn't: dropping one loses nothing, and the next access reads the same bytes again.
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, self.range.start, self.range.len())
            };
        }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { source: Source::Owned(Arc::new(bytes)), range }
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &self.source {
            Source::Map(map) => map,
            Source::Static(bytes) => bytes,
            Source::Owned(bytes) => bytes,
        };
        &all[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn released_pages_are_read_again() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        file.write_all(&content).unwrap();
        let bytes = Bytes::map(file.path()).unwrap();
        let part = bytes.slice(5_000..90_001).unwrap();
        assert_eq!(&*part, &content[5_000..90_001]);
        part.release();
        assert_eq!(&*part, &content[5_000..90_001]);
        assert_eq!(&*bytes, &content[..]);
    }

    #[test]
    fn a_part_is_mapped_where_it_lies() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        file.write_all(&content).unwrap();
        let map = |offset, len| Bytes::map_part(file.as_file(), file.path(), offset, len);
        let part = map(65_536, 100_001).unwrap();
        part.populate();
        assert_eq!(&*part, &content[65_536..165_537]);
        assert!(map(65_536, 0).unwrap().is_empty());
        assert!(map(65_536, 134_465).is_err() && map(u64::MAX, 2).is_err());
    }

    #[test]
    fn slices_stay_inside() {
        let bytes = Bytes::from_static(b"abcdef");
        let part = bytes.slice(2..5).unwrap();
        assert_eq!(&*part, b"cde");
        assert_eq!(&*part.slice(1..3).unwrap(), b"de");
        assert!(part.slice(1..4).is_none(), "past its own end, though inside the parent");
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = 3..2;
        assert!(part.slice(reversed).is_none());
        assert!(part.slice(usize::MAX - 1..usize::MAX).is_none());
        assert!(part.slice(3..3).unwrap().is_empty());
    }

    #[test]
    fn only_regular_files_are_mapped() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Bytes::map(dir.path()), Err(Error::Io { .. })));
        assert!(matches!(Bytes::map(&dir.path().join("absent")), Err(Error::Io { .. })));
        let empty = dir.path().join("empty");
        std::fs::write(&empty, b"").unwrap();
        let bytes = Bytes::map(&empty).unwrap();
        assert!(bytes.is_empty());
        bytes.release();
    }
}
