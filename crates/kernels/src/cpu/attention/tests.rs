//! Attention through the cache against its twin, with windows, spans and several sequences; and the same bits however
//! a prompt is cut.

use crate::backend::{BLOCK, Backend, CacheSpec, CacheType, Rows, Step};
use crate::cpu::simd::Found;
use crate::cpu::testing::{close, isas, matrix, noise, staged};
use crate::cpu::{CpuBackend, CpuCache};
use crate::reference;
use proptest::prelude::*;
use std::ops::Range;

/// A text with one image span, and how it is looked at.
#[derive(Clone, Debug)]
struct Case {
    kv_heads: usize,
    shared: usize,
    dim: usize,
    len: usize,
    span: Range<usize>,
    window: Option<usize>,
    dtype: CacheType,
    /// Where prompts are cut, besides their ends.
    cuts: Vec<usize>,
    seed: u64,
}

impl Case {
    fn heads(&self) -> usize {
        self.kv_heads * self.shared
    }

    fn end(&self, position: usize) -> u32 {
        let end = if self.span.contains(&position) { self.span.end } else { position + 1 };
        end as u32
    }

    /// Ends of chunks, none inside the span.
    fn ends(&self, cuts: &[usize]) -> Vec<usize> {
        let inside = |cut: &usize| *cut > self.span.start && *cut < self.span.end;
        let mut ends: Vec<usize> = cuts.iter().copied().filter(|cut| *cut > 0 && !inside(cut)).collect();
        ends.retain(|&cut| cut < self.len);
        ends.push(self.len);
        ends.sort_unstable();
        ends.dedup();
        ends
    }

    /// The rows `range` of sequence `s` of [`Case::run`], whose blocks lie in descending order after those of others.
    fn table(&self, s: usize) -> Vec<u32> {
        let blocks = self.len.div_ceil(BLOCK);
        (0..blocks).rev().map(|b| (s * blocks + b) as u32).collect()
    }
}

fn case() -> impl Strategy<Value = Case> {
    let shape = (1usize..4, 1usize..5, prop::sample::select(vec![4usize, 8, 20, 24, 64, 72, 128]), 1usize..200);
    let look = (0usize..200, 1usize..60, prop::option::of(1usize..100), 0usize..4);
    (shape, look, prop::collection::vec(0usize..200, 0..5), 0u64..1000).prop_map(
        |((kv_heads, shared, dim, len), (start, width, window, exact), cuts, seed)| {
            let start = start % len;
            let dtype = [CacheType::F32, CacheType::BF16, CacheType::BF16Products, CacheType::F8][exact];
            Case { kv_heads, shared, dim, len, span: start..len.min(start + width), window, dtype, cuts, seed }
        },
    )
}

/// q, k, v of one sequence, `[len, (heads + 2 · kv_heads) · dim]`.
fn sequence(case: &Case, s: usize) -> Vec<f32> {
    noise(case.seed * 8 + s as u64, case.len * (case.heads() + 2 * case.kv_heads) * case.dim)
}

fn cache(backend: &CpuBackend, case: &Case, sequences: usize) -> CpuCache {
    let blocks = sequences * case.len.div_ceil(BLOCK);
    let spec = CacheSpec { layers: 2, blocks, kv_heads: case.kv_heads, head_dim: case.dim, dtype: case.dtype };
    let mut cache = backend.cache(spec).unwrap();
    // What earlier sequences left in the blocks must not be seen.
    match &mut cache.blocks {
        crate::cpu::cache::Blocks::F32(data) => data.fill(f32::NAN),
        crate::cpu::cache::Blocks::BF16(data) => data.fill(0x7FC0),
        // Not numbers, which count as 480.
        crate::cpu::cache::Blocks::F8(data) => data.fill(0x7F),
        crate::cpu::cache::Blocks::Pairs(data) => data.fill(0x7FC0_7FC0),
    }
    cache
}

