//! Who is let in, before anything of a request is read.

use crate::failure::Failure;
use crate::server::Shared;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// Whose request it is: tells users apart where there are keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner(pub(crate) u64);

/// Lets a request through, or refuses it.
pub(crate) async fn check(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let response = match admit(&shared, &request) {
        Ok(owner) => {
            request.extensions_mut().insert(owner);
            next.run(request).await
        }
        Err(failure) => match request.uri().path() {
            "/v1/messages" => failure.with(&failure.anthropic()),
            path if path.starts_with("/api/") => failure.with(&failure.ollama()),
            _ => failure.into_response(),
        },
    };
    shared.metrics.response(response.status().as_u16());
    response
}

fn admit(shared: &Shared, request: &Request) -> Result<Owner, Failure> {
    let headers = request.headers();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // A page from elsewhere must not reach a server on this machine through the browser: neither under a name that
    // was pointed here, nor by a request across origins.
    if shared.config.keys.is_none() && !is_loopback(host) {
        return Err(Failure::forbidden("without keys this server is for this machine only: ask it as localhost"));
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let same = origin.split_once("://").is_some_and(|(_, from)| from.eq_ignore_ascii_case(host));
        if !same {
            return Err(Failure::forbidden("requests from other origins aren't allowed"));
        }
    }
    let path = request.uri().path();
    let open = matches!(path, "/health" | "/" | "/docs" | "/openapi.json")
        || (path.starts_with("/assets/") && request.method() == "GET");
    match &shared.config.keys {
        None => Ok(Owner(0)),
        Some(_) if open => Ok(Owner(0)),
        Some(keys) => key(headers).and_then(|key| keys.owner(key)).map(Owner).ok_or_else(Failure::unauthorized),
    }
}

fn key(headers: &HeaderMap) -> Option<&str> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text(header::AUTHORIZATION).and_then(|value| value.split_once(' '));
    let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, key)| key.trim());
    bearer.or_else(|| text(header::HeaderName::from_static("x-api-key")))
}

/// Whether a Host header names this machine's loopback address.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_several_names() {
        assert!(["localhost:8000", "127.0.0.1", "127.0.0.1:1", "[::1]:8000"].iter().all(|host| is_loopback(host)));
        assert!(
            ["", "evil.example", "127.0.0.1.evil.example:80", "10.0.0.1", "localhost.evil"]
                .iter()
                .all(|h| !is_loopback(h))
        );
    }
}
