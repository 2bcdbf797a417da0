//! Matrix products over packed weights.
//!
//! Threads share the panels of the weight, never k; each output is summed over k in one order, whatever the number of
//! rows, panels and threads. A task takes a few panels for all rows, and works through k in steps whose weights stay in
//! the first cache while every tile of rows meets them.
#![allow(unsafe_code)]

mod activations;
mod float;
mod group;
mod half;
#[cfg(target_arch = "x86_64")]
mod half_tiles;
mod int;
mod record;
mod stream;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod tiling;

use super::Error;
use super::math;
use super::memory::{Buffer, Parts};
use super::pack::{CpuWeight, GROUP, Layout, Scales, Segment};
use super::pool::Pool;
use super::simd::{Found, Kernel, LANES, Simd};
use activations::{Floats, Ints, SPAN};
use half::Pairs;
use tiling::MAX_ROWS;
pub(crate) use tiling::Tiling;

/// Panels of one task, at most.
const TASK: usize = 8;

/// What becomes of a sum before it is written.
#[derive(Clone, Copy)]
pub(crate) enum Finish<'a> {
    Store,
    Bias(&'a [f32]),
    BiasGelu(&'a [f32]),
}

/// Memory that products work in, grown when weights are loaded.
#[derive(Debug)]
pub(crate) struct Scratch {
    floats: Floats,
    pairs: Pairs,
    /// With a scale for each group; for each span.
    ints: Ints,
    records: Ints,
    /// Sums of one task for each thread.
    sums: Buffer<f32>,
}

/// Sums of one task.
const SUMS: usize = MAX_ROWS * TASK * LANES;

impl Scratch {
    pub(crate) const fn new() -> Self {
        Self {
            floats: Floats::new(),
            pairs: Pairs::new(),
            ints: Ints::new(GROUP),
            records: Ints::new(SPAN),
            sums: Buffer::empty(),
        }
    }

    /// Makes room for products with `w` on `threads` threads.
    pub(crate) fn reserve(&mut self, threads: usize, w: &CpuWeight) -> Result<(), Error> {
        self.sums.grow(threads.checked_mul(SUMS).ok_or(Error::TooLarge)?)?;
        for segment in w.segments() {
            match segment.layout {
                Layout::Int(ints) if ints.scales == Scales::Super => self.records.reserve(w.k())?,
                Layout::Int(_) => self.ints.reserve(w.k())?,
                Layout::Pairs => self.pairs.reserve(w.k())?,
                _ => self.floats.reserve(w.k())?,
            }
        }
        Ok(())
    }
}

/// `out = x · wᵀ`, finished: x `[m, k]`, out `[m, n]`.
pub(crate) fn matmul(
    pool: &Pool,
    isa: Found,
    scratch: &mut Scratch,
    x: &[f32],
    w: &CpuWeight,
    finish: Finish<'_>,
    out: &mut [f32],
) {
    if w.n() == 0 || x.is_empty() {
        return;
    }
    let rows = tiling::turn(x.len() / w.k(), if isa.has_amx() { tiling::SQUARE } else { 12 });
    for (x, out) in x.chunks(rows * w.k()).zip(out.chunks_mut(rows * w.n())) {
        some_rows(pool, isa, scratch, x, w, finish, out);
    }
}

/// As [`matmul`], for at most [`MAX_ROWS`] rows.
fn some_rows(
    pool: &Pool,
    isa: Found,
    scratch: &mut Scratch,
    x: &[f32],
    w: &CpuWeight,
    finish: Finish<'_>,
    out: &mut [f32],
) {
    let (n, k) = (w.n(), w.k());
    let rows = x.len() / k;
    let wide = isa.is_wide();
    let float_tiles = Tiling::new(rows, if wide { &[1, 2, 4, 8, 12] } else { &[1, 2, 4, 6] });
    let pair_tiles = if isa.has_amx() { Tiling::new(rows, &[tiling::SQUARE]) } else { float_tiles };
    let few = rows <= stream::MAX_ROWS;
    let int_tiles = Tiling::new(
        rows,
        match (few, wide) {
            (true, _) => stream::TILES,
            _ if isa.has_amx() => &[tiling::SQUARE],
            (_, true) => &[1, 2, 4, 6],
            _ => &[1, 2, 4],
        },
    );
    let is_int = |segment: &Segment| matches!(segment.layout, Layout::Int(_));
    let has = |scales: Scales| {
        w.segments().iter().any(|segment| matches!(segment.layout, Layout::Int(ints) if ints.scales == scales))
    };
    if has(Scales::Half) {
        scratch.ints.pack(pool, isa, int_tiles, x, k);
    }
    if has(Scales::Super) {
        scratch.records.pack(pool, isa, int_tiles, x, k);
    }
    let is_pairs = |segment: &Segment| matches!(segment.layout, Layout::Pairs);
    if w.segments().iter().any(is_pairs) {
        scratch.pairs.pack(pool, isa, pair_tiles, x, k);
    }
    if !w.segments().iter().all(|segment| is_int(segment) || is_pairs(segment)) {
        scratch.floats.pack(pool, float_tiles, x, k);
    }
    // One row has more panels side by side, to have enough sums under way.
    let float_panels = if rows == 1 { 4 } else { 1 + usize::from(wide) };
    let int_panels = if few { 1 } else { 1 + usize::from(wide) };
    let (floats, pairs, ints, records) = (&scratch.floats, &scratch.pairs, &scratch.ints, &scratch.records);
    let (sums, out) = (Parts::new(&mut scratch.sums), Parts::new(out));
    for segment in w.segments() {
        let np = match segment.layout {
            Layout::Int(_) => int_panels,
            Layout::Pairs => half::PANELS,
            _ => float_panels,
        };
        let panels = segment.panels();
        let each = (panels / (8 * pool.threads())).clamp(np, TASK) / np * np;
        pool.run(panels.div_ceil(each), &|task, thread| {
            let range = task * each..panels.min((task + 1) * each);
            // SAFETY: each thread has sums of its own.
            let sums = unsafe { sums.part(thread * SUMS..(thread + 1) * SUMS) };
            let tiling = match &segment.layout {
                Layout::Int(layout) if few => {
                    let x = if layout.scales == Scales::Super { records } else { ints };
                    stream::accumulate(isa, segment, layout, k, x, int_tiles, range.clone(), sums);
                    int_tiles
                }
                #[cfg(target_arch = "x86_64")]
                Layout::Int(layout) if int_tiles.is_square() => {
                    let x = if layout.scales == Scales::Super { records } else { ints };
                    tiles::accumulate(isa, segment, layout, k, x, int_tiles, range.clone(), sums);
                    int_tiles
                }
                Layout::Int(layout) if layout.scales == Scales::Super => {
                    record::accumulate(isa, segment, layout, k, records, int_tiles, np, range.clone(), sums);
                    int_tiles
                }
                Layout::Int(layout) => {
                    int::accumulate(isa, segment, layout, k, ints, int_tiles, np, range.clone(), sums);
                    int_tiles
                }
                #[cfg(target_arch = "x86_64")]
                Layout::Pairs if pair_tiles.is_square() => {
                    half_tiles::accumulate(isa, segment, k, pairs, pair_tiles, range.clone(), sums);
                    pair_tiles
                }
                Layout::Pairs => {
                    half::accumulate(isa, segment, k, pairs, float_tiles, range.clone(), sums);
                    float_tiles
                }
                _ => {
                    float::accumulate(isa, segment, k, floats, float_tiles, np, range.clone(), sums);
                    float_tiles
                }
            };
            let first = segment.first + range.start * LANES;
            let width = (segment.first + segment.rows).min(first + range.len() * LANES) - first;
            isa.run(Write { sums, tiling, np, first, width, n, finish, out: &out });
        });
    }
}

/// Writes a task's sums to their columns `first..first + width` of the result.
struct Write<'a> {
    sums: &'a [f32],
    tiling: Tiling,
    np: usize,
    first: usize,
    width: usize,
    n: usize,
    finish: Finish<'a>,
    out: &'a Parts<'a, f32>,
}

