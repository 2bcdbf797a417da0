//! Softmax attention over the cache, tile by tile of [`BLOCK`] keys.
#![allow(unsafe_code)]

use super::cache::{Blocks, CpuCache, Element, Layout};
use super::memory::Parts;
use super::pool::Pool;
use crate::backend::{BLOCK, Step};
use std::ops::Range;

/// The queries of a step, and how they look at the cache.
pub(crate) struct Queries<'a> {
    pub(crate) q: &'a [f32],
    pub(crate) heads: usize,
    pub(crate) layer: usize,
    pub(crate) step: &'a Step,
    pub(crate) window: Option<usize>,
    pub(crate) scale: f32,
}

/// Keys that row `row` of the step sees.
fn visible(step: &Step, row: usize, window: Option<usize>) -> Range<usize> {
    let (start, end) = step.visible[row];
    let lo = match window {
        None => 0,
        Some(window) => (start as usize).min((step.positions[row] as usize + 1).saturating_sub(window)),
    };
    lo..end as usize
}

/// Attention of every query of the step.
pub(crate) fn attention(pool: &Pool, queries: &Queries<'_>, cache: &CpuCache, out: &mut [f32]) {
    let layout = cache.layout();
    let out = Parts::new(out);
    for sequence in &queries.step.sequences {
        pool.run(sequence.rows.len() * queries.heads, &|task, _| {
            let (row, head) = (sequence.rows.start + task / queries.heads, task % queries.heads);
            let at = (row * queries.heads + head) * layout.head_dim;
            // SAFETY: each (row, head) is one task.
            let out = unsafe { out.part(at..at + layout.head_dim) };
            match &cache.blocks {
                Blocks::F32(data) => one(queries, data, &layout, &sequence.table, row, head, out),
                Blocks::BF16(data) => one(queries, data, &layout, &sequence.table, row, head, out),
            }
        });
    }
}

/// One query: online softmax over its tiles in order.
fn one<E: Element>(
    queries: &Queries<'_>,
    data: &[E],
    layout: &Layout,
    table: &[u32],
    row: usize,
    head: usize,
    out: &mut [f32],
) {
    let dim = layout.head_dim;
    let q = &queries.q[(row * queries.heads + head) * dim..][..dim];
    let kv_head = head / (queries.heads / layout.kv_heads);
    let seen = visible(queries.step, row, queries.window);
    let (mut max, mut sum) = (f32::NEG_INFINITY, 0f32);
    out.fill(0.0);
    for tile in seen.start / BLOCK..seen.end.div_ceil(BLOCK) {
        let block = table[tile] as usize;
        let keys = &data[layout.keys(block, queries.layer, kv_head)..][..dim * BLOCK];
        let values = &data[layout.values(block, queries.layer, kv_head)..][..layout.padded * BLOCK];
        let mut scores = [0f32; BLOCK];
        for (&q, keys) in q.iter().zip(keys.chunks_exact(BLOCK)) {
            for (score, key) in scores.iter_mut().zip(keys) {
                *score += q * key.decode();
            }
        }
        let mut top = max;
        for (slot, score) in scores.iter_mut().enumerate() {
            let key = tile * BLOCK + slot;
            *score = if seen.contains(&key) { *score * queries.scale } else { f32::NEG_INFINITY };
            top = top.max(*score);
        }
        if top == f32::NEG_INFINITY {
            continue;
        }
        let shrink = (max - top).exp();
        max = top;
        sum *= shrink;
        out.iter_mut().for_each(|out| *out *= shrink);
        for (&score, values) in scores.iter().zip(values.chunks_exact(layout.padded)) {
            let weight = (score - max).exp();
            // A masked key weighs nothing, whatever is left in its slot.
            if weight > 0.0 {
                sum += weight;
                for (out, value) in out.iter_mut().zip(values) {
                    *out += weight * value.decode();
                }
            }
        }
    }
    // A query that sees nothing gets zeros.
    if sum > 0.0 {
        out.iter_mut().for_each(|out| *out /= sum);
    }
}
