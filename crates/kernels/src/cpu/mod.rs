//! The backend that runs on the host's processor.
#![allow(unsafe_code)]

mod attention;
mod cache;
mod elementwise;
mod error;
mod matmul;
mod matrix;
mod memory;
mod pool;
mod weight;

pub use cache::CpuCache;
pub use error::Error;
pub use matrix::{CpuMatrix, CpuVector};
pub use weight::CpuWeight;

use crate::backend::{BLOCK, Backend, CacheSpec, Step, WeightFormat};
use matmul::Finish;
use medgemma_formats::Tensor;
use memory::Parts;
use pool::Pool;
use std::ops::Range;

/// The host's processor, with a pool of threads.
pub struct CpuBackend {
    pool: Pool,
}

/// Elements below which a loop isn't worth waking other threads.
const GRAIN: usize = 16 * 1024;

impl CpuBackend {
    /// A backend with `threads` threads (as many as the machine runs at once when `None`; 1 at least), the caller of an
    /// operation being one of them. Where the system refuses to start so many, it has fewer.
    pub fn new(threads: Option<usize>) -> Self {
        let available = || std::thread::available_parallelism().map_or(1, usize::from);
        Self { pool: Pool::new(threads.unwrap_or_else(available)) }
    }

    /// Runs `body` over `rows` rows of `cols` elements in ranges, in parallel where that pays.
    fn rows(&self, rows: usize, cols: usize, body: &(dyn Fn(Range<usize>) + Sync)) {
        let each = (GRAIN / cols.max(1)).max(rows.div_ceil(4 * self.pool.threads())).max(1);
        self.pool.run(rows.div_ceil(each), &|task, _| body(task * each..rows.min((task + 1) * each)));
    }

    /// Runs `body(row, its cols elements)` for each row of `out`.
    fn each_row(&self, out: &mut CpuMatrix, body: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        let (rows, cols) = (out.rows(), out.cols());
        let parts = Parts::new(out.as_mut_slice());
        self.rows(rows, cols, &|range| {
            for row in range {
                // SAFETY: every row is visited once.
                body(row, unsafe { parts.part(row * cols..(row + 1) * cols) });
            }
        });
    }

    fn product(&self, x: &CpuMatrix, w: &CpuWeight, finish: Finish<'_>, out: &mut CpuMatrix) {
        assert_eq!((x.cols(), out.cols()), (w.k(), w.n()), "matmul: shapes differ");
        out.set_rows(x.rows());
        matmul::matmul(&self.pool, x.as_slice(), w, finish, out.as_mut_slice());
    }
}

/// Where a row of a step lies in the cache: block and slot.
fn places(step: &Step) -> impl Fn(usize) -> (usize, usize) + '_ {
    move |row| {
        let position = step.positions[row] as usize;
        let sequence = step.sequences.partition_point(|s| s.rows.end <= row);
        (step.sequences[sequence].table[position / BLOCK] as usize, position % BLOCK)
    }
}

impl Backend for CpuBackend {
    type Error = Error;
    type Matrix = CpuMatrix;
    type Weight = CpuWeight;
    type Vector = CpuVector;
    type Cache = CpuCache;

    fn name(&self) -> String {
        let threads = self.pool.threads();
        format!("cpu (scalar, {threads} thread{})", if threads == 1 { "" } else { "s" })
    }

    fn weight(&self, tensors: &[&Tensor], format: WeightFormat) -> Result<CpuWeight, Error> {
        CpuWeight::from_tensors(&self.pool, tensors, format)
    }

    fn weight_f32(&self, values: &[f32], n: usize, k: usize, format: WeightFormat) -> Result<CpuWeight, Error> {
        CpuWeight::from_values(&self.pool, values, n, k, format)
    }

    fn weight_bytes(&self, weight: &CpuWeight) -> usize {
        weight.bytes()
    }

    fn vector(&self, values: &[f32]) -> Result<CpuVector, Error> {
        Ok(CpuVector::new(values))
    }

    fn matrix(&self, capacity: usize, cols: usize) -> Result<CpuMatrix, Error> {
        CpuMatrix::new(capacity, cols)
    }

    fn cache(&self, spec: CacheSpec) -> Result<CpuCache, Error> {
        CpuCache::new(spec)
    }

