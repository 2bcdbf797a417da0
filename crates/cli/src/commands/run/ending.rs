//! What there is to say about an answer once it has ended.

use medgemma_engine::{Finish, Reply};
use std::time::Duration;

/// How more room is asked for, where the answer is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remedies {
    /// When the answer's budget ended.
    budget: &'static str,
    /// When the context was full.
    context: &'static str,
}

impl Remedies {
    /// On the command line.
    pub(crate) const ONCE: Self = Self { budget: "allow more with --max-tokens", context: "allow more with --context" };
    /// In a chat.
    pub(crate) const CHAT: Self = Self {
        budget: "allow more with /set max_tokens",
        context: "begin anew with /clear, or start the chat with a larger --context",
    };
}

/// How it ended, when it isn't the usual way, and the remedy; `context` is the most tokens that the model was loaded for.
pub(crate) fn note(reply: &Reply, context: usize, remedies: &Remedies) -> Option<String> {
    let tokens = reply.usage.completion_tokens;
    let full = reply.usage.prompt_tokens + tokens >= context;
    let (why, remedy) = match full {
        true => (format!(", as the context of {context} tokens is full"), remedies.context),
        false => (String::new(), remedies.budget),
    };
    match reply.finish {
        Finish::Stop => None,
        Finish::Length if reply.cut_in_thought => {
            Some(format!("After {tokens} tokens it was still thinking{why}. There is no answer: {remedy}."))
        }
        Finish::Length => Some(format!("Cut off after {tokens} tokens{why}: {remedy}.")),
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
    if timings.drafted_tokens > 0 {
        let (accepted, drafted) = (timings.accepted_tokens, timings.drafted_tokens);
        text.push_str(&format!(" Guessed: {drafted} tokens, {accepted} of them right."));
    }
    text
}
