//! OpenAI's responses: one answer, without anything being stored.

mod input;

use super::options::{Thinking, Writing, budget};
use super::{Ask, check_model, id, named_event, now, read, repeat, respond, submit, tell_ignored, warn_of_tools};
use crate::failure::Failure;
use crate::form::Form;
use crate::outcome::{End, Outcome, Piece};
use crate::server::Shared;
use crate::stream::{self, EVENTS, Writer};
use crate::tools::{self, Call, Rest, Tools, Turn};
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;

/// `POST /v1/responses`
pub(crate) async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Failure> {
    let (fields, owner) = read(&shared, request).await?;
    check_model(&shared, &fields, "model")?;
    for name in ["previous_response_id", "conversation", "background", "prompt"] {
        fields.refuse(name, "nothing is stored: send the whole conversation in input")?;
    }
    fields.count("n", 1, 1)?;
    let (form, tools) = (Form::responses(&fields)?, Tools::responses(&fields)?);
    tools::refuse_form(form.is_some(), &tools)?;
    let names = tools.as_ref().and_then(Tools::names);
    let mut writing = Writing::of(&fields, form, &shared.ready()?.frontend)?;
    writing.hold.tools = tools;
    let thinking = Thinking::effort(&fields.object("reasoning")?, "effort")?.unwrap_or_default();
    writing.options.max_tokens = Some(budget(&fields, &["max_output_tokens"], 1, &shared.config)?);
    writing.options.think = thinking.asked;
    writing.options.thought_budget = thinking.budget;
    let seed = writing.seed();
    let Writing { options, hold, stream, .. } = writing;
    let ask = Ask { messages: input::conversation(&fields)?, within: Some("input"), images: None, options, hold };
    for name in ["store", "metadata"] {
        fields.get(name);
    }
    let offered = {
        let given = |name: &str, other: Value| fields.get(name).cloned().unwrap_or(other);
        (given("tools", json!([])), given("tool_choice", json!("auto")))
    };
    let ignored = fields.ignored();
    drop(fields);
    let ask = ask.fetched(&shared).await?;
    let running =
        submit(&shared, owner, 1, move |frontend, shared| Ok(repeat(ask.prepare(frontend, shared)?, 1, seed))).await?;
    let shape = Shape {
        id: id("resp_"),
        message: id("msg_"),
        thought: id("rs_"),
        model: shared.config.model.clone(),
        created: now(),
        call: (id("fc_"), id("call_")),
        offered,
    };
    if stream {
        let events =
            Events { shape, number: 0, thought: false, message: false, turn: Turn::new(&names), text: String::new() };
        return Ok(warn_of_tools(tell_ignored(stream::respond(running, events), &ignored), &names));
    }
    let outcomes = running.gather().await?;
    let outcome = outcomes.first().ok_or_else(|| Failure::engine("there is no answer"))?;
    let (text, call) = Turn::whole(&names, &outcome.answer);
    Ok(warn_of_tools(respond(&shape.response(Some((outcome, &text, call.as_ref()))), &ignored), &names))
}

/// What is the same in all of a response's objects.
struct Shape {
    id: String,
    message: String,
    thought: String,
    model: String,
    created: u64,
    /// The names of a call: the item's, and the call's own.
    call: (String, String),
    /// The functions and the choice among them, as they came.
    offered: (Value, Value),
}

/// An answer: its outcome, its text, or the function that it calls.
type Answer<'a> = (&'a Outcome, &'a str, Option<&'a Call>);

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

    fn function_call(&self, call: &Call, status: &str) -> Value {
        let arguments = if status == "completed" { call.arguments.to_string() } else { String::new() };
        json!({
            "type": "function_call", "id": self.call.0, "call_id": self.call.1, "name": call.name,
            "arguments": arguments, "status": status,
        })
    }

    /// The whole, or, without an answer, its beginning.
    fn response(&self, answer: Option<Answer<'_>>) -> Value {
        let mut response = json!({
            "id": self.id, "object": "response", "created_at": self.created, "model": self.model, "status": "in_progress",
            "error": null, "incomplete_details": null, "output": [], "parallel_tool_calls": false,
            "tool_choice": self.offered.1, "tools": self.offered.0, "usage": null, "store": false,
        });
        let Some((outcome, text, call)) = answer else { return response };
        let whole = call.is_some() || matches!(outcome.end, Some(End::Stop | End::StopString));
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
        output.push(match call {
            Some(call) => self.function_call(call, "completed"),
            None => self.message(status, vec![Self::part(text)]),
        });
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
    turn: Turn,
    /// The text so far.
    text: String,
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

    fn show(&mut self, text: &str, outcome: &Outcome, out: &mut String) {
        self.open_message(outcome, out);
        self.text.push_str(text);
        let at = usize::from(self.thought);
        let place = json!({
            "item_id": self.shape.message, "output_index": at, "content_index": 0, "delta": text, "logprobs": [],
        });
        self.tell("response.output_text.delta", place, out);
    }

    /// A call of a function, whole.
    fn call(&mut self, call: &Call, outcome: &Outcome, out: &mut String) {
        self.close_thought(outcome, out);
        let at = usize::from(self.thought);
        let item = self.shape.function_call(call, "in_progress");
        self.tell("response.output_item.added", json!({"output_index": at, "item": item}), out);
        let place = json!({"item_id": self.shape.call.0, "output_index": at});
        let (mut delta, mut done) = (place.clone(), place);
        delta["delta"] = json!(call.arguments.to_string());
        (done["arguments"], done["name"]) = (delta["delta"].clone(), json!(call.name));
        self.tell("response.function_call_arguments.delta", delta, out);
        self.tell("response.function_call_arguments.done", done, out);
        let item = self.shape.function_call(call, "completed");
        self.tell("response.output_item.done", json!({"output_index": at, "item": item}), out);
    }

    /// The last of the message.
    fn close_message(&mut self, outcome: &Outcome, out: &mut String) {
        self.open_message(outcome, out);
        let at = usize::from(self.thought);
        let place = json!({"item_id": self.shape.message, "output_index": at, "content_index": 0});
        let mut text = place.clone();
        (text["text"], text["logprobs"]) = (json!(self.text), json!([]));
        self.tell("response.output_text.done", text, out);
        let mut part = place;
        part["part"] = Shape::part(&self.text);
        self.tell("response.content_part.done", part, out);
        let item = self.shape.response(Some((outcome, &self.text, None)))["output"][at].take();
        self.tell("response.output_item.done", json!({"output_index": at, "item": item}), out);
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
        let text = self.turn.push(&piece.answer);
        if !text.is_empty() {
            self.show(&text, outcome, out);
        }
    }

    fn end(&mut self, outcomes: &[Outcome], out: &mut String) {
        let Some(outcome) = outcomes.first() else { return };
        let call = match self.turn.end() {
            Rest::Call(call) => {
                self.call(&call, outcome, out);
                Some(call)
            }
            Rest::Text(text) => {
                if !text.is_empty() {
                    self.show(&text, outcome, out);
                }
                self.close_message(outcome, out);
                None
            }
        };
        let response = self.shape.response(Some((outcome, &self.text, call.as_ref())));
        let kind = if response["status"] == "completed" { "response.completed" } else { "response.incomplete" };
        self.tell(kind, json!({"response": response}), out);
        // OpenAI's stream ends with the last event.
    }

    fn fail(&mut self, failure: &Failure, out: &mut String) {
        let body = json!({"code": failure.code.unwrap_or(failure.kind), "message": failure.message, "param": null});
        self.tell("error", body, out);
    }
}
