//! What the routes take and give, as OpenAPI describes it. The texts in `openapi/` are kept by hand; tests compare them
//! with the router.

use serde_json::{Map, Value, json};

/// Each API's paths and schemas.
const PARTS: [&str; 7] = [
    include_str!("openapi/chat.json"),
    include_str!("openapi/completions.json"),
    include_str!("openapi/responses.json"),
    include_str!("openapi/anthropic.json"),
    include_str!("openapi/ollama.json"),
    include_str!("openapi/sessions.json"),
    include_str!("openapi/other.json"),
];

const ABOUT: &str = "A server of one MedGemma model. Not a medical device: whatever shows an answer to somebody must say so, \
and a clinician reviews every answer. Fields that aren't described here are ignored, and named in the response header \
x-medgemma-ignored. Errors never repeat what a request says. Of streams, `x-item` is the schema of each event's data, or of \
each line.";

/// What can go wrong anywhere: the status, and what it means.
const EVERYWHERE: [(&str, &str); 3] = [
    ("401", "A key is needed."),
    ("403", "The request comes from another origin, or under a name that isn't this machine's."),
    ("503", "The model is being loaded, the server is ending, or its KV cache is full."),
];

/// What can go wrong where something is sent.
const SENT: [(&str, &str); 6] = [
    ("400", "The request is wrong; the error names the field."),
    ("404", "This server has another model."),
    ("408", "The body took too long to come."),
    ("413", "The body is too large."),
    ("429", "Too many requests are waiting."),
    ("500", "The engine failed."),
];

/// The whole text of a server of the model of this name.
pub(crate) fn document(model: &str) -> Value {
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for part in PARTS {
        // A test reads all of them.
        let mut part: Value = serde_json::from_str(part).unwrap_or_default();
        for (name, into) in [("paths", &mut paths), ("schemas", &mut schemas)] {
            if let Value::Object(map) = part[name].take() {
                into.extend(map);
            }
        }
    }
    for (_, operations) in &mut paths {
        operations.as_object_mut().into_iter().flatten().for_each(|(_, operation)| add_errors(operation));
    }
    let known = json!([model, format!("{model}:latest"), null]);
    schemas.insert("ModelName".into(), json!({"description": "The model's name, or nothing.", "enum": known}));
    json!({
        "openapi": "3.1.0",
        "info": {"title": "medgemma", "version": env!("CARGO_PKG_VERSION"), "description": ABOUT, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}, {"key": []}],
        "tags": [
            {"name": "OpenAI"}, {"name": "Anthropic"}, {"name": "Ollama"}, {"name": "Workbench"}, {"name": "Tokens"}, {"name": "Server"},
        ],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    })
}

/// Adds the errors that many routes have alike, in their API's shape.
fn add_errors(operation: &mut Value) {
    let open = operation["security"].is_array();
    let sends = operation["requestBody"].is_object() && !operation["responses"]["200"].is_null();
    let named = operation["parameters"].is_array();
    let shape = match operation["tags"][0].as_str() {
        Some("Anthropic") => "AnthropicError",
        Some("Ollama") => "OllamaError",
        _ => "OpenAiError",
    };
    let everywhere = EVERYWHERE.iter().filter(|_| !open);
    let sent = SENT.iter().filter(|(status, _)| sends || (named && *status == "404"));
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    for (status, meaning) in everywhere.chain(sent) {
        let schema = json!({"$ref": format!("#/components/schemas/{shape}")});
        responses
            .entry(*status)
            .or_insert_with(|| json!({"description": meaning, "content": {"application/json": {"schema": schema}}}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes;
    use std::collections::BTreeSet;

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let routes: BTreeSet<String> =
            routes::all().iter().map(|route| format!("{} {}", route.method, route.path.replace("{*", "{"))).collect();
        let document = document("demo");
        let paths = document["paths"].as_object().unwrap();
        let described: BTreeSet<String> = paths
            .iter()
            .flat_map(|(path, methods)| {
                methods.as_object().unwrap().keys().map(move |method| format!("{method} {path}"))
            })
            .collect();
        assert_eq!(routes, described);
    }

    /// Every place that names a schema.
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                if let Some(name) = map.get("$ref").and_then(Value::as_str) {
                    found.insert(name.strip_prefix("#/components/schemas/").unwrap().to_owned());
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_part_is_read_and_every_schema_is_there_and_used() {
        let mut names = 0;
        for part in PARTS {
            let part: Value = serde_json::from_str(part).unwrap();
            names += part["schemas"].as_object().unwrap().len() + part["paths"].as_object().unwrap().len();
        }
        let document = document("demo");
        let schemas = document["components"]["schemas"].as_object().unwrap();
        assert_eq!(names + 1, schemas.len() + document["paths"].as_object().unwrap().len(), "a name stands twice");
        let mut used = BTreeSet::new();
        references(&document, &mut used);
        assert_eq!(used, schemas.keys().cloned().collect());
        let mut ids = BTreeSet::new();
        for operation in
            document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values())
        {
            assert!(operation["summary"].is_string() && ids.insert(operation["operationId"].as_str().unwrap()));
        }
    }
}
