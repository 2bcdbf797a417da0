//! Products in bf16 by AMX: tiles of 32 rows of activations times two panels.
//!
//! The instruction adds the even and the odd k of its 32 apart, so the sums differ in their last bits from those of
//! [`super::half`]; they depend on nothing but k all the same.
#![allow(unsafe_code)]

use super::half::{Pairs, STEP};
use super::tiling::{SQUARE as ROWS, Tiling};
use crate::cpu::pack::Segment;
use crate::cpu::simd::{Avx512, Found, LANES, Simd, amx};
use std::ops::Range;

/// Panels side by side.
const PANELS: usize = super::half::PANELS;
/// k that are summed in tiles before they are added to the rest: two panels of them stay in the first cache.
const DEPTH: usize = 384;
/// Bytes of one k of a panel.
const BYTES: usize = 2 * LANES;

/// Sums of a tile.
#[repr(align(64))]
struct Sums([[f32; LANES]; ROWS]);

/// Sums of two tiles of rows, each with two panels.
type Block = [[Sums; PANELS]; 2];

const ZERO: Block = [const { [const { Sums([[0.0; LANES]; ROWS]) }; PANELS] }; 2];

/// Adds up `panels` of a segment for all tiles; `c` is `[group of PANELS panels][tile][row][panel][LANES]`.
///
/// # Panics
/// When the machine has no AMX.
pub(crate) fn accumulate(
    isa: Found,
    segment: &Segment,
    k: usize,
    x: &Pairs,
    tiling: Tiling,
    panels: Range<usize>,
    c: &mut [f32],
) {
    isa.run_amx(Products { segment, k, x, tiling, panels, c });
}

struct Products<'a> {
    segment: &'a Segment,
    k: usize,
    x: &'a Pairs,
    tiling: Tiling,
    panels: Range<usize>,
    c: &'a mut [f32],
}

impl amx::Kernel for Products<'_> {
    #[inline(always)]
    fn run(self, s: Avx512<true>) {
        static SHAPE: amx::Shape = amx::Shape::new();
        let Self { segment, k, x, tiling, panels, c } = self;
        let (padded, tiles) = (tiling.padded(), tiling.len());
        let c = &mut c[..panels.len().next_multiple_of(PANELS) * padded * LANES];
        c.fill(0.0);
        // SAFETY: there is AMX.
        unsafe { SHAPE.set() };
        let mut sums = [ZERO, ZERO];
        // The last k of panels whose width 32 doesn't divide, filled up with zeros.
        let mut last = [[0u32; STEP / 2 * LANES]; PANELS];
        for start in (0..k).step_by(DEPTH) {
            let len = DEPTH.min(k - start);
            let steps = len.div_ceil(STEP);
            for (group, first) in panels.clone().step_by(PANELS).enumerate() {
                // Where panels run out, the last one is repeated and its result not used.
                let w = [first, first + 1]
                    .map(|panel| &segment.panel(panel.min(panels.end - 1))[start * BYTES..][..len * BYTES]);
                let mut tails = w.map(|w| w[(steps - 1) * STEP * BYTES..].as_ptr());
                if len % STEP != 0 {
                    for ((last, w), tail) in last.iter_mut().zip(w).zip(&mut tails) {
                        let rest = &w[(steps - 1) * STEP * BYTES..];
                        for (to, from) in last.iter_mut().zip(rest.as_chunks::<4>().0) {
                            *to = u32::from_ne_bytes(*from);
                        }
                        *tail = last.as_ptr().cast();
                    }
                }
                let weights = |i: usize| {
                    if i + 1 == steps { tails } else { w.map(|w| w[i * STEP * BYTES..].as_ptr()) }
                };
                let c = &mut c[group * padded * PANELS * LANES..][..padded * PANELS * LANES];
                let c = c.as_chunks_mut::<LANES>().0;
                let blocks = tiles.div_ceil(2);
                // The last of an odd number of tiles stands twice in its block.
                let pair = |block: usize| [2 * block, (2 * block + 1).min(tiles - 1)];
                for block in 0..=blocks {
                    let [now, before] = if block % 2 == 0 {
                        let [a, b] = &mut sums;
                        [a, b]
                    } else {
                        let [a, b] = &mut sums;
                        [b, a]
                    };
                    let done = block.checked_sub(1).map(|block| {
                        &mut c[2 * block * ROWS * PANELS..][..ROWS * PANELS * (pair(block)[1] + 1 - 2 * block)]
                    });
                    let mut done = Done { sums: before, c: done.unwrap_or_default() };
                    if block == blocks {
                        done.add(s, 0..2 * ROWS);
                        continue;
                    }
                    let x = pair(block).map(|tile| x.steps(tiling.get(tile), k, start, steps));
                    // SAFETY: shapes are set; each step has 16 rows of 32 activations and as many k of weights.
                    unsafe {
                        amx::zero::<0>();
                        amx::zero::<1>();
                        amx::zero::<2>();
                        amx::zero::<3>();
                        for i in 0..steps {
                            let w = weights(i);
                            amx::load::<4>(x[0][i * ROWS * STEP / 2..].as_ptr().cast(), 2 * STEP);
                            amx::load::<6>(w[0], 64);
                            amx::dot16::<0, 4, 6>();
                            amx::load::<7>(w[1], 64);
                            amx::dot16::<1, 4, 7>();
                            amx::load::<5>(x[1][i * ROWS * STEP / 2..].as_ptr().cast(), 2 * STEP);
                            amx::dot16::<2, 5, 6>();
                            amx::dot16::<3, 5, 7>();
                            done.add(s, i * 2 * ROWS / steps..(i + 1) * 2 * ROWS / steps);
                        }
                        amx::store::<0, f32>(&mut now[0][0].0);
                        amx::store::<1, f32>(&mut now[0][1].0);
                        amx::store::<2, f32>(&mut now[1][0].0);
                        amx::store::<3, f32>(&mut now[1][1].0);
                    }
                }
            }
        }
    }
}

/// Sums that are added to `c`, `[row][panel]` of as many rows as it has.
struct Done<'a> {
    sums: &'a Block,
    c: &'a mut [[f32; LANES]],
}

impl Done<'_> {
    #[inline(always)]
    fn add(&mut self, s: Avx512<true>, rows: Range<usize>) {
        for row in rows.start..rows.end.min(self.c.len() / PANELS) {
            for p in 0..PANELS {
                let c = &mut self.c[row * PANELS + p];
                s.store(s.add(s.load(c), s.load(&self.sums[row / ROWS][p].0[row % ROWS])), c);
            }
        }
    }
}
