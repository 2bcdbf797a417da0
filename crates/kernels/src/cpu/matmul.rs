//! Matrix products over packed weights.
#![allow(unsafe_code)]

use super::elementwise::gelu_tanh;
use super::memory::Parts;
use super::pool::Pool;
use super::weight::{CpuWeight, LANES};

/// What becomes of a sum before it is written.
#[derive(Clone, Copy)]
pub(crate) enum Finish<'a> {
    Store,
    Bias(&'a [f32]),
    BiasGelu(&'a [f32]),
}

/// Rows that share one pass over a panel.
const ROWS: usize = 4;

/// `out = x · wᵀ`, finished: x `[m, k]`, out `[m, n]`.
pub(crate) fn matmul(pool: &Pool, x: &[f32], w: &CpuWeight, finish: Finish<'_>, out: &mut [f32]) {
    let (n, k) = (w.n(), w.k());
    let m = out.len() / n.max(1);
    let out = Parts::new(out);
    pool.run(n.div_ceil(LANES), &|panel, _| {
        let weights = w.panel(panel);
        let first = panel * LANES;
        let width = LANES.min(n - first);
        let mut row = 0;
        while row < m {
            let rows = ROWS.min(m - row);
            let mut sums = [[0f32; LANES]; ROWS];
            for r in 0..rows {
                accumulate(&x[(row + r) * k..][..k], weights, &mut sums[r]);
            }
            for (r, sums) in sums[..rows].iter().enumerate() {
                let at = (row + r) * n + first;
                // SAFETY: these columns belong to this panel's task.
                let out = unsafe { out.part(at..at + width) };
                for (lane, out) in out.iter_mut().enumerate() {
                    *out = match finish {
                        Finish::Store => sums[lane],
                        Finish::Bias(bias) => sums[lane] + bias[first + lane],
                        Finish::BiasGelu(bias) => gelu_tanh(sums[lane] + bias[first + lane]),
                    };
                }
            }
            row += rows;
        }
    });
}

fn accumulate(x: &[f32], panel: &[f32], sums: &mut [f32; LANES]) {
    for (&x, w) in x.iter().zip(panel.chunks_exact(LANES)) {
        for (sum, w) in sums.iter_mut().zip(w) {
            *sum += x * w;
        }
    }
}
