//! Checkpoints converted to GGUF and read back, against the reference of the originals.

#[allow(dead_code)] // shared with other tests
mod support;

use medgemma_engine::Checkpoint;
use medgemma_formats::{DType, Folder, Gguf};
use medgemma_gemma::Error;
use medgemma_gemma::convert::{Options, Plan, Report, Source, Target, mmproj_path};
use medgemma_gemma::locate::{Located, locate};
use medgemma_gemma::text::{ChatTemplate, Special, Tokenizer};
use medgemma_kernels::WeightFormat;
use std::ops::ControlFlow;
use std::path::Path;
use support::{cases, check, distance, open, runner, testdata};

/// Converts and opens what [`locate`] finds there.
fn convert(name: &str, target: Target, out: &Path) -> (Report, Checkpoint) {
    let files = Folder::open(&testdata(name)).unwrap();
    let checkpoint = open(name);
    let report = plan(name, &checkpoint, Some(&files), target, out).unwrap();
    let report = report.run(|_| ControlFlow::Continue(())).unwrap();
    (report, reopen(out))
}

fn plan<'a>(
    name: &'a str,
    checkpoint: &'a Checkpoint,
    folder: Option<&'a Folder>,
    target: Target,
    out: &Path,
) -> Result<Plan<'a>, Error> {
    let source = Source { name, config: &checkpoint.config, weights: &checkpoint.weights, folder };
    Plan::new(source, out, Options { target, overwrite: false, threads: Some(3) })
}

fn reopen(out: &Path) -> Checkpoint {
    let Located::Gguf { model, mmproj } = locate(&out.display().to_string()).unwrap() else { panic!("a GGUF") };
    Checkpoint::open_gguf(&model, mmproj.as_deref()).unwrap()
}

#[test]
fn floats_give_the_reference_of_the_original() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tiny-text", "tiny-mm", "tiny-mm16", "tiny-nf4"] {
        let cases = cases(name);
        for target in [Target::F32, Target::BF16] {
            if (name, target) == ("tiny-nf4", Target::BF16) {
                continue; // Its values have more digits than bfloat16.
            }
            let out = dir.path().join(format!("{name}-{target}.gguf"));
            let (report, checkpoint) = convert(name, target, &out);
            assert_eq!(report.mmproj.is_some(), checkpoint.config.vision.is_some());
            assert_eq!(report.notes.len(), usize::from(name == "tiny-nf4"), "{name}: {:?}", report.notes);
            let mut runner = runner(checkpoint, 33, WeightFormat::Stored);
            for case in &cases {
                check(&mut runner, name, case, &format!("as {target}"));
            }
        }
    }
}

#[test]
fn eight_bits_stay_near_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    // Random weights feel rounding far more than trained ones: measured 0.09 to 0.19 in the mean, 2.0 at most.
    for name in ["tiny-text", "tiny-mm", "tiny-mm16"] {
        let (_, checkpoint) = convert(name, Target::Q8_0, &dir.path().join(format!("{name}.gguf")));
        // The weights' rounding alone, without the kernels' of activations.
        let (mean, most) = distance(&mut runner(checkpoint, 64, WeightFormat::F32), name);
        println!("{name}: {mean} in the mean, {most} at most");
        assert!(mean > 0.0 && mean <= 0.25 && most <= 3.0, "{name}: {mean} in the mean, {most} at most");
    }
}

#[test]
fn each_tensor_is_as_near_as_its_type_allows() {
    let dir = tempfile::tempdir().unwrap();
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
    for name in ["tiny-text", "tiny-mm"] {
        let exact = dir.path().join(format!("{name}.gguf"));
        convert(name, Target::F32, &exact);
        let exact = Gguf::open(&exact).unwrap();
        for target in [Target::BF16, Target::Q8_0, Target::Q4KM, Target::Q4_0] {
            let out = dir.path().join(format!("{name}-{target}.gguf"));
            convert(name, target, &out);
            let rounded = Gguf::open(&out).unwrap();
            for tensor in rounded.names().map(|name| rounded.tensor(name).unwrap()) {
                // Relative errors on normally distributed values: half a step over the range of a block.
                let bound = match tensor.dtype {
                    DType::F32 | DType::BF16 => 0.0, // the checkpoint is in BF16
                    DType::Q8_0 => 0.007,
                    DType::Q5_0 => 0.06,
                    DType::Q4_0 => 0.12,
                    other => panic!("{}: {other} in rows of {}", tensor.name, tensor.cols()),
                };
                let (found, wanted) = (tensor.to_f32().unwrap(), exact.tensor(&tensor.name).unwrap().to_f32().unwrap());
                let error = norm(&mut found.iter().zip(&wanted).map(|(f, w)| f - w));
                let error = error / norm(&mut wanted.iter().copied());
                assert!(error <= bound, "{name} {}: {error} in {}", tensor.name, tensor.dtype);
            }
        }
    }
}

