//! One text in the making: its tokens, its images and the keys and values computed so far.

use crate::blocks::{BlockPool, BlockTable};
use medgemma_gemma::ImageFeatures;
use medgemma_kernels::{BLOCK, Backend};
use std::ops::Range;
use std::sync::Arc;

/// An image in a prompt.
pub struct PlacedImage<B: Backend> {
    /// Positions of its placeholder tokens.
    pub positions: Range<usize>,
    /// What replaces their embeddings.
    pub features: Arc<ImageFeatures<B>>,
    /// Tells images apart when prompts are compared: a digest of the pixels and their dimensions.
    pub digest: [u8; 32],
}

impl<B: Backend> Clone for PlacedImage<B> {
    fn clone(&self) -> Self {
        Self { positions: self.positions.clone(), features: Arc::clone(&self.features), digest: self.digest }
    }
}

/// A sequence of tokens, some of which the model has seen.
pub struct Sequence<B: Backend> {
    pub(crate) tokens: Vec<u32>,
    pub(crate) images: Vec<PlacedImage<B>>,
    /// Tokens whose keys and values are in the cache.
    pub(crate) computed: usize,
    /// How many of the last tokens are a draft, which [`Sequence::settle`] may take back.
    pub(crate) drafted: usize,
    /// End of the last prompt: a later prompt may go on from here, so its window is kept.
    pub(crate) anchor: usize,
    pub(crate) global: BlockTable,
    pub(crate) local: BlockTable,
}

impl<B: Backend> Default for Sequence<B> {
    fn default() -> Self {
        Self {
            tokens: Vec::new(),
            images: Vec::new(),
            computed: 0,
            drafted: 0,
            anchor: 0,
            global: BlockTable::default(),
            local: BlockTable::default(),
        }
    }
}

impl<B: Backend> Sequence<B> {
    /// Tokens so far, prompt and answer.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens whose keys and values are in the cache.
    pub fn computed(&self) -> usize {
        self.computed
    }

    /// Blocks that it holds, of global layers and of local ones.
    pub(crate) fn held_blocks(&self) -> (usize, usize) {
        (self.global.held(), self.local.held())
    }

    /// How many of the waiting tokens the next step may take: about `limit`, never splitting an image.
    pub(crate) fn next_chunk(&self, limit: usize) -> usize {
        let start = self.computed;
        let mut end = self.tokens.len().min(start + limit.max(1));
        for image in &self.images {
            let span = &image.positions;
            if span.start < end && end < span.end {
                end = if span.start > start { span.start } else { span.end };
            }
        }
        end - start
    }

    /// The position behind the last key that a row at `position` sees: its image's end, or behind itself.
    pub(crate) fn visible_end(&self, position: usize) -> u32 {
        let span = self.images.iter().map(|i| &i.positions).find(|span| span.contains(&position));
        span.map_or(position + 1, |s| s.end) as u32
    }

    /// Tokens at the beginning that another prompt shares, images compared by digest.
    pub(crate) fn common_prefix(&self, tokens: &[u32], images: &[PlacedImage<B>]) -> usize {
        let mut same = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        for (mine, theirs) in [(&self.images[..], images), (images, &self.images[..])] {
            for image in mine {
                let start = image.positions.start;
                let equal = theirs.iter().any(|o| o.positions == image.positions && o.digest == image.digest);
                if start < same && !equal {
                    same = start;
                }
            }
        }
        // An image's tokens are computed together or not at all.
        for image in images {
            if image.positions.start < same && same < image.positions.end {
                same = image.positions.start;
            }
        }
        same
    }

    /// Whether the window before `end` is whole, and no image lies across it.
    fn can_go_on_from(&self, end: usize, images: &[PlacedImage<B>], window: usize) -> bool {
        self.local.holds((end + 1).saturating_sub(window)..end)
            && !images.iter().any(|i| i.positions.start < end && end < i.positions.end)
    }

