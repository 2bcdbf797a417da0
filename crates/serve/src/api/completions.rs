//! OpenAI's completions: text or token ids are continued, without a chat template.

use super::logprobs::Listed;
use super::options::{ALTERNATIVES, Hold, Writing, budget};
use super::{check_model, event, id, now, read, refuse_tools, repeat, respond, submit, tell_ignored, usage};
use crate::failure::Failure;
use crate::fields::Fields;
use crate::form::Form;
use crate::outcome::{End, Outcome, Piece};
use crate::server::Shared;
use crate::stream::{self, EVENTS, Writer};
use axum::extract::{Request, State};
use axum::response::Response;
use medgemma_engine::Options;
use medgemma_engine::pipeline::Prepared;
use medgemma_gemma::text::Tokenizer;
use serde_json::{Value, json};
use std::sync::Arc;

/// What is continued.
enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

/// The prompts of a request: a text, token ids, or a list of either.
fn prompts(fields: &Fields, most: usize) -> Result<Vec<Prompt>, Failure> {
    let wrong = || fields.wrong("prompt", "it must be a text, token ids, or a list of either");
    let ids = |list: &[Value]| {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong);
        list.iter().map(id).collect::<Result<Vec<u32>, _>>().map(Prompt::Ids)
    };
    match fields.get("prompt") {
        Some(Value::String(text)) => Ok(vec![Prompt::Text(text.clone())]),
        Some(Value::Array(list)) if list.first().is_some_and(Value::is_u64) => Ok(vec![ids(list)?]),
        Some(Value::Array(list)) if list.len() > most => {
            Err(fields.wrong("prompt", format!("more than {most} prompts")))
        }
        Some(Value::Array(list)) if !list.is_empty() => list
            .iter()
            .map(|prompt| match prompt {
                Value::String(text) => Ok(Prompt::Text(text.clone())),
                Value::Array(list) => ids(list),
                _ => Err(wrong()),
            })
            .collect(),
        _ => Err(wrong()),
    }
}

/// `POST /v1/completions`
pub(crate) async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Failure> {
    let (fields, owner) = read(&shared, request).await?;
    check_model(&shared, &fields, "model")?;
    refuse_tools(&fields)?;
    let frontend = shared.ready()?.frontend.clone();
    let prompts = prompts(&fields, shared.places.most())?;
    let writing = Writing::of(&fields, Form::of(&fields)?, &frontend)?;
    let seed = writing.seed();
    let Writing { mut options, hold, answers, stream, with_usage } = writing;
    // `true` is what some clients write for 1.
    let logprobs = match fields.get("logprobs") {
        Some(Value::Bool(flag)) => flag.then_some(1),
        _ => fields.count("logprobs", 0, ALTERNATIVES)?,
    };
    let echo = fields.flag("echo")?.unwrap_or(false);
    if stream && echo {
        return Err(fields.wrong("echo", "it can't be streamed"));
    }
    // OpenAI's default is 16.
    let most = match fields.get("max_tokens") {
        Some(_) => budget(&fields, &["max_tokens"], 0, &shared.config)?,
        None => shared.config.max_tokens.min(16),
    };
    (options.max_tokens, options.logprobs) = (Some(most), logprobs);
    let ignored = fields.ignored();
    drop(fields);
    let scored = logprobs.filter(|_| echo);
    let texts: Vec<String> = prompts.iter().map(|prompt| shown(prompt, frontend.tokenizer(), echo)).collect();
    let count = prompts.len() * answers;
    let asked = Asked { options, hold, answers, scored };
    let running = submit(&shared, owner, count, move |_, shared| asked.prepare(prompts, seed, shared)).await?;
    let model = shared.config.model.clone();
    if stream {
        let chunks = Chunks {
            id: id("cmpl-"),
            created: now(),
            model,
            answers,
            logprobs: logprobs.is_some(),
            with_usage,
            shown: vec![0; count],
        };
        return Ok(tell_ignored(stream::respond(running, chunks), &ignored));
    }
    let outcomes = running.gather().await?;
    let tokenizer = frontend.tokenizer();
    let choices: Vec<Value> = outcomes
        .iter()
        .enumerate()
        .map(|(at, outcome)| {
            let prompt = &texts[at / answers];
            let listed = logprobs.map(|_| list(outcome, tokenizer, prompt));
            let mut choice = json!({
                "index": at, "text": format!("{prompt}{}", outcome.answer), "logprobs": listed.map(|l| l.value()),
            });
            finish(&mut choice, outcome.end);
            choice
        })
        .collect();
    let body = json!({
        "id": id("cmpl-"), "object": "text_completion", "created": now(), "model": model, "choices": choices,
        "usage": usage(&outcomes, (0..count).step_by(answers)),
    });
    Ok(respond(&body, &ignored))
}

