//! The operations.

use super::attention::{Queries, Rotation};
use super::driver::{Param, Shape, param};
use super::matrix::{CudaCache, CudaMatrix, CudaVector, Kind};
use super::product::FEW;
use super::staged::CudaStaged;
use super::weight::CudaWeight;
use super::{CudaBackend, CudaRecordings, INBOX, Scratch, done, lock};
use crate::Error;
use crate::backend::{Backend, Behind, CacheSpec, CacheType, Greedy, Step, WeightFormat};
use half::bf16;
use medgemma_formats::Tensor;

/// Threads of a block where each takes one element after another.
const THREADS: usize = 256;
/// Elements of a row that a thread of a norm holds (`HELD` in elementwise.cuh).
const HELD: usize = 8;
/// Elements of a head that a warp takes (`PAIRS` in cache.cuh).
const WIDEST: usize = 512;
/// Rows that `gather` takes at once.
const INDICES: usize = 64;
/// Parts of a row of logits (`PARTS` in greedy.cuh).
const PARTS: usize = 64;

/// A list of rows, given to a kernel by value.
#[repr(C)]
#[derive(Clone, Copy)]
struct Indices([u32; INDICES]);
// SAFETY: as `Indices` in elementwise.cuh.
unsafe impl Param for Indices {}

/// A matrix as the sum of several that follow one another.
struct Addends {
    at: u64,
    kind: Kind,
    parts: usize,
    shape: (usize, usize),
}

impl Addends {
    fn one(y: &CudaMatrix) -> Self {
        Self { at: y.at(), kind: y.kind(), parts: 1, shape: (y.rows(), y.cols()) }
    }
}

/// A block for each of `rows` rows, whose threads hold four elements each where there are few.
fn norm(rows: usize, cols: usize) -> Shape {
    assert!(cols <= 1024 * HELD, "norms take up to {} columns, not {cols}", 1024 * HELD);
    Shape::new((rows, 1), cols.div_ceil(if rows > FEW { 8 } else { 4 }).next_multiple_of(32).clamp(32, 1024))
}

/// A thread for each element, or for several.
fn elements(count: usize) -> Shape {
    Shape::new((count.div_ceil(THREADS).clamp(1, 1 << 14), 1), THREADS)
}

impl CudaBackend {
    /// Copies a matrix to where there is room for it.
    pub(super) fn convert(&self, x: &CudaMatrix, to: u64, kind: Kind) {
        let (at, from_kind, kind, count) = (x.at(), x.kind() as i32, kind as i32, x.len() as i64);
        let mut params = [param(&at), param(&from_kind), param(&to), param(&kind), param(&count)];
        // SAFETY: the parameters are the kernel's; the caller has the room.
        unsafe { self.launch("convert", elements(x.len()), &mut params) };
    }

    fn norm(&self, x: &CudaMatrix, w: &CudaVector, eps: f32, out: &mut CudaMatrix, kind: Kind) {
        assert_eq!((out.cols(), w.len), (x.cols(), x.cols()), "rms_norm: columns differ");
        out.set(x.rows(), kind);
        if x.rows() == 0 {
            return;
        }
        let (at, x_kind, w, to, kind, cols) =
            (x.at(), x.kind() as i32, w.buffer.at(), out.at(), kind as i32, x.cols() as i32);
        let mut params = [param(&at), param(&x_kind), param(&w), param(&eps), param(&to), param(&kind), param(&cols)];
        // SAFETY: the parameters are the kernel's, of the shapes that were checked.
        unsafe { self.launch("rms_norm", norm(x.rows(), x.cols()), &mut params) };
    }

