//! Encoded images, kept while a conversation goes on: each turn's prompt holds all images of the turns before.

use medgemma_gemma::ImageFeatures;
use medgemma_gemma::image::RgbImage;
use medgemma_kernels::Backend;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::sync::Arc;

/// Images that are kept: a whole CT series of 85 slices, and a few more. 2.6 MB each with the 4B.
const KEPT: usize = 96;

/// The digest of a picture: its dimensions count, so that other pictures of the same bytes aren't taken for it.
pub(super) fn digest(picture: &RgbImage) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update((picture.width() as u64).to_le_bytes());
    hash.update((picture.height() as u64).to_le_bytes());
    hash.update(picture.pixels());
    hash.finalize().into()
}

/// The images that were used last.
pub(super) struct FeatureCache<B: Backend> {
    kept: VecDeque<([u8; 32], Arc<ImageFeatures<B>>)>,
}

impl<B: Backend> Default for FeatureCache<B> {
    fn default() -> Self {
        Self { kept: VecDeque::new() }
    }
}

impl<B: Backend> FeatureCache<B> {
    pub(super) fn get(&mut self, digest: &[u8; 32]) -> Option<Arc<ImageFeatures<B>>> {
        let at = self.kept.iter().position(|(d, _)| d == digest)?;
        let entry = self.kept.remove(at)?;
        let features = Arc::clone(&entry.1);
        self.kept.push_back(entry);
        Some(features)
    }

    pub(super) fn put(&mut self, digest: [u8; 32], features: &Arc<ImageFeatures<B>>) {
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((digest, Arc::clone(features)));
    }

    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }
}