    fn upload(&self, values: &[f32], out: &mut CpuMatrix) {
        assert!(values.len().is_multiple_of(out.cols().max(1)), "upload: not whole rows");
        out.set_rows(values.len() / out.cols().max(1));
        out.as_mut_slice().copy_from_slice(values);
    }

    fn download(&self, x: &CpuMatrix, out: &mut [f32]) {
        out.copy_from_slice(x.as_slice());
    }

    fn gather(&self, x: &CpuMatrix, rows: &[u32], out: &mut CpuMatrix) {
        assert_eq!(x.cols(), out.cols(), "gather: columns differ");
        out.set_rows(rows.len());
        self.each_row(out, &|i, out| out.copy_from_slice(x.row(rows[i] as usize)));
    }

    fn overwrite(&self, rows: &CpuMatrix, first: usize, x: &mut CpuMatrix) {
        assert_eq!(x.cols(), rows.cols(), "overwrite: columns differ");
        let at = first * x.cols();
        x.as_mut_slice()[at..at + rows.as_slice().len()].copy_from_slice(rows.as_slice());
    }

    fn matmul(&self, x: &CpuMatrix, w: &CpuWeight, out: &mut CpuMatrix) {
        self.product(x, w, Finish::Store, out);
    }

    fn add(&self, y: &CpuMatrix, x: &mut CpuMatrix) {
        assert_eq!((y.rows(), y.cols()), (x.rows(), x.cols()), "add: shapes differ");
        self.each_row(x, &|i, x| x.iter_mut().zip(y.row(i)).for_each(|(x, y)| *x += y));
    }

    fn attention(
        &self,
        q: &CpuMatrix,
        heads: usize,
        cache: &CpuCache,
        layer: usize,
        step: &Step,
        window: Option<usize>,
        scale: f32,
        out: &mut CpuMatrix,
    ) {
        let spec = cache.spec();
        assert_eq!((q.cols(), out.cols()), (heads * spec.head_dim, heads * spec.head_dim), "attention: shapes differ");
        assert!(heads.is_multiple_of(spec.kv_heads), "attention: {heads} heads over {}", spec.kv_heads);
        out.set_rows(q.rows());
        let queries = attention::Queries { q: q.as_slice(), heads, layer, step, window, scale };
        attention::attention(&self.pool, &queries, cache, out.as_mut_slice());
    }

    fn embed(&self, w: &CpuWeight, ids: &[u32], scale: f32, out: &mut CpuMatrix) {
        assert_eq!(out.cols(), w.k(), "embed: columns differ");
        out.set_rows(ids.len());
        self.each_row(out, &|i, out| w.row(ids[i] as usize, scale, out));
    }

    fn rms_norm(&self, x: &CpuMatrix, w: &CpuVector, eps: f32, out: &mut CpuMatrix) {
        assert_eq!((out.cols(), w.as_slice().len()), (x.cols(), x.cols()), "rms_norm: columns differ");
        out.set_rows(x.rows());
        self.each_row(out, &|i, out| elementwise::rms_norm(x.row(i), w.as_slice(), eps, out));
    }

    fn add_rms_norm(&self, y: &CpuMatrix, w: &CpuVector, eps: f32, x: &mut CpuMatrix) {
        assert_eq!((y.rows(), y.cols(), w.as_slice().len()), (x.rows(), x.cols(), x.cols()), "add_rms_norm: shapes");
        self.each_row(x, &|i, x| elementwise::add_rms_norm(y.row(i), w.as_slice(), eps, x));
    }

    fn geglu(&self, gate_up: &CpuMatrix, out: &mut CpuMatrix) {
        assert_eq!(gate_up.cols(), 2 * out.cols(), "geglu: columns differ");
        out.set_rows(gate_up.rows());
        self.each_row(out, &|i, out| elementwise::geglu(gate_up.row(i), out));
    }

    fn rope_table(&self, inv_freq: &CpuVector, step: &Step, out: &mut CpuMatrix) {
        assert_eq!(out.cols(), 2 * inv_freq.as_slice().len(), "rope_table: columns differ");
        out.set_rows(step.positions.len());
        self.each_row(out, &|i, out| elementwise::rope_row(inv_freq.as_slice(), step.positions[i], out));
    }

