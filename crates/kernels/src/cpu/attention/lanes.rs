//! Attention in bf16, with a query in each lane: keys and values are broadcast, so that no lane is left over whatever
//! the heads' width, and the softmax needs no sums across lanes.
#![allow(unsafe_code)]

use super::kernels::{BLOCKS, SPAN};
use super::{Sight, TASK, TileOf, union};
use crate::backend::BLOCK;
use crate::cpu::math::exp2_bf16;
use crate::cpu::memory::Parts;
use crate::cpu::simd::{Kernel16, LANES, Products16};
use std::ops::Range;

/// Vectors of queries that are taken through a span together, at most.
const VECTORS: usize = 3;
/// Keys, or elements of a value, that are multiplied side by side: so many times [`VECTORS`] sums fill the registers.
const SIDE: usize = 8;
const _: () = assert!(BLOCK.is_multiple_of(SIDE) && LANES.is_multiple_of(SIDE) && TASK.is_multiple_of(VECTORS * LANES));

/// Attention of the queries of `tile`.
pub(super) fn run(tile: &TileOf<'_>, data: &[u32], scratch: &mut [f32], out: &Parts<'_, f32>) {
    let (dim, padded) = (tile.layout.head_dim, tile.layout.padded);
    let (q, rest) = scratch.split_at_mut(TASK * dim / 2);
    let (scores, rest) = rest.split_at_mut(VECTORS * LANES * SPAN);
    let sums = &mut rest[..TASK * padded];
    let mut states = [State::NEW; TASK / LANES];
    let groups = || {
        (0..tile.count()).step_by(VECTORS * LANES).map(|first| {
            let count = tile.count().min(first + VECTORS * LANES) - first;
            Group { first, count, vectors: count.div_ceil(LANES) }
        })
    };
    for group in groups() {
        tile.isa.run16(Pack { tile, group, q: &mut q[group.part(dim / 2)] });
        sums[group.part(padded)].fill(0.0);
    }
    let sight = Sight::of(tile);
    for span in sight.spans() {
        let mut inside = sight.inside(span);
        let Some(all) = union(&inside) else { continue };
        let [keys, values] = tile.blocks(data, 2, span, all);
        for group in groups() {
            // Lanes without a query do as the last one does, so that they call for nothing special.
            let lanes = group.first..group.first + group.vectors * LANES;
            let inside = &mut inside[lanes.clone()];
            let last = inside[group.count - 1];
            inside[group.count..].fill(last);
            let Some(seen) = union(inside) else { continue };
            let call = Call {
                q: &q[group.part(dim / 2)],
                keys,
                values,
                padded,
                scores: &mut scores[..group.vectors * LANES * SPAN],
                sums: &mut sums[group.part(padded)],
                scale: tile.queries.scale * std::f32::consts::LOG2_E,
                inside,
                seen,
                states: &mut states[lanes.start / LANES..lanes.end / LANES],
            };
            match group.vectors {
                1 => tile.isa.run16(Span::<1>(call)),
                2 => tile.isa.run16(Span::<2>(call)),
                _ => tile.isa.run16(Span::<VECTORS>(call)),
            }
        }
    }
    for group in groups() {
        let sums = &sums[group.part(padded)];
        for i in 0..group.count {
            let total = states[(group.first + i) / LANES].sum[i % LANES];
            let to = tile.at(group.first + i).1;
            // SAFETY: each query of the step is in one tile.
            let out = unsafe { out.part(to..to + dim) };
            for (out, sums) in out.iter_mut().zip(sums.chunks_exact(group.vectors * LANES)) {
                // A query that sees nothing gets zeros.
                *out = if total == 0.0 { 0.0 } else { sums[i] / total };
            }
        }
    }
}

/// Queries of a task that are taken through a span together.
#[derive(Clone, Copy)]
struct Group {
    first: usize,
    count: usize,
    vectors: usize,
}

impl Group {
    /// Where its part lies in the memory of all groups that has `each` elements for a query.
    fn part(self, each: usize) -> Range<usize> {
        self.first * each..(self.first + self.vectors * LANES) * each
    }
}

/// The softmax of 16 queries as far as it has come.
#[derive(Clone, Copy)]
struct State {
    /// The largest scores so far.
    max: [f32; LANES],
    /// The sums of weights, relative to them.
    sum: [f32; LANES],
}

impl State {
    const NEW: Self = Self { max: [f32::NEG_INFINITY; LANES], sum: [0.0; LANES] };
}

/// Rounds the queries of a group: pairs `[head_dim / 2][query]`, in the room of f32.
struct Pack<'a> {
    tile: &'a TileOf<'a>,
    group: Group,
    q: &'a mut [f32],
}

impl Kernel16 for Pack<'_> {
    #[inline(always)]
    fn run<S: Products16>(self, s: S) {
        let Self { tile, group, q } = self;
        let (dim, width) = (tile.layout.head_dim, group.vectors * LANES);
        q.fill(0.0);
        for i in 0..group.count {
            let query = &tile.queries.q[tile.at(group.first + i).1..][..dim];
            for (part, values) in query.chunks(LANES).enumerate() {
                let mut lanes = [0f32; LANES];
                lanes[..values.len()].copy_from_slice(values);
                let pairs = s.to_pairs(s.load(&lanes));
                for (j, &pair) in pairs[..values.len() / 2].iter().enumerate() {
                    q[(part * LANES / 2 + j) * width + i] = f32::from_bits(pair);
                }
            }
        }
    }
}

