//! Speculation changes nothing but the time: tokens, log-probabilities, how a text ends and what is held in the cache
//! are to the bit those without it, whatever is guessed.

#[allow(dead_code)] // shared with other tests
mod support;

use medgemma_engine::pipeline::{Options, Request};
use medgemma_engine::{
    DraftModel, Drafter, Finish, Generation, LoadOptions, NewToken, Opened, Pipeline, PlacedImage, Progress, Runner,
    RunnerConfig, Sequence, Timings, Work, generate_with,
};
use medgemma_gemma::sampler::Sampling;
use medgemma_kernels::{CacheType, CpuBackend, WeightFormat};
use std::ops::ControlFlow;
use support::{ROUNDED, cases, images, open};

const GREEDY: Generation = Generation {
    max_tokens: 150,
    sampling: Sampling::GREEDY,
    stop_ids: Vec::new(),
    logprobs: Some(3),
    detect_loops: false,
    draft_max: 15,
};

fn runner(name: &str, context: usize, outputs: usize) -> Runner<CpuBackend> {
    let model = open(name).load_cpu(WeightFormat::Stored, Some(2), |_| {}).unwrap();
    let config = RunnerConfig { context, sequences: 1, chunk: 40, outputs, cache: CacheType::F32 };
    Runner::new(model, config).unwrap()
}

/// Numbers that are the same in every run.
struct Random(u32);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 12) as usize % end
    }
}

fn text(seed: u32, len: usize) -> Vec<u32> {
    let mut random = Random(seed);
    std::iter::repeat_with(|| 200 + random.below(480) as u32).take(len).collect()
}

/// Knows how the text goes on, and tells some of it, often with something wrong in it.
struct Teller {
    /// The whole text, prompt included.
    truth: Vec<u32>,
    random: Random,
    /// Of a hundred guesses so many are wrong.
    wrong: usize,
}

impl Drafter for Teller {
    fn draft(&mut self, tokens: &[u32], most: usize, draft: &mut Vec<u32>) {
        assert!(self.truth.starts_with(tokens), "what was taken back is still there");
        // Also more than is allowed, and tokens that no model has.
        for at in tokens.len()..tokens.len() + self.random.below(most + 3) {
            let right = self.truth.get(at).copied().filter(|_| self.random.below(100) >= self.wrong);
            draft.push(right.unwrap_or_else(|| [self.random.below(900) as u32, u32::MAX][self.random.below(20) / 19]));
        }
    }
}

/// Guesses nothing.
struct Silent;

impl Drafter for Silent {
    fn draft(&mut self, _: &[u32], _: usize, _: &mut Vec<u32>) {}
}

/// All that a generation leaves.
#[derive(Debug, PartialEq)]
struct Outcome {
    tokens: Vec<NewToken>,
    finish: Finish,
    generated: usize,
    held: Vec<u32>,
    computed: usize,
    free: (usize, usize),
}

struct Asked<'a> {
    prompt: &'a [u32],
    images: &'a [PlacedImage<CpuBackend>],
    options: &'a Generation,
    /// Tokens after which the listener has had enough.
    cancel: usize,
}

