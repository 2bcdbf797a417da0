//! Products of many rows with integer weights by AMX: 16 rows of activations times 16 outputs in one instruction.
//!
//! The sums are those of the other kernels, to the bit: integers are exact in any order, and floats are added in theirs.
//! Weights are unpacked to signed bytes, a record of two panels at a time, and meet all rows from the first cache. A panel
//! has four k of its 16 outputs in each 64 bytes, which is what the instruction takes.
//!
//! Where groups' scales are integers (K-quants and their like) weights times scales are taken, which have 16 bits: their
//! high and low bytes are multiplied apart (`w = 256 · high + low`, both signed), so that a whole span is summed up without
//! leaving the tiles.
#![allow(unsafe_code)]

use super::activations::{IntTile, Ints as Activations, SPAN};
use super::tiling::{SQUARE as ROWS, Tiling};
use crate::cpu::pack::{Bits, GROUP, Ints, RECORD, Scales, Segment};
use crate::cpu::simd::{Avx512, Found, LANES, Simd, amx};
use std::arch::x86_64::*;
use std::ops::Range;

/// Panels side by side.
pub(crate) const PANELS: usize = 2;
/// Spans of a record.
const SPANS: usize = RECORD / SPAN;
/// Spans by which adding to the result is behind.
const LAG: usize = 2;
/// k of one instruction where whole spans are summed.
const DEPTH: usize = 64;

/// A record's weights as signed bytes, four k of each output in 64.
#[repr(align(64))]
struct Bytes([[u8; 64]; RECORD / 4]);

/// Sums of a tile.
#[repr(align(64))]
struct Sums([[i32; LANES]; ROWS]);

impl Sums {
    const ZERO: Self = Self([[0; LANES]; ROWS]);
}

/// Adds up `panels` of a segment for all tiles; `c` is `[group of PANELS panels][tile][row][panel][LANES]`.
///
/// # Panics
/// When the machine has no AMX.
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
    let call = Call { segment, ints, k, x, tiling, panels, c };
    match (ints.scales, ints.bits, ints.mins, ints.group) {
        (Scales::Half, Bits::Four, false, 32) => isa.run_amx(Halves::<4, false>(call)),
        (Scales::Half, Bits::Four, true, 32) => isa.run_amx(Halves::<4, true>(call)),
        (Scales::Half, Bits::Six, false, 32) => isa.run_amx(Halves::<6, false>(call)),
        (Scales::Half, Bits::Six, true, 32) => isa.run_amx(Halves::<6, true>(call)),
        (Scales::Half, Bits::Eight, false, 32) => isa.run_amx(Halves::<8, false>(call)),
        (Scales::Super, Bits::Four, true, 32) => isa.run_amx(Records::<4, true, 32>(call)),
        (Scales::Super, Bits::Six, true, 32) => isa.run_amx(Records::<6, true, 32>(call)),
        (Scales::Super, Bits::Six, false, 16) => isa.run_amx(Records::<6, false, 16>(call)),
        (Scales::Super, Bits::Six, true, 16) => isa.run_amx(Records::<6, true, 16>(call)),
        (Scales::Super, Bits::Eight, false, 32) => isa.run_amx(Records::<8, false, 32>(call)),
        _ => unreachable!("no stored type is laid out as {ints:?}"),
    }
}

struct Call<'a> {
    segment: &'a Segment,
    ints: &'a Ints,
    k: usize,
    x: &'a Activations,
    tiling: Tiling,
    panels: Range<usize>,
    c: &'a mut [f32],
}

impl<'a> Call<'a> {
    /// The bytes `at..at + len` of the panels from `first`; where panels run out, the last one is repeated and its result
    /// not used.
    fn panels_at(&self, first: usize, at: usize, len: usize) -> [&'a [u8]; PANELS] {
        [first, first + 1].map(|panel| &self.segment.panel(panel.min(self.panels.end - 1))[at..at + len])
    }

    /// What follows the same bytes of the panels from `first`: those of the next panels, or else of the next record.
    fn next(&self, first: usize, at: usize, len: usize) -> [*const u8; PANELS] {
        let (first, at) =
            if first + PANELS < self.panels.end { (first + PANELS, at) } else { (self.panels.start, at + len) };
        [first, first + 1].map(|panel| self.segment.panel(panel.min(self.panels.end - 1)).as_ptr().wrapping_add(at))
    }
}

