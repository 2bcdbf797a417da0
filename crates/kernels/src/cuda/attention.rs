//! Attention: which kernel takes which.

use super::driver::{Buffer, Shape, param};
use super::layer::ROWS as LAYER_ROWS;
use super::matrix::{CudaCache, CudaMatrix, CudaVector, Kind, Layer};
use super::product::FEW;
use super::staged::{CudaStaged, TILES};
use super::{CudaBackend, Scratch, lock};
use std::sync::MutexGuard;

/// Elements of a head that the plain kernel takes.
const WIDEST: usize = 512;

/// Keys of a tile of decode90.cu, most spans of a row, and most blocks of a cluster.
const TILE: usize = 64;
const SPANS: usize = 64;
const CLUSTER: usize = 16;
/// Bytes of shared memory of a multiprocessor for which those kernels are written.
pub(super) const SHARED: usize = 227 << 10;

/// Bytes of shared memory that a kernel of flash.cu, flash90.cu or decode90.cu takes.
pub(super) fn shared(kernel: &str) -> usize {
    if let Some((_, sizes)) = kernel.split_once("90_").filter(|(name, _)| *name != "flash") {
        let (element, sizes) = sizes.strip_prefix("f8_").map_or((2, sizes), |sizes| (1, sizes));
        let (dim, group) = sizes.split_once('_').unwrap_or_default();
        let [dim, group] = [dim, group].map(|size| size.parse().unwrap_or(0));
        return decode_shared(dim, group, element);
    }
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

/// The size of `Held` in decode90.cu, in whole sixteens.
/// Keys and values have elements of so many bytes.
pub(super) fn decode_shared(dim: usize, group: usize, element: usize) -> usize {
    let (tiles, queries, weights) = (2 * TILE * (dim * element + 16), group * (dim + 8) * 2, 8 * (TILE + 8) * 2);
    (tiles + queries + weights + group * (dim / 128 * TILE + dim + 2) * 4 + 4).next_multiple_of(16)
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

/// How queries and keys are normed and rotated.
pub(super) struct Rotation<'a> {
    pub(super) q_norm: &'a CudaVector,
    pub(super) k_norm: &'a CudaVector,
    pub(super) eps: f32,
    pub(super) rope: &'a CudaMatrix,
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

    /// Blocks that share the keys of each of `pairs` rows' key/value heads, and how many make a cluster. What a row gives
    /// doesn't depend on it.
    fn blocks_of_rows(&self, pairs: usize, longest: usize, window: Option<usize>, shared: usize) -> (usize, usize) {
        let longest = longest.next_power_of_two();
        let spans = window.map_or(longest, |window| window.min(longest)).div_ceil(TILE).min(SPANS);
        let at_once = self.device.processors() * (SHARED / (shared + 1024)).max(1);
        // A span for each block, where the card can hold them: contexts are longer than half the power of two.
        let blocks = (at_once / pairs).min(spans);
        if 2 * blocks > spans {
            return (blocks, if blocks <= CLUSTER { blocks } else { 1 });
        }
        // Else so few that they don't all wait for their first keys at the same time, but two where the card holds them.
        ((at_once * 2 / 3 / pairs).max((at_once / pairs).min(2)).clamp(1, spans), 1)
    }

    /// Rotates, stores and attends in one kernel, where each row is the last of a sequence of its own; false where
    /// none takes the shapes. The queries' matrix is left as it is.
    pub(super) fn decode_step(
        &self,
        qkv: &CudaMatrix,
        rotation: &Rotation<'_>,
        queries: &Queries<'_>,
        out: &mut CudaMatrix,
    ) -> bool {
        let Queries { q: _, heads, cache, layer, step, window, scale } = *queries;
        let spec = cache.spec();
        let (rows, dim, kv_heads) = (qkv.rows(), spec.head_dim, spec.kv_heads);
        let group = heads / kv_heads;
        // Where a layer's one kernel stands beside it, blocks of fewer warps find room.
        let slim = dim == 256 && (2..=LAYER_ROWS).contains(&rows);
        let kernel = match (cache.kind(), slim) {
            (Kind::F8, _) => format!("decode90_f8_{dim}_{group}"),
            (_, false) => format!("decode90_{dim}_{group}"),
            (_, true) => format!("slim90_{dim}_{group}"),
        };
        let slim = kernel.starts_with("slim90");
        let fits = self.kernels.has(&kernel) && heads.is_multiple_of(kv_heads) && (1..=FEW).contains(&rows);
        if !fits || !step.alone() || qkv.kind() != Kind::F32 || cache.kind() == Kind::F32 || self.exact {
            return false;
        }
        let Rotation { q_norm, k_norm, eps, rope } = *rotation;
        assert_eq!((qkv.cols(), out.cols()), ((heads + 2 * kv_heads) * dim, heads * dim), "qkv_attention: columns");
        assert_eq!((step.rows(), rope.rows(), rope.cols()), (rows, rows, dim), "qkv_attention: rows or table");
        assert_eq!((q_norm.len, k_norm.len), (dim, dim), "qkv_attention: norms");
        out.set(rows, Kind::BF16);
        // With 8 bits as with 16: registers leave no room for more blocks.
        let room = decode_shared(dim, group, 2);
        let (blocks, cluster) = self.blocks_of_rows(rows * kv_heads, step.longest(), window, room);
        let partial = self.scratch(Scratch::Spans, rows * kv_heads * SPANS * group * dim * 4);
        let sums = self.scratch(Scratch::SpanSums, rows * kv_heads * SPANS * group * 8);
        let ended = self.scratch(Scratch::SpansEnded, rows * kv_heads * 4);
        let [Some(partial), Some(sums), Some(ended)] = [&*partial, &*sums, &*ended].map(Option::as_ref) else {
            return false;
        };
        let (at, layer, [positions, ends, sequences, tables]) = (qkv.at(), cache.layer(layer), step.parts());
        let (q_norm, k_norm, rope) = (q_norm.buffer.at(), k_norm.buffer.at(), rope.at());
        let (stride, window) = (step.stride() as i32, window.map_or(0, |window| i32::try_from(window).unwrap_or(0)));
        let (partial, sums, ended, to) = (partial.at(), sums.at(), ended.at(), out.at());
        let mut params = [
            param(&at),
            param(&q_norm),
            param(&k_norm),
            param(&eps),
            param(&rope),
            param(&positions),
            param(&ends),
            param(&sequences),
            param(&tables),
            param(&stride),
            param(&layer.keys),
            param(&layer.values),
            param(&window),
            param(&scale),
            param(&partial),
            param(&sums),
            param(&ended),
            param(&to),
        ];
        // A warp for each 32 elements of a head.
        let shape = Shape::new((blocks, kv_heads), if slim { 128 } else { dim })
            .deep(rows)
            .shared(shared(&kernel))
            .clusters(cluster);
        // SAFETY: the parameters are the kernel's; the shapes were checked, staging checked the tables, and there is room
        // for all spans.
        unsafe { self.launch(&kernel, shape, &mut params) };
        true
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

    /// Whether the kernels that are written for operands in bf16 take a matrix and its cache.
    fn in_bf16(queries: &Queries<'_>, out: &CudaMatrix) -> bool {
        [queries.q.kind(), out.kind()] == [Kind::BF16; 2] && queries.cache.kind() != Kind::F32
    }

    /// Where the keys and values of a layer are in bf16: widened, if they have 8 bits. They stay there as long as the guard lives.
    fn widened(&self, queries: &Queries<'_>) -> (Layer, MutexGuard<'_, Option<Buffer>>) {
        let Queries { cache, layer, step, .. } = *queries;
        let layer = cache.layer(layer);
        if cache.kind() != Kind::F8 {
            return (layer, lock(&self.scratch[Scratch::Widened as usize]));
        }
        let bytes = cache.layer_elements() * Kind::BF16.bytes();
        let room = self.scratch(Scratch::Widened, 2 * bytes);
        let keys = room.as_ref().map_or(0, Buffer::at);
        let (values, staged) = (keys + bytes as u64, step.view());
        let mut params = [param(&staged), param(&layer), param(&keys), param(&values)];
        // SAFETY: the parameters are the kernel's; there is room for all of the pool's blocks, and staging checked the tables.
        unsafe { self.launch("widen_layer", Shape::new((step.stride(), step.sequences()), 256), &mut params) };
        (Layer { keys, values, ..layer }, room)
    }

    /// By the kernels of decode.cu, which split the keys among blocks; false where they don't take the shapes.
    fn split_attention(&self, queries: &Queries<'_>, out: &CudaMatrix) -> bool {
        let Queries { q, heads, cache, layer, step, window, scale } = *queries;
        let spec = cache.spec();
        let (dim, group) = (spec.head_dim, heads / spec.kv_heads);
        let narrow = cache.kind() == Kind::F8;
        let kernel = format!("decode_{}{dim}_{group}", if narrow { "f8_" } else { "" });
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
        let Queries { q, heads, cache, step, window, scale, .. } = *queries;
        let spec = cache.spec();
        let names = ["flash90", "flash"].map(|name| format!("{name}_{}", spec.head_dim));
        let Some(kernel) = names.iter().find(|name| self.kernels.has(name)) else { return false };
        if !Self::in_bf16(queries, out) {
            return false;
        }
        let wide = kernel.starts_with("flash90");
        let (tiles, count) = step.tiles(usize::from(wide));
        let (layer, _room) = self.widened(queries);
        let (at, [positions, ends, sequences, tables]) = (q.at(), step.parts());
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
