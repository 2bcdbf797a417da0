//! A model on two devices gives the bits that it gives on one, wherever it is cut. Both devices are the processor here.

#[allow(dead_code)] // shared with other tests
mod support;

use medgemma_engine::scheduler::{Task, Update};
use medgemma_engine::{
    Generation, Progress, Runner, RunnerConfig, Scheduler, SchedulerConfig, Sequence, generate, score,
};
use medgemma_gemma::sampler::Sampling;
use medgemma_kernels::{Backend, CacheType, CpuBackend, Split, WeightFormat};
use std::ops::ControlFlow;
use support::{ROUNDED, cases, ids, images, open};

/// What a model said: token ids and the bits of log-probabilities.
type Said = Vec<(u32, u32)>;

/// With one thread, as two devices have two.
fn cpu() -> CpuBackend {
    CpuBackend::new(Some(1))
}

fn runner<B: Backend>(backend: B, name: &str, format: WeightFormat, sequences: usize) -> Runner<B> {
    let checkpoint = open(name);
    let cache = checkpoint.cache_type(format).unwrap();
    let model = checkpoint.load(backend, format, |_| {}).unwrap();
    Runner::new(model, RunnerConfig { context: 1024, sequences, chunk: 33, outputs: 7, cache }).unwrap()
}

fn generation(max_tokens: usize, draft_max: usize) -> Generation {
    let sampling = Sampling::GREEDY;
    Generation { max_tokens, sampling, stop_ids: Vec::new(), logprobs: Some(1), detect_loops: false, draft_max }
}

/// Scores and answers of each case one after another, guessing ahead, each taken up again by a follow-up.
fn alone<B: Backend>(runner: &mut Runner<B>, name: &str, goldens: &str) -> Said {
    let mut said = Said::new();
    for case in cases(goldens) {
        let pictures = images(runner, goldens, &case, ROUNDED, name);
        let mut tokens = ids(&case["input_ids"]);
        let mut sequence = Sequence::default();
        runner.start(&mut sequence, tokens.clone(), pictures.clone()).unwrap();
        let scores = score(runner, &mut sequence, 0, &mut |_| ControlFlow::Continue(())).unwrap();
        said.extend(scores.iter().map(|score| (score.id, score.logprob.unwrap().to_bits())));
        runner.release(&mut sequence);
        for _ in 0..2 {
            runner.start(&mut sequence, tokens.clone(), pictures.clone()).unwrap();
            let mut on = |progress: Progress<'_>| {
                if let Progress::Token(token) = progress {
                    tokens.push(token.id);
                    said.push((token.id, token.logprob.unwrap().to_bits()));
                }
                ControlFlow::Continue(())
            };
            generate(runner, &mut sequence, &generation(12, 6), &mut on).unwrap();
            tokens.extend(&ids(&case["input_ids"])[..5]);
        }
        assert!(sequence.computed() > 0);
        runner.release(&mut sequence);
    }
    said
}

/// The same cases together, twice: the second time their prompts are known.
fn together<B: Backend>(runner: Runner<B>, name: &str, goldens: &str) -> Said {
    let config = SchedulerConfig { running: 4, of_one: 4, step_tokens: 32, prompt_tokens_beside: 8, kept: 4 };
    let mut scheduler = Scheduler::new(runner, config).unwrap();
    let mut said = Vec::new();
    for _ in 0..2 {
        for case in cases(goldens) {
            let images = images(scheduler.runner(), goldens, &case, ROUNDED, name);
            let generation = generation(10, 0);
            let tokens = ids(&case["input_ids"]);
            let task = Task { tokens, images, generation, prompt_logprobs: None, masks: Vec::new(), owner: 0 };
            scheduler.submit(task).unwrap();
        }
        while !scheduler.is_idle() {
            for (_, update) in scheduler.step() {
                match update {
                    Update::Token(token) => said.push((token.id, token.logprob.unwrap().to_bits())),
                    Update::Failed(error) => panic!("{error}"),
                    Update::Begun { .. } | Update::Ended { .. } | Update::Scores(_) => {}
                }
            }
        }
    }
    said
}

#[test]
fn every_cut_gives_the_bits_of_one_device() {
    for (name, goldens, format) in [
        ("tiny-text", "tiny-text", WeightFormat::Stored),
        ("tiny-mm", "tiny-mm", WeightFormat::Stored),
        ("tiny-mm16-gguf", "tiny-mm16-gguf", WeightFormat::Stored),
        ("tiny-mm16", "tiny-mm16", WeightFormat::Q8),
    ] {
        let mut whole = runner(cpu(), name, format, 1);
        let wanted = alone(&mut whole, name, goldens);
        let wanted_together = together(runner(cpu(), name, format, 4), name, goldens);
        assert!(!wanted.is_empty() && !wanted_together.is_empty());
        let layers = whole.model().config().text.global.len();
        let cuts = [None, None].into_iter().chain((0..=layers).map(Some)).enumerate();
        for (index, boundary) in cuts {
            let backend = || match (index, boundary) {
                (_, Some(boundary)) => Split::new(cpu(), cpu(), boundary),
                (0, None) => Split::only_front(cpu()),
                (_, None) => Split::only_back(cpu()),
            };
            let cut = format!("{name}, {boundary:?} of {layers}");
            assert!(alone(&mut runner(backend(), name, format, 1), name, goldens) == wanted, "{cut}");
            let said = together(runner(backend(), name, format, 4), name, goldens);
            assert!(said == wanted_together, "{cut}, together");
        }
    }
}

/// Each device holds its part and no more: a table that is the output matrix, too, is on both.
#[test]
fn weights_are_where_they_are_computed() {
    let bytes = |backend: Split<CpuBackend, CpuBackend>| {
        let model = open("tiny-mm").load(backend, WeightFormat::F32, |_| {}).unwrap();
        (model.weight_bytes(), model.config().text.vocab * model.config().text.hidden * 4)
    };
    let (whole, table) = bytes(Split::only_front(cpu()));
    for boundary in [0, 2] {
        let (both, _) = bytes(Split::new(cpu(), cpu(), boundary));
        assert!((whole + table..whole + table + table / 8).contains(&both), "{both} where one device has {whole}");
    }
}

/// What doesn't fit is an error of the device that it doesn't fit, and nothing panics.
#[test]
fn too_large_a_context_is_an_error() {
    for boundary in [0, 1, 3] {
        let model = open("tiny-mm").load(Split::new(cpu(), cpu(), boundary), WeightFormat::Stored, |_| {}).unwrap();
        let error = model.caches(1 << 50, 1 << 50, CacheType::F32).err().expect("2^55 tokens have no room");
        assert!(error.to_string().contains("context"), "{error}");
    }
}
