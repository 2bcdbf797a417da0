//! Many sequences at once: continuous batching over a [`Runner`].
//!
//! Each step takes one token of every sequence that writes, and fills the rest of its budget with prompts, which owners
//! share. An owner's tasks begin in the order they came; between owners, those who have fewest running come first, so
//! that nobody waits for all that another has asked. When blocks run out, what was kept of finished sequences goes first;
//! then a sequence is put back into the queue and computed anew later, the youngest of the owner who has most: nothing of
//! it is lost, for logits don't depend on how a prompt was cut or on what is computed beside it. A new prompt shares the
//! blocks of its beginning with a sequence of the same owner that has computed it before.

mod job;
mod plan;
mod prefix;

use crate::error::Error;
use crate::generate::{Finish, Generation, NewToken, Timings};
use crate::outputs::Outputs;
use crate::runner::{Runner, Work};
use crate::sequence::{PlacedImage, Sequence};
use job::Job;
use medgemma_gemma::sampler;
use medgemma_kernels::{BLOCK, Backend};
use prefix::{Found, Kept};
use std::collections::VecDeque;
use std::time::Instant;

/// Tokens that there must be room for behind each sequence when another begins: one that was put back shouldn't be again
/// a few tokens later.
const SPARE: usize = 2 * BLOCK;

/// Sizes of a scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Most sequences that are computed together.
    pub running: usize,
    /// Of these, most of one owner: the others' tasks needn't wait until one of its has ended.
    pub of_one: usize,
    /// Tokens in one step.
    pub step_tokens: usize,
    /// Of these, tokens of prompts where sequences write beside them: each of their tokens waits for the step. An image
    /// is taken whole.
    pub prompt_tokens_beside: usize,
    /// Finished sequences whose keys and values are kept for prompts that begin as they do.
    pub kept: usize,
}

/// Changes logits before each draw: holds an answer to a form, or makes some tokens less likely.
pub trait Mask: Send {
    /// Sets the logits of tokens that may not come next to −∞, or changes others. `logits` is one row, of the model's
    /// vocabulary.
    ///
    /// # Errors
    /// A sentence, when the form can't be followed any further.
    fn allow(&mut self, logits: &mut [f32]) -> Result<(), String>;

    /// Whether [`Mask::allow`] would change nothing now: then logits needn't be fetched for it.
    fn is_idle(&self) -> bool {
        false
    }

    /// Is told of the token that was chosen (but not of one that ends the text).
    fn accept(&mut self, token: u32);

    /// The same form at its present place, for another answer.
    fn fork(&self) -> Box<dyn Mask>;
}

/// What is to be computed.
pub struct Task<B: Backend> {
    /// The prompt.
    pub tokens: Vec<u32>,
    /// Its images.
    pub images: Vec<PlacedImage<B>>,
    /// How to go on from it. [`Generation::draft_max`] means nothing here: nothing is guessed.
    pub generation: Generation,
    /// Score the prompt's tokens first, with this many alternatives to each. Such a prompt is computed whole.
    pub prompt_logprobs: Option<usize>,
    /// What the answer is held to, in the order in which logits are changed.
    pub masks: Vec<Box<dyn Mask>>,
    /// Whose it is: keys and values are shared only between tasks of the same owner, as the time that a prompt takes
    /// tells what was computed before.
    pub owner: u64,
}

/// The name of a task until it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What happened to a task in a step.
#[derive(Debug)]
pub enum Update {
    /// Its prompt is being computed; so many of its tokens were known.
    Begun {
        /// Tokens of the prompt that needn't be computed.
        cached: usize,
    },
    /// Log-probabilities of its prompt's tokens: entry i belongs to token i + 1.
    Scores(Vec<NewToken>),
    /// A token was chosen (not one that ends the text).
    Token(NewToken),
    /// It has ended.
    Ended {
        /// Why.
        finish: Finish,
        /// What it took.
        timings: Timings,
        /// The token that ends the text, where one came; it isn't told as [`Self::Token`].
        token: Option<NewToken>,
    },
    /// It can't be computed.
    Failed(Error),
}

