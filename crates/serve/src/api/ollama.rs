//! Ollama's API.

mod about;
mod input;

pub(crate) use about::{embed, ps, show, tags, version};

use super::options::{Hold, Thinking, budget, penalties, sampling, stops};
use super::{Ask, check_model, read, repeat, respond, submit, tell_ignored, warn_of_tools};
use crate::failure::Failure;
use crate::fields::Fields;
use crate::form::Form;
use crate::guard::Owner;
use crate::outcome::{End, Outcome, Piece};
use crate::server::Shared;
use crate::stream::{self, Writer};
use crate::tools::{self, Rest, Tools, Turn};
use about::time;
use axum::extract::{Request, State};
use axum::response::Response;
use medgemma_engine::Options;
use medgemma_engine::pipeline::{Frontend, Prepared};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Ollama's errors are a text.
fn refusal(failure: &Failure) -> Response {
    failure.with(&failure.ollama())
}

/// `POST /api/chat`
pub(crate) async fn chat(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let result = match read(&shared, request).await {
        Ok((fields, owner)) => reply(&shared, fields, owner, true).await,
        Err(failure) => Err(failure),
    };
    result.unwrap_or_else(|failure| refusal(&failure))
}

/// `POST /api/generate`
pub(crate) async fn generate(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let result = match read(&shared, request).await {
        Ok((fields, owner)) => reply(&shared, fields, owner, false).await,
        Err(failure) => Err(failure),
    };
    result.unwrap_or_else(|failure| refusal(&failure))
}

/// The answer to a request that asks nothing: Ollama's clients load, or unload, a model so. This one stays loaded.
fn loaded(shared: &Shared, fields: &Fields, chat: bool) -> Result<Option<Response>, Failure> {
    let nothing = match fields.get(if chat { "messages" } else { "prompt" }) {
        None => true,
        Some(Value::Array(list)) => chat && list.is_empty(),
        Some(Value::String(text)) => !chat && text.is_empty(),
        Some(_) => false,
    };
    // What it brings besides says nothing here, but must be right.
    fields.flag("stream")?;
    let pictures = match chat {
        true => false,
        false => {
            fields.flag("raw")?;
            fields.text("system")?;
            !input::shown(fields)?.is_empty()
        }
    };
    if !nothing || pictures {
        return Ok(None);
    }
    shared.ready()?;
    let unload = fields.get("keep_alive").is_some_and(|time| time.as_f64() == Some(0.0) || *time == "0");
    let lines = Lines { model: shared.config.model.clone(), chat, begun: Instant::now(), turn: Turn::new(&None) };
    let mut line = lines.line("", "");
    (line["done"], line["done_reason"]) = (json!(true), json!(if unload { "unload" } else { "load" }));
    Ok(Some(respond(&line, &fields.ignored())))
}

async fn reply(shared: &Arc<Shared>, fields: Fields, owner: Owner, chat: bool) -> Result<Response, Failure> {
    check_model(shared, &fields, "model")?;
    fields.refuse("suffix", "it isn't supported")?;
    fields.refuse("template", "a request can't bring a template")?;
    let (form, tools) = (Form::ollama(&fields)?, if chat { Tools::ollama(&fields)? } else { None });
    tools::refuse_form(form.is_some(), &tools)?;
    let names = tools.as_ref().and_then(Tools::names);
    let frontend = &shared.ready()?.frontend;
    let asked = fields.object("options")?;
    let sampling = sampling(&asked, frontend)?;
    let thinking = match fields.get("think") {
        Some(Value::String(_)) => Thinking::effort(&fields, "think")?.unwrap_or_default(),
        _ => Thinking { asked: fields.flag("think")?.unwrap_or(false), budget: None },
    };
    let penalties = penalties(&asked, "repeat_penalty", frontend)?;
    let hold = Hold { form, tools, penalties };
    let most = match asked.integer("num_predict")? {
        Some(number) if number < 0 => shared.config.max_tokens,
        _ => budget(&asked, &["num_predict"], 1, &shared.config)?,
    };
    let options = Options {
        max_tokens: Some(most),
        sampling: Some(sampling),
        think: thinking.asked,
        thought_budget: thinking.budget,
        stop: stops(&asked, "stop")?,
        ..Options::default()
    };
    if let Some(response) = loaded(shared, &fields, chat)? {
        return Ok(response);
    }
    let (messages, pictures) = if chat { input::conversation(&fields)? } else { input::question(&fields)? };
    // A pre-trained model continues the text; so does any where the request says so.
    let raw = !chat && (fields.flag("raw")?.unwrap_or(false) || !frontend.can_chat());
    let stream = fields.flag("stream")?.unwrap_or(true);
    fields.get("keep_alive");
    let ignored = fields.ignored();
    drop(fields);
    let seed = sampling.seed;
    let running = submit(shared, owner, 1, move |frontend, shared| {
        let images = input::decode(&pictures, &shared.config)?;
        let ask = Ask { messages, within: None, images: Some(images), options, hold };
        Ok(repeat(prepare(frontend, shared, ask, raw)?, 1, seed))
    })
    .await?;
    let turn = Turn::new(&names);
    let mut lines = Lines { model: shared.config.model.clone(), chat, begun: running.begun(), turn };
    if stream {
        return Ok(warn_of_tools(tell_ignored(stream::respond(running, lines), &ignored), &names));
    }
    let outcomes = running.gather().await?;
    let outcome = outcomes.first().ok_or_else(|| Failure::engine("there is no answer"))?;
    let text = lines.turn.push(&outcome.answer);
    let mut body = lines.last(&outcome.thought, &text);
    lines.finish(&mut body, outcome);
    Ok(warn_of_tools(respond(&body, &ignored), &names))
}

