//! Whom a prompt can share its beginning with.

use super::Scheduler;
use super::job::Job;
use crate::runner::Runner;
use crate::sequence::Sequence;
use medgemma_kernels::{BLOCK, Backend};
use std::collections::VecDeque;

/// Finished sequences, kept for prompts that begin as they do.
pub(super) struct Kept<B: Backend> {
    most: usize,
    /// The owner of each; the one used last stands last.
    sequences: VecDeque<(u64, Sequence<B>)>,
}

/// Where the best beginning is.
pub(super) enum Found {
    /// Nowhere.
    None,
    /// In a sequence that was kept.
    Kept(usize),
    /// In a sequence that runs.
    Running(usize),
    /// In a sequence that runs and is still computing it: better to wait.
    Soon,
}

impl<B: Backend> Kept<B> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, sequences: VecDeque::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.sequences.len()
    }

    pub(super) fn sequence(&self, at: usize) -> &Sequence<B> {
        &self.sequences[at].1
    }

    /// Keeps a sequence instead of those that it goes on from.
    pub(super) fn keep(&mut self, owner: u64, mut sequence: Sequence<B>, runner: &mut Runner<B>) {
        if sequence.computed < BLOCK {
            return runner.release(&mut sequence);
        }
        let mut at = 0;
        while let Some((other, kept)) = self.sequences.get(at) {
            let known = *other == owner
                && sequence.computed >= kept.computed
                && kept.common_prefix(&sequence.tokens, &sequence.images) >= kept.computed;
            match known.then(|| self.sequences.remove(at)).flatten() {
                Some((_, mut kept)) => runner.release(&mut kept),
                None => at += 1,
            }
        }
        self.sequences.push_back((owner, sequence));
        while self.sequences.len() > self.most {
            self.release_oldest(runner);
        }
    }

    /// Gives back the sequence that wasn't used for longest; false when there is none.
    pub(super) fn release_oldest(&mut self, runner: &mut Runner<B>) -> bool {
        match self.sequences.pop_front() {
            Some((_, mut sequence)) => {
                runner.release(&mut sequence);
                true
            }
            None => false,
        }
    }

    /// Makes a sequence the one that was used last; its new place.
    fn used(&mut self, at: usize) -> usize {
        if let Some(entry) = self.sequences.remove(at) {
            self.sequences.push_back(entry);
        }
        self.sequences.len() - 1
    }
}

impl<B: Backend> Scheduler<B> {
    /// Looks for the sequence that has most of the beginning of a job that waits.
    pub(super) fn donor(&mut self, at: usize) -> Found {
        let Some(job) = self.waiting.get(at).filter(|job| !job.wants_all_rows()) else { return Found::None };
        let shareable = |sequence: &Sequence<B>| self.runner.shareable(sequence, &job.tokens, &job.images);
        let mut best = (0, Found::None);
        for (at, (owner, sequence)) in self.kept.sequences.iter().enumerate() {
            let tokens = if *owner == job.owner { shareable(sequence) } else { 0 };
            if tokens > best.0 {
                best = (tokens, Found::Kept(at));
            }
        }
        let mut soon = 0;
        for (at, other) in self.running.iter().enumerate().filter(|(_, other)| other.owner == job.owner) {
            let tokens = shareable(&other.sequence);
            if tokens > best.0 {
                best = (tokens, Found::Running(at));
            }
            if !other.computed() && !other.writes() {
                soon = soon.max(promised(&other.sequence, job));
            }
        }
        // An owner's prompts are computed oldest first: waiting for one that is under way costs little.
        if soon > best.0 {
            return Found::Soon;
        }
        match best.1 {
            Found::Kept(at) => Found::Kept(self.kept.used(at)),
            found => found,
        }
    }
}

/// Tokens in whole blocks that a job will be able to share when the sequence is computed.
fn promised<B: Backend>(sequence: &Sequence<B>, job: &Job<B>) -> usize {
    let same = sequence.common_prefix(&job.tokens, &job.images);
    same.min(job.tokens.len().saturating_sub(1)) / BLOCK * BLOCK
}
