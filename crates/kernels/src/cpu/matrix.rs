//! Activations and vectors on the host.

use super::Error;
use super::memory::Buffer;

/// An f32 matrix, row after row, with a fixed capacity of rows of which the first [`CpuMatrix::rows`] are in use.
#[derive(Debug)]
pub struct CpuMatrix {
    data: Buffer<f32>,
    capacity: usize,
    cols: usize,
    rows: usize,
}

impl CpuMatrix {
    pub(crate) fn new(capacity: usize, cols: usize) -> Result<Self, Error> {
        let len = capacity.checked_mul(cols).ok_or(Error::TooLarge)?;
        Ok(Self { data: Buffer::zeroed(len)?, capacity, cols, rows: 0 })
    }

    /// Rows in use.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Rows there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Row `i` of those in use.
    ///
    /// # Panics
    /// When `i` isn't below [`CpuMatrix::rows`].
    pub fn row(&self, i: usize) -> &[f32] {
        &self.as_slice()[i * self.cols..][..self.cols]
    }

    /// The rows in use, one after another.
    pub fn as_slice(&self) -> &[f32] {
        &self.data[..self.rows * self.cols]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.data[..self.rows * self.cols]
    }

    /// Sets the rows in use.
    pub(crate) fn set_rows(&mut self, rows: usize) {
        assert!(rows <= self.capacity, "{rows} rows in a matrix with room for {}", self.capacity);
        self.rows = rows;
    }
}

/// A vector of f32 on the host.
#[derive(Debug)]
pub struct CpuVector(Vec<f32>);

impl CpuVector {
    pub(crate) fn new(values: &[f32]) -> Self {
        Self(values.to_vec())
    }

    /// The values.
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }
}
