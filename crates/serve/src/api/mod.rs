//! The routes, and what they have in common.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod logprobs;
pub(crate) mod messages;
pub(crate) mod models;
pub(crate) mod ollama;
pub(crate) mod responses;
pub(crate) mod tokens;

use crate::config::Config;
use crate::failure::{Failure, answer};
use crate::fields::Fields;
use crate::form::Form;
use crate::guard::Owner;
use crate::image;
use crate::outcome::Outcome;
use crate::server::Shared;
use crate::stream::Running;
use crate::worker::{Order, Reply};
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use medgemma_engine::pipeline::{Frontend, Prepared, Said};
use medgemma_engine::{Options, Request as Conversation};
use medgemma_gemma::image::RgbImage;
use medgemma_gemma::sampler::Sampling;
use medgemma_gemma::text::Message;
use serde_json::{Value, json};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// How long a body may take to come.
const BODY_TIME: Duration = Duration::from_secs(120);
/// Most stop strings, and the longest.
const STOPS: usize = 16;
const STOP_LENGTH: usize = 1024;
/// Most answers to one request.
const ANSWERS: usize = 16;
/// Most alternatives to a token.
const ALTERNATIVES: usize = 20;

/// Reads a request's body as an object.
async fn read(shared: &Shared, request: Request) -> Result<(Fields, Owner), Failure> {
    let owner = request.extensions().get::<Owner>().copied().unwrap_or(Owner(0));
    let limit = shared.config.body;
    let body = axum::body::to_bytes(request.into_body(), limit);
    let body = tokio::time::timeout(BODY_TIME, body).await.map_err(|_| Failure::too_slow())?;
    let body = body.map_err(|_| Failure::too_large(limit))?;
    // Large bodies are pictures: parsing them shouldn't hold up others.
    let fields = tokio::task::spawn_blocking(move || Fields::parse(&body)).await;
    Ok((fields.map_err(|_| Failure::engine("the request couldn't be read"))??, owner))
}

/// Refuses a request for another model.
fn check_model(shared: &Shared, fields: &Fields) -> Result<(), Failure> {
    let name = &shared.config.model;
    match fields.text("model")? {
        Some(asked) if asked != name && asked.strip_suffix(":latest") != Some(name) => {
            let message = format!("this server has no such model; it has {name}");
            Err(Failure { param: Some("model".into()), ..Failure::not_found(message) }.code("model_not_found"))
        }
        _ => Ok(()),
    }
}

/// How tokens are chosen: what a request doesn't say is as the checkpoint's authors publish it, but for the seed.
fn sampling(fields: &Fields, frontend: &Frontend) -> Result<Sampling, Failure> {
    let usual = frontend.default_sampling();
    let seed = fields.integer("seed")?.map_or_else(random, |seed| seed as u64);
    let sampling = Sampling {
        temperature: fields.float("temperature")?.unwrap_or(usual.temperature),
        top_k: fields.integer("top_k")?.map_or(usual.top_k, |k| usize::try_from(k).unwrap_or(0)),
        top_p: fields.float("top_p")?.unwrap_or(usual.top_p),
        min_p: fields.float("min_p")?.unwrap_or(usual.min_p),
        seed,
    };
    sampling.check().map_err(Failure::bad)?;
    Ok(sampling)
}

/// Strings that end an answer.
fn stops(fields: &Fields, name: &str) -> Result<Vec<String>, Failure> {
    let stops = fields.texts(name, STOPS)?;
    match stops.iter().any(|stop| stop.len() > STOP_LENGTH) {
        true => Err(fields.wrong(name, format!("longer than {STOP_LENGTH} bytes"))),
        false => Ok(stops),
    }
}

/// The budget of new tokens: the smallest of what is asked for and the server's limit.
fn budget(fields: &Fields, names: &[&str], least: usize, config: &Config) -> Result<usize, Failure> {
    let mut budget = config.max_tokens;
    for name in names {
        if let Some(asked) = fields.count(name, least, usize::MAX)? {
            budget = budget.min(asked);
        }
    }
    Ok(budget)
}

/// Refuses what would change an answer and isn't there.
fn refuse_unsupported(fields: &Fields) -> Result<(), Failure> {
    for name in ["tools", "functions", "function_call", "tool_choice"] {
        fields.refuse(name, "tools aren't supported: these models weren't trained for them")?;
    }
    for name in ["logit_bias", "frequency_penalty", "presence_penalty", "best_of", "suffix", "audio"] {
        fields.refuse(name, "it isn't supported")?;
    }
    for name in ["grammar", "structured_outputs"] {
        fields.refuse(name, NO_FORMS)?;
    }
    Ok(())
}

const NO_FORMS: &str = "an answer can be held to a form on /v1/chat/completions, by response_format or guided_json, guided_regex, guided_grammar, guided_choice";

/// Refuses a form of the answer other than text, on routes that don't hold answers to one.
fn refuse_forms(fields: &Fields, name: &str) -> Result<(), Failure> {
    for name in ["guided_json", "guided_regex", "guided_grammar", "guided_choice"] {
        fields.refuse(name, NO_FORMS)?;
    }
    match fields.object(name)?.text("type")? {
        None | Some("text") => Ok(()),
        Some(_) => Err(fields.wrong(name, NO_FORMS).code("unsupported_parameter")),
    }
}