#[test]
fn the_configuration_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tiny-text", "tiny-mm", "tiny-mm16", "tiny-nf4"] {
        let (_, converted) = convert(name, Target::BF16, &dir.path().join(format!("{name}.gguf")));
        let (mut found, mut wanted) = (converted.config, open(name).config);
        // A GGUF has no field for the factor on scores: what differs is in the norm of the queries.
        let head_dim = wanted.text.head_dim as f32;
        assert_eq!(found.text.scale, head_dim.powf(-0.5), "{name}");
        found.text.scale = wanted.text.scale;
        // Both ends of a generation are known by their texts, in any order.
        found.tokens.eos.sort_unstable();
        wanted.tokens.eos.sort_unstable();
        // Text-only checkpoints have no such token, and any id past their vocabulary will do.
        if wanted.vision.is_none() {
            found.tokens.image = wanted.tokens.image;
        }
        assert_eq!(found, wanted, "{name}");
    }
}

#[test]
fn the_tokenizer_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tiny-text", "tiny-mm"] {
        let out = dir.path().join(format!("{name}.gguf"));
        convert(name, Target::Q8_0, &out);
        let gguf = Gguf::open(&out).unwrap();
        let found = Tokenizer::from_gguf(&gguf).unwrap();
        let json = std::fs::read(testdata(name).join("tokenizer.json")).unwrap();
        let wanted = Tokenizer::from_json("tokenizer.json", &json).unwrap();
        for case in cases(name) {
            let prompt = case["prompt"].as_str().unwrap();
            for special in [Special::Parse, Special::Plain] {
                assert_eq!(found.encode(prompt, special), wanted.encode(prompt, special), "{name}: {prompt}");
            }
        }
        assert_eq!(gguf.bool("tokenizer.ggml.add_bos_token").unwrap(), Some(true));
        assert_eq!(gguf.u64("tokenizer.ggml.bos_token_id").unwrap(), wanted.id("<bos>").map(u64::from));
        assert_eq!(gguf.u64("tokenizer.ggml.eot_token_id").unwrap(), wanted.id("<end_of_turn>").map(u64::from));
        assert_eq!((found.prefix(), found.suffix()), (wanted.prefix(), wanted.suffix()));
        let template = ChatTemplate::from_gguf(&gguf, &found).unwrap().unwrap();
        let wanted = ChatTemplate::from_folder(&Folder::open(&testdata(name)).unwrap()).unwrap().unwrap();
        assert_eq!(template.source(), wanted.source());
        assert_eq!(gguf.strings("tokenizer.ggml.tokens").unwrap().unwrap().len(), open(name).config.text.vocab);
    }
}

