//! An answer as OpenAI's `chat.completion`.

use medgemma_engine::pipeline::SpokenToken;
use medgemma_engine::{Finish, Reply};
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, Serialize)]
pub(crate) struct Completion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: [Choice; 1],
    usage: Usage,
}

#[derive(Debug, Serialize)]
struct Choice {
    index: u32,
    message: Message,
    logprobs: Option<Logprobs>,
    finish_reason: &'static str,
    /// Ours: why it ended where OpenAI has no word for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_detail: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Message {
    role: &'static str,
    content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    refusal: Option<String>,
}

#[derive(Debug, Serialize)]
struct Logprobs {
    content: Vec<Token>,
    refusal: Option<Vec<Token>>,
}

#[derive(Debug, Serialize)]
struct Token {
    #[serde(flatten)]
    chosen: Logprob,
    top_logprobs: Vec<Logprob>,
}

#[derive(Debug, Serialize)]
struct Logprob {
    /// Its text; a character that is spread over several tokens is whole only in the bytes.
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

#[derive(Debug, Serialize)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
}

#[derive(Debug, Serialize)]
struct PromptDetails {
    cached_tokens: usize,
}

impl Completion {
    /// The answer of `model`; with `logprobs`, those of the answer's tokens (the thought's are left out, as its text
    /// is from the content).
    pub(crate) fn new(model: &str, reply: &Reply, logprobs: bool) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (finish_reason, finish_detail) = match reply.finish {
            Finish::Stop => ("stop", None),
            Finish::Length if reply.cut_in_thought => ("length", Some("thought")),
            Finish::Length => ("length", None),
            Finish::Loop => ("length", Some("loop")),
            Finish::Cancelled => ("stop", Some("cancelled")),
        };
        let tokens = reply.tokens.iter().filter(|token| !token.thought).map(Token::new).collect();
        let usage = reply.usage;
        Self {
            id: format!("chatcmpl-{:x}", now.as_nanos()),
            object: "chat.completion",
            created: now.as_secs(),
            model: model.to_owned(),
            choices: [Choice {
                index: 0,
                message: Message {
                    role: "assistant",
                    content: reply.answer.clone(),
                    reasoning_content: reply.thought.clone(),
                    refusal: None,
                },
                logprobs: logprobs.then_some(Logprobs { content: tokens, refusal: None }),
                finish_reason,
                finish_detail,
            }],
            usage: Usage {
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
                total_tokens: usage.prompt_tokens + usage.completion_tokens,
                prompt_tokens_details: PromptDetails { cached_tokens: usage.cached_tokens },
            },
        }
    }
}

impl Token {
    fn new(token: &SpokenToken) -> Self {
        let top = token.top.iter().map(|(_, bytes, logprob)| Logprob::new(bytes, *logprob)).collect();
        Self { chosen: Logprob::new(&token.bytes, token.logprob), top_logprobs: top }
    }
}

impl Logprob {
    fn new(bytes: &[u8], logprob: f32) -> Self {
        Self { token: String::from_utf8_lossy(bytes).into_owned(), logprob, bytes: bytes.to_vec() }
    }
}
