//! Answers held to a form, over loopback, with the embedded model: a toy that would rather write something else.

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use serde_json::{Value, json};
use support::{Server, ask, config, receive};

const PATH: &str = "/v1/chat/completions";

/// What a schema accepts.
type Accepts = fn(&Value) -> bool;

fn text_of(value: &Value, most: usize) -> bool {
    value.as_str().is_some_and(|text| text.chars().count() <= most)
}

fn is_one_of(value: &Value, names: &[&str]) -> bool {
    value.as_str().is_some_and(|text| names.contains(&text))
}

/// Bounded schemas, each with a check of its own.
fn schemas() -> Vec<(Value, Accepts)> {
    let finding = json!({
        "type": "object", "additionalProperties": false, "required": ["finding", "present", "size_mm"],
        "properties": {
            "finding": {"type": "string", "maxLength": 12},
            "present": {"type": "boolean"},
            "size_mm": {"type": "integer", "minimum": 0, "maximum": 40},
        },
    });
    let sides = json!({
        "type": "array", "minItems": 1, "maxItems": 3, "items": {"enum": ["left", "right"]},
    });
    let nested = json!({
        "$defs": {"box": {"type": "array", "minItems": 4, "maxItems": 4,
                          "items": {"type": "integer", "minimum": 0, "maximum": 1000}}},
        "type": "object", "additionalProperties": false, "required": ["box", "label"],
        "properties": {"box": {"$ref": "#/$defs/box"},
                       "label": {"anyOf": [{"type": "null"}, {"enum": ["nodule", "opacity"]}]}},
    });
    let is_finding: Accepts = |v| {
        v.as_object().is_some_and(|o| o.len() == 3)
            && text_of(&v["finding"], 12)
            && v["present"].is_boolean()
            && v["size_mm"].as_i64().is_some_and(|n| (0..=40).contains(&n))
    };
    let is_sides: Accepts = |v| {
        v.as_array()
            .is_some_and(|list| (1..=3).contains(&list.len()) && list.iter().all(|s| is_one_of(s, &["left", "right"])))
    };
    let is_nested: Accepts = |v| {
        let edge = |n: &Value| n.as_i64().is_some_and(|n| (0..=1000).contains(&n));
        v.as_object().is_some_and(|o| o.len() == 2)
            && v["box"].as_array().is_some_and(|list| list.len() == 4 && list.iter().all(edge))
            && (v["label"].is_null() || is_one_of(&v["label"], &["nodule", "opacity"]))
    };
    vec![(finding, is_finding), (sides, is_sides), (nested, is_nested)]
}

fn format(schema: &Value) -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "answer", "strict": true, "schema": schema}})
}

/// A request for an answer in so many tokens.
fn held(name: &str, form: Value) -> Value {
    let mut body = ask("Is there a nodule?");
    body["max_tokens"] = json!(300);
    body[name] = form;
    body
}

/// The text of a choice, which has come to its end.
fn whole(answer: &Value) -> &str {
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "stop", "{answer}");
    choice["message"]["content"].as_str().unwrap()
}

#[test]
fn every_answer_under_a_schema_parses_and_is_valid() {
    let server = Server::start(config());
    std::thread::scope(|scope| {
        for (schema, accepts) in schemas() {
            // Greedy, as published, and so hot that nearly anything is drawn.
            for (seed, temperature) in [(0, 0.0), (1, 1.0), (2, 1.0), (3, 20.0), (4, 20.0), (5, 20.0)] {
                let (server, schema) = (&server, schema.clone());
                scope.spawn(move || {
                    let mut body = held("response_format", format(&schema));
                    (body["temperature"], body["seed"]) = (json!(temperature), json!(seed));
                    if temperature > 1.0 {
                        (body["top_k"], body["top_p"]) = (json!(0), json!(1.0));
                    }
                    let answer = server.post(PATH, &body).json();
                    let value: Value = serde_json::from_str(whole(&answer)).unwrap();
                    assert!(accepts(&value), "{value}");
                });
            }
        }
    });
    server.wait_until_idle();
}