/// Runs rows of several sequences as one step: stores their keys and values, then attends.
fn step(backend: &CpuBackend, case: &Case, cache: &mut CpuCache, parts: &[(usize, Range<usize>)]) -> Vec<f32> {
    let width = (case.heads() + 2 * case.kv_heads) * case.dim;
    let (mut qkv, mut step) = (Vec::new(), Step::default());
    for (s, range) in parts {
        let first = step.positions.len();
        qkv.extend_from_slice(&sequence(case, *s)[range.start * width..range.end * width]);
        step.positions.extend(range.clone().map(|p| p as u32));
        step.ends.extend(range.clone().map(|p| case.end(p)));
        step.sequences.push(Rows { rows: first..first + range.len(), table: case.table(*s) });
    }
    let rows = step.positions.len();
    let ones = backend.vector(&vec![1.0; case.dim]).unwrap();
    let freq = backend.vector(&noise(case.seed, case.dim / 2)).unwrap();
    let mut rope = backend.matrix(rows, case.dim).unwrap();
    let mut q = backend.matrix(rows, case.heads() * case.dim).unwrap();
    let mut out = backend.matrix(rows, case.heads() * case.dim).unwrap();
    let step = staged(backend, &[], &step);
    backend.rope_table(&freq, &step, &mut rope);
    let qkv = matrix(backend, &qkv, width);
    backend.qkv_rope_store(&qkv, case.heads(), &ones, &ones, 1e-6, &rope, &step, cache, 1, &mut q);
    backend.attention(&q, case.heads(), cache, 1, &step, case.window, 0.5, &mut out);
    out.as_slice().to_vec()
}

/// All of a sequence, chunk by chunk.
fn whole(backend: &CpuBackend, case: &Case, cuts: &[usize]) -> Vec<f32> {
    let mut cache = cache(backend, case, 1);
    let (mut out, mut from) = (Vec::new(), 0);
    for to in case.ends(cuts) {
        out.extend(step(backend, case, &mut cache, &[(0, from..to)]));
        from = to;
    }
    out
}

