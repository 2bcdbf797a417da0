//! From a started sequence to new tokens, one sequence at a time.

use crate::error::Error;
use crate::loops::LoopDetector;
use crate::runner::{Runner, Work};
use crate::sequence::Sequence;
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
}

/// Computes what is waiting of the prompt, then chooses tokens until one of [`Finish`]'s reasons holds.
///
/// `on` is told of progress and may end the generation. Tokens are added to the sequence as they are chosen; one that
/// ends the text is not.
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
    options.sampling.check().map_err(Error::Parameter)?;
    let mut timings = Timings::default();
    let begun = Instant::now();
    let waiting = sequence.tokens().len() - sequence.computed();
    let Some(mut row) = prefill(runner, sequence, on)? else { return Ok((Finish::Cancelled, timings)) };
    timings.prompt_tokens = waiting;
    timings.prompt = begun.elapsed();
    let mut logits = vec![0.0; runner.model().config().text.vocab];
    let mut sampler = Sampler::new(options.sampling);
    let mut loops = LoopDetector::default();
    let begun = Instant::now();
    let finish = loop {
        if timings.generated_tokens >= options.max_tokens {
            break Finish::Length;
        }
        runner.logits(&[row], &mut logits);
        let token = choose(&logits, &mut sampler, options.logprobs)?;
        timings.generated_tokens += 1;
        timings.generation = begun.elapsed();
        if options.stop_ids.contains(&token.id) {
            break Finish::Stop;
        }
        runner.push(sequence, token.id);
        if on(Progress::Token(&token)).is_break() {
            break Finish::Cancelled;
        }
        if options.detect_loops && loops.push(token.id) {
            break Finish::Loop;
        }
        if sequence.tokens().len() >= runner.config().context || timings.generated_tokens >= options.max_tokens {
            break Finish::Length;
        }
        runner.step(&mut [Work { sequence, tokens: 1 }])?;
        row = 0;
    };
    Ok((finish, timings))
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

fn choose(logits: &[f32], sampler: &mut Sampler, count: Option<usize>) -> Result<NewToken, Error> {
    let id = sampler.sample(logits);
    if !logits.get(id as usize).is_some_and(|logit| logit.is_finite()) {
        return Err(Error::NotFinite);
    }
    Ok(match count {
        None => NewToken { id, logprob: None, top: Vec::new() },
        Some(count) => {
            let (logprob, top) = sampler::logprobs(logits, id, count);
            NewToken { id, logprob: Some(logprob), top }
        }
    })
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
