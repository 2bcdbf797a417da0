//! Speed of attention and of the element-wise operations, at shapes of the 4B model: for use by hand on a quiet
//! machine.
//!
//! ```sh
//! cargo run --release -p medgemma-kernels --example attention_bench [threads [shape]]
//! ```

use medgemma_kernels::{BLOCK, Backend, CacheSpec, CacheType, CpuBackend, Rows, Step};
use std::error::Error;
use std::time::Instant;

/// Query heads, key/value heads, elements of a head, rows, keys, and whether all rows see all keys (an image).
const SHAPES: [(&str, usize, usize, usize, usize, usize, bool); 4] = [
    ("decode, 8192 keys", 8, 4, 256, 1, 8192, false),
    ("prefill, 512 rows", 8, 4, 256, 512, 512, false),
    ("prefill, 512 rows after 3584", 8, 4, 256, 512, 4096, false),
    ("SigLIP, 4096 patches", 16, 16, 72, 4096, 4096, true),
];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let threads = args.first().map(|n| n.parse()).transpose()?;
    let backend = CpuBackend::new(threads);
    println!("{}", backend.name());
    for (name, heads, kv_heads, head_dim, rows, keys, image) in SHAPES {
        if args.get(1).is_some_and(|shape| !name.starts_with(shape)) {
            continue;
        }
        for dtype in [CacheType::F32, CacheType::BF16, CacheType::BF16Products] {
            let blocks = keys.div_ceil(BLOCK);
            let cache = backend.cache(CacheSpec { layers: 1, blocks, kv_heads, head_dim, dtype })?;
            let first = (keys - rows) as u32;
            let positions: Vec<u32> = (first..keys as u32).collect();
            let ends = positions.iter().map(|&p| if image { keys as u32 } else { p + 1 }).collect();
            let table = (0..blocks as u32).collect();
            let step = Step { positions, ends, sequences: vec![Rows { rows: 0..rows, table }] };
            let mut staged = backend.staged()?;
            backend.stage(&[], &step, &mut staged);
            let mut q = backend.matrix(rows, heads * head_dim)?;
            backend.upload(&vec![0.5; rows * heads * head_dim], &mut q);
            let mut out = backend.matrix(rows, heads * head_dim)?;
            let seconds = best(|| backend.attention(&q, heads, &cache, 0, &staged, None, 0.1, &mut out));
            let seen: usize = if image { rows * keys } else { (0..rows).map(|r| keys - rows + r + 1).sum() };
            let flops = 4.0 * (seen * heads * head_dim) as f64;
            println!("{name:>30} {dtype:?}: {:9.3} ms {:6.1} GFLOP/s", seconds * 1e3, flops / seconds / 1e9);
        }
    }
    for (rows, cols) in [(1, 2560), (512, 2560), (512, 10240)] {
        let x = vec![0.5; rows * 2 * cols];
        let (mut wide, mut narrow) = (backend.matrix(rows, 2 * cols)?, backend.matrix(rows, cols)?);
        let mut out = backend.matrix(rows, cols)?;
        backend.upload(&x, &mut wide);
        backend.upload(&x[..rows * cols], &mut narrow);
        let w = backend.vector(&vec![1.0; cols])?;
        let norm = best(|| backend.rms_norm(&narrow, &w, 1e-6, &mut out));
        let glu = best(|| backend.geglu(&wide, &mut out));
        let per = 1e9 / (rows * cols) as f64;
        println!("{rows:>4} × {cols:>5}: rms_norm {:.3} ns, geglu {:.3} ns an element", norm * per, glu * per);
    }
    Ok(())
}

/// Seconds of the best run.
fn best(mut run: impl FnMut()) -> f64 {
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    while best == f64::INFINITY || begin.elapsed().as_secs_f64() < 0.5 {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}
