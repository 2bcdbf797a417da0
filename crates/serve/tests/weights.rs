//! What makes tokens more or less likely, and the thought's budget, over loopback, with the embedded model.

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use serde_json::{Value, json};
use support::{Server, ask, config, receive};

const PATH: &str = "/v1/chat/completions";

/// A greedy request with more fields.
fn with(extra: &Value) -> Value {
    let mut body = ask("What is a pleural effusion?");
    body["temperature"] = json!(0);
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// The only token of a text.
fn token(server: &Server, text: &str) -> String {
    let body = json!({"prompt": text, "add_special_tokens": false});
    let ids = server.post("/tokenize", &body).json()["tokens"].clone();
    assert_eq!(ids.as_array().unwrap().len(), 1, "{text}");
    ids[0].to_string()
}

/// Routes with what they need, and the objects that their sampling's fields stand in.
fn routes() -> [(&'static str, Value, &'static str); 6] {
    let talk = json!([{"role": "user", "content": "Hello!"}]);
    [
        (PATH, json!({"messages": talk, "max_tokens": 4}), ""),
        ("/v1/completions", json!({"prompt": "Hello!", "max_tokens": 4}), ""),
        ("/v1/responses", json!({"input": "Hello!", "max_output_tokens": 4}), ""),
        ("/v1/messages", json!({"messages": talk, "max_tokens": 4}), ""),
        ("/api/chat", json!({"messages": talk, "stream": false}), "options"),
        ("/api/generate", json!({"prompt": "Hello!", "stream": false}), "options"),
    ]
}

#[test]
fn numbers_at_the_ends_of_their_ranges_are_answered_and_beyond_them_refused() {
    let server = Server::start(config());
    // Smallest, largest, and next to them what is refused.
    let ranges = [
        ("temperature", &[0.0, 1e-45, 1e-38, 100.0][..], &[-1e-9, 100.000_001, 1e300][..], "0 to 100"),
        ("top_p", &[1e-38, 1.0], &[0.0, -0.1, 1.000_000_01, 1e300], "1"),
        ("min_p", &[0.0, 1e-45, 1.0], &[-1e-9, 1.000_000_01, 1e300], "0 to 1"),
        ("presence_penalty", &[-2.0, 2.0], &[-2.000_000_01, 2.000_000_01, 1e38, -1e300], "-2 to 2"),
        ("frequency_penalty", &[-2.0, 2.0], &[-2.000_000_01, 2.000_000_01, 1e38, -1e300], "-2 to 2"),
        ("repetition_penalty", &[0.01, 100.0], &[0.0, 1.2e-38, 0.009_999_999, 100.000_001, -1.0, 1e300], "0.01 to 100"),
        ("logit_bias", &[-100.0, 100.0], &[-100.000_001, 100.000_001, 1e38, -1e300], "-100 to 100"),
    ];
    for (path, body, within) in routes() {
        for (name, taken, refused, range) in ranges {
            let name = if within.is_empty() { name } else { name.trim_start_matches("repetition_") };
            let name = if name == "penalty" { "repeat_penalty" } else { name };
            // Anthropic's route has no penalties.
            if path == "/v1/messages" && (name.ends_with("penalty") || name == "logit_bias") {
                continue;
            }
            let with = |number: f64| {
                let mut body = body.clone();
                if within == "options" {
                    body["options"] = json!({"num_predict": 4});
                }
                let value = if name == "logit_bias" { json!({"5": number, "6": number}) } else { json!(number) };
                let place = if within.is_empty() { &mut body } else { &mut body[within] };
                place[name] = value;
                server.post(path, &body)
            };
            for number in taken {
                let answer = with(*number);
                assert_eq!(answer.status, 200, "{path} {name} {number}: {}", answer.body);
            }
            for number in refused {
                let answer = with(*number);
                assert_eq!(answer.status, 400, "{path} {name} {number}: {}", answer.body);
                let error = &answer.json()["error"];
                let message = error["message"].as_str().or(error.as_str()).unwrap();
                assert!(message.contains(name) && message.contains(range), "{path} {name}: {message}");
                if path.starts_with("/v1/") && path != "/v1/messages" {
                    assert_eq!(error["param"], name, "{path}");
                }
            }
            // Beyond what JSON's numbers are read into, and what JSON hasn't.
            for number in ["1e999", "NaN", "Infinity", "\"1\""] {
                let value = if name == "logit_bias" { format!("{{\"5\": {number}}}") } else { number.to_owned() };
                let field = format!("\"{name}\": {value}");
                let field = if within.is_empty() { field } else { format!("\"{within}\": {{{field}}}") };
                let text = body.to_string();
                let text = format!("{}, {field}}}", text.strip_suffix('}').unwrap());
                let answer = receive(server.send("POST", path, "", text.as_bytes()));
                assert_eq!(answer.status, 400, "{path} {name} {number}: {}", answer.body);
            }
        }
    }
    for id in ["+5", "-5", " 5", "5 ", "x", "", "999999999", "99999999999999999999"] {
        let mut body = ask("Hello!");
        body["logit_bias"] = json!({id: 1});
        let answer = server.post(PATH, &body);
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("logit_bias")), "{id:?}");
    }
    server.wait_until_idle();
}

