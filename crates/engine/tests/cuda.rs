//! Checkpoints in every layout against the reference, on an NVIDIA card. Without one they are skipped, which is said.

#[allow(dead_code)] // shared with other tests
mod support;

use medgemma_engine::{Runner, RunnerConfig};
use medgemma_kernels::{CacheType, CudaBackend, WeightFormat};
use support::{cases, check, distance, open};

fn runner(name: &str, backend: CudaBackend, chunk: usize, format: WeightFormat) -> Runner<CudaBackend> {
    let model = open(name).load(backend, format, |_| {}).unwrap();
    Runner::new(model, RunnerConfig { context: 2048, sequences: 1, chunk, outputs: 7, cache: CacheType::F32 }).unwrap()
}

/// Everything in f32: as close to the reference as the processor comes.
#[test]
fn exact_goldens_through_every_chunk_size() {
    for (name, goldens, format) in [
        ("tiny-text", "tiny-text", WeightFormat::Stored),
        ("tiny-mm", "tiny-mm", WeightFormat::Stored),
        ("tiny-mm16", "tiny-mm16", WeightFormat::Stored),
        ("tiny-text-gguf", "tiny-text", WeightFormat::F32),
        ("tiny-nf4", "tiny-nf4", WeightFormat::F32),
        ("tiny-nf4-flat", "tiny-nf4-flat", WeightFormat::F32),
        ("tiny-mm16-gguf", "tiny-mm16-gguf", WeightFormat::Stored),
        ("tiny-kq-gguf", "tiny-kq-gguf", WeightFormat::Stored),
        ("../demo-model", "../demo-model", WeightFormat::Stored),
    ] {
        for chunk in [512, 1, 33] {
            let backend = match CudaBackend::exact(0) {
                Ok(backend) => backend,
                Err(error) => return println!("skipped: {error}"),
            };
            let mut runner = runner(name, backend, chunk, format);
            for case in cases(goldens) {
                check(&mut runner, name, &case, &format!("by {chunk} on a card, exact"));
            }
        }
    }
}

/// As it is used: operands in bf16. The bounds are what an H100 gave (mean 0.03 to 0.067, most 0.65).
#[test]
fn rounded_operands_stay_near_the_reference() {
    for (name, mean, most) in [
        ("tiny-text", 0.07, 0.7),
        ("tiny-mm", 0.07, 0.7),
        ("tiny-mm16", 0.07, 0.7),
        ("tiny-nf4", 0.07, 0.7),
        ("tiny-mm16-gguf", 0.07, 0.7),
        ("tiny-kq-gguf", 0.07, 0.7),
    ] {
        for chunk in [512, 20] {
            let backend = match CudaBackend::new(0) {
                Ok(backend) => backend,
                Err(error) => return println!("skipped: {error}"),
            };
            let found = distance(&mut runner(name, backend, chunk, WeightFormat::Stored), name);
            println!("{name} by {chunk}: mean {}, most {}", found.0, found.1);
            assert!(found.0 <= mean && found.1 <= most, "{name} by {chunk}: {found:?}");
        }
    }
}
