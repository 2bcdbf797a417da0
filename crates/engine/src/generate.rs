//! From a started sequence to new tokens, one sequence at a time.

use crate::error::Error;
use crate::loops::LoopDetector;
use crate::outputs::{self, Outputs};
use crate::runner::{Runner, Work};
use crate::scheduler::Mask;
use crate::sequence::Sequence;
use crate::speculate::{Drafter, Speculator};
use medgemma_gemma::sampler::{self, Sampler, Sampling, TokenLogprob};
use medgemma_kernels::Backend;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// How to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Most new tokens.
    pub max_tokens: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// Ids that end the text; empty to go on until the budget ends.
    pub stop_ids: Vec<u32>,
    /// Report each token's log-probability and this many alternatives.
    pub logprobs: Option<usize>,
    /// End a text that repeats itself without end.
    pub detect_loops: bool,
    /// Most tokens that are guessed and then verified in one step, where tokens are chosen greedily (draws are never
    /// guessed); 0 to guess none. [`RunnerConfig::outputs`](crate::RunnerConfig::outputs) limits it, too. Neither tokens
    /// nor their log-probabilities depend on it.
    pub draft_max: usize,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its turn, or a stop string came.
    Stop,
    /// The budget of tokens, or the context, was used up.
    Length,
    /// The text repeated itself without end.
    Loop,
    /// The caller wanted no more.
    Cancelled,
}

/// A token and what is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct NewToken {
    /// Its id.
    pub id: u32,
    /// Its log-probability, when asked for.
    pub logprob: Option<f32>,
    /// The most likely tokens in its place, most likely first.
    pub top: Vec<TokenLogprob>,
}

/// What happens while generating.
#[derive(Debug)]
pub enum Progress<'a> {
    /// So many of the prompt's tokens are computed.
    Prompt {
        /// Tokens computed.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// A token was chosen (not one that ends the text).
    Token(&'a NewToken),
}

/// What a generation took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Prompt tokens that were computed (the others were in the cache).
    pub prompt_tokens: usize,
    /// Time until the prompt was computed.
    pub prompt: Duration,
    /// Tokens chosen, one that ended the text included.
    pub generated_tokens: usize,
    /// Time for all of them but the first, which comes out of the prompt's computation.
    pub generation: Duration,
    /// Tokens that were guessed and verified.
    pub drafted_tokens: usize,
    /// Of these, tokens that were right.
    pub accepted_tokens: usize,
}

