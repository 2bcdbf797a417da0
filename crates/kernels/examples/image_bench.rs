//! Where the time of an image encoder's layer goes: each operation of one SigLIP layer at the 4B model's shapes, in
//! bf16, for use by hand on a quiet machine.
//!
//! ```sh
//! cargo run --release -p medgemma-kernels --example image_bench [threads]
//! ```

use medgemma_formats::{Bytes, DType, Tensor, quantize};
use medgemma_kernels::{
    BLOCK, Backend, CacheSpec, CacheType, CpuBackend, CpuVector, CpuWeight, Rows, Step, WeightFormat,
};
use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

const PATCHES: usize = 4096;
const WIDTH: usize = 1152;
const HEADS: usize = 16;
const FFN: usize = 4304;
/// Layers of the encoder, which the sum is for.
const LAYERS: f64 = 27.0;
const RUNS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let threads = std::env::args().nth(1).map(|n| n.parse()).transpose()?;
    let b = CpuBackend::new(threads);
    println!("{}", b.name());
    let count = PATCHES as u32;
    let blocks = PATCHES.div_ceil(BLOCK);
    let step = Step {
        positions: (0..count).collect(),
        ends: vec![count; PATCHES],
        sequences: vec![Rows { rows: 0..PATCHES, table: (0..blocks as u32).collect() }],
    };
    let head_dim = WIDTH / HEADS;
    let spec = CacheSpec { layers: 1, blocks, kv_heads: HEADS, head_dim, dtype: CacheType::BF16Products };
    let mut cache = b.cache(spec)?;
    let matrix = |cols: usize| b.matrix(PATCHES, cols);
    let (mut x, mut normed, mut qkv, mut q) = (matrix(WIDTH)?, matrix(WIDTH)?, matrix(3 * WIDTH)?, matrix(WIDTH)?);
    let (mut attended, mut block, mut activated) = (matrix(WIDTH)?, matrix(WIDTH)?, matrix(FFN)?);
    b.upload(&noise(PATCHES * WIDTH, 1.0), &mut x);
    let (ones, zeros) = (b.vector(&[1.0; WIDTH])?, b.vector(&[0.0; WIDTH])?);
    let qkv_w = linear(&b, 3 * WIDTH, WIDTH)?;
    let output = linear(&b, WIDTH, WIDTH)?;
    let up = linear(&b, FFN, WIDTH)?;
    let down = linear(&b, WIDTH, FFN)?;
    let product = |n: usize, k: usize| 2.0 * (PATCHES * n * k) as f64;

    let mut bench = Bench::default();
    bench.time("layer norm", 2.0, 0.0, || b.layer_norm(&x, &ones, &zeros, 1e-6, &mut normed));
    bench.time("q, k, v", 1.0, product(3 * WIDTH, WIDTH), || b.matmul_bias(&normed, &qkv_w.0, &qkv_w.1, &mut qkv));
    let mut staged = b.staged()?;
    b.stage(&[], &step, &mut staged);
    bench.time("store k, v", 1.0, 0.0, || b.qkv_store(&qkv, &staged, &mut cache, 0, &mut q));
    let flops = 4.0 * (PATCHES * PATCHES * WIDTH) as f64;
    bench.time("attention", 1.0, flops, || b.attention(&q, HEADS, &cache, 0, &staged, None, 0.118, &mut attended));
    bench.time("output", 1.0, product(WIDTH, WIDTH), || b.matmul_bias(&attended, &output.0, &output.1, &mut block));
    bench.time("add", 2.0, 0.0, || b.add(&block, &mut x));
    bench.time("up, gelu", 1.0, product(FFN, WIDTH), || b.matmul_bias_gelu(&normed, &up.0, &up.1, &mut activated));
    bench.time("down", 1.0, product(WIDTH, FFN), || b.matmul_bias(&activated, &down.0, &down.1, &mut block));
    println!("{:>12}: {:8.2} ms, {LAYERS} layers {:.2} s", "layer", bench.layer * 1e3, bench.layer * LAYERS);
    Ok(())
}

/// Adds up what the operations of a layer take.
#[derive(Default)]
struct Bench {
    layer: f64,
}

impl Bench {
    /// Times an operation that a layer has `times` of.
    fn time(&mut self, name: &str, times: f64, flops: f64, mut run: impl FnMut()) {
        let mut best = f64::INFINITY;
        for _ in 0..RUNS {
            let start = Instant::now();
            run();
            best = best.min(start.elapsed().as_secs_f64());
        }
        self.layer += times * best;
        println!("{name:>12}: {:8.2} ms × {times} {:7.1} GFLOP/s", best * 1e3, flops / best / 1e9);
    }
}

/// Values that look random, between -size and size; no two calls give the same.
fn noise(len: usize, size: f32) -> Vec<f32> {
    static CALLS: AtomicU32 = AtomicU32::new(1);
    let seed = CALLS.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9);
    let mixed = |i: u32| {
        let i = (i ^ seed ^ (i ^ seed) >> 16).wrapping_mul(0x7FEB_352D);
        let i = (i ^ i >> 15).wrapping_mul(0x846C_A68B);
        i ^ i >> 16
    };
    (0..len as u32).map(|i| ((mixed(i) >> 8) as f32 / (1 << 23) as f32 - 1.0) * size).collect()
}

/// A linear layer of `n` outputs and `k` inputs, its weights bf16.
fn linear(b: &CpuBackend, n: usize, k: usize) -> Result<(CpuWeight, CpuVector), Box<dyn Error>> {
    let mut bytes = Vec::new();
    quantize(DType::BF16, &noise(n * k, (k as f32).powf(-0.5)), &mut bytes)?;
    let tensor = Tensor::from_parts("w", DType::BF16, vec![n, k], Bytes::from(bytes), None)?;
    Ok((b.weight(&[&tensor], WeightFormat::BF16Products)?, b.vector(&noise(n, 1.0))?))
}
