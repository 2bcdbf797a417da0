//! The model, as OpenAI lists it, and what it can do.

use crate::failure::{Failure, answer};
use crate::server::Shared;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;

/// OpenAI's four fields, and what other servers' clients look for: the context by two names, what goes in and out.
fn about(shared: &Shared) -> Result<Value, Failure> {
    let frontend = &shared.ready()?.frontend;
    let (context, chats, sees) = (frontend.context(), frontend.can_chat(), frontend.can_see());
    let thinks = if chats { shared.config.thinks } else { Some(false) };
    Ok(json!({
        "id": shared.config.model, "object": "model", "created": shared.started, "owned_by": "medgemma",
        "demo": shared.config.demo, "max_model_len": context, "context_length": context,
        "max_completion_tokens": shared.config.max_tokens.min(context), "device": frontend.device(),
        "input_modalities": if sees { vec!["text", "image"] } else { vec!["text"] }, "output_modalities": ["text"],
        "capabilities": {
            "chat": chats, "completion": true, "vision": sees, "thinking": thinks, "tools": chats,
            "structured_outputs": true, "logprobs": true, "embeddings": false,
            "sessions": shared.sessions.is_some(),
        },
    }))
}

/// `GET /v1/models`
pub(crate) async fn list(State(shared): State<Arc<Shared>>) -> Result<Response, Failure> {
    Ok(answer(StatusCode::OK, &json!({"object": "list", "data": [about(&shared)?]})))
}

/// `GET /v1/models/ID`
pub(crate) async fn one(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Result<Response, Failure> {
    match id == shared.config.model {
        true => Ok(answer(StatusCode::OK, &about(&shared)?)),
        false => Err(Failure::not_found("this server has no such model").code("model_not_found")),
    }
}
