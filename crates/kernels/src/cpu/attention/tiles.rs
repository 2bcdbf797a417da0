//! Attention in bf16 by AMX: tiles of 16 queries meet keys and values as the cache of pairs holds them.
//!
//! A span's scores are written row after row, turned into weights there, and the weights multiplied with the values. Of
//! keys that nobody in the tile sees, values count as zeros: whatever lies there may be anything.
#![allow(unsafe_code)]

use super::kernels::{BLOCKS, SPAN};
use super::{Sight, TASK, TileOf, union};
use crate::backend::BLOCK;
use crate::cpu::math::exp2_bf16;
use crate::cpu::memory::Parts;
use crate::cpu::simd::{Avx512, LANES, Products16, Simd, amx};
use std::ops::Range;

/// Queries of a tile.
const ROWS: usize = 16;
/// Elements of a head, or keys, of one instruction.
const STEP: usize = 32;
/// Vectors of a span.
const VECTORS: usize = SPAN / LANES;
const _: () = assert!(TASK.is_multiple_of(ROWS) && BLOCK == STEP && STEP == 2 * LANES);

/// Elements of a head at most, so that a block of values fits into the scratch memory.
pub(super) const WIDEST: usize = 512;

/// Scores of a tile, and what becomes of them.
#[repr(align(64))]
struct Scores([[f32; SPAN]; ROWS]);

/// Weights of a tile, in pairs of keys.
#[repr(align(64))]
struct Weights([[u32; SPAN / 2]; ROWS]);

/// Attention of the queries of a tile, of heads no wider than [`WIDEST`].
pub(super) fn run(tile: &TileOf<'_>, data: &[u32], scratch: &mut [f32], out: &Parts<'_, f32>) {
    assert!(tile.layout.padded <= WIDEST);
    tile.isa.run_amx(Task { tile, data, scratch, out });
}

struct Task<'a> {
    tile: &'a TileOf<'a>,
    data: &'a [u32],
    scratch: &'a mut [f32],
    out: &'a Parts<'a, f32>,
}

impl amx::Kernel for Task<'_> {
    #[inline(always)]
    fn run(self, s: Avx512<true>) {
        let Self { tile, data, scratch, out } = self;
        let (dim, padded, count) = (tile.layout.head_dim, tile.layout.padded, tile.count());
        let (q, rest) = scratch.split_at_mut(TASK * dim / 2);
        let (copied, rest) = rest.split_at_mut(TASK * SPAN);
        let sums = &mut rest[..TASK * padded];
        let q = pack(s, tile, q);
        sums.fill(0.0);
        let mut states = [State::NEW; TASK / ROWS];
        let (mut scores, mut weights) = (Scores([[0.0; SPAN]; ROWS]), Weights([[0; SPAN / 2]; ROWS]));
        let shape = shape(dim);
        // SAFETY: there is AMX.
        unsafe { shape.set() };
        let sight = Sight::of(tile);
        for span in sight.spans() {
            let mut inside = sight.inside(span);
            let Some(all) = union(&inside) else { continue };
            let [keys, values] = tile.blocks(data, 2, span, all);
            for (i, first) in (0..count).step_by(ROWS).enumerate() {
                // Rows without a query do as the last one does, so that they call for nothing special.
                let inside = &mut inside[first..first + ROWS];
                let rows = ROWS.min(count - first);
                let last = inside[rows - 1];
                inside[rows..].fill(last);
                let Some(seen) = union(inside) else { continue };
                let blocks = seen.start / BLOCK..seen.end.div_ceil(BLOCK);
                score(&q[first * dim / 2..][..ROWS * dim / 2], dim, &keys, blocks.clone(), &mut scores);
                let scale = tile.queries.scale * std::f32::consts::LOG2_E;
                let shrink = weigh(s, &mut scores, &mut weights, blocks.clone(), inside, scale, &mut states[i]);
                let sums = &mut sums[first * padded..][..ROWS * padded];
                if let Some(shrink) = shrink {
                    for (sums, factor) in sums.chunks_exact_mut(padded).zip(shrink) {
                        for sums in sums.as_chunks_mut::<LANES>().0 {
                            s.store(s.mul(s.load(sums), s.splat(factor)), sums);
                        }
                    }
                }
                for block in blocks {
                    let first = block * BLOCK;
                    let part = seen.start.max(first) - first..seen.end.min(first + BLOCK) - first;
                    let values = clean(values[block], part, padded, copied);
                    accumulate(&weights, block, values, padded, sums);
                }
            }
        }
        for i in 0..count {
            let total = states[i / ROWS].sum[i % ROWS];
            let to = tile.at(i).1;
            // SAFETY: each query of the step is in one tile.
            let out = unsafe { out.part(to..to + dim) };
            for (out, sum) in out.iter_mut().zip(&sums[i * padded..]) {
                // A query that sees nothing gets zeros.
                *out = if total == 0.0 { 0.0 } else { sum / total };
            }
        }
    }
}

