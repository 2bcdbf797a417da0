//! Anthropic's messages.

use super::options::{Hold, Thinking, budget, sampling, stops, tokens};
use super::{Ask, check_model, id, named_event, read, repeat, respond, submit, tell_ignored, warn_of_tools};
use crate::failure::Failure;
use crate::fields::Fields;
use crate::form::Form;
use crate::guard::Owner;
use crate::outcome::{End, Outcome, Piece};
use crate::server::Shared;
use crate::stream::{self, EVENTS, Writer};
use crate::tools::{self, Call, Rest, Tools, Turn};
use axum::extract::{Request, State};
use axum::response::Response;
use medgemma_engine::Options;
use medgemma_gemma::text::{Message, Role};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// `POST /v1/messages`
pub(crate) async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let result = match read(&shared, request).await {
        Ok((fields, owner)) => reply(&shared, fields, owner).await,
        Err(failure) => Err(failure),
    };
    result.unwrap_or_else(|failure| failure.with(&failure.anthropic()))
}

async fn reply(shared: &Arc<Shared>, fields: Fields, owner: Owner) -> Result<Response, Failure> {
    check_model(shared, &fields)?;
    fields.refuse("mcp_servers", "it isn't supported: nothing is fetched")?;
    let sampling = sampling(&fields, &shared.ready()?.frontend)?;
    if fields.get("max_tokens").is_none() {
        return Err(fields.wrong("max_tokens", "it is missing"));
    }
    let (form, tools) = (Form::anthropic(&fields)?, Tools::anthropic(&fields)?);
    tools::refuse_form(form.is_some(), &tools)?;
    let names = tools.as_ref().and_then(Tools::names);
    let thinking = thinking(&fields)?;
    let options = Options {
        max_tokens: Some(budget(&fields, &["max_tokens"], 1, &shared.config)?),
        sampling: Some(sampling),
        think: thinking.asked,
        thought_budget: thinking.budget,
        stop: stops(&fields, "stop_sequences")?,
        ..Options::default()
    };
    let hold = Hold { form, tools, ..Hold::default() };
    let ask = Ask { messages: conversation(&fields)?, images: None, options, hold };
    let stream = fields.flag("stream")?.unwrap_or(false);
    fields.get("metadata");
    let ignored = fields.ignored();
    drop(fields);
    let ask = ask.fetched(shared).await?;
    let seed = sampling.seed;
    let running =
        submit(shared, owner, 1, move |frontend, shared| Ok(repeat(ask.prepare(frontend, shared)?, 1, seed))).await?;
    let head = json!({
        "id": id("msg_"), "type": "message", "role": "assistant", "model": shared.config.model, "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 0, "output_tokens": 0},
    });
    if stream {
        let events = Events { head, begun: false, blocks: 0, open: None, turn: Turn::new(&names) };
        return Ok(warn_of_tools(tell_ignored(stream::respond(running, events), &ignored), &names));
    }
    let outcomes = running.gather().await?;
    let outcome = outcomes.first().ok_or_else(|| Failure::engine("there is no answer"))?;
    let mut content = Vec::new();
    if !outcome.thought.is_empty() {
        content.push(json!({"type": "thinking", "thinking": outcome.thought, "signature": ""}));
    }
    let (text, call) = Turn::whole(&names, &outcome.answer);
    let mut body = head;
    body["stop_reason"] = json!(reason(outcome.end));
    match call {
        None => content.push(json!({"type": "text", "text": text})),
        Some(call) => {
            content.push(json!({"type": "tool_use", "id": id("toolu_"), "name": call.name, "input": call.arguments}));
            body["stop_reason"] = json!("tool_use");
        }
    }
    body["content"] = Value::Array(content);
    body["stop_sequence"] = json!(outcome.stop);
    body["usage"] = usage(outcome);
    Ok(warn_of_tools(respond(&body, &ignored), &names))
}

/// Whether to think, and how much: the budget that is named, or that of the effort.
fn thinking(fields: &Fields) -> Result<Thinking, Failure> {
    let asked = fields.object("thinking")?;
    let budget = tokens(&asked, "budget_tokens")?;
    let effort = Thinking::effort(&fields.object("output_config")?, "effort")?;
    Ok(match asked.text("type")? {
        None | Some("disabled") => Thinking::default(),
        Some("enabled" | "adaptive") => {
            Thinking { asked: true, budget: effort.and_then(|effort| effort.budget) }.within(budget)
        }
        Some(_) => return Err(asked.wrong("type", "it must be enabled, adaptive or disabled")),
    })
}

