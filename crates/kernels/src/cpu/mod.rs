//! The backend that runs on the host's processor.
#![allow(unsafe_code)]

mod attention;
mod cache;
mod cores;
mod elementwise;
mod error;
mod math;
mod matmul;
mod matrix;
mod memory;
mod pack;
mod pool;
mod simd;
mod staged;
mod store;

pub use cache::CpuCache;
pub use error::Error;
pub use matrix::{CpuMatrix, CpuVector};
pub use pack::CpuWeight;
pub use simd::Isa;
pub use staged::CpuStaged;
pub use store::{PackCache, Packed};

use crate::backend::{BLOCK, Backend, CacheSpec, Greedy, Part, Rows, Step, WeightFormat};
use elementwise::{Add, AddRmsNorm, GeGlu, LayerNorm, NormRotate, RmsNorm};
use matmul::Finish;
use medgemma_formats::Tensor;
use memory::Parts;
use pool::Pool;
use simd::Found;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use store::Store;

/// The host's processor, with a pool of threads.
///
/// Weights of groups that don't divide a row (Q8 and Q4: 32 elements, NF4: 64) are held as the file stores them.
/// Products with integer formats round the activations to 8 bits in groups of 32, or of 128 for K-quants.
pub struct CpuBackend {
    pool: Pool,
    isa: Found,
    products: Mutex<matmul::Scratch>,
    heads: Mutex<attention::Scratch>,
    /// Where packed weights are kept on disk, if anywhere.
    packed: Option<PackCache>,
    /// The file of the part that is being loaded.
    store: Mutex<Store>,
}

/// Elements below which a loop isn't worth waking other threads.
const GRAIN: usize = 16 * 1024;

impl CpuBackend {
    /// A backend with `threads` threads (one for each core when `None`; 1 at least), the caller of an operation being
    /// one of them. Where the system refuses to start so many, it has fewer.
    ///
    /// It uses the best instructions the machine has, or those that the environment variable `MEDGEMMA_ISA` names
    /// (`scalar`, `avx2`, `avxvnni` or `avx512`).
    pub fn new(threads: Option<usize>) -> Self {
        Self::with_isa(threads, Isa::from_env())
    }

    /// As [`CpuBackend::new`] with given instructions, or the best the machine has where it lacks those.
    pub fn with_isa(threads: Option<usize>, isa: Isa) -> Self {
        Self {
            pool: Pool::new(threads.unwrap_or_else(cores::count)),
            isa: Found::new(isa),
            products: Mutex::new(matmul::Scratch::new()),
            heads: Mutex::new(attention::Scratch::new()),
            packed: None,
            store: Mutex::new(Store::Off),
        }
    }

    /// Keeps packed weights in files of `cache` and finds them there the next time.
    #[must_use]
    pub fn keeping(mut self, cache: Option<PackCache>) -> Self {
        self.packed = cache;
        self
    }

    /// The instructions in use.
    pub fn isa(&self) -> Isa {
        self.isa.isa()
    }

    /// Runs `body(rows, thread)` over `rows` rows of `cols` elements in ranges, in parallel where that pays.
    fn rows(&self, rows: usize, cols: usize, body: &(dyn Fn(Range<usize>, usize) + Sync)) {
        let each = (GRAIN / cols.max(1)).max(rows.div_ceil(4 * self.pool.threads())).max(1);
        self.pool.run(rows.div_ceil(each), &|task, thread| body(task * each..rows.min((task + 1) * each), thread));
    }

    /// Runs `body(row, its cols elements)` for each row of `out`.
    fn each_row(&self, out: &mut CpuMatrix, body: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        self.each_row_on(out, &|row, out, _| body(row, out));
    }

    /// As [`CpuBackend::each_row`], with the thread.
    fn each_row_on(&self, out: &mut CpuMatrix, body: &(dyn Fn(usize, &mut [f32], usize) + Sync)) {
        let (rows, cols) = (out.rows(), out.cols());
        let parts = Parts::new(out.as_mut_slice());
        self.rows(rows, cols, &|range, thread| {
            for row in range {
                // SAFETY: every row is visited once.
                body(row, unsafe { parts.part(row * cols..(row + 1) * cols) }, thread);
            }
        });
    }

    fn product(&self, x: &CpuMatrix, w: &CpuWeight, finish: Finish<'_>, out: &mut CpuMatrix) {
        assert_eq!((x.cols(), out.cols()), (w.k(), w.n()), "matmul: shapes differ");
        out.set_rows(x.rows());
        let scratch = &mut *lock(&self.products);
        matmul::matmul(&self.pool, self.isa, scratch, x.as_slice(), w, finish, out.as_mut_slice());
    }

