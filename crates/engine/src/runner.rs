//! Steps: takes waiting tokens of sequences, finds blocks for them, and runs the model over them.

mod share;

use crate::blocks::BlockPool;
use crate::error::Error;
use crate::sequence::{PlacedImage, Sequence};
use medgemma_gemma::{Caches, Config, ImageFeatures, Input, Model, Workspace};
use medgemma_kernels::{BLOCK, Backend, CacheType, Greedy, Rows, Step};
use std::sync::Arc;

/// Sizes of a runner, fixed when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunnerConfig {
    /// Tokens a sequence may have, prompt and answer.
    pub context: usize,
    /// Sequences of that length that there is room for at once.
    pub sequences: usize,
    /// Prompt tokens computed in one step.
    pub chunk: usize,
    /// Rows that get logits in one step.
    pub outputs: usize,
    /// How keys and values are held.
    pub cache: CacheType,
}

/// What a runner makes room for.
pub(crate) struct Sizes {
    /// Rows of a step, and those of them that get logits.
    pub(crate) rows: usize,
    pub(crate) outputs: usize,
    /// Blocks of each layer of either kind.
    pub(crate) global_blocks: usize,
    pub(crate) local_blocks: usize,
}

impl RunnerConfig {
    pub(crate) fn sizes(&self, model: &Config) -> Sizes {
        let image = model.vision.as_ref().map_or(0, |v| v.tokens_per_image);
        let outputs = self.outputs.max(1);
        let rows = self.chunk.max(image).max(outputs);
        let each = self.context.div_ceil(BLOCK);
        // The window and a step's rows; once more a window and a block, for what is kept at the end of the prompt.
        let window = model.text.window.min(self.context);
        let each_local = (rows.div_ceil(BLOCK) + 2 + 2 * (window.div_ceil(BLOCK) + 1)).min(each);
        let sequences = self.sequences.max(1);
        let (global_blocks, local_blocks) = (each.saturating_mul(sequences), each_local.saturating_mul(sequences));
        Sizes { rows, outputs, global_blocks, local_blocks }
    }
}

/// The model with its caches and buffers.
pub struct Runner<B: Backend> {
    model: Model<B>,
    config: RunnerConfig,
    caches: Caches<B>,
    global_pool: BlockPool,
    local_pool: BlockPool,
    workspace: Workspace<B>,
    ids: Vec<u32>,
    global: Step,
    local: Step,
}

/// Part of a step: the next `tokens` waiting tokens of a sequence.
pub struct Work<'a, B: Backend> {
    /// The sequence.
    pub sequence: &'a mut Sequence<B>,
    /// How many of its waiting tokens to compute; as [`Runner::next_chunk`] says.
    pub tokens: usize,
}

