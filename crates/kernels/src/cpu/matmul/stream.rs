//! Products of a few rows with integer weights, as in decoding: each weight is used once or a few times, so that memory
//! decides. A panel is read from its first byte to its last, in order, with what comes next asked for ahead of time.
#![allow(unsafe_code)]

use super::activations::{IntTile, Ints as Activations};
use super::tiling::Tiling;
use super::{group, record};
use crate::cpu::pack::{Bits, GROUP, Ints, RECORD, Scales, Segment};
use crate::cpu::simd::{Found, Kernel, LANES, Simd};
use std::ops::Range;

/// Rows that are multiplied this way at most.
pub(crate) const MAX_ROWS: usize = 8;
/// Tiles that there are kernels for.
pub(crate) const TILES: &[usize] = &[1, 2, 4, 8];

/// Bytes that are asked for ahead of those in use.
const AHEAD: usize = 3072;

/// Sums up `panels` of a segment for the one tile there is; `c` is `[panel][row][LANES]`.
pub(crate) fn accumulate(
    isa: Found,
    segment: &Segment,
    ints: &Ints,
    k: usize,
    x: &Activations,
    tiling: Tiling,
    panels: Range<usize>,
    c: &mut [f32],
) {
    let tile = tiling.get(0);
    for (panel, c) in panels.zip(c.chunks_exact_mut(tile.padded * LANES)) {
        let call = Call { x: x.tile(tile, k, 0, k, ints.group), ints, k, panel: segment.panel(panel), c };
        if ints.scales == Scales::Super {
            match (ints.bits, ints.mins, ints.group) {
                (Bits::Four, true, 32) => call.records::<4, true, 32>(isa, tile.padded),
                (Bits::Six, true, 32) => call.records::<6, true, 32>(isa, tile.padded),
                (Bits::Six, false, 16) => call.records::<6, false, 16>(isa, tile.padded),
                (Bits::Six, true, 16) => call.records::<6, true, 16>(isa, tile.padded),
                (Bits::Eight, false, 32) => call.records::<8, false, 32>(isa, tile.padded),
                _ => unreachable!("no stored type is laid out as {ints:?}"),
            }
            continue;
        }
        match (ints.bits, ints.mins, ints.group) {
            (Bits::Four, false, 32) => call.rows::<4, false, 32>(isa, tile.padded),
            (Bits::Four, true, 32) => call.rows::<4, true, 32>(isa, tile.padded),
            (Bits::Six, false, 32) => call.rows::<6, false, 32>(isa, tile.padded),
            (Bits::Six, true, 32) => call.rows::<6, true, 32>(isa, tile.padded),
            (Bits::Eight, false, 32) => call.rows::<8, false, 32>(isa, tile.padded),
            _ => unreachable!("no stored type is laid out as {ints:?}"),
        }
    }
}

/// One panel and all rows; `c` is `[row][LANES]`.
struct Call<'a> {
    x: IntTile<'a>,
    ints: &'a Ints,
    k: usize,
    panel: &'a [u8],
    c: &'a mut [f32],
}

impl Call<'_> {
    fn rows<const BITS: usize, const MINS: bool, const WIDTH: usize>(self, isa: Found, rows: usize) {
        match rows {
            1 => isa.run(Stream::<BITS, MINS, WIDTH, 1>(self)),
            2 => isa.run(Stream::<BITS, MINS, WIDTH, 2>(self)),
            4 => isa.run(Stream::<BITS, MINS, WIDTH, 4>(self)),
            8 => isa.run(Stream::<BITS, MINS, WIDTH, 8>(self)),
            _ => unreachable!("no tile of {rows} rows"),
        }
    }

    /// As [`Call::rows`], of records that are summed up in integers.
    fn records<const BITS: usize, const MINS: bool, const WIDTH: usize>(self, isa: Found, rows: usize) {
        let Self { x, panel, c, .. } = self;
        match rows {
            1 => isa.run(record::Stream::<BITS, MINS, WIDTH, 1> { x, panel, ahead: AHEAD, c }),
            2 => isa.run(record::Stream::<BITS, MINS, WIDTH, 2> { x, panel, ahead: AHEAD, c }),
            4 => isa.run(record::Stream::<BITS, MINS, WIDTH, 4> { x, panel, ahead: AHEAD, c }),
            8 => isa.run(record::Stream::<BITS, MINS, WIDTH, 8> { x, panel, ahead: AHEAD, c }),
            _ => unreachable!("no tile of {rows} rows"),
        }
    }
}

