//! The workbench's files, embedded when `web/dist` was there as the program was built.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::Response;

/// Each file's path and bytes.
const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// The page while there is no workbench.
const PLAIN: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>medgemma</title>\
<h1>medgemma</h1><p>This is a server of a MedGemma model. It speaks OpenAI's API: <code>/v1/chat/completions</code>, \
<code>/v1/completions</code>, <code>/v1/responses</code>, <code>/v1/models</code>; and Anthropic's and Ollama's: \
<code>/v1/messages</code>, <code>/api/chat</code>, <code>/api/generate</code>.</p>\
<p>Not a medical device: a clinician reviews every answer.</p></html>\n";

/// The file at a path; `/` is the page. `None` when there is no such file.
pub(crate) fn file(uri: &Uri) -> Option<Response> {
    let path = if uri.path() == "/" { "/index.html" } else { uri.path() };
    let found = FILES.iter().find(|(name, _)| *name == path).map(|(_, bytes)| *bytes);
    let bytes = match found {
        Some(bytes) => bytes,
        None if path == "/index.html" => PLAIN.as_bytes(),
        None => return None,
    };
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind(path)));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' blob:; \
             connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'",
        ),
    );
    // Vite's names hold a hash of their content; the page's doesn't.
    let cache = if path.starts_with("/assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    Some(response)
}

fn kind(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("woff2") => "font/woff2",
        Some("json" | "webmanifest" | "map") => "application/json",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_a_page_and_nothing_beside_the_files() {
        let page = file(&Uri::from_static("/")).unwrap();
        assert_eq!(page.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
        assert!(file(&Uri::from_static("/assets/../Cargo.toml")).is_none());
        assert!(file(&Uri::from_static("/etc/passwd")).is_none());
    }
}