/// The softmax of 16 queries as far as it has come.
#[derive(Clone, Copy)]
struct State {
    /// The largest scores so far.
    max: [f32; ROWS],
    /// The sums of weights, relative to them.
    sum: [f32; ROWS],
}

impl State {
    const NEW: Self = Self { max: [f32::NEG_INFINITY; ROWS], sum: [0.0; ROWS] };
}

/// Rounds the queries: pairs `[query][head_dim / 2]`, in the room of f32.
#[inline(always)]
fn pack<'a>(s: Avx512<true>, tile: &TileOf<'_>, q: &'a mut [f32]) -> &'a [f32] {
    let dim = tile.layout.head_dim;
    q.fill(0.0);
    for (i, q) in q.chunks_exact_mut(dim / 2).take(tile.count()).enumerate() {
        let query = &tile.queries.q[tile.at(i).1..][..dim];
        for (values, q) in query.chunks(LANES).zip(q.chunks_mut(LANES / 2)) {
            let mut lanes = [0f32; LANES];
            lanes[..values.len()].copy_from_slice(values);
            for (q, pair) in q.iter_mut().zip(s.to_pairs(s.load(&lanes))) {
                *q = f32::from_bits(pair);
            }
        }
    }
    q
}

/// Tiles: sums 0 and 1, what is on the left 2, on the right 3 and 4; and for what [`STEP`] leaves of a head 5 on the left,
/// 6 and 7 on the right.
fn shape(dim: usize) -> amx::Shape {
    let rest = dim % STEP;
    if rest == 0 {
        return amx::Shape::new();
    }
    amx::Shape::new().with(5, ROWS, 2 * rest).with(6, rest / 2, 64).with(7, rest / 2, 64)
}

/// Scores of 16 queries and the keys of `blocks`, not scaled.
#[inline(always)]
fn score(q: &[f32], dim: usize, keys: &[&[u32]; BLOCKS], blocks: Range<usize>, scores: &mut Scores) {
    let (steps, rest) = (dim / STEP, !dim.is_multiple_of(STEP));
    assert!(q.len() == ROWS * dim / 2);
    for block in blocks {
        let keys = keys[block];
        assert!(keys.len() == dim / 2 * BLOCK);
        // Keys lie pair after pair of elements, 32 side by side: two tiles.
        let right = |step: usize, half: usize| keys[step * STEP / 2 * BLOCK + half * LANES..].as_ptr().cast::<u8>();
        let left = |step: usize| q[step * STEP / 2..].as_ptr().cast::<u8>();
        // SAFETY: shapes are set for `dim`; the tiles lie inside `q` and `keys`, and the sums in a block's columns of the
        // scores.
        unsafe {
            amx::zero::<0>();
            amx::zero::<1>();
            for step in 0..steps {
                amx::load::<2>(left(step), 2 * dim);
                amx::load::<3>(right(step, 0), 4 * BLOCK);
                amx::dot16::<0, 2, 3>();
                amx::load::<4>(right(step, 1), 4 * BLOCK);
                amx::dot16::<1, 2, 4>();
            }
            if rest {
                amx::load::<5>(left(steps), 2 * dim);
                amx::load::<6>(right(steps, 0), 4 * BLOCK);
                amx::dot16::<0, 5, 6>();
                amx::load::<7>(right(steps, 1), 4 * BLOCK);
                amx::dot16::<1, 5, 7>();
            }
            let to = scores.0.as_flattened_mut();
            amx::store_rows::<0>(to[block * BLOCK..].as_mut_ptr(), 4 * SPAN);
            amx::store_rows::<1>(to[block * BLOCK + LANES..].as_mut_ptr(), 4 * SPAN);
        }
    }
}

