//! The model, as OpenAI lists it.

use crate::failure::{Failure, answer};
use crate::server::Shared;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;

fn about(shared: &Shared) -> Result<Value, Failure> {
    let frontend = &shared.ready()?.frontend;
    Ok(json!({
        "id": shared.config.model, "object": "model", "created": 0, "owned_by": "medgemma",
        "max_model_len": frontend.context(), "device": frontend.device(),
        "capabilities": {"chat": frontend.can_chat(), "completion": true, "vision": frontend.can_see()},
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