/// Computes what is waiting of the prompt, then chooses tokens until one of [`Finish`]'s reasons holds.
///
/// `on` is told of progress and may end the generation. Tokens are added to the sequence as they are chosen; one that
/// ends the text is not. Where it pays, what the text repeats of itself is guessed (see [`Generation::draft_max`]).
///
/// # Errors
/// When a parameter is out of range, nothing waits to be computed, the cache is full, or the model computes something
/// that is not a number.
pub fn generate<B: Backend>(
    runner: &mut Runner<B>,
    sequence: &mut Sequence<B>,
    options: &Generation,
    on: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<(Finish, Timings), Error> {
    generate_with(runner, sequence, options, &mut Speculator::default(), on)
}

/// As [`generate`], with guesses from `drafter`. Whatever it guesses, the tokens are the same.
///
/// # Errors
/// As [`generate`].
pub fn generate_with<B: Backend>(
    runner: &mut Runner<B>,
    sequence: &mut Sequence<B>,
    options: &Generation,
    drafter: &mut dyn Drafter,
    on: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<(Finish, Timings), Error> {
    generate_held(runner, sequence, options, drafter, None, on)
}

/// As [`generate_with`], with `mask` changing logits before each draw. While it isn't idle nothing is guessed.
///
/// # Errors
/// As [`generate`], and when the mask can't be followed.
pub fn generate_held<B: Backend>(
    runner: &mut Runner<B>,
    sequence: &mut Sequence<B>,
    options: &Generation,
    drafter: &mut dyn Drafter,
    mask: Option<&mut dyn Mask>,
    on: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<(Finish, Timings), Error> {
    options.sampling.check().map_err(Error::Parameter)?;
    let mut timings = Timings::default();
    let begun = Instant::now();
    let waiting = sequence.tokens().len() - sequence.computed();
    let Some(row) = prefill(runner, sequence, on)? else { return Ok((Finish::Cancelled, timings)) };
    timings.prompt_tokens = waiting;
    timings.prompt = begun.elapsed();
    if options.max_tokens == 0 {
        return Ok((Finish::Length, timings));
    }
    let vocab = runner.model().config().text.vocab;
    let most = match options.sampling.is_greedy() {
        true => options.draft_max.min(runner.config().outputs.max(1) - 1),
        false => 0,
    };
    let mut outputs = Outputs::default();
    let best_only = outputs::wants_best(options);
    let mut draft = Vec::with_capacity(most);
    let (room, begun) = (runner.config().context.saturating_sub(sequence.tokens().len()), Instant::now());
    let mut writer = Writer::new(options, room, timings, mask.map(|mask| mask as &mut dyn Mask), on);
    outputs.fetch(runner, &[row], best_only && writer.is_free());
    loop {
        let chosen = writer.choose(&mut outputs, &draft, begun);
        // What was guessed wrong is taken back also when the model failed.
        runner.settle(sequence, writer.kept);
        let Chosen { next, finish } = chosen?;
        if let Some(next) = next {
            runner.push(sequence, next);
        }
        if let Some(finish) = finish {
            return Ok((finish, writer.timings));
        }
        draft.clear();
        // The step gives one token more than were guessed.
        let most = most.min(writer.left() - 1);
        if most > 0 && writer.is_free() {
            drafter.draft(sequence.tokens(), most, &mut draft);
            let usable = draft.iter().take(most).take_while(|id| (**id as usize) < vocab).count();
            draft.truncate(usable);
        }
        let begun = Instant::now();
        verify(runner, sequence, &mut draft)?;
        let rows: Vec<u32> = (0..=draft.len() as u32).collect();
        outputs.fetch(runner, &rows, best_only && writer.is_free());
        drafter.took(draft.len() + 1, begun.elapsed());
    }
}

/// Computes the waiting token and a draft behind it. Where the cache has no room for the draft, it is dropped.
fn verify<B: Backend>(runner: &mut Runner<B>, sequence: &mut Sequence<B>, draft: &mut Vec<u32>) -> Result<(), Error> {
    draft.iter().for_each(|id| runner.draft(sequence, *id));
    match runner.step(&mut [Work { sequence, tokens: 1 + draft.len() }]) {
        Err(Error::CacheFull { .. }) if !draft.is_empty() => {
            draft.clear();
            runner.settle(sequence, 0);
            runner.step(&mut [Work { sequence, tokens: 1 }])?;
        }
        done => done?,
    }
    Ok(())
}

/// Chooses tokens and tells of them, one after the other, until there is a reason to end.
struct Writer<'a> {
    options: &'a Generation,
    sampler: Sampler,
    loops: LoopDetector,
    /// Most tokens: the budget, or what the context has room for.
    most: usize,
    /// Tokens of the last draft that stay, as if they had been computed one by one.
    kept: usize,
    timings: Timings,
    mask: Option<&'a mut dyn Mask>,
    on: &'a mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
}

/// What a step's logits gave.
struct Chosen {
    /// The token behind those of the draft that stay, yet to be computed; none when the text ended without one.
    next: Option<u32>,
    finish: Option<Finish>,
}

impl<'a> Writer<'a> {
    /// `room` is how many tokens the context can still hold.
    fn new(
        options: &'a Generation,
        room: usize,
        timings: Timings,
        mask: Option<&'a mut dyn Mask>,
        on: &'a mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Self {
        let sampler = Sampler::new(options.sampling);
        // A prompt that fills the context still gets the token that comes out of its computation.
        let most = options.max_tokens.min(room.max(1));
        Self { options, sampler, loops: LoopDetector::default(), most, kept: 0, timings, mask, on }
    }

    /// Whether nothing changes logits now.
    fn is_free(&self) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask.is_idle())
    }

    /// Tokens that may still be chosen.
    fn left(&self) -> usize {
        self.most - self.timings.generated_tokens
    }

    /// Chooses tokens as long as the draft has guessed them, and the one after. Row i of `outputs`, of which there is
    /// one more than guesses, stands before guess i.
    fn choose(&mut self, outputs: &mut Outputs, draft: &[u32], begun: Instant) -> Result<Chosen, Error> {
        self.timings.drafted_tokens += draft.len();
        self.kept = 0;
        loop {
            if let (Some(mask), Some(logits)) = (&mut self.mask, outputs.logits_mut(self.kept)) {
                mask.allow(logits).map_err(Error::Parameter)?;
            }
            let token = outputs::choose(outputs.row(self.kept), &mut self.sampler, self.options.logprobs)?;
            self.timings.generated_tokens += 1;
            self.timings.generation = begun.elapsed();
            if self.options.stop_ids.contains(&token.id) {
                return Ok(Chosen { next: None, finish: Some(Finish::Stop) });
            }
            if let Some(mask) = &mut self.mask {
                mask.accept(token.id);
            }
            // Behind a token that ends the mask's rest, logits must be asked for anew.
            let guessed = draft.get(self.kept) == Some(&token.id) && self.is_free();
            self.timings.accepted_tokens += usize::from(guessed);
            let finish = self.tell(&token);
            // The last token of a text waits to be computed, whether it was guessed or not.
            if finish.is_some() || !guessed {
                return Ok(Chosen { next: Some(token.id), finish });
            }
            self.kept += 1;
        }
    }

    /// Tells of a token; the reason to end after it, if there is one.
    fn tell(&mut self, token: &NewToken) -> Option<Finish> {
        if (self.on)(Progress::Token(token)).is_break() {
            return Some(Finish::Cancelled);
        }
        if self.options.detect_loops && self.loops.push(token.id) {
            return Some(Finish::Loop);
        }
        (self.left() == 0).then_some(Finish::Length)
    }
}