/// Turns scores of `blocks` into weights relative to the largest of each query. Gives what the values summed before have to
/// be multiplied by, if any has.
#[inline(always)]
fn weigh(
    s: Avx512<true>,
    scores: &mut Scores,
    weights: &mut Weights,
    blocks: Range<usize>,
    inside: &[(u8, u8)],
    scale: f32,
    state: &mut State,
) -> Option<[f32; ROWS]> {
    let vectors = blocks.start * 2..blocks.end * 2;
    assert!(vectors.end <= VECTORS && inside.len() == ROWS);
    let mut top = state.max;
    for ((scores, &(from, to)), top) in scores.0.iter_mut().zip(inside).zip(&mut top) {
        let scores = &mut scores.as_chunks_mut::<LANES>().0[vectors.clone()];
        let (from, to) = (usize::from(from), usize::from(to));
        if from > vectors.start * LANES || to < vectors.end * LANES {
            for (v, scores) in vectors.clone().zip(&mut *scores) {
                let at = |key: usize| key.saturating_sub(v * LANES).min(LANES);
                s.store(s.keep(s.load(scores), at(from), at(to)), scores);
            }
        }
        let mut max = s.splat(*top);
        for scores in scores {
            max = s.max(s.load(scores), max);
        }
        *top = s.largest(max);
    }
    // A query that has seen nothing yet has no maximum to stand back from.
    let base = s.max(s.load(&top), s.splat(f32::MIN));
    let (mut bases, mut shrink, mut added) = ([0f32; ROWS], [0f32; ROWS], [0f32; ROWS]);
    s.store(base, &mut bases);
    let scale = s.splat(scale);
    for (((scores, weights), &base), added) in scores.0.iter().zip(&mut weights.0).zip(&bases).zip(&mut added) {
        let scores = &scores.as_chunks::<LANES>().0[vectors.clone()];
        let weights = &mut weights.as_chunks_mut::<{ LANES / 2 }>().0[vectors.clone()];
        let base = s.splat(base);
        let mut sum = s.splat(0.0);
        for (scores, weights) in scores.iter().zip(weights) {
            let weight = exp2_bf16(s, s.mul(s.sub(s.load(scores), base), scale));
            sum = s.add(sum, weight);
            *weights = s.to_pairs(weight);
        }
        *added = s.sum(sum);
    }
    let factor = exp2_bf16(s, s.mul(s.sub(s.load(&state.max), base), scale));
    s.store(factor, &mut shrink);
    s.store(s.fma(s.load(&state.sum), factor, s.load(&added)), &mut state.sum);
    state.max = top;
    (s.largest(s.sub(s.splat(1.0), factor)) > 0.0).then_some(shrink)
}

/// A block's values, `[pair of keys][padded]`, those of keys outside of `part` zeros.
#[inline(always)]
fn clean<'a>(values: &'a [u32], part: Range<usize>, padded: usize, room: &'a mut [f32]) -> &'a [u32] {
    if part == (0..BLOCK) {
        return values;
    }
    // SAFETY: as large and as aligned; any bits are numbers of both types.
    let room = unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast::<u32>(), room.len()) };
    let room = &mut room[..values.len()];
    for (pair, (from, to)) in values.chunks_exact(padded).zip(room.chunks_exact_mut(padded)).enumerate() {
        let half = |key: usize, mask: u32| if part.contains(&key) { mask } else { 0 };
        let mask = half(2 * pair, 0x0000_FFFF) | half(2 * pair + 1, 0xFFFF_0000);
        for (to, from) in to.iter_mut().zip(from) {
            *to = from & mask;
        }
    }
    room
}

/// Adds a block's weighted values to `sums`, `[query][padded]`.
#[inline(always)]
fn accumulate(weights: &Weights, block: usize, values: &[u32], padded: usize, sums: &mut [f32]) {
    assert!(values.len() == BLOCK / 2 * padded && sums.len() == ROWS * padded && block < BLOCKS);
    let left = weights.0.as_flattened()[block * BLOCK / 2..].as_ptr().cast::<u8>();
    let right = |column: usize| values[column..].as_ptr().cast::<u8>();
    // SAFETY: shapes are set; tiles of 16 columns lie inside values and sums, whose rows have whole vectors.
    unsafe {
        amx::load::<2>(left, 2 * SPAN);
        for column in (0..padded).step_by(2 * LANES) {
            let second = column + LANES < padded;
            let at = sums[column..].as_mut_ptr();
            amx::load::<0>(at.cast(), 4 * padded);
            amx::load::<3>(right(column), 4 * padded);
            amx::dot16::<0, 2, 3>();
            if second {
                amx::load::<1>(at.add(LANES).cast(), 4 * padded);
                amx::load::<4>(right(column + LANES), 4 * padded);
                amx::dot16::<1, 2, 4>();
            }
            amx::store_rows::<0>(at, 4 * padded);
            if second {
                amx::store_rows::<1>(at.add(LANES), 4 * padded);
            }
        }
    }
}
