//! The routes, and what they have in common.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod logprobs;
pub(crate) mod messages;
pub(crate) mod models;
pub(crate) mod ollama;
mod options;
pub(crate) mod responses;
pub(crate) mod sessions;
pub(crate) mod tokens;

use crate::audit::digest;
use crate::body::weigh;
use crate::failure::{Failure, answer};
use crate::fetch;
use crate::fields::Fields;
use crate::guard::Owner;
use crate::image;
use crate::outcome::Outcome;
use crate::places::Place;
use crate::server::Shared;
use crate::stream::Running;
use crate::tools::{self, Names};
use crate::worker::{Order, Reply};
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use medgemma_engine::pipeline::{Frontend, Prepared, Said};
use medgemma_engine::{Options, Request as Conversation};
use medgemma_gemma::image::RgbImage;
use medgemma_gemma::text::{Message, Part};
use options::{Hold, random};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Reads a request's body as an object.
async fn read(shared: &Shared, request: Request) -> Result<(Fields, Owner), Failure> {
    let mut owner = request.extensions().get::<Owner>().cloned().unwrap_or_default();
    let (body, mut share) = shared.room.read(request.into_body(), shared.config.body, owner.id).await?;
    let audited = owner.entry.is_some();
    // Large bodies are pictures: parsing them shouldn't hold up others.
    let read = tokio::task::spawn_blocking(move || {
        let fields = weigh(&body).and_then(|bytes| share.take(bytes)).and_then(|()| Fields::parse(&body));
        (fields, audited.then(|| digest(&body)), share)
    });
    let (fields, digest, share) = read.await.map_err(|_| Failure::engine("the request couldn't be read"))?;
    owner.share = Some(Arc::new(share));
    if let (Some(entry), Some(digest)) = (&owner.entry, digest) {
        entry.begin(digest).await?;
    }
    Ok((fields?, owner))
}

/// Refuses a request that names another model in a field.
fn check_model(shared: &Shared, fields: &Fields, field: &str) -> Result<(), Failure> {
    let name = &shared.config.model;
    match fields.text(field)? {
        Some(asked) if asked != name && asked.strip_suffix(":latest") != Some(name) => {
            let message = format!("this server has no such model; it has {name}");
            Err(Failure { param: Some(field.into()), ..Failure::not_found(message) }.code("model_not_found"))
        }
        _ => Ok(()),
    }
}

/// Refuses tools, where there are none.
fn refuse_tools(fields: &Fields) -> Result<(), Failure> {
    for name in ["tools", "functions", "function_call", "tool_choice"] {
        fields.refuse(name, "tools aren't supported here: these models weren't trained for them")?;
    }
    Ok(())
}

/// What is to be answered, as it came.
struct Ask {
    messages: Vec<Message>,
    /// The field they came in, where they don't stand in `messages` one by one.
    within: Option<&'static str>,
    /// Pictures that came apart from their messages.
    images: Option<Vec<RgbImage>>,
    options: Options,
    hold: Hold,
}

impl Ask {
    /// With the pictures that are given by address, where any may be.
    async fn fetched(mut self, shared: &Arc<Shared>) -> Result<Self, Failure> {
        self.messages = fetch::bring(shared, self.messages, self.within).await?;
        Ok(self)
    }

    fn prepare(mut self, frontend: &Frontend, shared: &Shared) -> Result<Prepared, Failure> {
        let texts = self.messages.iter().flat_map(|message| &message.content);
        let bytes = texts.map(|part| if let Part::Text(text) = part { text.len() } else { 0 }).sum();
        shared.ready()?.check_length(bytes)?;
        let images = match self.images {
            Some(images) => images,
            None => image::take(&mut self.messages, self.within, &shared.config)?,
        };
        if let Some(tools) = &self.hold.tools {
            tools.tell(&mut self.messages, frontend);
        }
        let think = self.options.think;
        let prepared = frontend.chat(&Conversation { messages: self.messages, images, options: self.options })?;
        self.hold.apply(prepared, think, shared)
    }
}