struct Stream<'a, const BITS: usize, const MINS: bool, const WIDTH: usize, const ROWS: usize>(Call<'a>);

impl<const BITS: usize, const MINS: bool, const WIDTH: usize, const ROWS: usize> Kernel
    for Stream<'_, BITS, MINS, WIDTH, ROWS>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Call { x, ints, k, panel, c } = self.0;
        let bytes = WIDTH * LANES * BITS / 8;
        let scale_bytes = ints.scale_bytes(RECORD);
        assert!(
            ints.scales == Scales::Half
                && ints.group == WIDTH
                && ints.bits.count() == BITS
                && ints.mins == MINS
                && k.is_multiple_of(GROUP)
        );
        assert!(c.len() == ROWS * LANES && x.quads.len() == k / 4 * ROWS && x.scales.len() == k / GROUP * ROWS);
        assert!(x.minus8.len() == k / WIDTH * ROWS && x.total.len() == k / WIDTH * ROWS);
        assert!(panel.len() == k / RECORD * ints.record_bytes(RECORD) + ints.record_bytes(k % RECORD));
        let quads = x.quads.as_chunks::<ROWS>().0;
        let mut sums = [s.splat(0.0); ROWS];
        let mut record = panel.as_ptr();
        let mut group = 0;
        while group < k / WIDTH {
            let groups = (RECORD / WIDTH).min(k / WIDTH - group);
            let scale_bytes = if groups == RECORD / WIDTH { scale_bytes } else { ints.scale_bytes(groups * WIDTH) };
            let weights = record.wrapping_add(scale_bytes);
            // The record's scales lie before its weights, as `layout` says; both are inside the panel, whose length was
            // asserted.
            let scales = Held::<MINS> { scales: record, mins: record.wrapping_add(groups * LANES * 2) };
            for g in 0..groups {
                let at = weights.wrapping_add(g * bytes);
                for line in 0..bytes / 64 + 1 {
                    s.prefetch(at.wrapping_add(AHEAD + line * 64));
                }
                let i = group + g;
                let quads = &quads[i * (WIDTH / 4)..][..WIDTH / 4];
                // SAFETY: group g of the record, inside the panel.
                let products = unsafe {
                    group::products::<S, BITS, MINS, WIDTH, ROWS, 1>(s, [at], quads, &x.minus8[i * ROWS..][..ROWS])
                };
                // SAFETY: as above; there are `groups` of them.
                let (scale, min) = unsafe { scales.get(s, g) };
                for r in 0..ROWS {
                    let step = s.splat(x.scales[i * WIDTH / GROUP * ROWS + r]);
                    sums[r] = s.fma(s.to_f32(products[r][0]), s.mul(scale, step), sums[r]);
                    if MINS {
                        sums[r] = s.fma(min, s.splat(x.total[i * ROWS + r]), sums[r]);
                    }
                }
            }
            record = weights.wrapping_add(groups * bytes);
            group += groups;
        }
        for (sum, c) in sums.iter().zip(c.as_chunks_mut::<LANES>().0) {
            s.store(*sum, c);
        }
    }
}

/// Where the f16 scales, and minimums, of one record's groups are.
struct Held<const MINS: bool> {
    scales: *const u8,
    mins: *const u8,
}

impl<const MINS: bool> Held<MINS> {
    /// Scales and minimums of group `g`.
    ///
    /// # Safety
    /// There are more than `g` groups.
    #[inline(always)]
    unsafe fn get<S: Simd>(&self, s: S, g: usize) -> (S::F, S::F) {
        // SAFETY: the caller says that there are so many.
        unsafe {
            let scale = s.load_f16(&*self.scales.add(g * 2 * LANES).cast());
            (scale, if MINS { s.load_f16(&*self.mins.add(g * 2 * LANES).cast()) } else { s.splat(0.0) })
        }
    }
}
