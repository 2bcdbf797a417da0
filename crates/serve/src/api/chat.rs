//! OpenAI's chat completions.

use super::{
    ALTERNATIVES, ANSWERS, Ask, budget, check_model, effort, event, id, logprobs, now, read, refuse_unsupported,
    repeat, respond, sampling, stops, submit, tell_ignored, usage,
};
use crate::failure::Failure;
use crate::fields::Fields;
use crate::form::Form;
use crate::outcome::{End, Outcome, Piece};
use crate::server::Shared;
use crate::stream::{self, EVENTS, Writer};
use axum::extract::{Request, State};
use axum::response::Response;
use medgemma_engine::Options;
use medgemma_gemma::text::Message;
use serde_json::{Value, json};
use std::sync::Arc;

/// What a request says.
struct Asked {
    ask: Ask,
    answers: usize,
    seed: u64,
    stream: bool,
    with_usage: bool,
    logprobs: bool,
}

fn parse(shared: &Shared, fields: &Fields) -> Result<Asked, Failure> {
    check_model(shared, fields)?;
    refuse_unsupported(fields)?;
    let form = Form::of(fields)?;
    let frontend = &shared.ready()?.frontend;
    let sampling = sampling(fields, frontend)?;
    let logprobs = fields.flag("logprobs")?.unwrap_or(false);
    let alternatives = fields.count("top_logprobs", 0, ALTERNATIVES)?;
    if alternatives.is_some_and(|count| count > 0) && !logprobs {
        return Err(fields.wrong("top_logprobs", "logprobs must be true"));
    }
    let template = fields.object("chat_template_kwargs")?;
    let think = template.flag("enable_thinking")?.or(effort(fields, "reasoning_effort")?);
    let messages =
        Message::list(fields.get("messages").unwrap_or(&Value::Null)).map_err(medgemma_engine::Error::from)?;
    let ignore_eos = fields.flag("ignore_eos")?.unwrap_or(false);
    if ignore_eos && form.is_some() {
        return Err(fields.wrong("ignore_eos", "an answer that is held to a form ends where its form does"));
    }
    let options = Options {
        max_tokens: Some(budget(fields, &["max_completion_tokens", "max_tokens"], 1, &shared.config)?),
        sampling: Some(sampling),
        think: think.unwrap_or(false),
        stop: stops(fields, "stop")?,
        logprobs: logprobs.then_some(alternatives.unwrap_or(0)),
        ignore_eos,
        ..Options::default()
    };
    Ok(Asked {
        ask: Ask { messages, images: None, options, form },
        answers: fields.count("n", 1, ANSWERS)?.unwrap_or(1),
        seed: sampling.seed,
        stream: fields.flag("stream")?.unwrap_or(false),
        with_usage: fields.object("stream_options")?.flag("include_usage")?.unwrap_or(false),
        logprobs,
    })
}

/// `POST /v1/chat/completions`
pub(crate) async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Failure> {
    let (fields, owner) = read(&shared, request).await?;
    let asked = parse(&shared, &fields)?;
    fields.get("user");
    let ignored = fields.ignored();
    drop(fields);
    let (ask, answers, seed) = (asked.ask, asked.answers, asked.seed);
    let running = submit(&shared, owner, answers, move |frontend, shared| {
        Ok(repeat(ask.prepare(frontend, shared)?, answers, seed))
    })
    .await?;
    let model = shared.config.model.clone();
    if asked.stream {
        let begun = vec![false; answers];
        let chunks =
            Chunks { id: id("chatcmpl-"), created: now(), model, asked: (asked.logprobs, asked.with_usage), begun };
        return Ok(tell_ignored(stream::respond(running, chunks), &ignored));
    }
    let outcomes = running.gather().await?;
    let choices: Vec<Value> = outcomes.iter().enumerate().map(|(at, o)| choice(at, o, asked.logprobs)).collect();
    let body = json!({
        "id": id("chatcmpl-"), "object": "chat.completion", "created": now(), "model": model, "choices": choices,
        "usage": usage(&outcomes, 0..1),
    });
    Ok(respond(&body, &ignored))
}

fn choice(index: usize, outcome: &Outcome, logprobs: bool) -> Value {
    let mut message = json!({"role": "assistant", "content": outcome.answer, "refusal": null});
    if !outcome.thought.is_empty() {
        message["reasoning_content"] = json!(outcome.thought);
    }
    let logprobs = if logprobs { logprobs::chat(&outcome.tokens) } else { Value::Null };
    let mut choice = json!({"index": index, "message": message, "logprobs": logprobs});
    finish(&mut choice, outcome.end);
    choice
}

fn finish(choice: &mut Value, end: Option<End>) {
    choice["finish_reason"] = json!(end.map(End::reason));
    if let Some(detail) = end.and_then(End::detail) {
        choice["finish_detail"] = json!(detail);
    }
}

/// The chunks of a stream.
struct Chunks {
    id: String,
    created: u64,
    model: String,
    /// Whether log-probabilities, and the count of tokens, were asked for.
    asked: (bool, bool),
    /// Which answers have begun.
    begun: Vec<bool>,
}

impl Chunks {
    fn chunk(&self, choices: Value, out: &mut String) {
        let mut chunk = json!({
            "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
            "choices": choices,
        });
        if self.asked.1 {
            chunk["usage"] = Value::Null;
        }
        event(&chunk, out);
    }

    fn delta(&self, index: usize, delta: Value, logprobs: Value, end: Option<End>, out: &mut String) {
        let mut choice = json!({"index": index, "delta": delta, "logprobs": logprobs});
        finish(&mut choice, end);
        self.chunk(json!([choice]), out);
    }
}

impl Writer for Chunks {
    const KIND: &'static str = EVENTS;
    const ALIVE: &'static str = ": alive\n\n";

    fn begin(&mut self, _: &mut String) {}

    fn piece(&mut self, index: usize, piece: &Piece, _: &Outcome, out: &mut String) {
        if !std::mem::replace(&mut self.begun[index], true) {
            self.delta(index, json!({"role": "assistant", "content": ""}), Value::Null, None, out);
        }
        if !piece.thought.is_empty() {
            self.delta(index, json!({"reasoning_content": piece.thought}), Value::Null, None, out);
        }
        let told = piece.token.as_ref().filter(|token| self.asked.0 && !token.thought);
        if !piece.answer.is_empty() || told.is_some() {
            let logprobs = told.map_or(Value::Null, |token| logprobs::chat([token]));
            self.delta(index, json!({"content": piece.answer}), logprobs, None, out);
        }
        if piece.end.is_some() {
            self.delta(index, json!({}), Value::Null, piece.end, out);
        }
    }

    fn end(&mut self, outcomes: &[Outcome], out: &mut String) {
        if self.asked.1 {
            let usage = usage(outcomes, 0..1);
            event(
                &json!({
                    "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
                    "choices": [], "usage": usage,
                }),
                out,
            );
        }
        out.push_str("data: [DONE]\n\n");
    }

    fn fail(&mut self, failure: &Failure, out: &mut String) {
        event(&failure.body(), out);
    }
}
