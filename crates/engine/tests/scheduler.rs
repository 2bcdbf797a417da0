//! Many sequences computed together: the same tokens as alone, nothing lost, no block leaked.

use medgemma_engine::scheduler::{Task, Ticket, Update};
use medgemma_engine::{
    Checkpoint, Finish, Generation, PlacedImage, Progress, Runner, RunnerConfig, Scheduler, SchedulerConfig, Sequence,
    generate,
};
use medgemma_formats::Folder;
use medgemma_gemma::sampler::Sampling;
use medgemma_kernels::{AnyBackend, Backend, CacheType, CpuBackend, CudaBackend, WeightFormat};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

fn runner(context: usize, sequences: usize) -> Runner<CpuBackend> {
    runner_on(CpuBackend::new(Some(2)), context, sequences)
}

fn runner_on<B: Backend>(backend: B, context: usize, sequences: usize) -> Runner<B> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tiny-mm");
    let checkpoint = Checkpoint::from_folder(&Folder::open(&folder).unwrap()).unwrap();
    let model = checkpoint.load(backend, WeightFormat::Stored, |_| {}).unwrap();
    Runner::new(model, RunnerConfig { context, sequences, chunk: 32, outputs: 8, cache: CacheType::F32 }).unwrap()
}

const CONFIG: SchedulerConfig = SchedulerConfig { running: 8, step_tokens: 32, prompt_tokens_beside: 8, kept: 4 };

fn scheduler(context: usize, sequences: usize) -> Scheduler<CpuBackend> {
    Scheduler::new(runner(context, sequences), CONFIG).unwrap()
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

fn text(seed: u64, len: usize) -> Vec<u32> {
    let mut random = Random(seed);
    std::iter::repeat_with(|| 200 + random.below(700) as u32).take(len).collect()
}

fn image<B: Backend>(runner: &Runner<B>, start: usize, digest: u8) -> PlacedImage<B> {
    let pixels: Vec<f32> =
        (0..56 * 56 * 3).map(|i| ((i * 31 + digest as usize * 977) % 255) as f32 / 127.5 - 1.0).collect();
    PlacedImage { positions: start..start + 4, features: runner.encode_image(&pixels).unwrap(), digest: [digest; 32] }
}

fn generation(max_tokens: usize, sampling: Sampling) -> Generation {
    Generation { max_tokens, sampling, stop_ids: vec![], logprobs: Some(1), detect_loops: false, draft_max: 0 }
}

fn task<B: Backend>(tokens: Vec<u32>, max_tokens: usize) -> Task<B> {
    let generation = generation(max_tokens, Sampling::GREEDY);
    Task { tokens, images: Vec::new(), generation, prompt_logprobs: None, masks: Vec::new(), owner: 0 }
}

fn copy<B: Backend>(task: &Task<B>) -> Task<B> {
    Task {
        tokens: task.tokens.clone(),
        images: task.images.clone(),
        generation: task.generation.clone(),
        prompt_logprobs: task.prompt_logprobs,
        masks: task.masks.iter().map(|mask| mask.fork()).collect(),
        owner: task.owner,
    }
}

/// The tokens of a task computed by itself, with their log-probabilities.
fn alone(runner: &mut Runner<CpuBackend>, task: &Task<CpuBackend>) -> Vec<(u32, f32)> {
    let mut sequence = Sequence::default();
    runner.start(&mut sequence, task.tokens.clone(), task.images.clone()).unwrap();
    let mut tokens = Vec::new();
    let mut on = |progress: Progress<'_>| {
        if let Progress::Token(token) = progress {
            tokens.push((token.id, token.logprob.unwrap()));
        }
        ControlFlow::Continue(())
    };
    generate(runner, &mut sequence, &task.generation, &mut on).unwrap();
    runner.release(&mut sequence);
    tokens
}

/// Each task's tokens, with their log-probabilities.
type Written = HashMap<Ticket, Vec<(u32, f32)>>;

/// Runs until nothing is left; the tokens of each task, and how many of its prompt's tokens were known.
fn finish(scheduler: &mut Scheduler<CpuBackend>) -> (Written, HashMap<Ticket, usize>) {
    let (mut tokens, mut known) = (Written::new(), HashMap::new());
    while !scheduler.is_idle() {
        for (ticket, update) in scheduler.step() {
            match update {
                Update::Begun { cached } => drop(known.insert(ticket, cached)),
                Update::Token(token) => tokens.entry(ticket).or_default().push((token.id, token.logprob.unwrap())),
                Update::Failed(error) => panic!("{error}"),
                Update::Ended { .. } | Update::Scores(_) => {}
            }
        }
    }
    (tokens, known)
}

