//! The description of the routes, for programs and, as a page without scripts, to read.

use crate::openapi::document;
use crate::server::Shared;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::Value;
use std::fmt::Write;
use std::sync::Arc;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}\
h2{border-bottom:1px solid #8886;margin-top:2.5rem}code,pre{font:14px/1.45 ui-monospace,monospace}\
pre{background:#8881;padding:.7rem;overflow:auto;border-radius:6px}details{border:1px solid #8886;border-radius:6px;margin:.6rem 0;padding:.4rem .8rem}\
summary{cursor:pointer}summary code{font-weight:600}dl{margin:.3rem 0 .3rem 1rem}dt{margin-top:.35rem}dd{margin:0 0 0 1.2rem}\
b.needed{color:#a40000}.kind{color:#555}nav{display:flex;flex-wrap:wrap;gap:0 1rem}\
@media(prefers-color-scheme:dark){body{color:#e6e8eb;background:#15181c}a{color:#8ab4f8}.kind{color:#aaa}b.needed{color:#ff8a80}}";

/// `GET /openapi.json`
pub(crate) async fn text(State(shared): State<Arc<Shared>>) -> Response {
    let text = document(&shared.config.model).to_string();
    response("application/json", text)
}

/// `GET /docs`
pub(crate) async fn page(State(shared): State<Arc<Shared>>) -> Response {
    let mut response = response("text/html; charset=utf-8", html(&document(&shared.config.model)));
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

fn response(kind: &'static str, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Text as HTML shows it; `code` between backquotes.
fn escaped(text: &str) -> String {
    let plain = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    let mut html = String::with_capacity(plain.len());
    for (at, piece) in plain.split('`').enumerate() {
        if at > 0 {
            html.push_str(if at % 2 == 1 { "<code>" } else { "</code>" });
        }
        html.push_str(piece);
    }
    if plain.matches('`').count() % 2 == 1 { html + "</code>" } else { html }
}

fn words(value: &Value, name: &str) -> String {
    escaped(value[name].as_str().unwrap_or_default())
}

fn html(document: &Value) -> String {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>medgemma: the API</title><style>{STYLE}</style><main><h1>medgemma: the API</h1><p>{}</p>\
         <p>For programs: <a href=\"/openapi.json\">/openapi.json</a> (OpenAPI 3.1).</p><nav>",
        words(&document["info"], "description")
    );
    let tags: Vec<&str> =
        document["tags"].as_array().into_iter().flatten().filter_map(|tag| tag["name"].as_str()).collect();
    for tag in &tags {
        let _ = write!(out, "<a href=\"#{tag}\">{tag}</a>");
    }
    out.push_str("<a href=\"#schemas\">Objects</a></nav>");
    let empty = serde_json::Map::new();
    let paths = document["paths"].as_object().unwrap_or(&empty);
    for tag in &tags {
        let _ = write!(out, "<h2 id=\"{tag}\">{tag}</h2>");
        for (path, methods) in paths {
            for (method, operation) in methods.as_object().into_iter().flatten() {
                if operation["tags"][0] == **tag {
                    route(path, method, operation, &mut out);
                }
            }
        }
    }
    out.push_str("<h2 id=\"schemas\">Objects</h2>");
    for (name, schema) in document["components"]["schemas"].as_object().unwrap_or(&empty) {
        let _ = write!(out, "<details id=\"{name}\" open><summary><code>{name}</code></summary>");
        fields(schema, &mut out);
        out.push_str("</details>");
    }
    out.push_str("</main></html>\n");
    out
}

fn route(path: &str, method: &str, operation: &Value, out: &mut String) {
    let _ = write!(
        out,
        "<details><summary><code>{} {}</code> {}</summary><p>{}</p>",
        method.to_uppercase(),
        escaped(path),
        words(operation, "summary"),
        words(operation, "description")
    );
    let content = &operation["requestBody"]["content"]["application/json"];
    if !content["schema"].is_null() {
        out.push_str("<h4>Takes</h4>");
        fields(&content["schema"], out);
    }
    if !content["example"].is_null() {
        let example = serde_json::to_string_pretty(&content["example"]).unwrap_or_default();
        let _ = write!(out, "<pre>{}</pre>", escaped(&example));
    }
    out.push_str("<h4>Gives</h4><dl>");
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        let _ = write!(out, "<dt><code>{status}</code> {}</dt>", words(response, "description"));
        for (kind, content) in response["content"].as_object().into_iter().flatten() {
            // What a stream is made of, which OpenAPI 3.1 has no word for.
            let item = &content["x-item"];
            let what = if item.is_null() { summary(&content["schema"]) } else { summary(item) };
            let _ = write!(out, "<dd><code>{kind}</code> {what}</dd>");
        }
    }
    out.push_str("</dl></details>");
}

/// What a schema is, in a few words.
fn summary(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|name| name.rsplit('/').next()) {
        return format!("<a href=\"#{name}\">{name}</a>");
    }
    let either = |list: &Value| list.as_array().into_iter().flatten().map(summary).collect::<Vec<_>>().join(" or ");
    if schema["anyOf"].is_array() {
        return either(&schema["anyOf"]);
    }
    if !schema["const"].is_null() {
        return format!("<code>{}</code>", escaped(&schema["const"].to_string()));
    }
    if let Some(list) = schema["enum"].as_array() {
        let values: Vec<String> =
            list.iter().map(|value| format!("<code>{}</code>", escaped(&value.to_string()))).collect();
        return values.join(", ");
    }
    let kind = match &schema["type"] {
        Value::String(name) => name.clone(),
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        _ => "anything".into(),
    };
    let inner = if schema["items"].is_null() { String::new() } else { format!(" of {}", summary(&schema["items"])) };
    let bound = |name: &str, sign: &str| match &schema[name] {
        Value::Null => String::new(),
        number => format!(", {sign} {number}"),
    };
    format!(
        "<span class=\"kind\">{kind}{inner}{}{}{}</span>",
        bound("minimum", "at least"),
        bound("exclusiveMinimum", "above"),
        bound("maximum", "at most")
    )
}

/// A schema's words, and its fields where it has any.
fn fields(schema: &Value, out: &mut String) {
    let _ = write!(out, "<p>{}</p>", words(schema, "description"));
    if let Some(parts) = schema["allOf"].as_array() {
        // What another schema says is shown there.
        for part in parts {
            match part["$ref"].is_string() {
                true => drop(write!(out, "<p>All of {}, and:</p>", summary(part))),
                false => fields(part, out),
            }
        }
        return;
    }
    let Some(map) = schema["properties"].as_object() else {
        let _ = write!(out, "<p>{}</p>", summary(schema));
        return;
    };
    out.push_str("<dl>");
    for (name, field) in map {
        let needed = schema["required"].as_array().is_some_and(|list| list.iter().any(|other| other == name));
        let needed = if needed { " <b class=\"needed\">needed</b>" } else { "" };
        let _ = write!(out, "<dt><code>{}</code> {}{needed}</dt><dd>", escaped(name), summary(field));
        match field["properties"].is_object() {
            true => fields(field, out),
            false => out.push_str(&words(field, "description")),
        }
        out.push_str("</dd>");
    }
    out.push_str("</dl>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_every_route_and_needs_nothing_else() {
        let document = document("a<b>\"c");
        let page = html(&document);
        for path in document["paths"].as_object().unwrap().keys() {
            assert!(page.contains(&format!(" {path}</code>")), "{path}");
        }
        assert!(!page.contains("<script") && !page.contains("http://") && !page.contains("https://"));
        assert!(!page.contains("a<b>") && page.contains("a&lt;b&gt;"));
        for link in page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(page.contains(&format!("id=\"{link}\"")), "{link}");
        }
        assert_eq!(escaped("a `b<c` d`"), "a <code>b&lt;c</code> d<code></code>");
    }
}