#[test]
fn other_words_for_a_form_and_other_ways_to_be_told() {
    let server = Server::start(config());
    let (schema, accepts) = schemas().remove(0);
    for form in [schema.clone(), json!(schema.to_string())] {
        let answer = server.post(PATH, &held("guided_json", form)).json();
        assert!(accepts(&serde_json::from_str(whole(&answer)).unwrap()));
    }
    let number = server.post(PATH, &held("guided_regex", json!("[1-9][0-9]{2} mm"))).json();
    let number = whole(&number);
    assert!(number.len() == 6 && number.ends_with(" mm") && number[..3].bytes().all(|b| b.is_ascii_digit()));
    let answer = server.post(PATH, &held("guided_grammar", json!("start: \"NO \" (\"A\" | \"B\")"))).json();
    assert!(["NO A", "NO B"].contains(&whole(&answer)));
    let answer = server.post(PATH, &held("guided_choice", json!(["left \"lung\"", "right\nlung"]))).json();
    assert!(["left \"lung\"", "right\nlung"].contains(&whole(&answer)));
    // A grammar may name tokens; what a thought takes is counted.
    let thought = "start: <unused94> \"a\" <unused95> \"yes\"";
    let answer = server.post(PATH, &held("guided_grammar", json!(thought))).json();
    assert_eq!((whole(&answer), &answer["choices"][0]["message"]["reasoning_content"]), ("yes", &json!("a")));
    assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 3);
    // Several answers, streamed; each with its log-probabilities.
    let mut body = held("response_format", format(&schema));
    for (name, value) in
        [("n", json!(3)), ("stream", json!(true)), ("logprobs", json!(true)), ("top_logprobs", json!(5))]
    {
        body[name] = value;
    }
    let mut texts = [String::new(), String::new(), String::new()];
    for event in server.post(PATH, &body).events() {
        let choice = &event["choices"][0];
        let text = choice["delta"]["content"].as_str().unwrap_or_default();
        texts[choice["index"].as_u64().unwrap() as usize].push_str(text);
        for token in choice["logprobs"]["content"].as_array().into_iter().flatten() {
            assert!(token["logprob"].is_number(), "{token}");
            assert!(token["top_logprobs"].as_array().unwrap().iter().all(|top| top["logprob"].is_number()), "{token}");
        }
    }
    assert!(texts.iter().all(|text| accepts(&serde_json::from_str(text).unwrap())), "{texts:?}");
    // Ollama's.
    let message = json!({"role": "user", "content": "Is there a nodule?"});
    let body = json!({"stream": false, "format": schema, "messages": [message]});
    let answer = server.post("/api/chat", &body).json();
    assert!(accepts(&serde_json::from_str(answer["message"]["content"].as_str().unwrap()).unwrap()));
}