    /// `format`, or what stands in for it where the instruction set can't multiply in it.
    fn possible(&self, format: WeightFormat) -> WeightFormat {
        let impossible = format == WeightFormat::BF16Products && !self.isa.products16();
        if impossible { WeightFormat::Stored } else { format }
    }

    /// Makes room for products with a new weight, so that none needs to ask for memory.
    fn prepared(&self, weight: CpuWeight) -> Result<CpuWeight, Error> {
        lock(&self.products).reserve(self.pool.threads(), &weight)?;
        Ok(weight)
    }
}

/// Scratch memory holds nothing that an operation that panicked could have left wrong.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a row of a step lies in the cache: block and slot. No two rows lie in the same place.
///
/// # Panics
/// When positions don't rise within a sequence, or two sequences write to one block.
fn places(step: &Step) -> impl Fn(usize) -> (usize, usize) + '_ {
    let written = |sequence: &Rows| {
        let positions = &step.positions[sequence.rows.clone()];
        assert!(positions.is_sorted_by(|a, b| a < b), "positions of a sequence must rise");
        let block = |position: Option<&u32>| position.map_or(0, |p| *p as usize / BLOCK);
        let end = if positions.is_empty() { 0 } else { block(positions.last()) + 1 };
        block(positions.first())..end
    };
    for (i, one) in step.sequences.iter().enumerate() {
        let blocks = &one.table[written(one)];
        for (at, block) in blocks.iter().enumerate() {
            assert!(!blocks[..at].contains(block), "a block stands twice in a table");
            for other in &step.sequences[..i] {
                assert!(!other.table[written(other)].contains(block), "two sequences write to one block");
            }
        }
    }
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
    type Staged = CpuStaged;
    type Recordings = ();

    fn name(&self) -> String {
        let threads = self.pool.threads();
        format!("cpu ({}, {threads} thread{})", self.isa().name(), if threads == 1 { "" } else { "s" })
    }

    fn begin(&self, part: &Part<'_>) {
        let Some(cache) = &self.packed else { return };
        *lock(&self.store) = cache.begin(part, &format!("{:?}", self.isa));
    }

    fn finish(&self, whole: bool) {
        let store = std::mem::replace(&mut *lock(&self.store), Store::Off);
        if whole && let Some(cache) = &self.packed {
            cache.finish(store);
        }
    }

    fn weight(&self, tensors: &[&Tensor], format: WeightFormat) -> Result<CpuWeight, Error> {
        self.prepared(CpuWeight::from_tensors(&self.pool, &mut lock(&self.store), tensors, self.possible(format))?)
    }

    fn weight_f32(&self, values: &[f32], n: usize, k: usize, format: WeightFormat) -> Result<CpuWeight, Error> {
        self.prepared(CpuWeight::from_values(&self.pool, &mut lock(&self.store), values, n, k, self.possible(format))?)
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
        let cache = CpuCache::new(spec, self.isa)?;
        lock(&self.heads).reserve(self.pool.threads(), &cache)?;
        Ok(cache)
    }

    fn staged(&self) -> Result<CpuStaged, Error> {
        Ok(CpuStaged::default())
    }

    fn stage(&self, ids: &[u32], step: &Step, out: &mut CpuStaged) {
        out.fill(ids, step);
    }

    fn rows(&self, x: &CpuMatrix) -> usize {
        x.rows()
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
        x.set_rows(x.rows().max(first + rows.rows()));
        let at = first * x.cols();
        x.as_mut_slice()[at..at + rows.as_slice().len()].copy_from_slice(rows.as_slice());
    }

    fn matmul(&self, x: &CpuMatrix, w: &CpuWeight, out: &mut CpuMatrix) {
        self.product(x, w, Finish::Store, out);
    }

    fn add(&self, y: &CpuMatrix, x: &mut CpuMatrix) {
        assert_eq!((y.rows(), y.cols()), (x.rows(), x.cols()), "add: shapes differ");
        self.each_row(x, &|i, x| self.isa.run(Add { y: y.row(i), x }));
    }

    fn attention(
        &self,
        q: &CpuMatrix,
        heads: usize,
        cache: &CpuCache,
        layer: usize,
        step: &CpuStaged,
        window: Option<usize>,
        scale: f32,
        out: &mut CpuMatrix,
    ) {
        let step = step.step();
        let spec = cache.spec();
        assert_eq!((q.cols(), out.cols()), (heads * spec.head_dim, heads * spec.head_dim), "attention: shapes differ");
        assert!(heads.is_multiple_of(spec.kv_heads), "attention: {heads} heads over {}", spec.kv_heads);
        assert_eq!((step.positions.len(), step.ends.len()), (q.rows(), q.rows()), "attention: rows differ");
        out.set_rows(q.rows());
        let queries = attention::Queries { q: q.as_slice(), heads, layer, step, window, scale };
        let scratch = &mut *lock(&self.heads);
        attention::attention(&self.pool, self.isa, scratch, &queries, cache, out.as_mut_slice());
    }

    fn embed(&self, w: &CpuWeight, step: &CpuStaged, scale: f32, out: &mut CpuMatrix) {
        let ids = step.ids();
        assert_eq!(out.cols(), w.k(), "embed: columns differ");
        out.set_rows(ids.len());
        self.each_row(out, &|i, out| w.row(ids[i] as usize, scale, out));
    }

    fn rms_norm(&self, x: &CpuMatrix, w: &CpuVector, eps: f32, out: &mut CpuMatrix) {
        assert_eq!((out.cols(), w.as_slice().len()), (x.cols(), x.cols()), "rms_norm: columns differ");
        out.set_rows(x.rows());
        self.each_row(out, &|i, out| self.isa.run(RmsNorm { x: x.row(i), w: w.as_slice(), eps, out }));
    }

    fn add_rms_norm(&self, y: &CpuMatrix, w: &CpuVector, eps: f32, x: &mut CpuMatrix) {
        assert_eq!((y.rows(), y.cols(), w.as_slice().len()), (x.rows(), x.cols(), x.cols()), "add_rms_norm: shapes");
        self.each_row(x, &|i, x| self.isa.run(AddRmsNorm { y: y.row(i), w: w.as_slice(), eps, x }));
    }

    fn geglu(&self, gate_up: &CpuMatrix, out: &mut CpuMatrix) {
        assert_eq!(gate_up.cols(), 2 * out.cols(), "geglu: columns differ");
        out.set_rows(gate_up.rows());
        self.each_row(out, &|i, out| self.isa.run(GeGlu { gate_up: gate_up.row(i), out }));
    }

    fn greedy(&self, logits: &CpuMatrix, out: &mut [Greedy]) {
        assert_eq!(out.len(), logits.rows(), "greedy: rows differ");
        for (i, out) in out.iter_mut().enumerate() {
            let row = logits.row(i);
            let best = row
                .iter()
                .enumerate()
                .fold((0, f32::NEG_INFINITY), |best, (id, &logit)| if logit > best.1 { (id, logit) } else { best });
            *out = Greedy { id: best.0 as u32, logit: row.get(best.0).copied().unwrap_or(f32::NAN) };
        }
    }

    fn rope_table(&self, inv_freq: &CpuVector, step: &CpuStaged, out: &mut CpuMatrix) {
        let step = step.step();
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
        step: &CpuStaged,
        cache: &mut CpuCache,
        layer: usize,
        q: &mut CpuMatrix,
    ) {
        let step = step.step();
        let CacheSpec { kv_heads, head_dim: dim, .. } = cache.spec();
        assert_eq!((qkv.cols(), q.cols()), ((heads + 2 * kv_heads) * dim, heads * dim), "qkv_rope_store: columns");
        assert_eq!((rope.rows(), rope.cols()), (qkv.rows(), dim), "qkv_rope_store: table");
        let (q_norm, k_norm) = (q_norm.as_slice(), k_norm.as_slice());
        assert_eq!((q_norm.len(), k_norm.len()), (dim, dim), "qkv_rope_store: norms");
        q.set_rows(qkv.rows());
        let place = places(step);
        let cache = cache.writer();
        let mut scratch = lock(&self.heads);
        let (keys, each) = scratch.heads();
        self.each_row_on(q, &|row, q, thread| {
            let table = rope.row(row);
            let (from_q, kv) = qkv.row(row).split_at(heads * dim);
            let (from_k, from_v) = kv.split_at(kv_heads * dim);
            for (x, out) in from_q.chunks_exact(dim).zip(q.chunks_exact_mut(dim)) {
                self.isa.run(NormRotate { x, w: q_norm, eps, table, out });
            }
            let (block, slot) = place(row);
            // SAFETY: each thread has a part of its own.
            let key = unsafe { keys.part(thread * each..thread * each + dim) };
            for (head, (x, value)) in from_k.chunks_exact(dim).zip(from_v.chunks_exact(dim)).enumerate() {
                self.isa.run(NormRotate { x, w: k_norm, eps, table, out: key });
                // SAFETY: no two rows lie in the same place, as `places` checked, and each row is visited once.
                unsafe { cache.store(block, slot, layer, head, key, value) };
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
        let (w, b) = (w.as_slice(), b.as_slice());
        self.each_row(out, &|i, out| self.isa.run(LayerNorm { x: x.row(i), w, b, eps, out }));
    }

    fn qkv_store(&self, qkv: &CpuMatrix, step: &CpuStaged, cache: &mut CpuCache, layer: usize, q: &mut CpuMatrix) {
        let step = step.step();
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
                // SAFETY: no two rows lie in the same place, as `places` checked, and each row is visited once.
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
pub(crate) mod testing;
#[cfg(test)]
mod tests;