/// How busy a scheduler is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Tasks that have not begun, or were put back.
    pub waiting: usize,
    /// Sequences that are computed together.
    pub running: usize,
    /// Finished sequences that are kept.
    pub kept: usize,
    /// Blocks held by sequences that run, of global layers and of local ones. Shared blocks count once for each holder.
    pub held_blocks: (usize, usize),
    /// Blocks that nobody holds.
    pub free_blocks: (usize, usize),
    /// Blocks of the pools.
    pub total_blocks: (usize, usize),
    /// Times that a sequence was put back, since the beginning.
    pub preempted: u64,
}

/// Computes many tasks together.
pub struct Scheduler<B: Backend> {
    runner: Runner<B>,
    config: SchedulerConfig,
    /// Those that were put back, then the others, oldest first.
    waiting: VecDeque<Job<B>>,
    /// Oldest first.
    running: Vec<Job<B>>,
    kept: Kept<B>,
    logits: Vec<f32>,
    outputs: Outputs,
    next: u64,
    preempted: u64,
}

impl<B: Backend> Scheduler<B> {
    /// Schedules on `runner`, whose steps must have room for all sequences that run and an image beside them.
    ///
    /// # Errors
    /// When they haven't.
    pub fn new(runner: Runner<B>, config: SchedulerConfig) -> Result<Self, Error> {
        let image = runner.model().config().vision.as_ref().map_or(1, |v| v.tokens_per_image);
        let (running, outputs) = (config.running, runner.config().outputs);
        if running == 0 || running > outputs || running + image > runner.rows() {
            let rows = runner.rows();
            let problem = format!("{running} sequences don't fit steps of {rows} tokens and {outputs} outputs");
            return Err(Error::Parameter(problem));
        }
        let (waiting, running, kept) = (VecDeque::new(), Vec::new(), Kept::new(config.kept));
        Ok(Self {
            runner,
            config,
            waiting,
            running,
            kept,
            logits: Vec::new(),
            outputs: Outputs::default(),
            next: 0,
            preempted: 0,
        })
    }

    /// The model and its caches.
    pub fn runner(&self) -> &Runner<B> {
        &self.runner
    }

    /// Puts a task at the end of the queue.
    ///
    /// # Errors
    /// When its prompt is empty, too long or not the model's, or a parameter is out of range.
    pub fn submit(&mut self, task: Task<B>) -> Result<Ticket, Error> {
        task.generation.sampling.check().map_err(Error::Parameter)?;
        self.runner.check_prompt(&task.tokens, &task.images)?;
        let ticket = Ticket(self.next);
        self.next += 1;
        self.waiting.push_back(Job::new(ticket, task, self.runner.config().context));
        Ok(ticket)
    }

    /// Ends a task, which is told nothing more. What was computed is kept for the next.
    pub fn cancel(&mut self, ticket: Ticket) {
        self.waiting.retain(|job| job.ticket != ticket);
        if let Some(at) = self.running.iter().position(|job| job.ticket == ticket) {
            self.retire(at);
        }
    }

    /// What a task that runs has taken so far.
    pub fn timings(&self, ticket: Ticket) -> Option<Timings> {
        self.running.iter().find(|job| job.ticket == ticket).map(Job::timings)
    }

    /// Whether there is nothing to compute.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// How busy it is.
    pub fn occupancy(&self) -> Occupancy {
        let held = self.running.iter().map(|job| job.sequence.held_blocks());
        Occupancy {
            waiting: self.waiting.len(),
            running: self.running.len(),
            kept: self.kept.len(),
            held_blocks: held.fold((0, 0), |sum, held| (sum.0 + held.0, sum.1 + held.1)),
            free_blocks: self.runner.free_blocks(),
            total_blocks: self.runner.total_blocks(),
            preempted: self.preempted,
        }
    }

    /// Gives back what is kept of finished sequences.
    pub fn forget(&mut self) {
        while self.kept.release_oldest(&mut self.runner) {}
    }

