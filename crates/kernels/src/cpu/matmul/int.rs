//! Products with integer weights whose groups have scales of their own: the activations are rounded to 8 bits in groups of 32, groups are multiplied in
//! integers, exactly, and their sums added in f32, group after group.
#![allow(unsafe_code)]

use super::activations::{IntTile, Ints as Activations};
use super::group;
use super::tiling::Tiling;
use crate::cpu::pack::{Bits, GROUP, Ints, RECORD, Segment};
use crate::cpu::simd::{Found, Kernel, LANES, Simd};
use std::ops::Range;

/// Scales of a record of one panel, widened: `[groups][LANES]`.
type Widened = [[f32; LANES]; RECORD / GROUP];

/// Adds up `panels` of a segment for all tiles; `c` is `[group of np panels][tile][row][panel][LANES]`.
pub(crate) fn accumulate(
    isa: Found,
    segment: &Segment,
    ints: &Ints,
    k: usize,
    x: &Activations,
    tiling: Tiling,
    np: usize,
    panels: Range<usize>,
    c: &mut [f32],
) {
    let mut scales = [[[0f32; LANES]; RECORD / GROUP]; 4];
    let mut mins = [[[0f32; LANES]; RECORD / GROUP]; 4];
    let mut at = 0;
    for start in (0..k).step_by(RECORD) {
        let len = RECORD.min(k - start);
        let (scale_bytes, record_bytes) = (ints.scale_bytes(len), ints.record_bytes(len));
        for (group, first) in panels.clone().step_by(np).enumerate() {
            let mut w: [&[u8]; 4] = [&[]; 4];
            for (i, w) in w[..np].iter_mut().enumerate() {
                // Where panels run out, the last one is repeated and its result not used.
                let record = &segment.panel((first + i).min(panels.end - 1))[at..at + record_bytes];
                let (held, weights) = record.split_at(scale_bytes);
                isa.run(WidenScales {
                    ints,
                    held,
                    groups: len / ints.group,
                    scales: &mut scales[i],
                    mins: &mut mins[i],
                });
                *w = weights;
            }
            // While tiles meet this record, the one after it is fetched, a part with each tile.
            let next: [*const u8; 4] = std::array::from_fn(|i| {
                let (panel, at) =
                    if first + np < panels.end { (first + np + i, at) } else { (panels.start + i, at + record_bytes) };
                segment.panel(panel.min(panels.end - 1)).as_ptr().wrapping_add(at)
            });
            let ahead = record_bytes.div_ceil(64);
            for tile in tiling.iter() {
                let at = (group * tiling.padded() + tile.first) * np * LANES;
                let part = Range {
                    start: tile.first * ahead / tiling.padded(),
                    end: (tile.first + tile.padded) * ahead / tiling.padded(),
                };
                let call = Call {
                    next: std::array::from_fn(|i| next[i].wrapping_add(part.start * 64)),
                    lines: part.len(),
                    x: x.tile(tile, k, start, len, ints.group),
                    groups: len / ints.group,
                    w,
                    scales: &scales,
                    mins: &mins,
                    c: &mut c[at..at + tile.padded * np * LANES],
                    fresh: start == 0,
                };
                match (ints.bits, ints.mins, ints.group) {
                    (Bits::Four, false, 32) => call.tile::<4, false, 32>(isa, tile.padded, np),
                    (Bits::Four, true, 32) => call.tile::<4, true, 32>(isa, tile.padded, np),
                    (Bits::Six, false, 32) => call.tile::<6, false, 32>(isa, tile.padded, np),
                    (Bits::Six, true, 32) => call.tile::<6, true, 32>(isa, tile.padded, np),
                    (Bits::Eight, false, 32) => call.tile::<8, false, 32>(isa, tile.padded, np),
                    _ => unreachable!("no stored type is laid out as {ints:?}"),
                }
            }
        }
        at += record_bytes;
    }
}

/// Widens the scales, and minimums, of one record.
struct WidenScales<'a> {
    ints: &'a Ints,
    held: &'a [u8],
    groups: usize,
    scales: &'a mut Widened,
    mins: &'a mut Widened,
}

impl Kernel for WidenScales<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { ints, held, groups, scales, mins } = self;
        assert!(groups <= RECORD / GROUP && held.len() >= ints.scale_bytes(groups * ints.group));
        let halves = |i: usize| -> S::F {
            // SAFETY: the i-th LANES f16 of the record, which begins at a cache line; the caller stays inside `held`.
            s.load_f16(unsafe { &*held.as_ptr().cast::<[u16; LANES]>().add(i) })
        };
        for g in 0..groups {
            s.store(halves(g), &mut scales[g]);
            if ints.mins {
                s.store(halves(groups + g), &mut mins[g]);
            }
        }
    }
}