/// Asks for the part of the `next` bytes that falls to tile `t` of `tiles`.
#[inline(always)]
fn prefetch(s: Avx512<true>, next: [*const u8; PANELS], len: usize, t: usize, tiles: usize) {
    let lines = len.div_ceil(64 * tiles);
    for next in next {
        for line in t * lines..(t + 1) * lines {
            s.prefetch(next.wrapping_add(line * 64));
        }
    }
}

/// Tiles of [`Halves`] with 32 k.
const ACTIVATIONS: usize = 4;
const WEIGHTS: usize = 5;

/// Begins to sum up the products of group `g` in tile 0 or 1.
///
/// # Safety
/// Tiles have the shapes of [`Halves`].
#[inline(always)]
unsafe fn begin(tile: usize, x: &IntTile<'_>, g: usize, weights: &Bytes) {
    assert!(x.quads.len() >= (g + 1) * GROUP / 4 * ROWS && g < RECORD / GROUP);
    // SAFETY: the group's activations, 16 rows of 32, and weights, 8 rows of 64 bytes.
    unsafe {
        amx::load::<ACTIVATIONS>(x.quads[g * GROUP / 4 * ROWS..].as_ptr().cast(), GROUP);
        amx::load::<WEIGHTS>(weights.0[g * GROUP / 4..].as_ptr().cast(), 64);
        if tile == 0 {
            amx::zero::<0>();
            amx::dot8::<0, ACTIVATIONS, WEIGHTS>();
        } else {
            amx::zero::<1>();
            amx::dot8::<1, ACTIVATIONS, WEIGHTS>();
        }
    }
}

/// Writes what was summed in tile 0 or 1.
///
/// # Safety
/// Tiles have the shapes of [`Halves`].
#[inline(always)]
unsafe fn finish(tile: usize, sums: &mut Sums) {
    // SAFETY: 16 rows of 16 numbers.
    unsafe { if tile == 0 { amx::store::<0, i32>(&mut sums.0) } else { amx::store::<1, i32>(&mut sums.0) } }
}

/// What is added to a tile's result for one group of 32 k.
struct Group<'a> {
    sums: &'a [[i32; LANES]; ROWS],
    /// Of each output's weights.
    scale: __m512,
    min: __m512,
    /// Of each row's activations, and their sums.
    steps: &'a [f32; ROWS],
    totals: &'a [f32; ROWS],
}

impl Group<'_> {
    /// Adds half the rows, from `FROM` on. Without a branch among them, they are unrolled and `total` stays in registers.
    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "indices that are known when compiling are what keeps `total` in registers"
    )]
    fn add<const MINS: bool, const FROM: usize>(&self, s: Avx512<true>, total: &mut [__m512; ROWS]) {
        for r in FROM..FROM + ROWS / 2 {
            let scale = s.mul(self.scale, s.splat(self.steps[r]));
            total[r] = s.fma(s.to_f32(amx::integers(s, &self.sums[r])), scale, total[r]);
            if MINS {
                total[r] = s.fma(self.min, s.splat(self.totals[r]), total[r]);
            }
        }
    }
}

/// Weights whose groups of 32 have scales of their own.
struct Halves<'a, const BITS: usize, const MINS: bool>(Call<'a>);

