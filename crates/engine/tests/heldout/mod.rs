//! The demo model's held-out cases, and whether an answer to one is right: the rules of tools/demo-model/score.py.

use medgemma_engine::{Pipeline, Request};
use medgemma_gemma::image::{Limits, decode};
use medgemma_gemma::text::Message;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const OPEN: &str = "<unused94>";
const CLOSE: &str = "<unused95>";

/// Where the cases are.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo-model/heldout")
}

/// One question with what a right answer holds.
pub(crate) struct Case {
    pub(crate) task: String,
    pub(crate) request: Request,
    pub(crate) expected: Value,
    /// The reply that training would have taught.
    pub(crate) taught: String,
}

/// How an answer did.
pub(crate) struct Score {
    pub(crate) right: bool,
    /// Whether the reply is well-formed and thought exactly when it was asked to.
    pub(crate) thinking: bool,
    /// Whether the reply is the taught one, word for word.
    pub(crate) taught: bool,
    /// What was answered, thought included.
    pub(crate) reply: String,
    /// Mean overlap of the boxes asked for with those given.
    pub(crate) iou: Option<f64>,
}

/// Results of a task.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) cases: usize,
    pub(crate) right: usize,
    pub(crate) ious: Vec<f64>,
}

/// All cases, in the file's order.
pub(crate) fn cases() -> Vec<Case> {
    let lines = std::fs::read_to_string(folder().join("cases.jsonl")).expect("the held-out cases");
    lines.lines().map(|line| case(&serde_json::from_str(line).expect("a line of JSON"))).collect()
}

fn case(line: &Value) -> Case {
    let mut request = Request::new(Message::list(&line["messages"]).expect("messages")).greedy().max_tokens(1024);
    request.images = line["messages"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|message| message["content"].as_array().into_iter().flatten())
        .filter(|part| part["type"] == "image")
        .map(|part| {
            let name = part["image"].as_str().expect("a file name");
            let bytes = std::fs::read(folder().join("images").join(name)).expect(name);
            decode(name, &bytes, &Limits::default()).expect(name)
        })
        .collect();
    request.options.logprobs = Some(0);
    let text = |key: &str| line[key].as_str().expect(key).to_owned();
    Case { task: text("task"), request, expected: line["expected"].clone(), taught: text("answer") }
}

/// Asks the model and scores its answer.
pub(crate) fn ask(pipeline: &mut Pipeline, case: &Case) -> Score {
    let reply = pipeline.chat(case.request.clone()).expect("an answer");
    let bytes: Vec<u8> = reply.tokens.iter().flat_map(|t| t.bytes.clone()).collect();
    let reply = String::from_utf8_lossy(&bytes).into_owned();
    Score { taught: reply.trim() == case.taught.trim(), ..score(&case.expected, &reply) }
}

/// Tallies over all cases, beside those of the tasks.
pub(crate) const OVERALL: [&str; 2] = ["thinking", "word for word"];

/// Adds up scores by task and over all cases.
pub(crate) fn tally(scores: impl IntoIterator<Item = (String, Score)>) -> BTreeMap<String, Tally> {
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    for (task, score) in scores {
        for (task, right) in [(&task[..], score.right), (OVERALL[0], score.thinking), (OVERALL[1], score.taught)] {
            let tally = tallies.entry(task.to_owned()).or_default();
            tally.cases += 1;
            tally.right += usize::from(right);
        }
        if let Some(iou) = score.iou {
            tallies.entry(task).or_default().ious.push(iou);
        }
    }
    tallies
}

pub(crate) fn score(expected: &Value, reply: &str) -> Score {
    let (thought, answer, fine) = split_thought(reply);
    let (right, iou) = right(expected, answer);
    let thinking = fine && thought == expected["thinks"].as_bool().unwrap_or(false);
    Score { right, thinking, taught: false, reply: reply.to_owned(), iou }
}

/// Whether there is a thought, the answer, and whether the reply is well-formed.
fn split_thought(reply: &str) -> (bool, &str, bool) {
    let Some(rest) = reply.strip_prefix(OPEN) else {
        return (false, reply, !reply.contains(OPEN) && !reply.contains(CLOSE));
    };
    let (thought, mark, answer) = match rest.split_once(CLOSE) {
        Some((thought, answer)) => (thought, true, answer),
        None => (rest, false, ""),
    };
    let clean = !answer.contains(CLOSE) && !answer.contains(OPEN) && !thought.contains(OPEN);
    (true, answer, mark && thought.starts_with("thought\n") && !answer.trim().is_empty() && clean)
}

