//! Which tokens a step takes.

use super::SchedulerConfig;
use super::job::Job;
use medgemma_kernels::Backend;

/// How many tokens of each running sequence the next step takes, of `rows` at most: one of each that writes, then
/// prompts: the oldest of each owner's running sequences before the second ones, and so on, older ones first.
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
    let mut prompts = Vec::new();
    for (at, job) in running.iter().enumerate() {
        if job.writes() {
            chunks[at] = 1;
        } else if !job.computed() {
            prompts.push((running[..at].iter().filter(|older| older.owner == job.owner).count(), at));
        }
    }
    prompts.sort_unstable();
    for (_, at) in prompts {
        if left == 0 {
            break;
        }
        let job = &running[at];
        let tokens = job.sequence.next_chunk(left);
        // An image is taken whole: more than the budget if it comes first, else in the next step.
        if tokens > left && !empty {
            break;
        }
        chunks[at] = tokens;
        left = left.saturating_sub(tokens);
        empty = false;
    }
    chunks
}
