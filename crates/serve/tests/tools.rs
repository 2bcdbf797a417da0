//! Functions that answers call, over loopback, with the embedded model: a toy that was never told of any.

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use serde_json::{Value, json};
use support::{Server, config};

const PATH: &str = "/v1/chat/completions";

fn parameters() -> Value {
    json!({
        "type": "object", "required": ["organ", "count"],
        "properties": {
            "organ": {"$ref": "#/$defs/organ"},
            "count": {"type": "integer", "minimum": 1, "maximum": 9, "description": "how many"},
        },
        "$defs": {"organ": {"enum": ["lung", "heart"]}},
    })
}

fn is_valid(arguments: &Value) -> bool {
    arguments.as_object().is_some_and(|map| map.len() == 2)
        && ["lung", "heart"].iter().any(|organ| arguments["organ"] == *organ)
        && arguments["count"].as_i64().is_some_and(|count| (1..=9).contains(&count))
}

fn function(name: &str) -> Value {
    json!({"name": name, "description": "Finds studies.", "parameters": parameters()})
}

fn offered(choice: Value) -> Value {
    let tools: Vec<Value> =
        ["find", "count \"all\""].iter().map(|name| json!({"type": "function", "function": function(name)})).collect();
    json!({"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 100, "tools": tools, "tool_choice": choice})
}

/// Sets a field.
fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

#[test]
fn a_function_that_must_be_called_is_called_as_its_schema_says() {
    let server = Server::start(config());
    for (seed, choice) in
        [json!("required"), json!({"type": "function", "function": {"name": "find"}})].iter().enumerate()
    {
        let body = with(with(offered(choice.clone()), "seed", json!(seed)), "n", json!(3));
        let answer = server.post(PATH, &body);
        assert!(answer.head.contains("x-medgemma-warning: tools"), "{}", answer.head);
        for choice in answer.json()["choices"].as_array().unwrap() {
            assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null));
            let call = &choice["message"]["tool_calls"][0];
            let known = ["find", "count \"all\""].iter().any(|name| call["function"]["name"] == *name);
            assert!(known && call["type"] == "function" && call["id"].as_str().unwrap().starts_with("call_"), "{call}");
            let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
            assert!(is_valid(&arguments), "{arguments}");
        }
    }
    // Streamed: one call, whole.
    let events = server.post(PATH, &with(offered(json!("required")), "stream", json!(true))).events();
    let deltas: Vec<&Value> = events.iter().map(|event| &event["choices"][0]["delta"]).collect();
    assert!(deltas.iter().all(|delta| delta["content"].as_str().unwrap_or_default().is_empty()), "{deltas:?}");
    let calls: Vec<&Value> = deltas.iter().filter_map(|delta| delta["tool_calls"].as_array()).flatten().collect();
    assert_eq!((calls.len(), &calls[0]["index"]), (1, &json!(0)));
    let arguments = calls[0]["function"]["arguments"].as_str().unwrap();
    assert!(is_valid(&serde_json::from_str(arguments).unwrap()), "{arguments}");
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    // One that is cut is no call.
    let cut = server.post(PATH, &with(offered(json!("required")), "max_tokens", json!(5))).json();
    let choice = &cut["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["message"]["tool_calls"]), (&json!("length"), &Value::Null));
    assert!(choice["message"]["content"].as_str().unwrap().starts_with('{'), "{cut}");
    server.wait_until_idle();
}

#[test]
fn a_function_may_be_called_and_text_stays_text() {
    let server = Server::start(config());
    let answer = server.post(PATH, &with(offered(json!("auto")), "temperature", json!(0)));
    assert!(answer.head.contains("x-medgemma-warning"));
    let choice = &answer.json()["choices"][0];
    assert!(choice["message"]["tool_calls"].is_null() && !choice["message"]["content"].as_str().unwrap().is_empty());
    // Made likely enough, a call it is.
    let brace =
        server.post("/tokenize", &json!({"prompt": "{", "add_special_tokens": false})).json()["tokens"][0].to_string();
    let body = with(offered(json!("auto")), "logit_bias", json!({brace: 100}));
    let answer = server.post(PATH, &body).json();
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls", "{answer}");
    // None may be called: as if there were none.
    let [none, bare] = [offered(json!("none")), json!({"messages": offered(json!("none"))["messages"]})]
        .map(|body| server.post(PATH, &with(with(body, "temperature", json!(0)), "max_tokens", json!(40))));
    assert!(!none.head.contains("x-medgemma-warning"));
    assert_eq!(none.json()["choices"], bare.json()["choices"]);
    assert_eq!(none.json()["usage"]["prompt_tokens"], bare.json()["usage"]["prompt_tokens"]);
    server.wait_until_idle();
}

#[test]
fn calls_and_results_are_taken_back() {
    let server = Server::start(config());
    let history = json!([
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": "{\"organ\": \"lung\"}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "three"},
    ]);
    let mut body = with(offered(json!("auto")), "messages", history);
    assert_eq!(server.post(PATH, &body).status, 200);
    body["tools"] = json!([]);
    let answer = server.post(PATH, &body);
    assert!(answer.status == 200 && !answer.head.contains("x-medgemma-warning"), "{}", answer.body);
    let blocks = json!([
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": [{"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"organ": "lung"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "three"}]},
            {"type": "text", "text": "And?"}]},
    ]);
    let tools = json!([{"name": "find", "description": "Finds.", "input_schema": parameters()}]);
    let body = json!({"max_tokens": 100, "messages": blocks, "tools": tools, "tool_choice": {"type": "any"}});
    let answer = server.post("/v1/messages", &body).json();
    let block = &answer["content"][0];
    assert_eq!(
        (&answer["stop_reason"], &block["type"], &block["name"]),
        (&json!("tool_use"), &json!("tool_use"), &json!("find"))
    );
    assert!(is_valid(&block["input"]), "{answer}");
    let events = server.post("/v1/messages", &with(body, "stream", json!(true))).events();
    let started = events.iter().find(|event| event["type"] == "content_block_start").unwrap();
    let json = events.iter().find(|event| event["delta"]["type"] == "input_json_delta").unwrap();
    assert_eq!(started["content_block"]["type"], "tool_use");
    assert!(is_valid(&serde_json::from_str(json["delta"]["partial_json"].as_str().unwrap()).unwrap()));
    assert!(events.iter().any(|event| event["delta"]["stop_reason"] == "tool_use"));
    // Responses.
    let input = json!([
        {"role": "user", "content": "How many?"},
        {"type": "function_call", "call_id": "call_1", "name": "find", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "three"},
    ]);
    let mut tool = function("find");
    tool["type"] = json!("function");
    let body = json!({"input": input, "tools": [tool], "tool_choice": "required", "max_output_tokens": 100});
    let answer = server.post("/v1/responses", &body).json();
    let item = &answer["output"][0];
    assert_eq!((&answer["status"], &item["type"]), (&json!("completed"), &json!("function_call")), "{answer}");
    assert!(is_valid(&serde_json::from_str(item["arguments"].as_str().unwrap()).unwrap()));
    let events = server.post("/v1/responses", &with(body, "stream", json!(true))).events();
    assert!(events.iter().any(|event| event["type"] == "response.function_call_arguments.done"));
    assert_eq!(events.last().unwrap()["response"]["output"][0]["type"], "function_call");
    // Ollama.
    let brace =
        server.post("/tokenize", &json!({"prompt": "{", "add_special_tokens": false})).json()["tokens"][0].to_string();
    let messages = json!([
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "find", "arguments": {"organ": "lung"}}}]},
        {"role": "tool", "tool_name": "find", "content": "three"},
    ]);
    let tools = offered(json!("auto"))["tools"].clone();
    let body = json!({"messages": messages, "tools": tools, "stream": false, "options": {"logit_bias": {brace: 100}, "num_predict": 100}});
    let answer = server.post("/api/chat", &body).json();
    assert!(is_valid(&answer["message"]["tool_calls"][0]["function"]["arguments"]), "{answer}");
    let lines = server.post("/api/chat", &with(body, "stream", json!(true))).body;
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert!(last["done"] == true && is_valid(&last["message"]["tool_calls"][0]["function"]["arguments"]), "{lines}");
    server.wait_until_idle();
}

