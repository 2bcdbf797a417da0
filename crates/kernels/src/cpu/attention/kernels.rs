//! The three steps of attention over a span of the cache: scores, their softmax so far, the weighted sum of values.
#![allow(unsafe_code)]

use crate::backend::BLOCK;
use crate::cpu::cache::Element;
use crate::cpu::math::exp;
use crate::cpu::simd::{Kernel, LANES, Simd};
use std::ops::Range;

/// Vectors of scores of one query against a block.
pub(super) const VECTORS: usize = BLOCK / LANES;
const _: () = assert!(BLOCK == VECTORS * LANES);
/// Blocks that the softmax takes at once: a query meets its keys in spans at multiples of [`SPAN`] positions.
pub(super) const BLOCKS: usize = 4;
/// Keys of a span.
pub(super) const SPAN: usize = BLOCKS * BLOCK;

/// Whether so many sums of vectors fit the registers.
const fn fits<S: Simd>(sums: usize) -> bool {
    S::WIDE || sums <= 6
}

/// Scores of ROWS queries against block `block` of a span: `scores[row][key] = Σ q[d][row] · keys[d][key]`, NP vectors of
/// keys at a time.
pub(super) struct Scores<'a, E, const ROWS: usize, const NP: usize> {
    pub(super) q: &'a [f32],
    pub(super) keys: &'a [E],
    pub(super) block: usize,
    pub(super) scores: &'a mut [f32],
}

impl<E: Element, const ROWS: usize, const NP: usize> Kernel for Scores<'_, E, ROWS, NP> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if const { !fits::<S>(ROWS * NP) } {
            unreachable!("tiles are chosen to fit");
        }
        let queries = self.q.as_chunks::<ROWS>().0;
        let keys = self.keys.as_chunks::<BLOCK>().0;
        let out = self.scores.as_chunks_mut::<LANES>().0;
        assert!(out.len() == ROWS * BLOCKS * VECTORS && self.block < BLOCKS);
        let first = self.block * VECTORS;
        for part in 0..VECTORS / NP {
            let mut sums = [[s.splat(0.0); NP]; ROWS];
            for (q, keys) in queries.iter().zip(keys) {
                let keys = keys.as_chunks::<LANES>().0;
                let mut column = [s.splat(0.0); NP];
                for (p, column) in column.iter_mut().enumerate() {
                    *column = E::load(s, &keys[part * NP + p]);
                }
                for (sums, &q) in sums.iter_mut().zip(q) {
                    let q = s.splat(q);
                    for (sum, column) in sums.iter_mut().zip(column) {
                        *sum = s.fma(q, column, *sum);
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (p, &sum) in sums.iter().enumerate() {
                    s.store(sum, &mut out[r * BLOCKS * VECTORS + first + part * NP + p]);
                }
            }
        }
    }
}

/// The softmax of a row of queries as far as it has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Softmax {
    /// The largest score so far.
    pub(super) max: f32,
    /// The sum of weights, relative to it.
    pub(super) sum: f32,
    /// What the values summed before have to be multiplied by.
    pub(super) shrink: f32,
}

impl Softmax {
    pub(super) const fn new() -> Self {
        Self { max: f32::NEG_INFINITY, sum: 0.0, shrink: 1.0 }
    }
}

/// Turns scores into weights: each query sees the keys `seen` of the span; one that sees none is left as it is, with
/// weights of zero. Only the vectors `vectors` of the span are in use.
pub(super) struct Weigh<'a> {
    pub(super) scores: &'a mut [f32],
    pub(super) scale: f32,
    pub(super) vectors: Range<usize>,
    pub(super) seen: &'a [(u8, u8)],
    pub(super) state: &'a mut [Softmax],
}

impl Kernel for Weigh<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Range { start, end } = self.vectors;
        assert!(start < end && end <= SPAN / LANES);
        let scale = s.splat(self.scale);
        let rows = self.scores.as_chunks_mut::<SPAN>().0;
        for ((row, &(from, to)), state) in rows.iter_mut().zip(self.seen).zip(self.state) {
            let row = &mut row.as_chunks_mut::<LANES>().0[start..end];
            if from >= to {
                row.as_flattened_mut().fill(0.0);
                state.shrink = 1.0;
                continue;
            }
            let (from, to) = (usize::from(from), usize::from(to));
            let all = from <= start * LANES && to >= end * LANES;
            let mut top = s.splat(f32::NEG_INFINITY);
            for (i, v) in row.iter_mut().enumerate() {
                let mut score = s.mul(s.load(v), scale);
                if !all {
                    let first = (start + i) * LANES;
                    score = s.keep(score, from.saturating_sub(first), to.saturating_sub(first));
                }
                s.store(score, v);
                top = s.max(score, top);
            }
            let top = s.largest(top);
            // A score of infinity, or none that is a number, gives what is not a number: the error shows.
            let max = if state.max > top { state.max } else { top };
            // Only a new maximum shrinks what came before; the first one finds nothing.
            state.shrink = 1.0;
            if state.max != max {
                let mut shrink = [0f32; LANES];
                s.store(exp(s, s.splat(state.max - max)), &mut shrink);
                state.shrink = shrink[0];
            }
            state.max = max;
            let max = s.splat(max);
            let mut sum = s.splat(0.0);
            for v in row {
                let weight = exp(s, s.sub(s.load(v), max));
                sum = s.add(sum, weight);
                s.store(weight, v);
            }
            state.sum = state.sum * state.shrink + s.sum(sum);
        }
    }
}