/// Does what takes long where it holds up nobody. What is `held` for it (places, room) stays taken until it has ended,
/// even if who asked has left, and is given back with what came of it.
async fn work<H: Send + 'static, T: Send + 'static>(
    held: H,
    todo: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<(T, H), Failure> {
    let done = tokio::task::spawn_blocking(move || todo().map(|done| (done, held))).await;
    done.map_err(|_| Failure::engine("the request couldn't be prepared"))?
}

/// Prepares what is asked for so many answers, which may be pictures and long texts: only so much at once.
async fn prepare<T: Send + 'static>(
    shared: &Arc<Shared>,
    owner: &mut Owner,
    answers: usize,
    todo: impl FnOnce(&Frontend, &Shared) -> Result<T, Failure> + Send + 'static,
) -> Result<(T, Place, Place), Failure> {
    let frontend = shared.ready()?.frontend.clone();
    let place = shared.places.in_flight(owner.id, answers)?;
    let preparing = shared.places.preparing(owner.id).await?;
    let (of, held) = (Arc::clone(shared), (owner.share.take(), place, preparing));
    let (done, (_, place, preparing)) = work(held, move || todo(&frontend, &of)).await?;
    Ok((done, place, preparing))
}

/// Prepares requests, puts them into the queue and waits until they stand there.
async fn submit(
    shared: &Arc<Shared>,
    mut owner: Owner,
    answers: usize,
    prepare: impl FnOnce(&Frontend, &Shared) -> Result<Vec<Prepared>, Failure> + Send + 'static,
) -> Result<Running, Failure> {
    let begun = Instant::now();
    let time = (begun, begun + shared.config.time);
    let (prepared, place, preparing) = self::prepare(shared, &mut owner, answers, prepare).await?;
    let pictures = prepared.iter().any(Prepared::has_pictures).then_some(preparing);
    let (replies, mut received) = mpsc::unbounded_channel();
    let count = prepared.len();
    let ready = shared.ready()?;
    for (index, request) in prepared.into_iter().enumerate() {
        let (place, pictures) = (place.clone(), pictures.clone());
        let order = Order { request, owner: owner.id, time, place, pictures, index, replies: replies.clone() };
        shared.metrics.sent();
        ready.orders.send(order).map_err(|_| Failure::unavailable("the engine has stopped"))?;
    }
    drop((replies, pictures));
    let mut cut = shared.cut.subscribe();
    let (mut accepted, mut first) = (0, Vec::new());
    while accepted < count {
        let reply = tokio::select! {
            reply = received.recv() => reply,
            _ = cut.wait_for(|cut| *cut) => None,
        };
        match reply {
            Some((_, Reply::Accepted)) => accepted += 1,
            Some((_, Reply::Said(Said::Failed(error)))) => return Err(error.into()),
            Some(other) => first.push(other),
            None => return Err(Failure::unavailable("the server is ending")),
        }
    }
    let outcomes = (0..count).map(|_| Outcome::default()).collect();
    let (entry, failed, time) = (owner.entry, false, (begun, time.1 + shared.config.reading));
    Ok(Running { replies: received, first, outcomes, failed, entry, place: Some(place), time, cut })
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

/// Says in a header that the models weren't trained to call functions, where they were offered some.
fn warn_of_tools(mut response: Response, names: &Names) -> Response {
    if names.is_some() {
        let name = HeaderName::from_static("x-medgemma-warning");
        response.headers_mut().insert(name, HeaderValue::from_static(tools::WARNING));
    }
    response
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

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn a_place_stays_taken_while_there_is_work_for_one_who_has_left() {
        let places = Arc::new(Semaphore::new(1));
        let place = Arc::new(Arc::clone(&places).try_acquire_owned().unwrap());
        let (go_on, wait) = channel::<()>();
        let asked = work(place, move || wait.recv().map_err(|_| Failure::busy()));
        assert!(tokio::time::timeout(Duration::from_millis(20), asked).await.is_err(), "it has left");
        assert_eq!(places.available_permits(), 0);
        go_on.send(()).unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(60), places.acquire()).await.is_ok());
    }
}
