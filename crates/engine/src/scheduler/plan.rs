//! Which tokens a step takes.

use super::SchedulerConfig;
use super::job::Job;
use medgemma_kernels::Backend;

/// How many tokens of each running sequence the next step takes, of `rows` at most: one of each that writes, then
/// prompts. Owners share these: of each the oldest gets an equal part first; what is left goes to the oldest, then to
/// each owner's second, and so on.
pub(super) fn chunks<B: Backend>(running: &[Job<B>], config: SchedulerConfig, rows: usize) -> Vec<usize> {
    let writing = running.iter().filter(|job| job.writes()).count();
    let budget = match writing {
        0 => config.step_tokens,
        _ => config.prompt_tokens_beside,
    };
    let room = rows - writing;
    let mut left = budget.clamp(1, room);
    let mut empty = true;
    let mut chunks: Vec<usize> = running.iter().map(|job| usize::from(job.writes())).collect();
    let prompts = prompts(running);
    let oldest = prompts.iter().take_while(|(before, _)| *before == 0).count().max(1);
    let part = left.div_ceil(oldest);
    let first = prompts.iter().take(oldest).map(|at| (at, part));
    for ((_, at), most) in first.chain(prompts.iter().map(|at| (at, usize::MAX))) {
        let (job, had) = (&running[*at], chunks[*at]);
        if left == 0 {
            break;
        }
        let tokens = job.sequence.next_chunk(had.saturating_add(left).min(most)).max(had);
        // An image is taken whole: more than the budget if it comes first, else in the next step.
        if tokens - had > left && !empty {
            break;
        }
        chunks[*at] = tokens;
        left = left.saturating_sub(tokens - had);
        empty = false;
    }
    chunks
}

/// The sequences whose prompts aren't computed, each with how many older ones of its owner there are: by these, then by
/// age.
fn prompts<B: Backend>(running: &[Job<B>]) -> Vec<(usize, usize)> {
    let reads = |job: &Job<B>| !job.writes() && !job.computed();
    let before = |at: usize| {
        let owner = running[at].owner;
        running[..at].iter().filter(|older| older.owner == owner && reads(older)).count()
    };
    let mut prompts: Vec<_> = (0..running.len()).filter(|at| reads(&running[*at])).map(|at| (before(at), at)).collect();
    prompts.sort_unstable();
    prompts
}