    /// `x += rms_norm(y, post)`, and perhaps `out = rms_norm(x, next)`.
    fn residual(
        &self,
        y: Addends,
        post: &CudaVector,
        eps: f32,
        x: &mut CudaMatrix,
        next: Option<(&CudaVector, &mut CudaMatrix)>,
    ) {
        assert_eq!((y.shape, post.len), ((x.rows(), x.cols()), x.cols()), "add_rms_norm: shapes");
        assert_eq!(x.kind(), Kind::F32, "add_rms_norm: the residual stream is f32");
        let kind = self.operand_kind();
        let (next, to) = match next {
            Some((next, out)) => {
                assert_eq!((out.cols(), next.len), (x.cols(), x.cols()), "residual_norm: columns differ");
                out.set(x.rows(), kind);
                (next.buffer.at(), out.at())
            }
            None => (0, 0),
        };
        if x.rows() == 0 {
            return;
        }
        let (y_kind, parts, post, stream, kind, cols) =
            (y.kind as i32, y.parts as i32, post.buffer.at(), x.at(), kind as i32, x.cols() as i32);
        let mut params = [
            param(&y.at),
            param(&y_kind),
            param(&parts),
            param(&post),
            param(&next),
            param(&eps),
            param(&stream),
            param(&to),
            param(&kind),
            param(&cols),
        ];
        // SAFETY: the parameters are the kernel's, of the shapes that were checked.
        unsafe { self.launch("residual_norm", norm(x.rows(), x.cols()), &mut params) };
    }

    /// Splits qkv, rotates q and k where there is a table, and writes q to `q`, k and v to the cache.
    fn store_heads(
        &self,
        qkv: &CudaMatrix,
        heads: usize,
        rotation: Option<(&CudaVector, &CudaVector, f32, &CudaMatrix)>,
        step: &CudaStaged,
        cache: &CudaCache,
        layer: usize,
        q: &mut CudaMatrix,
    ) {
        let CacheSpec { kv_heads, head_dim: dim, .. } = cache.spec();
        let all = heads + 2 * kv_heads;
        assert_eq!((qkv.cols(), q.cols()), (all * dim, heads * dim), "qkv: columns differ");
        assert_eq!(step.rows(), qkv.rows(), "qkv: rows differ");
        let (q_norm, k_norm, eps, rope) = match rotation {
            Some((q_norm, k_norm, eps, rope)) => {
                assert_eq!((q_norm.len, k_norm.len), (dim, dim), "qkv_rope_store: norms");
                assert_eq!((rope.rows(), rope.cols()), (qkv.rows(), dim), "qkv_rope_store: table");
                (q_norm.buffer.at(), k_norm.buffer.at(), eps, rope.at())
            }
            None => (0, 0, 0.0, 0),
        };
        let kind = self.operand_kind();
        q.set(qkv.rows(), kind);
        if qkv.rows() == 0 {
            return;
        }
        if rotation.is_none() && [qkv.kind(), cache.kind(), kind] == [Kind::BF16; 3] && dim.is_multiple_of(8) {
            let shape = Shape::new(((qkv.len() / 8).div_ceil(THREADS), 1), THREADS);
            let (at, rows, heads, staged, layer, to) =
                (qkv.at(), qkv.rows() as i32, heads as i32, step.view(), cache.layer(layer), q.at());
            let mut params = [param(&at), param(&rows), param(&heads), param(&staged), param(&layer), param(&to)];
            // SAFETY: the parameters are the kernel's, of the shapes that were checked; staging checked the tables.
            unsafe { self.launch("copy_heads", shape, &mut params) };
            return;
        }
        assert!(dim <= WIDEST && dim.is_multiple_of(2), "qkv: heads of {dim}");
        // A warp a head: many blocks of few where there are few.
        let (warps, items) = (if qkv.rows() > FEW { 8 } else { 2 }, qkv.rows() * all);
        let shape = Shape::new((items.div_ceil(warps), 1), 32 * warps);
        let (at, qkv_kind, rows, count, staged, layer, to, kind) = (
            qkv.at(),
            qkv.kind() as i32,
            qkv.rows() as i32,
            heads as i32,
            step.view(),
            cache.layer(layer),
            q.at(),
            kind as i32,
        );
        let mut params = [
            param(&at),
            param(&qkv_kind),
            param(&rows),
            param(&count),
            param(&q_norm),
            param(&k_norm),
            param(&eps),
            param(&rope),
            param(&staged),
            param(&layer),
            param(&to),
            param(&kind),
        ];
        // SAFETY: the parameters are the kernel's, of the shapes that were checked; staging checked the tables.
        unsafe { self.launch("store_heads", shape, &mut params) };
    }
}

