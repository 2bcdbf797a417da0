//! OpenAI's responses: one answer, without anything being stored.

use super::{
    Ask, budget, check_model, effort, id, named_event, now, read, refuse_forms, refuse_unsupported, repeat, respond,
    sampling, submit, tell_ignored,
};
use crate::failure::Failure;
use crate::fields::Fields;
use crate::outcome::{End, Outcome, Piece};
use crate::server::Shared;
use crate::stream::{self, EVENTS, Writer};
use axum::extract::{Request, State};
use axum::response::Response;
use medgemma_engine::Options;
use medgemma_gemma::text::Message;
use serde_json::{Value, json};
use std::sync::Arc;

/// `POST /v1/responses`
pub(crate) async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Failure> {
    let (fields, owner) = read(&shared, request).await?;
    check_model(&shared, &fields)?;
    refuse_unsupported(&fields)?;
    for name in ["previous_response_id", "conversation", "background", "prompt"] {
        fields.refuse(name, "nothing is stored: send the whole conversation in input")?;
    }
    refuse_forms(&fields.object("text")?, "format")?;
    refuse_forms(&fields, "response_format")?;
    let sampling = sampling(&fields, &shared.ready()?.frontend)?;
    let options = Options {
        max_tokens: Some(budget(&fields, &["max_output_tokens"], 1, &shared.config)?),
        sampling: Some(sampling),
        think: effort(&fields.object("reasoning")?, "effort")?.unwrap_or(false),
        ..Options::default()
    };
    let ask = Ask { messages: conversation(&fields)?, images: None, options, form: None };
    let stream = fields.flag("stream")?.unwrap_or(false);
    for name in ["store", "metadata", "user"] {
        fields.get(name);
    }
    let ignored = fields.ignored();
    drop(fields);
    let seed = sampling.seed;
    let running =
        submit(&shared, owner, 1, move |frontend, shared| Ok(repeat(ask.prepare(frontend, shared)?, 1, seed))).await?;
    let shape = Shape {
        id: id("resp_"),
        message: id("msg_"),
        thought: id("rs_"),
        model: shared.config.model.clone(),
        created: now(),
    };
    if stream {
        let events = Events { shape, number: 0, thought: false, message: false };
        return Ok(tell_ignored(stream::respond(running, events), &ignored));
    }
    let outcomes = running.gather().await?;
    let outcome = outcomes.first().ok_or_else(|| Failure::engine("there is no answer"))?;
    Ok(respond(&shape.response(Some(outcome)), &ignored))
}

/// Instructions and input, in the words of a chat.
fn conversation(fields: &Fields) -> Result<Vec<Message>, Failure> {
    let mut messages = Vec::new();
    if let Some(text) = fields.text("instructions")? {
        messages.push(Message::system(text));
    }
    match fields.get("input") {
        Some(Value::String(text)) => messages.push(Message::user(text.clone())),
        Some(Value::Array(list)) if !list.is_empty() => {
            for (at, item) in list.iter().enumerate() {
                match item["type"].as_str() {
                    None | Some("message") => {}
                    // What was thought before isn't part of the conversation.
                    Some("reasoning") => continue,
                    Some(_) => return Err(fields.wrong(&format!("input[{at}].type"), "it must be message")),
                }
                let mut item = item.clone();
                if let Some(parts) = item.get_mut("content").and_then(Value::as_array_mut) {
                    parts.iter_mut().for_each(rename);
                }
                let message = Message::from_value(&item, &format!("input[{at}]"));
                messages.push(message.map_err(medgemma_engine::Error::from)?);
            }
        }
        _ => return Err(fields.wrong("input", "it must be a text or a list of messages")),
    }
    Ok(messages)
}

/// Gives a part of a message its name in a chat.
fn rename(part: &mut Value) {
    match part["type"].as_str() {
        Some("input_text" | "output_text") => part["type"] = json!("text"),
        Some("input_image") => {
            let url = part["image_url"].take();
            *part = json!({"type": "image_url", "image_url": {"url": url}});
        }
        _ => {}
    }
}

/// What is the same in all of a response's objects.
struct Shape {
    id: String,
    message: String,
    thought: String,
    model: String,
    created: u64,
}

impl Shape {
    fn part(text: &str) -> Value {
        json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
    }

    fn message(&self, status: &str, content: Vec<Value>) -> Value {
        json!({"type": "message", "id": self.message, "role": "assistant", "status": status, "content": content})
    }

    fn thought(&self, text: &str) -> Value {
        json!({
            "type": "reasoning", "id": self.thought, "summary": [],
            "content": [{"type": "reasoning_text", "text": text}],
        })
    }

