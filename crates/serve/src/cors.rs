//! Pages of other origins that may ask.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use std::str::FromStr;

/// An origin: scheme, host and port of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(HeaderValue);

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.to_ascii_lowercase();
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let plain = |host: &&str| {
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
        };
        match (host.filter(plain), HeaderValue::from_str(&text)) {
            (Some(_), Ok(value)) => Ok(Self(value)),
            _ => {
                Err("an origin is a scheme, a host and maybe a port, and nothing else: https://pages.example:8443"
                    .into())
            }
        }
    }
}

/// The one of `allowed` that a request comes from.
pub(crate) fn origin<'a>(allowed: &'a [Origin], headers: &HeaderMap) -> Option<&'a Origin> {
    let from = headers.get(header::ORIGIN)?;
    allowed.iter().find(|origin| origin.0.as_bytes().eq_ignore_ascii_case(from.as_bytes()))
}

/// Whether a request only asks what a page may ask. Browsers send no key with it.
pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to such a request.
pub(crate) fn preflight() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    // `*` would not stand for Authorization. The others are what clients' libraries send.
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static(
            "authorization, content-type, x-api-key, anthropic-version, anthropic-beta, \
             anthropic-dangerous-direct-browser-access, openai-organization, openai-project, x-stainless-arch, \
             x-stainless-lang, x-stainless-os, x-stainless-package-version, x-stainless-retry-count, \
             x-stainless-runtime, x-stainless-runtime-version, x-stainless-timeout, x-stainless-helper-method, \
             x-stainless-async",
        ),
    );
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600"));
    response
}

/// Lets a page of `origin` read a response.
pub(crate) fn allow(origin: &Origin, response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.0.clone());
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    let read = HeaderValue::from_static("retry-after, x-medgemma-ignored, x-medgemma-warning");
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, read);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_no_pattern_and_no_address_of_a_page() {
        for text in ["https://pages.example", "http://localhost:3000", "HTTPS://Pages.Example:8443", "http://[::1]:80"]
        {
            assert!(text.parse::<Origin>().is_ok(), "{text}");
        }
        for text in ["", "*", "null", "https://", "https://*", "pages.example", "https://a/", "https://a b", "file://x"]
        {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }
}
