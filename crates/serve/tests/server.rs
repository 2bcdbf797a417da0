//! The server over loopback, with the embedded model.

mod support;

use medgemma_engine::{Pipeline, Request};
use medgemma_gemma::image::RgbImage;
use medgemma_serve::{Config, Error, Keys};
use serde_json::{Value, json};
use std::io::Read;
use std::sync::mpsc;
use std::time::Duration;
use support::{Server, ask, config, endless, receive};

const QUESTIONS: [&str; 6] = [
    "What is a pleural effusion?",
    "Hello!",
    "Is there a nodule?",
    "A 54-year-old with BP 132/88 mmHg. What is the blood pressure?",
    "Which of these is an organ? (A) heart (B) chair",
    "Say something.",
];

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

#[test]
fn many_at_once_get_the_answers_that_each_gets_alone() {
    let mut pipeline = Pipeline::load("demo").unwrap();
    let server = Server::start(config());
    let alone: Vec<String> = QUESTIONS
        .iter()
        .map(|question| pipeline.chat(Request::from(*question).greedy().max_tokens(40)).unwrap().answer)
        .collect();
    std::thread::scope(|scope| {
        for round in 0..3 {
            for (question, wanted) in QUESTIONS.iter().zip(&alone) {
                let server = &server;
                scope.spawn(move || {
                    let mut body = ask(question);
                    body["temperature"] = json!(0);
                    if round == 1 {
                        body["stream"] = json!(true);
                        let answer = server.post("/v1/chat/completions", &body);
                        let text: String = answer
                            .events()
                            .iter()
                            .filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
                            .collect();
                        assert_eq!(&text, wanted);
                    } else {
                        let answer = server.post("/v1/chat/completions", &body).json();
                        assert_eq!(content(&answer), wanted);
                    }
                });
            }
        }
    });
    server.wait_until_idle();
}

#[test]
fn pictures_come_as_data_urls_and_nothing_is_fetched() {
    let server = Server::start(config());
    let picture = RgbImage::from_raw(64, 64, (0..64 * 64 * 3).map(|i| (i % 251) as u8).collect()).unwrap();
    let url = format!("data:image/png;base64,{}", base64(&picture.to_png()));
    let with = |url: &str| {
        let parts =
            json!([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Is there a nodule?"}]);
        json!({"messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": 40})
    };
    let mut pipeline = Pipeline::load("demo").unwrap();
    let request = Request::from("Is there a nodule?").image(picture).greedy().max_tokens(40);
    let wanted = pipeline.chat(request).unwrap().answer;
    assert_eq!(content(&server.post("/v1/chat/completions", &with(&url)).json()), wanted);
    let data = url.split_once(',').unwrap().1;
    let block = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}});
    let message = json!({"role": "user", "content": [block, {"type": "text", "text": "Is there a nodule?"}]});
    let body = json!({"max_tokens": 40, "temperature": 0, "messages": [message]});
    assert_eq!(server.post("/v1/messages", &body).json()["content"][0]["text"], json!(wanted));
    let message = json!({"role": "user", "content": "Is there a nodule?", "images": [data]});
    let body = json!({"stream": false, "options": {"temperature": 0, "num_predict": 40}, "messages": [message]});
    assert_eq!(server.post("/api/chat", &body).json()["message"]["content"], json!(wanted));
    for url in [
        "http://127.0.0.1:1/x.png",
        "https://example.org/x.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "data:image/png;base64,AAAA",
    ] {
        let answer = server.post("/v1/chat/completions", &with(url));
        assert_eq!(answer.status, 400, "{url}: {}", answer.body);
        assert!(!answer.body.contains("passwd") && !answer.body.contains("example"), "{}", answer.body);
    }
}

fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[test]
fn every_field_does_what_it_says() {
    let server = Server::start(config());
    let chat = |extra: Value| {
        let mut body = ask("What is a pleural effusion?");
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        server.post("/v1/chat/completions", &body)
    };
    let plain = chat(json!({})).json();
    let text = content(&plain).to_owned();
    let stop = text.split(' ').nth(2).unwrap();
    let stopped = chat(json!({"stop": [stop]})).json();
    assert_eq!(content(&stopped), text.split(stop).next().unwrap());
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    let short = chat(json!({"max_completion_tokens": 2})).json();
    assert_eq!(
        (&short["choices"][0]["finish_reason"], &short["usage"]["completion_tokens"]),
        (&json!("length"), &json!(2))
    );
    let drawn = |seed: u64| chat(json!({"n": 3, "seed": seed, "temperature": 2.0, "top_k": 0, "top_p": 1.0})).json();
    let texts = |answer: &Value| {
        answer["choices"].as_array().unwrap().iter().map(|c| c["message"]["content"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(texts(&drawn(5)), texts(&drawn(5)));
    assert_eq!(texts(&drawn(5))[1], texts(&drawn(6))[0], "answers have seeds one after the other");
    assert_ne!(texts(&drawn(5))[0], texts(&drawn(5))[1]);
    let scored = chat(json!({"logprobs": true, "top_logprobs": 2})).json();
    let tokens = scored["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let spoken: String = tokens.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert!(spoken.starts_with(&text) && tokens.iter().all(|t| t["top_logprobs"][0]["logprob"] == t["logprob"]));
    let streamed = chat(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let events = streamed.events();
    assert!(streamed.head.contains("text/event-stream") && streamed.body.ends_with("data: [DONE]\n\n"));
    assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], plain["usage"]["completion_tokens"]);
    let unknown = chat(json!({"a_new_field": 1, "user": "x"}));
    assert!(unknown.status == 200 && unknown.head.contains("x-medgemma-ignored: a_new_field\r\n"), "{}", unknown.head);
    // What would end the text is out of the question, or doesn't end it.
    let mut looping = json!({"prompt": "a a a a a a a a a a a", "max_tokens": 1000, "temperature": 0});
    looping["logit_bias"] = json!({"1": -100, "106": -100});
    let looped = server.post("/v1/completions", &looping).json();
    assert_eq!(
        (&looped["choices"][0]["finish_reason"], &looped["choices"][0]["finish_detail"]),
        (&json!("length"), &json!("loop"))
    );
    looping["ignore_eos"] = json!(true);
    let whole = server.post("/v1/completions", &looping).json();
    assert_eq!(
        (&whole["usage"]["completion_tokens"], &whole["choices"][0]["finish_detail"]),
        (&json!(1000), &json!(null))
    );
    let options = json!({"num_ctx": 4096, "num_predict": 2});
    let nested = server.post("/api/generate", &json!({"prompt": "a", "stream": false, "options": options}));
    assert!(nested.head.contains("x-medgemma-ignored: options.num_ctx\r\n"), "{}", nested.head);
    let mut body = ask("Hello!");
    (body["seed"], body["max_tokens"]) = (json!(u64::MAX), json!(2.0));
    assert_eq!(server.post("/v1/chat/completions", &body).json()["usage"]["completion_tokens"], 2);
}

#[test]
fn other_apis_are_as_their_clients_expect() {
    let server = Server::start(config());
    let count = |messages: &Value| {
        let counted = server.post("/v1/messages/count_tokens", &json!({"messages": messages})).json();
        let answer = server.post("/v1/messages", &json!({"messages": messages, "max_tokens": 1})).json();
        let usage = &answer["usage"];
        let all = ["input_tokens", "cache_read_input_tokens"].map(|name| usage[name].as_u64().unwrap());
        assert_eq!(counted["input_tokens"].as_u64().unwrap(), all.iter().sum::<u64>(), "{answer}");
        counted["input_tokens"].clone()
    };
    let two = json!([{"role": "user", "content": "One."}, {"role": "user", "content": "Two."}]);
    assert_eq!(count(&two), count(&json!([{"role": "user", "content": "One.\n\nTwo."}])));
    for (path, what, keep, reason) in [
        ("/api/generate", json!({}), json!(null), "load"),
        ("/api/generate", json!({"prompt": ""}), json!(0), "unload"),
        ("/api/chat", json!({"messages": []}), json!("5m"), "load"),
    ] {
        let mut body = what;
        body["keep_alive"] = keep;
        let answer = server.post(path, &body).json();
        assert_eq!((&answer["done"], &answer["done_reason"]), (&json!(true), &json!(reason)), "{answer}");
    }
    let timed = server.post("/api/generate", &json!({"prompt": "Hello!", "stream": false})).json();
    let durations =
        ["total_duration", "prompt_eval_duration", "eval_duration"].map(|name| timed[name].as_u64().unwrap());
    assert!(durations[0] >= durations[1] + durations[2] && durations[1] > 0, "{timed}");
    // Neither has a word for a budget that ended inside the thought.
    let thinks =
        json!({"prompt": "Hello!", "think": true, "stream": false, "options": {"num_predict": 3, "temperature": 0}});
    let told = server.post("/api/generate", &thinks).json();
    assert_eq!((&told["done_reason"], &told["finish_detail"]), (&json!("length"), &json!("thought")), "{told}");
    let mut thinks = json!({"max_tokens": 3, "temperature": 0, "thinking": {"type": "enabled"}, "messages": two});
    let told = server.post("/v1/messages", &thinks).json();
    assert_eq!((&told["stop_reason"], &told["finish_detail"]), (&json!("max_tokens"), &json!("thought")), "{told}");
    thinks["stream"] = json!(true);
    let events = server.post("/v1/messages", &thinks).events();
    let delta = events.iter().find(|event| event["type"] == "message_delta").unwrap();
    assert_eq!(delta["delta"]["finish_detail"], "thought", "{delta}");
    for (path, shape) in [("/v1/messages/nothing", "/type"), ("/api/nothing", "/error")] {
        let refused = server.get(path);
        assert!(refused.status == 404 && refused.json().pointer(shape).unwrap().is_string(), "{}", refused.body);
    }
}

#[test]
fn completions_are_scored_echoed_and_batched() {
    let server = Server::start(config());
    let ids = server.post("/tokenize", &json!({"prompt": "A pleural effusion."})).json()["tokens"].clone();
    assert_eq!(server.post("/detokenize", &json!({"tokens": ids})).json()["prompt"], "<bos>A pleural effusion.");
    let info = server.get("/tokenizer_info").json();
    assert_eq!((&info["bos_token"], &info["model_max_length"]), (&json!("<bos>"), &json!(4096)));
    assert!(info["chat_template"].as_str().unwrap().contains("messages"), "{info}");
    let body = json!({"prompt": [ids, "A pleural effusion."], "max_tokens": 1, "temperature": 0, "echo": true, "logprobs": 1, "ignore_eos": true});
    let answer = server.post("/v1/completions", &body).json();
    let [one, two] = [0, 1].map(|at| &answer["choices"][at]);
    assert_eq!((&one["logprobs"], &one["text"]), (&two["logprobs"], &two["text"]));
    assert!(one["text"].as_str().unwrap().starts_with("A pleural effusion."));
    let logprobs = one["logprobs"]["token_logprobs"].as_array().unwrap();
    let mut pipeline = Pipeline::load("demo").unwrap();
    let scores = pipeline.score("A pleural effusion.", &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    for (found, wanted) in logprobs.iter().zip(&scores) {
        assert_eq!(found.as_f64().map(|f| f as f32), wanted.logprob);
    }
    assert_eq!(logprobs.len(), scores.len() + 1);
    // The token that ends the text is one more entry, as clients that score choices count on (lm-eval takes the last off).
    let question = "Hello!";
    let asked = json!({"messages": [{"role": "user", "content": question}]});
    let mut ids = server.post("/tokenize", &asked).json()["tokens"].as_array().unwrap().clone();
    let continued = json!({"prompt": ids, "max_tokens": 60, "temperature": 0, "logprobs": 1});
    let whole = server.post("/v1/completions", &continued).json();
    let count = whole["usage"]["completion_tokens"].as_u64().unwrap() as usize;
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    assert_eq!(whole["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap().len(), count);
    assert_eq!(whole["choices"][0]["logprobs"]["tokens"][count - 1], "<end_of_turn>");
    let text = &whole["choices"][0]["text"];
    let reply =
        server.post("/tokenize", &json!({"prompt": text, "add_special_tokens": false})).json()["tokens"].clone();
    ids.extend(reply.as_array().unwrap().iter().cloned());
    let scored = json!({"prompt": ids, "max_tokens": 1, "temperature": 0, "echo": true, "logprobs": 1});
    let scored = server.post("/v1/completions", &scored).json();
    assert_eq!(scored["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap().len(), ids.len() + 1);
    let mut streamed = continued.clone();
    streamed["stream"] = json!(true);
    let pieces = server.post("/v1/completions", &streamed).events();
    let tokens = pieces.iter().filter(|event| event["choices"][0]["logprobs"].is_object()).count();
    assert_eq!(tokens, count);
    let none = json!({"prompt": "A pleural effusion.", "max_tokens": 0, "echo": true, "logprobs": 0});
    let none = server.post("/v1/completions", &none).json();
    assert_eq!(none["choices"][0]["text"], "A pleural effusion.");
    let anthropic = json!({"max_tokens": 30, "stream": true, "messages": [{"role": "user", "content": "Hello!"}]});
    let kinds: Vec<Value> =
        server.post("/v1/messages", &anthropic).events().iter().map(|e| e["type"].clone()).collect();
    assert_eq!((&kinds[0], kinds.last().unwrap()), (&json!("message_start"), &json!("message_stop")));
    let responses = json!({"input": "Hello!", "stream": true});
    let events = server.post("/v1/responses", &responses).events();
    let last = events.last().unwrap();
    let text: String = events
        .iter()
        .filter(|e| e["type"] == "response.output_text.delta")
        .map(|e| e["delta"].as_str().unwrap())
        .collect();
    assert_eq!(
        (&last["type"], &last["response"]["output"][0]["content"][0]["text"]),
        (&json!("response.completed"), &json!(text))
    );
    let lines = server.post("/api/generate", &json!({"prompt": "Hello!"})).body;
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("stop")));
    let model = &server.get("/api/tags").json()["models"][0];
    assert_eq!((model["name"].as_str(), model["digest"].as_str().map(str::len)), (Some("demo"), Some(64)));
    let model = &server.get("/v1/models").json()["data"][0];
    assert!(model["id"] == "demo" && model["created"].as_u64() > Some(1_700_000_000), "{model}");
    assert!(server.get("/").body.contains("<html"));
}

#[test]
fn it_says_what_the_model_can_do_and_how_to_ask() {
    let server = Server::start(Config { thinks: Some(true), ..config() });
    let model = server.get("/v1/models/demo").json();
    let can = &model["capabilities"];
    assert_eq!((&can["vision"], &can["thinking"], &can["embeddings"]), (&json!(true), &json!(true), &json!(false)));
    assert_eq!((&model["context_length"], &model["input_modalities"]), (&json!(4096), &json!(["text", "image"])));
    let wanted = json!(["completion", "vision", "tools", "thinking"]);
    let shown = server.post("/api/show", &json!({"model": "demo:latest"})).json();
    assert_eq!((&shown["capabilities"], &shown["model_info"]["gemma3.context_length"]), (&wanted, &json!(4096)));
    assert_eq!(server.get("/api/ps").json()["models"][0]["capabilities"], wanted);
    assert_eq!(server.post("/api/show", &json!({"model": "other"})).status, 404);
    for path in ["/v1/embeddings", "/api/embed", "/api/embeddings"] {
        let answer = server.post(path, &json!({"input": "Smith"}));
        assert!(answer.status == 501 && answer.body.contains("no embeddings"), "{}", answer.body);
    }
    let text = server.get("/openapi.json").json();
    assert_eq!(text["components"]["schemas"]["ModelName"]["enum"][0], "demo");
    let page = server.get("/docs");
    assert!(page.head.contains("text/html") && page.body.contains("/v1/chat/completions"), "{}", page.head);
}

#[test]
fn what_is_wrong_is_refused_without_being_repeated() {
    let server = Server::start(Config { body: 100_000, ..config() });
    let path = "/v1/chat/completions";
    let with = |field: &str, value: Value| {
        let mut body = ask("Hello!");
        body[field] = value;
        body.to_string()
    };
    let bodies = [
        String::new(),
        "{".into(),
        "[]".into(),
        "null".into(),
        "\u{0}Smith".into(),
        "[".repeat(50_000),
        with("messages", json!([])),
        with("messages", json!("Smith")),
        with("messages", json!([{"role": "Smith", "content": "x"}])),
        with("messages", json!([{"role": "user", "content": [{"type": "Smith"}]}])),
        with("messages", json!([{"role": "system", "content": "Smith"}])),
        with("messages", json!([{"role": "user", "content": "x"}, {"role": "user", "content": "Smith"}])),
        with("messages", json!([{"role": "user", "content": "word ".repeat(15_000)}])),
        with("temperature", json!("Smith")),
        with("temperature", json!(-1)),
        with("top_p", json!(0)),
        with("n", json!(0)),
        with("n", json!(1_000_000)),
        with("max_tokens", json!(0)),
        with("max_tokens", json!(-5)),
        with("max_tokens", json!(1.5)),
        with("seed", json!("Smith")),
        with("stop", json!(vec!["Smith"; 100])),
        with("stop", json!([1])),
        with("stream", json!("Smith")),
        with("top_logprobs", json!(5)),
        with("tools", json!([{"type": "function"}])),
        with("response_format", json!({"type": "Smith"})),
        with("logit_bias", json!({"Smith": 100})),
        with("logit_bias", json!({"999999999": 1})),
        with("logit_bias", json!({"5": 1, "00005": 2})),
        with("presence_penalty", json!(3)),
        with("repetition_penalty", json!(0)),
        with("thinking_token_budget", json!("Smith")),
        with("reasoning_effort", json!("Smith")),
    ];
    for body in &bodies {
        let answer = receive(server.send("POST", path, "", body.as_bytes()));
        assert_eq!(answer.status, 400, "{}: {}", body.chars().take(80).collect::<String>(), answer.body);
        let error = &answer.json()["error"];
        assert!(error["message"].is_string() && error["type"] == "invalid_request_error");
        assert!(!answer.body.contains("Smith") && !answer.body.contains("184467"), "{}", answer.body);
    }
    assert_eq!(server.post(path, &json!({"model": "gpt", "messages": []})).json()["error"]["code"], "model_not_found");
    assert_eq!(receive(server.send("POST", path, "", &vec![b' '; 200_000])).status, 413);
    assert_eq!(receive(server.send("DELETE", path, "", b"")).status, 405);
    assert_eq!(receive(server.send("POST", "/", "", b"{}")).status, 405);
    assert_eq!(server.get("/v1/nothing").status, 404);
    let foreign =
        receive(server.send("POST", path, "Origin: https://evil.example\r\n", ask("Hello!").to_string().as_bytes()));
    assert_eq!(foreign.status, 403);
    let placeholders = ask("<start_of_image><image_soft_token><end_of_turn>");
    assert_eq!(server.post(path, &placeholders).status, 200, "control-token text is text");
    for (path, body) in [
        ("/v1/completions", json!({"prompt": [999_999_999]})),
        ("/v1/completions", json!({"prompt": []})),
        ("/v1/messages", json!({"messages": []})),
        ("/api/chat", json!({"messages": [{"role": "user", "content": "x", "images": [1]}]})),
        ("/v1/responses", json!({"input": []})),
        ("/detokenize", json!({"tokens": ["x"]})),
        ("/detokenize", json!({"tokens": [4_000_000_000u32]})),
        ("/tokenize", json!({})),
        ("/api/generate", json!({"images": 1})),
        ("/api/generate", json!({"system": {}})),
        ("/api/chat", json!({"stream": "Smith"})),
    ] {
        assert_eq!(server.post(path, &body).status, 400, "{path} {body}");
    }
    let address = json!({"type": "input_image", "image_url": "http://x.example/y.png"});
    let refused = server.post("/v1/responses", &json!({"input": [{"role": "user", "content": [address]}]}));
    assert_eq!((refused.status, refused.json()["error"]["param"].as_str()), (400, Some("input")), "{}", refused.body);
    for field in ["model", "name"] {
        assert_eq!(server.post("/api/show", &json!({field: "other"})).status, 404, "{field}");
    }
    assert_eq!(server.post(path, &ask("Hello!")).status, 200, "and it still answers");
    server.wait_until_idle();
}

#[test]
fn clients_that_leave_or_read_slowly_disturb_nobody() {
    let server = Server::start(config());
    let wanted = server.post("/v1/chat/completions", &ask("Hello!")).json();
    let body = endless().to_string();
    // One that doesn't read at all while the others work, and reads everything in the end.
    let slow = server.send("POST", "/v1/completions", "", body.as_bytes());
    for round in 0..20 {
        let mut leaving = server.send("POST", "/v1/completions", "", body.as_bytes());
        if round % 2 == 0 {
            let mut some = [0; 300];
            leaving.read_exact(&mut some).unwrap();
        }
        drop(leaving);
        if round % 5 == 0 {
            let mut cut = server.send("POST", "/v1/completions", "Content-Length: 99999\r\n", b"{\"prompt\"");
            let _ = cut.read(&mut [0; 10]);
            let answer = server.post("/v1/chat/completions", &ask("Hello!")).json();
            assert_eq!(content(&answer), content(&wanted));
        }
    }
    // One that waits for the whole and leaves.
    let mut whole = endless();
    whole["stream"] = json!(false);
    drop(server.send("POST", "/v1/completions", "", whole.to_string().as_bytes()));
    let read = receive(slow);
    assert!(read.body.ends_with("data: [DONE]\n\n"));
    server.wait_until_idle();
    assert!(server.metric("medgemma_requests_ended_total{reason=\"cancelled\"}") >= 10.0);
}

#[test]
fn a_beginning_that_was_computed_is_not_computed_again() {
    let server = Server::start(config());
    let record = "Blood pressure 132/88 mmHg, pulse 72 /min. ".repeat(6);
    let with = |question: &str| {
        let messages = json!([{"role": "system", "content": record}, {"role": "user", "content": question}]);
        server.post("/v1/chat/completions", &json!({"messages": messages, "max_tokens": 5, "temperature": 0})).json()
    };
    let cached = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    let (one, again, other) = (with("What is the pulse?"), with("What is the pulse?"), with("Say something else."));
    assert_eq!((cached(&one), &again["choices"]), (0, &one["choices"]));
    assert!(cached(&again) >= 32 && cached(&again) % 32 == 0, "{again}");
    assert!(cached(&other) <= cached(&again));
}

#[test]
fn a_full_queue_says_when_to_come_back_and_time_ends_a_request() {
    let server = Server::start(Config { in_flight: 2, time: Duration::from_millis(1500), ..config() });
    let body = endless().to_string();
    let busy = [0, 1].map(|_| server.send("POST", "/v1/completions", "", body.as_bytes()));
    server.wait_until("both run", |server| server.metric("medgemma_requests_running") == 2.0);
    let refused = server.post("/v1/chat/completions", &ask("Hello!"));
    assert_eq!((refused.status, refused.head.contains("retry-after: 5")), (429, true), "{}", refused.body);
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    for stream in busy {
        let events = receive(stream).events();
        let end = &events.last().unwrap()["choices"][0];
        assert!(end["finish_reason"] == "length" || end["finish_reason"] == "stop", "{end}");
    }
    assert_eq!(server.post("/v1/chat/completions", &ask("Hello!")).status, 200);
}

#[test]
fn waiting_is_counted_and_is_part_of_the_time_to_the_first_token() {
    let server = Server::start(config());
    let mut eight = endless();
    eight["n"] = json!(8);
    let busy = server.send("POST", "/v1/completions", "", eight.to_string().as_bytes());
    let first = |what: &str| server.metric(&format!("medgemma_time_to_first_token_seconds_{what}"));
    server.wait_until("all of them write", |_| first("count") == 8.0);
    let before = first("sum");
    let short = json!({"prompt": "Report:", "max_tokens": 1}).to_string();
    let late = server.send("POST", "/v1/completions", "", short.as_bytes());
    server.wait_until("it waits", |server| server.metric("medgemma_requests_waiting") == 1.0);
    std::thread::sleep(Duration::from_millis(300));
    drop(busy);
    assert_eq!(receive(late).status, 200);
    assert!(first("count") == 9.0 && first("sum") - before >= 0.3);
    server.wait_until_idle();
}

#[test]
fn who_has_an_answer_may_ask_again_at_once() {
    let server = Server::start(Config { in_flight: 1, ..config() });
    for turn in 0..60 {
        let body = json!({"prompt": "Report:", "max_tokens": 1, "stream": turn % 2 == 0});
        assert_eq!(server.post("/v1/completions", &body).status, 200, "request {turn}");
    }
}

#[test]
fn only_keys_let_in_from_elsewhere() {
    let address = "0.0.0.0:0".parse().unwrap();
    let refused = medgemma_serve::serve::<medgemma_kernels::CpuBackend>(
        Config { address, ..config() },
        || Err("it must not be loaded".into()),
        std::future::pending(),
        |_| {},
    );
    assert!(matches!(refused, Err(Error::NeedsKeys(_))));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, b"a key of the clinic\n").unwrap();
    let server = Server::start(Config { keys: Some(Keys::read(file.path()).unwrap()), ..config() });
    let routes = ["/v1/models", "/metrics", "/api/tags", "/v1/nothing", "/v1/models/demo", "/api/version"];
    for route in routes {
        assert_eq!(server.get(route).status, 401, "{route}");
    }
    let post = [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/messages",
        "/v1/responses",
        "/tokenize",
        "/detokenize",
        "/api/chat",
        "/api/generate",
        "/api/show",
        "/v1/embeddings",
    ];
    for route in post {
        assert_eq!(server.post(route, &ask("Hello!")).status, 401, "{route}");
    }
    let with = |headers: &str| receive(server.send("GET", "/v1/models", headers, b"")).status;
    assert_eq!(with("Authorization: Bearer a key of the clini\r\n"), 401);
    assert_eq!(with("Authorization: Bearer a key of the clinic\r\n"), 200);
    assert_eq!(with("x-api-key: a key of the clinic\r\n"), 200);
    assert_eq!(with("Authorization: Bearer another\r\nx-api-key: a key of the clinic\r\n"), 200);
    for open in ["/health", "/", "/docs", "/openapi.json"] {
        assert_eq!(server.get(open).status, 200, "{open}");
        assert_eq!(server.post(open, &ask("Hello!")).status, 401, "{open} is open to those who read");
    }
}

/// An answer of thousands of tokens.
fn chatter() -> Value {
    let mut body = ask("Report:");
    let more =
        json!({"max_tokens": 3000, "ignore_eos": true, "stream": true, "temperature": 3.0, "top_k": 0, "top_p": 1.0});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn it_is_unhealthy_until_loaded_and_drains_when_told_to_end() {
    let (go, wait) = mpsc::channel::<()>();
    let mut server = Server::loading(config(), move || wait.recv().unwrap());
    assert_eq!((server.get("/health").status, server.post("/v1/chat/completions", &ask("x")).status), (503, 503));
    go.send(()).unwrap();
    server.wait_until("it is loaded", |server| server.get("/health").status == 200);
    // Long enough to be told in the middle, short enough to end within the time on a busy machine.
    let mut long = endless();
    long["max_tokens"] = json!(600);
    let mut running = server.send("POST", "/v1/completions", "", long.to_string().as_bytes());
    running.read_exact(&mut [0; 200]).unwrap();
    server.stop();
    let rest = receive(running);
    assert!(rest.head.contains("[done]") || rest.body.contains("[DONE]"), "the request that ran was cut off");
    assert!(server.ended().is_ok());
    assert!(std::net::TcpStream::connect(server.address).is_err());
    // One that takes longer than that is told why nothing more comes.
    let mut server = Server::start(Config { drain: Duration::from_millis(200), ..config() });
    let running = server.send("POST", "/v1/chat/completions", "", chatter().to_string().as_bytes());
    server.wait_until("it runs", |server| server.metric("medgemma_requests_running") == 1.0);
    server.stop();
    let answer = receive(running);
    assert!(!answer.body.contains("[DONE]"), "it was done before it was cut off");
    let events = answer.events();
    let last = events.last().unwrap();
    assert_eq!(
        (&last["error"]["type"], &last["error"]["message"]),
        (&json!("server_error"), &json!("the server is ending"))
    );
    assert!(server.ended().is_ok());
    let failed = medgemma_serve::serve::<medgemma_kernels::CpuBackend>(
        config(),
        || Err("no such model".into()),
        std::future::pending(),
        |_| {},
    );
    assert!(matches!(failed, Err(Error::Load(error)) if error.to_string() == "no such model"));
}
