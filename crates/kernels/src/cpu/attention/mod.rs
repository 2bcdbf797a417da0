//! Softmax attention over the cache, span by span of [`SPAN`] keys with an online softmax.
//!
//! Queries of one sequence that read the same key/value head are taken together in tiles, so that a span is read once
//! for all of them. A query meets its keys in the same spans and in the same order whatever else is in its tile: keys
//! it doesn't see weigh exactly nothing, and spans without a key it sees leave it as it was.
#![allow(unsafe_code)]

mod kernels;
mod lanes;
#[cfg(target_arch = "x86_64")]
mod tiles;

use super::Error;
use super::cache::{Blocks, CpuCache, Element, Layout};
use super::matmul::Tiling;
use super::memory::{Buffer, Parts};
use super::pool::Pool;
use super::simd::{Found, LANES};
use crate::backend::{BLOCK, Rows, Step};
use kernels::{Accumulate, BLOCKS, SPAN, Scores, Softmax, VECTORS, Weigh};
use std::ops::Range;

/// Queries of a task.
const TASK: usize = 96;

/// The queries of a step, and how they look at the cache.
pub(crate) struct Queries<'a> {
    pub(crate) q: &'a [f32],
    pub(crate) heads: usize,
    pub(crate) layer: usize,
    pub(crate) step: &'a Step,
    pub(crate) window: Option<usize>,
    pub(crate) scale: f32,
}

/// Memory that attention works in, grown when caches are made.
#[derive(Debug)]
pub(crate) struct Scratch {
    data: Buffer<f32>,
    each: usize,
}

impl Scratch {
    pub(crate) const fn new() -> Self {
        Self { data: Buffer::empty(), each: 0 }
    }

    /// Makes room for heads as `cache` has them, on `threads` threads.
    pub(crate) fn reserve(&mut self, threads: usize, cache: &CpuCache) -> Result<(), Error> {
        let Layout { head_dim, padded, .. } = cache.layout();
        let each = head_dim.checked_add(padded).and_then(|dims| dims.checked_add(SPAN));
        let each = each.and_then(|each| each.checked_mul(TASK)).ok_or(Error::TooLarge)?.next_multiple_of(16);
        self.each = self.each.max(each);
        self.data.grow(threads.checked_mul(self.each).ok_or(Error::TooLarge)?)
    }

    /// Room for one head for each thread, while no attention runs.
    pub(crate) fn heads(&mut self) -> (Parts<'_, f32>, usize) {
        (Parts::new(&mut self.data), self.each)
    }
}

/// Keys that row `row` of the step sees.
fn visible(step: &Step, row: usize, window: Option<usize>) -> Range<usize> {
    let lo = window.map_or(0, |window| (step.positions[row] as usize + 1).saturating_sub(window));
    lo..step.ends[row] as usize
}

/// Attention of every query of the step.
pub(crate) fn attention(
    pool: &Pool,
    isa: Found,
    scratch: &mut Scratch,
    queries: &Queries<'_>,
    cache: &CpuCache,
    out: &mut [f32],
) {
    let layout = cache.layout();
    let shared = queries.heads / layout.kv_heads;
    let tiles = |sequence: &Rows| (sequence.rows.len() * shared).div_ceil(TASK) * layout.kv_heads;
    let sequences = &queries.step.sequences;
    let each = scratch.each;
    let (scratch, out) = (Parts::new(&mut scratch.data), Parts::new(out));
    let count = sequences.iter().map(tiles).sum::<usize>();
    pool.run(count, &|task, thread| {
        // The last rows see most: they come first, so that threads end together.
        let mut task = count - 1 - task;
        let mut sequence = sequences.iter();
        let sequence = loop {
            let Some(next) = sequence.next() else { unreachable!("tasks were counted over all sequences") };
            match task.checked_sub(tiles(next)) {
                Some(rest) => task = rest,
                None => break next,
            }
        };
        // SAFETY: each thread has a part of its own.
        let scratch = unsafe { scratch.part(thread * each..(thread + 1) * each) };
        let tile =
            TileOf { isa, queries, layout, sequence, head: task % layout.kv_heads, first: task / layout.kv_heads };
        match &cache.blocks {
            Blocks::F32(data) => tile.run::<F32>(data, scratch, &out),
            Blocks::BF16(data) => tile.run::<BF16>(data, scratch, &out),
            Blocks::F8(data) => tile.run::<F8>(data, scratch, &out),
            #[cfg(target_arch = "x86_64")]
            Blocks::Pairs(data) if isa.has_amx() && layout.padded <= tiles::WIDEST => {
                tiles::run(&tile, data, scratch, &out);
            }
            Blocks::Pairs(data) => lanes::run(&tile, data, scratch, &out),
        }
    });
}