fn right(expected: &Value, answer: &str) -> (bool, Option<f64>) {
    if let Some(wanted) = expected["boxes"].as_array() {
        return boxes_right(wanted, &boxes_in(answer));
    }
    if let Some(letter) = expected["letter"].as_str() {
        return (last_letter(answer).is_some_and(|found| letter.starts_with(found)), None);
    }
    if let Some(impression) = expected["impression"].as_str() {
        let found = answer.rsplit("IMPRESSION:\n").next().unwrap_or(answer);
        return (found.trim() == impression, None);
    }
    if let Some(slices) = expected["slices"].as_array() {
        let text = answer.rsplit("Final Answer:").next().unwrap_or(answer);
        let found: Vec<u64> = text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
        return (found == slices.iter().filter_map(Value::as_u64).collect::<Vec<_>>(), None);
    }
    if expected.get("json").is_some() {
        return (json_lists(answer).next().is_some_and(|found| same(&found, &expected["json"])), None);
    }
    if let Some(text) = expected["text"].as_str() {
        return (answer.trim() == text, None);
    }
    if let Some(contains) = expected["contains"].as_array() {
        let cited = expected["cite"].as_array().is_none_or(|wanted| {
            citations(answer) == wanted.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
        });
        return (cited && contains.iter().filter_map(Value::as_str).all(|c| answer.contains(c)), None);
    }
    let options: Vec<&str> = expected["options"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    (Some(short_answer(answer, &options).as_str()) == expected["answer"].as_str(), None)
}

/// Each box asked for must be met by half; the mean overlap of the best of the same label.
fn boxes_right(wanted: &[Value], got: &[Value]) -> (bool, Option<f64>) {
    if wanted.is_empty() {
        return (got.is_empty(), None);
    }
    let best = |w: &Value| {
        let same = got.iter().filter(|g| g["label"] == w["label"]);
        same.map(|g| iou(&w["box_2d"], &g["box_2d"])).fold(0.0, f64::max)
    };
    let scores: Vec<f64> = wanted.iter().map(best).collect();
    let enough = scores.iter().all(|s| *s >= 0.5);
    (got.len() == wanted.len() && enough, Some(scores.iter().sum::<f64>() / scores.len() as f64))
}

fn iou(a: &Value, b: &Value) -> f64 {
    let at = |v: &Value, i: usize| v[i].as_f64().unwrap_or(0.0);
    let side = |low: f64, high: f64| (high - low).max(0.0);
    let area = |v: &Value| side(at(v, 0), at(v, 2)) * side(at(v, 1), at(v, 3));
    let height = side(at(a, 0).max(at(b, 0)), at(a, 2).min(at(b, 2)));
    let width = side(at(a, 1).max(at(b, 1)), at(a, 3).min(at(b, 3)));
    height * width / (area(a) + area(b) - height * width).max(1e-9)
}

/// JSON lists in a text, first to last.
fn json_lists(text: &str) -> impl DoubleEndedIterator<Item = Value> {
    let starts: Vec<usize> = text.match_indices('[').map(|(at, _)| at).collect();
    starts.into_iter().filter_map(|at| {
        serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>().next().and_then(Result::ok)
    })
}

/// The last list of boxes.
fn boxes_in(answer: &str) -> Vec<Value> {
    let is_box = |v: &Value| v["box_2d"].as_array().is_some_and(|b| b.len() == 4);
    let lists = json_lists(answer).rev().filter_map(|v| v.as_array().cloned());
    lists.into_iter().find(|list| list.iter().all(is_box)).unwrap_or_default()
}

/// The letter after the last "Final Answer:" or "The most likely diagnosis is:".
fn last_letter(answer: &str) -> Option<char> {
    let marks = ["Final Answer: ", "The most likely diagnosis is: "];
    let ends = marks.iter().flat_map(|mark| answer.match_indices(mark).map(move |(at, _)| at + mark.len()));
    let mut found: Vec<(usize, char)> = ends
        .filter_map(|end| {
            let rest = answer[end..].trim_start_matches('(');
            let mut letters = rest.chars();
            let letter = letters.next().filter(|c| ('A'..='E').contains(c))?;
            letters.next().is_none_or(|c| !c.is_alphanumeric() && c != '_').then_some((end, letter))
        })
        .collect();
    found.sort_unstable();
    found.last().map(|(_, letter)| *letter)
}

/// The `[Type/id]` in a text, sorted, each once.
fn citations(answer: &str) -> Vec<String> {
    let mut found: Vec<String> = answer
        .split('[')
        .skip(1)
        .filter_map(|rest| rest.split_once(']').map(|(inside, _)| inside))
        .filter(|inside| {
            inside.split_once('/').is_some_and(|(kind, id)| {
                let word = |s: &str, more: &str| {
                    !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
                };
                word(kind, "") && kind.chars().all(|c| c.is_ascii_alphabetic()) && word(id, ".-")
            })
        })
        .map(str::to_owned)
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// What stands after the last "Final Answer:"; else the one option that is named, or the first word.
fn short_answer(answer: &str, options: &[&str]) -> String {
    if let Some((_, last)) = answer.rsplit_once("Final Answer:") {
        return last.trim().trim_matches('.').to_lowercase();
    }
    let lower = answer.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_ascii_lowercase()).filter(|w| !w.is_empty()).collect();
    let named: Vec<&&str> = options.iter().filter(|o| words.contains(o)).collect();
    match named.as_slice() {
        [one] => (**one).to_owned(),
        _ if answer.starts_with("There is no") => "none".into(),
        _ => words.first().copied().unwrap_or_default().to_owned(),
    }
}

/// Equality that doesn't tell 1 from 1.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        }
        _ => a == b,
    }
}