#[test]
fn a_gguf_is_converted_as_its_original_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    convert("tiny-mm", Target::F32, &path("floats.gguf"));
    convert("tiny-mm", Target::Q8_0, &path("direct.gguf"));
    let floats = reopen(&path("floats.gguf"));
    let report = plan("", &floats, None, Target::Q8_0, &path("again.gguf")).unwrap();
    let report = report.run(|_| ControlFlow::Continue(())).unwrap();
    assert!(report.notes.is_empty() && report.mmproj.is_some());
    let (again, direct) = (Gguf::open(&path("again.gguf")).unwrap(), Gguf::open(&path("direct.gguf")).unwrap());
    assert!(again.metadata().eq(direct.metadata()));
    assert!(again.names().eq(direct.names()));
    for name in direct.names() {
        let (found, wanted) = (again.tensor(name).unwrap(), direct.tensor(name).unwrap());
        assert_eq!(found.dtype, wanted.dtype, "{name}");
        assert!(found.bytes[..] == wanted.bytes[..], "{name}");
    }
    let encoder = Gguf::open(&mmproj_path(&path("again.gguf"))).unwrap();
    assert_eq!(encoder.tensor("v.blk.0.ffn_up.weight").unwrap().dtype, DType::F16);
    assert_eq!(encoder.u64("clip.vision.projector.scale_factor").unwrap(), Some(2));

    // Once more: 8 bits to 4 is done, and said.
    let quantized = reopen(&path("again.gguf"));
    let twice = plan("", &quantized, None, Target::Q4_0, &path("twice.gguf")).unwrap();
    assert!(twice.notes()[0].contains("quantized already (Q8_0)"), "{:?}", twice.notes());
    // 8 bits to 8 copies.
    let same = plan("", &quantized, None, Target::Q8_0, &path("same.gguf")).unwrap();
    assert!(same.notes().is_empty());
    same.run(|_| ControlFlow::Continue(())).unwrap();
    assert_eq!(std::fs::read(path("same.gguf")).unwrap(), std::fs::read(path("again.gguf")).unwrap());
}

#[test]
fn a_conversion_that_breaks_off_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model.gguf");
    let files = Folder::open(&testdata("tiny-mm")).unwrap();
    let checkpoint = open("tiny-mm");
    let plan = plan("tiny-mm", &checkpoint, Some(&files), Target::F32, &out).unwrap();
    assert_eq!(plan.paths().collect::<Vec<_>>(), [out.as_path(), &mmproj_path(&out)]);
    let total = plan.bytes();
    let result = plan.run(|progress| {
        assert!(progress.done <= progress.total && progress.total == total);
        if progress.tensor.starts_with("v.") { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(result, Err(Error::Interrupted)));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_the_configuration_claims_is_checked_first() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model.gguf");
    let files = Folder::open(&testdata("tiny-mm")).unwrap();
    let mut checkpoint = open("tiny-mm");
    for (vocab, layers, word) in [(1 << 24, 12, "embed_tokens"), (1024, 13, "layers.12")] {
        checkpoint.config.text.vocab = vocab;
        checkpoint.config.text.global.resize(layers, false);
        let error = plan("tiny-mm", &checkpoint, Some(&files), Target::F32, &out).err().unwrap().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn nothing_is_written_over_unasked() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model.gguf");
    let files = Folder::open(&testdata("tiny-mm")).unwrap();
    let checkpoint = open("tiny-mm");
    let source =
        || Source { name: "tiny-mm", config: &checkpoint.config, weights: &checkpoint.weights, folder: Some(&files) };
    let options = |overwrite: bool| Options { target: Target::Q4_0, overwrite, threads: None };
    std::fs::write(mmproj_path(&out), "mine").unwrap();
    let error = Plan::new(source(), &out, options(false)).err().unwrap().to_string();
    assert!(error.contains("mmproj-model.gguf") && error.contains("--force"), "{error}");
    let report = Plan::new(source(), &out, options(true)).unwrap().run(|_| ControlFlow::Continue(())).unwrap();
    for file in [Some(report.model), report.mmproj].into_iter().flatten() {
        assert_eq!(std::fs::metadata(&file.path).unwrap().len(), file.bytes);
        assert!(file.bits_per_weight() > 4.5, "{}", file.bits_per_weight());
    }

    let converted = reopen(&out);
    let itself = Source { name: "", config: &converted.config, weights: &converted.weights, folder: None };
    let error = Plan::new(itself, &out, options(true)).err().unwrap().to_string();
    assert!(error.contains("is being converted"), "{error}");
    for name in ["model.bin", "mmproj-x.gguf", ""] {
        assert!(matches!(Plan::new(source(), Path::new(name), options(true)), Err(Error::Output { .. })), "{name}");
    }
    let no_tokenizer = Source { folder: None, ..source() };
    let error = Plan::new(no_tokenizer, &dir.path().join("other.gguf"), options(false)).err().unwrap().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
}
