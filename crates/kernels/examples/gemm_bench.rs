//! Speed of matrix products in each weight format, at shapes of the 4B model: for use by hand on a quiet machine.
//!
//! ```sh
//! cargo run --release -p medgemma-kernels --example gemm_bench [threads [shape [format [rows]]]]
//! MEDGEMMA_ISA=avx2 cargo run --release -p medgemma-kernels --example gemm_bench
//! ```
//!
//! For one row the weights' memory decides: GB/s of packed weights. For many rows arithmetic does: GFLOP/s, two for
//! each multiplication. Packing is in weights.

use medgemma_formats::{Bytes, DType, Tensor, quantize, quantize_nf4};
use medgemma_kernels::{Backend, CpuBackend, WeightFormat};
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

/// `n × k` of the products of one layer, and SigLIP's two.
const SHAPES: [(&str, usize, usize); 4] =
    [("qkv", 4096, 2560), ("gate+up", 20480, 2560), ("down", 2560, 10240), ("siglip", 4304, 1152)];
const ROWS: [usize; 5] = [1, 4, 8, 32, 240];
const FORMATS: [DType; 8] =
    [DType::F32, DType::F16, DType::BF16, DType::Nf4, DType::Q8_0, DType::Q4_0, DType::Q4K, DType::Q6K];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let threads = args.first().map(|n| n.parse()).transpose()?;
    let asked = |i: usize, name: &str| args.get(i).is_none_or(|arg| arg == name);
    let backend = CpuBackend::new(threads);
    println!("{}", backend.name());
    for (name, n, k) in SHAPES.into_iter().filter(|shape| asked(1, shape.0)) {
        println!("\n{name}: {n} × {k}");
        for dtype in FORMATS.into_iter().filter(|dtype| asked(2, &format!("{dtype:?}"))) {
            if !k.is_multiple_of(dtype.block_len()) {
                continue;
            }
            let tensor = tensor(dtype, n, k)?;
            let start = Instant::now();
            let weight = backend.weight(&[&tensor], WeightFormat::Stored)?;
            let packed = (n * k) as f64 / start.elapsed().as_secs_f64() / 1e9;
            let bytes = backend.weight_bytes(&weight) as f64;
            print!("{:>6}   packed {packed:.2} G/s", format!("{dtype:?}"));
            for rows in ROWS.into_iter().filter(|rows| asked(3, &rows.to_string())) {
                let mut x = backend.matrix(rows, k)?;
                backend.upload(&noise(rows * k), &mut x);
                let mut out = backend.matrix(rows, n)?;
                let mut best = f64::INFINITY;
                let begin = Instant::now();
                while begin.elapsed().as_secs_f64() < 0.3 {
                    let start = Instant::now();
                    backend.matmul(&x, &weight, &mut out);
                    best = best.min(start.elapsed().as_secs_f64());
                }
                let flops = 2.0 * (rows * n * k) as f64;
                print!("   m={rows}: {:6.1} GB/s {:7.1} GFLOP/s", bytes / best / 1e9, flops / best / 1e9);
            }
            println!();
        }
    }
    Ok(())
}

/// Values that look random, in -1..1.
fn noise(len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// A tensor of a few rows over and over.
fn tensor(dtype: DType, n: usize, k: usize) -> Result<Tensor, medgemma_formats::Error> {
    let some = 16.min(n);
    let values = noise(some * k);
    let mut bytes = Vec::new();
    let mut nf4 = None;
    if dtype == DType::Nf4 {
        let (nibbles, mut scales) = quantize_nf4(&values);
        scales.absmax = scales.absmax.iter().copied().cycle().take(n * k / 64).collect();
        (bytes, nf4) = (nibbles, Some(Arc::new(scales)));
    } else {
        quantize(dtype, &values, &mut bytes)?;
    }
    let size = bytes.len() / some;
    let all: Vec<u8> = bytes.iter().copied().cycle().take(n * size).collect();
    Tensor::from_parts("w", dtype, vec![n, k], Bytes::from(all), nf4)
}
