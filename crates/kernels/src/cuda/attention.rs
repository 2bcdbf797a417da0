//! Attention: which kernel takes which.

use super::CudaBackend;
use super::driver::{Shape, param};
use super::matrix::{CudaCache, CudaMatrix};
use super::product::FEW;
use super::staged::CudaStaged;

/// Elements of a head that the plain kernel takes.
const WIDEST: usize = 512;

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
        self.plain_attention(queries, out);
    }

    /// Attention of many rows, bound by arithmetic.
    fn prefill_attention(&self, queries: &Queries<'_>, out: &CudaMatrix) {
        self.plain_attention(queries, out);
    }

    fn plain_attention(&self, queries: &Queries<'_>, out: &CudaMatrix) {
        let Queries { q, heads, cache, layer, step, window, scale } = *queries;
        let shape = Shape::new((q.rows(), heads), 128).shared(cache.spec().head_dim * 4);
        let (at, kind, count, layer, staged) = (q.at(), q.kind() as i32, heads as i32, cache.layer(layer), step.at());
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
