//! The backend that runs on an NVIDIA card.
//!
//! Everything is done on one stream, in order. A failure of the card while it computes can't be undone and ends the
//! program with the driver's words; what can be refused (memory, a missing card) is an error.
#![allow(unsafe_code)]

mod attention;
mod driver;
mod images;
mod layer;
mod lt;
mod many;
mod matrix;
mod ops;
mod pinned;
mod product;
mod record;
mod staged;
#[cfg(test)]
mod tests;
mod weight;

pub use matrix::{CudaCache, CudaMatrix, CudaVector};
pub use record::CudaRecordings;
pub use staged::CudaStaged;
pub use weight::CudaWeight;

use crate::Error;
pub use driver::Card;
use driver::{Buffer, Device, Kernels, Shape};
use lt::Lt;
use pinned::Pinned;
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that come back at once: logits of four tokens.
const INBOX: usize = 4 << 20;

/// What operations need memory for.
#[derive(Clone, Copy, Debug)]
enum Scratch {
    /// The most likely tokens.
    Greedy,
    /// A product's operand in bf16.
    Operand,
    /// Quantized weights in bf16.
    Weights,
    /// What spans of keys give to a row.
    Spans,
    /// The largest score and the sum of each span.
    SpanSums,
    /// Spans that have ended: zero between operations.
    SpansEnded,
    /// Addends of products.
    Quarters,
    /// Where the blocks of a layer's kernel wait for each other: zeroed once.
    Meeting,
    /// Sums between passes over k.
    Passes,
    /// A layer's keys and values of 8 bits in bf16.
    Widened,
}

/// An NVIDIA card.
///
/// Weights that the file stores as floats are held in bf16, quantized blocks with their exact values; operands of products
/// and what the cache holds are rounded to bf16, sums are f32. Results depend on how many rows are computed together: by
/// rounding, not by more.
pub struct CudaBackend {
    kernels: Kernels,
    device: Arc<Device>,
    /// Everything is held in f32.
    exact: bool,
    /// What comes back from the card goes through here.
    inbox: Mutex<Pinned>,
    /// For products of many rows; none where cuBLASLt isn't there.
    lt: Option<Mutex<Lt>>,
    /// Memory of operations, by what it is for.
    scratch: [Mutex<Option<Buffer>>; 10],
    /// How often some of it was made anew elsewhere: recordings of before are of no use.
    moved: AtomicUsize,
}

impl CudaBackend {
    /// Card `index` (0 for the first).
    ///
    /// # Errors
    /// When there is no driver or no such card, or it is older than the kernels need.
    pub fn new(index: usize) -> Result<Self, Error> {
        let device = Device::open(index)?;
        let images = images::of(device.capability());
        let mut kernels = Kernels::load(&device, &images.binaries, images.early)?;
        kernels.share("mm_", product::shared)?;
        kernels.share("many90", many::shared)?;
        kernels.share("flash", attention::shared)?;
        kernels.share("decode90", attention::shared)?;
        kernels.share("slim90", attention::shared)?;
        kernels.share("layer90", |_| attention::SHARED)?;
        kernels.cluster("decode90")?;
        kernels.cluster("slim90")?;
        let inbox = Mutex::new(Pinned::new(&device, INBOX)?);
        let lt = Lt::new(&device)?.map(Mutex::new);
        Ok(Self { kernels, device, exact: false, inbox, lt, scratch: Default::default(), moved: AtomicUsize::new(0) })
    }

    /// As [`CudaBackend::new`], with everything in f32, slowly: what the reference computes, for tests.
    ///
    /// # Errors
    /// As [`CudaBackend::new`].
    pub fn exact(index: usize) -> Result<Self, Error> {
        Ok(Self { exact: true, ..Self::new(index)? })
    }

    /// What card `index` is.
    ///
    /// # Errors
    /// As [`CudaBackend::new`].
    pub fn card(index: usize) -> Result<Card, Error> {
        Card::find(index)
    }

    /// Bytes of the card's memory: free, and in all.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn memory(&self) -> Result<(usize, usize), Error> {
        Ok((self.device.free_memory()?, self.device.memory()))
    }

    /// Launches a kernel, unless it is only gone through because its recording is played back.
    ///
    /// # Safety
    /// The parameters are the kernel's, and what they point to has the size it expects.
    unsafe fn launch(&self, name: &str, shape: Shape, params: &mut [*mut c_void]) {
        if !record::playing() {
            // SAFETY: the caller's promise.
            done(unsafe { self.kernels.launch(name, &shape, params) });
        }
    }

    /// Makes sure that an operation finds so many bytes.
    fn reserve(&self, purpose: Scratch, bytes: usize) -> Result<(), Error> {
        let mut scratch = lock(&self.scratch[purpose as usize]);
        if scratch.as_ref().is_none_or(|buffer| buffer.bytes() < bytes) {
            *scratch = None;
            *scratch = Some(Buffer::zeroed(&self.device, bytes)?);
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Memory for an operation of at least so many bytes, as long as the guard lives.
    fn scratch(&self, purpose: Scratch, bytes: usize) -> MutexGuard<'_, Option<Buffer>> {
        let mut scratch = lock(&self.scratch[purpose as usize]);
        if scratch.as_ref().is_none_or(|buffer| buffer.bytes() < bytes) {
            *scratch = None;
            *scratch = Some(done(Buffer::zeroed(&self.device, bytes.next_power_of_two())));
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
        scratch
    }
}

/// Nothing behind these locks can be left half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The result of an operation that can only fail with the card.
///
/// # Panics
/// When it failed.
fn done<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}
