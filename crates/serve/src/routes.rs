//! Every route. `openapi` describes each of them; a test compares the two.

use crate::api;
use crate::audit::Audit;
use crate::docs;
use crate::failure::Failure;
use crate::server::Shared;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use serde_json::json;
use std::sync::Arc;

/// A route.
pub(crate) struct Route {
    /// Its path, as axum writes it.
    pub(crate) path: &'static str,
    /// Its method, as OpenAPI writes it.
    #[cfg_attr(not(test), allow(dead_code, reason = "the router's own methods can't be asked"))]
    pub(crate) method: &'static str,
    pub(crate) answer: MethodRouter<Arc<Shared>>,
}

/// All of them, but the workbench's files.
pub(crate) fn all() -> Vec<Route> {
    let gets: [(&str, MethodRouter<Arc<Shared>>); 12] = [
        ("/health", get(health)),
        ("/metrics", get(metrics)),
        ("/docs", get(docs::page)),
        ("/openapi.json", get(docs::text)),
        ("/v1/models", get(api::models::list)),
        ("/v1/models/{*id}", get(api::models::one)),
        ("/v1/sessions", get(api::sessions::list)),
        ("/v1/sessions/pictures/{id}", get(api::sessions::picture)),
        ("/tokenizer_info", get(api::tokens::info)),
        ("/api/tags", get(api::ollama::tags)),
        ("/api/ps", get(api::ollama::ps)),
        ("/api/version", get(api::ollama::version)),
    ];
    let posts: [(&str, MethodRouter<Arc<Shared>>); 13] = [
        ("/v1/chat/completions", post(api::chat::handle)),
        ("/v1/completions", post(api::completions::handle)),
        ("/v1/responses", post(api::responses::handle)),
        ("/v1/embeddings", post(api::embeddings::handle)),
        ("/v1/messages", post(api::messages::handle)),
        ("/v1/messages/count_tokens", post(api::messages::count)),
        ("/tokenize", post(api::tokens::tokenize)),
        ("/detokenize", post(api::tokens::detokenize)),
        ("/api/chat", post(api::ollama::chat)),
        ("/api/generate", post(api::ollama::generate)),
        ("/api/show", post(api::ollama::show)),
        ("/api/embed", post(api::ollama::embed)),
        ("/api/embeddings", post(api::ollama::embed)),
    ];
    let others: [(&str, &str, MethodRouter<Arc<Shared>>); 4] = [
        ("/v1/sessions", "delete", delete(api::sessions::remove_all)),
        ("/v1/sessions/{id}", "put", put(api::sessions::put)),
        ("/v1/sessions/{id}", "delete", delete(api::sessions::remove)),
        ("/v1/sessions/pictures/{id}", "put", put(api::sessions::put_picture)),
    ];
    let gets = gets.into_iter().map(|(path, answer)| Route { path, method: "get", answer });
    let posts = posts.into_iter().map(|(path, answer)| Route { path, method: "post", answer });
    let others = others.into_iter().map(|(path, method, answer)| Route { path, method, answer });
    gets.chain(posts).chain(others).collect()
}

async fn health(State(shared): State<Arc<Shared>>) -> Response {
    if shared.audit.as_ref().is_some_and(Audit::is_failing) {
        return Failure::unavailable("the audit log can't be written").into_response();
    }
    match shared.ready() {
        Ok(_) => crate::failure::answer(StatusCode::OK, &json!({"status": "ok"})),
        Err(failure) => failure.into_response(),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> String {
    shared.metrics.text(shared.places.taken())
}