impl<const BITS: usize, const MINS: bool> amx::Kernel for Halves<'_, BITS, MINS> {
    #[inline(always)]
    fn run(self, s: Avx512<true>) {
        let call = self.0;
        static SHAPE: amx::Shape = amx::Shape::new().with(ACTIVATIONS, ROWS, GROUP).with(WEIGHTS, GROUP / 4, 64);
        // SAFETY: there is AMX.
        unsafe { SHAPE.set() };
        let mut bytes = [const { Bytes([[0; 64]; RECORD / 4]) }; PANELS];
        let mut scales = [[s.splat(0.0); RECORD / GROUP]; PANELS];
        let mut mins = [[s.splat(0.0); RECORD / GROUP]; PANELS];
        let mut sums = [const { [const { Sums::ZERO }; RECORD / GROUP] }; 2];
        let (padded, tiles) = (call.tiling.padded(), call.tiling.len());
        // A tile of rows and a panel.
        let units = tiles * PANELS;
        let mut at = 0;
        for start in (0..call.k).step_by(RECORD) {
            let len = RECORD.min(call.k - start);
            let groups = len / GROUP;
            let (scale_bytes, record_bytes) = (call.ints.scale_bytes(len), call.ints.record_bytes(len));
            for (group, first) in call.panels.clone().step_by(PANELS).enumerate() {
                let panels = call.panels_at(first, at, record_bytes);
                let next = call.next(first, at, record_bytes);
                for p in 0..PANELS {
                    let (held, weights) = panels[p].split_at(scale_bytes);
                    for g in 0..groups {
                        scales[p][g] = half(s, held, g);
                        if MINS {
                            mins[p][g] = half(s, held, groups + g);
                        }
                    }
                    // SAFETY: `s`.
                    unsafe { unpack::<BITS, MINS>(weights, &mut bytes[p].0[..len / 4]) };
                }
                let c = &mut call.c[group * padded * PANELS * LANES..][..padded * PANELS * LANES];
                let c = c.as_chunks_mut::<LANES>().0;
                let of = |i: usize| call.x.tile(call.tiling.get(i / PANELS), call.k, start, len, GROUP);
                let mut x = of(0);
                for (g, sums) in sums[0][..groups].iter_mut().enumerate() {
                    // SAFETY: there is AMX with its shapes set.
                    unsafe {
                        begin(g % 2, &x, g, &bytes[0]);
                        finish(g % 2, sums);
                    }
                }
                for i in 0..units {
                    if i % PANELS == 0 {
                        prefetch(s, next, record_bytes, i / PANELS, tiles);
                    }
                    // Groups of the next unit are summed while those of this one are scaled, and written one group later: an
                    // instruction that waits stands in the way of others.
                    let more = i + 1 < units;
                    let x_next = of((i + 1).min(units - 1));
                    let (p, p_next) = (i % PANELS, (i + 1) % PANELS);
                    let c = &mut c[i / PANELS * ROWS * PANELS..][..ROWS * PANELS];
                    let (steps, totals) = (x.scales.as_chunks::<ROWS>().0, x.total.as_chunks::<ROWS>().0);
                    assert!(steps.len() == groups && totals.len() == groups);
                    let mut total = [s.splat(0.0); ROWS];
                    if start > 0 {
                        for r in 0..ROWS {
                            total[r] = s.load(&c[r * PANELS + p]);
                        }
                    }
                    let [sums, sums_next] = if p == 0 {
                        let [a, b] = &mut sums;
                        [a, b]
                    } else {
                        let [a, b] = &mut sums;
                        [b, a]
                    };
                    for g in 0..groups {
                        if more {
                            // SAFETY: as above.
                            unsafe { begin(g % 2, &x_next, g, &bytes[p_next]) };
                        }
                        let group = Group {
                            sums: &sums[g].0,
                            scale: scales[p][g],
                            min: mins[p][g],
                            steps: &steps[g],
                            totals: &totals[g],
                        };
                        group.add::<MINS, 0>(s, &mut total);
                        if more && g > 0 {
                            // SAFETY: as above.
                            unsafe { finish((g - 1) % 2, &mut sums_next[g - 1]) };
                        }
                        group.add::<MINS, { ROWS / 2 }>(s, &mut total);
                    }
                    if more {
                        // SAFETY: as above.
                        unsafe { finish((groups - 1) % 2, &mut sums_next[groups - 1]) };
                    }
                    for r in 0..ROWS {
                        s.store(total[r], &mut c[r * PANELS + p]);
                    }
                    x = x_next;
                }
            }
            at += record_bytes;
        }
    }
}

/// Weights whose groups' scales are integers.
struct Records<'a, const BITS: usize, const MINS: bool, const WIDTH: usize>(Call<'a>);