    /// The whole, or, without an outcome, its beginning.
    fn response(&self, outcome: Option<&Outcome>) -> Value {
        let mut response = json!({
            "id": self.id, "object": "response", "created_at": self.created, "model": self.model, "status": "in_progress",
            "error": null, "incomplete_details": null, "output": [], "parallel_tool_calls": false,
            "tool_choice": "none", "tools": [], "usage": null, "store": false,
        });
        let Some(outcome) = outcome else { return response };
        let whole = matches!(outcome.end, Some(End::Stop | End::StopString));
        let status = if whole { "completed" } else { "incomplete" };
        response["status"] = json!(status);
        if !whole {
            response["incomplete_details"] = json!({"reason": "max_output_tokens"});
            if let Some(detail) = outcome.end.and_then(End::detail) {
                response["incomplete_details"]["detail"] = json!(detail);
            }
        }
        let mut output = Vec::new();
        if !outcome.thought.is_empty() {
            output.push(self.thought(&outcome.thought));
        }
        output.push(self.message(status, vec![Self::part(&outcome.answer)]));
        response["output"] = Value::Array(output);
        response["usage"] = json!({
            "input_tokens": outcome.prompt_tokens, "output_tokens": outcome.new_tokens,
            "total_tokens": outcome.prompt_tokens + outcome.new_tokens,
            "input_tokens_details": {"cached_tokens": outcome.cached_tokens},
            "output_tokens_details": {"reasoning_tokens": outcome.thought_tokens},
        });
        response
    }
}

struct Events {
    shape: Shape,
    number: u64,
    /// Whether the thought, and the message, have begun.
    thought: bool,
    message: bool,
}

impl Events {
    fn tell(&mut self, kind: &str, mut body: Value, out: &mut String) {
        body["type"] = json!(kind);
        body["sequence_number"] = json!(self.number);
        self.number += 1;
        named_event(&body, out);
    }

    fn close_thought(&mut self, outcome: &Outcome, out: &mut String) {
        if self.thought && !self.message {
            let item = self.shape.thought(&outcome.thought);
            self.tell("response.output_item.done", json!({"output_index": 0, "item": item}), out);
        }
    }

    fn open_message(&mut self, outcome: &Outcome, out: &mut String) {
        if self.message {
            return;
        }
        self.close_thought(outcome, out);
        self.message = true;
        let at = usize::from(self.thought);
        let item = self.shape.message("in_progress", Vec::new());
        self.tell("response.output_item.added", json!({"output_index": at, "item": item}), out);
        let place =
            json!({"item_id": self.shape.message, "output_index": at, "content_index": 0, "part": Shape::part("")});
        self.tell("response.content_part.added", place, out);
    }
}

impl Writer for Events {
    const KIND: &'static str = EVENTS;
    const ALIVE: &'static str = ": alive\n\n";

    fn begin(&mut self, out: &mut String) {
        let response = self.shape.response(None);
        self.tell("response.created", json!({"response": response}), out);
        self.tell("response.in_progress", json!({"response": response}), out);
    }

    fn piece(&mut self, _: usize, piece: &Piece, outcome: &Outcome, out: &mut String) {
        if !piece.thought.is_empty() && !self.message {
            if !std::mem::replace(&mut self.thought, true) {
                let item = json!({"type": "reasoning", "id": self.shape.thought, "summary": []});
                self.tell("response.output_item.added", json!({"output_index": 0, "item": item}), out);
            }
            let place =
                json!({"item_id": self.shape.thought, "output_index": 0, "content_index": 0, "delta": piece.thought});
            self.tell("response.reasoning_text.delta", place, out);
        }
        if !piece.answer.is_empty() {
            self.open_message(outcome, out);
            let at = usize::from(self.thought);
            let place = json!({
                "item_id": self.shape.message, "output_index": at, "content_index": 0, "delta": piece.answer, "logprobs": [],
            });
            self.tell("response.output_text.delta", place, out);
        }
    }

    fn end(&mut self, outcomes: &[Outcome], out: &mut String) {
        let Some(outcome) = outcomes.first() else { return };
        self.open_message(outcome, out);
        let at = usize::from(self.thought);
        let place = json!({"item_id": self.shape.message, "output_index": at, "content_index": 0});
        let mut text = place.clone();
        (text["text"], text["logprobs"]) = (json!(outcome.answer), json!([]));
        self.tell("response.output_text.done", text, out);
        let mut part = place;
        part["part"] = Shape::part(&outcome.answer);
        self.tell("response.content_part.done", part, out);
        let response = self.shape.response(Some(outcome));
        let item = response["output"][at].clone();
        self.tell("response.output_item.done", json!({"output_index": at, "item": item}), out);
        let kind = if response["status"] == "completed" { "response.completed" } else { "response.incomplete" };
        self.tell(kind, json!({"response": response}), out);
        // OpenAI's stream ends with the last event.
    }

    fn fail(&mut self, failure: &Failure, out: &mut String) {
        let body = json!({"code": failure.code.unwrap_or(failure.kind), "message": failure.message, "param": null});
        self.tell("error", body, out);
    }
}
