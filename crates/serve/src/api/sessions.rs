//! Conversations that the workbench keeps here, where the operator has turned that on.

use super::{id, read, respond};
use crate::audit::digest;
use crate::failure::Failure;
use crate::guard::Owner;
use crate::server::Shared;
use crate::sessions::{Kept, Problem, Sessions};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::json;
use std::sync::Arc;

/// Most pictures of a conversation.
const PICTURES: usize = 1000;
/// Longest name of a conversation or a picture.
const LONGEST: usize = 64;
/// What a picture's bytes begin with.
const PICTURE_KINDS: [(&[u8], &str); 2] = [(b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg")];

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let message = format!("the conversation can't be kept: {problem}");
        let with = |status, code| Self { status, ..Self::bad(message.clone()) }.code(code);
        match problem {
            Problem::Changed => with(StatusCode::CONFLICT, "changed"),
            Problem::Gone => with(StatusCode::GONE, "deleted"),
            Problem::Full => with(StatusCode::INSUFFICIENT_STORAGE, "full"),
            Problem::File(_) => Self::engine("the file of conversations can't be used"),
        }
    }
}

/// Does something with an owner's conversations where it holds up nobody.
async fn with<T: Send + 'static>(
    shared: &Arc<Shared>,
    owner: &Owner,
    todo: impl FnOnce(&Sessions, &str) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Failure> {
    if shared.sessions.is_none() {
        let message = "conversations aren't kept here: whoever runs the server can turn it on (--sessions FILE)";
        return Err(Failure::not_found(message).code("no_sessions"));
    }
    let (of, name) = (Arc::clone(shared), owner.name.clone().unwrap_or_default());
    let done = tokio::task::spawn_blocking(move || of.sessions.as_ref().map(|sessions| todo(sessions, &name))).await;
    let done = done.ok().flatten().ok_or_else(|| Failure::engine("the file of conversations can't be used"))?;
    Ok(done?)
}

fn owner(request: &Request) -> Owner {
    request.extensions().get::<Owner>().cloned().unwrap_or_default()
}

/// Whose request without a body it is; it stands in the audit log before anything is done.
async fn logged(owner: Owner) -> Result<Owner, Failure> {
    if let Some(entry) = &owner.entry {
        entry.begin(digest(b"")).await?;
    }
    Ok(owner)
}

/// A name that the workbench gives.
fn name(id: &str) -> Result<(), Failure> {
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    match plain && (1..=LONGEST).contains(&id.len()) {
        true => Ok(()),
        false => Err(Failure::field("id", format!("it must be 1 to {LONGEST} letters, digits and hyphens"))),
    }
}

/// `GET /v1/sessions`: all of the owner's.
pub(crate) async fn list(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Failure> {
    let owner = logged(owner(&request)).await?;
    let all = with(&shared, &owner, |sessions, owner| Ok(sessions.list(owner)?)).await?;
    // Bodies are JSON already, names and versions are letters and digits.
    let entry =
        |Kept { id, version, body }: &Kept| format!("{{\"id\":\"{id}\",\"version\":\"{version}\",\"session\":{body}}}");
    let all: Vec<String> = all.iter().map(entry).collect();
    let list = format!("{{\"object\":\"list\",\"data\":[{}]}}", all.join(","));
    Ok(sent(list.into(), "application/json"))
}

/// `PUT /v1/sessions/ID`: keeps it in place of the `version` that the writer has seen.
pub(crate) async fn put(
    State(shared): State<Arc<Shared>>,
    Path(session): Path<String>,
    request: Request,
) -> Result<Response, Failure> {
    name(&session)?;
    let (fields, owner) = read(&shared, request).await?;
    let body = fields.get("session").filter(|session| session.is_object());
    let body = body.ok_or_else(|| fields.wrong("session", "it must be an object"))?.to_string();
    let pictures = fields.texts("pictures", PICTURES)?;
    pictures.iter().try_for_each(|picture| name(picture))?;
    let seen = fields.text("version")?.map(str::to_owned);
    let ignored = fields.ignored();
    drop(fields);
    let kept = Kept { id: session, version: id(""), body };
    let version = kept.version.clone();
    let keep = move |sessions: &Sessions, owner: &str| sessions.put(owner, &kept, &pictures, seen.as_deref());
    let missing = with(&shared, &owner, keep).await?;
    Ok(respond(&json!({"version": version, "missing": missing}), &ignored))
}

/// `DELETE /v1/sessions/ID`
pub(crate) async fn remove(
    State(shared): State<Arc<Shared>>,
    Path(session): Path<String>,
    request: Request,
) -> Result<Response, Failure> {
    name(&session)?;
    with(&shared, &logged(owner(&request)).await?, move |sessions, owner| Ok(sessions.remove(owner, Some(&session))?))
        .await?;
    Ok(respond(&json!({"deleted": true}), &[]))
}

/// `DELETE /v1/sessions`: all of the owner's.
pub(crate) async fn remove_all(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Failure> {
    with(&shared, &logged(owner(&request)).await?, |sessions, owner| Ok(sessions.remove(owner, None)?)).await?;
    Ok(respond(&json!({"deleted": true}), &[]))
}

/// `PUT /v1/sessions/pictures/ID`: a picture's bytes.
pub(crate) async fn put_picture(
    State(shared): State<Arc<Shared>>,
    Path(picture): Path<String>,
    request: Request,
) -> Result<Response, Failure> {
    name(&picture)?;
    let owner = owner(&request);
    let (bytes, share) = shared.room.read(request.into_body(), shared.config.body, owner.id).await?;
    let audited = owner.entry.is_some();
    let digested = tokio::task::spawn_blocking(move || (audited.then(|| digest(&bytes)), bytes)).await;
    let (digest, bytes) = digested.map_err(|_| Failure::engine("the picture couldn't be read"))?;
    if let (Some(entry), Some(digest)) = (&owner.entry, digest) {
        entry.begin(digest).await?;
    }
    if kind(&bytes).is_none() {
        return Err(Failure::bad("a picture must be PNG or JPEG"));
    }
    with(&shared, &owner, move |sessions, owner| {
        let done = sessions.put_picture(owner, &picture, &bytes);
        drop(share);
        done
    })
    .await?;
    Ok(respond(&json!({"kept": true}), &[]))
}

/// `GET /v1/sessions/pictures/ID`
pub(crate) async fn picture(
    State(shared): State<Arc<Shared>>,
    Path(picture): Path<String>,
    request: Request,
) -> Result<Response, Failure> {
    let owner = logged(owner(&request)).await?;
    let bytes = with(&shared, &owner, move |sessions, owner| Ok(sessions.picture(owner, &picture)?)).await?;
    let bytes = bytes.ok_or_else(|| Failure::not_found("there is no such picture"))?;
    let kind = kind(&bytes).unwrap_or("application/octet-stream");
    Ok(sent(bytes, kind))
}

/// An answer of what is kept.
fn sent(bytes: Vec<u8>, kind: &'static str) -> Response {
    let mut response = Response::new(bytes.into());
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A picture's media type, by its bytes.
fn kind(bytes: &[u8]) -> Option<&'static str> {
    PICTURE_KINDS.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, kind)| *kind)
}
