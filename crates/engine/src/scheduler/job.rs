//! One task on its way through the scheduler.

use super::{Mask, Task, Ticket, Update, since};
use crate::error::Error;
use crate::generate::{Finish, Generation, NewToken, Timings};
use crate::loops::LoopDetector;
use crate::outputs::{self, Output};
use crate::runner::Runner;
use crate::sequence::{PlacedImage, Sequence};
use medgemma_gemma::sampler::Sampler;
use medgemma_kernels::Backend;
use std::time::Instant;

pub(super) struct Job<B: Backend> {
    pub(super) ticket: Ticket,
    pub(super) owner: u64,
    /// What it begins with while it waits: the prompt, and what was written before it was put back.
    pub(super) tokens: Vec<u32>,
    pub(super) images: Vec<PlacedImage<B>>,
    /// What it holds while it runs.
    pub(super) sequence: Sequence<B>,
    pub(super) prompt_logprobs: Option<usize>,
    pub(super) scores: Vec<NewToken>,
    /// Its prompt's scores were told, or weren't wanted.
    pub(super) scored: bool,
    pub(super) ended: bool,
    options: Generation,
    masks: Vec<Box<dyn Mask>>,
    sampler: Sampler,
    loops: LoopDetector,
    /// Most tokens: the budget, or what the context has room for.
    most: usize,
    prompt: usize,
    /// When it first began, and when its prompt was computed.
    begun: Option<Instant>,
    read: Option<Instant>,
    timings: Timings,
}

impl<B: Backend> Job<B> {
    pub(super) fn new(ticket: Ticket, task: Task<B>, context: usize) -> Self {
        let prompt = task.tokens.len();
        // A prompt that fills the context still gets the token that comes out of its computation.
        let most = task.generation.max_tokens.min((context - prompt).max(1));
        Self {
            ticket,
            owner: task.owner,
            tokens: task.tokens,
            images: task.images,
            sequence: Sequence::default(),
            prompt_logprobs: task.prompt_logprobs,
            scores: Vec::new(),
            scored: task.prompt_logprobs.is_none(),
            ended: false,
            sampler: Sampler::new(task.generation.sampling),
            options: task.generation,
            masks: task.masks,
            loops: LoopDetector::default(),
            most,
            prompt,
            begun: None,
            read: None,
            timings: Timings::default(),
        }
    }

    /// Whether every token must be computed in its sight.
    pub(super) fn wants_all_rows(&self) -> bool {
        !self.scored
    }

    /// A sequence for it, which shares what it can with `donor`.
    pub(super) fn begin(&self, runner: &mut Runner<B>, donor: &Sequence<B>) -> Result<Sequence<B>, Error> {
        runner.start_from(donor, self.tokens.clone(), self.images.clone())
    }

    /// Takes its sequence; gives how many tokens were known, the first time.
    pub(super) fn started(&mut self, sequence: Sequence<B>) -> Option<usize> {
        let cached = sequence.computed();
        self.tokens = Vec::new();
        self.images = Vec::new();
        self.sequence = sequence;
        match self.begun {
            Some(_) => None,
            None => {
                self.begun = Some(Instant::now());
                self.timings.prompt_tokens = self.prompt - cached;
                Some(cached)
            }
        }
    }

    /// Gives back its blocks, to begin anew later with all its tokens.
    pub(super) fn put_back(&mut self, runner: &mut Runner<B>) {
        self.tokens = self.sequence.tokens().to_vec();
        self.images = self.sequence.images.clone();
        if !self.scored {
            self.scores.clear();
        }
        runner.release(&mut self.sequence);
    }

    /// Whether all its tokens are computed.
    pub(super) fn computed(&self) -> bool {
        self.sequence.computed() == self.sequence.tokens().len()
    }

    /// Whether it has written something and only its last token waits.
    pub(super) fn writes(&self) -> bool {
        self.sequence.tokens().len() - self.sequence.computed() == 1 && self.sequence.tokens().len() > self.prompt
    }

    /// Whether the most likely token is all that it wants of a step.
    pub(super) fn wants_best(&self) -> bool {
        self.masks.iter().all(|mask| mask.is_idle()) && outputs::wants_best(&self.options)
    }

    /// Takes from the logits after its last token what its form doesn't allow.
    pub(super) fn mask_logits(&mut self, logits: Option<&mut [f32]>) -> Result<(), Error> {
        let Some(logits) = logits.filter(|_| self.most > 0) else { return Ok(()) };
        let mut masks = self.masks.iter_mut().filter(|mask| !mask.is_idle());
        masks.try_for_each(|mask| mask.allow(logits)).map_err(Error::Parameter)
    }

    /// Takes the outputs after its last token and tells what comes of them; gives the token to go on with.
    pub(super) fn take(&mut self, output: Output<'_>, tell: &mut dyn FnMut(Update)) -> Option<u32> {
        if !self.scored {
            self.scored = true;
            tell(Update::Scores(std::mem::take(&mut self.scores)));
        }
        if self.read.is_none() {
            self.read = Some(Instant::now());
            self.timings.prompt = since(self.begun);
        }
        if self.most == 0 {
            self.end(Finish::Length, None, tell);
            return None;
        }
        let token = match outputs::choose(output, &mut self.sampler, self.options.logprobs) {
            Ok(token) => token,
            Err(error) => {
                self.ended = true;
                tell(Update::Failed(error));
                return None;
            }
        };
        self.timings.generated_tokens += 1;
        let id = token.id;
        if self.options.stop_ids.contains(&id) {
            self.end(Finish::Stop, Some(token), tell);
            return None;
        }
        self.masks.iter_mut().for_each(|mask| mask.accept(id));
        tell(Update::Token(token));
        if self.options.detect_loops && self.loops.push(id) {
            self.end(Finish::Loop, None, tell);
        } else if self.timings.generated_tokens == self.most {
            self.end(Finish::Length, None, tell);
        }
        Some(id)
    }

    /// What it has taken so far.
    pub(super) fn timings(&self) -> Timings {
        Timings { generation: since(self.read), ..self.timings }
    }

    fn end(&mut self, finish: Finish, token: Option<NewToken>, tell: &mut dyn FnMut(Update)) {
        self.ended = true;
        tell(Update::Ended { finish, timings: self.timings(), token });
    }
}
