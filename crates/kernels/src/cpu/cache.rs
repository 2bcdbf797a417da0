//! The pool of key and value blocks.
//!
//! One block of one layer holds [`BLOCK`] tokens: the keys transposed, `[kv_head][head_dim][BLOCK]`, so that a query's
//! scores against all keys of the block are `head_dim` broadcasts times a row; then the values,
//! `[kv_head][BLOCK][head_dim padded to 16]`, so that the weighted sum is `BLOCK` broadcasts times a row. All layers of
//! a block lie together.

use super::Error;
use super::memory::{Buffer, Parts, Plain, halves};
use super::simd::{Found, LANES, Simd};
use crate::backend::{BLOCK, CacheSpec, CacheType};
use half::bf16;
use medgemma_formats::f32_to_f8;

/// A pool of key and value blocks on the host.
#[derive(Debug)]
pub struct CpuCache {
    spec: CacheSpec,
    pub(crate) blocks: Blocks,
}

/// The elements of a pool.
#[derive(Debug)]
pub(crate) enum Blocks {
    F32(Buffer<f32>),
    BF16(Buffer<u16>),
    F8(Buffer<u8>),
    /// bf16 for products in bf16: two neighbours of each sum lie together. Keys `[kv_head][head_dim / 2][BLOCK][2]`,
    /// values `[kv_head][BLOCK / 2][padded][2]`.
    Pairs(Buffer<u32>),
}

/// An element type of the cache.
pub(crate) trait Element: Plain {
    fn encode(value: f32) -> Self;
    fn load<S: Simd>(s: S, lanes: &[Self; LANES]) -> S::F;
}

impl Element for f32 {
    #[inline(always)]
    fn encode(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn load<S: Simd>(s: S, lanes: &[Self; LANES]) -> S::F {
        s.load(lanes)
    }
}

impl Element for u16 {
    #[inline(always)]
    fn encode(value: f32) -> Self {
        bf16::from_f32(value).to_bits()
    }
    #[inline(always)]
    fn load<S: Simd>(s: S, lanes: &[Self; LANES]) -> S::F {
        s.load_bf16(lanes)
    }
}

/// 8-bit floats (E4M3).
impl Element for u8 {
    #[inline(always)]
    fn encode(value: f32) -> Self {
        f32_to_f8(value)
    }
    #[inline(always)]
    fn load<S: Simd>(s: S, lanes: &[Self; LANES]) -> S::F {
        s.mul(s.load_f8(lanes), s.splat(256.0))
    }
}

/// Where things lie in a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    layers: usize,
    pub(crate) blocks: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// `head_dim` padded to whole vectors.
    pub(crate) padded: usize,
}

impl Layout {
    /// Elements of one layer of one block.
    fn layer(&self) -> usize {
        self.kv_heads * BLOCK * (self.head_dim + self.padded)
    }

    /// First element of the keys of `head`, `[head_dim][BLOCK]`.
    pub(crate) fn keys(&self, block: usize, layer: usize, head: usize) -> usize {
        assert!(block < self.blocks && layer < self.layers && head < self.kv_heads, "outside the cache");
        (block * self.layers + layer) * self.layer() + head * self.head_dim * BLOCK
    }

    /// First element of the values of `head`, `[BLOCK][padded]`.
    pub(crate) fn values(&self, block: usize, layer: usize, head: usize) -> usize {
        assert!(block < self.blocks && layer < self.layers && head < self.kv_heads, "outside the cache");
        (block * self.layers + layer) * self.layer() + BLOCK * (self.kv_heads * self.head_dim + head * self.padded)
    }
}

impl CpuCache {
    pub(crate) fn new(spec: CacheSpec, isa: Found) -> Result<Self, Error> {
        let padded = spec.head_dim.checked_next_multiple_of(LANES).ok_or(Error::TooLarge)?;
        let len = spec
            .head_dim
            .checked_add(padded)
            .and_then(|dims| dims.checked_mul(BLOCK))
            .and_then(|head| head.checked_mul(spec.kv_heads))
            .and_then(|layer| layer.checked_mul(spec.layers))
            .and_then(|block| block.checked_mul(spec.blocks))
            .ok_or(Error::TooLarge)?;
        let blocks = match spec.dtype {
            CacheType::F32 => Blocks::F32(Buffer::zeroed(len)?),
            CacheType::BF16Products if isa.products16() && spec.head_dim.is_multiple_of(2) => {
                Blocks::Pairs(Buffer::zeroed(len / 2)?)
            }
            CacheType::F8 => Blocks::F8(Buffer::zeroed(len)?),
            CacheType::BF16 | CacheType::BF16Products => Blocks::BF16(Buffer::zeroed(len)?),
        };
        Ok(Self { spec, blocks })
    }