    /// Tokens at the beginning, in whole blocks, whose keys and values another prompt can use, too.
    pub(crate) fn shareable(&self, tokens: &[u32], images: &[PlacedImage<B>], window: usize) -> usize {
        let firm = self.computed.min(self.tokens.len() - self.drafted);
        let same = self.common_prefix(tokens, images).min(firm).min(tokens.len().saturating_sub(1));
        let usable = |blocks: &usize| self.can_go_on_from(blocks * BLOCK, images, window);
        (1..=same / BLOCK).rev().find(usable).unwrap_or(0) * BLOCK
    }

    /// A new prompt whose first `end` tokens, which [`Sequence::shareable`] gave, are this sequence's.
    pub(crate) fn branch(
        &self,
        end: usize,
        tokens: Vec<u32>,
        images: Vec<PlacedImage<B>>,
        global: &mut BlockPool,
        local: &mut BlockPool,
    ) -> Self {
        let blocks = end / BLOCK;
        let (global, local) = (self.global.share(blocks, global), self.local.share(blocks, local));
        Self { anchor: tokens.len(), tokens, images, computed: end, drafted: 0, global, local }
    }

    /// Makes this sequence hold `tokens` as a new prompt, keeping what can be kept of the cache.
    ///
    /// Returns the number of tokens that needn't be computed again. Local layers keep only their window, so what was
    /// computed may be cut back only to where the window is still whole.
    pub(crate) fn restart(
        &mut self,
        tokens: Vec<u32>,
        images: Vec<PlacedImage<B>>,
        window: usize,
        global: &mut BlockPool,
        local: &mut BlockPool,
    ) -> usize {
        // The last token is always computed: its logits are wanted.
        let same = self.common_prefix(&tokens, &images).min(self.computed).min(tokens.len().saturating_sub(1));
        // What another sequence reads must not be written over.
        let shared = |end: usize| {
            !end.is_multiple_of(BLOCK) && (self.global.is_shared(end, global) || self.local.is_shared(end, local))
        };
        let usable = |end: &usize| self.can_go_on_from(*end, &images, window) && !shared(*end);
        let keep = [same, self.anchor.min(same)].into_iter().find(usable).unwrap_or(0);
        self.global.truncate(keep, global);
        self.local.truncate(keep, local);
        self.computed = keep;
        self.drafted = 0;
        self.anchor = tokens.len();
        self.tokens = tokens;
        self.images = images;
        keep
    }

    /// Keeps the first `kept` tokens of the draft and takes back the others, with what was computed of them.
    pub(crate) fn settle(&mut self, kept: usize, window: usize, global: &mut BlockPool, local: &mut BlockPool) {
        let rejected = self.drafted.saturating_sub(kept);
        self.tokens.truncate(self.tokens.len() - rejected);
        self.drafted = 0;
        self.computed = self.computed.min(self.tokens.len());
        self.global.cut(self.computed, global);
        self.local.cut(self.computed, local);
        self.evict(window, local);
    }

    /// Gives back local blocks that no later token will look at, keeping the window before the prompt's end.
    pub(crate) fn evict(&mut self, window: usize, pool: &mut BlockPool) {
        // The text may have to go on from before its draft, whose window is kept until it is settled.
        let firm = self.computed.min(self.tokens.len() - self.drafted);
        let first_seen = (firm + 1).saturating_sub(window);
        let keep = match firm >= self.anchor {
            // One block more: a follow-up may branch off just before the end, where its first tokens merge.
            true => (self.anchor + 1).saturating_sub(window + BLOCK)..self.anchor,
            false => 0..0,
        };
        self.local.evict_below(first_seen, keep, pool);
    }

    /// Gives back everything.
    pub(crate) fn clear(&mut self, global: &mut BlockPool, local: &mut BlockPool) {
        self.global.truncate(0, global);
        self.local.truncate(0, local);
        *self = Self::default();
    }
}
