//! Who is let in, before anything of a request is read.

use crate::audit::Entry;
use crate::body::{self, Share};
use crate::cors;
use crate::failure::Failure;
use crate::keys::Holder;
use crate::server::Shared;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use std::sync::Arc;

/// Whose request it is.
#[derive(Clone, Default)]
pub(crate) struct Owner {
    /// Tells users apart where there are keys.
    pub(crate) id: u64,
    /// What the file of keys calls the key.
    pub(crate) name: Option<Arc<str>>,
    /// The room that the request's body takes, until what is asked is prepared.
    pub(crate) share: Option<Arc<Share>>,
    /// The request's row in the audit log, where there is one.
    pub(crate) entry: Option<Entry>,
}

/// Lets a request through, or refuses it.
pub(crate) async fn check(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let origin = cors::origin(&shared.config.origins, request.headers()).cloned();
    if let Some(origin) = &origin
        && cors::is_preflight(request.method(), request.headers())
    {
        let mut response = cors::preflight();
        cors::allow(origin, &mut response);
        return response;
    }
    let mut response = match admit(&shared, &request).and_then(|holder| enter(&shared, &request, &route, holder)) {
        Ok(owner) => {
            let (entry, id) = (owner.entry.clone(), owner.id);
            request.extensions_mut().insert(owner);
            let time = shared.config.time + shared.config.reading;
            let path = request.uri().path().to_owned();
            let response = body::in_time(next.run(request).await, shared.room.share(id), time).await;
            let response = response.unwrap_or_else(|failure| failure.of(&path));
            if let Some(entry) = entry {
                entry.status(response.status().as_u16());
            }
            response
        }
        Err(failure) => {
            if let Some(audit) = &shared.audit {
                audit.stranger(&route, failure.status.as_u16());
            }
            failure.of(request.uri().path())
        }
    };
    if let Some(origin) = &origin {
        cors::allow(origin, &mut response);
    }
    shared.metrics.response(response.status().as_u16());
    response
}

/// Begins the row of a request that brings something, or reads a conversation that is kept, if there is an audit log.
fn enter(shared: &Shared, request: &Request, route: &str, holder: Option<Holder>) -> Result<Owner, Failure> {
    let (id, name) = holder.map_or((0, None), |holder| (holder.id, holder.name));
    let brings = matches!(*request.method(), Method::POST | Method::PUT | Method::DELETE);
    let reads = route.starts_with("/v1/sessions");
    let entry = match &shared.audit {
        Some(audit) if brings || reads => Some(audit.admitted(route, name.clone())?),
        _ => None,
    };
    Ok(Owner { id, name, share: None, entry })
}

/// Whose key lets a request in; nobody's where none is needed.
fn admit(shared: &Shared, request: &Request) -> Result<Option<Holder>, Failure> {
    let headers = request.headers();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // A page from elsewhere must not reach a server on this machine through the browser: neither under a name that
    // was pointed here, nor by a request across origins.
    if shared.config.keys.is_none() && !is_loopback(host) {
        return Err(Failure::forbidden("without keys this server is for this machine only: ask it as localhost"));
    }
    if let Some(from) = headers.get(header::ORIGIN) {
        let from = from.to_str().unwrap_or_default();
        // A proxy in front may be what speaks TLS.
        let scheme = |scheme: &str| {
            scheme.eq_ignore_ascii_case("https") || (shared.config.tls.is_none() && scheme.eq_ignore_ascii_case("http"))
        };
        let same = from.split_once("://").is_some_and(|(kind, from)| scheme(kind) && from.eq_ignore_ascii_case(host));
        if !same && cors::origin(&shared.config.origins, headers).is_none() {
            return Err(Failure::forbidden("requests from other origins aren't allowed"));
        }
    }
    let path = request.uri().path();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let open = reads && (matches!(path, "/health" | "/" | "/docs" | "/openapi.json") || path.starts_with("/assets/"));
    match &shared.config.keys {
        None => Ok(None),
        Some(_) if open => Ok(None),
        Some(keys) => given(headers)
            .into_iter()
            .flatten()
            .find_map(|key| keys.holder(key))
            .map(Some)
            .ok_or_else(Failure::unauthorized),
    }
}

/// The keys that a request brings: OpenAI's way, and Anthropic's.
fn given(headers: &HeaderMap) -> [Option<&str>; 2] {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text(header::AUTHORIZATION).and_then(|value| value.split_once(' '));
    let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, key)| key.trim());
    [bearer, text(header::HeaderName::from_static("x-api-key"))]
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
