//! Log-probabilities in OpenAI's shapes.

use medgemma_engine::pipeline::SpokenToken;
use serde_json::{Map, Value, json};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn one(bytes: &[u8], logprob: f32) -> Value {
    json!({"token": text(bytes), "logprob": logprob, "bytes": bytes})
}

/// Of a chat's tokens; those of the thought are left out, as its text is from the content.
pub(super) fn chat<'a>(tokens: impl IntoIterator<Item = &'a SpokenToken>) -> Value {
    let token = |token: &SpokenToken| {
        let mut value = one(&token.bytes, token.logprob);
        value["top_logprobs"] = token.top.iter().map(|(_, bytes, logprob)| one(bytes, *logprob)).collect();
        value
    };
    let content: Vec<Value> = tokens.into_iter().filter(|token| !token.thought).map(token).collect();
    json!({"content": content, "refusal": null})
}

/// Log-probabilities of a completion's tokens, the prompt's first where it is echoed.
#[derive(Default)]
pub(super) struct Listed {
    tokens: Vec<String>,
    logprobs: Vec<Option<f32>>,
    top: Vec<Value>,
    offsets: Vec<usize>,
    /// Characters so far.
    at: usize,
}

impl Listed {
    /// Begins so many characters into the text.
    pub(super) fn at(at: usize) -> Self {
        Self { at, ..Self::default() }
    }

    /// Adds a token; `shown` says whether the text holds it.
    pub(super) fn push(&mut self, bytes: &[u8], logprob: Option<f32>, top: &[(u32, Vec<u8>, f32)], shown: bool) {
        let token = text(bytes);
        self.offsets.push(self.at);
        self.at += if shown { token.chars().count() } else { 0 };
        self.tokens.push(token);
        self.logprobs.push(logprob);
        let others: Map<String, Value> = top.iter().map(|(_, bytes, logprob)| (text(bytes), json!(logprob))).collect();
        self.top.push(if logprob.is_some() { Value::Object(others) } else { Value::Null });
    }

    pub(super) fn value(&self) -> Value {
        json!({
            "tokens": self.tokens, "token_logprobs": self.logprobs, "top_logprobs": self.top,
            "text_offset": self.offsets,
        })
    }
}
