//! Operations allocate nothing: all memory is taken when weights, matrices and caches are made.
#![allow(unsafe_code)]

use medgemma_kernels::{BLOCK, Backend, CacheSpec, CacheType, CpuBackend, Rows, Step, WeightFormat};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ROWS: usize = 40;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 32;
const HIDDEN: usize = 128;

#[test]
fn operations_allocate_nothing() {
    let backend = CpuBackend::new(Some(2));
    let values = vec![0.01f32; 4 * HIDDEN * HIDDEN];
    let weights: Vec<_> =
        [WeightFormat::F32, WeightFormat::BF16, WeightFormat::Q8, WeightFormat::Q4, WeightFormat::Nf4]
            .map(|format| backend.weight_f32(&values, 4 * HIDDEN, HIDDEN, format).unwrap())
            .into();
    let matrix = |cols| backend.matrix(ROWS, cols).unwrap();
    let (mut x, mut normed, mut wide, mut half) =
        (matrix(HIDDEN), matrix(HIDDEN), matrix(4 * HIDDEN), matrix(2 * HIDDEN));
    let (mut all, mut qkv) = (matrix((HEADS + 2 * KV_HEADS) * DIM), matrix((HEADS + 2 * KV_HEADS) * DIM));
    let (mut q, mut seen, mut rope) = (matrix(HEADS * DIM), matrix(HEADS * DIM), matrix(DIM));
    let (norm, head_norm) = (backend.vector(&[1.0; HIDDEN]).unwrap(), backend.vector(&[1.0; DIM]).unwrap());
    let (bias, freq) = (backend.vector(&[0.5; 4 * HIDDEN]).unwrap(), backend.vector(&[0.1; DIM / 2]).unwrap());
    let spec = CacheSpec { layers: 1, blocks: 4, kv_heads: KV_HEADS, head_dim: DIM, dtype: CacheType::F32 };
    let mut cache = backend.cache(spec).unwrap();
    let steps = [1, ROWS].map(|rows| Step {
        positions: (0..rows as u32).collect(),
        ends: (1..=rows as u32).collect(),
        sequences: vec![Rows { rows: 0..rows, table: (0..rows.div_ceil(BLOCK) as u32).collect() }],
    });
    let mut staged = backend.staged().unwrap();
    let ids: Vec<u32> = (0..ROWS as u32).collect();
    backend.upload(&vec![0.5; ROWS * (HEADS + 2 * KV_HEADS) * DIM], &mut all);

    let mut pass = || {
        for step in &steps {
            let rows = step.positions.len();
            backend.stage(&ids[..rows], step, &mut staged);
            for weight in &weights {
                backend.embed(weight, &staged, 2.0, &mut x);
                backend.rms_norm(&x, &norm, 1e-6, &mut normed);
                backend.layer_norm(&x, &norm, &norm, 1e-6, &mut normed);
                backend.matmul(&normed, weight, &mut wide);
                backend.matmul_bias_gelu(&normed, weight, &bias, &mut wide);
                backend.geglu(&wide, &mut half);
                backend.add_rms_norm(&normed, &norm, 1e-6, &mut x);
                backend.add(&normed, &mut x);
            }
            backend.rope_table(&freq, &staged, &mut rope);
            backend.gather(&all, &ids[..rows], &mut qkv);
            backend.qkv_rope_store(&qkv, HEADS, &head_norm, &head_norm, 1e-6, &rope, &staged, &mut cache, 0, &mut q);
            backend.attention(&q, HEADS, &cache, 0, &staged, None, 0.1, &mut seen);
        }
    };
    // The first time a thread runs, the system's own library may set something up.
    pass();
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    assert!(before > 0, "allocations are counted");
    pass();
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before);
}
