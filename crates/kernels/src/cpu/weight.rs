//! Weight matrices, packed at load in panels of [`LANES`] output rows.
//!
//! A panel is interleaved along k: for each k it holds the element of each of its rows, so that one vector load brings
//! a column of the panel. One row of activations and many read the same layout in the same order.
#![allow(unsafe_code)]

use super::memory::{Buffer, Parts};
use super::{Error, pool::Pool};
use crate::backend::WeightFormat;
use half::bf16;
use medgemma_formats::Tensor;
use std::sync::Mutex;

/// Output rows of a panel.
pub(crate) const LANES: usize = 16;

/// A packed weight matrix `[n, k]`.
#[derive(Debug)]
pub struct CpuWeight {
    n: usize,
    k: usize,
    /// `[panel][k][LANES]`; rows past n are zero.
    panels: Buffer<f32>,
}

impl CpuWeight {
    /// Packs the rows of `tensors`, stacked.
    pub(crate) fn from_tensors(pool: &Pool, tensors: &[&Tensor], format: WeightFormat) -> Result<Self, Error> {
        let k = tensors.first().map_or(0, |t| t.cols());
        if let Some(odd) = tensors.iter().find(|t| t.cols() != k) {
            let problem =
                format!("tensor {}: {} columns where the rows it is stacked on have {k}", odd.name, odd.cols());
            return Err(Error::Shape(problem));
        }
        // First row of each tensor in the stack.
        let mut starts = vec![0usize];
        for tensor in tensors {
            let end = starts[starts.len() - 1].checked_add(tensor.rows()).ok_or(Error::TooLarge)?;
            starts.push(end);
        }
        let n = starts[tensors.len()];
        Self::pack(pool, n, k, format, &|row, out| {
            let tensor = starts.partition_point(|&start| start <= row) - 1;
            Ok(tensors[tensor].row_f32(row - starts[tensor], out)?)
        })
    }

    /// Packs `values`, `[n, k]`.
    pub(crate) fn from_values(
        pool: &Pool,
        values: &[f32],
        n: usize,
        k: usize,
        format: WeightFormat,
    ) -> Result<Self, Error> {
        if n.checked_mul(k) != Some(values.len()) {
            return Err(Error::Shape(format!("{} values for a weight of {n} × {k}", values.len())));
        }
        Self::pack(pool, n, k, format, &|row, out| {
            out.copy_from_slice(&values[row * k..][..k]);
            Ok(())
        })
    }

    fn pack(
        pool: &Pool,
        n: usize,
        k: usize,
        format: WeightFormat,
        read: &(dyn Fn(usize, &mut [f32]) -> Result<(), Error> + Sync),
    ) -> Result<Self, Error> {
        let count = n.div_ceil(LANES);
        let len = count.checked_mul(LANES).and_then(|rows| rows.checked_mul(k)).ok_or(Error::TooLarge)?;
        let mut panels = Buffer::zeroed(len)?;
        let parts = Parts::new(&mut panels);
        let failed = Mutex::new(None);
        pool.run(count, &|panel, _| {
            // SAFETY: each panel is its own part.
            let out = unsafe { parts.part(panel * LANES * k..(panel + 1) * LANES * k) };
            let mut row = vec![0f32; k];
            for lane in 0..LANES.min(n - panel * LANES) {
                if let Err(error) = read(panel * LANES + lane, &mut row) {
                    *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                    return;
                }
                for (i, &value) in row.iter().enumerate() {
                    let value = if format == WeightFormat::BF16 { bf16::from_f32(value).to_f32() } else { value };
                    out[i * LANES + lane] = value;
                }
            }
        });
        match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(Self { n, k, panels }),
        }
    }

    /// Output features.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input features.
    pub fn k(&self) -> usize {
        self.k
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.panels[..])
    }

    pub(crate) fn panel(&self, panel: usize) -> &[f32] {
        &self.panels[panel * LANES * self.k..][..LANES * self.k]
    }

    /// Decodes row `row` into `out`, times `scale`.
    pub(crate) fn row(&self, row: usize, scale: f32, out: &mut [f32]) {
        let panel = self.panel(row / LANES);
        for (out, w) in out.iter_mut().zip(panel.chunks_exact(LANES)) {
            *out = w[row % LANES] * scale;
        }
    }
}