fn run(
    runner: &mut Runner<CpuBackend>,
    sequence: &mut Sequence<CpuBackend>,
    asked: &Asked<'_>,
    drafter: &mut dyn Drafter,
) -> (Outcome, Timings) {
    runner.start(sequence, asked.prompt.to_vec(), asked.images.to_vec()).unwrap();
    let mut tokens = Vec::new();
    let mut on = |progress: Progress<'_>| {
        if let Progress::Token(token) = progress {
            tokens.push(token.clone());
        }
        if tokens.len() < asked.cancel { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let (finish, timings) = generate_with(runner, sequence, asked.options, drafter, &mut on).unwrap();
    let (held, computed) = (sequence.tokens().to_vec(), sequence.computed());
    let (generated, free) = (timings.generated_tokens, runner.free_blocks());
    (Outcome { tokens, finish, generated, held, computed, free }, timings)
}

/// Logits behind what the sequence holds and some more tokens, if there is room for them.
fn go_on(runner: &mut Runner<CpuBackend>, sequence: &mut Sequence<CpuBackend>) -> Vec<f32> {
    let room = runner.config().context.saturating_sub(sequence.tokens().len());
    text(99, room.min(20)).into_iter().for_each(|token| runner.push(sequence, token));
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

/// Holds a generation with guesses to the one without; the text without them.
fn same_with_any_guesses(runner: &mut Runner<CpuBackend>, asked: &Asked<'_>, seed: u32) -> Outcome {
    let free = runner.free_blocks();
    let mut sequence = Sequence::default();
    let longer = Generation { stop_ids: Vec::new(), max_tokens: asked.options.max_tokens + 20, ..GREEDY };
    let (longer, _) =
        run(runner, &mut sequence, &Asked { options: &longer, cancel: usize::MAX, ..*asked }, &mut Silent);
    runner.release(&mut sequence);
    let (plain, timings) = run(runner, &mut sequence, asked, &mut Silent);
    assert_eq!((timings.drafted_tokens, timings.accepted_tokens), (0, 0));
    let after = go_on(runner, &mut sequence);
    runner.release(&mut sequence);
    for (wrong, seed) in [0, 10, 40, 100].into_iter().zip(seed..) {
        let mut teller = Teller { truth: longer.held.clone(), random: Random(seed), wrong };
        let (guessed, timings) = run(runner, &mut sequence, asked, &mut teller);
        assert_eq!(guessed, plain, "{wrong} % wrong");
        assert!(wrong > 0 || plain.generated < 10 || timings.accepted_tokens > 0);
        assert!(timings.accepted_tokens <= timings.drafted_tokens);
        assert_eq!(go_on(runner, &mut sequence), after, "{wrong} % wrong: what is in the cache");
        // The same prompt again keeps what it may.
        let (again, _) = run(runner, &mut sequence, asked, &mut teller);
        assert_eq!(again.tokens, plain.tokens);
        runner.release(&mut sequence);
        assert_eq!(runner.free_blocks(), free, "blocks are lost");
    }
    plain
}

#[test]
fn goldens_with_their_pictures_whatever_is_guessed() {
    for name in ["tiny-text", "tiny-mm", "tiny-mm16"] {
        let mut runner = runner(name, 2048, 16);
        for (seed, case) in (0..).zip(cases(name)) {
            let images = images(&runner, name, &case, ROUNDED, name);
            let ids = |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).unwrap() };
            let (prompt, greedy) = (ids("input_ids"), ids("greedy"));
            let options = Generation { max_tokens: greedy.len(), ..GREEDY };
            let asked = Asked { prompt: &prompt, images: &images, options: &options, cancel: usize::MAX };
            let plain = same_with_any_guesses(&mut runner, &asked, seed * 100);
            assert_eq!(plain.tokens.iter().map(|t| t.id).collect::<Vec<_>>(), greedy);
        }
    }
}

/// The window moves over several blocks while drafts are taken back at every place in a block.
#[test]
fn texts_longer_than_the_window_and_a_block() {
    for (seed, outputs) in [(1, 16), (2, 3), (3, 40)] {
        let mut runner = runner("tiny-mm", 512, outputs);
        for len in [1, 5, 31, 32, 70] {
            let prompt = text(seed, len);
            let options = Generation { draft_max: 39, ..GREEDY };
            let asked = Asked { prompt: &prompt, images: &[], options: &options, cancel: usize::MAX };
            same_with_any_guesses(&mut runner, &asked, seed * 1000 + len as u32);
        }
    }
}

#[test]
fn a_text_ends_inside_a_draft_as_it_does_without() {
    let mut runner = runner("tiny-text", 256, 16);
    let prompt = text(4, 50);
    let asked = Asked { prompt: &prompt, images: &[], options: &GREEDY, cancel: usize::MAX };
    let whole = same_with_any_guesses(&mut runner, &asked, 1);
    for at in 1..40 {
        let options = Generation { max_tokens: at, ..GREEDY };
        let budget = same_with_any_guesses(&mut runner, &Asked { options: &options, ..asked }, 10);
        assert_eq!((budget.finish, budget.tokens.len()), (Finish::Length, at));
        let cancelled = same_with_any_guesses(&mut runner, &Asked { cancel: at, ..asked }, 20);
        assert_eq!((cancelled.finish, cancelled.tokens.len()), (Finish::Cancelled, at));
        let options = Generation { stop_ids: vec![whole.tokens[at].id], ..GREEDY };
        let stopped = same_with_any_guesses(&mut runner, &Asked { options: &options, ..asked }, 30);
        assert!(stopped.finish == Finish::Stop && stopped.tokens.len() <= at);
        assert_eq!(stopped.generated, stopped.tokens.len() + 1);
    }
    // The context ends it.
    let prompt = text(5, 240);
    let full = same_with_any_guesses(&mut runner, &Asked { prompt: &prompt, ..asked }, 40);
    assert_eq!((full.finish, full.held.len()), (Finish::Length, 256));
}