/// The prompt as it is given back.
fn shown(prompt: &Prompt, tokenizer: &Tokenizer, echo: bool) -> String {
    match prompt {
        _ if !echo => String::new(),
        Prompt::Text(text) => text.clone(),
        Prompt::Ids(ids) => tokenizer.decode(ids, true),
    }
}

/// How each prompt is continued.
struct Asked {
    options: Options,
    hold: Hold,
    answers: usize,
    /// Alternatives to each token of the prompt, where these are scored.
    scored: Option<usize>,
}

impl Asked {
    fn prepare(self, prompts: Vec<Prompt>, seed: u64, shared: &Shared) -> Result<Vec<Prepared>, Failure> {
        let ready = shared.ready()?;
        let frontend = &ready.frontend;
        let mut all = Vec::with_capacity(prompts.len() * self.answers);
        for prompt in prompts {
            let prepared = match prompt {
                Prompt::Text(text) => {
                    ready.check_length(text.len())?;
                    frontend.complete(&text, &[], &self.options)?
                }
                Prompt::Ids(ids) => frontend.continue_ids(ids, &self.options)?,
            };
            let prepared = match self.scored {
                Some(count) => prepared.scored(count),
                None => prepared,
            };
            all.extend(repeat(self.hold.clone().apply(prepared, false, shared)?, self.answers, seed));
        }
        Ok(all)
    }
}

fn list(outcome: &Outcome, tokenizer: &Tokenizer, prompt: &str) -> Listed {
    let mut listed = match outcome.scores.is_empty() {
        true => Listed::at(prompt.chars().count()),
        false => Listed::default(),
    };
    for token in &outcome.scores {
        listed.push(&token.bytes, token.logprob, &token.top, !tokenizer.is_special(token.id));
    }
    // The token that ended the text is one of those that were generated, and clients count on as many entries.
    for token in outcome.tokens.iter().chain(&outcome.last) {
        listed.push(&token.bytes, Some(token.logprob), &token.top, !tokenizer.is_special(token.id));
    }
    listed
}

fn finish(choice: &mut Value, end: Option<End>) {
    choice["finish_reason"] = json!(end.map(End::reason));
    if let Some(detail) = end.and_then(End::detail) {
        choice["finish_detail"] = json!(detail);
    }
}

struct Chunks {
    id: String,
    created: u64,
    model: String,
    answers: usize,
    logprobs: bool,
    with_usage: bool,
    /// Characters of each text so far.
    shown: Vec<usize>,
}

impl Chunks {
    fn chunk(&self, choices: &Value, usage: Option<Value>, out: &mut String) {
        let mut chunk = json!({
            "id": self.id, "object": "text_completion", "created": self.created, "model": self.model,
            "choices": choices,
        });
        if let Some(usage) = usage {
            chunk["usage"] = usage;
        }
        event(&chunk, out);
    }
}

impl Writer for Chunks {
    const KIND: &'static str = EVENTS;
    const ALIVE: &'static str = ": alive\n\n";

    fn begin(&mut self, _: &mut String) {}

    fn piece(&mut self, index: usize, piece: &Piece, _: &Outcome, out: &mut String) {
        let token = piece.token.as_ref().or(piece.last.as_ref()).filter(|_| self.logprobs);
        if piece.answer.is_empty() && token.is_none() && piece.end.is_none() {
            return;
        }
        let listed = token.map(|token| {
            let mut listed = Listed::at(self.shown[index]);
            listed.push(&token.bytes, Some(token.logprob), &token.top, true);
            listed.value()
        });
        self.shown[index] += piece.answer.chars().count();
        let mut choice = json!({"index": index, "text": piece.answer, "logprobs": listed});
        finish(&mut choice, piece.end);
        self.chunk(&json!([choice]), self.with_usage.then_some(Value::Null), out);
    }

    fn end(&mut self, outcomes: &[Outcome], out: &mut String) {
        if self.with_usage {
            let usage = usage(outcomes, (0..outcomes.len()).step_by(self.answers));
            self.chunk(&json!([]), Some(usage), out);
        }
        out.push_str("data: [DONE]\n\n");
    }

    fn fail(&mut self, failure: &Failure, out: &mut String) {
        event(&failure.body(), out);
    }
}
