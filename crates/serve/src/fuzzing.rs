//! The routes without a socket and without a model that answers, for fuzzing: what a request brings is read, checked
//! and prepared (pictures decoded, the template rendered, forms compiled), and refused where it would be computed.

use crate::api;
use crate::config::Config;
use crate::error::Error;
use crate::server::{Ready, Shared};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::IntoResponse;
use medgemma_engine::pipeline::Frontend;
use std::sync::{Arc, OnceLock, mpsc};
use tokio::runtime::Runtime;

/// The routes that take a body.
pub const ROUTES: [&str; 9] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/tokenize",
    "/detokenize",
    "/api/chat",
    "/api/generate",
    "/api/show",
];

/// The routes.
pub struct Routes {
    shared: Arc<Shared>,
    runtime: Runtime,
}

impl Routes {
    /// Those of a model that answers nothing.
    ///
    /// # Errors
    /// When the system gives no threads, or the configuration can't be used.
    pub fn new(frontend: Frontend, config: Config) -> Result<Self, Error> {
        let shared = Arc::new(Shared::new(config, Arc::default(), None)?);
        let (orders, _) = mpsc::channel();
        // Set once, here.
        let _ = shared.ready.set(Ready { frontend, orders, forms: OnceLock::new() });
        Ok(Self { shared, runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()? })
    }

    /// The status and the body of what a route answers.
    pub fn post(&self, route: &str, body: &[u8]) -> (u16, String) {
        let (shared, request) = (State(Arc::clone(&self.shared)), Request::new(Body::from(body.to_vec())));
        self.runtime.block_on(async move {
            let response = match route {
                "/v1/chat/completions" => api::chat::handle(shared, request).await.into_response(),
                "/v1/completions" => api::completions::handle(shared, request).await.into_response(),
                "/v1/responses" => api::responses::handle(shared, request).await.into_response(),
                "/v1/messages" => api::messages::handle(shared, request).await.into_response(),
                "/tokenize" => api::tokens::tokenize(shared, request).await.into_response(),
                "/detokenize" => api::tokens::detokenize(shared, request).await.into_response(),
                "/api/chat" => api::ollama::chat(shared, request).await.into_response(),
                "/api/generate" => api::ollama::generate(shared, request).await.into_response(),
                _ => api::ollama::show(shared, request).await.into_response(),
            };
            let status = response.status().as_u16();
            let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap_or_default();
            (status, String::from_utf8_lossy(&body).into_owned())
        })
    }
}
