//! A step where the operations read it: on the host, a copy.

use crate::backend::{Rows, Step};

/// The tokens of a step and its rows. Filling it again reuses its memory.
#[derive(Debug, Default)]
pub struct CpuStaged {
    ids: Vec<u32>,
    step: Step,
}

impl CpuStaged {
    pub(super) fn fill(&mut self, ids: &[u32], step: &Step) {
        self.ids.clear();
        self.ids.extend_from_slice(ids);
        self.step.positions.clone_from(&step.positions);
        self.step.ends.clone_from(&step.ends);
        self.step.sequences.resize_with(step.sequences.len(), Rows::default);
        for (to, from) in self.step.sequences.iter_mut().zip(&step.sequences) {
            to.rows = from.rows.clone();
            to.table.clone_from(&from.table);
        }
    }

    pub(super) fn ids(&self) -> &[u32] {
        &self.ids
    }

    pub(super) fn step(&self) -> &Step {
        &self.step
    }
}