impl Backend for CudaBackend {
    type Error = Error;
    type Matrix = CudaMatrix;
    type Weight = CudaWeight;
    type Vector = CudaVector;
    type Cache = CudaCache;
    type Staged = CudaStaged;
    type Recordings = CudaRecordings;

    fn name(&self) -> String {
        let (major, minor) = self.device.capability();
        format!("cuda ({}, compute capability {major}.{minor})", self.device.name())
    }

    fn weight(&self, tensors: &[&Tensor], format: WeightFormat) -> Result<CudaWeight, Error> {
        CudaWeight::new(self, tensors, format)
    }

    fn weight_f32(&self, values: &[f32], n: usize, k: usize, format: WeightFormat) -> Result<CudaWeight, Error> {
        let tensor = Tensor::from_f32("values", &[n, k], values)?;
        CudaWeight::new(self, &[&tensor], format)
    }

    fn weight_bytes(&self, weight: &CudaWeight) -> usize {
        weight.bytes()
    }

    fn vector(&self, values: &[f32]) -> Result<CudaVector, Error> {
        CudaVector::new(&self.device, values)
    }

    fn matrix(&self, capacity: usize, cols: usize) -> Result<CudaMatrix, Error> {
        CudaMatrix::new(&self.device, capacity, cols)
    }

    /// Keys and values are held in 8 bits where `spec` says so, else in bf16, or in f32 if everything is exact.
    fn cache(&self, spec: CacheSpec) -> Result<CudaCache, Error> {
        let kind = if spec.dtype == CacheType::F8 { Kind::F8 } else { self.operand_kind() };
        let cache = CudaCache::new(&self.device, spec, kind)?;
        if kind == Kind::F8 && !self.exact {
            // Attention of many rows can't ask for it any more when memory has run out.
            self.reserve(Scratch::Widened, 2 * cache.layer_elements() * Kind::BF16.bytes())?;
        }
        Ok(cache)
    }

    fn staged(&self) -> Result<CudaStaged, Error> {
        CudaStaged::new(&self.device)
    }

    fn stage(&self, ids: &[u32], step: &Step, out: &mut CudaStaged) {
        done(out.fill(ids, step));
    }

    fn rows(&self, x: &CudaMatrix) -> usize {
        x.rows()
    }

    fn upload(&self, values: &[f32], out: &mut CudaMatrix) {
        assert!(values.len().is_multiple_of(out.cols().max(1)), "upload: not whole rows");
        out.set(values.len() / out.cols().max(1), Kind::F32);
        // SAFETY: floats are bytes.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), values.len() * 4) };
        done(out.buffer().write(0, bytes));
    }