#[test]
fn a_cache_without_room_for_the_draft_has_room_for_the_token() {
    let mut runner = runner("tiny-text", 96, 16);
    let mut other = Sequence::default();
    runner.start(&mut other, text(6, 40), Vec::new()).unwrap();
    runner.step(&mut [Work { sequence: &mut other, tokens: 40 }]).unwrap();
    // One block of three is left: 32 tokens, the last of which needn't be computed.
    let prompt = text(7, 20);
    let options = Generation { max_tokens: 13, ..GREEDY };
    let asked = Asked { prompt: &prompt, images: &[], options: &options, cancel: usize::MAX };
    let mut sequence = Sequence::default();
    let (plain, _) = run(&mut runner, &mut sequence, &asked, &mut Silent);
    runner.release(&mut sequence);
    // It guesses to the end of the budget and one token more than the block holds.
    let options = Generation { max_tokens: 40, ..GREEDY };
    let asked = Asked { options: &options, cancel: 13, ..asked };
    let mut truth = plain.held.clone();
    truth.extend(text(8, 60));
    let (guessed, timings) = run(&mut runner, &mut sequence, &asked, &mut Eager(truth));
    assert_eq!((guessed.tokens, guessed.held, timings.drafted_tokens), (plain.tokens, plain.held, 0));
}

/// Guesses as much as it may.
struct Eager(Vec<u32>);

impl Drafter for Eager {
    fn draft(&mut self, tokens: &[u32], most: usize, draft: &mut Vec<u32>) {
        draft.extend(&self.0[tokens.len()..][..most]);
    }
}

#[test]
fn draws_are_not_guessed() {
    let mut runner = runner("tiny-text", 256, 16);
    let prompt = text(9, 30);
    let sampling = Sampling { seed: 3, ..Sampling::PUBLISHED };
    let options = Generation { sampling, max_tokens: 30, ..GREEDY };
    let asked = Asked { prompt: &prompt, images: &[], options: &options, cancel: usize::MAX };
    let mut sequence = Sequence::default();
    let (_, timings) = run(&mut runner, &mut sequence, &asked, &mut Eager(text(9, 300)));
    assert_eq!(timings.drafted_tokens, 0);
}

/// What a draft model guesses is what it would write, whatever became of its guesses before.
#[test]
fn a_draft_models_cache_follows_rejections() {
    let mut drafter = DraftModel::new(runner("tiny-mm", 400, 1));
    let mut alone = runner("tiny-mm", 400, 1);
    let mut sequence = Sequence::default();
    let mut random = Random(5);
    let mut tokens = text(10, 37);
    while tokens.len() < 380 {
        let most = 1 + random.below(12);
        let options = Generation { max_tokens: most, ..GREEDY };
        let asked = Asked { prompt: &tokens, images: &[], options: &options, cancel: usize::MAX };
        let (plain, _) = run(&mut alone, &mut sequence, &asked, &mut Silent);
        let mut draft = Vec::new();
        // What it has to read first, it reads in pieces.
        while draft.is_empty() {
            drafter.draft(&tokens, most, &mut draft);
        }
        let eos = &alone.model().config().tokens.eos;
        let written: Vec<u32> = plain.tokens.iter().map(|t| t.id).collect();
        let end = written.iter().position(|id| eos.contains(id)).map_or(written.len(), |at| at + 1);
        assert_eq!(draft, written[..end], "at {}", tokens.len());
        // Some are right, then comes something else; now and then many tokens at once, or another text.
        tokens.extend(&draft[..random.below(draft.len() + 1)]);
        match random.below(8) {
            0 => tokens.extend(text(tokens.len() as u32, 30)),
            1 => tokens.truncate(tokens.len() / 2 + 1),
            2 => {}
            _ => tokens.push(random.below(900) as u32),
        }
        if random.below(2) == 0 {
            tokens.push(random.below(900) as u32);
        }
    }
    // Longer than its context: it guesses nothing.
    let mut draft = Vec::new();
    drafter.draft(&text(11, 500), 4, &mut draft);
    assert!(draft.is_empty());
    // A long text is read in pieces before anything is guessed.
    let long = text(12, 200);
    let calls = (0..10).take_while(|_| {
        drafter.draft(&long, 4, &mut draft);
        draft.is_empty()
    });
    assert_eq!(calls.count(), 4);
}

