//! A sequence that goes on from what was computed before gives the same bits as one computed afresh.

use medgemma_engine::{Checkpoint, PlacedImage, Runner, RunnerConfig, Sequence, Work};
use medgemma_formats::Folder;
use medgemma_kernels::{CacheType, CpuBackend, WeightFormat};
use std::path::Path;

fn runner(threads: usize, chunk: usize) -> Runner<CpuBackend> {
    runner_of(1024, threads, chunk)
}

fn runner_of(context: usize, threads: usize, chunk: usize) -> Runner<CpuBackend> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tiny-mm");
    let checkpoint = Checkpoint::from_folder(&Folder::open(&folder).unwrap()).unwrap();
    let model = checkpoint.load_cpu(WeightFormat::Stored, Some(threads), |_| {}).unwrap();
    Runner::new(model, RunnerConfig { context, sequences: 1, chunk, outputs: 4, cache: CacheType::F32 }).unwrap()
}

fn text(seed: u32, len: usize) -> Vec<u32> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        200 + (state >> 16) % 700
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Logits after the sequence's last token.
fn finish(runner: &mut Runner<CpuBackend>, sequence: &mut Sequence<CpuBackend>) -> Vec<f32> {
    let mut row = 0;
    while sequence.computed() < sequence.tokens().len() {
        let tokens = runner.next_chunk(sequence);
        runner.step(&mut [Work { sequence, tokens }]).unwrap();
        row = tokens as u32 - 1;
    }
    let mut logits = vec![0.0; runner.model().config().text.vocab];
    runner.logits(&[row], &mut logits);
    logits
}

fn fresh(prompt: &[u32], images: &[PlacedImage<CpuBackend>]) -> Vec<f32> {
    let mut runner = runner(1, 64);
    let mut sequence = Sequence::default();
    runner.start(&mut sequence, prompt.to_vec(), images.to_vec()).unwrap();
    finish(&mut runner, &mut sequence)
}

fn image(runner: &Runner<CpuBackend>, start: usize, digest: u8) -> PlacedImage<CpuBackend> {
    let pixels: Vec<f32> =
        (0..56 * 56 * 3).map(|i| ((i * 31 + digest as usize * 977) % 255) as f32 / 127.5 - 1.0).collect();
    PlacedImage { positions: start..start + 4, features: runner.encode_image(&pixels).unwrap(), digest: [digest; 32] }
}

#[test]
fn conversations_that_go_on_branch_off_and_start_over() {
    let mut runner = runner(2, 16);
    let mut sequence = Sequence::default();
    let mut prompt = text(1, 90);
    runner.start(&mut sequence, prompt.clone(), Vec::new()).unwrap();
    assert_eq!(finish(&mut runner, &mut sequence), fresh(&prompt, &[]));
    for token in text(2, 60) {
        runner.push(&mut sequence, token);
        finish(&mut runner, &mut sequence);
    }
    // A follow-up that drops the answer: only the prompt is kept, whose window is still there.
    let branch: Vec<u32> = prompt.iter().copied().chain(text(3, 40)).collect();
    assert_eq!(runner.start(&mut sequence, branch.clone(), Vec::new()).unwrap(), 90);
    assert_eq!(finish(&mut runner, &mut sequence), fresh(&branch, &[]));
    // One that keeps everything.
    let longer: Vec<u32> = branch.iter().copied().chain(text(4, 70)).collect();
    assert_eq!(runner.start(&mut sequence, longer.clone(), Vec::new()).unwrap(), 130);
    assert_eq!(finish(&mut runner, &mut sequence), fresh(&longer, &[]));
    // One that differs early: the window there is gone, so it starts over.
    prompt[20] += 1;
    assert_eq!(runner.start(&mut sequence, prompt.clone(), Vec::new()).unwrap(), 0);
    assert_eq!(finish(&mut runner, &mut sequence), fresh(&prompt, &[]));
    // The same again: all but the last token is kept.
    assert_eq!(runner.start(&mut sequence, prompt.clone(), Vec::new()).unwrap(), 89);
    assert_eq!(finish(&mut runner, &mut sequence), fresh(&prompt, &[]));
}

