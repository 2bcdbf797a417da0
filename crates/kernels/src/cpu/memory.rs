//! Zeroed, cache-line aligned memory, and the view of it that tasks of one parallel loop share.
#![allow(unsafe_code)]

use super::Error;
use memmap2::MmapMut;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;

/// Bytes of a cache line, and of the widest vector.
const ALIGN: usize = 64;
/// Bytes of a large page on most systems that have them.
const LARGE_PAGE: usize = 2 << 20;

/// Element types for which all-zero bytes are a value and which need no drop.
///
/// # Safety
/// Only for types with both properties.
pub(crate) unsafe trait Plain: Copy + Send + Sync + 'static {}
// SAFETY: numbers: zero bytes are the value 0, and there is nothing to drop.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl Plain for u8 {}

/// A fixed number of zeroed elements, aligned to a cache line.
///
/// Large buffers are mappings of their own, of which the system hands out pages only as they are first touched: a pool may
/// reserve more than it will use. (`alloc_zeroed` writes zeros itself where more than its usual alignment is asked for.)
pub(crate) struct Buffer<T: Plain> {
    ptr: NonNull<T>,
    len: usize,
    /// The memory, where it is a mapping of its own.
    map: Option<MmapMut>,
}

// SAFETY: the buffer owns its memory, and T is plain data.
unsafe impl<T: Plain> Send for Buffer<T> {}
// SAFETY: as above; shared references only read.
unsafe impl<T: Plain> Sync for Buffer<T> {}

impl<T: Plain> Buffer<T> {
    /// A buffer of nothing.
    pub(crate) const fn empty() -> Self {
        Self { ptr: NonNull::dangling(), len: 0, map: None }
    }

    /// Allocates `len` zeroed elements; an error when the size overflows or the system has no such memory.
    pub(crate) fn zeroed(len: usize) -> Result<Self, Error> {
        if len == 0 {
            return Ok(Self::empty());
        }
        let layout = Self::layout(len).ok_or(Error::TooLarge)?;
        if layout.size() >= LARGE_PAGE {
            return Self::mapped(len, layout.size());
        }
        // SAFETY: the layout's size isn't zero, since len isn't and no Plain type is empty.
        let ptr = unsafe { alloc_zeroed(layout) };
        let ptr = NonNull::new(ptr.cast::<T>()).ok_or(Error::OutOfMemory { bytes: layout.size() })?;
        Ok(Self { ptr, len, map: None })
    }

    /// As [`Buffer::zeroed`], in large pages where the system has them, for memory that will be read as a whole: a page
    /// is looked up once for 2 MiB then.
    pub(crate) fn in_large_pages(len: usize) -> Result<Self, Error> {
        let bytes = Self::layout(len).ok_or(Error::TooLarge)?.size();
        if bytes < LARGE_PAGE {
            return Self::zeroed(len);
        }
        let buffer = Self::mapped(len, bytes)?;
        // Advice that isn't taken costs speed only.
        #[cfg(target_os = "linux")]
        let _ = buffer.map.as_ref().map(|map| map.advise(memmap2::Advice::HugePage));
        Ok(buffer)
    }

    /// `len` elements in a mapping of their own of `bytes`, which aren't 0.
    fn mapped(len: usize, bytes: usize) -> Result<Self, Error> {
        let mut map = MmapMut::map_anon(bytes).map_err(|_| Error::OutOfMemory { bytes })?;
        let ptr = NonNull::new(map.as_mut_ptr().cast::<T>()).ok_or(Error::OutOfMemory { bytes })?;
        Ok(Self { ptr, len, map: Some(map) })
    }

