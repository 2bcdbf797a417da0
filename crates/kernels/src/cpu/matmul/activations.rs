//! Activations as the kernels read them: tile after tile of rows, each tile interleaved along k.
#![allow(unsafe_code)]

use super::tiling::{MAX_ROWS, Tile, Tiling};
use crate::cpu::Error;
use crate::cpu::memory::{Buffer, Parts};
use crate::cpu::pack::GROUP;
use crate::cpu::pool::Pool;
use crate::cpu::simd::{Found, Kernel, LANES, Simd};

/// Tiles of f32 rows: `[k][rows of the tile]` each.
#[derive(Debug)]
pub(crate) struct Floats(Buffer<f32>);

impl Floats {
    pub(crate) const fn new() -> Self {
        Self(Buffer::empty())
    }

    /// Makes room for rows of `k` elements.
    pub(crate) fn reserve(&mut self, k: usize) -> Result<(), Error> {
        self.0.grow(k.checked_mul(MAX_ROWS).ok_or(Error::TooLarge)?)
    }

    /// Packs the rows of `x`, `[rows, k]`.
    pub(crate) fn pack(&mut self, pool: &Pool, tiling: Tiling, x: &[f32], k: usize) {
        let out = Parts::new(&mut self.0);
        pool.run(tiling.len(), &|i, _| {
            let Tile { first, rows, padded } = tiling.get(i);
            // SAFETY: tiles don't overlap.
            let out = unsafe { out.part(first * k..(first + padded) * k) };
            for (i, out) in out.chunks_exact_mut(padded).enumerate() {
                let (out, zeros) = out.split_at_mut(rows);
                for (r, out) in out.iter_mut().enumerate() {
                    *out = x[(first + r) * k + i];
                }
                zeros.fill(0.0);
            }
        });
    }

    /// The tile's activations for the k of `range`.
    pub(crate) fn tile(&self, tile: Tile, k: usize, start: usize, len: usize) -> &[f32] {
        &self.0[tile.first * k + start * tile.padded..][..len * tile.padded]
    }
}

/// Elements that share a scale beside weights whose groups' scales are integers: half a record. A whole one (as in
/// llama.cpp) would be summed up a little faster, but doubles the distance from float32.
pub(crate) const SPAN: usize = 128;

/// Tiles of rows rounded to 8 bits, and what kernels need to know of them.
///
/// Elements share a scale in spans: of [`GROUP`] for weights whose groups have scales of their own, of [`SPAN`] for those
/// whose groups' scales are integers, so that whole spans are summed up in integers.
#[derive(Debug)]
pub(crate) struct Ints {
    span: usize,
    /// `[k / 4][rows]`, 4 consecutive elements in the bytes of each; for AMX, `[k / depth][rows][depth / 4]`, the depth
    /// being what one instruction takes: 64 elements, or a [`GROUP`] where spans are groups.
    quads: Buffer<i32>,
    /// `[k / span][rows]`: what one step of the integers stands for.
    scales: Buffer<f32>,
    /// `[k / 32][rows]`: sums of the integers of each group times their scale; where spans are groups.
    total: Buffer<f32>,
    /// Sums of the integers of each 32 elements, and where spans are longer of each 16.
    wide: Sums,
    narrow: Sums,
}

#[derive(Debug)]
struct Sums {
    /// `[k / width][rows]`: sums times -8: what weights that stand for themselves less 8 make of them.
    minus8: Buffer<i32>,
    /// `[k / width / 2][rows]`: sums in pairs of 16 bits, the first in the low half; where spans are longer than groups.
    pairs: Buffer<i32>,
}

/// A tile's integers over a range of k.
pub(crate) struct IntTile<'a> {
    pub(crate) quads: &'a [i32],
    pub(crate) scales: &'a [f32],
    pub(crate) total: &'a [f32],
    pub(crate) minus8: &'a [i32],
    pub(crate) pairs: &'a [i32],
}

