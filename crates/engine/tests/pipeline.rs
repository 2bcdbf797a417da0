//! Messages and pictures in, the reference's token ids and text out.

use medgemma_engine::pipeline::{Event, Options, Request};
use medgemma_engine::{Finish, LoadOptions, Pipeline};
use medgemma_gemma::image::{Limits, RgbImage, decode};
use medgemma_gemma::text::Message;
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

fn goldens(name: &str) -> Vec<Value> {
    let json = std::fs::read(testdata(name).join("goldens.json")).unwrap();
    serde_json::from_slice::<Value>(&json).unwrap()["cases"].as_array().unwrap().clone()
}

fn load(model: &str) -> Pipeline {
    let options = LoadOptions { threads: Some(2), context: Some(1024), ..LoadOptions::default() };
    Pipeline::load_with(model, &options, |_| {}).unwrap()
}

fn picture(name: &Value) -> RgbImage {
    let name = name.as_str().unwrap();
    decode(name, &std::fs::read(testdata("images").join(name)).unwrap(), &Limits::default()).unwrap()
}

/// A golden case as a request for as many tokens as the reference made.
fn request(case: &Value) -> Request {
    let mut request = Request::new(Message::list(&case["messages"]).unwrap()).greedy();
    request.images = case["images"].as_array().unwrap().iter().map(picture).collect();
    request.options.pan_and_scan = Some(case["pan_and_scan"].as_bool().unwrap_or(false));
    request.options.max_tokens = Some(case["greedy"].as_array().unwrap().len());
    request.options.ignore_eos = case["stop"].as_bool() != Some(true);
    request.options.logprobs = Some(0);
    request
}

fn ids(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect()
}

fn check_checkpoint(model: &str, golden: &str) {
    let mut pipeline = load(testdata(model).to_str().unwrap());
    for case in goldens(golden) {
        let what = format!("{model}, case {}", case["name"]);
        let Some(_) = case["messages"].as_array() else {
            let text = case["prompt"].as_str().unwrap_or_else(|| case["text"].as_str().unwrap());
            let scored = pipeline.score(text, &mut |_| ControlFlow::Continue(())).unwrap();
            assert_eq!(scored.iter().map(|t| u64::from(t.id)).collect::<Vec<_>>(), ids(&case["input_ids"]), "{what}");
            continue;
        };
        let request = request(&case);
        let prompt: Vec<u64> = pipeline.prompt_ids(&request).unwrap().into_iter().map(u64::from).collect();
        assert_eq!(prompt, ids(&case["input_ids"]), "{what}: prompt");
        let reply = pipeline.chat(request).unwrap();
        let tokens: Vec<u64> = reply.tokens.iter().map(|t| u64::from(t.id)).collect();
        let mut greedy = ids(&case["greedy"]);
        if reply.finish == Finish::Stop {
            // The token that ends the turn is not part of the reply.
            assert!(case["stop"].as_bool() == Some(true), "{what}: stopped");
            greedy.pop();
        }
        assert_eq!(tokens, greedy, "{what}: greedy tokens");
    }
}

#[test]
fn messages_become_the_references_tokens_and_so_do_replies() {
    for name in ["tiny-text", "tiny-mm", "tiny-mm16"] {
        check_checkpoint(name, name);
    }
}

#[test]
fn the_embedded_model_answers_and_streams_what_it_answers() {
    let mut pipeline = load("demo");
    assert!(pipeline.can_chat() && pipeline.can_see() && pipeline.is_demo());
    let request = Request::from("Is the heart normal?").max_tokens(40).greedy();
    let mut streamed = String::new();
    let mut prompt = 0;
    let mut on = |event: Event| {
        match event {
            Event::Answer(text) => streamed.push_str(&text),
            Event::Prompt { total, .. } => prompt = total,
            _ => {}
        }
        ControlFlow::Continue(())
    };
    let reply = pipeline.chat_with(&request, &mut on).unwrap();
    assert_eq!(reply.answer, streamed);
    assert_eq!(reply.usage.prompt_tokens, prompt);
    assert!(!reply.answer.is_empty() && reply.usage.completion_tokens <= 40);
    // The same again computes only the last token of the prompt, and says the same.
    let again = pipeline.chat(request).unwrap();
    assert_eq!((again.answer, again.usage.cached_tokens), (reply.answer, prompt - 1));
}

#[test]
fn stop_strings_and_listeners_end_a_reply() {
    let mut pipeline = load("demo");
    let options = Options { max_tokens: Some(40), ignore_eos: true, ..Options::default() };
    let whole = pipeline.chat(Request::from("Describe.").options(options.clone()).greedy()).unwrap();
    let middle = whole.answer.chars().nth(whole.answer.chars().count() / 2).unwrap().to_string();
    let first = whole.answer.find(&middle).unwrap();
    let stopped = Options { stop: vec![middle], ..options.clone() };
    let reply = pipeline.chat(Request::from("Describe.").options(stopped).greedy()).unwrap();
    assert_eq!((reply.answer.as_str(), reply.finish), (&whole.answer[..first], Finish::Stop));
    let request = Request::from("Describe.").options(options).greedy();
    let mut pieces = 0;
    let mut on = |event: Event| match event {
        Event::Answer(_) if pieces == 3 => ControlFlow::Break(()),
        Event::Answer(_) => {
            pieces += 1;
            ControlFlow::Continue(())
        }
        _ => ControlFlow::Continue(()),
    };
    assert_eq!(pipeline.chat_with(&request, &mut on).unwrap().finish, Finish::Cancelled);
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut pipeline = load("demo");
    let long = "heart ".repeat(2000);
    assert!(pipeline.chat(long.as_str()).unwrap_err().to_string().contains("context of 1024"));
    let mut request = Request::from("What is this?");
    request.images.push(RgbImage::from_raw(1, 1, vec![0; 3]).unwrap());
    assert!(pipeline.chat(request).is_err(), "a picture without a place");
    let mut blind = load(testdata("tiny-text").to_str().unwrap());
    let request = Request::from("What is this?").image(RgbImage::from_raw(1, 1, vec![0; 3]).unwrap());
    assert!(blind.chat(request).is_err(), "a picture for a model that can't see");
}