#[test]
fn images_are_told_apart_by_their_pixels() {
    let mut runner = runner(2, 16);
    let mut sequence = Sequence::default();
    let prompt = text(5, 60);
    let (first, other) = (image(&runner, 30, 1), image(&runner, 30, 2));
    runner.start(&mut sequence, prompt.clone(), vec![first.clone()]).unwrap();
    let one = finish(&mut runner, &mut sequence);
    assert_eq!(one, fresh(&prompt, std::slice::from_ref(&first)));
    assert!(runner.start(&mut sequence, prompt.clone(), vec![other.clone()]).unwrap() <= 30);
    let two = finish(&mut runner, &mut sequence);
    assert_eq!(two, fresh(&prompt, std::slice::from_ref(&other)));
    assert_ne!(one, two);
    assert!(runner.start(&mut sequence, prompt.clone(), Vec::new()).unwrap() <= 30, "an image was taken for text");
}

#[test]
fn sequences_in_one_step_do_not_disturb_one_another() {
    let mut runner = runner(2, 16);
    let prompts = [text(6, 50), text(7, 9), text(8, 33)];
    let mut sequences: Vec<Sequence<CpuBackend>> = prompts.iter().map(|_| Sequence::default()).collect();
    for (sequence, prompt) in sequences.iter_mut().zip(&prompts) {
        runner.start(sequence, prompt.clone(), Vec::new()).unwrap();
    }
    let mut logits = vec![Vec::new(); prompts.len()];
    while sequences.iter().any(|s| s.computed() < s.tokens().len()) {
        let chunks: Vec<usize> = sequences.iter().map(|s| runner.next_chunk(s).min(5)).collect();
        let mut work: Vec<Work<'_, CpuBackend>> = sequences
            .iter_mut()
            .zip(&chunks)
            .filter(|(_, tokens)| **tokens > 0)
            .map(|(sequence, tokens)| Work { sequence, tokens: *tokens })
            .collect();
        runner.step(&mut work).unwrap();
        let mut row = 0;
        for (i, tokens) in chunks.iter().enumerate().filter(|(_, t)| **t > 0) {
            row += *tokens as u32;
            logits[i] = vec![0.0; runner.model().config().text.vocab];
            runner.logits(&[row - 1], &mut logits[i]);
        }
    }
    for (prompt, logits) in prompts.iter().zip(&logits) {
        assert_eq!(logits, &fresh(prompt, &[]));
    }
}

#[test]
fn a_full_cache_is_an_error_and_loses_nothing() {
    let mut runner = runner(1, 16);
    let mut sequences: Vec<Sequence<CpuBackend>> = (0..3).map(|_| Sequence::default()).collect();
    let mut failed = 0;
    for (i, sequence) in sequences.iter_mut().enumerate() {
        runner.start(sequence, text(i as u32, 500), Vec::new()).unwrap();
        while sequence.computed() < 500 {
            let tokens = runner.next_chunk(sequence);
            if runner.step(&mut [Work { sequence, tokens }]).is_err() {
                failed += 1;
                break;
            }
        }
    }
    assert_eq!(failed, 1, "the third sequence doesn't fit");
    sequences.iter_mut().for_each(|s| runner.release(s));
    let mut sequence = Sequence::default();
    let prompt = text(9, 1000);
    runner.start(&mut sequence, prompt.clone(), Vec::new()).unwrap();
    finish(&mut runner, &mut sequence);
}

/// Ten thousand tokens with a window of 12: the local pool has room for a few hundred, so this fails unless blocks are
/// given back as the window moves on.
#[test]
fn a_long_prompt_takes_only_its_window_of_local_blocks() {
    let prompt = text(10, 10_000);
    let logits = [512, 96].map(|chunk| {
        let mut runner = runner_of(10_240, 2, chunk);
        let mut sequence = Sequence::default();
        runner.start(&mut sequence, prompt.clone(), Vec::new()).unwrap();
        finish(&mut runner, &mut sequence)
    });
    assert_eq!(logits[0], logits[1]);
}