/// What a client with many tools sends must not fail; what can't be followed of a schema is left open.
#[test]
fn many_functions_and_odd_schemas_are_taken() {
    let server = Server::start(config());
    let tool = |at: usize, parameters: Value| {
        json!({"type": "function", "function": {"name": format!("tool_{at}"), "description": "What it does, in many words. ".repeat(20),
               "parameters": parameters}})
    };
    let many: Vec<Value> = (0..60).map(|at| tool(at, parameters())).collect();
    let answer = server.post(PATH, &with(offered(json!("auto")), "tools", json!(many)));
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.json()["usage"]["prompt_tokens"].as_u64().unwrap() < 4096 / 2);
    let odd = json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "array", "uniqueItems": true, "maxItems": 2, "items": {"type": "boolean"}}}});
    let body =
        with(offered(json!("required")), "tools", json!([tool(0, odd), tool(1, Value::Null), tool(2, json!({}))]));
    assert_eq!(server.post(PATH, &with(body, "max_tokens", json!(20))).status, 200);
    for wrong in [
        with(offered(json!("Smith")), "n", json!(1)),
        offered(json!({"type": "function", "function": {"name": "Smith"}})),
        with(offered(json!("required")), "tools", json!([])),
        with(offered(json!("auto")), "tools", json!([{"type": "Smith"}])),
        with(offered(json!("auto")), "tools", json!([{"type": "function", "function": {"description": "Smith"}}])),
        with(offered(json!("auto")), "tools", json!("Smith")),
        with(offered(json!("auto")), "response_format", json!({"type": "json_object"})),
        with(offered(json!("auto")), "functions", json!([{"name": "Smith"}])),
    ] {
        let answer = server.post(PATH, &wrong);
        assert!(answer.status == 400 && !answer.body.contains("Smith"), "{}", answer.body);
    }
    server.wait_until_idle();
}
