//! Products of a few rows with integer weights, as in decoding: each weight is used once or a few times, so that memory
//! decides. A panel is read from its first byte to its last, in order, with what comes next asked for ahead of time.
#![allow(unsafe_code)]

use super::activations::{IntTile, Ints as Activations};
use super::group;
use super::tiling::Tiling;
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
        match (ints.bits, ints.mins, ints.group) {
            (Bits::Four, false, 32) => call.rows::<4, false, 32>(isa, tile.padded),
            (Bits::Four, true, 32) => call.rows::<4, true, 32>(isa, tile.padded),
            (Bits::Six, false, 16) => call.rows::<6, false, 16>(isa, tile.padded),
            (Bits::Six, true, 16) => call.rows::<6, true, 16>(isa, tile.padded),
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
        assert!(ints.group == WIDTH && ints.bits.count() == BITS && ints.mins == MINS && k.is_multiple_of(GROUP));
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
            // SAFETY: the record's scales lie before its weights, as `layout` says; both are inside the panel, whose
            // length was asserted.
            let scales = unsafe { Held::<S, MINS>::new(s, ints, record, groups) };
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

/// The scales of one record, as they are held.
struct Held<S: Simd, const MINS: bool> {
    halves: bool,
    /// The first group's scales; its minimums.
    scales: *const u8,
    mins: *const u8,
    /// What all scales, and minimums, are multiplied by where they are bytes.
    scale: S::F,
    min: S::F,
}

impl<S: Simd, const MINS: bool> Held<S, MINS> {
    /// # Safety
    /// At `record` lie the scales of `groups` groups of the layout.
    #[inline(always)]
    unsafe fn new(s: S, ints: &Ints, record: *const u8, groups: usize) -> Self {
        let one = s.splat(1.0);
        if ints.scales == Scales::Half {
            let mins = record.wrapping_add(groups * LANES * 2);
            return Self { halves: true, scales: record, mins, scale: one, min: one };
        }
        let factors = record.wrapping_add(2 * LANES * if MINS { 2 } else { 1 });
        // SAFETY: the factors of scales, then those of minimums, are the record's first.
        let (scale, min) = unsafe {
            (s.load_f16(&*record.cast()), if MINS { s.load_f16(&*record.add(2 * LANES).cast()) } else { one })
        };
        Self { halves: false, scales: factors, mins: factors.wrapping_add(groups * LANES), scale, min }
    }

    /// Scales and minimums of group `g`.
    ///
    /// # Safety
    /// There are more than `g` groups.
    #[inline(always)]
    unsafe fn get(&self, s: S, g: usize) -> (S::F, S::F) {
        // SAFETY: `new` was told where they are, and the caller says that there are so many.
        unsafe {
            if self.halves {
                let min = if MINS { s.load_f16(&*self.mins.add(g * 2 * LANES).cast()) } else { self.min };
                (s.load_f16(&*self.scales.add(g * 2 * LANES).cast()), min)
            } else {
                let min = if MINS { s.mul(self.min, s.load_i8(&*self.mins.add(g * LANES).cast())) } else { self.min };
                (s.mul(self.scale, s.load_i8(&*self.scales.add(g * LANES).cast())), min)
            }
        }
    }
}