    /// Replaces the buffer by a larger one when it holds fewer than `len` elements. Contents are lost then.
    pub(crate) fn grow(&mut self, len: usize) -> Result<(), Error> {
        if self.len < len {
            *self = Self::zeroed(len)?;
        }
        Ok(())
    }

    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len.checked_mul(size_of::<T>())?, ALIGN).ok()
    }
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.len != 0 && self.map.is_none() {
            let layout = Self::layout(self.len).expect("the same layout was made when the buffer was allocated");
            // SAFETY: allocated in `zeroed` with this layout, and not freed since.
            unsafe { dealloc(self.ptr.as_ptr().cast(), layout) };
        }
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` initialized (zeroed) elements, or a dangling pointer with len 0.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl<T: Plain> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} × {})", self.len, std::any::type_name::<T>())
    }
}

/// The two halves of each element, in the order they lie in memory.
pub(crate) fn halves(whole: &mut [u32]) -> &mut [u16] {
    // SAFETY: as many bytes, aligned better than needed; any bits are numbers of both types.
    unsafe { std::slice::from_raw_parts_mut(whole.as_mut_ptr().cast(), whole.len() * 2) }
}

/// A mutable slice whose disjoint parts are handed to the tasks of one parallel loop.
pub(crate) struct Parts<'a, T> {
    ptr: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `part`, whose caller promises that concurrent parts don't overlap.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { ptr: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// The part `range` of the slice.
    ///
    /// # Safety
    /// No two parts alive at the same time may overlap.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part {range:?} of {}", self.len);
        // SAFETY: within the slice (just checked), which is borrowed mutably for 'a; the caller keeps parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(range.start), range.len()) }
    }

    /// Writes one element.
    ///
    /// # Safety
    /// No part alive at the same time may hold the element, and no other thread may write it meanwhile.
    #[inline]
    pub(crate) unsafe fn set(&self, index: usize, value: T) {
        assert!(index < self.len, "element {index} of {}", self.len);
        // SAFETY: within the slice; the caller keeps others away.
        unsafe { self.ptr.add(index).write(value) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeroed_aligned_and_refuse_the_impossible() {
        for len in [1000, LARGE_PAGE] {
            let mut large = Buffer::<f32>::in_large_pages(len).unwrap();
            large[len - 1] += 1.0;
            for buffer in [Buffer::<f32>::zeroed(len).unwrap(), large] {
                assert!(buffer[..len - 1].iter().all(|v| v.to_bits() == 0) && buffer.len() == len);
                assert_eq!(buffer.as_ptr() as usize % ALIGN, 0);
            }
        }
        assert!(matches!(Buffer::<u8>::in_large_pages(1 << 62), Err(Error::OutOfMemory { .. })));
        assert!(Buffer::<u16>::zeroed(0).unwrap().is_empty());
        assert!(matches!(Buffer::<f32>::zeroed(usize::MAX), Err(Error::TooLarge)));
        assert!(matches!(Buffer::<u8>::zeroed(1 << 62), Err(Error::OutOfMemory { .. })));
    }

    /// Pages that nobody touched take no memory.
    #[cfg(target_os = "linux")]
    #[test]
    fn reserving_takes_no_memory() {
        const SIZE: usize = 1 << 30;
        let mut buffer = Buffer::<u8>::zeroed(SIZE).unwrap();
        buffer[SIZE / 2] = 1;
        let address = buffer.as_ptr() as usize;
        let holds = |line: &str| {
            let (start, rest) = line.split_once('-')?;
            let end = rest.split_whitespace().next()?;
            let number = |hex| usize::from_str_radix(hex, 16).ok();
            Some((number(start)?..number(end)?).contains(&address))
        };
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines().skip_while(|line| holds(line) != Some(true));
        let resident = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        let kib: usize = resident.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(kib * 1024 < SIZE / 2, "{kib} KiB of {SIZE} bytes are in memory");
    }

    #[test]
    fn growing_keeps_what_is_large_enough() {
        let mut buffer = Buffer::<i32>::zeroed(4).unwrap();
        buffer[3] = 7;
        buffer.grow(2).unwrap();
        assert_eq!(&buffer[..], [0, 0, 0, 7]);
        buffer.grow(5).unwrap();
        assert_eq!(buffer.len(), 5);
    }
}
