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

/// Tiles of rows rounded to 8 bits in groups of 32, and what kernels need to know of each group.
#[derive(Debug)]
pub(crate) struct Ints {
    /// `[k / 4][rows]`, 4 consecutive elements in the bytes of each.
    quads: Buffer<i32>,
    /// `[k / 32][rows]`: what one step of the integers stands for.
    scales: Buffer<f32>,
    /// Sums of the integers of each 32 elements and of each 16: `[k / width][rows]`.
    wide: Sums,
    narrow: Sums,
}

#[derive(Debug)]
struct Sums {
    /// Sums of integers times -8: what weights that stand for themselves less 8 make of them.
    minus8: Buffer<i32>,
    /// Sums times the scale.
    total: Buffer<f32>,
}

/// A tile's integers over a range of k.
pub(crate) struct IntTile<'a> {
    pub(crate) quads: &'a [i32],
    pub(crate) scales: &'a [f32],
    pub(crate) minus8: &'a [i32],
    pub(crate) total: &'a [f32],
}

impl Sums {
    const fn new() -> Self {
        Self { minus8: Buffer::empty(), total: Buffer::empty() }
    }

    fn reserve(&mut self, len: usize) -> Result<(), Error> {
        self.minus8.grow(len)?;
        self.total.grow(len)
    }
}

impl Ints {
    pub(crate) const fn new() -> Self {
        Self { quads: Buffer::empty(), scales: Buffer::empty(), wide: Sums::new(), narrow: Sums::new() }
    }

    /// Makes room for rows of `k` elements.
    pub(crate) fn reserve(&mut self, k: usize) -> Result<(), Error> {
        let len = k.checked_mul(MAX_ROWS).ok_or(Error::TooLarge)?;
        self.quads.grow(len / 4)?;
        self.scales.grow(len / GROUP)?;
        self.wide.reserve(len / GROUP)?;
        self.narrow.reserve(len / 16)
    }

    /// Rounds and packs the rows of `x`, `[rows, k]`; k is a multiple of 32.
    pub(crate) fn pack(&mut self, pool: &Pool, isa: Found, tiling: Tiling, x: &[f32], k: usize) {
        let (quads, scales) = (Parts::new(&mut self.quads), Parts::new(&mut self.scales));
        let (minus8, total) = (Parts::new(&mut self.wide.minus8), Parts::new(&mut self.wide.total));
        let (narrow_minus8, narrow_total) = (Parts::new(&mut self.narrow.minus8), Parts::new(&mut self.narrow.total));
        pool.run(tiling.len(), &|i, _| {
            let Tile { first, rows, padded } = tiling.get(i);
            let part = |width: usize| first * (k / width)..(first + padded) * (k / width);
            // SAFETY: tiles don't overlap.
            let pack = unsafe {
                PackTile {
                    x: &x[first * k..(first + rows) * k],
                    k,
                    padded,
                    quads: quads.part(part(4)),
                    scales: scales.part(part(GROUP)),
                    minus8: minus8.part(part(GROUP)),
                    total: total.part(part(GROUP)),
                    narrow_minus8: narrow_minus8.part(part(16)),
                    narrow_total: narrow_total.part(part(16)),
                }
            };
            isa.run(pack);
        });
    }

    /// The tile's integers for `len` k from `start`, multiples of 32; sums over `group` elements, 16 or 32.
    pub(crate) fn tile(&self, tile: Tile, k: usize, start: usize, len: usize, group: usize) -> IntTile<'_> {
        let range = |width: usize| {
            let from = tile.first * (k / width) + start / width * tile.padded;
            from..from + len / width * tile.padded
        };
        let sums = if group == GROUP { &self.wide } else { &self.narrow };
        IntTile {
            quads: &self.quads[range(4)],
            scales: &self.scales[range(GROUP)],
            minus8: &sums.minus8[range(group)],
            total: &sums.total[range(group)],
        }
    }
}

/// Rounds the rows of one tile.
struct PackTile<'a> {
    x: &'a [f32],
    k: usize,
    padded: usize,
    quads: &'a mut [i32],
    scales: &'a mut [f32],
    minus8: &'a mut [i32],
    total: &'a mut [f32],
    narrow_minus8: &'a mut [i32],
    narrow_total: &'a mut [f32],
}

impl Kernel for PackTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let rows = self.x.len() / self.k;
        for (r, row) in self.x.chunks_exact(self.k).enumerate() {
            for (g, group) in row.as_chunks::<GROUP>().0.iter().enumerate() {
                let [low, high] = [&group.as_chunks::<LANES>().0[0], &group.as_chunks::<LANES>().0[1]];
                let (low, high) = (s.load(low), s.load(high));
                let max = s.largest(s.max(s.abs(low), s.abs(high)));
                let scale = max / 127.0;
                // Steps too small for a normal number, whose inverse might overflow, are nothing.
                let (scale, inverse) = if scale >= f32::MIN_POSITIVE { (scale, 1.0 / scale) } else { (0.0, 0.0) };
                let inverse = s.splat(inverse);
                self.put(r, g, scale, [s.to_i8(s.mul(low, inverse)), s.to_i8(s.mul(high, inverse))]);
            }
        }
        for r in rows..self.padded {
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
                self.quads[(g * 8 + h * 4 + j) * padded + r] = i32::from_ne_bytes(quad.map(|q| q as u8));
            }
            sums[h] = half.iter().map(|&q| i32::from(q)).sum();
            self.narrow_minus8[(2 * g + h) * padded + r] = -8 * sums[h];
            self.narrow_total[(2 * g + h) * padded + r] = sums[h] as f32 * scale;
        }
        let sum = sums[0] + sums[1];
        self.scales[g * padded + r] = scale;
        self.minus8[g * padded + r] = -8 * sum;
        self.total[g * padded + r] = sum as f32 * scale;
    }
}