/// What a kernel works on: one record's weights of each panel with its scales; `c` is `[row][panel][LANES]`.
struct Call<'a> {
    x: IntTile<'a>,
    groups: usize,
    w: [&'a [u8]; 4],
    scales: &'a [Widened; 4],
    mins: &'a [Widened; 4],
    c: &'a mut [f32],
    /// Where to fetch `lines` cache lines of each panel's next record.
    next: [*const u8; 4],
    lines: usize,
    /// Whether nothing was summed in `c` yet.
    fresh: bool,
}

impl Call<'_> {
    fn tile<const BITS: usize, const MINS: bool, const WIDTH: usize>(self, isa: Found, rows: usize, np: usize) {
        match (rows, np) {
            (1, 2) => isa.run(Tile::<BITS, MINS, WIDTH, 1, 2>(self)),
            (2, 2) => isa.run(Tile::<BITS, MINS, WIDTH, 2, 2>(self)),
            (4, 2) => isa.run(Tile::<BITS, MINS, WIDTH, 4, 2>(self)),
            (6, 2) => isa.run(Tile::<BITS, MINS, WIDTH, 6, 2>(self)),
            (1, 1) => isa.run(Tile::<BITS, MINS, WIDTH, 1, 1>(self)),
            (2, 1) => isa.run(Tile::<BITS, MINS, WIDTH, 2, 1>(self)),
            (4, 1) => isa.run(Tile::<BITS, MINS, WIDTH, 4, 1>(self)),
            _ => unreachable!("no tile of {rows} rows and {np} panels"),
        }
    }
}

struct Tile<'a, const BITS: usize, const MINS: bool, const WIDTH: usize, const ROWS: usize, const NP: usize>(Call<'a>);

impl<const BITS: usize, const MINS: bool, const WIDTH: usize, const ROWS: usize, const NP: usize> Kernel
    for Tile<'_, BITS, MINS, WIDTH, ROWS, NP>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if const { !S::WIDE && ROWS * NP > 4 } {
            unreachable!("tiles are chosen to fit");
        }
        let Call { x, groups, w, scales, mins, c, next, lines, fresh } = self.0;
        for next in &next[..NP] {
            for line in 0..lines {
                s.prefetch(next.wrapping_add(line * 64));
            }
        }
        let k = groups * WIDTH;
        let weights = k * LANES * BITS / 8;
        assert!(c.len() == ROWS * NP * LANES && groups <= RECORD / GROUP && w[..NP].iter().all(|w| w.len() == weights));
        assert!(x.quads.len() == k / 4 * ROWS && x.scales.len() == k / GROUP * ROWS);
        assert!(x.minus8.len() == groups * ROWS && x.total.len() == groups * ROWS);
        let bytes = WIDTH * LANES * BITS / 8;
        let quads = x.quads.as_chunks::<ROWS>().0;
        let c = c.as_chunks_mut::<LANES>().0;
        let mut sums = [[s.splat(0.0); NP]; ROWS];
        if !fresh {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (p, sum) in sums.iter_mut().enumerate() {
                    *sum = s.load(&c[r * NP + p]);
                }
            }
        }
        for g in 0..groups {
            let mut at = [w[0].as_ptr().wrapping_add(g * bytes); NP];
            for p in 1..NP {
                at[p] = w[p].as_ptr().wrapping_add(g * bytes);
            }
            let quads = &quads[g * (WIDTH / 4)..][..WIDTH / 4];
            // SAFETY: group g of each panel, inside the weights as asserted.
            let products = unsafe {
                group::products::<S, BITS, MINS, WIDTH, ROWS, NP>(s, at, quads, &x.minus8[g * ROWS..][..ROWS])
            };
            for r in 0..ROWS {
                let step = s.splat(x.scales[g * WIDTH / GROUP * ROWS + r]);
                for p in 0..NP {
                    let scale = s.mul(s.load(&scales[p][g]), step);
                    sums[r][p] = s.fma(s.to_f32(products[r][p]), scale, sums[r][p]);
                    if MINS {
                        let total = s.splat(x.total[g * ROWS + r]);
                        sums[r][p] = s.fma(s.load(&mins[p][g]), total, sums[r][p]);
                    }
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (p, &sum) in sums.iter().enumerate() {
                s.store(sum, &mut c[r * NP + p]);
            }
        }
    }
}