/// What the twins make of a sequence; with products in bf16 when `products16`.
fn twin(case: &Case, s: usize, products16: bool) -> Vec<f32> {
    let (heads, kv_heads, dim) = (case.heads(), case.kv_heads, case.dim);
    let positions: Vec<u32> = (0..case.len as u32).collect();
    let table = reference::rope_table(&noise(case.seed, dim / 2), &positions);
    let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
    for (row, table) in sequence(case, s).chunks_exact((heads + 2 * kv_heads) * dim).zip(table.chunks_exact(dim)) {
        for (i, head) in row.chunks_exact(dim).enumerate() {
            if i >= heads + kv_heads {
                v.extend_from_slice(head);
                continue;
            }
            let mut head = reference::rms_norm(head, &vec![1.0; dim], 1e-6);
            reference::rotate(&mut head, table);
            if i < heads { q.extend(head) } else { k.extend(head) }
        }
    }
    if case.dtype == CacheType::F8 {
        (k, v) = (reference::round_f8(&k), reference::round_f8(&v));
    } else if case.dtype != CacheType::F32 {
        (k, v) = (reference::round_bf16(&k), reference::round_bf16(&v));
    }
    if products16 {
        q = reference::round_bf16(&q);
    }
    let seen: Vec<_> = (0..case.len).map(|p| reference::visible(p as u32, case.end(p), case.window)).collect();
    reference::attention(&q, heads, &k, &v, kv_heads, dim, &seen, 0.5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn attention_matches_its_twin_in_any_chunks(case in case()) {
        for isa in isas() {
            let once = whole(&CpuBackend::with_isa(Some(1), isa), &case, &[]);
            let products16 = case.dtype == CacheType::BF16Products && Found::new(isa).products16();
            // A value on the edge of two bf16 numbers (or of 8 bits) may be rounded to the other one; with products in bf16 the softmax's
            // weights are rounded, too.
            let tolerance = match case.dtype {
                CacheType::F32 => 1e-5,
                _ if products16 => 8e-3,
                CacheType::F8 => 4e-2,
                _ => 4e-3,
            };
            close(&once, &twin(&case, 0, products16), tolerance);
            for threads in [2, 3] {
                let backend = CpuBackend::with_isa(Some(threads), isa);
                prop_assert_eq!(&whole(&backend, &case, &case.cuts), &once, "{:?} in chunks", isa);
                let ones: Vec<usize> = (0..case.len).collect();
                prop_assert_eq!(&whole(&backend, &case, &ones), &once, "{:?} token by token", isa);
            }
        }
    }

    #[test]
    fn sequences_do_not_meet(case in case()) {
        for isa in isas() {
            let backend = CpuBackend::with_isa(Some(2), isa);
            let alone: Vec<Vec<f32>> = (0..3)
                .map(|s| step(&backend, &case, &mut cache(&backend, &case, 3), &[(s, 0..case.len)]))
                .collect();
            // All prompts but a last token in one step, then the last tokens in another.
            let cut = if case.span.end == case.len { case.span.start } else { case.len - 1 };
            let mut shared = cache(&backend, &case, 3);
            let width = case.heads() * case.dim;
            for range in [0..cut, cut..case.len] {
                if range.is_empty() {
                    continue;
                }
                let together = step(&backend, &case, &mut shared, &[0, 2, 1].map(|s| (s, range.clone())));
                for (ours, s) in together.chunks_exact(range.len() * width).zip([0, 2, 1]) {
                    prop_assert_eq!(ours, &alone[s][range.start * width..range.end * width], "{:?}", isa);
                }
            }
        }
    }
}

/// Blocks that left the window may be gone.
#[test]
fn blocks_before_the_window_are_never_read() {
    let case = Case {
        kv_heads: 2,
        shared: 2,
        dim: 16,
        len: 150,
        span: 0..0,
        window: Some(40),
        dtype: CacheType::F32,
        cuts: vec![],
        seed: 3,
    };
    for isa in isas() {
        let backend = CpuBackend::with_isa(Some(2), isa);
        let expected = whole(&backend, &case, &[]);
        let mut cache = cache(&backend, &case, 1);
        step(&backend, &case, &mut cache, &[(0, 0..149)]);
        let (width, heads) = ((case.heads() + 2 * case.kv_heads) * case.dim, case.heads());
        let mut table = case.table(0);
        // The last token sees keys 110..150: blocks 3 and 4.
        table[..3].fill(u32::MAX);
        let last = Step { positions: vec![149], ends: vec![150], sequences: vec![Rows { rows: 0..1, table }] };
        let last = staged(&backend, &[], &last);
        let qkv = matrix(&backend, &sequence(&case, 0)[149 * width..], width);
        let ones = backend.vector(&[1.0; 16]).unwrap();
        let mut rope = backend.matrix(1, 16).unwrap();
        backend.rope_table(&backend.vector(&noise(3, 8)).unwrap(), &last, &mut rope);
        let (mut q, mut out) = (backend.matrix(1, heads * 16).unwrap(), backend.matrix(1, heads * 16).unwrap());
        backend.qkv_rope_store(&qkv, heads, &ones, &ones, 1e-6, &rope, &last, &mut cache, 1, &mut q);
        backend.attention(&q, heads, &cache, 1, &last, case.window, 0.5, &mut out);
        assert_eq!(out.as_slice(), &expected[149 * heads * 16..]);
    }
}

/// Scores far apart: the maximum moves by more than the exponent holds, and weights vanish.
#[test]
fn extreme_scores_stay_finite() {
    let backend = CpuBackend::new(Some(1));
    let spec = CacheSpec { layers: 1, blocks: 3, kv_heads: 1, head_dim: 16, dtype: CacheType::F32 };
    let mut cache = backend.cache(spec).unwrap();
    let len = 70;
    let row = |p: usize| {
        let mut row = [0f32; 48];
        row[0] = 1.0;
        // Keys rise steeply to position 40 and then fall; values count positions.
        row[16] = if p <= 40 { p as f32 * 200.0 } else { -1e30 };
        row[32] = p as f32;
        row
    };
    let qkv: Vec<f32> = (0..len).flat_map(row).collect();
    let step = Step {
        positions: (0..len as u32).collect(),
        ends: (1..=len as u32).collect(),
        sequences: vec![Rows { rows: 0..len, table: vec![2, 1, 0] }],
    };
    let step = staged(&backend, &[], &step);
    let (mut q, mut out) = (backend.matrix(len, 16).unwrap(), backend.matrix(len, 16).unwrap());
    backend.qkv_store(&matrix(&backend, &qkv, 48), &step, &mut cache, 0, &mut q);
    backend.attention(&q, 1, &cache, 0, &step, None, 1.0, &mut out);
    for p in 0..len {
        assert_eq!(out.row(p)[0], p.min(40) as f32);
    }
}