/// The system text and the messages, in OpenAI's words.
fn conversation(fields: &Fields) -> Result<Vec<Message>, Failure> {
    let mut messages = Vec::new();
    match fields.get("system") {
        None => {}
        Some(Value::String(text)) => messages.push(Message::system(text.clone())),
        Some(Value::Array(blocks)) => {
            let text: Option<Vec<&str>> = blocks.iter().map(words).collect();
            let text = text.ok_or_else(|| fields.wrong("system", "it must be a text or text blocks"))?;
            messages.push(Message::system(text.join("\n\n")));
        }
        Some(_) => return Err(fields.wrong("system", "it must be a text or text blocks")),
    }
    let list = fields.get("messages").and_then(Value::as_array).filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| fields.wrong("messages", "it must be a list of at least one message"))?;
    let mut names = HashMap::new();
    for (at, message) in list.iter().enumerate() {
        let place = format!("messages[{at}]");
        if !["user", "assistant"].iter().any(|role| message["role"] == *role) {
            return Err(Failure::field(&format!("{place}.role"), "it must be user or assistant"));
        }
        let mut message = message.clone();
        if let Some(blocks) = message.get_mut("content").and_then(Value::as_array_mut) {
            *blocks = parts(blocks, &format!("{place}.content"), &mut names)?;
        }
        messages.push(Message::from_value(&message, &place).map_err(medgemma_engine::Error::from)?);
    }
    if messages.last().is_some_and(|message| message.role == Role::Assistant) {
        return Err(fields.wrong("messages", "the last message must be the user's"));
    }
    Ok(messages)
}

/// Blocks of a message as parts of a chat's. `names` are the functions that were called.
fn parts(blocks: &[Value], place: &str, names: &mut HashMap<String, String>) -> Result<Vec<Value>, Failure> {
    let (mut parts, mut calls): (Vec<Value>, bool) = (Vec::new(), false);
    for (at, block) in blocks.iter().enumerate() {
        let wrong = |field: &str, problem: &str| Failure::field(&format!("{place}[{at}]{field}"), problem);
        match block["type"].as_str() {
            // What was thought before isn't part of the conversation.
            Some("thinking" | "redacted_thinking") => {}
            Some("image") => parts.push(
                picture(block)
                    .ok_or_else(|| wrong(".source", "it must be of type base64, with media_type and data"))?,
            ),
            Some("tool_use") => {
                let here = format!("{place}[{at}]");
                let (id, name) = (tools::text(block, "id", &here)?, tools::text(block, "name", &here)?);
                if !block["input"].is_object() {
                    return Err(wrong(".input", "it must be an object"));
                }
                names.insert(id.to_owned(), name.to_owned());
                parts.push(json!({"type": "text", "text": tools::call_text(name, &block["input"])}));
                calls = true;
            }
            Some("tool_result") => {
                let name = names.get(tools::text(block, "tool_use_id", &format!("{place}[{at}]"))?);
                let mut said = String::new();
                match &block["content"] {
                    Value::Null => {}
                    Value::String(text) => said.push_str(text),
                    Value::Array(inner) => {
                        for part in inner {
                            match (words(part), picture(part)) {
                                (Some(text), _) => said.push_str(text),
                                (None, Some(picture)) => parts.push(picture),
                                _ => return Err(wrong(".content", "it must be text and images")),
                            }
                        }
                    }
                    _ => return Err(wrong(".content", "it must be a text or blocks")),
                }
                let name = name.map_or("the function", String::as_str);
                parts.push(json!({"type": "text", "text": tools::result_text(name, &said)}));
                calls = true;
            }
            Some("text") => parts.push(block.clone()),
            _ => return Err(wrong(".type", "it must be text, image, tool_use, tool_result or thinking")),
        }
    }
    Ok(if calls { joined(parts) } else { parts })
}

/// Makes texts that follow each other one: the template writes parts without anything between.
fn joined(parts: Vec<Value>) -> Vec<Value> {
    let mut joined: Vec<Value> = Vec::with_capacity(parts.len());
    for part in parts {
        let before = joined.last().and_then(|last| last["text"].as_str());
        match (before, part["text"].as_str()) {
            (Some(before), Some(text)) => {
                let both = format!("{before}\n\n{text}");
                joined.pop();
                joined.push(json!({"type": "text", "text": both}));
            }
            _ => joined.push(part),
        }
    }
    joined
}