impl<const BITS: usize, const MINS: bool, const WIDTH: usize> amx::Kernel for Records<'_, BITS, MINS, WIDTH> {
    #[inline(always)]
    fn run(self, s: Avx512<true>) {
        let call = self.0;
        static SHAPE: amx::Shape = amx::Shape::new();
        // SAFETY: there is AMX.
        unsafe { SHAPE.set() };
        let mut high = [const { Bytes([[0; 64]; RECORD / 4]) }; PANELS];
        let mut low = [const { Bytes([[0; 64]; RECORD / 4]) }; PANELS];
        let mut sums = [const { SpanSums([Sums::ZERO, Sums::ZERO], [Sums::ZERO, Sums::ZERO]) }; LAG + 2];
        let (padded, tiles) = (call.tiling.padded(), call.tiling.len());
        let (scale_bytes, bytes) = (call.ints.scale_bytes(RECORD), call.ints.record_bytes(RECORD));
        call.c[..call.panels.len().next_multiple_of(PANELS) * padded * LANES].fill(0.0);
        for record in 0..call.k / RECORD {
            for (group, first) in call.panels.clone().step_by(PANELS).enumerate() {
                let panels = call.panels_at(first, record * bytes, bytes);
                let next = call.next(first, record * bytes, bytes);
                for p in 0..PANELS {
                    // SAFETY: `s`.
                    unsafe {
                        unpack::<BITS, MINS>(&panels[p][scale_bytes..], &mut low[p].0);
                        multiply::<MINS, WIDTH>(panels[p], &mut low[p].0, &mut high[p].0);
                    }
                }
                let factors = [Factors::of::<MINS>(s, panels[0]), Factors::of::<MINS>(s, panels[1])];
                let c = &mut call.c[group * padded * PANELS * LANES..][..padded * PANELS * LANES];
                let c = c.as_chunks_mut::<LANES>().0;
                let units = tiles * SPANS;
                let of = |i: usize| call.x.span(call.tiling.get(i / SPANS), call.k, record * SPANS + i % SPANS, WIDTH);
                for i in 0..units + LAG {
                    let ring = [i % (LAG + 2), (i + LAG + 1) % (LAG + 2), (i + 2) % (LAG + 2)];
                    let [sums, before, done] = sums.get_disjoint_mut(ring).expect("three of four");
                    let mut done = i.checked_sub(LAG).map(|i| {
                        let c = &mut c[i / SPANS * ROWS * PANELS..][..ROWS * PANELS];
                        Done::<MINS, WIDTH>::new(s, &factors, panels, i % SPANS, of(i), done, c)
                    });
                    if i < units {
                        if i % SPANS == 0 {
                            prefetch(s, next, bytes, i / SPANS, tiles);
                        }
                        // SAFETY: there is AMX with its shapes set.
                        unsafe { span(s, &of(i), i % SPANS, &high, &low, sums, before, &mut done) };
                        continue;
                    }
                    // SAFETY: as above.
                    unsafe { finish_span(before) };
                    if let Some(done) = &mut done {
                        for part in 0..PARTS {
                            done.add(s, part);
                        }
                    }
                }
            }
        }
    }
}

/// Sums up the products of one span's high and low bytes, of which the second panel's stay in tiles 2 and 3; those of the
/// span `before` are written, and meanwhile those that are `done` added to the result.
///
/// Instructions that wait for others hold up those behind them: so tiles are written some time after they were summed, and
/// what the vector units have to do is spread among what tiles do.
///
/// # Safety
/// Tiles have their full shape.
#[inline(always)]
unsafe fn span<const MINS: bool, const WIDTH: usize>(
    s: Avx512<true>,
    x: &IntTile<'_>,
    span: usize,
    high: &[Bytes; PANELS],
    low: &[Bytes; PANELS],
    sums: &mut SpanSums,
    before: &mut SpanSums,
    done: &mut Option<Done<'_, MINS, WIDTH>>,
) {
    const { assert!(SPAN == 2 * DEPTH && PARTS == 8) };
    assert!(x.quads.len() == SPAN / 4 * ROWS);
    let weights = |bytes: &Bytes, i: usize| bytes.0[(span * SPAN + i * DEPTH) / 4..].as_ptr().cast::<u8>();
    let mut add = |part: usize| {
        if let Some(done) = done {
            done.add(s, part);
        }
    };
    // SAFETY: 16 rows of 64 k of activations, and of as many k of weights.
    unsafe {
        amx::load::<4>(x.quads.as_ptr().cast(), DEPTH);
        amx::load::<7>(x.quads[DEPTH / 4 * ROWS..].as_ptr().cast(), DEPTH);
        amx::zero::<0>();
        amx::zero::<1>();
        amx::load::<5>(weights(&low[0], 0), 64);
        amx::dot8::<0, 4, 5>();
        add(0);
        amx::load::<6>(weights(&high[0], 0), 64);
        amx::dot8::<1, 4, 6>();
        add(1);
        amx::store::<2, i32>(&mut before.1[0].0);
        amx::load::<5>(weights(&low[0], 1), 64);
        amx::dot8::<0, 7, 5>();
        add(2);
        amx::load::<6>(weights(&high[0], 1), 64);
        amx::dot8::<1, 7, 6>();
        add(3);
        amx::store::<3, i32>(&mut before.1[1].0);
        amx::zero::<2>();
        amx::zero::<3>();
        amx::load::<5>(weights(&low[1], 0), 64);
        amx::dot8::<2, 4, 5>();
        add(4);
        amx::load::<6>(weights(&high[1], 0), 64);
        amx::dot8::<3, 4, 6>();
        add(5);
        amx::store::<0, i32>(&mut sums.0[0].0);
        amx::load::<5>(weights(&low[1], 1), 64);
        amx::dot8::<2, 7, 5>();
        add(6);
        amx::load::<6>(weights(&high[1], 1), 64);
        amx::dot8::<3, 7, 6>();
        add(7);
        amx::store::<1, i32>(&mut sums.0[1].0);
    }
}

