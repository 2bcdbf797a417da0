//! Anthropic's messages.

use super::{Ask, budget, check_model, id, named_event, read, repeat, respond, sampling, stops, submit, tell_ignored};
use crate::failure::Failure;
use crate::fields::Fields;
use crate::guard::Owner;
use crate::outcome::{End, Outcome, Piece};
use crate::server::Shared;
use crate::stream::{self, EVENTS, Writer};
use axum::extract::{Request, State};
use axum::response::Response;
use medgemma_engine::Options;
use medgemma_gemma::text::{Message, Role};
use serde_json::{Value, json};
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
    for name in ["tools", "tool_choice", "mcp_servers"] {
        fields.refuse(name, "tools aren't supported: these models weren't trained for them")?;
    }
    let sampling = sampling(&fields, &shared.ready()?.frontend)?;
    if fields.get("max_tokens").is_none() {
        return Err(fields.wrong("max_tokens", "it is missing"));
    }
    let think = fields.object("thinking")?;
    think.get("budget_tokens");
    let options = Options {
        max_tokens: Some(budget(&fields, &["max_tokens"], 1, &shared.config)?),
        sampling: Some(sampling),
        think: matches!(think.text("type")?, Some("enabled" | "adaptive")),
        stop: stops(&fields, "stop_sequences")?,
        ..Options::default()
    };
    let ask = Ask { messages: conversation(&fields)?, images: None, options, form: None };
    let stream = fields.flag("stream")?.unwrap_or(false);
    fields.get("metadata");
    let ignored = fields.ignored();
    drop(fields);
    let seed = sampling.seed;
    let running =
        submit(shared, owner, 1, move |frontend, shared| Ok(repeat(ask.prepare(frontend, shared)?, 1, seed))).await?;
    let head = json!({
        "id": id("msg_"), "type": "message", "role": "assistant", "model": shared.config.model, "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 0, "output_tokens": 0},
    });
    if stream {
        let events = Events { head, begun: false, blocks: 0, open: None };
        return Ok(tell_ignored(stream::respond(running, events), &ignored));
    }
    let outcomes = running.gather().await?;
    let outcome = outcomes.first().ok_or_else(|| Failure::engine("there is no answer"))?;
    let mut content = Vec::new();
    if !outcome.thought.is_empty() {
        content.push(json!({"type": "thinking", "thinking": outcome.thought, "signature": ""}));
    }
    content.push(json!({"type": "text", "text": outcome.answer}));
    let mut body = head;
    body["content"] = Value::Array(content);
    body["stop_reason"] = json!(reason(outcome.end));
    body["stop_sequence"] = json!(outcome.stop);
    body["usage"] = usage(outcome);
    Ok(respond(&body, &ignored))
}

/// The system text and the messages, in OpenAI's words.
fn conversation(fields: &Fields) -> Result<Vec<Message>, Failure> {
    let mut messages = Vec::new();
    match fields.get("system") {
        None => {}
        Some(Value::String(text)) => messages.push(Message::system(text.clone())),
        Some(Value::Array(blocks)) => {
            let text: Option<Vec<&str>> = blocks.iter().map(|block| block["text"].as_str()).collect();
            let text = text.ok_or_else(|| fields.wrong("system", "it must be a text or text blocks"))?;
            messages.push(Message::system(text.join("\n\n")));
        }
        Some(_) => return Err(fields.wrong("system", "it must be a text or text blocks")),
    }
    let list = fields.get("messages").and_then(Value::as_array).filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| fields.wrong("messages", "it must be a list of at least one message"))?;
    for (at, message) in list.iter().enumerate() {
        let place = format!("messages[{at}]");
        let mut message = message.clone();
        if let Some(blocks) = message.get_mut("content").and_then(Value::as_array_mut) {
            // What was thought before isn't part of the conversation.
            blocks.retain(|block| block["type"] != "thinking" && block["type"] != "redacted_thinking");
            for (part, block) in blocks.iter_mut().enumerate().filter(|(_, block)| block["type"] == "image") {
                let source = &block["source"];
                let url = match (source["type"].as_str(), source["media_type"].as_str(), source["data"].as_str()) {
                    (Some("base64"), Some(kind), Some(data)) => format!("data:{kind};base64,{data}"),
                    (Some("url"), _, _) => source["url"].as_str().unwrap_or_default().to_owned(),
                    _ => {
                        let field = format!("{place}.content[{part}].source");
                        return Err(Failure::field(&field, "it must be of type base64, with media_type and data"));
                    }
                };
                *block = json!({"type": "image_url", "image_url": {"url": url}});
            }
        }
        messages.push(Message::from_value(&message, &place).map_err(medgemma_engine::Error::from)?);
    }
    if messages.last().is_some_and(|message| message.role == Role::Assistant) {
        return Err(fields.wrong("messages", "the last message must be the user's"));
    }
    Ok(messages)
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
}

impl Events {
    fn close(&mut self, out: &mut String) {
        if self.open.take().is_some() {
            named_event(&json!({"type": "content_block_stop", "index": self.blocks - 1}), out);
        }
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
        if !piece.answer.is_empty() {
            self.text("text", &piece.answer, out);
        }
    }

    fn end(&mut self, outcomes: &[Outcome], out: &mut String) {
        if self.blocks == 0 {
            self.text("text", "", out);
        }
        self.close(out);
        let Some(outcome) = outcomes.first() else { return };
        let delta = json!({"stop_reason": reason(outcome.end), "stop_sequence": outcome.stop});
        named_event(&json!({"type": "message_delta", "delta": delta, "usage": usage(outcome)}), out);
        named_event(&json!({"type": "message_stop"}), out);
    }

    fn fail(&mut self, failure: &Failure, out: &mut String) {
        named_event(&failure.anthropic(), out);
    }
}
