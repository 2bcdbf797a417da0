//! Host memory that a card reads and writes by itself, without the driver's copying it first.

use super::driver::{Buffer, Device, check};
use crate::Error;
use cudarc::driver::sys;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// A piece of host memory, and when the card last was done with it.
#[derive(Debug)]
pub(super) struct Pinned {
    at: NonNull<u8>,
    bytes: usize,
    done: sys::CUevent,
    device: Arc<Device>,
}

// SAFETY: the memory is this object's own; the event may be used from any thread.
unsafe impl Send for Pinned {}

impl Pinned {
    /// So many bytes, zeroed.
    pub(super) fn new(device: &Arc<Device>, bytes: usize) -> Result<Self, Error> {
        device.enter()?;
        let mut at = ptr::null_mut();
        // SAFETY: `at` is a place to write to.
        check("cuMemHostAlloc", unsafe { sys::cuMemHostAlloc(&mut at, bytes.max(1), 0) })?;
        let at = NonNull::new(at.cast::<u8>()).ok_or(Error::OutOfMemory { bytes })?;
        let mut done = ptr::null_mut();
        let untimed = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: the memory was just allocated; when there is no event it is given back.
        unsafe {
            ptr::write_bytes(at.as_ptr(), 0, bytes);
            if let Err(error) = check("cuEventCreate", sys::cuEventCreate(&mut done, untimed)) {
                let _ = sys::cuMemFreeHost(at.as_ptr().cast());
                return Err(error);
            }
        }
        Ok(Self { at, bytes, done, device: Arc::clone(device) })
    }

    /// Its size.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes, once the card is done with them.
    pub(super) fn bytes_mut(&mut self) -> Result<&mut [u8], Error> {
        self.device.enter()?;
        // SAFETY: the event lives as long as this; one that was never recorded is done.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.done) })?;
        // SAFETY: the memory is this object's own, written before, and nothing else uses it now.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.bytes) })
    }

    /// Begins to copy the first bytes to a buffer.
    pub(super) fn send(&mut self, bytes: usize, to: &Buffer) -> Result<(), Error> {
        assert!(bytes <= self.bytes.min(to.bytes()), "a copy beyond a buffer");
        self.device.enter()?;
        let stream = self.device.stream();
        // SAFETY: both have so many bytes; these aren't touched before the event.
        unsafe {
            check("cuMemcpyHtoDAsync", sys::cuMemcpyHtoDAsync_v2(to.at(), self.at.as_ptr().cast(), bytes, stream))?;
            check("cuEventRecord", sys::cuEventRecord(self.done, stream))
        }
    }

    /// Copies bytes of a buffer from `from` here, waits for them and gives them.
    pub(super) fn fetch(&mut self, from: &Buffer, first: usize, bytes: usize) -> Result<&[u8], Error> {
        assert!(bytes <= self.bytes && first + bytes <= from.bytes(), "a copy beyond a buffer");
        self.device.enter()?;
        // SAFETY: both have so many bytes; they are waited for.
        unsafe {
            let (to, at) = (self.at.as_ptr().cast(), from.at() + first as u64);
            check("cuMemcpyDtoHAsync", sys::cuMemcpyDtoHAsync_v2(to, at, bytes, self.device.stream()))?;
        }
        self.device.wait()?;
        Ok(&self.bytes_mut()?[..bytes])
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.device.wait().is_ok() {
            // SAFETY: nothing uses them any more.
            unsafe {
                let _ = sys::cuEventDestroy_v2(self.done);
                let _ = sys::cuMemFreeHost(self.at.as_ptr().cast());
            }
        }
    }
}
