//! Attention: which kernel takes which.

use super::driver::{Shape, param};
use super::matrix::{CudaCache, CudaMatrix, Kind};
use super::product::FEW;
use super::staged::{CudaStaged, TILES};
use super::{CudaBackend, Scratch};

/// Elements of a head that the plain kernel takes.
const WIDEST: usize = 512;

/// Bytes of shared memory that a kernel of flash.cu or flash90.cu takes.
pub(super) fn shared(kernel: &str) -> usize {
    match kernel {
        "flash_256" => 101_376,
        "flash_128" => 87_040,
        "flash_72" => 56_320,
        "flash_64" => 46_080,
        "flash90_256" => 197_632,
        "flash90_128" => 99_328,
        "flash90_72" => 62_464,
        _ => 50_176,
    }
}

/// Spans into which decode.cu cuts the keys of rows that see up to `longest` keys, or the last `window` of them: of 64 keys
/// for rows of up to 8192, of 512 beyond. By the power of two above, as recordings are told apart.
fn spans(longest: usize, window: Option<usize>) -> usize {
    let longest = longest.next_power_of_two();
    let cut = |keys: usize| {
        let short = keys.min(8192).div_ceil(64);
        if longest <= 8192 { short } else { short.max(keys.div_ceil(512)) }
    };
    match window {
        // One that begins within a span reaches into one more.
        Some(window) if window < longest => cut(window) + 1,
        _ => cut(longest),
    }
}

/// The queries of a step, and how they look at the cache.
pub(super) struct Queries<'a> {
    pub(super) q: &'a CudaMatrix,
    pub(super) heads: usize,
    pub(super) cache: &'a CudaCache,
    pub(super) layer: usize,
    pub(super) step: &'a CudaStaged,
    pub(super) window: Option<usize>,
    pub(super) scale: f32,
}

impl CudaBackend {
    pub(super) fn attend(&self, queries: &Queries<'_>, out: &mut CudaMatrix) {
        let spec = queries.cache.spec();
        let (rows, width) = (queries.q.rows(), queries.heads * spec.head_dim);
        assert_eq!((queries.q.cols(), out.cols()), (width, width), "attention: shapes differ");
        assert!(queries.heads.is_multiple_of(spec.kv_heads), "attention: {} heads", queries.heads);
        assert!(spec.head_dim <= WIDEST, "attention: heads of {}", spec.head_dim);
        assert_eq!(queries.step.rows(), rows, "attention: rows differ");
        out.set(rows, self.operand_kind());
        if rows == 0 {
            return;
        }
        if rows <= FEW {
            self.decode_attention(queries, out);
        } else {
            self.prefill_attention(queries, out);
        }
    }

    /// Attention of few rows, bound by reading the cache.
    fn decode_attention(&self, queries: &Queries<'_>, out: &CudaMatrix) {
        if !self.split_attention(queries, out) {
            self.plain_attention(queries, out);
        }
    }

    /// Attention of many rows, bound by arithmetic.
    fn prefill_attention(&self, queries: &Queries<'_>, out: &CudaMatrix) {
        if !self.flash_attention(queries, out) {
            self.plain_attention(queries, out);
        }
    }

    /// Whether the kernels that are written for bf16 take a matrix and its cache.
    fn in_bf16(queries: &Queries<'_>, out: &CudaMatrix) -> bool {
        [queries.q.kind(), queries.cache.kind(), out.kind()] == [Kind::BF16; 3]
    }