/// One span of the cache for one group of queries; blocks that no query of the task sees are empty.
struct Call<'a> {
    q: &'a [f32],
    keys: [&'a [u32]; BLOCKS],
    values: [&'a [u32]; BLOCKS],
    /// Elements of a value as it is held.
    padded: usize,
    /// `[key][query]`; then weights in pairs of keys.
    scores: &'a mut [f32],
    /// `[element][query]`.
    sums: &'a mut [f32],
    /// What scores are multiplied by, for powers of two.
    scale: f32,
    inside: &'a [(u8, u8)],
    /// Keys that any of them sees.
    seen: Range<usize>,
    states: &'a mut [State],
}

/// Takes NV vectors of queries through a span.
struct Span<'a, const NV: usize>(Call<'a>);

impl<const NV: usize> Kernel16 for Span<'_, NV> {
    #[inline(always)]
    fn run<S: Products16>(self, s: S) {
        let Call { q, keys, values, padded, scores, sums, scale, inside, seen, states } = self.0;
        let scores = scores.as_chunks_mut::<LANES>().0.as_chunks_mut::<NV>().0;
        let blocks = seen.start / BLOCK..seen.end.div_ceil(BLOCK);
        let (mut from, mut to) = ([[0f32; LANES]; NV], [[0f32; LANES]; NV]);
        for (i, &(first, end)) in inside.iter().enumerate() {
            (from[i / LANES][i % LANES], to[i / LANES][i % LANES]) = (first.into(), end.into());
        }
        let part = |&(first, end): &(u8, u8)| {
            usize::from(first) > blocks.start * BLOCK || usize::from(end) < blocks.end * BLOCK
        };
        let limits = if inside.iter().any(part) { Some([&from, &to]) } else { None };

        let mut top = [s.splat(0.0); NV];
        for (top, state) in top.iter_mut().zip(&*states) {
            *top = s.load(&state.max);
        }
        let q = q.as_chunks::<LANES>().0.as_chunks::<NV>().0;
        for block in blocks.clone() {
            score::<S, NV>(s, q, keys[block], block, limits, &mut scores[block * BLOCK..][..BLOCK], &mut top);
        }
        let shrink = weigh::<S, NV>(s, &mut scores[blocks.start * BLOCK..blocks.end * BLOCK], scale, &top, states);
        let weights = &scores[..];
        let sums = sums.as_chunks_mut::<LANES>().0.as_chunks_mut::<NV>().0;
        for (side, sums) in sums.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
            accumulate::<S, NV>(s, weights, &values, padded, side * SIDE, &seen, &shrink, sums);
        }
    }
}

/// Pairs that lie in the room of f32.
#[inline(always)]
fn bits(pairs: &[f32; LANES]) -> &[u32; LANES] {
    // SAFETY: as large and as aligned; any bits are numbers of both types.
    unsafe { &*std::ptr::from_ref(pairs).cast() }
}

/// Pairs of NV vectors of queries.
#[inline(always)]
fn columns<S: Products16, const NV: usize>(s: S, pairs: &[[f32; LANES]; NV]) -> [S::Pairs; NV] {
    let mut columns = [s.load_pairs(bits(&pairs[0])); NV];
    // Counted, so that it is unrolled: the vectors stay in registers.
    #[allow(clippy::needless_range_loop)]
    for v in 1..NV {
        columns[v] = s.load_pairs(bits(&pairs[v]));
    }
    columns
}

/// Scores of a block's keys, `[key][query]`; -∞ for keys outside of `limits`. Raises `top` to the largest ones.
#[inline(always)]
fn score<S: Products16, const NV: usize>(
    s: S,
    q: &[[[f32; LANES]; NV]],
    keys: &[u32],
    block: usize,
    limits: Option<[&[[f32; LANES]; NV]; 2]>,
    out: &mut [[[f32; LANES]; NV]],
    top: &mut [S::F; NV],
) {
    let keys = keys.as_chunks::<BLOCK>().0;
    for (part, out) in out.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
        let mut sums = [[s.splat(0.0); NV]; SIDE];
        for (q, keys) in q.iter().zip(keys) {
            let keys = &keys.as_chunks::<SIDE>().0[part];
            let column = columns(s, q);
            for (sums, &key) in sums.iter_mut().zip(keys) {
                for (sum, column) in sums.iter_mut().zip(column) {
                    *sum = s.dot16(*sum, column, key);
                }
            }
        }
        for (i, (sums, out)) in sums.iter().zip(out).enumerate() {
            for (v, (&sum, out)) in sums.iter().zip(out).enumerate() {
                let mut score = sum;
                if let Some([from, to]) = limits {
                    let at = s.splat((block * BLOCK + part * SIDE + i) as f32);
                    score = s.keep_between(score, at, s.load(&from[v]), s.load(&to[v]));
                }
                s.store(score, out);
                top[v] = s.max(score, top[v]);
            }
        }
    }
}