/// Whether the model is to think, by OpenAI's word for how hard.
fn effort(fields: &Fields, name: &str) -> Result<Option<bool>, Failure> {
    match fields.text(name)? {
        None => Ok(None),
        Some("none" | "minimal") => Ok(Some(false)),
        Some("low" | "medium" | "high" | "xhigh") => Ok(Some(true)),
        Some(_) => Err(fields.wrong(name, "it must be none, minimal, low, medium or high")),
    }
}

/// What is to be answered, as it came.
struct Ask {
    messages: Vec<Message>,
    /// Pictures that came apart from their messages.
    images: Option<Vec<RgbImage>>,
    options: Options,
    /// What the answer is held to.
    form: Option<Form>,
}

impl Ask {
    fn prepare(mut self, frontend: &Frontend, shared: &Shared) -> Result<Prepared, Failure> {
        let images = match self.images {
            Some(images) => images,
            None => image::take(&mut self.messages, &shared.config)?,
        };
        let think = self.options.think;
        let prepared = frontend.chat(&Conversation { messages: self.messages, images, options: self.options })?;
        hold(prepared, self.form, think, shared)
    }
}

/// Holds an answer to its form, if it has one; a thought before it is free.
fn hold(prepared: Prepared, form: Option<Form>, think: bool, shared: &Shared) -> Result<Prepared, Failure> {
    Ok(match form {
        Some(form) => prepared.held_to(shared.ready()?.forms()?.mask(form, think)?),
        None => prepared,
    })
}

/// Prepares requests, puts them into the queue and waits until they stand there.
async fn submit(
    shared: &Arc<Shared>,
    owner: Owner,
    answers: usize,
    prepare: impl FnOnce(&Frontend, &Shared) -> Result<Vec<Prepared>, Failure> + Send + 'static,
) -> Result<Running, Failure> {
    let deadline = Instant::now() + shared.config.time;
    let frontend = shared.ready()?.frontend.clone();
    if answers > shared.config.in_flight {
        return Err(Failure::bad(format!("a request can have {} answers at most", shared.config.in_flight)));
    }
    let permit = Arc::clone(&shared.in_flight).try_acquire_many_owned(answers as u32).map_err(|_| Failure::busy())?;
    let preparing = Arc::clone(&shared.preparing).acquire_owned().await.map_err(|_| Failure::busy())?;
    let of = Arc::clone(shared);
    let prepared = tokio::task::spawn_blocking(move || prepare(&frontend, &of)).await;
    let prepared = prepared.map_err(|_| Failure::engine("the request couldn't be prepared"))??;
    let pictures = prepared.iter().any(Prepared::has_pictures);
    // Pictures take memory until the engine has encoded them: only so many at once.
    let held = pictures.then_some(preparing);
    let (replies, mut received) = mpsc::unbounded_channel();
    let count = prepared.len();
    let ready = shared.ready()?;
    for (index, request) in prepared.into_iter().enumerate() {
        let order = Order { request, owner: owner.0, deadline, index, replies: replies.clone() };
        ready.orders.send(order).map_err(|_| Failure::unavailable("the engine has stopped"))?;
    }
    drop(replies);
    let (mut accepted, mut first) = (0, Vec::new());
    while accepted < count {
        match received.recv().await {
            Some((_, Reply::Accepted)) => accepted += 1,
            Some((_, Reply::Said(Said::Failed(error)))) => return Err(error.into()),
            Some(other) => first.push(other),
            None => return Err(Failure::unavailable("the engine has stopped")),
        }
    }
    drop(held);
    Ok(Running::new(received, first, count, permit))
}

/// One prompt, answered so many times, each with a seed of its own.
fn repeat(prepared: Prepared, answers: usize, seed: u64) -> Vec<Prepared> {
    (0..answers as u64).map(|answer| prepared.with_seed(seed.wrapping_add(answer))).collect()
}

/// OpenAI's count of tokens.
fn usage(outcomes: &[Outcome], prompts: impl Iterator<Item = usize>) -> Value {
    let (prompt, cached) = prompts
        .filter_map(|at| outcomes.get(at))
        .fold((0, 0), |sum, outcome| (sum.0 + outcome.prompt_tokens, sum.1 + outcome.cached_tokens));
    let new: usize = outcomes.iter().map(|outcome| outcome.new_tokens).sum();
    let thought: usize = outcomes.iter().map(|outcome| outcome.thought_tokens).sum();
    json!({
        "prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": thought},
    })
}

/// A response of status 200, which tells the fields that nobody read.
fn respond(body: &Value, ignored: &[String]) -> Response {
    tell_ignored(answer(StatusCode::OK, body), ignored)
}

fn tell_ignored(mut response: Response, ignored: &[String]) -> Response {
    if let Ok(value) = HeaderValue::from_str(&ignored.join(", "))
        && !ignored.is_empty()
    {
        response.headers_mut().insert(HeaderName::from_static("x-medgemma-ignored"), value);
    }
    response
}

/// A name for a response.
fn id(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}{:016x}{:04x}", random(), NEXT.fetch_add(1, Ordering::Relaxed) & 0xffff)
}

fn random() -> u64 {
    // Each RandomState has keys of its own, from the system's randomness at first.
    RandomState::new().hash_one(0u8)
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Adds a server-sent event that holds an object.
fn event(body: &Value, out: &mut String) {
    out.push_str("data: ");
    out.push_str(&body.to_string());
    out.push_str("\n\n");
}

/// As [`event`], with the event's name, which the object has, too.
fn named_event(body: &Value, out: &mut String) {
    out.push_str("event: ");
    out.push_str(body["type"].as_str().unwrap_or("message"));
    out.push('\n');
    event(body, out);
}
