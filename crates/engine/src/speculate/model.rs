//! A smaller model that guesses for a larger one.

use super::Drafter;
use crate::error::Error;
use crate::runner::{Runner, Work};
use crate::sequence::Sequence;
use medgemma_gemma::sampler::argmax;
use medgemma_kernels::Backend;

/// A model that writes ahead of another one of the same vocabulary.
///
/// Its own keys and values follow what becomes of its guesses: those that were rejected are taken back. It sees text
/// alone: where the other model sees a picture, it reads placeholders.
pub struct DraftModel<B: Backend> {
    runner: Runner<B>,
    sequence: Sequence<B>,
    logits: Vec<f32>,
}

impl<B: Backend> DraftModel<B> {
    /// Guesses with `runner`'s model.
    pub fn new(runner: Runner<B>) -> Self {
        let logits = vec![0.0; runner.model().config().text.vocab];
        Self { runner, sequence: Sequence::default(), logits }
    }

    /// Forgets the text.
    pub fn forget(&mut self) {
        self.runner.release(&mut self.sequence);
    }

    /// Bytes of the packed weights.
    pub fn weight_bytes(&self) -> usize {
        self.runner.model().weight_bytes()
    }

    /// Makes the sequence hold `tokens`, with at least the last one waiting to be computed.
    fn follow(&mut self, tokens: &[u32]) -> Result<(), Error> {
        // Its embedding may have fewer rows: placeholders of pictures lie behind them.
        let vocab = self.runner.model().config().text.vocab;
        let known = |id: &u32| if (*id as usize) < vocab { *id } else { 0 };
        let had = self.sequence.tokens();
        let firm = had.len() - self.sequence.drafted;
        let same = had.iter().zip(tokens).take_while(|(had, token)| **had == known(token)).count();
        if firm == 0 || same < firm || tokens.len() <= firm {
            self.runner.start(&mut self.sequence, tokens.iter().map(known).collect(), Vec::new())?;
            return Ok(());
        }
        self.runner.settle(&mut self.sequence, same.min(tokens.len() - 1) - firm);
        for token in &tokens[self.sequence.tokens().len()..] {
            self.runner.push(&mut self.sequence, known(token));
        }
        Ok(())
    }

    fn write(&mut self, tokens: &[u32], most: usize, draft: &mut Vec<u32>) -> Result<(), Error> {
        self.follow(tokens)?;
        let Self { runner, sequence, logits } = self;
        // A long text is read between the other model's steps, a chunk at a time, so that nothing seems to hang.
        let waiting = sequence.tokens().len() - sequence.computed();
        let chunk = runner.next_chunk(sequence);
        if chunk < waiting {
            return runner.step(&mut [Work { sequence, tokens: chunk }]);
        }
        for _ in 0..most.min(runner.config().context.saturating_sub(tokens.len())) {
            let waiting = sequence.tokens().len() - sequence.computed();
            runner.step(&mut [Work { sequence: &mut *sequence, tokens: waiting }])?;
            runner.logits(&[waiting as u32 - 1], logits);
            let token = argmax(logits);
            draft.push(token);
            if runner.model().config().tokens.eos.contains(&token) {
                break;
            }
            runner.draft(sequence, token);
        }
        Ok(())
    }
}

impl<B: Backend> Drafter for DraftModel<B> {
    fn draft(&mut self, tokens: &[u32], most: usize, draft: &mut Vec<u32>) {
        if self.write(tokens, most, draft).is_err() {
            // The text is longer than this model's context or cache. The other one goes on without its guesses.
            self.forget();
        }
    }
}
