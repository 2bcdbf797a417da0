//! Tasks for the scheduler, by themselves and at random.

use medgemma_engine::scheduler::{Task, Ticket, Update};
use medgemma_engine::{
    Checkpoint, Generation, PlacedImage, Progress, Runner, RunnerConfig, Scheduler, SchedulerConfig, Sequence, generate,
};
use medgemma_formats::Folder;
use medgemma_gemma::sampler::Sampling;
use medgemma_kernels::{Backend, CacheType, WeightFormat};
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::Path;

pub(crate) fn runner_on<B: Backend>(backend: B, context: usize, sequences: usize) -> Runner<B> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tiny-mm");
    let checkpoint = Checkpoint::from_folder(&Folder::open(&folder).unwrap()).unwrap();
    let model = checkpoint.load(backend, WeightFormat::Stored, |_| {}).unwrap();
    Runner::new(model, RunnerConfig { context, sequences, chunk: 32, outputs: 8, cache: CacheType::F32 }).unwrap()
}

/// Few rows at once, so that tasks wait for each other.
pub(crate) const CONFIG: SchedulerConfig =
    SchedulerConfig { running: 8, of_one: 8, step_tokens: 32, prompt_tokens_beside: 8, kept: 4 };

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

pub(crate) fn text(seed: u64, len: usize) -> Vec<u32> {
    let mut random = Random(seed);
    std::iter::repeat_with(|| 200 + random.below(700) as u32).take(len).collect()
}

pub(crate) fn image<B: Backend>(runner: &Runner<B>, start: usize, digest: u8) -> PlacedImage<B> {
    let pixels: Vec<f32> =
        (0..56 * 56 * 3).map(|i| ((i * 31 + digest as usize * 977) % 255) as f32 / 127.5 - 1.0).collect();
    PlacedImage { positions: start..start + 4, features: runner.encode_image(&pixels).unwrap(), digest: [digest; 32] }
}

pub(crate) fn generation(max_tokens: usize, sampling: Sampling) -> Generation {
    Generation { max_tokens, sampling, stop_ids: vec![], logprobs: Some(1), detect_loops: false, draft_max: 0 }
}

pub(crate) fn task<B: Backend>(tokens: Vec<u32>, max_tokens: usize) -> Task<B> {
    let generation = generation(max_tokens, Sampling::GREEDY);
    Task { tokens, images: Vec::new(), generation, prompt_logprobs: None, masks: Vec::new(), owner: 0 }
}

pub(crate) fn copy<B: Backend>(task: &Task<B>) -> Task<B> {
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
pub(crate) fn alone<B: Backend>(runner: &mut Runner<B>, task: &Task<B>) -> Vec<(u32, f32)> {
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
pub(crate) type Written = HashMap<Ticket, Vec<(u32, f32)>>;

pub(crate) fn nothing_leaked<B: Backend>(scheduler: &mut Scheduler<B>) {
    scheduler.forget();
    let occupancy = scheduler.occupancy();
    assert_eq!((occupancy.free_blocks, occupancy.held_blocks), (occupancy.total_blocks, (0, 0)), "{occupancy:?}");
}

/// A thousand steps with random tasks and cancels, after which no block may be held; what was done, and what it wrote.
pub(crate) fn random_steps<B: Backend>(scheduler: &mut Scheduler<B>) -> (Vec<(Task<B>, Ticket)>, Written) {
    let mut random = Random(11);
    let pictures: Vec<_> = (0..2).map(|i| image(scheduler.runner(), 10, i)).collect();
    let mut tasks: BTreeMap<Ticket, Task<B>> = BTreeMap::new();
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
