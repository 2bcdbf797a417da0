//! What guessing tokens ahead gains: texts are answered with and without it, by turns, and must be the same.
//!
//! ```text
//! cargo run --release -p medgemma-engine --example speculation -- MODEL RECORD.txt [--draft MODEL]
//! ```
//! A model that chats is asked to summarise the record; a pre-trained one continues it. For `demo`, without a record, its
//! held-out questions about records are asked. One JSON object is printed: medians of five rounds.

use medgemma_engine::pipeline::{Options, Reply};
use medgemma_engine::{Error, LoadOptions, Opened, Pipeline, Request};
use medgemma_gemma::sampler::Sampling;
use medgemma_gemma::text::Message;
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::Path;

const ROUNDS: usize = 5;
const MAX_TOKENS: usize = 200;

/// Something to answer.
struct Task {
    name: String,
    ask: Ask,
}

enum Ask {
    Chat(Vec<Message>),
    Continue(String),
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let draft = match args.iter().position(|arg| arg == "--draft") {
        Some(at) => Some(args.drain(at..(at + 2).min(args.len())).next_back().ok_or("--draft MODEL")?),
        None => None,
    };
    let model = args.first().cloned().unwrap_or_else(|| "demo".into());
    let options = LoadOptions { context: Some(8192), ..LoadOptions::default() };
    let mut pipeline = Pipeline::load_with(&model, &options, |_| {})?;
    if let Some(draft) = &draft {
        pipeline.load_draft(Opened::open(draft, None)?, &LoadOptions::default(), |_| {})?;
    }
    let tasks = if args.len() > 1 { records(&pipeline, &args[1..])? } else { held_out()? };
    let measured = tasks.iter().map(|task| measure(&mut pipeline, task)).collect::<Result<Vec<_>, _>>()?;
    let sum = |what: &str| measured.iter().filter_map(|task| task[what].as_f64()).sum::<f64>();
    let report = json!({
        "model": file_name(&model),
        "draft": draft.as_deref().map(file_name),
        "device": pipeline.device(),
        "machine": machine(),
        "rounds": ROUNDS,
        "answer_seconds_without": sum("seconds_without"),
        "answer_seconds_with": sum("seconds_with"),
        "gain": sum("seconds_without") / sum("seconds_with"),
        "answer_tokens": sum("answer_tokens"),
        "guessed": sum("guessed"),
        "right": sum("right"),
        "tasks": measured,
    });
    println!("{report:#}");
    Ok(())
}

/// Files of records, to be summarised.
fn records(pipeline: &Pipeline, files: &[String]) -> Result<Vec<Task>, std::io::Error> {
    let task = |file: &String| {
        let record = std::fs::read_to_string(file)?;
        let ask = match pipeline.can_chat() {
            true => {
                Ask::Chat(vec![Message::user(format!("Summarise this record, naming dates and sources.\n\n{record}"))])
            }
            false => Ask::Continue(record),
        };
        Ok(Task { name: file_name(file), ask })
    };
    files.iter().map(task).collect()
}

/// The demo model's held-out questions about records.
fn held_out() -> Result<Vec<Task>, Box<dyn std::error::Error>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo-model/heldout/cases.jsonl");
    let mut tasks = Vec::new();
    for line in std::fs::read_to_string(file)?.lines() {
        let case: Value = serde_json::from_str(line)?;
        if matches!(case["task"].as_str(), Some("record" | "trend" | "lab")) {
            let name = case["id"].as_str().unwrap_or_default().to_owned();
            tasks.push(Task { name, ask: Ask::Chat(Message::list(&case["messages"])?) });
        }
    }
    Ok(tasks.into_iter().step_by(4).collect())
}

/// Answers by turns with and without guesses.
fn measure(pipeline: &mut Pipeline, task: &Task) -> Result<Value, Error> {
    let mut times = [Vec::new(), Vec::new()];
    let mut last: [Option<Reply>; 2] = [None, None];
    for round in 0..2 * ROUNDS {
        let (guesses, which) = if round % 2 == 0 { (Some(0), 0) } else { (None, 1) };
        let options = Options {
            max_tokens: Some(MAX_TOKENS),
            sampling: Some(Sampling::GREEDY),
            logprobs: None,
            draft_max: guesses,
            ..Options::default()
        };
        let reply = match &task.ask {
            Ask::Chat(messages) => pipeline.chat(Request::new(messages.clone()).options(options))?,
            Ask::Continue(text) => pipeline.complete(text, &[], &options, &mut |_| ControlFlow::Continue(()))?,
        };
        times[which].push(reply.timings.generation.as_secs_f64());
        last[which] = Some(reply);
    }
    let [Some(without), Some(with)] = last else { unreachable!("there is a round of each") };
    assert_eq!((&without.answer, &without.thought), (&with.answer, &with.thought), "guesses changed an answer");
    let [seconds_without, seconds_with] = times.map(median);
    Ok(json!({
        "name": task.name,
        "prompt_tokens": with.usage.prompt_tokens,
        "answer_tokens": with.usage.completion_tokens,
        "seconds_without": seconds_without,
        "seconds_with": seconds_with,
        "guessed": with.timings.drafted_tokens,
        "right": with.timings.accepted_tokens,
    }))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn file_name(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

/// The processor's name, where the system says.
fn machine() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let name = info.lines().find(|line| line.starts_with("model name"))?.split_once(": ")?.1;
    Some(name.to_owned())
}