/// Up to [`TASK`] queries of a sequence that read one key/value head: query i is row `i / shared`, and the
/// `i % shared`-th of the heads that share it.
struct TileOf<'a> {
    isa: Found,
    queries: &'a Queries<'a>,
    layout: Layout,
    sequence: &'a Rows,
    head: usize,
    /// Number of the tile in its sequence.
    first: usize,
}

impl TileOf<'_> {
    /// Query heads that read one key/value head.
    fn shared(&self) -> usize {
        self.queries.heads / self.layout.kv_heads
    }

    /// Queries of the tile.
    fn count(&self) -> usize {
        TASK.min(self.sequence.rows.len() * self.shared() - self.first * TASK)
    }

    /// The row of query `i`, and where it begins in the step's matrices.
    fn at(&self, i: usize) -> (usize, usize) {
        let (shared, i) = (self.shared(), self.first * TASK + i);
        let row = self.sequence.rows.start + i / shared;
        (row, (row * self.queries.heads + self.head * shared + i % shared) * self.layout.head_dim)
    }

    /// Keys and values of the blocks in sight in span `span`, `held` elements of the cache in one of `data`.
    fn blocks<'d, T>(&self, data: &'d [T], held: usize, span: usize, sight: Range<usize>) -> [[&'d [T]; BLOCKS]; 2] {
        let Self { queries, layout, head, .. } = *self;
        let mut found: [[&[T]; BLOCKS]; 2] = [[&[]; BLOCKS]; 2];
        let [keys, values] = &mut found;
        for block in sight.start / BLOCK..sight.end.div_ceil(BLOCK) {
            let place = self.sequence.table[span * BLOCKS + block] as usize;
            let at = |first: usize, len: usize| &data[first / held..(first + len) / held];
            keys[block] = at(layout.keys(place, queries.layer, head), layout.head_dim * BLOCK);
            values[block] = at(layout.values(place, queries.layer, head), layout.padded * BLOCK);
        }
        found
    }

    fn run<A: Arithmetic>(&self, data: &[A::Stored], scratch: &mut [f32], out: &Parts<'_, f32>) {
        let Self { isa, queries, layout, .. } = *self;
        let (dim, padded, count) = (layout.head_dim, layout.padded, self.count());
        let wide = isa.is_wide();
        let tiling = Tiling::new(count, if wide { &[1, 2, 4, 8, 12] } else { &[1, 2, 4, 6] });

        let (q, rest) = scratch.split_at_mut(TASK * dim);
        let (scores, rest) = rest.split_at_mut(TASK * SPAN);
        let sums = &mut rest[..TASK * padded];
        for tile in tiling.iter() {
            let q = &mut q[tile.first * dim..][..tile.padded * dim];
            q.fill(0.0);
            for r in 0..tile.rows {
                column(&queries.q[self.at(tile.first + r).1..][..dim], r, tile.padded, q);
            }
        }
        sums.fill(0.0);
        let mut state = [Softmax::new(); TASK];
        let sight = Sight::of(self);
        for span in sight.spans() {
            // Keys of this span that each query sees.
            let inside = sight.inside(span);
            let Some(all) = union(&inside) else { continue };
            let [keys, values] = self.blocks(data, 1, span, all);
            for tile in tiling.iter() {
                let range = tile.first..tile.first + tile.padded;
                let inside = &inside[range.clone()];
                let Some(seen) = union(inside) else { continue };
                let call = Call {
                    q: &q[tile.first * dim..][..tile.padded * dim],
                    keys,
                    values,
                    vectors: padded / LANES,
                    scores: &mut scores[tile.first * SPAN..][..tile.padded * SPAN],
                    sums: &mut sums[tile.first * padded..][..tile.padded * padded],
                    scale: queries.scale,
                    inside,
                    seen,
                    state: &mut state[range],
                };
                match (tile.padded, wide) {
                    (1, true) => A::run::<1, 2>(call, isa),
                    (2, true) => A::run::<2, 2>(call, isa),
                    (4, true) => A::run::<4, 2>(call, isa),
                    (8, true) => A::run::<8, 2>(call, isa),
                    (12, true) => A::run::<12, 2>(call, isa),
                    (1, false) => A::run::<1, 1>(call, isa),
                    (2, false) => A::run::<2, 1>(call, isa),
                    (4, false) => A::run::<4, 1>(call, isa),
                    (6, false) => A::run::<6, 1>(call, isa),
                    (rows, _) => unreachable!("no tile of {rows} queries"),
                }
            }
        }

        for (i, (sums, state)) in sums.chunks_exact(padded).zip(&state[..count]).enumerate() {
            let to = self.at(i).1;
            // SAFETY: each query of the step is in one tile.
            let out = unsafe { out.part(to..to + dim) };
            for (out, sum) in out.iter_mut().zip(sums) {
                // A query that sees nothing gets zeros.
                *out = if state.sum == 0.0 { 0.0 } else { sum / state.sum };
            }
        }
    }
}