/// Computes all waiting tokens; the row of the last one in its step, or `None` when the caller ended it.
fn prefill<B: Backend>(
    runner: &mut Runner<B>,
    sequence: &mut Sequence<B>,
    on: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Option<u32>, Error> {
    let total = sequence.tokens().len();
    if sequence.computed() == total {
        return Err(Error::EmptyPrompt);
    }
    let mut row = 0;
    while sequence.computed() < total {
        if on(Progress::Prompt { done: sequence.computed(), total }).is_break() {
            return Ok(None);
        }
        let tokens = runner.next_chunk(sequence);
        runner.step(&mut [Work { sequence, tokens }])?;
        row = tokens as u32 - 1;
    }
    match on(Progress::Prompt { done: total, total }) {
        ControlFlow::Continue(()) => Ok(Some(row)),
        ControlFlow::Break(()) => Ok(None),
    }
}

/// Log-probabilities of a prompt's tokens, each given those before it: entry i belongs to token i + 1.
///
/// # Errors
/// When part of the sequence was computed before (its logits are gone: start it anew), the cache is full,
/// or the model computes something that is not a number.
pub fn score<B: Backend>(
    runner: &mut Runner<B>,
    sequence: &mut Sequence<B>,
    count: usize,
    on: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Vec<NewToken>, Error> {
    if sequence.computed() > 0 {
        return Err(Error::Parameter("a sequence that was computed in part can't be scored: release it first".into()));
    }
    let total = sequence.tokens().len();
    let vocab = runner.model().config().text.vocab;
    let outputs = runner.config().outputs.max(1);
    let mut logits = vec![0.0; outputs * vocab];
    let mut scores = Vec::with_capacity(total.saturating_sub(1));
    while sequence.computed() < total {
        if on(Progress::Prompt { done: sequence.computed(), total }).is_break() {
            break;
        }
        let first = sequence.computed();
        let tokens = runner.next_chunk(sequence);
        runner.step(&mut [Work { sequence, tokens }])?;
        let rows: Vec<u32> = (0..tokens as u32).filter(|row| first + (*row as usize) + 1 < total).collect();
        for part in rows.chunks(outputs) {
            let logits = &mut logits[..part.len() * vocab];
            runner.logits(part, logits);
            for (row, logits) in part.iter().zip(logits.chunks_exact(vocab)) {
                let id = sequence.tokens()[first + *row as usize + 1];
                let (logprob, top) = sampler::logprobs(logits, id, count);
                if !logprob.is_finite() {
                    return Err(Error::NotFinite);
                }
                scores.push(NewToken { id, logprob: Some(logprob), top });
            }
        }
    }
    Ok(scores)
}
