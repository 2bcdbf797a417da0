//! What a step says of the tokens that follow: all logits, or, where no more is wanted, the most likely ones.

use crate::error::Error;
use crate::generate::{Generation, NewToken};
use crate::runner::Runner;
use medgemma_gemma::sampler::{self, Sampler};
use medgemma_kernels::{Backend, Greedy};

/// Outputs of some rows of a step; their memory is used again.
#[derive(Default)]
pub(crate) struct Outputs {
    vocab: usize,
    logits: Vec<f32>,
    best: Vec<Greedy>,
    /// Only `best` was computed.
    best_only: bool,
}

/// The outputs of a row.
#[derive(Clone, Copy)]
pub(crate) enum Output<'a> {
    Logits(&'a [f32]),
    Best(Greedy),
}

/// Whether the most likely token is all that is wanted: then a device needn't send 262,144 logits for it.
pub(crate) fn wants_best(options: &Generation) -> bool {
    options.sampling.is_greedy() && options.logprobs.is_none()
}

impl Outputs {
    /// Asks for the outputs of rows of the last step.
    pub(crate) fn fetch<B: Backend>(&mut self, runner: &mut Runner<B>, rows: &[u32], best_only: bool) {
        self.vocab = runner.model().config().text.vocab;
        self.best_only = best_only;
        match best_only {
            true => {
                self.best.resize(rows.len(), Greedy::default());
                runner.greedy(rows, &mut self.best);
            }
            false => {
                self.logits.resize(rows.len() * self.vocab, 0.0);
                runner.logits(rows, &mut self.logits);
            }
        }
    }

    /// The outputs of the row that was asked for at this place.
    pub(crate) fn row(&self, at: usize) -> Output<'_> {
        match self.best_only {
            true => Output::Best(self.best[at]),
            false => Output::Logits(&self.logits[at * self.vocab..][..self.vocab]),
        }
    }

    /// The logits of that row, where they were asked for.
    pub(crate) fn logits_mut(&mut self, at: usize) -> Option<&mut [f32]> {
        if self.best_only { None } else { self.logits.get_mut(at * self.vocab..(at + 1) * self.vocab) }
    }
}

/// Chooses a token, and says what was asked of it: `count` alternatives, where there are logits.
pub(crate) fn choose(output: Output<'_>, sampler: &mut Sampler, count: Option<usize>) -> Result<NewToken, Error> {
    let (id, logit) = match output {
        Output::Best(Greedy { id, logit }) => (id, Some(logit)),
        Output::Logits(logits) => {
            let id = sampler.sample(logits);
            (id, logits.get(id as usize).copied())
        }
    };
    if !logit.is_some_and(f32::is_finite) {
        return Err(Error::NotFinite);
    }
    Ok(match (output, count) {
        (Output::Logits(logits), Some(count)) => {
            let (logprob, mut top) = sampler::logprobs(logits, id, count);
            // What a form doesn't allow is no alternative.
            top.retain(|other| other.logprob > f32::NEG_INFINITY);
            NewToken { id, logprob: Some(logprob), top }
        }
        _ => NewToken { id, logprob: None, top: Vec::new() },
    })
}
