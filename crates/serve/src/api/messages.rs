//! Anthropic's messages.

mod input;

use super::options::{Hold, Thinking, budget, sampling, stops, tokens};
use super::{Ask, check_model, id, named_event, prepare, read, repeat, respond, submit, tell_ignored, warn_of_tools};
use crate::failure::Failure;
use crate::fields::Fields;
use crate::form::Form;
use crate::guard::Owner;
use crate::outcome::{End, Outcome, Piece};
use crate::server::Shared;
use crate::stream::{self, EVENTS, Writer};
use crate::tools::{self, Call, Names, Rest, Tools, Turn};
use axum::extract::{Request, State};
use axum::response::Response;
use medgemma_engine::Options;
use medgemma_engine::pipeline::Frontend;
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

/// `POST /v1/messages/count_tokens`: what the prompt of a request would be.
pub(crate) async fn count(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let result = match read(&shared, request).await {
        Ok((fields, owner)) => counted(&shared, fields, owner).await,
        Err(failure) => Err(failure),
    };
    result.unwrap_or_else(|failure| failure.with(&failure.anthropic()))
}

async fn counted(shared: &Arc<Shared>, fields: Fields, mut owner: Owner) -> Result<Response, Failure> {
    let asked = parse(shared, &fields)?;
    let ignored = fields.ignored();
    drop(fields);
    let ask = asked.ask.fetched(shared).await?;
    let count = move |frontend: &Frontend, shared: &Shared| Ok(ask.prepare(frontend, shared)?.ids().len());
    let (count, ..) = prepare(shared, &mut owner, 1, count).await?;
    Ok(respond(&json!({"input_tokens": count}), &ignored))
}

/// What a request says.
struct Asked {
    ask: Ask,
    names: Names,
    stream: bool,
    seed: u64,
}

fn parse(shared: &Shared, fields: &Fields) -> Result<Asked, Failure> {
    check_model(shared, fields, "model")?;
    fields.refuse("mcp_servers", "it isn't supported: nothing is fetched")?;
    let sampling = sampling(fields, &shared.ready()?.frontend)?;
    let (form, tools) = (Form::anthropic(fields)?, Tools::anthropic(fields)?);
    tools::refuse_form(form.is_some(), &tools)?;
    let names = tools.as_ref().and_then(Tools::names);
    let thinking = thinking(fields)?;
    let options = Options {
        max_tokens: Some(budget(fields, &["max_tokens"], 1, &shared.config)?),
        sampling: Some(sampling),
        think: thinking.asked,
        thought_budget: thinking.budget,
        stop: stops(fields, "stop_sequences")?,
        ..Options::default()
    };
    let hold = Hold { form, tools, ..Hold::default() };
    let ask = Ask { messages: input::conversation(fields)?, within: Some("messages"), images: None, options, hold };
    let stream = fields.flag("stream")?.unwrap_or(false);
    fields.get("metadata");
    Ok(Asked { ask, names, stream, seed: sampling.seed })
}

async fn reply(shared: &Arc<Shared>, fields: Fields, owner: Owner) -> Result<Response, Failure> {
    let Asked { ask, names, stream, seed } = parse(shared, &fields)?;
    if fields.get("max_tokens").is_none() {
        return Err(fields.wrong("max_tokens", "it is missing"));
    }
    let ignored = fields.ignored();
    drop(fields);
    let ask = ask.fetched(shared).await?;
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
    tell_detail(&mut body, outcome.end);
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

fn reason(end: Option<End>) -> Option<&'static str> {
    end.map(|end| match end {
        End::Stop => "end_turn",
        End::StopString => "stop_sequence",
        End::Length | End::Thought | End::Loop | End::Time => "max_tokens",
    })
}

/// Says why an answer ended where Anthropic has no word for it.
fn tell_detail(of: &mut Value, end: Option<End>) {
    if let Some(detail) = end.and_then(End::detail) {
        of["finish_detail"] = json!(detail);
    }
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
        let mut delta = json!({"stop_reason": reason, "stop_sequence": outcome.stop});
        tell_detail(&mut delta, outcome.end);
        named_event(&json!({"type": "message_delta", "delta": delta, "usage": usage(outcome)}), out);
        named_event(&json!({"type": "message_stop"}), out);
    }

    fn fail(&mut self, failure: &Failure, out: &mut String) {
        named_event(&failure.anthropic(), out);
    }
}
