//! Checkpoints in every layout against the reference.

mod support;

use medgemma_kernels::WeightFormat;
use support::{cases, check, distance, open, runner};

#[test]
fn every_case_through_every_chunk_size() {
    for name in ["tiny-text", "tiny-mm", "tiny-mm16"] {
        for chunk in [512, 1, 5, 33] {
            let mut runner = runner(open(name), chunk, WeightFormat::Stored);
            for case in cases(name) {
                check(&mut runner, name, &case, &format!("by {chunk}"));
            }
        }
    }
}

/// Float files are exact as they are; quantized ones when their weights are decoded to f32, as the reference's were.
#[test]
fn every_file_format_against_its_own_dequantization() {
    for (name, goldens) in [
        ("tiny-text-gguf", "tiny-text"),
        ("tiny-nf4", "tiny-nf4"),
        ("tiny-nf4-flat", "tiny-nf4-flat"),
        ("tiny-mm16-gguf", "tiny-mm16-gguf"),
        ("tiny-kq-gguf", "tiny-kq-gguf"),
        ("../demo-model", "../demo-model"),
    ] {
        for chunk in [512, 7] {
            let mut runner = runner(open(name), chunk, WeightFormat::F32);
            for case in cases(goldens) {
                check(&mut runner, name, &case, &format!("by {chunk}"));
            }
        }
    }
}

/// The integer kernels round activations to 8 bits in groups of 32; NF4 keeps them in f32.
#[test]
fn fast_paths_stay_near_the_dequantized_reference() {
    for (name, mean, most) in [
        ("tiny-nf4", 2e-5, 1e-3),
        ("tiny-nf4-flat", 2e-5, 1e-3),
        ("tiny-mm16-gguf", 0.15, 1.5),
        ("tiny-kq-gguf", 0.15, 1.5),
    ] {
        let found = distance(&mut runner(open(name), 64, WeightFormat::Stored), name);
        println!("{name}: mean {}, most {}", found.0, found.1);
        assert!(found.0 <= mean && found.1 <= most, "{name}: {found:?}");
    }
}