/// Turns scores into weights relative to the maxima `top`, pairs of keys where the first key's score was. Gives what
/// the values summed before have to be multiplied by, if any has.
#[inline(always)]
fn weigh<S: Products16, const NV: usize>(
    s: S,
    scores: &mut [[[f32; LANES]; NV]],
    scale: f32,
    top: &[S::F; NV],
    states: &mut [State],
) -> Option<[[f32; LANES]; NV]> {
    let scale = s.splat(scale);
    let mut shrink = [[1f32; LANES]; NV];
    let mut shrunk = false;
    for v in 0..NV {
        // A query that has seen nothing yet has no maximum to stand back from.
        let base = s.max(top[v], s.splat(f32::MIN));
        let mut sum = s.splat(0.0);
        for pair in scores.as_chunks_mut::<2>().0 {
            let first = exp2_bf16(s, s.mul(s.sub(s.load(&pair[0][v]), base), scale));
            let second = exp2_bf16(s, s.mul(s.sub(s.load(&pair[1][v]), base), scale));
            sum = s.add(sum, s.add(first, second));
            pair[0][v] = s.zip_pairs(first, second).map(f32::from_bits);
        }
        let state = &mut states[v];
        let factor = exp2_bf16(s, s.mul(s.sub(s.load(&state.max), base), scale));
        s.store(factor, &mut shrink[v]);
        shrunk |= s.largest(s.sub(s.splat(1.0), factor)) > 0.0;
        s.store(s.fma(s.load(&state.sum), factor, sum), &mut state.sum);
        s.store(top[v], &mut state.max);
    }
    shrunk.then_some(shrink)
}

/// Adds the weighted values of a pair of keys; those bits of them that are not in `mask` are nothing where MASKED.
#[inline(always)]
fn add_pair<S: Products16, const NV: usize, const MASKED: bool>(
    s: S,
    weights: &[[f32; LANES]; NV],
    values: &[u32],
    mask: u32,
    sums: &mut [[S::F; NV]; SIDE],
) {
    let column = columns(s, weights);
    for (sums, &value) in sums.iter_mut().zip(values) {
        let value = if MASKED { value & mask } else { value };
        for (sum, column) in sums.iter_mut().zip(column) {
            *sum = s.dot16(*sum, column, value);
        }
    }
}

/// Adds the weighted values of the keys `seen` to the sums of [`SIDE`] of their elements from element `at`.
#[inline(always)]
fn accumulate<S: Products16, const NV: usize>(
    s: S,
    weights: &[[[f32; LANES]; NV]],
    values: &[&[u32]; BLOCKS],
    padded: usize,
    at: usize,
    seen: &Range<usize>,
    shrink: &Option<[[f32; LANES]; NV]>,
    out: &mut [[[f32; LANES]; NV]; SIDE],
) {
    assert!(weights.len() == SPAN && seen.end <= SPAN && at + SIDE <= padded);
    let mut sums = [[s.splat(0.0); NV]; SIDE];
    for (sums, out) in sums.iter_mut().zip(&*out) {
        for (v, (sum, out)) in sums.iter_mut().zip(out).enumerate() {
            *sum = s.load(out);
            if let Some(shrink) = shrink {
                *sum = s.mul(*sum, s.load(&shrink[v]));
            }
        }
    }
    for block in seen.start / BLOCK..seen.end.div_ceil(BLOCK) {
        let first = block * BLOCK;
        let values = values[block];
        assert!(values.len() == BLOCK / 2 * padded);
        let (from, to) = (seen.start.max(first) - first, seen.end.min(first + BLOCK) - first);
        let weights = &weights[first..first + BLOCK];
        // Of a pair with one key in sight, the other may never have been written: whatever lies there weighs nothing.
        if from % 2 == 1 {
            let value = &values[from / 2 * padded + at..][..SIDE];
            add_pair::<S, NV, true>(s, &weights[from - 1], value, 0xFFFF_0000, &mut sums);
        }
        let (whole, end) = (from.div_ceil(2), to / 2);
        let weights_of_whole = weights[2 * whole..].as_chunks::<2>().0;
        let values_of_whole = values[whole * padded..].chunks_exact(padded);
        for (weights, values) in weights_of_whole.iter().zip(values_of_whole).take(end - whole) {
            // SAFETY: at + SIDE <= padded (asserted), which is the length of each.
            let values = unsafe { values.get_unchecked(at..at + SIDE) };
            add_pair::<S, NV, false>(s, &weights[0], values, 0, &mut sums);
        }
        if to % 2 == 1 {
            let value = &values[to / 2 * padded + at..][..SIDE];
            add_pair::<S, NV, true>(s, &weights[to - 1], value, 0x0000_FFFF, &mut sums);
        }
    }
    for (sums, out) in sums.iter().zip(out) {
        for (&sum, out) in sums.iter().zip(out) {
            s.store(sum, out);
        }
    }
}