/// The id of a token that no text becomes.
fn marker(name: &str) -> String {
    let pipeline = medgemma_engine::Pipeline::load("demo").unwrap();
    pipeline.tokenizer().id(name).unwrap().to_string()
}

#[test]
fn biases_and_penalties_change_the_answer_as_they_say() {
    let server = Server::start(config());
    let text = |extra: Value| {
        let answer = server.post(PATH, &with(&extra)).json();
        answer["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    };
    let plain = text(json!({}));
    let nothing = json!({"presence_penalty": 0, "frequency_penalty": 0.0, "repetition_penalty": 1, "logit_bias": {}});
    assert_eq!(text(nothing), plain);
    let seven = token(&server, "7");
    assert_eq!(text(json!({"logit_bias": {&seven: 100}, "max_tokens": 5})), "77777");
    // A frequency penalty takes twos from it until something else is likelier.
    let fewer = text(json!({"logit_bias": {&seven: 40}, "frequency_penalty": 2, "max_tokens": 60}));
    let sevens = fewer.matches('7').count();
    assert!(sevens >= 3 && fewer.len() > sevens, "{fewer}");
    // Nothing that was written is written again, where that costs more than any logit is worth.
    let body =
        with(&json!({"logit_bias": {&seven: 90}, "repetition_penalty": 100, "max_tokens": 12, "ignore_eos": true}));
    let answer = server.post(PATH, &body).json();
    assert_eq!(answer["choices"][0]["message"]["content"].as_str().unwrap().matches('7').count(), 1, "{answer}");
    assert_ne!(text(json!({"presence_penalty": 2, "repetition_penalty": 100})), plain);
    // Ollama's names, and completions.
    let options = json!({"temperature": 0, "num_predict": 5});
    let message = json!({"role": "user", "content": "What is a pleural effusion?"});
    let body = |extra: Value| {
        let mut options = options.clone();
        options.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"stream": false, "messages": [message], "options": options})
    };
    let said = |extra: Value| server.post("/api/chat", &body(extra)).json()["message"]["content"].clone();
    assert_ne!(said(json!({"repeat_penalty": 100})), said(json!({})));
    let body = json!({"prompt": ["One", "Two"], "max_tokens": 4, "temperature": 0, "logit_bias": {&seven: 100}});
    let answer = server.post("/v1/completions", &body).json();
    assert!(answer["choices"].as_array().unwrap().iter().all(|choice| choice["text"] == "7777"), "{answer}");
    server.wait_until_idle();
}

#[test]
fn a_thought_ends_when_its_budget_is_spent() {
    let server = Server::start(config());
    let (open, plain) = (marker("<unused94>"), server.post(PATH, &with(&json!({}))).json());
    // The toy doesn't think by itself: its thoughts are made of the token that begins one.
    let thinks = |extra: Value| {
        let mut body = with(&json!({"logit_bias": {&open: 100}, "max_tokens": 30, "ignore_eos": true}));
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let answer = server.post(PATH, &body).json();
        let thought = answer["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
        (thought, answer["choices"][0]["finish_detail"].clone(), answer)
    };
    let (thought, detail, _) = thinks(json!({}));
    assert!(thought > 7 && ["thought", "loop"].contains(&detail.as_str().unwrap()), "{thought} {detail}");
    for name in ["thinking_token_budget", "thinking_budget_tokens"] {
        // The marks at both ends are counted, too.
        let (thought, _, answer) = thinks(json!({name: 5}));
        assert_eq!(thought, 7, "{answer}");
        assert!(!answer["choices"][0]["message"]["content"].as_str().unwrap().is_empty(), "{answer}");
    }
    assert_eq!(thinks(json!({"chat_template_kwargs": {"thinking_budget": 3, "enable_thinking": true}})).0, 5);
    assert_eq!(thinks(json!({"thinking_token_budget": 0, "reasoning_effort": "high"})).0, 0);
    assert!(thinks(json!({"thinking_token_budget": -1})).0 > 7);
    // With a form behind the thought.
    let (thought, _, answer) = thinks(
        json!({"ignore_eos": false, "thinking_token_budget": 4, "reasoning_effort": "low", "guided_regex": "ab"}),
    );
    assert_eq!((thought, &answer["choices"][0]["message"]["content"]), (6, &json!("ab")));
    // A budget that isn't reached changes nothing.
    let same = server.post(PATH, &with(&json!({"thinking_token_budget": 1000}))).json();
    assert_eq!(same["choices"], plain["choices"]);
    let body = json!({"max_tokens": 20, "temperature": 0, "thinking": {"type": "enabled", "budget_tokens": 1024},
                      "output_config": {"effort": "low"}, "messages": [{"role": "user", "content": "Hello!"}]});
    assert_eq!(server.post("/v1/messages", &body).status, 200);
    server.wait_until_idle();
}
