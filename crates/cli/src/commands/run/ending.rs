//! What there is to say about an answer once it has ended.

use medgemma_engine::{Finish, Reply};
use std::time::Duration;

/// How it ended, when it isn't the usual way, and the remedy; `more` is how a larger budget is asked for.
pub(crate) fn note(reply: &Reply, more: &str) -> Option<String> {
    let tokens = reply.usage.completion_tokens;
    match reply.finish {
        Finish::Stop => None,
        Finish::Length if reply.cut_in_thought => Some(format!(
            "After {tokens} tokens it was still thinking, so that there is no answer: allow more with {more}."
        )),
        Finish::Length => Some(format!("Cut off after {tokens} tokens: allow more with {more}.")),
        Finish::Loop => Some("Stopped: the text repeated itself without end.".into()),
        Finish::Cancelled => Some("Stopped.".into()),
    }
}

/// How many tokens there were, and how fast.
pub(crate) fn speed(reply: &Reply) -> String {
    let rate = |tokens: usize, time: Duration| tokens as f64 / time.as_secs_f64().max(1e-9);
    let (usage, timings) = (reply.usage, reply.timings);
    let cached = match usage.cached_tokens {
        0 => String::new(),
        cached => format!(" ({cached} of them known from before)"),
    };
    let read = rate(timings.prompt_tokens, timings.prompt);
    let mut text = format!("Prompt: {} tokens{cached}, {read:.1} a second.", usage.prompt_tokens);
    // The first token comes out of the prompt's computation.
    match timings.generated_tokens {
        0 => {}
        1 => text.push_str(" Answer: 1 token."),
        count => {
            let rate = rate(count - 1, timings.generation);
            text.push_str(&format!(" Answer: {count} tokens, {rate:.1} a second."));
        }
    }
    text
}