fn nothing_leaked<B: Backend>(scheduler: &mut Scheduler<B>) {
    scheduler.forget();
    let occupancy = scheduler.occupancy();
    assert_eq!((occupancy.free_blocks, occupancy.held_blocks), (occupancy.total_blocks, (0, 0)), "{occupancy:?}");
}

#[test]
fn together_gives_the_bits_that_alone_gives() {
    let mut scheduler = scheduler(512, 4);
    let picture = image(scheduler.runner(), 20, 1);
    let mut tasks: Vec<_> = (0..12).map(|i| task(text(i, 5 + 17 * i as usize), 20 + i as usize)).collect();
    tasks[3].images.push(picture.clone());
    tasks[7].images.push(picture);
    tasks[5].generation.sampling = Sampling { seed: 7, ..Sampling::PUBLISHED };
    let tickets: Vec<_> = tasks.iter().map(|task| scheduler.submit(copy(task)).unwrap()).collect();
    let (tokens, _) = finish(&mut scheduler);
    nothing_leaked(&mut scheduler);
    let mut runner = runner(512, 1);
    for (task, ticket) in tasks.iter().zip(&tickets) {
        assert_eq!(tokens[ticket], alone(&mut runner, task), "prompt of {}", task.tokens.len());
    }
}

#[test]
fn a_sequence_that_is_put_back_loses_nothing() {
    let mut scheduler = scheduler(288, 2);
    let tasks: Vec<_> = (0..4).map(|i| task(text(i, 40), 200)).collect();
    let tickets: Vec<_> = tasks.iter().map(|task| scheduler.submit(copy(task)).unwrap()).collect();
    let (tokens, _) = finish(&mut scheduler);
    assert!(scheduler.occupancy().preempted > 0);
    nothing_leaked(&mut scheduler);
    let mut runner = runner(288, 1);
    for (task, ticket) in tasks.iter().zip(&tickets) {
        assert_eq!(tokens[ticket], alone(&mut runner, task));
    }
}

#[test]
fn a_common_beginning_is_computed_once_and_only_for_its_owner() {
    let mut scheduler = scheduler(512, 4);
    let shared = text(1, 96);
    let with = |seed, len| shared.iter().copied().chain(text(seed, len)).collect::<Vec<_>>();
    let mut tasks = [task(with(2, 30), 8), task(with(2, 30), 8), task(with(3, 10), 8), task(with(4, 40), 8)];
    tasks[1].generation.sampling = Sampling { seed: 1, ..Sampling::PUBLISHED };
    tasks[3].owner = 1;
    let tickets: Vec<_> = tasks.iter().map(|task| scheduler.submit(copy(task)).unwrap()).collect();
    let (tokens, known) = finish(&mut scheduler);
    assert_eq!(tickets.iter().map(|t| known[t]).collect::<Vec<_>>(), [0, 96, 96, 0]);
    let mut runner = runner(512, 1);
    for (task, ticket) in tasks.iter().zip(&tickets) {
        assert_eq!(tokens[ticket], alone(&mut runner, task));
    }
    // A follow-up on a kept sequence, answer included, and a picture where another one was.
    let so_far = tasks[0].tokens.iter().copied().chain(tokens[&tickets[0]].iter().map(|t| t.0));
    let mut more = task(so_far.chain(text(9, 20)).collect(), 8);
    more.images.push(image(scheduler.runner(), 100, 1));
    let ticket = scheduler.submit(copy(&more)).unwrap();
    let (tokens, known) = finish(&mut scheduler);
    assert_eq!((known[&ticket], &tokens[&ticket]), (96, &alone(&mut runner, &more)));
    nothing_leaked(&mut scheduler);
}

