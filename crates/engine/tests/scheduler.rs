//! Many sequences computed together: the same tokens as alone, nothing lost, no block leaked.

mod schedule;

use medgemma_engine::scheduler::{Task, Ticket, Update};
use medgemma_engine::{Finish, Runner, Scheduler, SchedulerConfig, Sequence};
use medgemma_gemma::sampler::Sampling;
use medgemma_kernels::{CpuBackend, Split};
use schedule::{CONFIG, Written, alone, copy, image, nothing_leaked, random_steps, runner_on, task, text};
use std::collections::HashMap;
use std::ops::ControlFlow;

fn runner(context: usize, sequences: usize) -> Runner<CpuBackend> {
    runner_on(CpuBackend::new(Some(2)), context, sequences)
}

fn scheduler(context: usize, sequences: usize) -> Scheduler<CpuBackend> {
    Scheduler::new(runner(context, sequences), CONFIG).unwrap()
}

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
fn nobody_waits_for_all_that_another_asked() {
    let mut scheduler = scheduler(512, 8);
    let of = |owner, seed| Task { owner, ..task(text(seed, 60), 4) };
    for seed in 0..20 {
        scheduler.submit(of(1, seed)).unwrap();
    }
    scheduler.step();
    let one = scheduler.submit(of(2, 99)).unwrap();
    let (mut begun, mut wrote) = (Vec::new(), Vec::new());
    while !scheduler.is_idle() {
        for (ticket, update) in scheduler.step() {
            match update {
                Update::Begun { .. } => begun.push(ticket),
                Update::Token(_) if !wrote.contains(&ticket) => wrote.push(ticket),
                _ => {}
            }
        }
    }
    let before = |tickets: &[Ticket]| tickets.iter().position(|ticket| *ticket == one).unwrap();
    assert_eq!((before(&begun), wrote.len()), (0, 21), "eight had begun before it came");
    assert!(before(&wrote) < 6, "{wrote:?}");
    nothing_leaked(&mut scheduler);
}

#[test]
fn prompts_of_who_writes_are_read_beside_those_of_who_only_asks() {
    let mut scheduler = scheduler(512, 8);
    let of = |owner, seed, len, most| Task { owner, ..task(text(seed, len), most) };
    scheduler.submit(of(2, 1, 8, 400)).unwrap();
    scheduler.step();
    for seed in 0..3 {
        scheduler.submit(of(1, 10 + seed, 400, 1)).unwrap();
    }
    let one = scheduler.submit(of(2, 99, 40, 1)).unwrap();
    let mut steps = 0;
    while !scheduler.step().iter().any(|(ticket, update)| *ticket == one && matches!(update, Update::Token(_))) {
        steps += 1;
        scheduler.submit(of(1, 100 + steps, 400, 1)).unwrap();
        assert!(steps < 15, "half of eight tokens a step are its");
    }
}

#[test]
fn who_fills_the_cache_is_put_back_for_others() {
    let mut scheduler = scheduler(288, 2);
    let of = |owner, seed, most| Task { owner, ..task(text(seed, 40), most) };
    for seed in 0..8 {
        scheduler.submit(of(1, seed, 200)).unwrap();
    }
    while scheduler.occupancy().preempted == 0 {
        scheduler.step();
    }
    let other = scheduler.submit(of(2, 99, 60)).unwrap();
    let mut ended = Vec::new();
    while !ended.contains(&other) {
        let updates = scheduler.step().into_iter();
        ended.extend(updates.filter(|(_, update)| matches!(update, Update::Ended { .. })).map(|(ticket, _)| ticket));
    }
    assert!(ended.len() <= 4, "{} of eight had ended", ended.len() - 1);
}

#[test]
fn an_owner_leaves_room_for_another() {
    let config = SchedulerConfig { of_one: 7, ..CONFIG };
    let mut scheduler = Scheduler::new(runner(512, 8), config).unwrap();
    for seed in 0..20 {
        scheduler.submit(Task { owner: 1, ..task(text(seed, 8), 200) }).unwrap();
    }
    (0..10).for_each(|_| drop(scheduler.step()));
    assert_eq!(scheduler.occupancy().running, 7);
    let other = scheduler.submit(Task { owner: 2, ..task(text(99, 8), 1) }).unwrap();
    let updates: Vec<_> = (0..3).flat_map(|_| scheduler.step()).collect();
    assert!(updates.iter().any(|(ticket, update)| *ticket == other && matches!(update, Update::Token(_))));
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

#[test]
fn a_thousand_random_steps_leak_no_block() {
    let (done, written) = random_steps(&mut scheduler(320, 3));
    let mut runner = runner(320, 1);
    for (task, ticket) in done.iter().step_by(7) {
        assert_eq!(written.get(ticket).cloned().unwrap_or_default(), alone(&mut runner, task));
    }
}

/// The same with a model cut between two devices.
#[test]
fn a_thousand_random_steps_on_two_devices_leak_no_block() {
    let cpu = || CpuBackend::new(Some(1));
    let mut scheduler = Scheduler::new(runner_on(Split::new(cpu(), cpu(), 2), 320, 3), CONFIG).unwrap();
    let (done, written) = random_steps(&mut scheduler);
    let mut runner = runner_on(Split::new(cpu(), cpu(), 2), 320, 1);
    for (task, ticket) in done.iter().step_by(7) {
        assert_eq!(written.get(ticket).cloned().unwrap_or_default(), alone(&mut runner, task));
    }
}