fn prepare(frontend: &Frontend, shared: &Shared, ask: Ask, raw: bool) -> Result<Prepared, Failure> {
    match ask.messages.last() {
        Some(last) if raw => {
            shared.ready()?.check_length(last.text().len())?;
            let prepared = frontend.complete(&last.text(), ask.images.as_deref().unwrap_or_default(), &ask.options)?;
            ask.hold.apply(prepared, false, shared)
        }
        _ => ask.prepare(frontend, shared),
    }
}

struct Lines {
    model: String,
    chat: bool,
    begun: Instant,
    turn: Turn,
}

impl Lines {
    /// The last of an answer, which may be a call. Ollama's calls have no names of their own.
    fn last(&mut self, thought: &str, text: &str) -> Value {
        match self.turn.end() {
            Rest::Text(rest) => self.line(thought, &format!("{text}{rest}")),
            Rest::Call(call) => {
                let mut line = self.line(thought, text);
                let function = json!({"name": call.name, "arguments": call.arguments});
                line["message"]["tool_calls"] = json!([{"function": function}]);
                line
            }
        }
    }

    fn line(&self, thought: &str, text: &str) -> Value {
        let mut line = json!({"model": self.model, "created_at": time(), "done": false});
        let at = match self.chat {
            true => {
                line["message"] = json!({"role": "assistant", "content": text});
                &mut line["message"]
            }
            false => {
                line["response"] = json!(text);
                &mut line
            }
        };
        if !thought.is_empty() {
            at["thinking"] = json!(thought);
        }
        line
    }

    fn finish(&self, line: &mut Value, outcome: &Outcome) {
        line["done"] = json!(true);
        line["done_reason"] = json!(outcome.end.map(End::reason));
        if let Some(detail) = outcome.end.and_then(End::detail) {
            line["finish_detail"] = json!(detail);
        }
        let nanoseconds = |time: Duration| json!(time.as_nanos() as u64);
        line["total_duration"] = nanoseconds(self.begun.elapsed());
        // The model is always loaded.
        line["load_duration"] = json!(0);
        line["prompt_eval_count"] = json!(outcome.prompt_tokens);
        line["prompt_eval_duration"] = nanoseconds(outcome.timings.prompt);
        line["eval_count"] = json!(outcome.new_tokens);
        line["eval_duration"] = nanoseconds(outcome.timings.generation);
    }
}

impl Writer for Lines {
    const KIND: &'static str = "application/x-ndjson";
    const ALIVE: &'static str = "";

    fn begin(&mut self, _: &mut String) {}

    fn piece(&mut self, _: usize, piece: &Piece, _: &Outcome, out: &mut String) {
        let text = self.turn.push(&piece.answer);
        if !piece.thought.is_empty() || !text.is_empty() {
            out.push_str(&self.line(&piece.thought, &text).to_string());
            out.push('\n');
        }
    }

    fn end(&mut self, outcomes: &[Outcome], out: &mut String) {
        let Some(outcome) = outcomes.first() else { return };
        let mut line = self.last("", "");
        self.finish(&mut line, outcome);
        out.push_str(&line.to_string());
        out.push('\n');
    }

    fn fail(&mut self, failure: &Failure, out: &mut String) {
        out.push_str(&failure.ollama().to_string());
        out.push('\n');
    }
}
