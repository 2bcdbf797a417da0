//! Products with K-quants and their like, whose groups of 16 or 32 weights share one scale, and one minimum, for each
//! record of 256 times small integers: the activations are rounded to 8 bits in spans of 128, and each span is summed up
//! in integers, exactly, before it becomes a float.
//!
//! With weights `d · s · q + e · m` (d and e of the record, integers s and m of the group) a span adds
//! `step · (d · Σ s · Σ q · x + e · Σ m · Σ x)`. The largest sum, of 8-bit weights, is 128 · 127 · 128 · 128 < 2²⁸.
#![allow(unsafe_code)]

use super::activations::{IntTile, Ints as Activations, SPAN};
use super::group;
use super::tiling::Tiling;
use crate::cpu::pack::{Bits, Ints, RECORD, Segment};
use crate::cpu::simd::{Found, Kernel, LANES, Simd};
use std::ops::Range;

/// Spans of a record.
const SPANS: usize = RECORD / SPAN;

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
    let bytes = ints.record_bytes(RECORD);
    for record in 0..k / RECORD {
        for (group, first) in panels.clone().step_by(np).enumerate() {
            let at = |first: usize, record: usize| -> [&[u8]; 2] {
                // Where panels run out, the last one is repeated and its result not used.
                [first, first + np - 1]
                    .map(|panel| &segment.panel(panel.min(panels.end - 1))[record * bytes..][..bytes])
            };
            // While tiles meet this record, the one after it is fetched, a part with each tile.
            let next = match (first + np < panels.end, record + 1 < k / RECORD) {
                (true, _) => at(first + np, record),
                (_, true) => at(panels.start, record + 1),
                _ => [[].as_slice(); 2],
            };
            let c = &mut c[group * tiling.padded() * np * LANES..][..tiling.padded() * np * LANES];
            let mut call = Call { x, tiling, tiles: 0..0, k, record, w: at(first, record), next, c };
            for (tiles, rows) in tiling.runs() {
                call.tiles = tiles;
                match (ints.bits, ints.mins, ints.group) {
                    (Bits::Four, true, 32) => call.tiles::<4, true, 32>(isa, ints, rows, np),
                    (Bits::Six, true, 32) => call.tiles::<6, true, 32>(isa, ints, rows, np),
                    (Bits::Six, false, 16) => call.tiles::<6, false, 16>(isa, ints, rows, np),
                    (Bits::Six, true, 16) => call.tiles::<6, true, 16>(isa, ints, rows, np),
                    (Bits::Eight, false, 32) => call.tiles::<8, false, 32>(isa, ints, rows, np),
                    _ => unreachable!("no stored type is laid out as {ints:?}"),
                }
            }
        }
    }
}

/// Tiles of one size, and a record of each panel; `c` is `[tile][row][panel][LANES]`, of all tiles.
struct Call<'a> {
    x: &'a Activations,
    tiling: Tiling,
    tiles: Range<usize>,
    k: usize,
    record: usize,
    w: [&'a [u8]; 2],
    /// What to fetch meanwhile.
    next: [&'a [u8]; 2],
    c: &'a mut [f32],
}

impl Call<'_> {
    fn tiles<const BITS: usize, const MINS: bool, const WIDTH: usize>(
        &mut self,
        isa: Found,
        ints: &Ints,
        rows: usize,
        np: usize,
    ) {
        assert!(ints.bits.count() == BITS && ints.mins == MINS && ints.group == WIDTH);
        match (rows, np) {
            (1, 2) => isa.run(Tiles::<BITS, MINS, WIDTH, 1, 2>(self)),
            (2, 2) => isa.run(Tiles::<BITS, MINS, WIDTH, 2, 2>(self)),
            (4, 2) => isa.run(Tiles::<BITS, MINS, WIDTH, 4, 2>(self)),
            (6, 2) => isa.run(Tiles::<BITS, MINS, WIDTH, 6, 2>(self)),
            (1, 1) => isa.run(Tiles::<BITS, MINS, WIDTH, 1, 1>(self)),
            (2, 1) => isa.run(Tiles::<BITS, MINS, WIDTH, 2, 1>(self)),
            (4, 1) => isa.run(Tiles::<BITS, MINS, WIDTH, 4, 1>(self)),
            _ => unreachable!("no tile of {rows} rows and {np} panels"),
        }
    }
}

