//! OpenAI's chat completions.

use super::options::{ALTERNATIVES, Thinking, Writing, budget, tokens};
use super::{
    Ask, check_model, event, id, logprobs, now, read, repeat, respond, submit, tell_ignored, usage, warn_of_tools,
};
use crate::failure::Failure;
use crate::fields::Fields;
use crate::form::Form;
use crate::outcome::{End, Outcome, Piece};
use crate::server::Shared;
use crate::stream::{self, EVENTS, Writer};
use crate::tools::{self, Call, Names, Rest, Tools, Turn};
use axum::extract::{Request, State};
use axum::response::Response;
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
    check_model(shared, fields, "model")?;
    fields.refuse("functions", "it isn't supported: offer functions in tools")?;
    fields.refuse("function_call", "it isn't supported: use tool_choice")?;
    let (form, tools) = (Form::of(fields)?, Tools::chat(fields)?);
    tools::refuse_form(form.is_some(), &tools)?;
    let mut writing = Writing::of(fields, form, &shared.ready()?.frontend)?;
    writing.hold.tools = tools;
    let logprobs = fields.flag("logprobs")?.unwrap_or(false);
    let alternatives = fields.count("top_logprobs", 0, ALTERNATIVES)?;
    if alternatives.is_some_and(|count| count > 0) && !logprobs {
        return Err(fields.wrong("top_logprobs", "logprobs must be true"));
    }
    let messages = tools::conversation(fields.get("messages").unwrap_or(&Value::Null))?;
    let thinking = thinking(fields)?;
    let options = &mut writing.options;
    options.max_tokens = Some(budget(fields, &["max_completion_tokens", "max_tokens"], 1, &shared.config)?);
    options.think = thinking.asked;
    options.thought_budget = thinking.budget;
    options.logprobs = logprobs.then_some(alternatives.unwrap_or(0));
    let seed = writing.seed();
    let Writing { options, hold, answers, stream, with_usage } = writing;
    Ok(Asked {
        ask: Ask { messages, within: None, images: None, options, hold },
        answers,
        seed,
        stream,
        with_usage,
        logprobs,
    })
}

/// Whether to think, and how much: by OpenAI's word, the chat template's variables, or other servers' words for the
/// budget.
fn thinking(fields: &Fields) -> Result<Thinking, Failure> {
    let template = fields.object("chat_template_kwargs")?;
    let mut thinking = Thinking::effort(fields, "reasoning_effort")?.unwrap_or_default();
    if let Some(asked) = template.flag("enable_thinking")? {
        thinking.asked = asked;
    }
    let budgets = [tokens(fields, "thinking_token_budget")?, tokens(fields, "thinking_budget_tokens")?];
    let budget = budgets.into_iter().chain([tokens(&template, "thinking_budget")?]).flatten().min();
    Ok(thinking.within(budget))
}

/// `POST /v1/chat/completions`
pub(crate) async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Failure> {
    let (fields, owner) = read(&shared, request).await?;
    let asked = parse(&shared, &fields)?;
    let ignored = fields.ignored();
    drop(fields);
    let (ask, answers, seed) = (asked.ask.fetched(&shared).await?, asked.answers, asked.seed);
    let names = ask.hold.tools.as_ref().and_then(Tools::names);
    let running = submit(&shared, owner, answers, move |frontend, shared| {
        Ok(repeat(ask.prepare(frontend, shared)?, answers, seed))
    })
    .await?;
    let model = shared.config.model.clone();
    if asked.stream {
        let asked = (asked.logprobs, asked.with_usage);
        let (begun, turns) = (vec![false; answers], (0..answers).map(|_| Turn::new(&names)).collect());
        let chunks = Chunks { id: id("chatcmpl-"), created: now(), model, asked, begun, turns };
        return Ok(warn_of_tools(tell_ignored(stream::respond(running, chunks), &ignored), &names));
    }
    let outcomes = running.gather().await?;
    let choices = outcomes.iter().enumerate().map(|(at, outcome)| choice(at, outcome, asked.logprobs, &names));
    let choices: Vec<Value> = choices.collect();
    let body = json!({
        "id": id("chatcmpl-"), "object": "chat.completion", "created": now(), "model": model, "choices": choices,
        "usage": usage(&outcomes, 0..1),
    });
    Ok(warn_of_tools(respond(&body, &ignored), &names))
}

fn choice(index: usize, outcome: &Outcome, logprobs: bool, names: &Names) -> Value {
    let (text, call) = Turn::whole(names, &outcome.answer);
    let mut message = json!({"role": "assistant", "content": text, "refusal": null});
    if let Some(call) = &call {
        message["content"] = Value::Null;
        message["tool_calls"] = json!([tool_call(call)]);
    }
    if !outcome.thought.is_empty() {
        message["reasoning_content"] = json!(outcome.thought);
    }
    let logprobs = if logprobs { logprobs::chat(&outcome.tokens) } else { Value::Null };
    let mut choice = json!({"index": index, "message": message, "logprobs": logprobs});
    finish(&mut choice, outcome.end);
    if call.is_some() {
        choice["finish_reason"] = json!("tool_calls");
    }
    choice
}

/// A call of a function; OpenAI's arguments are a text.
fn tool_call(call: &Call) -> Value {
    let function = json!({"name": call.name, "arguments": call.arguments.to_string()});
    json!({"id": id("call_"), "type": "function", "function": function})
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
    turns: Vec<Turn>,
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

    /// A call, whole, and the end.
    fn call(&self, index: usize, call: &Call, out: &mut String) {
        let mut told = tool_call(call);
        told["index"] = json!(0);
        self.delta(index, json!({"tool_calls": [told]}), Value::Null, None, out);
        let last = json!({"index": index, "delta": {}, "logprobs": null, "finish_reason": "tool_calls"});
        self.chunk(json!([last]), out);
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
        let mut text = self.turns[index].push(&piece.answer);
        let rest = piece.end.map(|_| self.turns[index].end());
        if let Some(Rest::Text(rest)) = &rest {
            text.push_str(rest);
        }
        if !text.is_empty() || told.is_some() {
            let logprobs = told.map_or(Value::Null, |token| logprobs::chat([token]));
            self.delta(index, json!({"content": text}), logprobs, None, out);
        }
        match rest {
            Some(Rest::Call(call)) => self.call(index, &call, out),
            Some(Rest::Text(_)) => self.delta(index, json!({}), Value::Null, piece.end, out),
            None => {}
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