    /// What the pool was made for.
    pub fn spec(&self) -> CacheSpec {
        self.spec
    }

    pub(crate) fn layout(&self) -> Layout {
        let CacheSpec { layers, blocks, kv_heads, head_dim, .. } = self.spec;
        Layout { layers, blocks, kv_heads, head_dim, padded: head_dim.next_multiple_of(LANES) }
    }

    /// The pool, for tasks that write different tokens.
    pub(crate) fn writer(&mut self) -> Writer<'_> {
        let layout = self.layout();
        match &mut self.blocks {
            Blocks::F32(data) => Writer { layout, data: Target::F32(Parts::new(data)) },
            Blocks::BF16(data) => Writer { layout, data: Target::BF16(Parts::new(data)) },
            Blocks::F8(data) => Writer { layout, data: Target::F8(Parts::new(data)) },
            Blocks::Pairs(data) => Writer { layout, data: Target::Pairs(Parts::new(halves(data))) },
        }
    }
}

/// Writes keys and values of single tokens.
pub(crate) struct Writer<'a> {
    layout: Layout,
    data: Target<'a>,
}

enum Target<'a> {
    F32(Parts<'a, f32>),
    BF16(Parts<'a, u16>),
    F8(Parts<'a, u8>),
    Pairs(Parts<'a, u16>),
}

impl Writer<'_> {
    /// Writes `key` and `value` (`[head_dim]`) of one head of the token in `slot` of `block`.
    ///
    /// # Safety
    /// Each (block, slot, layer, head) is written by one task at a time.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn store(
        &self,
        block: usize,
        slot: usize,
        layer: usize,
        head: usize,
        key: &[f32],
        value: &[f32],
    ) {
        // SAFETY: the caller's promise is passed on.
        unsafe {
            match &self.data {
                Target::F32(data) => put::<_, false>(data, &self.layout, block, slot, layer, head, key, value),
                Target::BF16(data) => put::<_, false>(data, &self.layout, block, slot, layer, head, key, value),
                Target::F8(data) => put::<_, false>(data, &self.layout, block, slot, layer, head, key, value),
                Target::Pairs(data) => put::<_, true>(data, &self.layout, block, slot, layer, head, key, value),
            }
        }
    }
}

/// Writes one token; with `PAIRS` as the cache of pairs has it.
///
/// # Safety
/// As [`Writer::store`].
#[allow(unsafe_code)]
unsafe fn put<E: Element, const PAIRS: bool>(
    data: &Parts<'_, E>,
    layout: &Layout,
    block: usize,
    slot: usize,
    layer: usize,
    head: usize,
    key: &[f32],
    value: &[f32],
) {
    assert!(slot < BLOCK && key.len() == layout.head_dim && value.len() == layout.head_dim);
    let (keys, values) = (layout.keys(block, layer, head), layout.values(block, layer, head));
    for (d, (&k, &v)) in key.iter().zip(value).enumerate() {
        let (of_key, of_value) = if PAIRS {
            (d / 2 * 2 * BLOCK + 2 * slot + d % 2, slot / 2 * 2 * layout.padded + 2 * d + slot % 2)
        } else {
            (d * BLOCK + slot, slot * layout.padded + d)
        };
        // SAFETY: inside this head's keys and values; the slot's elements belong to this task alone.
        unsafe {
            data.set(keys + of_key, E::encode(k));
            data.set(values + of_value, E::encode(v));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::Isa;

    #[test]
    fn impossible_pools_are_errors() {
        let spec = CacheSpec { layers: 62, blocks: usize::MAX / 2, kv_heads: 16, head_dim: 128, dtype: CacheType::F32 };
        assert!(matches!(CpuCache::new(spec, Found::new(Isa::detect())), Err(Error::TooLarge)));
        let spec = CacheSpec { head_dim: usize::MAX, ..spec };
        assert!(matches!(CpuCache::new(spec, Found::new(Isa::detect())), Err(Error::TooLarge)));
    }

    #[test]
    fn heads_of_a_pool_do_not_overlap() {
        let spec = CacheSpec { layers: 3, blocks: 4, kv_heads: 2, head_dim: 20, dtype: CacheType::BF16 };
        let layout = CpuCache::new(spec, Found::new(Isa::detect())).unwrap().layout();
        let mut starts = Vec::new();
        for block in 0..4 {
            for layer in 0..3 {
                for head in 0..2 {
                    starts.push((layout.keys(block, layer, head), 20 * BLOCK));
                    starts.push((layout.values(block, layer, head), 32 * BLOCK));
                }
            }
        }
        starts.sort_unstable();
        let mut end = 0;
        for (start, len) in starts {
            assert_eq!(start, end);
            end = start + len;
        }
    }
}
