//! Running a golden case: the reference's tokens and log-probabilities, made by tools/goldens from transformers in
//! float32.

use medgemma_engine::{
    Checkpoint, Finish, Generation, PlacedImage, Progress, Runner, RunnerConfig, Sequence, generate, score,
};
use medgemma_formats::{Folder, Gguf};
use medgemma_gemma::image::{Limits, Preprocessor, RgbImage, decode};
use medgemma_gemma::locate::{Located, locate};
use medgemma_gemma::sampler::Sampling;
use medgemma_kernels::{Backend, CacheType, CpuBackend, WeightFormat};
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// How far a log-probability may be from the reference's.
const TOLERANCE: f32 = 1e-3;

pub(crate) fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

/// A folder in Hugging Face layout, or one with a GGUF and perhaps its mmproj.
pub(crate) fn open(name: &str) -> Checkpoint {
    let path = testdata(name);
    if path.join("config.json").exists() {
        return Checkpoint::from_folder(&Folder::open(&path).unwrap()).unwrap();
    }
    match locate(path.to_str().unwrap()).unwrap() {
        Located::Gguf { model, mmproj } => Checkpoint::open_gguf(&model, mmproj.as_deref()).unwrap(),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn runner(checkpoint: Checkpoint, chunk: usize, format: WeightFormat) -> Runner<CpuBackend> {
    let model = checkpoint.load_cpu(format, Some(2), |_| {}).unwrap();
    Runner::new(model, RunnerConfig { context: 2048, sequences: 1, chunk, outputs: 7, cache: CacheType::F32 }).unwrap()
}

pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn close(found: &[f32], wanted: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        assert!((f - w).abs() <= tolerance, "{what}, entry {i}: {f} where the reference has {w}");
    }
}

/// How the checkpoint wants pictures.
fn preprocessor(checkpoint: &str, patch: usize) -> Preprocessor {
    let path = testdata(checkpoint);
    if let Ok(settings) = std::fs::read(path.join("preprocessor_config.json")) {
        return Preprocessor::from_json("preprocessor_config.json", &settings, patch).unwrap();
    }
    match locate(path.to_str().unwrap()).unwrap() {
        Located::Gguf { mmproj: Some(mmproj), .. } => Preprocessor::from_gguf(&Gguf::open(&mmproj).unwrap()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// The case's pictures in the order of their placeholders: each followed by its crops when it asks for them. They are the
/// checkpoint's own held-out pictures, or those that all checkpoints share.
fn pictures(checkpoint: &str, case: &Value, preprocessor: &Preprocessor) -> Vec<RgbImage> {
    let own = testdata(checkpoint).join("heldout/images");
    let folder = if own.exists() { own } else { testdata("images") };
    let mut pictures = Vec::new();
    for name in case["images"].as_array().into_iter().flatten() {
        let path = folder.join(name.as_str().unwrap());
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

/// Beside a quantized decoder an encoder of 16 bits is multiplied in bf16: features are of the order of 1 here.
pub(crate) const ROUNDED: f32 = 0.05;

/// Encodes the case's pictures, comparing features where the golden has them.
pub(crate) fn images<B: Backend>(
    runner: &Runner<B>,
    checkpoint: &str,
    case: &Value,
    tolerance: f32,
    what: &str,
) -> Vec<PlacedImage<B>> {
    let Some(positions) = case["image_positions"].as_array().filter(|p| !p.is_empty()) else { return Vec::new() };
    let patch = runner.model().config().vision.as_ref().unwrap().patch;
    let preprocessor = preprocessor(checkpoint, patch);
    let pictures = pictures(checkpoint, case, &preprocessor);
    assert_eq!(pictures.len(), positions.len(), "{what}: number of images");
    let placed = pictures.iter().zip(positions).enumerate().map(|(i, (picture, position))| {
        let features = runner.encode_image(&preprocessor.pixel_values(picture)).unwrap();
        let golden = &case["image_features"][i];
        let (first, last) = (numbers(&golden["first"]), numbers(&golden["last"]));
        let hidden = first.len();
        let (start, len) = (position[0].as_u64().unwrap() as usize, position[1].as_u64().unwrap() as usize);
        let mut values = vec![0.0; len * hidden];
        features.download(runner.model().backend(), &mut values);
        close(&values[..hidden], &first, tolerance, &format!("{what}: first feature of image {i}"));
        close(&values[(len - 1) * hidden..], &last, tolerance, &format!("{what}: last feature of image {i}"));
        PlacedImage { positions: start..start + len, features, digest: [i as u8; 32] }
    });
    placed.collect()
}

/// Holds a case's scores of its prompt, greedy tokens and their log-probabilities to the reference's. `checkpoint` is the
/// folder whose goldens these are.
pub(crate) fn check<B: Backend>(runner: &mut Runner<B>, checkpoint: &str, case: &Value, context: &str) {
    let what = format!("{checkpoint} {context}, case {}", case["name"]);
    let prompt = ids(&case["input_ids"]);
    let images = images(runner, checkpoint, case, TOLERANCE, &what);
    let mut sequence = Sequence::default();
    runner.start(&mut sequence, prompt.clone(), images.clone()).unwrap();
    let scores = score(runner, &mut sequence, 0, &mut |_| ControlFlow::Continue(())).unwrap();
    let found: Vec<f32> = scores.iter().map(|s| s.logprob.unwrap()).collect();
    close(&found, &numbers(&case["prompt_logprobs"]), TOLERANCE, &format!("{what}: prompt"));
    runner.release(&mut sequence);
    runner.start(&mut sequence, prompt, images).unwrap();
    let greedy = ids(&case["greedy"]);
    let options = Generation {
        max_tokens: greedy.len(),
        sampling: Sampling::GREEDY,
        stop_ids: Vec::new(),
        logprobs: Some(5),
        detect_loops: false,
        draft_max: 6,
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
    close(&found, &numbers(&case["logprobs"]), TOLERANCE, &format!("{what}: generated"));
    runner.release(&mut sequence);
}

pub(crate) fn cases(name: &str) -> Vec<Value> {
    let goldens = std::fs::read(testdata(name).join("goldens.json")).unwrap();
    serde_json::from_slice::<Value>(&goldens).unwrap()["cases"].as_array().unwrap().clone()
}

/// How far the log-probabilities of prompts are from the reference's, on average and at most.
pub(crate) fn distance<B: Backend>(runner: &mut Runner<B>, name: &str) -> (f32, f32) {
    let (mut sum, mut count, mut most) = (0.0, 0, 0f32);
    for case in cases(name) {
        let images = images(runner, name, &case, ROUNDED, name);
        let mut sequence = Sequence::default();
        runner.start(&mut sequence, ids(&case["input_ids"]), images).unwrap();
        let scores = score(runner, &mut sequence, 0, &mut |_| ControlFlow::Continue(())).unwrap();
        runner.release(&mut sequence);
        for (score, wanted) in scores.iter().zip(numbers(&case["prompt_logprobs"])) {
            let off = (score.logprob.unwrap() - wanted).abs();
            (sum, count, most) = (sum + off, count + 1, most.max(off));
        }
    }
    (sum / count as f32, most)
}

/// At how many greedy steps, each with the reference's tokens before it, another token is chosen, of how many; and the
/// largest margin over its second choice that the reference had there.
pub(crate) fn turned<B: Backend>(runner: &mut Runner<B>, name: &str) -> (usize, usize, f32) {
    let (mut turned, mut steps, mut margin) = (0, 0, 0f32);
    for case in cases(name) {
        let images = images(runner, name, &case, ROUNDED, name);
        let (prompt, greedy) = (ids(&case["input_ids"]), ids(&case["greedy"]));
        let mut given = 0;
        while given < greedy.len() {
            let options = Generation {
                max_tokens: greedy.len() - given,
                sampling: Sampling::GREEDY,
                stop_ids: Vec::new(),
                logprobs: None,
                detect_loops: false,
                draft_max: 0,
            };
            let mut sequence = Sequence::default();
            runner.start(&mut sequence, [&prompt, &greedy[..given]].concat(), images.clone()).unwrap();
            // Until it chooses otherwise; from there it is told the reference's token.
            let mut on = |progress: Progress<'_>| {
                let Progress::Token(token) = progress else { return ControlFlow::Continue(()) };
                let (wanted, best) = (greedy[given], &case["top5"][given]);
                given += 1;
                if token.id == wanted {
                    return ControlFlow::Continue(());
                }
                let logprob = |choice: usize| best[choice][1].as_f64().unwrap() as f32;
                (turned, margin) = (turned + 1, margin.max(logprob(0) - logprob(1)));
                ControlFlow::Break(())
            };
            generate(runner, &mut sequence, &options, &mut on).unwrap();
            runner.release(&mut sequence);
        }
        steps += greedy.len();
    }
    (turned, steps, margin)
}
