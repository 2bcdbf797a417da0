//! What a client is told when a request can't be answered, in OpenAI's shape.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// A refusal. It never repeats what a request says.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) kind: &'static str,
    pub(crate) code: Option<&'static str>,
    pub(crate) message: String,
    pub(crate) param: Option<String>,
}

impl Failure {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code: None, message: message.into(), param: None }
    }

    /// The request is wrong.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// A field of the request is wrong.
    pub(crate) fn field(name: &str, problem: impl std::fmt::Display) -> Self {
        Self { param: Some(name.to_owned()), ..Self::bad(format!("{name}: {problem}")) }
    }

    pub(crate) fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
    }

    pub(crate) fn unauthorized() -> Self {
        let message = "a key is needed: Authorization: Bearer KEY";
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message).code("invalid_api_key")
    }

    pub(crate) fn forbidden(message: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("the request is larger than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    pub(crate) fn too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", "the request's body took too long to come")
    }

    /// Too many requests are under way.
    pub(crate) fn busy() -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "too many requests are waiting: try again later")
            .code("rate_limit_exceeded")
    }

    /// The model isn't there yet, or no more.
    pub(crate) fn unavailable(message: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message)
    }

    /// The engine failed.
    pub(crate) fn engine(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// OpenAI's object.
    pub(crate) fn body(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}})
    }

    /// Anthropic's object.
    pub(crate) fn anthropic(&self) -> Value {
        let kind = match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            StatusCode::INTERNAL_SERVER_ERROR => "api_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            _ => self.kind,
        };
        json!({"type": "error", "error": {"type": kind, "message": self.message}})
    }

    /// Ollama's object.
    pub(crate) fn ollama(&self) -> Value {
        json!({"error": self.message})
    }

    /// The response in the shape of the API that a path is of.
    pub(crate) fn of(&self, path: &str) -> Response {
        let under = |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        match () {
            () if under("/v1/messages") => self.with(&self.anthropic()),
            () if under("/api") => self.with(&self.ollama()),
            () => self.with(&self.body()),
        }
    }

    /// The response with another body.
    pub(crate) fn with(&self, body: &Value) -> Response {
        let mut response = answer(self.status, body);
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

/// A JSON response.
pub(crate) fn answer(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        self.with(&self.body())
    }
}

impl From<medgemma_engine::Error> for Failure {
    fn from(error: medgemma_engine::Error) -> Self {
        use medgemma_engine::Error::{CacheFull, Context, EmptyPrompt, Model, Parameter, TokenId};
        let message = error.to_string();
        match error {
            Context { wanted, context } => Self::bad(format!(
                "the prompt and its answer take {wanted} tokens at least, the context has {context}: shorten the prompt"
            ))
            .code("context_length_exceeded"),
            EmptyPrompt | TokenId { .. } | Parameter(_) => Self::bad(message),
            Model(medgemma_gemma::Error::Messages { field, .. }) => Self { param: Some(field), ..Self::bad(message) },
            Model(
                medgemma_gemma::Error::NoVision
                | medgemma_gemma::Error::Image { .. }
                | medgemma_gemma::Error::Template { .. }
                | medgemma_gemma::Error::Prompt { .. },
            ) => Self::bad(message),
            CacheFull { .. } => Self::unavailable("the KV cache is full: try again later"),
            _ => Self::engine(message),
        }
    }
}