    /// Computes one step; tells what happened to each task, in order.
    pub fn step(&mut self) -> Vec<(Ticket, Update)> {
        let mut updates = Vec::new();
        self.admit(&mut updates);
        let Some(chunks) = self.compute(&mut updates) else { return updates };
        let mut first = 0;
        let mut rows = Vec::new();
        for (at, tokens) in chunks.iter().enumerate() {
            let (ticket, last) = (self.running[at].ticket, (first + tokens) as u32);
            if let Err(error) = self.score_prompt(at, first as u32..last) {
                updates.push((ticket, Update::Failed(error)));
                self.running[at].ended = true;
            } else if *tokens > 0 && self.running[at].computed() {
                rows.push((at, last - 1));
            }
            first += tokens;
        }
        self.choose(&rows, &mut updates);
        for at in (0..self.running.len()).rev() {
            if self.running[at].ended {
                self.retire(at);
            }
        }
        updates
    }

    /// Runs the model over a step's tokens; how many of each running sequence. `None` when nothing runs.
    fn compute(&mut self, updates: &mut Vec<(Ticket, Update)>) -> Option<Vec<usize>> {
        loop {
            if self.running.is_empty() {
                return None;
            }
            let chunks = plan::chunks(&self.running, self.config, self.runner.rows());
            let parts = self.running.iter_mut().zip(&chunks).filter(|(_, tokens)| **tokens > 0);
            let mut work: Vec<_> =
                parts.map(|(job, tokens)| Work { sequence: &mut job.sequence, tokens: *tokens }).collect();
            match self.runner.step(&mut work) {
                Ok(()) => return Some(chunks),
                Err(Error::CacheFull { .. }) if self.kept.release_oldest(&mut self.runner) => {}
                Err(Error::CacheFull { .. }) if self.running.len() > 1 => self.preempt(),
                Err(error) => {
                    // It has the machine for itself and still doesn't fit, or the device failed.
                    if let Some(mut job) = self.running.pop() {
                        self.runner.release(&mut job.sequence);
                        updates.push((job.ticket, Update::Failed(error)));
                    }
                }
            }
        }
    }

    /// Puts a sequence back to the front of the queue: the youngest of the owner who has most.
    fn preempt(&mut self) {
        let most = self.running.iter().map(|job| self.running_of(job.owner)).max();
        let Some(at) = self.running.iter().rposition(|job| Some(self.running_of(job.owner)) == most) else { return };
        let mut job = self.running.remove(at);
        job.put_back(&mut self.runner);
        self.waiting.push_front(job);
        self.preempted += 1;
    }

    /// Takes a job out; its sequence is kept.
    fn retire(&mut self, at: usize) {
        let job = self.running.remove(at);
        self.kept.keep(job.owner, job.sequence, &mut self.runner);
    }

    /// Scores what the step computed of a prompt whose scores are wanted.
    fn score_prompt(&mut self, at: usize, rows: std::ops::Range<u32>) -> Result<(), Error> {
        let job = &mut self.running[at];
        let Some(count) = job.prompt_logprobs.filter(|_| !job.scored && !rows.is_empty()) else { return Ok(()) };
        let vocab = self.runner.model().config().text.vocab;
        let outputs = self.runner.config().outputs.max(1);
        let first = job.sequence.computed() - rows.len();
        // The last token's logits are those of the first new token.
        let end = rows.end - u32::from(job.computed());
        let rows: Vec<u32> = (rows.start..end).collect();
        for (group, part) in rows.chunks(outputs).enumerate() {
            self.logits.resize(part.len() * vocab, 0.0);
            self.runner.logits(part, &mut self.logits);
            for (row, logits) in self.logits.chunks_exact(vocab).enumerate() {
                let id = job.sequence.tokens()[first + group * outputs + row + 1];
                let (logprob, top) = sampler::logprobs(logits, id, count);
                if !logprob.is_finite() {
                    return Err(Error::NotFinite);
                }
                job.scores.push(NewToken { id, logprob: Some(logprob), top });
            }
        }
        Ok(())
    }

