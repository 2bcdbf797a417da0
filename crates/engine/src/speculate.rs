//! Speculation: tokens are guessed, and the model verifies several in one step.
//!
//! A step over a few rows reads the weights once, as a step over one does, so that verifying costs little more than
//! choosing one token. What the model would have chosen anyway stays, the rest is taken back. A row's logits don't
//! depend on the rows beside it (invariant 13 of ARCHITECTURE.md), so greedy tokens and their log-probabilities are to
//! the bit those without speculation. Draws aren't guessed: their seeds keep their meaning.
//!
//! Two sources guess: the text so far, where its last tokens occurred before ([`Lookup`]: reports copy from the record),
//! and a smaller model of the same vocabulary ([`DraftModel`]). [`Speculator`] asks them, and guesses only as many
//! tokens as pay, by how often guesses were right of late and what steps took on this machine.

mod lookup;
mod model;
mod pace;

pub use lookup::{Found, Lookup};
pub use model::DraftModel;

use pace::{Acceptance, StepTimes};
use std::time::{Duration, Instant};

/// Most tokens that are guessed at once, when nobody says.
pub const DRAFT_MAX: usize = 15;

/// Guesses how a text goes on.
pub trait Drafter {
    /// Appends to `draft` (empty when called) up to `most` tokens that may follow `tokens`. Those beyond `most`, or from
    /// one on that the model doesn't have, are dropped.
    fn draft(&mut self, tokens: &[u32], most: usize, draft: &mut Vec<u32>);

    /// Hears how long a step over so many rows took: the waiting token and the draft.
    fn took(&mut self, rows: usize, time: Duration) {
        let _ = (rows, time);
    }
}

/// Guesses from the text so far, and from a smaller model where there is one, as long as it pays.
#[derive(Default)]
pub struct Speculator<'a> {
    model: Option<&'a mut dyn Drafter>,
    /// How right guesses of [`Lookup`] are, by [`Found::class`].
    lookups: [Acceptance; lookup::CLASSES],
    model_acceptance: Acceptance,
    /// What a guess of the model takes, in seconds.
    model_cost: f64,
    times: StepTimes,
    /// What was guessed last, whether it was verified or not: the next call sees how right it was.
    last: Vec<Guess>,
}

/// A guess of tokens from position `at`.
struct Guess {
    source: Source,
    at: usize,
    tokens: Vec<u32>,
}

#[derive(Clone, Copy)]
enum Source {
    Lookup(usize),
    Model,
}

impl<'a> Speculator<'a> {
    /// Guesses that come from the text first, then from `model`.
    pub fn with_model(model: &'a mut dyn Drafter) -> Self {
        Self { model: Some(model), ..Self::default() }
    }

    /// Learns from what came after the last guesses.
    fn learn(&mut self, tokens: &[u32]) {
        for Guess { source, at, tokens: guessed } in self.last.drain(..) {
            let Some(came) = tokens.get(at..) else { continue };
            let right = came.iter().zip(&guessed).take_while(|(came, guessed)| came == guessed).count();
            // All that came was right, or one was wrong and what lies behind it says nothing.
            let tried = came.len().min(guessed.len()).min(right + 1);
            match source {
                Source::Lookup(class) => self.lookups[class].learn(right, tried),
                Source::Model => self.model_acceptance.learn(right, tried),
            }
        }
    }

    /// Guesses of the smaller model.
    fn ask_model(&mut self, tokens: &[u32], most: usize, draft: &mut Vec<u32>) {
        let Some(model) = &mut self.model else { return };
        let count = self.times.best(self.model_acceptance.rate(), most, self.model_cost);
        if count == 0 {
            // It isn't asked, so nothing is learned: in time it gets another chance.
            self.model_acceptance.forget();
            return;
        }
        let begun = Instant::now();
        model.draft(tokens, count, draft);
        if draft.is_empty() {
            return;
        }
        let cost = begun.elapsed().as_secs_f64() / draft.len() as f64;
        self.model_cost = if self.model_cost == 0.0 { cost } else { 0.8 * self.model_cost + 0.2 * cost };
        self.last.push(Guess { source: Source::Model, at: tokens.len(), tokens: draft.clone() });
    }
}

impl Drafter for Speculator<'_> {
    fn draft(&mut self, tokens: &[u32], most: usize, draft: &mut Vec<u32>) {
        self.learn(tokens);
        if let Some(found) = Lookup::find(tokens, most, draft) {
            let class = found.class();
            // Where it doesn't pay it is still compared with what comes, which costs nothing.
            self.last.push(Guess { source: Source::Lookup(class), at: tokens.len(), tokens: draft.clone() });
            draft.truncate(self.times.best(self.lookups[class].rate(), most, 0.0));
        }
        if draft.is_empty() {
            self.ask_model(tokens, most, draft);
        }
    }

    fn took(&mut self, rows: usize, time: Duration) {
        self.times.learn(rows, time.as_secs_f64());
    }
}
