//! The reference's tokens and log-probabilities, made by tools/goldens from transformers in float32.

use medgemma_engine::{
    Checkpoint, Finish, Generation, PlacedImage, Progress, Runner, RunnerConfig, Sequence, generate, score,
};
use medgemma_formats::Folder;
use medgemma_gemma::image::{Limits, Preprocessor, RgbImage, decode};
use medgemma_gemma::locate::{Located, locate};
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

/// A folder in Hugging Face layout, or one with a GGUF and perhaps its mmproj.
fn open(name: &str) -> Checkpoint {
    let path = testdata(name);
    if path.join("config.json").exists() {
        return Checkpoint::from_folder(&Folder::open(&path).unwrap()).unwrap();
    }
    match locate(path.to_str().unwrap()).unwrap() {
        Located::Gguf { model, mmproj } => Checkpoint::open_gguf(&model, mmproj.as_deref()).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn runner(name: &str, chunk: usize, format: WeightFormat) -> Runner<CpuBackend> {
    let model = open(name).load_cpu(format, Some(2), |_| {}).unwrap();
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

/// The case's pictures in the order of their placeholders: each followed by its crops when it asks for them.
fn pictures(case: &Value, preprocessor: &Preprocessor) -> Vec<RgbImage> {
    let mut pictures = Vec::new();
    for name in case["images"].as_array().into_iter().flatten() {
        let path = testdata("images").join(name.as_str().unwrap());
        let picture = decode("picture", &std::fs::read(path).unwrap(), &Limits::default()).unwrap();
        let crops = match case["pan_and_scan"].as_bool() {
            Some(true) => preprocessor.crops(&picture),
            _ => Vec::new(),
        };
        pictures.push(picture);
        pictures.extend(crops);
    }
    pictures
}

/// Encodes the case's pictures, comparing features where the golden has them.
fn images(runner: &Runner<CpuBackend>, checkpoint: &str, case: &Value, what: &str) -> Vec<PlacedImage<CpuBackend>> {
    let Some(positions) = case["image_positions"].as_array().filter(|p| !p.is_empty()) else { return Vec::new() };
    let patch = runner.model().config().vision.as_ref().unwrap().patch;
    let folder = if checkpoint == "tiny-mm16-gguf" { "tiny-mm16" } else { checkpoint };
    let settings = std::fs::read(testdata(folder).join("preprocessor_config.json")).unwrap();
    let preprocessor = Preprocessor::from_json("preprocessor_config.json", &settings, patch).unwrap();
    let pictures = pictures(case, &preprocessor);
    assert_eq!(pictures.len(), positions.len(), "{what}: number of images");
    let placed = pictures.iter().zip(positions).enumerate().map(|(i, (picture, position))| {
        let features = runner.encode_image(&preprocessor.pixel_values(picture)).unwrap();
        let golden = &case["image_features"][i];
        let (first, last) = (numbers(&golden["first"]), numbers(&golden["last"]));
        let hidden = first.len();
        let (start, len) = (position[0].as_u64().unwrap() as usize, position[1].as_u64().unwrap() as usize);
        let mut values = vec![0.0; len * hidden];
        features.download(runner.model().backend(), &mut values);
        close(&values[..hidden], &first, &format!("{what}: first feature of image {i}"));
        close(&values[(len - 1) * hidden..], &last, &format!("{what}: last feature of image {i}"));
        PlacedImage { positions: start..start + len, features, digest: [i as u8; 32] }
    });
    placed.collect()
}

fn check(runner: &mut Runner<CpuBackend>, checkpoint: &str, case: &Value, context: &str) {
    let what = format!("{checkpoint} {context}, case {}", case["name"]);
    let prompt = ids(&case["input_ids"]);
    let images = images(runner, checkpoint, case, &what);
    let mut sequence = Sequence::default();
    runner.start(&mut sequence, prompt.clone(), images.clone()).unwrap();
    let scores = score(runner, &mut sequence, 0, &mut |_| ControlFlow::Continue(())).unwrap();
    let found: Vec<f32> = scores.iter().map(|s| s.logprob.unwrap()).collect();
    close(&found, &numbers(&case["prompt_logprobs"]), &format!("{what}: prompt"));
    runner.release(&mut sequence);
    runner.start(&mut sequence, prompt, images).unwrap();
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

fn cases(name: &str) -> Vec<Value> {
    let goldens = std::fs::read(testdata(name).join("goldens.json")).unwrap();
    serde_json::from_slice::<Value>(&goldens).unwrap()["cases"].as_array().unwrap().clone()
}

#[test]
fn every_case_through_every_chunk_size() {
    for name in ["tiny-text", "tiny-mm", "tiny-mm16"] {
        for chunk in [512, 1, 5, 33] {
            let mut runner = runner(name, chunk, WeightFormat::Stored);
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
    ] {
        for chunk in [512, 7] {
            let mut runner = runner(name, chunk, WeightFormat::F32);
            for case in cases(goldens) {
                check(&mut runner, name, &case, &format!("by {chunk}"));
            }
        }
    }
}

/// How far the log-probabilities of prompts are from the reference's, on average and at most.
fn distance(name: &str, format: WeightFormat) -> (f32, f32) {
    let mut runner = runner(name, 64, format);
    let (mut sum, mut count, mut most) = (0.0, 0, 0f32);
    for case in cases(name) {
        let images = images(&runner, name, &case, name);
        let mut sequence = Sequence::default();
        runner.start(&mut sequence, ids(&case["input_ids"]), images).unwrap();
        let scores = score(&mut runner, &mut sequence, 0, &mut |_| ControlFlow::Continue(())).unwrap();
        runner.release(&mut sequence);
        for (score, wanted) in scores.iter().zip(numbers(&case["prompt_logprobs"])) {
            let off = (score.logprob.unwrap() - wanted).abs();
            (sum, count, most) = (sum + off, count + 1, most.max(off));
        }
    }
    (sum / count as f32, most)
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
        let found = distance(name, WeightFormat::Stored);
        println!("{name}: mean {}, most {}", found.0, found.1);
        assert!(found.0 <= mean && found.1 <= most, "{name}: {found:?}");
    }
}
