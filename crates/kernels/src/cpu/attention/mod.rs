//! Softmax attention over the cache, block by block of [`BLOCK`] keys with an online softmax.
//!
//! Queries of one sequence that read the same key/value head are taken together in tiles, so that a block is read once
//! for all of them. A query meets its keys in the same blocks and in the same order whatever else is in its tile: keys
//! it doesn't see weigh exactly nothing, and blocks without a key it sees leave it as it was.
#![allow(unsafe_code)]

mod kernels;

use super::Error;
use super::cache::{Blocks, CpuCache, Element, Layout};
use super::matmul::Tiling;
use super::memory::{Buffer, Parts};
use super::pool::Pool;
use super::simd::{Found, Isa};
use crate::backend::{BLOCK, Rows, Step};
use kernels::{Accumulate, Scores, Softmax, Weigh};
use std::ops::Range;

/// Queries of a task.
const TASK: usize = 48;

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
        let each = head_dim.checked_add(padded).and_then(|dims| dims.checked_add(BLOCK));
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
            Blocks::F32(data) => tile.run(data, scratch, &out),
            Blocks::BF16(data) => tile.run(data, scratch, &out),
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
    fn run<E: Element>(&self, data: &[E], scratch: &mut [f32], out: &Parts<'_, f32>) {
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
        let (scores, rest) = rest.split_at_mut(TASK * BLOCK);
        let sums = &mut rest[..TASK * padded];
        for tile in tiling.iter() {
            let q = &mut q[tile.first * dim..][..tile.padded * dim];
            q.fill(0.0);
            for r in 0..tile.rows {
                let (row, head) = at(tile.first + r);
                let from = &queries.q[(row * queries.heads + head) * dim..][..dim];
                for (&from, q) in from.iter().zip(q.chunks_exact_mut(tile.padded)) {
                    q[r] = from;
                }
            }
        }
        sums.fill(0.0);
        let mut state = [Softmax::new(); TASK];
        let mut seen: [Range<usize>; TASK] = [const { 0..0 }; TASK];
        for (i, seen) in seen[..count].iter_mut().enumerate() {
            *seen = visible(queries.step, at(i).0, queries.window);
        }
        let (lo, hi) = seen[..count].iter().fold((usize::MAX, 0), |(lo, hi), s| (lo.min(s.start), hi.max(s.end)));

        for block in lo / BLOCK..hi.div_ceil(BLOCK) {
            // Keys of this block that each query sees.
            let start = block * BLOCK;
            let mut inside = [(0u8, 0u8); TASK];
            for (inside, seen) in inside.iter_mut().zip(&seen) {
                let clip = |key: usize| key.saturating_sub(start).min(BLOCK) as u8;
                *inside = (clip(seen.start), clip(seen.end));
            }
            if inside.iter().all(|(from, to)| from >= to) {
                continue;
            }
            let place = sequence.table[block] as usize;
            let keys = &data[layout.keys(place, queries.layer, head)..][..dim * BLOCK];
            let values = &data[layout.values(place, queries.layer, head)..][..padded * BLOCK];
            for tile in tiling.iter() {
                let range = tile.first..tile.first + tile.padded;
                let inside = &inside[range.clone()];
                let some = inside.iter().filter(|(from, to)| from < to);
                let (from, to) = some.fold((BLOCK as u8, 0), |(lo, hi), &(from, to)| (lo.min(from), hi.max(to)));
                if from >= to {
                    continue;
                }
                let call = Call {
                    q: &q[tile.first * dim..][..tile.padded * dim],
                    keys,
                    values,
                    scores: &mut scores[tile.first * BLOCK..][..tile.padded * BLOCK],
                    sums: &mut sums[tile.first * padded..][..tile.padded * padded],
                    scale: queries.scale,
                    inside,
                    from: usize::from(from),
                    to: usize::from(to),
                    state: &mut state[range],
                };
                match (tile.padded, wide) {
                    (1, true) => call.run::<1, 2>(isa),
                    (2, true) => call.run::<2, 2>(isa),
                    (4, true) => call.run::<4, 2>(isa),
                    (8, true) => call.run::<8, 2>(isa),
                    (12, true) => call.run::<12, 2>(isa),
                    (1, false) => call.run::<1, 1>(isa),
                    (2, false) => call.run::<2, 1>(isa),
                    (4, false) => call.run::<4, 1>(isa),
                    (6, false) => call.run::<6, 1>(isa),
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

/// One block of the cache for one tile of queries.
struct Call<'a, E> {
    q: &'a [f32],
    keys: &'a [E],
    values: &'a [E],
    scores: &'a mut [f32],
    sums: &'a mut [f32],
    scale: f32,
    inside: &'a [(u8, u8)],
    from: usize,
    to: usize,
    state: &'a mut [Softmax],
}

impl<E: Element> Call<'_, E> {
    fn run<const ROWS: usize, const NP: usize>(self, isa: Found) {
        let Self { q, keys, values, scores, sums, scale, inside, from, to, state } = self;
        isa.run(Scores::<E, ROWS, NP> { q, keys, scores });
        isa.run(Weigh { scores, scale, seen: inside, state });
        isa.run(Accumulate::<E, ROWS, NP> { weights: scores, values, from, to, state, sums });
    }
}

#[cfg(test)]
mod tests;
