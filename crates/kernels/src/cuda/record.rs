//! Small steps are recorded as CUDA graphs and played back: hundreds of launches become one.

use super::driver::Graph;
use super::matrix::CudaCache;
use super::product::FEW;
use super::staged::CudaStaged;
use super::{CudaBackend, done};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::Ordering;

thread_local! {
    static PLAYING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread goes through operations whose recording is played back: they set what they know of their
/// matrices, and launch nothing.
pub(super) fn playing() -> bool {
    PLAYING.get()
}

/// Recorded steps of one workspace.
#[derive(Debug, Default)]
pub struct CudaRecordings {
    /// By what the steps have in common, and how often scratch memory had moved.
    ///
    /// `None` where a step was done once: what an operation does the first time only isn't recorded.
    graphs: HashMap<([u64; 2], usize), Option<Graph>>,
}

/// Recordings that are kept: contexts grow, and sequences come and go.
const KEPT: usize = 256;

impl CudaBackend {
    /// Tells steps apart: their rows, where they and the cache lie, and (as a power of two, by which work is cut) how long
    /// the longest context is, and whether each row is a sequence's only one.
    pub(super) fn key(&self, step: &CudaStaged, cache: &CudaCache) -> Option<u64> {
        let small = step.rows() <= FEW && step.rows() > 0 && step.ahead() == 0;
        let bits = |number: usize| u64::from(number.next_power_of_two().trailing_zeros());
        let sizes = u64::from(step.alone()) << 20
            | (step.rows() as u64) << 12
            | bits(step.stride()) << 6
            | bits(step.longest());
        small.then(|| step.id() << 44 | cache.id() << 24 | sizes)
    }

    pub(super) fn play(&self, key: [u64; 2], recordings: &mut CudaRecordings, work: &mut dyn FnMut()) {
        let key = (key, self.moved.load(Ordering::Relaxed));
        if let Some(Some(graph)) = recordings.graphs.get(&key) {
            // First the card, then what the host must know of it.
            done(graph.launch());
            let playing = Playing::begin();
            work();
            drop(playing);
            return;
        }
        if recordings.graphs.len() >= KEPT {
            recordings.graphs.clear();
        }
        if recordings.graphs.insert(key, None).is_none() {
            work();
            return;
        }
        done(self.device.begin_capture());
        work();
        let graph = done(self.device.end_capture());
        done(graph.launch());
        recordings.graphs.insert(key, Some(graph));
    }
}

/// Holds while operations launch nothing.
struct Playing;

impl Playing {
    fn begin() -> Self {
        PLAYING.set(true);
        Self
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        PLAYING.set(false);
    }
}