    /// By the kernels of decode.cu, which split the keys among blocks; false where they don't take the shapes.
    fn split_attention(&self, queries: &Queries<'_>, out: &CudaMatrix) -> bool {
        let Queries { q, heads, cache, layer, step, window, scale } = *queries;
        let spec = cache.spec();
        let (dim, group) = (spec.head_dim, heads / spec.kv_heads);
        let kernel = format!("decode_{dim}_{group}");
        if !Self::in_bf16(queries, out) || !self.kernels.has(&kernel) {
            return false;
        }
        let spans = spans(step.longest(), window.map(|window| window + step.ahead()));
        let (rows, heads) = (q.rows(), spec.kv_heads);
        let partial = self.scratch(Scratch::Spans, rows * heads * spans * group * dim * 4);
        let sums = self.scratch(Scratch::SpanSums, rows * heads * spans * group * 8);
        let ended = self.scratch(Scratch::SpansEnded, rows * heads * 4);
        let [Some(partial), Some(sums), Some(ended)] = [&*partial, &*sums, &*ended].map(Option::as_ref) else {
            return false;
        };
        let (at, layer, [positions, ends, sequences, tables]) = (q.at(), cache.layer(layer), step.parts());
        let (stride, window) = (step.stride() as i32, window.map_or(0, |window| i32::try_from(window).unwrap_or(0)));
        let (partial, sums, ended, to) = (partial.at(), sums.at(), ended.at(), out.at());
        let mut params = [
            param(&at),
            param(&layer.keys),
            param(&layer.values),
            param(&positions),
            param(&ends),
            param(&sequences),
            param(&tables),
            param(&stride),
            param(&window),
            param(&scale),
            param(&partial),
            param(&sums),
            param(&ended),
            param(&to),
        ];
        // SAFETY: the parameters are the kernel's; the caller checked the shapes, and there is room for all spans.
        unsafe { self.launch(&kernel, Shape::new((spans, heads), 128).deep(rows), &mut params) };
        true
    }

    /// By the kernels of flash.cu and flash90.cu; false where they don't take the shapes.
    fn flash_attention(&self, queries: &Queries<'_>, out: &CudaMatrix) -> bool {
        let Queries { q, heads, cache, layer, step, window, scale } = *queries;
        let spec = cache.spec();
        let names = ["flash90", "flash"].map(|name| format!("{name}_{}", spec.head_dim));
        let Some(kernel) = names.iter().find(|name| self.kernels.has(name)) else { return false };
        if !Self::in_bf16(queries, out) {
            return false;
        }
        let wide = kernel.starts_with("flash90");
        let (tiles, count) = step.tiles(usize::from(wide));
        let (at, layer, [positions, ends, sequences, tables]) = (q.at(), cache.layer(layer), step.parts());
        let (stride, window) = (step.stride() as i32, window.map_or(0, |window| i32::try_from(window).unwrap_or(0)));
        let (query_heads, kv_heads, to) = (heads as i32, spec.kv_heads as i32, out.at());
        let mut params = [
            param(&at),
            param(&layer.keys),
            param(&layer.values),
            param(&positions),
            param(&ends),
            param(&sequences),
            param(&tables),
            param(&stride),
            param(&tiles),
            param(&query_heads),
            param(&kv_heads),
            param(&window),
            param(&scale),
            param(&to),
        ];
        let shape = Shape::new((count, heads), 2 * TILES[usize::from(wide)]).shared(shared(kernel)).in_turn();
        // SAFETY: the parameters are the kernel's; the caller checked the shapes, and staging made the tiles.
        unsafe { self.launch(kernel, shape, &mut params) };
        true
    }

    fn plain_attention(&self, queries: &Queries<'_>, out: &CudaMatrix) {
        let Queries { q, heads, cache, layer, step, window, scale } = *queries;
        let shape = Shape::new((q.rows(), heads), 128).shared(cache.spec().head_dim * 4);
        let (at, kind, count, layer, staged) = (q.at(), q.kind() as i32, heads as i32, cache.layer(layer), step.view());
        let window = window.map_or(0, |window| i32::try_from(window).unwrap_or(0));
        let (to, to_kind) = (out.at(), out.kind() as i32);
        let mut params = [
            param(&at),
            param(&kind),
            param(&count),
            param(&layer),
            param(&staged),
            param(&window),
            param(&scale),
            param(&to),
            param(&to_kind),
        ];
        // SAFETY: the parameters are the kernel's; the caller checked the shapes, and staging checked the tables.
        unsafe { self.launch("attention", shape, &mut params) };
    }
}