#[test]
fn every_route_that_writes_takes_a_form() {
    let server = Server::start(config());
    let (schema, accepts) = schemas().remove(0);
    let valid = |text: &Value| assert!(accepts(&serde_json::from_str(text.as_str().unwrap()).unwrap()), "{text}");
    let regex = json!("[1-9] mm");
    // vLLM's newer word for guided_….
    for structured in [json!({"json": schema}), json!({"regex": regex}), json!({"choice": ["x y", "z"]})] {
        whole(&server.post(PATH, &held("structured_outputs", structured)).json());
    }
    let body = json!({"prompt": ["The finding: ", "Another: "], "max_tokens": 300, "response_format": format(&schema), "n": 2});
    let answer = server.post("/v1/completions", &body).json();
    assert_eq!(answer["choices"].as_array().unwrap().len(), 4);
    answer["choices"].as_array().unwrap().iter().for_each(|choice| valid(&choice["text"]));
    let body = json!({"prompt": "Size: ", "guided_regex": regex});
    let text = server.post("/v1/completions", &body).json()["choices"][0]["text"].as_str().unwrap().to_owned();
    assert!(text.len() == 4 && text.ends_with(" mm"), "{text}");
    let flat = json!({"format": {"type": "json_schema", "name": "finding", "schema": schema, "strict": true}});
    let body = json!({"input": "Is there a nodule?", "max_output_tokens": 300, "text": flat});
    let answer = server.post("/v1/responses", &body);
    assert!(!answer.head.contains("x-medgemma-ignored"), "{}", answer.head);
    valid(&answer.json()["output"][0]["content"][0]["text"]);
    let messages = json!([{"role": "user", "content": "Is there a nodule?"}]);
    let wanted = json!({"type": "json_schema", "schema": schema});
    for (name, value) in [("output_config", json!({"format": wanted})), ("output_format", wanted.clone())] {
        let body = json!({"max_tokens": 300, "messages": messages, name: value});
        valid(&server.post("/v1/messages", &body).json()["content"][0]["text"]);
    }
    for (path, body) in [
        (PATH, json!({"messages": messages, "structured_outputs": {"regex": "a"}, "guided_regex": "a"})),
        ("/v1/responses", json!({"input": "x", "text": {"format": {"type": "Smith"}}})),
        (
            "/v1/messages",
            json!({"max_tokens": 9, "messages": messages, "output_config": {"format": {"type": "json_schema"}}}),
        ),
        ("/v1/completions", json!({"prompt": "x", "response_format": {"type": "json_schema"}})),
    ] {
        let answer = server.post(path, &body);
        assert!(answer.status == 400 && !answer.body.contains("Smith"), "{path}: {}", answer.body);
    }
    server.wait_until_idle();
}

#[test]
fn an_object_without_a_schema_and_a_thought_before_it() {
    let server = Server::start(config());
    for seed in 0..6 {
        let mut body = held("response_format", json!({"type": "json_object"}));
        body["seed"] = json!(seed);
        if seed % 2 == 1 {
            body["response_format"] = format(&schemas()[0].0);
            body["reasoning_effort"] = json!("high");
        }
        let answer = server.post(PATH, &body).json();
        let choice = &answer["choices"][0];
        let text = choice["message"]["content"].as_str().unwrap();
        match choice["finish_reason"].as_str() {
            Some("stop") => assert!(serde_json::from_str::<Value>(text).unwrap().is_object(), "{text}"),
            // The toy found no end.
            _ => assert!(text.is_empty() || text.starts_with('{'), "{text}"),
        }
    }
}

#[test]
fn forms_that_cannot_be_followed_are_refused_by_name() {
    let server = Server::start(config());
    let refused = |name: &str, form: Value| {
        let answer = receive(server.send("POST", PATH, "", held(name, form).to_string().as_bytes()));
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert!(!answer.body.contains("Smith"), "{}", answer.body);
        answer.json()["error"]["message"].as_str().unwrap().to_owned()
    };
    let unsupported = json!({"type": "array", "uniqueItems": true, "items": {"const": "Smith"}});
    assert!(refused("response_format", format(&unsupported)).contains("uniqueItems"));
    refused("response_format", json!({"type": "Smith"}));
    refused("response_format", json!({"type": "json_schema"}));
    refused("response_format", format(&json!("Smith")));
    refused("response_format", format(&json!({"type": "Smith"})));
    refused("response_format", format(&json!({"$ref": "https://example.org/Smith"})));
    refused("guided_json", json!("{Smith"));
    refused("guided_regex", json!("(Smith"));
    refused("guided_grammar", json!("Smith"));
    for (name, empty) in [("guided_choice", json!([])), ("guided_regex", json!("")), ("guided_grammar", json!(""))] {
        assert!(refused(name, empty).contains("must not be empty"), "{name}");
    }
    let mut twice = held("guided_regex", json!("a"));
    twice["response_format"] = json!({"type": "json_object"});
    assert_eq!(server.post(PATH, &twice).status, 400);
    let mut endless = held("guided_regex", json!("a"));
    endless["ignore_eos"] = json!(true);
    assert_eq!(server.post(PATH, &endless).status, 400);
    // It is still there.
    assert_eq!(whole(&server.post(PATH, &held("guided_regex", json!("ab"))).json()), "ab");
    server.wait_until_idle();
}