#[test]
fn a_model_that_drafts_for_itself_is_always_right_and_another_changes_nothing() {
    let mut large = runner("tiny-mm", 512, 16);
    let prompt = text(13, 45);
    let asked = Asked { prompt: &prompt, images: &[], options: &GREEDY, cancel: usize::MAX };
    let mut sequence = Sequence::default();
    let (plain, _) = run(&mut large, &mut sequence, &asked, &mut Silent);
    for (name, same) in [("tiny-mm", true), ("tiny-text", false)] {
        let mut drafter = DraftModel::new(runner(name, 512, 1));
        large.release(&mut sequence);
        let (drafted, timings) = run(&mut large, &mut sequence, &asked, &mut drafter);
        assert_eq!(drafted, plain);
        assert!(timings.drafted_tokens > 0);
        assert_eq!(timings.accepted_tokens == timings.drafted_tokens, same, "{name}: {timings:?}");
    }
}

fn load(model: &str) -> Pipeline {
    Pipeline::load_with(model, &LoadOptions { threads: Some(2), ..LoadOptions::default() }, |_| {}).unwrap()
}

/// A note and its repetition: enough of it repeats that guesses are right.
const REPEATED: &str =
    "Findings: the heart is normal. The lungs are clear. Findings: the heart is normal. The lungs are";

#[test]
fn replies_are_the_same_with_stop_strings_and_a_draft_model() {
    let mut pipeline = load("demo");
    let mut accepted = 0;
    let mut both = |pipeline: &mut Pipeline, options: &Options| {
        let request = Request::from(REPEATED).options(options.clone()).greedy();
        let plain = request.clone().options(Options { draft_max: Some(0), ..request.options.clone() });
        pipeline.forget();
        let plain = pipeline.chat(plain).unwrap();
        pipeline.forget();
        let reply = pipeline.chat(request).unwrap();
        assert_eq!((&reply.answer, &reply.thought, &reply.tokens), (&plain.answer, &plain.thought, &plain.tokens));
        assert_eq!((reply.finish, reply.usage), (plain.finish, plain.usage));
        assert_eq!(plain.timings.drafted_tokens, 0);
        accepted += reply.timings.accepted_tokens;
        plain
    };
    let options = Options { max_tokens: Some(120), ignore_eos: true, logprobs: Some(2), ..Options::default() };
    let whole = both(&mut pipeline, &options);
    pipeline.load_draft(Opened::open("demo", None).unwrap(), &LoadOptions::default(), |_| {}).unwrap();
    let thinks = Options { think: true, ignore_eos: false, ..options.clone() };
    let thought = both(&mut pipeline, &thinks);
    for budget in [0, 1, 5, 1000] {
        let reply = both(&mut pipeline, &Options { thought_budget: Some(budget), ..thinks.clone() });
        // The two tokens that mark it aren't counted.
        let taken = reply.tokens.iter().filter(|token| token.thought).count();
        assert!(taken <= budget + 2 && !reply.cut_in_thought && !reply.answer.is_empty(), "{budget}: {reply:?}");
        assert!(budget < 1000 || reply.tokens == thought.tokens, "a budget that isn't reached changes nothing");
    }
    let starts: Vec<usize> = whole.answer.char_indices().map(|(at, _)| at).collect();
    for at in starts.iter().step_by(7) {
        let stop: String = whole.answer[*at..].chars().take(5).collect();
        let reply = both(&mut pipeline, &Options { stop: vec![stop.clone()], ..options.clone() });
        assert_eq!(
            (reply.finish, &reply.answer[..]),
            (Finish::Stop, &whole.answer[..whole.answer.find(&stop).unwrap()])
        );
    }
    // It repeats itself once it may not end.
    let endless = Options { max_tokens: Some(2000), detect_loops: true, ..options.clone() };
    assert_eq!(both(&mut pipeline, &endless).finish, Finish::Loop);
    assert!(accepted > 0, "no guess was right");
}

#[test]
fn a_draft_model_of_another_vocabulary_is_refused() {
    let mut pipeline = load("demo");
    let other = support::testdata("tiny-text");
    let other = Opened::open(other.to_str().unwrap(), None).unwrap();
    let error = pipeline.load_draft(other, &LoadOptions::default(), |_| {}).unwrap_err().to_string();
    assert!(error.contains("vocabular") && error.contains("demo"), "{error}");
}