struct Tiles<'a, 'b, const BITS: usize, const MINS: bool, const WIDTH: usize, const ROWS: usize, const NP: usize>(
    &'b mut Call<'a>,
);

impl<const BITS: usize, const MINS: bool, const WIDTH: usize, const ROWS: usize, const NP: usize> Kernel
    for Tiles<'_, '_, BITS, MINS, WIDTH, ROWS, NP>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if const { !S::WIDE && ROWS * NP > 4 } {
            unreachable!("tiles are chosen to fit");
        }
        let Call { x, tiling, tiles, k, record, w, next, c } = self.0;
        assert!(w.iter().all(|w| w.len() == bytes::<BITS, MINS, WIDTH>()));
        let mut at = [w[0].as_ptr(); NP];
        if NP > 1 {
            at[NP - 1] = w[1].as_ptr();
        }
        let lines = next[0].len().div_ceil(64 * tiling.len());
        for t in tiles.clone() {
            for next in &next[..NP] {
                for line in t * lines..(t + 1) * lines {
                    s.prefetch(next.as_ptr().wrapping_add(line * 64));
                }
            }
            let tile = tiling.get(t);
            let c = c[tile.first * NP * LANES..][..ROWS * NP * LANES].as_chunks_mut::<LANES>().0;
            for span in 0..SPANS {
                let x = x.span(tile, *k, *record * SPANS + span, WIDTH);
                // SAFETY: each panel has the bytes of a record, as asserted.
                let sums = unsafe { sums::<S, BITS, MINS, WIDTH, ROWS, NP>(s, at, span, &x, None) };
                for r in 0..ROWS {
                    let step = s.splat(x.scales[r]);
                    for p in 0..NP {
                        let c = &mut c[r * NP + p];
                        let before = if *record == 0 && span == 0 { s.splat(0.0) } else { s.load(c) };
                        s.store(s.fma(sums[r][p], step, before), c);
                    }
                }
            }
        }
    }
}

/// Sums up a panel for a few rows, of which there is one tile; `c` is `[row][LANES]`.
pub(crate) struct Stream<'a, const BITS: usize, const MINS: bool, const WIDTH: usize, const ROWS: usize> {
    pub(crate) x: IntTile<'a>,
    pub(crate) panel: &'a [u8],
    /// Bytes that are asked for ahead of those in use.
    pub(crate) ahead: usize,
    pub(crate) c: &'a mut [f32],
}

impl<const BITS: usize, const MINS: bool, const WIDTH: usize, const ROWS: usize> Kernel
    for Stream<'_, BITS, MINS, WIDTH, ROWS>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, panel, ahead, c } = self;
        let mut total = [s.splat(0.0); ROWS];
        for (i, record) in panel.chunks_exact(bytes::<BITS, MINS, WIDTH>()).enumerate() {
            for span in 0..SPANS {
                let x = x.span(i * SPANS + span, WIDTH, ROWS);
                // SAFETY: the bytes of a record.
                let sums =
                    unsafe { sums::<S, BITS, MINS, WIDTH, ROWS, 1>(s, [record.as_ptr()], span, &x, Some(ahead)) };
                for r in 0..ROWS {
                    total[r] = s.fma(sums[r][0], s.splat(x.scales[r]), total[r]);
                }
            }
        }
        for (sum, c) in total.iter().zip(c.as_chunks_mut::<LANES>().0) {
            s.store(*sum, c);
        }
    }
}

/// Bytes of a record.
const fn bytes<const BITS: usize, const MINS: bool, const WIDTH: usize>() -> usize {
    scale_bytes::<MINS, WIDTH>() + RECORD * LANES * BITS / 8
}