/// Adds the weighted values of the keys `from..to` of a span: `sums[row] = sums[row] · shrink + Σ weights[row][key] ·
/// values[key]`.
pub(super) struct Accumulate<'a, E, const ROWS: usize, const NP: usize> {
    pub(super) weights: &'a [f32],
    /// Values of each block, empty where none of its keys is among them.
    pub(super) values: [&'a [E]; BLOCKS],
    /// Vectors of a value.
    pub(super) vectors: usize,
    pub(super) keys: Range<usize>,
    pub(super) state: &'a [Softmax],
    pub(super) sums: &'a mut [f32],
}

impl<E: Element, const ROWS: usize, const NP: usize> Kernel for Accumulate<'_, E, ROWS, NP> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if const { !fits::<S>(ROWS * NP) } {
            unreachable!("tiles are chosen to fit");
        }
        let Self { weights, values, vectors, keys, state, sums } = self;
        assert!(weights.len() == ROWS * SPAN && sums.len() == ROWS * vectors * LANES);
        assert!(keys.start < keys.end && keys.end <= SPAN && state.len() == ROWS);
        let mut at = 0;
        while at + NP <= vectors {
            columns::<S, E, ROWS, NP>(s, weights, &values, vectors, keys.clone(), state, sums, at);
            at += NP;
        }
        while at < vectors {
            columns::<S, E, ROWS, 1>(s, weights, &values, vectors, keys.clone(), state, sums, at);
            at += 1;
        }
    }
}

/// NP vectors of columns from vector `at`.
#[inline(always)]
fn columns<S: Simd, E: Element, const ROWS: usize, const NP: usize>(
    s: S,
    weights: &[f32],
    values: &[&[E]; BLOCKS],
    vectors: usize,
    keys: Range<usize>,
    state: &[Softmax],
    out: &mut [f32],
    at: usize,
) {
    let weights = weights.as_chunks::<SPAN>().0;
    let out = out.as_chunks_mut::<LANES>().0;
    let mut sums = shrunk::<S, ROWS, NP>(s, state, out, vectors, at);
    assert!(weights.len() == ROWS && keys.end <= SPAN && at + NP <= vectors);
    for block in keys.start / BLOCK..keys.end.div_ceil(BLOCK) {
        let first = block * BLOCK;
        let values = values[block].as_chunks::<LANES>().0;
        assert!(values.len() == BLOCK * vectors);
        for key in keys.start.max(first)..keys.end.min(first + BLOCK) {
            let mut column = [s.splat(0.0); NP];
            for (p, column) in column.iter_mut().enumerate() {
                // SAFETY: key is in this block and at + p < vectors, as asserted.
                *column = E::load(s, unsafe { values.get_unchecked((key - first) * vectors + at + p) });
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: r < ROWS and key < SPAN, as asserted.
                let weight = s.splat(unsafe { *weights.get_unchecked(r).get_unchecked(key) });
                for (sum, column) in sums.iter_mut().zip(column) {
                    *sum = s.fma(weight, column, *sum);
                }
            }
        }
    }
    store(s, &sums, out, vectors, at);
}

/// The sums of NP vectors of columns from vector `at`, shrunk to what they weigh now.
#[inline(always)]
fn shrunk<S: Simd, const ROWS: usize, const NP: usize>(
    s: S,
    state: &[Softmax],
    out: &[[f32; LANES]],
    vectors: usize,
    at: usize,
) -> [[S::F; NP]; ROWS] {
    let mut sums = [[s.splat(0.0); NP]; ROWS];
    for (r, sums) in sums.iter_mut().enumerate() {
        let shrink = s.splat(state[r].shrink);
        for (p, sum) in sums.iter_mut().enumerate() {
            *sum = s.mul(s.load(&out[r * vectors + at + p]), shrink);
        }
    }
    sums
}

#[inline(always)]
fn store<S: Simd, const ROWS: usize, const NP: usize>(
    s: S,
    sums: &[[S::F; NP]; ROWS],
    out: &mut [[f32; LANES]],
    vectors: usize,
    at: usize,
) {
    for (r, sums) in sums.iter().enumerate() {
        for (p, &sum) in sums.iter().enumerate() {
            s.store(sum, &mut out[r * vectors + at + p]);
        }
    }
}
