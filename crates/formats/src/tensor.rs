//! One tensor of a memory-mapped file.

use crate::{DType, Error};
use memmap2::Mmap;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Bytes of a mapped file (or of a buffer in memory), shared without copying.
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

/// A named tensor: element type, shape (outermost dimension first, as PyTorch prints it) and its bytes.
///
/// The bytes were checked against the shape when the file was opened.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first; the last one is contiguous.
    pub shape: Vec<usize>,
    /// Elements, row after row.
    pub bytes: Bytes,
    /// Scales, when `dtype` is [`DType::Nf4`].
    pub nf4: Option<Arc<Nf4>>,
}

/// The scales of one bitsandbytes NF4 tensor, nested ones already resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Nf4 {
    /// The 16 values a nibble stands for.
    pub quant_map: [f32; 16],
    /// One scale for each block of 64 consecutive elements of the flattened tensor.
    pub absmax: Vec<f32>,
}

impl Tensor {
    /// Elements in all.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size of the last dimension (1 for a scalar).
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len().saturating_sub(1)].iter().product()
    }

    /// Decodes row `row` (of [`Tensor::rows`]) into `out`, whose length is [`Tensor::cols`].
    ///
    /// # Errors
    /// When `row` or the length of `out` doesn't fit the shape.
    pub fn row_f32(&self, row: usize, out: &mut [f32]) -> Result<(), Error> {
        todo!("{row} {}", out.len())
    }

    /// Decodes the whole tensor.
    ///
    /// # Errors
    /// As [`Tensor::row_f32`].
    pub fn to_f32(&self) -> Result<Vec<f32>, Error> {
        todo!()
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
