//! Products with weights whose elements are looked up or widened to f32.
//!
//! Sums run over 256 k at a time (NF4: 64), each from zero, and are then added to the sum of what came before: the
//! weights of a few panels stay in the cache for all tiles of rows, and a long sum loses less.
#![allow(unsafe_code)]

use super::activations::Floats;
use super::tiling::Tiling;
use crate::cpu::pack::{F8_SCALES, Layout, NF4_BLOCK, NF4_BYTES, Segment};
use crate::cpu::simd::{Found, Kernel, LANES, Simd};
use std::marker::PhantomData;
use std::ops::Range;

/// k that are summed before they are added to the rest.
const DEPTH: usize = 256;

/// Adds up `panels` of a segment for all tiles; `c` is `[group of np panels][tile][row][panel][LANES]`.
pub(crate) fn accumulate(
    isa: Found,
    segment: &Segment,
    k: usize,
    x: &Floats,
    tiling: Tiling,
    np: usize,
    panels: Range<usize>,
    c: &mut [f32],
) {
    for start in (0..k).step_by(DEPTH) {
        let len = DEPTH.min(k - start);
        let bytes = match segment.layout {
            Layout::F32 => start * 4 * LANES..(start + len) * 4 * LANES,
            Layout::F8 => F8_SCALES + start * LANES..F8_SCALES + (start + len) * LANES,
            Layout::Nf4(_) => start / NF4_BLOCK * NF4_BYTES..(start + len) / NF4_BLOCK * NF4_BYTES,
            _ => start * 2 * LANES..(start + len) * 2 * LANES,
        };
        for (group, first) in panels.clone().step_by(np).enumerate() {
            // Where panels run out, the last one is repeated and its result not used.
            let panel = |i: usize| segment.panel((first + i).min(panels.end - 1));
            let w: [&[u8]; 4] = std::array::from_fn(|i| &panel(i)[bytes.clone()]);
            let scales: [&[u8]; 4] = match segment.layout {
                Layout::F8 => std::array::from_fn(|i| &panel(i)[..F8_SCALES]),
                _ => [&[]; 4],
            };
            for tile in tiling.iter() {
                let at = (group * tiling.padded() + tile.first) * np * LANES;
                let call = Call {
                    x: x.tile(tile, k, start, len),
                    w,
                    scales,
                    c: &mut c[at..at + tile.padded * np * LANES],
                    fresh: start == 0,
                };
                match &segment.layout {
                    Layout::F32 => call.floats::<F32>(isa, tile.padded, np),
                    Layout::F16 => call.floats::<F16>(isa, tile.padded, np),
                    Layout::BF16 => call.floats::<BF16>(isa, tile.padded, np),
                    Layout::F8 => call.floats::<F8>(isa, tile.padded, np),
                    Layout::Nf4(values) => call.nf4(isa, tile.padded, np, values),
                    Layout::Pairs | Layout::Int(_) => unreachable!("they have kernels of their own"),
                }
            }
        }
    }
}

/// What a kernel works on: `x` `[k][rows]`, `c` `[row][panel][LANES]`, the same k of each panel.
struct Call<'a> {
    x: &'a [f32],
    w: [&'a [u8]; 4],
    /// Of the rows of each panel, where they have some.
    scales: [&'a [u8]; 4],
    c: &'a mut [f32],
    /// Whether nothing was summed in `c` yet.
    fresh: bool,
}

impl Call<'_> {
    fn floats<W: Widen>(self, isa: Found, rows: usize, np: usize) {
        match (rows, np) {
            (1, 4) => isa.run(Tile::<W, 1, 4>(self, PhantomData)),
            (1, 2) => isa.run(Tile::<W, 1, 2>(self, PhantomData)),
            (2, 2) => isa.run(Tile::<W, 2, 2>(self, PhantomData)),
            (4, 2) => isa.run(Tile::<W, 4, 2>(self, PhantomData)),
            (8, 2) => isa.run(Tile::<W, 8, 2>(self, PhantomData)),
            (12, 2) => isa.run(Tile::<W, 12, 2>(self, PhantomData)),
            (1, 1) => isa.run(Tile::<W, 1, 1>(self, PhantomData)),
            (2, 1) => isa.run(Tile::<W, 2, 1>(self, PhantomData)),
            (4, 1) => isa.run(Tile::<W, 4, 1>(self, PhantomData)),
            (6, 1) => isa.run(Tile::<W, 6, 1>(self, PhantomData)),
            _ => unreachable!("no tile of {rows} rows and {np} panels"),
        }
    }

    fn nf4(self, isa: Found, rows: usize, np: usize, values: &[f32; 16]) {
        match (rows, np) {
            (1, 4) => isa.run(Nf4Tile::<1, 4>(self, values)),
            (1, 2) => isa.run(Nf4Tile::<1, 2>(self, values)),
            (2, 2) => isa.run(Nf4Tile::<2, 2>(self, values)),
            (4, 2) => isa.run(Nf4Tile::<4, 2>(self, values)),
            (8, 2) => isa.run(Nf4Tile::<8, 2>(self, values)),
            (12, 2) => isa.run(Nf4Tile::<12, 2>(self, values)),
            (1, 1) => isa.run(Nf4Tile::<1, 1>(self, values)),
            (2, 1) => isa.run(Nf4Tile::<2, 1>(self, values)),
            (4, 1) => isa.run(Nf4Tile::<4, 1>(self, values)),
            (6, 1) => isa.run(Nf4Tile::<6, 1>(self, values)),
            _ => unreachable!("no tile of {rows} rows and {np} panels"),
        }
    }
}

