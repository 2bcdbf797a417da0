//! Which tokens a step takes.

use super::SchedulerConfig;
use super::job::Job;
use medgemma_kernels::Backend;

/// How many tokens of each running sequence the next step takes, of `rows` at most: one of each that writes, then
/// prompts, oldest first.
pub(super) fn chunks<B: Backend>(running: &[Job<B>], config: SchedulerConfig, rows: usize) -> Vec<usize> {
    let writing = running.iter().filter(|job| job.writes()).count();
    let budget = match writing {
        0 => config.step_tokens,
        _ => config.prompt_tokens_beside,
    };
    let room = rows - writing;
    let mut left = budget.clamp(1, room);
    let mut empty = true;
    let mut chunks = vec![0; running.len()];
    for (job, chunk) in running.iter().zip(&mut chunks) {
        if job.writes() {
            *chunk = 1;
            continue;
        }
        if left == 0 || job.computed() {
            continue;
        }
        let tokens = job.sequence.next_chunk(left);
        // An image is taken whole: more than the budget if it comes first, else in the next step.
        if tokens > left && !empty {
            left = 0;
            continue;
        }
        *chunk = tokens;
        left = left.saturating_sub(tokens);
        empty = false;
    }
    chunks
}