/// Bytes of its scales, as `layout` says.
const fn scale_bytes<const MINS: bool, const WIDTH: usize>() -> usize {
    ((if MINS { 2 } else { 1 }) * (2 * LANES + RECORD / WIDTH * LANES)).next_multiple_of(64)
}

/// What a span of a record of each of `NP` panels and `ROWS` rows of activations come to, but for the steps of the
/// activations. Of the first panel, what lies `ahead` bytes further on is fetched meanwhile.
///
/// # Safety
/// Each of `w` points to the bytes of a record.
#[inline(always)]
unsafe fn sums<S: Simd, const BITS: usize, const MINS: bool, const WIDTH: usize, const ROWS: usize, const NP: usize>(
    s: S,
    w: [*const u8; NP],
    span: usize,
    x: &IntTile<'_>,
    ahead: Option<usize>,
) -> [[S::F; NP]; ROWS] {
    let (groups, group_bytes) = const { (SPAN / WIDTH, WIDTH * LANES * BITS / 8) };
    assert!(span < SPANS && x.quads.len() == SPAN / 4 * ROWS && x.scales.len() == ROWS);
    assert!(x.minus8.len() == groups * ROWS && x.pairs.len() == groups / 2 * ROWS);
    let quads = x.quads.as_chunks::<ROWS>().0;
    let factors = 2 * LANES * if MINS { 2 } else { 1 };
    let (scales, mins) = (factors, factors + RECORD / WIDTH * LANES);
    let mut sums = [[s.splat_i32(0); NP]; ROWS];
    for g in 0..groups {
        let in_record = span * groups + g;
        let mut at = w;
        for at in &mut at {
            *at = at.wrapping_add(scale_bytes::<MINS, WIDTH>() + in_record * group_bytes);
        }
        if let Some(ahead) = ahead {
            // A few lines with each group: all of a record at once would stand in line for the memory.
            for line in 0..group_bytes / 64 + 1 {
                s.prefetch(at[0].wrapping_add(ahead + line * 64));
            }
        }
        let quads = &quads[g * (WIDTH / 4)..][..WIDTH / 4];
        // SAFETY: that group of each record.
        let products =
            unsafe { group::products::<S, BITS, MINS, WIDTH, ROWS, NP>(s, at, quads, &x.minus8[g * ROWS..][..ROWS]) };
        for p in 0..NP {
            // SAFETY: the LANES scales of the group.
            let scale = s.widen(unsafe { &*w[p].add(scales + in_record * LANES).cast() });
            for r in 0..ROWS {
                sums[r][p] = s.multiply_add(products[r][p], scale, sums[r][p]);
            }
        }
    }
    let mut out = [[s.splat(0.0); NP]; ROWS];
    for p in 0..NP {
        // SAFETY: the factors of scales are a record's first bytes.
        let d = s.load_f16(unsafe { &*w[p].cast() });
        for r in 0..ROWS {
            out[r][p] = s.mul(d, s.to_f32(sums[r][p]));
        }
    }
    if MINS {
        let mut sums = [[s.splat_i32(0); NP]; ROWS];
        for pair in 0..groups / 2 {
            let mut held = [s.splat_i32(0); NP];
            for p in 0..NP {
                let at = mins + (span * groups / 2 + pair) * 2 * LANES;
                // SAFETY: the minimums of the pair of groups.
                held[p] = s.widen_pairs(unsafe { &*w[p].add(at).cast() });
            }
            for (sums, &x) in sums.iter_mut().zip(&x.pairs[pair * ROWS..][..ROWS]) {
                for p in 0..NP {
                    sums[p] = s.dot_pairs(sums[p], held[p], x);
                }
            }
        }
        for p in 0..NP {
            // SAFETY: the factors of minimums come next.
            let e = s.load_f16(unsafe { &*w[p].add(2 * LANES).cast() });
            for r in 0..ROWS {
                out[r][p] = s.fma(e, s.to_f32(sums[r][p]), out[r][p]);
            }
        }
    }
    out
}