/// A stored float type.
trait Widen: 'static {
    type Bits;
    /// Whether rows have scales.
    const SCALED: bool = false;
    /// Weights of 16 rows; `scale` means something where rows have one.
    fn load<S: Simd>(s: S, w: &[Self::Bits; LANES], scale: S::F) -> S::F;
}

struct F32;
struct F16;
struct BF16;
struct F8;

impl Widen for F32 {
    type Bits = f32;
    #[inline(always)]
    fn load<S: Simd>(s: S, w: &[f32; LANES], _: S::F) -> S::F {
        s.load(w)
    }
}

impl Widen for F16 {
    type Bits = u16;
    #[inline(always)]
    fn load<S: Simd>(s: S, w: &[u16; LANES], _: S::F) -> S::F {
        s.load_f16(w)
    }
}

impl Widen for BF16 {
    type Bits = u16;
    #[inline(always)]
    fn load<S: Simd>(s: S, w: &[u16; LANES], _: S::F) -> S::F {
        s.load_bf16(w)
    }
}

impl Widen for F8 {
    type Bits = u8;
    const SCALED: bool = true;
    #[inline(always)]
    fn load<S: Simd>(s: S, w: &[u8; LANES], scale: S::F) -> S::F {
        s.mul(s.load_f8(w), scale)
    }
}

/// Whether a tile fits the registers, so that it is worth compiling.
const fn fits<S: Simd>(rows: usize, np: usize) -> bool {
    S::WIDE || rows * np <= 6
}

struct Tile<'a, W, const ROWS: usize, const NP: usize>(Call<'a>, PhantomData<W>);

impl<W: Widen, const ROWS: usize, const NP: usize> Kernel for Tile<'_, W, ROWS, NP> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if const { !fits::<S>(ROWS, NP) } {
            unreachable!("tiles are chosen to fit");
        }
        let Call { x, w, scales, c, fresh } = self.0;
        let k = x.len() / ROWS;
        assert!(c.len() == ROWS * NP * LANES && w.iter().all(|w| w.len() == k * LANES * size_of::<W::Bits>()));
        let mut sums = [[s.splat(0.0); NP]; ROWS];
        let mut column = [s.splat(0.0); NP];
        let mut scale = [s.splat(1.0); NP];
        if W::SCALED {
            for (scale, bytes) in scale.iter_mut().zip(&scales) {
                let floats = bytes.as_chunks::<4>().0;
                *scale = s.load(&std::array::from_fn(|lane| f32::from_ne_bytes(floats[lane])));
            }
        }
        for (i, x) in x.as_chunks::<ROWS>().0.iter().enumerate() {
            for ((column, w), &scale) in column.iter_mut().zip(&w).zip(&scale) {
                // SAFETY: i < k, and each panel has k columns (asserted). Panels and columns are aligned as their
                // elements: buffers begin at a cache line, and columns are powers of two long.
                *column = W::load(s, unsafe { &*w.as_ptr().cast::<[W::Bits; LANES]>().add(i) }, scale);
            }
            for (sums, &x) in sums.iter_mut().zip(x) {
                let x = s.splat(x);
                for (sum, column) in sums.iter_mut().zip(column) {
                    *sum = s.fma(x, column, *sum);
                }
            }
        }
        let c = c.as_chunks_mut::<LANES>().0;
        for (r, sums) in sums.iter().enumerate() {
            for (p, &sum) in sums.iter().enumerate() {
                let c = &mut c[r * NP + p];
                s.store(if fresh { sum } else { s.add(s.load(c), sum) }, c);
            }
        }
    }
}

struct Nf4Tile<'a, const ROWS: usize, const NP: usize>(Call<'a>, &'a [f32; 16]);

impl<const ROWS: usize, const NP: usize> Kernel for Nf4Tile<'_, ROWS, NP> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if const { !fits::<S>(ROWS, NP) } {
            unreachable!("tiles are chosen to fit");
        }
        let Call { x, w, c, mut fresh, .. } = self.0;
        let blocks = x.len() / ROWS / NF4_BLOCK;
        assert!(c.len() == ROWS * NP * LANES && w.iter().all(|w| w.len() == blocks * NF4_BYTES));
        let lut = s.lut(self.1);
        let c = c.as_chunks_mut::<LANES>().0;
        for (block, x) in x.chunks_exact(ROWS * NF4_BLOCK).enumerate() {
            let mut sums = [[s.splat(0.0); NP]; ROWS];
            let mut columns = [(s.splat(0.0), s.splat(0.0)); NP];
            let x = x.as_chunks::<ROWS>().0;
            for (i, x) in x.as_chunks::<2>().0.iter().enumerate() {
                for (column, w) in columns.iter_mut().zip(&w) {
                    // SAFETY: block < blocks and i < 32, inside the panel (asserted); bytes need no alignment.
                    let pairs = unsafe { &*w.as_ptr().add(block * NF4_BYTES + LANES * 4 + i * LANES).cast() };
                    *column = s.lookup(lut, pairs);
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let (first, second) = (s.splat(x[0][r]), s.splat(x[1][r]));
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = s.fma(second, column.1, s.fma(first, column.0, *sum));
                    }
                }
            }
            for (p, w) in w[..NP].iter().enumerate() {
                // SAFETY: the block's scales, inside the panel (asserted); blocks are whole cache lines long.
                let scales = s.load(unsafe { &*w.as_ptr().add(block * NF4_BYTES).cast() });
                for (r, sums) in sums.iter().enumerate() {
                    let c = &mut c[r * NP + p];
                    let before = if fresh { s.splat(0.0) } else { s.load(c) };
                    s.store(s.fma(sums[p], scales, before), c);
                }
            }
            fresh = false;
        }
    }
}