impl IntTile<'_> {
    /// The i-th span of a tile of `rows` rows, whose sums are over `width` elements.
    #[inline(always)]
    pub(crate) fn span(&self, i: usize, width: usize, rows: usize) -> IntTile<'_> {
        let range = |width: usize| i * (SPAN / width) * rows..(i + 1) * (SPAN / width) * rows;
        IntTile {
            quads: &self.quads[range(4)],
            scales: &self.scales[range(SPAN)],
            total: &[],
            minus8: &self.minus8[range(width)],
            pairs: &self.pairs[range(2 * width)],
        }
    }
}

impl Sums {
    const fn new() -> Self {
        Self { minus8: Buffer::empty(), pairs: Buffer::empty() }
    }
}

impl Ints {
    /// For spans of `span` elements: [`GROUP`] or [`SPAN`].
    pub(crate) const fn new(span: usize) -> Self {
        Self {
            span,
            quads: Buffer::empty(),
            scales: Buffer::empty(),
            total: Buffer::empty(),
            wide: Sums::new(),
            narrow: Sums::new(),
        }
    }

    /// Makes room for rows of `k` elements.
    pub(crate) fn reserve(&mut self, k: usize) -> Result<(), Error> {
        let len = k.checked_mul(MAX_ROWS).ok_or(Error::TooLarge)?;
        self.quads.grow(len / 4)?;
        self.scales.grow(len / self.span)?;
        self.wide.minus8.grow(len / GROUP)?;
        if self.span == GROUP {
            return self.total.grow(len / GROUP);
        }
        self.wide.pairs.grow(len / GROUP / 2)?;
        self.narrow.minus8.grow(len / 16)?;
        self.narrow.pairs.grow(len / 16 / 2)
    }

    /// Rounds and packs the rows of `x`, `[rows, k]`; k is a multiple of the span.
    pub(crate) fn pack(&mut self, pool: &Pool, isa: Found, tiling: Tiling, x: &[f32], k: usize) {
        let span = self.span;
        let (quads, scales, total) =
            (Parts::new(&mut self.quads), Parts::new(&mut self.scales), Parts::new(&mut self.total));
        let (wide, wide_pairs) = (Parts::new(&mut self.wide.minus8), Parts::new(&mut self.wide.pairs));
        let (narrow, narrow_pairs) = (Parts::new(&mut self.narrow.minus8), Parts::new(&mut self.narrow.pairs));
        pool.run(tiling.len(), &|i, _| {
            let Tile { first, rows, padded } = tiling.get(i);
            let part = |width: usize| first * (k / width)..(first + padded) * (k / width);
            let of = |span_is: usize, width: usize| if span == span_is { part(width) } else { 0..0 };
            // SAFETY: tiles don't overlap.
            let pack = unsafe {
                PackTile {
                    x: &x[first * k..(first + rows) * k],
                    k,
                    span,
                    depth: if tiling.is_square() { span.min(2 * GROUP) } else { 4 },
                    padded,
                    quads: quads.part(part(4)),
                    scales: scales.part(part(span)),
                    total: total.part(of(GROUP, GROUP)),
                    wide: wide.part(part(GROUP)),
                    wide_pairs: wide_pairs.part(of(SPAN, 2 * GROUP)),
                    narrow: narrow.part(of(SPAN, 16)),
                    narrow_pairs: narrow_pairs.part(of(SPAN, 32)),
                }
            };
            isa.run(pack);
        });
    }

    /// The tile's integers for the i-th [`SPAN`]; sums over `width` elements, 16 or 32.
    #[inline(always)]
    pub(crate) fn span(&self, tile: Tile, k: usize, i: usize, width: usize) -> IntTile<'_> {
        debug_assert!(self.span == SPAN);
        let (from, len) = (tile.first * k + i * SPAN * tile.padded, SPAN * tile.padded);
        let range = |width: usize| from / width..from / width + len / width;
        let sums = if width == GROUP { &self.wide } else { &self.narrow };
        IntTile {
            quads: &self.quads[range(4)],
            scales: &self.scales[range(SPAN)],
            total: &[],
            minus8: &sums.minus8[range(width)],
            pairs: &sums.pairs[range(2 * width)],
        }
    }

    /// The tile's integers for `len` k from `start`, multiples of the span; sums over `width` elements, 16 or 32.
    #[inline(always)]
    pub(crate) fn tile(&self, tile: Tile, k: usize, start: usize, len: usize, width: usize) -> IntTile<'_> {
        let range = |width: usize| {
            let from = tile.first * (k / width) + start / width * tile.padded;
            from..from + len / width * tile.padded
        };
        let of = |span_is: usize, width: usize| if self.span == span_is { range(width) } else { 0..0 };
        let sums = if width == GROUP { &self.wide } else { &self.narrow };
        IntTile {
            quads: &self.quads[range(4)],
            scales: &self.scales[range(self.span)],
            total: &self.total[of(GROUP, GROUP)],
            minus8: &sums.minus8[range(width)],
            pairs: &sums.pairs[of(SPAN, 2 * width)],
        }
    }
}