    fn qkv_rope_store(
        &self,
        qkv: &CpuMatrix,
        heads: usize,
        q_norm: &CpuVector,
        k_norm: &CpuVector,
        eps: f32,
        rope: &CpuMatrix,
        step: &Step,
        cache: &mut CpuCache,
        layer: usize,
        q: &mut CpuMatrix,
    ) {
        let CacheSpec { kv_heads, head_dim: dim, .. } = cache.spec();
        assert_eq!((qkv.cols(), q.cols()), ((heads + 2 * kv_heads) * dim, heads * dim), "qkv_rope_store: columns");
        assert_eq!((rope.rows(), rope.cols()), (qkv.rows(), dim), "qkv_rope_store: table");
        q.set_rows(qkv.rows());
        let place = places(step);
        let cache = cache.writer();
        self.each_row(q, &|row, q| {
            let (from_q, kv) = qkv.row(row).split_at(heads * dim);
            let (keys, values) = kv.split_at(kv_heads * dim);
            for (from, q) in from_q.chunks_exact(dim).zip(q.chunks_exact_mut(dim)) {
                elementwise::rms_norm(from, q_norm.as_slice(), eps, q);
                elementwise::rotate(q, rope.row(row));
            }
            let (block, slot) = place(row);
            let mut normed = vec![0f32; dim];
            for head in 0..kv_heads {
                let key = &keys[head * dim..][..dim];
                elementwise::rms_norm(key, k_norm.as_slice(), eps, &mut normed);
                elementwise::rotate(&mut normed, rope.row(row));
                // SAFETY: rows of a step have different positions or blocks, and each row is visited once.
                unsafe { cache.store(block, slot, layer, head, &normed, &values[head * dim..][..dim]) };
            }
        });
    }

    fn matmul_bias(&self, x: &CpuMatrix, w: &CpuWeight, bias: &CpuVector, out: &mut CpuMatrix) {
        self.product(x, w, Finish::Bias(bias.as_slice()), out);
    }

    fn matmul_bias_gelu(&self, x: &CpuMatrix, w: &CpuWeight, bias: &CpuVector, out: &mut CpuMatrix) {
        self.product(x, w, Finish::BiasGelu(bias.as_slice()), out);
    }

    fn layer_norm(&self, x: &CpuMatrix, w: &CpuVector, b: &CpuVector, eps: f32, out: &mut CpuMatrix) {
        assert_eq!((out.cols(), w.as_slice().len()), (x.cols(), x.cols()), "layer_norm: columns differ");
        out.set_rows(x.rows());
        self.each_row(out, &|i, out| elementwise::layer_norm(x.row(i), w.as_slice(), b.as_slice(), eps, out));
    }

    fn qkv_store(&self, qkv: &CpuMatrix, step: &Step, cache: &mut CpuCache, layer: usize, q: &mut CpuMatrix) {
        let CacheSpec { kv_heads, head_dim: dim, .. } = cache.spec();
        let width = kv_heads * dim;
        assert_eq!((qkv.cols(), q.cols()), (3 * width, width), "qkv_store: columns differ");
        q.set_rows(qkv.rows());
        let place = places(step);
        let cache = cache.writer();
        self.each_row(q, &|row, q| {
            let from = qkv.row(row);
            q.copy_from_slice(&from[..width]);
            let (block, slot) = place(row);
            for head in 0..kv_heads {
                let (key, value) = (&from[width + head * dim..][..dim], &from[2 * width + head * dim..][..dim]);
                // SAFETY: rows of a step have different positions or blocks, and each row is visited once.
                unsafe { cache.store(block, slot, layer, head, key, value) };
            }
        });
    }

    fn avg_pool(&self, x: &CpuMatrix, side: usize, kernel: usize, out: &mut CpuMatrix) {
        assert_eq!((x.rows(), x.cols()), (side * side, out.cols()), "avg_pool: shapes differ");
        let small = side / kernel;
        out.set_rows(small * small);
        self.each_row(out, &|i, out| {
            let (top, left) = (i / small * kernel, i % small * kernel);
            out.fill(0.0);
            for (dy, dx) in (0..kernel).flat_map(|dy| (0..kernel).map(move |dx| (dy, dx))) {
                let pixel = x.row((top + dy) * side + left + dx);
                out.iter_mut().zip(pixel).for_each(|(out, x)| *out += x);
            }
            let count = (kernel * kernel) as f32;
            out.iter_mut().for_each(|out| *out /= count);
        });
    }
}

#[cfg(test)]
mod tests;
