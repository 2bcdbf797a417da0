//! Softmax attention over the cache, span by span of [`SPAN`] keys with an online softmax.
//!
//! Queries of one sequence that read the same key/value head are taken together in tiles, so that a span is read once
//! for all of them. A query meets its keys in the same spans and in the same order whatever else is in its tile: keys
//! it doesn't see weigh exactly nothing, and spans without a key it sees leave it as it was.
#![allow(unsafe_code)]

mod kernels;

use super::Error;
use super::cache::{Blocks, CpuCache, Element, Layout};
use super::matmul::Tiling;
use super::memory::{Buffer, Parts};
use super::pool::Pool;
use super::simd::{Found, Isa, LANES};
use crate::backend::{BLOCK, Rows, Step};
use kernels::{Accumulate, Accumulate16, BLOCKS, SPAN, Scores, Scores16, Softmax, VECTORS, Weigh};
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
            Blocks::Pairs(data) => tile.run::<Pairs>(data, scratch, &out),
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
    fn run<A: Arithmetic>(&self, data: &[A::Stored], scratch: &mut [f32], out: &Parts<'_, f32>) {
        let Self { isa, queries, layout, sequence, head, .. } = *self;
        let (dim, padded) = (layout.head_dim, layout.padded);
        let shared = queries.heads / layout.kv_heads;
        let first = self.first * TASK;
        let count = TASK.min(sequence.rows.len() * shared - first);
        // Where query i lies in the step's matrices.
        let at = |i: usize| {
            let (row, part) = ((first + i) / shared, (first + i) % shared);
            (sequence.rows.start + row, head * shared + part)
        };
        let wide = isa.isa() == Isa::Avx512;
        let tiling = Tiling::new(count, if wide { &[1, 2, 4, 8, 12] } else { &[1, 2, 4, 6] });

        let (q, rest) = scratch.split_at_mut(TASK * dim);
        let (scores, rest) = rest.split_at_mut(TASK * SPAN);
        let sums = &mut rest[..TASK * padded];
        for tile in tiling.iter() {
            let q = &mut q[tile.first * dim..][..tile.padded * dim];
            q.fill(0.0);
            for r in 0..tile.rows {
                let (row, head) = at(tile.first + r);
                A::query(&queries.q[(row * queries.heads + head) * dim..][..dim], r, tile.padded, q);
            }
        }
        sums.fill(0.0);
        let mut state = [Softmax::new(); TASK];
        let mut seen: [Range<usize>; TASK] = [const { 0..0 }; TASK];
        for (i, seen) in seen[..count].iter_mut().enumerate() {
            *seen = visible(queries.step, at(i).0, queries.window);
        }
        let (lo, hi) = seen[..count].iter().fold((usize::MAX, 0), |(lo, hi), s| (lo.min(s.start), hi.max(s.end)));

        // What every query sees: most spans of a long text, all of an image.
        let common = seen[..count].iter().fold(0..usize::MAX, |all, s| all.start.max(s.start)..all.end.min(s.end));
        let mut inside = [(0u8, 0u8); TASK];
        for span in lo / SPAN..hi.div_ceil(SPAN) {
            // Keys of this span that each query sees.
            let start = span * SPAN;
            if common.start <= start && start + SPAN <= common.end {
                inside[..count].fill((0, SPAN as u8));
            } else {
                for (inside, seen) in inside.iter_mut().zip(&seen) {
                    let clip = |key: usize| key.saturating_sub(start).min(SPAN) as u8;
                    *inside = (clip(seen.start), clip(seen.end));
                }
            }
            let Some(all) = union(&inside) else { continue };
            let mut keys: [&[A::Stored]; BLOCKS] = [&[]; BLOCKS];
            let mut values = keys;
            for block in all.start / BLOCK..all.end.div_ceil(BLOCK) {
                let place = sequence.table[span * BLOCKS + block] as usize;
                let at = |first: usize, len: usize| &data[first / A::HELD..(first + len) / A::HELD];
                keys[block] = at(layout.keys(place, queries.layer, head), dim * BLOCK);
                values[block] = at(layout.values(place, queries.layer, head), padded * BLOCK);
            }
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
            let (row, head) = at(i);
            let to = (row * queries.heads + head) * dim;
            // SAFETY: each query of the step is in one tile.
            let out = unsafe { out.part(to..to + dim) };
            for (out, sum) in out.iter_mut().zip(sums) {
                // A query that sees nothing gets zeros.
                *out = if state.sum == 0.0 { 0.0 } else { sum / state.sum };
            }
        }
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
    /// Elements of the cache in one of those.
    const HELD: usize = 1;

    /// Puts a query into column `row` of its tile's `[head_dim][rows]`.
    fn query(from: &[f32], row: usize, rows: usize, tile: &mut [f32]);

    fn run<const ROWS: usize, const NP: usize>(call: Call<'_, Self::Stored>, isa: Found);
}

/// In f32, elements widened.
struct F32;
struct BF16;
/// In bf16.
struct Pairs;

/// For each element type whose products are in f32.
fn in_f32<E: Element, const ROWS: usize, const NP: usize>(mut call: Call<'_, E>, isa: Found) {
    for block in call.blocks() {
        isa.run(Scores::<E, ROWS, NP> { q: call.q, keys: call.keys[block], block, scores: call.scores });
    }
    call.weigh(isa);
    let Call { values, vectors, scores, sums, seen, state, .. } = call;
    isa.run(Accumulate::<E, ROWS, NP> { weights: scores, values, vectors, keys: seen, state, sums });
}

fn column(from: &[f32], row: usize, rows: usize, tile: &mut [f32]) {
    for (&from, to) in from.iter().zip(tile.chunks_exact_mut(rows)) {
        to[row] = from;
    }
}

impl Arithmetic for F32 {
    type Stored = f32;

    fn query(from: &[f32], row: usize, rows: usize, tile: &mut [f32]) {
        column(from, row, rows, tile);
    }

    fn run<const ROWS: usize, const NP: usize>(call: Call<'_, f32>, isa: Found) {
        in_f32::<f32, ROWS, NP>(call, isa);
    }
}

impl Arithmetic for BF16 {
    type Stored = u16;

    fn query(from: &[f32], row: usize, rows: usize, tile: &mut [f32]) {
        column(from, row, rows, tile);
    }

    fn run<const ROWS: usize, const NP: usize>(call: Call<'_, u16>, isa: Found) {
        in_f32::<u16, ROWS, NP>(call, isa);
    }
}

impl Arithmetic for Pairs {
    type Stored = u32;
    const HELD: usize = 2;

    /// Tiles are `[head_dim / 2][rows]` pairs, in the room of f32.
    fn query(from: &[f32], row: usize, rows: usize, tile: &mut [f32]) {
        for (pair, to) in from.as_chunks::<2>().0.iter().zip(tile.chunks_exact_mut(rows)) {
            let [first, second] = pair.map(|v| u32::from(u16::encode(v)));
            to[row] = f32::from_bits(first | second << 16);
        }
    }

    fn run<const ROWS: usize, const NP: usize>(mut call: Call<'_, u32>, isa: Found) {
        for block in call.blocks() {
            let q = &call.q[..call.keys[block].len() / BLOCK * ROWS];
            isa.run16(Scores16::<ROWS> { q, keys: call.keys[block], block, scores: call.scores });
        }
        call.weigh(isa);
        let Call { values, vectors, scores, sums, seen, state, .. } = call;
        isa.run16(Accumulate16::<ROWS> { weights: scores, values, vectors, keys: seen, state, sums });
    }
}

#[cfg(test)]
mod tests;