#[test]
fn prompts_are_scored_whole() {
    let mut scheduler = scheduler(512, 4);
    let prompt = text(5, 77);
    let plain = scheduler.submit(task(prompt.clone(), 0)).unwrap();
    let scored = scheduler.submit(Task { prompt_logprobs: Some(2), ..task(prompt.clone(), 0) }).unwrap();
    let mut scores = Vec::new();
    while !scheduler.is_idle() {
        for (ticket, update) in scheduler.step() {
            match update {
                Update::Scores(found) => scores.push((ticket, found)),
                Update::Ended { finish, .. } => assert_eq!(finish, Finish::Length),
                Update::Begun { .. } => {}
                other => panic!("{plain:?} {other:?}"),
            }
        }
    }
    let mut runner = runner(512, 1);
    let mut sequence = Sequence::default();
    runner.start(&mut sequence, prompt, Vec::new()).unwrap();
    let wanted = medgemma_engine::score(&mut runner, &mut sequence, 2, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(scores, [(scored, wanted)]);
}

#[test]
fn a_long_prompt_lets_others_write() {
    let mut scheduler = scheduler(512, 4);
    let writer = scheduler.submit(task(text(1, 8), 30)).unwrap();
    scheduler.step();
    let long = scheduler.submit(task(text(2, 400), 1)).unwrap();
    for _ in 0..25 {
        let updates = scheduler.step();
        let wrote = updates.iter().any(|(t, u)| *t == writer && matches!(u, Update::Token(_)));
        assert!(wrote && !updates.iter().any(|(t, u)| *t == long && matches!(u, Update::Token(_))));
    }
}

/// A thousand steps with random tasks and cancels, after which no block may be held; what was done, and what it wrote.
fn random_steps<B: Backend>(scheduler: &mut Scheduler<B>) -> (Vec<(Task<B>, Ticket)>, Written) {
    let mut random = Random(11);
    let pictures: Vec<_> = (0..2).map(|i| image(scheduler.runner(), 10, i)).collect();
    let mut tasks: HashMap<Ticket, Task<B>> = HashMap::new();
    let mut written = Written::new();
    let mut done = Vec::new();
    for _ in 0..1000 {
        if random.below(3) == 0 && scheduler.occupancy().waiting < 12 {
            // Few beginnings, so that many are shared.
            let mut tokens = text(random.below(3) as u64, 20 + random.below(20));
            tokens.extend(text(random.below(1000) as u64, 1 + random.below(10)));
            let most = if random.below(2) == 0 { random.below(16) } else { 200 + random.below(60) };
            let mut task = task(tokens, most);
            task.owner = random.below(2) as u64;
            task.images.extend(pictures.get(random.below(4)).cloned());
            tasks.insert(scheduler.submit(copy(&task)).unwrap(), task);
        }
        if random.below(60) == 0
            && let Some(ticket) = tasks.keys().nth(random.below(tasks.len().max(1))).copied()
        {
            scheduler.cancel(ticket);
            tasks.remove(&ticket);
        }
        for (ticket, update) in scheduler.step() {
            assert!(tasks.contains_key(&ticket), "an ended task was told something");
            match update {
                Update::Token(token) => written.entry(ticket).or_default().push((token.id, token.logprob.unwrap())),
                Update::Ended { .. } => done.push((tasks.remove(&ticket).unwrap(), ticket)),
                Update::Failed(error) => panic!("{error}"),
                Update::Begun { .. } | Update::Scores(_) => {}
            }
        }
    }
    let occupancy = scheduler.occupancy();
    assert!(occupancy.preempted > 0 && done.len() > 15, "{} done, {occupancy:?}", done.len());
    for ticket in tasks.into_keys() {
        scheduler.cancel(ticket);
    }
    assert!(scheduler.is_idle());
    nothing_leaked(scheduler);
    (done, written)
}

#[test]
fn a_thousand_random_steps_leak_no_block() {
    let (done, written) = random_steps(&mut scheduler(320, 3));
    let mut runner = runner(320, 1);
    for (task, ticket) in done.iter().step_by(7) {
        assert_eq!(written.get(ticket).cloned().unwrap_or_default(), alone(&mut runner, task));
    }
}

/// The same on an NVIDIA card, where there is one. Log-probabilities depend there on how many rows are computed together.
#[test]
fn a_thousand_random_steps_leak_no_block_on_a_card() {
    let backend = match CudaBackend::new(0) {
        Ok(backend) => AnyBackend::only_back(backend),
        Err(error) => return println!("skipped: {error}"),
    };
    let mut scheduler = Scheduler::new(runner_on(backend, 320, 3), CONFIG).unwrap();
    let (done, written) = random_steps(&mut scheduler);
    for (task, ticket) in done {
        let tokens = written.get(&ticket).map_or(0, Vec::len);
        assert!(tokens <= task.generation.max_tokens);
        assert!(written.get(&ticket).into_iter().flatten().all(|(_, logprob)| logprob.is_finite()));
    }
}