/// Writes what [`span`] left in tiles.
///
/// # Safety
/// Tiles have their full shape.
#[inline(always)]
unsafe fn finish_span(sums: &mut SpanSums) {
    // SAFETY: 16 rows of 16 numbers each.
    unsafe {
        amx::store::<2, i32>(&mut sums.1[0].0);
        amx::store::<3, i32>(&mut sums.1[1].0);
    }
}

/// A span's sums of low and high bytes, of the first panel and the second.
struct SpanSums([Sums; 2], [Sums; 2]);

/// Parts in which a span's sums are added to the result.
const PARTS: usize = 8;

/// A span's sums, to be added to `c`, `[row][panel]`.
struct Done<'a, const MINS: bool, const WIDTH: usize> {
    factors: &'a [Factors; PANELS],
    mins: [[__m512i; SPAN / 32]; PANELS],
    x: IntTile<'a>,
    sums: &'a SpanSums,
    c: &'a mut [[f32; LANES]],
}

impl<'a, const MINS: bool, const WIDTH: usize> Done<'a, MINS, WIDTH> {
    /// Pairs of groups in a span.
    const PAIRS: usize = SPAN / WIDTH / 2;

    #[inline(always)]
    fn new(
        s: Avx512<true>,
        factors: &'a [Factors; PANELS],
        panels: [&[u8]; PANELS],
        span: usize,
        x: IntTile<'a>,
        sums: &'a SpanSums,
        c: &'a mut [[f32; LANES]],
    ) -> Self {
        assert!(x.scales.len() == ROWS && x.pairs.len() == Self::PAIRS * ROWS && c.len() == ROWS * PANELS);
        let mut mins = [[s.splat_i32(0); SPAN / 32]; PANELS];
        if MINS {
            for (mins, panel) in mins.iter_mut().zip(panels) {
                for (i, min) in mins.iter_mut().take(Self::PAIRS).enumerate() {
                    *min = min_pair::<WIDTH>(s, panel, span * Self::PAIRS + i);
                }
            }
        }
        Self { factors, mins, x, sums, c }
    }

    /// Adds the `part`-th of [`PARTS`].
    #[inline(always)]
    fn add(&mut self, s: Avx512<true>, part: usize) {
        let Self { factors, mins, x, sums, c } = self;
        let p = part / (PARTS / PANELS);
        let (factors, mins, [low, high]) = (&factors[p], &mins[p], if p == 0 { &sums.0 } else { &sums.1 });
        let rows = ROWS * PANELS / PARTS;
        for r in part * rows % ROWS..part * rows % ROWS + rows {
            let mut out = s.mul(factors.scale, s.to_f32(amx::join(s, &high.0[r], &low.0[r])));
            if MINS {
                let mut sum = s.splat_i32(0);
                for (i, &min) in mins.iter().take(Self::PAIRS).enumerate() {
                    sum = s.dot_pairs(sum, min, x.pairs[i * ROWS + r]);
                }
                out = s.fma(factors.min, s.to_f32(sum), out);
            }
            let c = &mut c[r * PANELS + p];
            s.store(s.fma(out, s.splat(x.scales[r]), s.load(c)), c);
        }
    }
}

/// What the integer scales of a record are multiplied by, and the minimums where there are any.
#[derive(Clone, Copy)]
struct Factors {
    scale: __m512,
    min: __m512,
}

impl Factors {
    #[inline(always)]
    fn of<const MINS: bool>(s: Avx512<true>, record: &[u8]) -> Self {
        Self { scale: half(s, record, 0), min: if MINS { half(s, record, 1) } else { s.splat(0.0) } }
    }
}

/// Where the integer scales of a record are.
const fn factor_bytes<const MINS: bool>() -> usize {
    2 * LANES * if MINS { 2 } else { 1 }
}

/// The integer scales of group `g`, each in both halves of a lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn scales<const MINS: bool>(record: &[u8], g: usize) -> __m512i {
    let at = &record[factor_bytes::<MINS>() + g * LANES..][..LANES];
    // SAFETY: 16 bytes.
    let wide = _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(at.as_ptr().cast()) });
    _mm512_mask_mov_epi16(_mm512_slli_epi32::<16>(wide), 0x5555_5555, wide)
}