impl Kernel for Write<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { sums, tiling, np, first, width, n, finish, out } = self;
        let sums = sums.as_chunks::<LANES>().0;
        let rows = tiling.iter().flat_map(|tile| (0..tile.rows).map(move |r| tile.first + r));
        for row in rows {
            // SAFETY: these columns belong to this task.
            let out = unsafe { out.part(row * n + first..row * n + first + width) };
            let (whole, rest) = out.as_chunks_mut::<LANES>();
            let at = |panel: usize| (panel / np * tiling.padded() + row) * np + panel % np;
            let last = whole.len();
            for (panel, out) in whole.iter_mut().enumerate() {
                s.store(finish.of(s, s.load(&sums[at(panel)]), first + panel * LANES), out);
            }
            if !rest.is_empty() {
                let mut lanes = [0f32; LANES];
                s.store(finish.of(s, s.load(&sums[at(last)]), first + last * LANES), &mut lanes);
                rest.copy_from_slice(&lanes[..rest.len()]);
            }
        }
    }
}

impl Finish<'_> {
    /// What becomes of the sums of 16 columns from `column`, of which there may be fewer.
    #[inline(always)]
    fn of<S: Simd>(self, s: S, sums: S::F, column: usize) -> S::F {
        match self {
            Self::Store => sums,
            Self::Bias(bias) => s.add(sums, s.load(&lanes(&bias[column..]))),
            Self::BiasGelu(bias) => math::gelu_tanh(s, s.add(sums, s.load(&lanes(&bias[column..])))),
        }
    }
}

/// The first values, filled up with zeros.
#[inline(always)]
fn lanes(values: &[f32]) -> [f32; LANES] {
    match values.first_chunk() {
        Some(lanes) => *lanes,
        None => {
            let mut lanes = [0.0; LANES];
            lanes[..values.len()].copy_from_slice(values);
            lanes
        }
    }
}

#[cfg(test)]
mod tests;