/// Rounds the rows of one tile.
struct PackTile<'a> {
    x: &'a [f32],
    k: usize,
    span: usize,
    /// Elements of a row that lie side by side.
    depth: usize,
    padded: usize,
    quads: &'a mut [i32],
    scales: &'a mut [f32],
    total: &'a mut [f32],
    wide: &'a mut [i32],
    wide_pairs: &'a mut [i32],
    narrow: &'a mut [i32],
    narrow_pairs: &'a mut [i32],
}

impl Kernel for PackTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let rows = self.x.len() / self.k;
        for (r, row) in self.x.chunks_exact(self.k).enumerate() {
            for (i, span) in row.chunks_exact(self.span).enumerate() {
                let mut max = s.splat(0.0);
                for v in span.as_chunks::<LANES>().0 {
                    max = s.max(s.abs(s.load(v)), max);
                }
                let scale = s.largest(max) / 127.0;
                // Steps too small for a normal number, whose inverse might overflow, are nothing.
                let (scale, inverse) = if scale >= f32::MIN_POSITIVE { (scale, 1.0 / scale) } else { (0.0, 0.0) };
                self.scales[i * self.padded + r] = scale;
                let inverse = s.splat(inverse);
                for (g, group) in span.as_chunks::<GROUP>().0.iter().enumerate() {
                    let [low, high] = [&group.as_chunks::<LANES>().0[0], &group.as_chunks::<LANES>().0[1]];
                    let halves = [s.to_i8(s.mul(s.load(low), inverse)), s.to_i8(s.mul(s.load(high), inverse))];
                    self.put(r, i * (self.span / GROUP) + g, scale, halves);
                }
            }
        }
        for r in rows..self.padded {
            for i in 0..self.k / self.span {
                self.scales[i * self.padded + r] = 0.0;
            }
            for g in 0..self.k / GROUP {
                self.put(r, g, 0.0, [[0; LANES]; 2]);
            }
        }
    }
}

impl PackTile<'_> {
    /// Writes group `g` of row `r`.
    #[inline(always)]
    fn put(&mut self, r: usize, g: usize, scale: f32, halves: [[i8; LANES]; 2]) {
        let padded = self.padded;
        let mut sums = [0i32; 2];
        for (h, half) in halves.iter().enumerate() {
            for (j, quad) in half.as_chunks::<4>().0.iter().enumerate() {
                let (i, depth) = (g * 8 + h * 4 + j, self.depth / 4);
                self.quads[(i / depth * padded + r) * depth + i % depth] = i32::from_ne_bytes(quad.map(|q| q as u8));
            }
            sums[h] = half.iter().map(|&q| i32::from(q)).sum();
        }
        let sum = sums[0] + sums[1];
        self.wide[g * padded + r] = -8 * sum;
        if self.span == GROUP {
            self.total[g * padded + r] = sum as f32 * scale;
            return;
        }
        for (h, half) in sums.iter().enumerate() {
            self.narrow[(2 * g + h) * padded + r] = -8 * half;
        }
        self.narrow_pairs[g * padded + r] = sums[0] & 0xFFFF | sums[1] << 16;
        let pair = &mut self.wide_pairs[g / 2 * padded + r];
        *pair = if g.is_multiple_of(2) { sum & 0xFFFF } else { *pair | sum << 16 };
    }
}