/// What the queries of a tile see.
struct Sight {
    seen: [Range<usize>; TASK],
    /// What every query sees: most spans of a long text, all of an image.
    common: Range<usize>,
    any: Range<usize>,
}

impl Sight {
    fn of(tile: &TileOf<'_>) -> Self {
        let mut seen: [Range<usize>; TASK] = [const { 0..0 }; TASK];
        let queries = tile.queries;
        let mut common = 0..usize::MAX;
        let mut any = Range { start: usize::MAX, end: 0 };
        for (i, seen) in seen[..tile.count()].iter_mut().enumerate() {
            *seen = visible(queries.step, tile.at(i).0, queries.window);
            common = common.start.max(seen.start)..common.end.min(seen.end);
            any = any.start.min(seen.start)..any.end.max(seen.end);
        }
        Self { seen, common, any }
    }

    /// Spans in which there may be something to see.
    fn spans(&self) -> Range<usize> {
        self.any.start / SPAN..self.any.end.div_ceil(SPAN)
    }

    /// The part of a span that each query sees; behind the last query, none or all of it.
    fn inside(&self, span: usize) -> [(u8, u8); TASK] {
        let start = span * SPAN;
        if self.common.start <= start && start + SPAN <= self.common.end {
            return [(0, SPAN as u8); TASK];
        }
        let mut inside = [(0, 0); TASK];
        for (inside, seen) in inside.iter_mut().zip(&self.seen) {
            let clip = |key: usize| key.saturating_sub(start).min(SPAN) as u8;
            *inside = (clip(seen.start), clip(seen.end));
        }
        inside
    }
}

/// The keys of a span that any of the queries sees.
fn union(inside: &[(u8, u8)]) -> Option<Range<usize>> {
    let some = inside.iter().filter(|(from, to)| from < to);
    let (from, to) = some.fold((SPAN, 0), |(lo, hi), &(from, to)| (lo.min(from.into()), hi.max(to.into())));
    (from < to).then_some(from..to)
}

/// One span of the cache for one tile of queries; blocks that no query of the task sees are empty.
struct Call<'a, E> {
    q: &'a [f32],
    keys: [&'a [E]; BLOCKS],
    values: [&'a [E]; BLOCKS],
    /// Vectors of a value.
    vectors: usize,
    scores: &'a mut [f32],
    sums: &'a mut [f32],
    scale: f32,
    inside: &'a [(u8, u8)],
    /// Keys that any of them sees.
    seen: Range<usize>,
    state: &'a mut [Softmax],
}

impl<E> Call<'_, E> {
    /// Blocks with a key in sight.
    fn blocks(&self) -> Range<usize> {
        self.seen.start / BLOCK..self.seen.end.div_ceil(BLOCK)
    }

    fn weigh(&mut self, isa: Found) {
        let blocks = self.blocks();
        let vectors = blocks.start * VECTORS..blocks.end * VECTORS;
        isa.run(Weigh { scores: self.scores, scale: self.scale, vectors, seen: self.inside, state: self.state });
    }
}

/// How a cache's elements are multiplied.
trait Arithmetic {
    /// An element as it is held.
    type Stored;

    fn run<const ROWS: usize, const NP: usize>(call: Call<'_, Self::Stored>, isa: Found);
}

/// In f32, elements widened.
struct F32;
struct BF16;
struct F8;

/// For each element type whose products are in f32.
fn in_f32<E: Element, const ROWS: usize, const NP: usize>(mut call: Call<'_, E>, isa: Found) {
    for block in call.blocks() {
        isa.run(Scores::<E, ROWS, NP> { q: call.q, keys: call.keys[block], block, scores: call.scores });
    }
    call.weigh(isa);
    let Call { values, vectors, scores, sums, seen, state, .. } = call;
    isa.run(Accumulate::<E, ROWS, NP> { weights: scores, values, vectors, keys: seen, state, sums });
}

/// Puts a query into column `row` of its tile's `[head_dim][rows]`.
fn column(from: &[f32], row: usize, rows: usize, tile: &mut [f32]) {
    for (&from, to) in from.iter().zip(tile.chunks_exact_mut(rows)) {
        to[row] = from;
    }
}

impl Arithmetic for F32 {
    type Stored = f32;

    fn run<const ROWS: usize, const NP: usize>(call: Call<'_, f32>, isa: Found) {
        in_f32::<f32, ROWS, NP>(call, isa);
    }
}

impl Arithmetic for BF16 {
    type Stored = u16;

    fn run<const ROWS: usize, const NP: usize>(call: Call<'_, u16>, isa: Found) {
        in_f32::<u16, ROWS, NP>(call, isa);
    }
}

impl Arithmetic for F8 {
    type Stored = u8;

    fn run<const ROWS: usize, const NP: usize>(call: Call<'_, u8>, isa: Found) {
        in_f32::<u8, ROWS, NP>(call, isa);
    }
}

#[cfg(test)]
mod tests;
