//! Real weights: Gemma 3 270M in Q4_K_M, against transformers in float32 on the same dequantized weights and against
//! llama.cpp on the same file (goldens by tools/goldens/gemma3_270m.py).
//!
//! scripts/fetch-gemma3-270m.sh fetches the file; without it these tests say that they were skipped.

use medgemma_engine::pipeline::ScoredToken;
use medgemma_engine::{LoadOptions, Options, Pipeline, Quant};
use medgemma_gemma::sampler::Sampling;
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

fn load(quant: Option<Quant>) -> Option<(Pipeline, Value)> {
    let file = testdata("fetched/gemma-3-270m-Q4_K_M.gguf");
    if !file.exists() {
        println!("SKIPPED: {} isn't there; scripts/fetch-gemma3-270m.sh fetches it", file.display());
        return None;
    }
    let golden = serde_json::from_slice(&std::fs::read(testdata("gemma3-270m.json")).unwrap()).unwrap();
    let options = LoadOptions { quant, context: Some(2048), ..LoadOptions::default() };
    Some((Pipeline::load_with(file.to_str().unwrap(), &options, |_| {}).unwrap(), golden))
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn score(pipeline: &mut Pipeline, golden: &Value) -> Vec<f32> {
    let text = std::fs::read_to_string(testdata(golden["passage"]["file"].as_str().unwrap())).unwrap();
    let scored: Vec<ScoredToken> = pipeline.score(&text, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(scored.iter().map(|t| t.id).collect::<Vec<_>>(), ids(&golden["passage"]["input_ids"]));
    scored.iter().filter_map(|t| t.logprob).collect()
}

fn perplexity(logprobs: &[f32]) -> f64 {
    (-logprobs.iter().map(|l| f64::from(*l)).sum::<f64>() / logprobs.len() as f64).exp()
}

/// Mean and largest distance.
fn distance(a: &[f32], b: &[f32]) -> (f64, f64) {
    assert_eq!(a.len(), b.len());
    let each = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
    (each.clone().sum::<f64>() / a.len() as f64, each.fold(0.0, f64::max))
}

#[test]
fn dequantized_weights_give_the_references_text() {
    let Some((mut pipeline, golden)) = load(Some(Quant::F32)) else { return };
    for prompt in golden["prompts"].as_array().unwrap() {
        let wanted = &prompt["float32"];
        let greedy = ids(&wanted["greedy"]);
        let options = Options {
            max_tokens: Some(greedy.len()),
            sampling: Some(Sampling::GREEDY),
            logprobs: Some(0),
            ignore_eos: true,
            detect_loops: false,
            ..Options::default()
        };
        let text = prompt["text"].as_str().unwrap();
        let reply = pipeline.complete(text, &[], &options, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(reply.usage.prompt_tokens, prompt["input_ids"].as_array().unwrap().len(), "{}", prompt["name"]);
        assert_eq!(reply.tokens.iter().map(|t| t.id).collect::<Vec<_>>(), greedy, "{}", prompt["name"]);
        let found: Vec<f32> = reply.tokens.iter().map(|t| t.logprob).collect();
        let (_, most) = distance(&found, &numbers(&wanted["logprobs"]));
        assert!(most < 1e-3, "{}: {most}", prompt["name"]);
    }
    let (_, most) = distance(&score(&mut pipeline, &golden), &numbers(&golden["passage"]["float32"]["logprobs"]));
    assert!(most < 1e-3, "passage: {most}");
}

#[test]
fn integer_kernels_are_as_near_as_llama_cpps() {
    let Some((mut pipeline, golden)) = load(None) else { return };
    let exact = numbers(&golden["passage"]["float32"]["logprobs"]);
    let theirs = numbers(&golden["passage"]["llama_cpp"]["logprobs"]);
    let ours = score(&mut pipeline, &golden);
    println!(
        "perplexity: float32 {:.4}, llama.cpp {:.4}, here {:.4}",
        perplexity(&exact),
        perplexity(&theirs),
        perplexity(&ours)
    );
    println!("distance from float32: llama.cpp {:?}, here {:?}", distance(&theirs, &exact), distance(&ours, &exact));
    let (mean, most) = distance(&ours, &exact);
    let (their_mean, their_most) = distance(&theirs, &exact);
    assert!(mean < 1.1 * their_mean && most < 1.5 * their_most, "{mean} {most}");
    let ratio = perplexity(&ours) / perplexity(&exact);
    assert!((ratio - 1.0).abs() < 0.01, "{ratio}");
}
