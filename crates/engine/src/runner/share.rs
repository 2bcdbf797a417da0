//! What sequences share: blocks of a common beginning.

use super::Runner;
use crate::error::Error;
use crate::sequence::{PlacedImage, Sequence};
use medgemma_gemma::Model;
use medgemma_kernels::{BLOCK, Backend};

impl<B: Backend> Runner<B> {
    /// Tokens at the beginning of a prompt that needn't be computed when it begins as `donor` does (see
    /// [`Runner::start_from`]): whole blocks, as far as the donor still has the window before their end.
    pub fn shareable(&self, donor: &Sequence<B>, tokens: &[u32], images: &[PlacedImage<B>]) -> usize {
        donor.shareable(tokens, images, self.model.config().text.window)
    }

    /// A sequence that holds a prompt and shares the blocks of its beginning with `donor`, as far as they are the same.
    /// The donor goes on, or is released, as if nobody had.
    ///
    /// # Errors
    /// As [`Runner::start`].
    pub fn start_from(
        &mut self,
        donor: &Sequence<B>,
        tokens: Vec<u32>,
        images: Vec<PlacedImage<B>>,
    ) -> Result<Sequence<B>, Error> {
        self.check(&tokens, &images)?;
        let end = self.shareable(donor, &tokens, &images);
        Ok(donor.branch(end, tokens, images, &mut self.global_pool, &mut self.local_pool))
    }

    /// Whether tokens and images can be a prompt.
    ///
    /// # Errors
    /// As [`Runner::start`].
    pub fn check_prompt(&self, tokens: &[u32], images: &[PlacedImage<B>]) -> Result<(), Error> {
        self.check(tokens, images)
    }

    /// Rows that a step may have.
    pub fn rows(&self) -> usize {
        let image = self.model.config().vision.as_ref().map_or(0, |v| v.tokens_per_image);
        self.config.chunk.max(image).max(self.config.outputs.max(1))
    }

    /// Blocks of the pools: of global layers and of local ones.
    pub fn total_blocks(&self) -> (usize, usize) {
        (self.global_pool.total(), self.local_pool.total())
    }

    /// Blocks that a sequence needs at most, beyond those that it holds, to become `more` tokens longer than it is: of
    /// global layers and of local ones.
    pub(crate) fn blocks_for(&self, sequence: &Sequence<B>, more: usize) -> (usize, usize) {
        let all = (sequence.tokens.len() + more).div_ceil(BLOCK);
        let rows = self.rows().min(sequence.tokens.len() - sequence.computed);
        let window = self.model.config().text.window.min(self.config.context);
        // The window and a step's rows, and once more a window for the prompt's end: as the pool was sized.
        let local = all.min(rows.div_ceil(BLOCK) + 2 + 2 * (window.div_ceil(BLOCK) + 1));
        let (held, held_local) = sequence.held_blocks();
        (all.saturating_sub(held), local.saturating_sub(held_local))
    }

    /// The model alone, without its caches.
    pub fn into_model(self) -> Model<B> {
        self.model
    }
}
