//! What a request of a server can be held to besides a form: a budget for the thought, and penalties.

use crate::Error;
use crate::scheduler::Mask;
use medgemma_gemma::sampler::{Penalizer, Penalties};
use medgemma_gemma::text::{Tokenizer, thought_tokens};

/// Ends a thought when its budget is spent: then the only token that may come is the one that ends it. Further thoughts
/// of the same reply share the budget; once it is spent, none begins, and with a budget of 0 none ever does.
#[derive(Clone, Debug)]
pub struct ThoughtBudget {
    open: u32,
    close: u32,
    /// Tokens that are left.
    left: usize,
    in_thought: bool,
}

impl ThoughtBudget {
    /// A budget of so many tokens between the two that mark a thought, its heading included. `None` when the vocabulary
    /// has no such marks, and so the model no thoughts.
    pub fn new(tokenizer: &Tokenizer, tokens: usize) -> Option<Self> {
        thought_tokens(tokenizer).map(|(open, close)| Self { open, close, left: tokens, in_thought: false })
    }
}

impl Mask for ThoughtBudget {
    fn allow(&mut self, logits: &mut [f32]) -> Result<(), String> {
        if self.is_idle() {
            return Ok(());
        }
        if self.in_thought {
            let close = logits.get(self.close as usize).copied().filter(|logit| logit.is_finite());
            logits.fill(f32::NEG_INFINITY);
            if let Some(logit) = logits.get_mut(self.close as usize) {
                *logit = close.unwrap_or(0.0);
            }
        } else if let Some(logit) = logits.get_mut(self.open as usize) {
            *logit = f32::NEG_INFINITY;
        }
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.left > 0
    }

    fn accept(&mut self, token: u32) {
        if token == self.close {
            self.in_thought = false;
        } else if self.in_thought {
            self.left = self.left.saturating_sub(1);
        } else if token == self.open {
            self.in_thought = true;
        }
    }

    fn fork(&self) -> Box<dyn Mask> {
        Box::new(self.clone())
    }
}

/// Penalties and biases of one answer.
#[derive(Clone, Debug)]
pub struct Penalized(Penalizer);

impl Penalized {
    /// At the beginning of an answer to a prompt, of tokens of a vocabulary of so many.
    ///
    /// # Errors
    /// When a penalty or a bias is out of its range.
    pub fn new(penalties: Penalties, prompt: &[u32], vocab: usize) -> Result<Self, Error> {
        penalties.check(vocab).map_err(Error::Parameter)?;
        Ok(Self(Penalizer::new(penalties, prompt)))
    }
}

impl Mask for Penalized {
    fn allow(&mut self, logits: &mut [f32]) -> Result<(), String> {
        self.0.apply(logits);
        Ok(())
    }

    fn accept(&mut self, token: u32) {
        self.0.accept(token);
    }

    fn fork(&self) -> Box<dyn Mask> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(mask: &mut dyn Mask) -> Vec<u32> {
        let mut logits = vec![0.0, 1.0, 2.0, 3.0, 4.0];
        mask.allow(&mut logits).unwrap();
        (0..5).filter(|id| logits[*id as usize].is_finite()).collect()
    }

    #[test]
    fn a_spent_budget_ends_the_thought_and_lets_none_begin() {
        let mut mask = ThoughtBudget { open: 3, close: 4, left: 2, in_thought: false };
        for token in [3, 0] {
            mask.accept(token);
            assert!(mask.is_idle());
            assert_eq!(allowed(&mut mask), [0, 1, 2, 3, 4]);
        }
        let mut other = mask.fork();
        mask.accept(1);
        assert_eq!((mask.is_idle(), allowed(&mut mask)), (false, vec![4]));
        mask.accept(4);
        assert_eq!(allowed(&mut mask), [0, 1, 2, 4]);
        // A fork goes on by itself; a thought that ends by itself leaves the rest to the next.
        other.accept(4);
        assert_eq!(allowed(&mut *other), [0, 1, 2, 3, 4]);
        other.accept(3);
        other.accept(2);
        assert_eq!(allowed(&mut *other), [4]);
        let mut none = ThoughtBudget { open: 3, close: 4, left: 0, in_thought: false };
        assert_eq!(allowed(&mut none), [0, 1, 2, 4]);
    }
}