impl<B: Backend> Runner<B> {
    /// Reserves the caches and allocates the buffers.
    ///
    /// # Errors
    /// When memory for them can't be had.
    pub fn new(model: Model<B>, config: RunnerConfig) -> Result<Self, Error> {
        let Sizes { rows, outputs, global_blocks, local_blocks } = config.sizes(model.config());
        let caches = model.caches(global_blocks, local_blocks, config.cache)?;
        let workspace = model.workspace(rows, outputs)?;
        Ok(Self {
            model,
            config,
            caches,
            global_pool: BlockPool::new(global_blocks),
            local_pool: BlockPool::new(local_blocks),
            workspace,
            ids: Vec::with_capacity(rows),
            global: Step::default(),
            local: Step::default(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Model<B> {
        &self.model
    }

    /// The sizes this runner was made with.
    pub fn config(&self) -> RunnerConfig {
        self.config
    }

    /// Encodes an image's patches.
    ///
    /// # Errors
    /// When the model can't see or the pixels are of another size.
    pub fn encode_image(&self, pixels: &[f32]) -> Result<Arc<ImageFeatures<B>>, Error> {
        Ok(Arc::new(self.model.encode_image(pixels)?))
    }

    /// Makes `sequence` hold a prompt, keeping what it shares with what was computed before.
    ///
    /// Returns the number of prompt tokens that needn't be computed again.
    ///
    /// # Errors
    /// When the prompt is empty, too long, or has ids outside the vocabulary, or an image's place is not one.
    pub fn start(
        &mut self,
        sequence: &mut Sequence<B>,
        tokens: Vec<u32>,
        images: Vec<PlacedImage<B>>,
    ) -> Result<usize, Error> {
        self.check(&tokens, &images)?;
        let window = self.model.config().text.window;
        Ok(sequence.restart(tokens, images, window, &mut self.global_pool, &mut self.local_pool))
    }

    /// Whether tokens and images can be a prompt.
    fn check(&self, tokens: &[u32], images: &[PlacedImage<B>]) -> Result<(), Error> {
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if tokens.len() > self.config.context {
            return Err(Error::Context { wanted: tokens.len(), context: self.config.context });
        }
        let vocab = self.model.config().text.vocab;
        let outside = |(at, id): &(usize, &u32)| {
            **id as usize >= vocab && !images.iter().any(|image| image.positions.contains(at))
        };
        if tokens.iter().enumerate().any(|token| outside(&token)) {
            return Err(Error::TokenId { vocab });
        }
        let per_image = self.model.config().vision.as_ref().map_or(0, |v| v.tokens_per_image);
        let mut free = 0;
        for PlacedImage { positions, .. } in images {
            if positions.start < free || positions.len() != per_image || positions.end > tokens.len() {
                return Err(Error::Parameter(format!(
                    "an image at {positions:?} of {} tokens: each takes {per_image}, in order",
                    tokens.len()
                )));
            }
            free = positions.end;
        }
        Ok(())
    }

    /// Adds a token to be computed next.
    ///
    /// # Panics
    /// When the model has no such token, or a draft isn't settled.
    pub fn push(&self, sequence: &mut Sequence<B>, token: u32) {
        assert_eq!(sequence.drafted, 0, "a draft ends the sequence until it is settled");
        self.add(sequence, token);
    }

    /// Adds a token to be computed next that may be taken back: the next of a draft. Until [`Runner::settle`] nothing is
    /// evicted that the tokens before the draft need.
    ///
    /// # Panics
    /// When the model has no such token.
    pub fn draft(&self, sequence: &mut Sequence<B>, token: u32) {
        self.add(sequence, token);
        sequence.drafted += 1;
    }

    fn add(&self, sequence: &mut Sequence<B>, token: u32) {
        let vocab = self.model.config().text.vocab;
        assert!((token as usize) < vocab, "token {token} of {vocab}");
        sequence.tokens.push(token);
    }

    /// Keeps the first `kept` tokens of the sequence's draft and takes back the others, with what was computed of them.
    pub fn settle(&mut self, sequence: &mut Sequence<B>, kept: usize) {
        let window = self.model.config().text.window;
        sequence.settle(kept, window, &mut self.global_pool, &mut self.local_pool);
    }

    /// How many waiting tokens of a sequence its next step takes.
    pub fn next_chunk(&self, sequence: &Sequence<B>) -> usize {
        sequence.next_chunk(self.config.chunk)
    }

    /// Computes one step over all of `work`: rows follow one another in its order.
    ///
    /// # Errors
    /// When the cache is full; the sequences are then as before.
    pub fn step(&mut self, work: &mut [Work<'_, B>]) -> Result<(), Error> {
        for part in work.iter_mut() {
            let end = part.sequence.computed + part.tokens;
            let room = part.sequence.global.extend_to(end, &mut self.global_pool)
                && part.sequence.local.extend_to(end, &mut self.local_pool);
            if !room {
                return Err(Error::CacheFull { context: self.global_pool.tokens() });
            }
        }
        self.describe(work);
        let mut images: Vec<(usize, &ImageFeatures<B>)> = Vec::new();
        let mut row = 0;
        for part in work.iter() {
            let computed = part.sequence.computed;
            let span = computed..computed + part.tokens;
            for image in part.sequence.images.iter().filter(|i| span.contains(&i.positions.start)) {
                images.push((row + image.positions.start - computed, &image.features));
            }
            row += part.tokens;
        }
        let input = Input { ids: &self.ids, global: &self.global, local: &self.local, images: &images };
        self.model.forward(&input, &mut self.caches, &mut self.workspace);
        let window = self.model.config().text.window;
        for part in work.iter_mut() {
            part.sequence.computed += part.tokens;
            part.sequence.evict(window, &mut self.local_pool);
        }
        Ok(())
    }

    /// Logits `[rows.len(), vocab]` of rows of the last step.
    ///
    /// # Panics
    /// When `rows` are more than [`RunnerConfig::outputs`] or `out` is of another size.
    pub fn logits(&mut self, rows: &[u32], out: &mut [f32]) {
        self.model.logits(rows, &mut self.workspace, out);
    }

    /// The most likely token after each of some rows of the last step, without moving all logits to the host.
    ///
    /// # Panics
    /// When `rows` are more than [`RunnerConfig::outputs`] or `out` is of another length.
    pub fn greedy(&mut self, rows: &[u32], out: &mut [Greedy]) {
        self.model.greedy(rows, &mut self.workspace, out);
    }

    /// Blocks that no sequence holds: of global layers and of local ones.
    pub fn free_blocks(&self) -> (usize, usize) {
        (self.global_pool.free(), self.local_pool.free())
    }

    /// Gives back all that a sequence holds.
    pub fn release(&mut self, sequence: &mut Sequence<B>) {
        sequence.clear(&mut self.global_pool, &mut self.local_pool);
    }

    /// Fills the step's description from the sequences, reusing its vectors.
    fn describe(&mut self, work: &[Work<'_, B>]) {
        self.ids.clear();
        let vocab = self.model.config().text.vocab;
        for (step, local) in [(&mut self.global, false), (&mut self.local, true)] {
            step.positions.clear();
            step.ends.clear();
            step.sequences.resize_with(work.len(), Rows::default);
            for (part, rows) in work.iter().zip(&mut step.sequences) {
                let s = &*part.sequence;
                let first = step.positions.len();
                rows.rows = first..first + part.tokens;
                rows.table.clear();
                rows.table.extend_from_slice(if local { s.local.as_slice() } else { s.global.as_slice() });
                for position in s.computed..s.computed + part.tokens {
                    step.positions.push(position as u32);
                    step.ends.push(s.visible_end(position));
                }
            }
        }
        for part in work {
            let waiting = &part.sequence.tokens[part.sequence.computed..][..part.tokens];
            // Placeholders may lie outside a vocabulary that was cut; their embeddings are replaced anyway.
            self.ids.extend(waiting.iter().map(|id| if (*id as usize) < vocab { *id } else { 0 }));
        }
    }
}
