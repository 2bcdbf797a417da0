//! Products in bf16: activations are rounded to it, products summed in f32, over 256 k at a time as in the float kernels.
#![allow(unsafe_code)]

use super::tiling::{MAX_ROWS, SQUARE, Tile, Tiling};
use crate::cpu::Error;
use crate::cpu::memory::{Buffer, Parts};
use crate::cpu::pack::Segment;
use crate::cpu::pool::Pool;
use crate::cpu::simd::{Found, Kernel16, LANES, Products16};
use std::ops::Range;

/// Panels side by side.
pub(crate) const PANELS: usize = 2;
/// k that are summed before they are added to the rest.
const DEPTH: usize = 256;

/// k of one instruction of AMX.
pub(crate) const STEP: usize = 32;

/// Tiles of rows rounded to bf16: `[k / 2][rows of the tile]` pairs each; for AMX `[k / 32][rows][16]`, the last filled up
/// with zeros.
#[derive(Debug)]
pub(crate) struct Pairs(Buffer<u32>);

impl Pairs {
    pub(crate) const fn new() -> Self {
        Self(Buffer::empty())
    }

    /// Makes room for rows of `k` elements, an even number.
    pub(crate) fn reserve(&mut self, k: usize) -> Result<(), Error> {
        let k = k.checked_next_multiple_of(STEP).ok_or(Error::TooLarge)?;
        self.0.grow((k / 2).checked_mul(MAX_ROWS).ok_or(Error::TooLarge)?)
    }

    /// Rounds and packs the rows of `x`, `[rows, k]`.
    pub(crate) fn pack(&mut self, pool: &Pool, isa: Found, tiling: Tiling, x: &[f32], k: usize) {
        let out = Parts::new(&mut self.0);
        pool.run(tiling.len(), &|i, _| {
            let Tile { first, rows, padded } = tiling.get(i);
            let depth = if tiling.is_square() { STEP / 2 } else { 1 };
            let pairs = (k / 2).next_multiple_of(depth);
            // SAFETY: tiles don't overlap.
            let out = unsafe { out.part(first * pairs..(first + padded) * pairs) };
            isa.run16(PackTile { x: &x[first * k..(first + rows) * k], k, padded, depth, out });
        });
    }

    /// `steps` steps of AMX's tile from `start`, a multiple of one.
    pub(crate) fn steps(&self, tile: Tile, k: usize, start: usize, steps: usize) -> &[u32] {
        let row = k.next_multiple_of(STEP) / 2;
        &self.0[tile.first * row + start / 2 * SQUARE..][..steps * SQUARE * STEP / 2]
    }

    fn tile(&self, tile: Tile, k: usize, start: usize, len: usize) -> &[u32] {
        &self.0[tile.first * (k / 2) + start / 2 * tile.padded..][..len / 2 * tile.padded]
    }
}

/// Rounds the rows of one tile.
struct PackTile<'a> {
    x: &'a [f32],
    k: usize,
    padded: usize,
    /// Pairs of a row that lie side by side.
    depth: usize,
    out: &'a mut [u32],
}

impl Kernel16 for PackTile<'_> {
    #[inline(always)]
    fn run<S: Products16>(self, s: S) {
        let Self { x, k, padded, depth, out } = self;
        let rows = x.len() / k;
        if rows < padded || !(k / 2).is_multiple_of(depth) {
            out.fill(0);
        }
        for (r, row) in x.chunks_exact(k).enumerate() {
            for (i, values) in row.chunks(LANES).enumerate() {
                let mut lanes = [0f32; LANES];
                lanes[..values.len()].copy_from_slice(values);
                let pairs = s.to_pairs(s.load(&lanes));
                for (j, &pair) in pairs[..values.len() / 2].iter().enumerate() {
                    let i = i * LANES / 2 + j;
                    out[(i / depth * padded + r) * depth + i % depth] = pair;
                }
            }
        }
    }
}

/// Adds up `panels` of a segment for all tiles; `c` is `[group of PANELS panels][tile][row][panel][LANES]`.
pub(crate) fn accumulate(
    isa: Found,
    segment: &Segment,
    k: usize,
    x: &Pairs,
    tiling: Tiling,
    panels: Range<usize>,
    c: &mut [f32],
) {
    for start in (0..k).step_by(DEPTH) {
        let len = DEPTH.min(k - start);
        let bytes = start * 2 * LANES..(start + len) * 2 * LANES;
        for (group, first) in panels.clone().step_by(PANELS).enumerate() {
            // Where panels run out, the last one is repeated and its result not used.
            let w = [first, (first + 1).min(panels.end - 1)].map(|panel| &segment.panel(panel)[bytes.clone()]);
            for tile in tiling.iter() {
                let at = (group * tiling.padded() + tile.first) * PANELS * LANES;
                let c = &mut c[at..at + tile.padded * PANELS * LANES];
                let call = Call { x: x.tile(tile, k, start, len), w, c, fresh: start == 0 };
                match tile.padded {
                    1 => isa.run16(Products::<1>(call)),
                    2 => isa.run16(Products::<2>(call)),
                    4 => isa.run16(Products::<4>(call)),
                    8 => isa.run16(Products::<8>(call)),
                    12 => isa.run16(Products::<12>(call)),
                    rows => unreachable!("no tile of {rows} rows"),
                }
            }
        }
    }
}

/// What a kernel works on: `x` `[k / 2][rows]`, `c` `[row][panel][LANES]`, the same k of each panel.
struct Call<'a> {
    x: &'a [u32],
    w: [&'a [u8]; PANELS],
    c: &'a mut [f32],
    /// Whether nothing was summed in `c` yet.
    fresh: bool,
}

struct Products<'a, const ROWS: usize>(Call<'a>);

impl<const ROWS: usize> Kernel16 for Products<'_, ROWS> {
    #[inline(always)]
    fn run<S: Products16>(self, s: S) {
        let Call { x, w, c, fresh } = self.0;
        let pairs = x.len() / ROWS;
        assert!(c.len() == ROWS * PANELS * LANES && w.iter().all(|w| w.len() == pairs * LANES * 4));
        let mut sums = [[s.splat(0.0); PANELS]; ROWS];
        for (i, x) in x.as_chunks::<ROWS>().0.iter().enumerate() {
            // SAFETY: i < pairs, and each panel has so many columns of pairs (asserted), aligned as u32: buffers begin at
            // a cache line.
            let column = unsafe {
                [
                    s.load_pairs(&*w[0].as_ptr().add(i * LANES * 4).cast()),
                    s.load_pairs(&*w[1].as_ptr().add(i * LANES * 4).cast()),
                ]
            };
            for (sums, &x) in sums.iter_mut().zip(x) {
                for (sum, column) in sums.iter_mut().zip(column) {
                    *sum = s.dot16(*sum, column, x);
                }
            }
        }
        let c = c.as_chunks_mut::<LANES>().0;
        for (r, sums) in sums.iter().enumerate() {
            for (p, &sum) in sums.iter().enumerate() {
                let c = &mut c[r * PANELS + p];
                s.store(if fresh { sum } else { s.add(s.load(c), sum) }, c);
            }
        }
    }
}
