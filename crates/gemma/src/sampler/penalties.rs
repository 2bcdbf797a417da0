//! What is added to logits, or taken from them, before a token is chosen: a bias for some tokens, and penalties for
//! those that stand in the text already. What each does is vLLM's: the bias comes first; the repetition penalty looks
//! at the prompt and the answer, the other two at the answer alone.

use std::collections::HashMap;
use std::ops::RangeInclusive;

/// How logits are changed. The default changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Penalties {
    /// Taken from the logit of each token of the answer; −2 to 2.
    pub presence: f32,
    /// The same for each time that it stands there; −2 to 2.
    pub frequency: f32,
    /// Divides positive logits of tokens of the prompt and the answer, multiplies negative ones; 0.01 to 100, 1 does
    /// nothing.
    pub repetition: f32,
    /// Token ids and what is added to their logits; −100 to 100.
    pub bias: Vec<(u32, f32)>,
}

impl Default for Penalties {
    fn default() -> Self {
        Self { presence: 0.0, frequency: 0.0, repetition: 1.0, bias: Vec::new() }
    }
}

impl Penalties {
    /// What `presence` and `frequency` may be.
    pub const ADDED: RangeInclusive<f32> = -2.0..=2.0;
    /// What `repetition` may be. Next to nothing it would make infinities of logits; within this range they stay below
    /// a hundred times what they were.
    pub const REPETITION: RangeInclusive<f32> = 0.01..=100.0;
    /// What each bias may be.
    pub const BIAS: RangeInclusive<f32> = -100.0..=100.0;

    /// Whether they change nothing.
    pub fn is_none(&self) -> bool {
        self.presence == 0.0 && self.frequency == 0.0 && self.repetition == 1.0 && self.bias.is_empty()
    }

    /// Checks the ranges, and that the bias is of tokens of a vocabulary of so many.
    ///
    /// # Errors
    /// A sentence that names the parameter and its range.
    pub fn check(&self, vocab: usize) -> Result<(), String> {
        let within = |name: &str, value: f32, range: RangeInclusive<f32>| match range.contains(&value) {
            true => Ok(()),
            false => Err(format!("{name} {value} is out of range ({} to {})", range.start(), range.end())),
        };
        within("presence_penalty", self.presence, Self::ADDED)?;
        within("frequency_penalty", self.frequency, Self::ADDED)?;
        within("repetition_penalty", self.repetition, Self::REPETITION)?;
        for (id, value) in &self.bias {
            if *id as usize >= vocab {
                return Err(format!("logit_bias names token {id}, the vocabulary has {vocab}"));
            }
            within("logit_bias", *value, Self::BIAS)?;
        }
        Ok(())
    }
}

/// Penalties of one text in the making.
#[derive(Clone, Debug)]
pub struct Penalizer {
    penalties: Penalties,
    /// How often each token stands in the answer; 0 for those that only the prompt has.
    seen: HashMap<u32, u32>,
}

impl Penalizer {
    /// At the beginning of an answer to a prompt.
    pub fn new(penalties: Penalties, prompt: &[u32]) -> Self {
        let seen = match penalties.repetition == 1.0 {
            true => HashMap::new(),
            false => prompt.iter().map(|id| (*id, 0)).collect(),
        };
        Self { penalties, seen }
    }

    /// Changes a row of logits. Those that are −∞ stay so.
    pub fn apply(&self, logits: &mut [f32]) {
        let Penalties { presence, frequency, repetition, bias } = &self.penalties;
        for (id, value) in bias {
            if let Some(logit) = logits.get_mut(*id as usize) {
                *logit += value;
            }
        }
        for (id, count) in &self.seen {
            let Some(logit) = logits.get_mut(*id as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
            if *count > 0 {
                *logit -= frequency * *count as f32 + presence;
            }
        }
    }

    /// Is told of the token that was chosen.
    pub fn accept(&mut self, token: u32) {
        *self.seen.entry(token).or_insert(0) += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(penalties: Penalties, answer: &[u32]) -> Vec<f32> {
        let mut penalizer = Penalizer::new(penalties, &[0, 1]);
        answer.iter().for_each(|id| penalizer.accept(*id));
        let mut logits = vec![2.0, -2.0, 2.0, -2.0, f32::NEG_INFINITY];
        penalizer.apply(&mut logits);
        logits
    }

    #[test]
    fn each_does_what_it_says() {
        let never = f32::NEG_INFINITY;
        let none = Penalties::default();
        assert!(none.is_none());
        assert_eq!(changed(none.clone(), &[2, 2]), [2.0, -2.0, 2.0, -2.0, never]);
        let presence = Penalties { presence: 0.5, ..none.clone() };
        assert_eq!(changed(presence, &[2, 2, 3, 4]), [2.0, -2.0, 1.5, -2.5, never]);
        let frequency = Penalties { frequency: 0.5, ..none.clone() };
        assert_eq!(changed(frequency, &[2, 2, 3]), [2.0, -2.0, 1.0, -2.5, never]);
        let repetition = Penalties { repetition: 2.0, ..none.clone() };
        assert_eq!(changed(repetition, &[2, 2, 4]), [1.0, -4.0, 1.0, -2.0, never]);
        // The bias comes first: it can turn a logit's sign.
        let both = Penalties { repetition: 2.0, bias: vec![(1, 4.0), (4, 100.0), (9, 1.0)], ..none };
        assert_eq!(changed(both, &[]), [1.0, 1.0, 2.0, -2.0, never]);
    }

    #[test]
    fn ranges_are_checked() {
        let none = Penalties::default();
        assert!(none.check(5).is_ok());
        for wrong in [
            Penalties { presence: 2.5, ..none.clone() },
            Penalties { frequency: f32::NAN, ..none.clone() },
            Penalties { repetition: 0.0, ..none.clone() },
            Penalties { repetition: 1.2e-38, ..none.clone() },
            Penalties { repetition: 100.5, ..none.clone() },
            Penalties { bias: vec![(5, 1.0)], ..none.clone() },
            Penalties { bias: vec![(0, 101.0)], ..none },
        ] {
            assert!(wrong.check(5).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_in_range_keeps_logits_finite() {
        for repetition in [*Penalties::REPETITION.start(), *Penalties::REPETITION.end()] {
            for added in [*Penalties::ADDED.start(), *Penalties::ADDED.end()] {
                // As a request can name a token in several ways.
                let bias = (0..1024).map(|at| (at % 2, if at % 2 == 0 { 100.0 } else { -100.0 })).collect();
                let penalties = Penalties { presence: added, frequency: added, repetition, bias };
                assert!(penalties.check(5).is_ok());
                let changed = changed(penalties, &[0; 131_072]);
                assert!(changed[..4].iter().all(|logit| logit.is_finite()), "{changed:?}");
            }
        }
    }
}