    /// Chooses a token for each job whose text is computed, from its row of the step.
    fn choose(&mut self, rows: &[(usize, u32)], updates: &mut Vec<(Ticket, Update)>) {
        for part in rows.chunks(self.runner.config().outputs.max(1)) {
            let wanted: Vec<u32> = part.iter().map(|(_, row)| *row).collect();
            let best_only = part.iter().all(|(at, _)| self.running[*at].wants_best());
            self.outputs.fetch(&mut self.runner, &wanted, best_only);
            for (row, (at, _)) in part.iter().enumerate() {
                let job = &mut self.running[*at];
                let ticket = job.ticket;
                if let Err(error) = job.mask_logits(self.outputs.logits_mut(row)) {
                    job.ended = true;
                    updates.push((ticket, Update::Failed(error)));
                    continue;
                }
                if let Some(next) = job.take(self.outputs.row(row), &mut |update| updates.push((ticket, update))) {
                    self.runner.push(&mut job.sequence, next);
                }
            }
        }
    }

    /// Begins waiting tasks as long as there is room for them.
    fn admit(&mut self, updates: &mut Vec<(Ticket, Update)>) {
        while self.running.len() < self.config.running {
            let mut next = self.next_tasks().into_iter().map(|at| (at, self.donor(at)));
            let Some((at, donor)) = next.find(|(_, donor)| !matches!(donor, Found::Soon)) else { return };
            let nothing = Sequence::default();
            let donor = match donor {
                Found::Running(at) => &self.running[at].sequence,
                Found::Kept(at) => self.kept.sequence(at),
                Found::None | Found::Soon => &nothing,
            };
            let Some(mut job) = self.waiting.remove(at) else { return };
            let mut sequence = match job.begin(&mut self.runner, donor) {
                Ok(sequence) => sequence,
                Err(error) => {
                    updates.push((job.ticket, Update::Failed(error)));
                    continue;
                }
            };
            if !self.make_room(&sequence) {
                self.runner.release(&mut sequence);
                self.waiting.insert(at, job);
                return;
            }
            if let Some(cached) = job.started(sequence) {
                updates.push((job.ticket, Update::Begun { cached }));
            }
            let at = self.running.partition_point(|other| other.ticket < job.ticket);
            self.running.insert(at, job);
        }
    }

    /// Which of the waiting tasks may begin, the best first: each owner's oldest, or what was put back of theirs; those of
    /// owners who have fewest running before the others.
    fn next_tasks(&self) -> Vec<usize> {
        let mut owners: Vec<(usize, u64)> = Vec::new();
        for (at, job) in self.waiting.iter().enumerate() {
            if owners.iter().all(|(_, owner)| *owner != job.owner) {
                owners.push((at, job.owner));
            }
        }
        owners.retain(|(_, owner)| self.running_of(*owner) < self.config.of_one);
        owners.sort_by_key(|(_, owner)| self.running_of(*owner));
        owners.into_iter().map(|(at, _)| at).collect()
    }

    fn running_of(&self, owner: u64) -> usize {
        self.running.iter().filter(|job| job.owner == owner).count()
    }

    /// Whether there are blocks for a sequence's tokens and [`SPARE`] more, beside the same for those that run; frees
    /// what is kept for it. A sequence that is alone always begins.
    fn make_room(&mut self, sequence: &Sequence<B>) -> bool {
        let needs = |sequence: &Sequence<B>| self.runner.blocks_for(sequence, SPARE);
        let mut needed = needs(sequence);
        for job in &self.running {
            let more = needs(&job.sequence);
            needed = (needed.0 + more.0, needed.1 + more.1);
        }
        loop {
            let free = self.runner.free_blocks();
            if free.0 >= needed.0 && free.1 >= needed.1 {
                return true;
            }
            if !self.kept.release_oldest(&mut self.runner) {
                return self.running.is_empty();
            }
        }
    }
}

/// Time since the beginning of what a job does.
fn since(begun: Option<Instant>) -> std::time::Duration {
    begun.map_or_else(Default::default, |begun| begun.elapsed())
}