    fn download(&self, x: &CudaMatrix, out: &mut [f32]) {
        assert_eq!(out.len(), x.len(), "download: sizes differ");
        let mut inbox = lock(&self.inbox);
        let (size, each) = (x.kind().bytes(), inbox.bytes() / 4);
        for (index, out) in out.chunks_mut(each).enumerate() {
            let bytes = done(inbox.fetch(x.buffer(), index * each * size, out.len() * size));
            match x.kind() {
                Kind::F32 => {
                    out.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(out, v)| *out = f32::from_le_bytes(*v));
                }
                Kind::F8 => unreachable!("matrices are f32 or bf16"),
                Kind::BF16 => {
                    let values = bytes.as_chunks::<2>().0;
                    out.iter_mut().zip(values).for_each(|(out, v)| *out = bf16::from_le_bytes(*v).to_f32());
                }
            }
        }
    }

    fn gather(&self, x: &CudaMatrix, rows: &[u32], out: &mut CudaMatrix) {
        assert_eq!(x.cols(), out.cols(), "gather: columns differ");
        assert!(rows.iter().all(|row| (*row as usize) < x.rows()), "gather: a row beyond the matrix");
        out.set(rows.len(), x.kind());
        for (index, some) in rows.chunks(INDICES).enumerate() {
            let mut indices = Indices([0; INDICES]);
            indices.0[..some.len()].copy_from_slice(some);
            let (at, kind, to, first, cols) =
                (x.at(), x.kind() as i32, out.at(), (index * INDICES) as i32, x.cols() as i32);
            let mut params = [param(&at), param(&kind), param(&indices), param(&to), param(&first), param(&cols)];
            // SAFETY: the parameters are the kernel's, and all rows are within the matrices.
            unsafe { self.launch("gather", Shape::new((some.len(), 1), THREADS), &mut params) };
        }
    }

    fn overwrite(&self, rows: &CudaMatrix, first: usize, x: &mut CudaMatrix) {
        assert_eq!(x.cols(), rows.cols(), "overwrite: columns differ");
        // A matrix of which nothing is in use has no kind yet.
        let kind = if x.rows() == 0 { Kind::F32 } else { x.kind() };
        x.set(x.rows().max(first + rows.rows()), kind);
        self.convert(rows, x.at() + (first * x.cols() * kind.bytes()) as u64, kind);
    }

    fn recording_key(&self, step: &CudaStaged, cache: &CudaCache) -> Option<u64> {
        self.key(step, cache)
    }

    fn recorded(&self, key: [u64; 2], recordings: &mut CudaRecordings, work: &mut dyn FnMut()) {
        self.play(key, recordings, work);
    }

    fn matmul(&self, x: &CudaMatrix, w: &CudaWeight, out: &mut CudaMatrix) {
        self.product(x, w, None, false, out);
    }

    fn add(&self, y: &CudaMatrix, x: &mut CudaMatrix) {
        assert_eq!((y.rows(), y.cols()), (x.rows(), x.cols()), "add: shapes differ");
        let (at, y_kind, to, kind, count) = (y.at(), y.kind() as i32, x.at(), x.kind() as i32, x.len() as i64);
        let mut params = [param(&at), param(&y_kind), param(&to), param(&kind), param(&count)];
        // SAFETY: the parameters are the kernel's, of the shapes that were checked.
        unsafe { self.launch("add", elements(x.len()), &mut params) };
    }

    fn attention(
        &self,
        q: &CudaMatrix,
        heads: usize,
        cache: &CudaCache,
        layer: usize,
        step: &CudaStaged,
        window: Option<usize>,
        scale: f32,
        out: &mut CudaMatrix,
    ) {
        self.attend(&Queries { q, heads, cache, layer, step, window, scale }, out);
    }

    fn embed(&self, w: &CudaWeight, step: &CudaStaged, scale: f32, out: &mut CudaMatrix) {
        let [table] = &w.parts[..] else { panic!("embed: the table is one tensor") };
        assert_eq!(out.cols(), w.k, "embed: columns differ");
        out.set(step.rows(), Kind::F32);
        if step.rows() == 0 {
            return;
        }
        let (view, staged, to) = (table.view(), step.view(), out.at());
        let mut params = [param(&view), param(&staged), param(&scale), param(&to)];
        // SAFETY: the parameters are the kernel's; the caller checked the tokens.
        unsafe { self.launch("embed", Shape::new((step.rows(), 1), THREADS), &mut params) };
    }

    fn rms_norm(&self, x: &CudaMatrix, w: &CudaVector, eps: f32, out: &mut CudaMatrix) {
        self.norm(x, w, eps, out, self.operand_kind());
    }

    fn add_rms_norm(&self, y: &CudaMatrix, w: &CudaVector, eps: f32, x: &mut CudaMatrix) {
        self.residual(Addends::one(y), w, eps, x, None);
    }

    fn residual_norm(
        &self,
        y: &CudaMatrix,
        post: &CudaVector,
        next: &CudaVector,
        eps: f32,
        x: &mut CudaMatrix,
        out: &mut CudaMatrix,
    ) {
        self.residual(Addends::one(y), post, eps, x, Some((next, out)));
    }

    fn matmul_residual(
        &self,
        product: (&CudaMatrix, &CudaWeight),
        y: &mut CudaMatrix,
        post: &CudaVector,
        eps: f32,
        x: &mut CudaMatrix,
        next: Option<(&CudaVector, &mut CudaMatrix)>,
    ) {
        let (from, w) = product;
        assert_eq!((from.cols(), y.cols()), (w.k, w.n), "matmul_residual: shapes differ");
        if let Some(parts) = self.product_in_parts(from, w) {
            let sums = self.scratch(Scratch::Quarters, 0);
            if let Some(sums) = sums.as_ref() {
                let y = Addends { at: sums.at(), kind: Kind::F32, parts, shape: (from.rows(), w.n) };
                self.residual(y, post, eps, x, next);
            }
            return;
        }
        self.matmul(from, w, y);
        self.residual(Addends::one(y), post, eps, x, next);
    }

    fn geglu(&self, gate_up: &CudaMatrix, out: &mut CudaMatrix) {
        assert_eq!(gate_up.cols(), 2 * out.cols(), "geglu: columns differ");
        let kind = self.operand_kind();
        out.set(gate_up.rows(), kind);
        if out.rows() == 0 {
            return;
        }
        let (at, from_kind, to, kind, n) =
            (gate_up.at(), gate_up.kind() as i32, out.at(), kind as i32, out.cols() as i32);
        let mut params = [param(&at), param(&from_kind), param(&to), param(&kind), param(&n)];
        let shape = Shape::new((out.cols().div_ceil(4 * THREADS), out.rows()), THREADS);
        // SAFETY: the parameters are the kernel's, of the shapes that were checked.
        unsafe { self.launch("geglu", shape, &mut params) };
    }

    fn matmul_geglu(&self, x: &CudaMatrix, w: &CudaWeight, gate_up: &mut CudaMatrix, out: &mut CudaMatrix) {
        if !self.gated_product(x, w, out) {
            self.matmul(x, w, gate_up);
            self.geglu(gate_up, out);
        }
    }

    fn behind_attention(
        &self,
        behind: &Behind<'_, Self>,
        attention: &CudaMatrix,
        x: &mut CudaMatrix,
        normed: &mut CudaMatrix,
        activated: &mut CudaMatrix,
        qkv: &mut CudaMatrix,
    ) -> bool {
        self.layer(behind, attention, x, normed, activated, qkv)
    }

    fn greedy(&self, logits: &CudaMatrix, out: &mut [Greedy]) {
        assert_eq!((out.len(), logits.kind()), (logits.rows(), Kind::F32), "greedy: rows or kind");
        if out.is_empty() {
            return;
        }
        assert!(out.len() * 8 <= INBOX, "greedy: {} rows", out.len());
        // A part is two numbers; a row's result, too.
        let results = out.len() * 8;
        let scratch = self.scratch(Scratch::Greedy, results * (PARTS + 1));
        let Some(buffer) = scratch.as_ref() else { return };
        let (at, vocab, best) = (logits.at(), logits.cols() as i32, buffer.at());
        let parts = best + results as u64;
        let mut params = [param(&at), param(&vocab), param(&parts)];
        // SAFETY: the parameters are the kernels'; the scratch memory has room for parts and results.
        unsafe {
            self.launch("greedy_parts", Shape::new((PARTS, out.len()), THREADS), &mut params);
            let mut params = [param(&at), param(&vocab), param(&parts), param(&best)];
            self.launch("greedy_rows", Shape::new((out.len(), 1), 32), &mut params);
        }
        let mut inbox = lock(&self.inbox);
        let bytes = done(inbox.fetch(buffer, 0, results));
        for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
            let [a, b, c, d, e, f, g, h] = *bytes;
            *out = Greedy { id: u32::from_le_bytes([a, b, c, d]), logit: f32::from_le_bytes([e, f, g, h]) };
        }
    }

    fn rope_table(&self, inv_freq: &CudaVector, step: &CudaStaged, out: &mut CudaMatrix) {
        assert_eq!(out.cols(), 2 * inv_freq.len, "rope_table: columns differ");
        out.set(step.rows(), Kind::F32);
        if step.rows() == 0 {
            return;
        }
        let (frequencies, half, staged, to) = (inv_freq.buffer.at(), inv_freq.len as i32, step.view(), out.at());
        let mut params = [param(&frequencies), param(&half), param(&staged), param(&to)];
        let shape = Shape::new((step.rows(), 1), inv_freq.len.next_multiple_of(32).clamp(32, THREADS));
        // SAFETY: the parameters are the kernel's, of the shapes that were checked.
        unsafe { self.launch("rope_table", shape, &mut params) };
    }

    fn qkv_rope_store(
        &self,
        qkv: &CudaMatrix,
        heads: usize,
        q_norm: &CudaVector,
        k_norm: &CudaVector,
        eps: f32,
        rope: &CudaMatrix,
        step: &CudaStaged,
        cache: &mut CudaCache,
        layer: usize,
        q: &mut CudaMatrix,
    ) {
        self.store_heads(qkv, heads, Some((q_norm, k_norm, eps, rope)), step, cache, layer, q);
    }

    fn qkv_attention(
        &self,
        qkv: &CudaMatrix,
        heads: usize,
        q_norm: &CudaVector,
        k_norm: &CudaVector,
        eps: f32,
        rope: &CudaMatrix,
        step: &CudaStaged,
        cache: &mut CudaCache,
        layer: usize,
        window: Option<usize>,
        scale: f32,
        q: &mut CudaMatrix,
        out: &mut CudaMatrix,
    ) {
        let rotation = Rotation { q_norm, k_norm, eps, rope };
        if !self.decode_step(qkv, &rotation, &Queries { q, heads, cache, layer, step, window, scale }, out) {
            self.store_heads(qkv, heads, Some((q_norm, k_norm, eps, rope)), step, cache, layer, q);
            self.attend(&Queries { q, heads, cache, layer, step, window, scale }, out);
        }
    }

    fn matmul_bias(&self, x: &CudaMatrix, w: &CudaWeight, bias: &CudaVector, out: &mut CudaMatrix) {
        self.product(x, w, Some(bias), false, out);
    }

    fn matmul_bias_gelu(&self, x: &CudaMatrix, w: &CudaWeight, bias: &CudaVector, out: &mut CudaMatrix) {
        self.product(x, w, Some(bias), true, out);
    }

    fn matmul_bias_add(
        &self,
        x: &CudaMatrix,
        w: &CudaWeight,
        bias: &CudaVector,
        out: &mut CudaMatrix,
        sum: &mut CudaMatrix,
    ) {
        if !self.product_onto(x, w, bias, sum) {
            self.matmul_bias(x, w, bias, out);
            self.add(out, sum);
        }
    }

    fn layer_norm(&self, x: &CudaMatrix, w: &CudaVector, b: &CudaVector, eps: f32, out: &mut CudaMatrix) {
        assert_eq!((out.cols(), w.len, b.len), (x.cols(), x.cols(), x.cols()), "layer_norm: columns differ");
        let kind = self.operand_kind();
        out.set(x.rows(), kind);
        if x.rows() == 0 {
            return;
        }
        let (at, x_kind, w, b, to, kind, cols) =
            (x.at(), x.kind() as i32, w.buffer.at(), b.buffer.at(), out.at(), kind as i32, x.cols() as i32);
        let mut params =
            [param(&at), param(&x_kind), param(&w), param(&b), param(&eps), param(&to), param(&kind), param(&cols)];
        // SAFETY: the parameters are the kernel's, of the shapes that were checked.
        unsafe { self.launch("layer_norm", norm(x.rows(), x.cols()), &mut params) };
    }

    fn qkv_store(&self, qkv: &CudaMatrix, step: &CudaStaged, cache: &mut CudaCache, layer: usize, q: &mut CudaMatrix) {
        let heads = cache.spec().kv_heads;
        self.store_heads(qkv, heads, None, step, cache, layer, q);
    }

    fn avg_pool(&self, x: &CudaMatrix, side: usize, kernel: usize, out: &mut CudaMatrix) {
        assert_eq!((x.rows(), x.cols()), (side * side, out.cols()), "avg_pool: shapes differ");
        assert!(kernel > 0 && side >= kernel, "avg_pool: squares of {kernel} in {side}");
        let small = side / kernel;
        out.set(small * small, Kind::F32);
        let (at, x_kind, side, kernel, to, kind, cols) =
            (x.at(), x.kind() as i32, side as i32, kernel as i32, out.at(), Kind::F32 as i32, x.cols() as i32);
        let mut params =
            [param(&at), param(&x_kind), param(&side), param(&kernel), param(&to), param(&kind), param(&cols)];
        // SAFETY: the parameters are the kernel's, of the shapes that were checked.
        unsafe { self.launch("avg_pool", Shape::new((small * small, 1), THREADS), &mut params) };
    }
}
