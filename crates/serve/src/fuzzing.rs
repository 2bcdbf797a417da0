//! The routes without a socket and without a model that answers, for fuzzing: what a request brings is read, checked
//! and prepared (pictures decoded, the template rendered, forms compiled), and refused where it would be computed.

use crate::api;
use crate::config::Config;
use crate::error::Error;
use crate::server::{Ready, Shared};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::IntoResponse;
use medgemma_engine::{LoadOptions, Pipeline, ServingOptions};
use std::sync::{Arc, mpsc};
use tokio::runtime::Runtime;

/// The routes that take a body.
const ROUTES: [&str; 9] = [
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
    /// Those of the model in the program, which answers nothing.
    ///
    /// # Errors
    /// When the model can't be loaded, or the system gives no threads.
    pub fn new() -> Result<Self, Error> {
        let options = LoadOptions { threads: Some(1), context: Some(512), ..LoadOptions::default() };
        let serving = ServingOptions { conversations: 1, running: 1, ..ServingOptions::default() };
        let model = Pipeline::load_with("demo", &options, |_| {}).and_then(|model| model.into_serving(&serving));
        let frontend = model.map_err(|error| Error::Load(Box::new(error)))?.frontend();
        let config = Config { body: 1 << 16, pixels: 1 << 20, images: 4, in_flight: 4, ..Config::new("demo") };
        let shared = Arc::new(Shared::new(config, Arc::default(), None)?);
        let (orders, _) = mpsc::channel();
        // Set once, here.
        let _ = shared.ready.set(Ready::new(frontend, orders));
        Ok(Self { shared, runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()? })
    }

    /// Sends a request, and checks that it is refused properly, or answered. The first byte names the route.
    ///
    /// # Panics
    /// When it isn't.
    pub fn check(&self, data: &[u8]) {
        let Some((&route, body)) = data.split_first() else { return };
        let route = ROUTES[usize::from(route) % ROUTES.len()];
        let (status, answer) = self.post(route, body);
        // 503 is what is prepared and would be computed.
        assert!(matches!(status, 200 | 400 | 404 | 413 | 503), "{route}: {status} {answer}");
        assert!(status == 200 || !answer.contains("Smith"), "{route}: a refusal repeats what was said");
    }

    /// The status and the body of what a route answers.
    fn post(&self, route: &str, body: &[u8]) -> (u16, String) {
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