/// The words of a block that is text.
fn words(block: &Value) -> Option<&str> {
    block["text"].as_str().filter(|_| block["type"] == "text")
}

/// The picture of a block that is one.
fn picture(block: &Value) -> Option<Value> {
    if block["type"] != "image" {
        return None;
    }
    let source = &block["source"];
    let url = match (source["type"].as_str(), source["media_type"].as_str(), source["data"].as_str()) {
        (Some("base64"), Some(kind), Some(data)) => format!("data:{kind};base64,{data}"),
        (Some("url"), _, _) => source["url"].as_str().unwrap_or_default().to_owned(),
        _ => return None,
    };
    Some(json!({"type": "image_url", "image_url": {"url": url}}))
}

fn reason(end: Option<End>) -> Option<&'static str> {
    end.map(|end| match end {
        End::Stop => "end_turn",
        End::StopString => "stop_sequence",
        End::Length | End::Thought | End::Loop | End::Time => "max_tokens",
    })
}

fn usage(outcome: &Outcome) -> Value {
    json!({
        "input_tokens": outcome.prompt_tokens - outcome.cached_tokens,
        "cache_read_input_tokens": outcome.cached_tokens, "cache_creation_input_tokens": 0,
        "output_tokens": outcome.new_tokens,
    })
}

struct Events {
    head: Value,
    begun: bool,
    /// Blocks begun.
    blocks: usize,
    /// The kind of the block that is open.
    open: Option<&'static str>,
    turn: Turn,
}

impl Events {
    fn close(&mut self, out: &mut String) {
        if self.open.take().is_some() {
            named_event(&json!({"type": "content_block_stop", "index": self.blocks - 1}), out);
        }
    }

    fn call(&mut self, call: &Call, out: &mut String) {
        self.close(out);
        let block = json!({"type": "tool_use", "id": id("toolu_"), "name": call.name, "input": {}});
        named_event(&json!({"type": "content_block_start", "index": self.blocks, "content_block": block}), out);
        let delta = json!({"type": "input_json_delta", "partial_json": call.arguments.to_string()});
        named_event(&json!({"type": "content_block_delta", "index": self.blocks, "delta": delta}), out);
        self.blocks += 1;
        self.open = Some("tool_use");
    }

    fn text(&mut self, kind: &'static str, text: &str, out: &mut String) {
        if self.open != Some(kind) {
            self.close(out);
            let mut block = json!({"type": kind, kind: ""});
            if kind == "thinking" {
                block["signature"] = json!("");
            }
            named_event(&json!({"type": "content_block_start", "index": self.blocks, "content_block": block}), out);
            self.blocks += 1;
            self.open = Some(kind);
        }
        let delta = json!({"type": format!("{kind}_delta"), kind: text});
        named_event(&json!({"type": "content_block_delta", "index": self.blocks - 1, "delta": delta}), out);
    }
}

impl Writer for Events {
    const KIND: &'static str = EVENTS;
    const ALIVE: &'static str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";

    fn begin(&mut self, _: &mut String) {}

    fn piece(&mut self, _: usize, piece: &Piece, outcome: &Outcome, out: &mut String) {
        if !std::mem::replace(&mut self.begun, true) {
            let mut message = self.head.clone();
            message["usage"] = usage(outcome);
            named_event(&json!({"type": "message_start", "message": message}), out);
        }
        if !piece.thought.is_empty() {
            self.text("thinking", &piece.thought, out);
        }
        let text = self.turn.push(&piece.answer);
        if !text.is_empty() {
            self.text("text", &text, out);
        }
    }

    fn end(&mut self, outcomes: &[Outcome], out: &mut String) {
        let mut calls = false;
        match self.turn.end() {
            Rest::Call(call) => {
                self.call(&call, out);
                calls = true;
            }
            Rest::Text(text) if !text.is_empty() || self.blocks == 0 => self.text("text", &text, out),
            Rest::Text(_) => {}
        }
        self.close(out);
        let Some(outcome) = outcomes.first() else { return };
        let reason = if calls { Some("tool_use") } else { reason(outcome.end) };
        let delta = json!({"stop_reason": reason, "stop_sequence": outcome.stop});
        named_event(&json!({"type": "message_delta", "delta": delta, "usage": usage(outcome)}), out);
        named_event(&json!({"type": "message_stop"}), out);
    }

    fn fail(&mut self, failure: &Failure, out: &mut String) {
        named_event(&failure.anthropic(), out);
    }
}