/// The minimums of the i-th two groups, in pairs of 16 bits.
#[inline(always)]
fn min_pair<const WIDTH: usize>(s: Avx512<true>, record: &[u8], i: usize) -> __m512i {
    let at = &record[factor_bytes::<true>() + RECORD / WIDTH * LANES + i * 2 * LANES..][..2 * LANES];
    // SAFETY: 16 pairs of bytes.
    s.widen_pairs(unsafe { &*at.as_ptr().cast() })
}

/// The i-th 16 f16 of a record's scales.
#[inline(always)]
fn half(s: Avx512<true>, scales: &[u8], i: usize) -> __m512 {
    let at = &scales[i * 2 * LANES..][..2 * LANES];
    // SAFETY: 16 f16, which begin at an even address: a record begins at a cache line.
    s.load_f16(unsafe { &*at.as_ptr().cast() })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_bytes(from: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_bytes(v: __m512i, to: &mut [u8; 64]) {
    // SAFETY: 64 bytes.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), v) }
}

/// Unpacks weights to signed bytes: less 8 or 32 where they have no minimums.
///
/// # Safety
/// The machine has AVX-512 BW.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn unpack<const BITS: usize, const MINS: bool>(weights: &[u8], to: &mut [[u8; 64]]) {
    let nibble = _mm512_set1_epi8(15);
    let nibbles = |v: __m512i| [_mm512_and_si512(v, nibble), _mm512_and_si512(_mm512_srli_epi16::<4>(v), nibble)];
    let weights = weights.as_chunks::<64>().0;
    assert!(weights.len() * 64 == to.len() * 64 * BITS / 8);
    match BITS {
        4 => {
            let offset = _mm512_set1_epi8(if MINS { 0 } else { 8 });
            for (from, to) in weights.iter().zip(to.as_chunks_mut::<2>().0) {
                for (q, to) in nibbles(load_bytes(from)).into_iter().zip(to) {
                    store_bytes(_mm512_sub_epi8(q, offset), to);
                }
            }
        }
        6 => {
            let (offset, pair) = (_mm512_set1_epi8(if MINS { 0 } else { 32 }), _mm512_set1_epi8(0x30));
            for ([low0, low1, high], to) in weights.as_chunks::<3>().0.iter().zip(to.as_chunks_mut::<4>().0) {
                let ([a, b], [c, d]) = (nibbles(load_bytes(low0)), nibbles(load_bytes(low1)));
                let high = load_bytes(high);
                // What shifts bring in from a neighbouring byte is masked off.
                let highs =
                    [_mm512_slli_epi16::<4>(high), _mm512_slli_epi16::<2>(high), high, _mm512_srli_epi16::<2>(high)];
                for ((low, high), to) in [a, b, c, d].into_iter().zip(highs).zip(to) {
                    let q = _mm512_or_si512(low, _mm512_and_si512(high, pair));
                    store_bytes(_mm512_sub_epi8(q, offset), to);
                }
            }
        }
        _ => to.copy_from_slice(weights),
    }
}

/// Multiplies a record's weights, in `low`, with their groups' integer scales, and parts the products into high and low
/// bytes.
///
/// # Safety
/// The machine has AVX-512 BW.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn multiply<const MINS: bool, const WIDTH: usize>(
    record: &[u8],
    low: &mut [[u8; 64]; RECORD / 4],
    high: &mut [[u8; 64]; RECORD / 4],
) {
    const ODD: __mmask64 = 0xAAAA_AAAA_AAAA_AAAA;
    let round = _mm512_set1_epi16(128);
    for g in 0..RECORD / WIDTH {
        let scale = scales::<MINS>(record, g);
        let quads = g * WIDTH / 4..(g + 1) * WIDTH / 4;
        for (low, high) in low[quads.clone()].iter_mut().zip(&mut high[quads]) {
            let q = load_bytes(low);
            let even = _mm512_mullo_epi16(_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(q)), scale);
            let odd = _mm512_mullo_epi16(_mm512_srai_epi16::<8>(q), scale);
            store_bytes(_mm512_mask_mov_epi8(even, ODD, _mm512_slli_epi16::<8>(odd)), low);
            // The low byte is signed: what is left is rounded up where it is negative.
            let even = _mm512_srli_epi16::<8>(_mm512_add_epi16(even, round));
            store_bytes(_mm512_mask_mov_epi8(even, ODD, _mm512_add_epi16(odd, round)), high);
        }
    }
}
