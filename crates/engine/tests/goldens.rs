//! The reference's tokens and log-probabilities, made by tools/goldens from transformers in float32.

use medgemma_engine::{Checkpoint, Finish, Generation, Progress, Runner, RunnerConfig, Sequence, generate, score};
use medgemma_formats::Folder;
use medgemma_gemma::sampler::Sampling;
use medgemma_kernels::{CacheType, CpuBackend, WeightFormat};
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// How far a log-probability may be from the reference's.
const TOLERANCE: f32 = 1e-3;

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

fn runner(name: &str, chunk: usize) -> Runner<CpuBackend> {
    let checkpoint = Checkpoint::from_folder(&Folder::open(&testdata(name)).unwrap()).unwrap();
    let model = checkpoint.load_cpu(WeightFormat::Stored, Some(2), |_| {}).unwrap();
    Runner::new(model, RunnerConfig { context: 512, chunk, outputs: 7, cache: CacheType::F32 }).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn close(found: &[f32], wanted: &[f32], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        assert!((f - w).abs() <= TOLERANCE, "{what}, entry {i}: {f} where the reference has {w}");
    }
}

fn check(runner: &mut Runner<CpuBackend>, case: &Value, context: &str) {
    let what = format!("{context}, case {}", case["name"]);
    let prompt = ids(&case["input_ids"]);
    let mut sequence = Sequence::default();
    runner.start(&mut sequence, prompt.clone(), Vec::new()).unwrap();
    let scores = score(runner, &mut sequence, 0, &mut |_| ControlFlow::Continue(())).unwrap();
    let found: Vec<f32> = scores.iter().map(|s| s.logprob.unwrap()).collect();
    close(&found, &numbers(&case["prompt_logprobs"]), &format!("{what}: prompt"));
    runner.release(&mut sequence);
    runner.start(&mut sequence, prompt, Vec::new()).unwrap();
    let greedy = ids(&case["greedy"]);
    let options = Generation {
        max_tokens: greedy.len(),
        sampling: Sampling::GREEDY,
        stop_ids: Vec::new(),
        logprobs: Some(5),
        detect_loops: false,
    };
    let mut tokens = Vec::new();
    let mut on = |progress: Progress<'_>| {
        if let Progress::Token(token) = progress {
            tokens.push(token.clone());
        }
        ControlFlow::Continue(())
    };
    let (finish, _) = generate(runner, &mut sequence, &options, &mut on).unwrap();
    assert_eq!(finish, Finish::Length);
    assert_eq!(tokens.iter().map(|t| t.id).collect::<Vec<_>>(), greedy, "{what}: greedy tokens");
    let found: Vec<f32> = tokens.iter().map(|t| t.logprob.unwrap()).collect();
    close(&found, &numbers(&case["logprobs"]), &format!("{what}: generated"));
    runner.release(&mut sequence);
}

#[test]
fn text_cases_of_every_checkpoint() {
    for name in ["tiny-text", "tiny-mm", "tiny-mm16"] {
        let goldens: Value =
            serde_json::from_slice(&std::fs::read(testdata(name).join("goldens.json")).unwrap()).unwrap();
        for chunk in [512, 1, 5, 33] {
            let mut runner = runner(name, chunk);
            for case in goldens["cases"].as_array().unwrap() {
                if case["images"].as_array().is_some_and(|i| !i.is_empty()) {
                    continue;
                }
                check(&mut runner, case, &format!("{name} by {chunk}"));
            }
        }
    }
}
