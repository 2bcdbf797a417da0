//! `run`, `score` and `demo` on tiny random checkpoints and on the model inside the program.

#[allow(dead_code)] // shared with other tests
#[path = "support/program.rs"]
mod program;

use program::{json, medgemma, picture, run, run_with, stderr, stdout, testdata};
use serde_json::{Value, json};
use std::process::{Output, Stdio};

struct Program {
    home: tempfile::TempDir,
    model: String,
}

impl Program {
    fn new(model: &str) -> Self {
        let model = if model == "demo" { model.into() } else { testdata(model).to_str().unwrap().to_owned() };
        Self { home: tempfile::tempdir().unwrap(), model }
    }

    /// `run MODEL …` with a budget of eight tokens.
    fn run(&self, args: &[&str]) -> Output {
        run(self.home.path(), &[&["run", &self.model, "--max-tokens", "8"], args].concat())
    }

    fn run_with(&self, args: &[&str], stdin: &str) -> Output {
        run_with(self.home.path(), &[&["run", &self.model, "--max-tokens", "8"], args].concat(), stdin)
    }

    fn file(&self, name: &str, contents: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// Weights, keys and values in 8-bit floats: an answer of as many tokens, by log-probabilities that aren't the exact ones.
#[test]
fn eight_bit_floats_can_be_asked_for() {
    let program = Program::new("tiny-text");
    let logprobs = |args: &[&str]| {
        let completion =
            json(&program.run(&[&["Say it.", "--json", "--logprobs", "0", "--device", "cpu"], args].concat()));
        assert_eq!(completion["usage"]["completion_tokens"], 8);
        completion["choices"][0]["logprobs"]["content"][0]["logprob"].as_f64().unwrap()
    };
    let exact = logprobs(&[]);
    for args in [&["--quant", "fp8"][..], &["--kv", "fp8"], &["--quant", "fp8", "--kv", "fp8"]] {
        let found = logprobs(args);
        assert!(found != exact && (found - exact).abs() < 1.0, "{args:?}: {found} for {exact}");
    }
}

#[test]
fn json_is_a_chat_completion() {
    let program = Program::new("tiny-mm16");
    let output = program.run(&["What is it?", "--json", "--logprobs", "2"]);
    let completion = json(&output);
    let choice = &completion["choices"][0];
    assert_eq!(completion["object"], "chat.completion");
    assert_eq!(completion["model"], program.model.as_str());
    assert_eq!((&choice["message"]["role"], &choice["finish_reason"]), (&json!("assistant"), &json!("length")));
    let usage = &completion["usage"];
    assert_eq!(usage["completion_tokens"], 8);
    assert_eq!(usage["total_tokens"], usage["prompt_tokens"].as_u64().unwrap() + 8);
    let tokens = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len(), 8);
    let bytes = |token: &Value| token["bytes"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap() as u8).collect();
    let text: Vec<Vec<u8>> = tokens.iter().map(bytes).collect();
    assert_eq!(String::from_utf8_lossy(&text.concat()), choice["message"]["content"].as_str().unwrap());
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        // Greedy: the chosen token is the most likely one.
        assert_eq!((top.len(), &top[0]["token"]), (2, &token["token"]));
        assert!(top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64() && token["logprob"].as_f64() < Some(0.0));
    }
    assert!(json(&program.run(&["What is it?", "--json"]))["choices"][0]["logprobs"].is_null());
}

#[test]
fn the_answer_alone_is_on_stdout() {
    let program = Program::new("tiny-text");
    let output = program.run(&["What is it?"]);
    let answer = json(&program.run(&["What is it?", "--json"]))["choices"][0]["message"]["content"].clone();
    assert_eq!(stdout(&output).trim_end_matches('\n'), answer.as_str().unwrap().trim_end_matches('\n'));
    let notes = stderr(&output);
    assert!(notes.contains("takes about") && notes.contains("Cut off after 8 tokens"), "{notes}");
    let full = stderr(&run(program.home.path(), &["run", &program.model, "What is it?", "--context", "24"]));
    assert!(full.contains("the context of 24 tokens is full") && full.contains("--context."), "{full}");
    let verbose = stderr(&program.run(&["What is it?", "-v"]));
    assert!(verbose.contains("Prompt: ") && verbose.contains("Answer: 8 tokens"), "{verbose}");
    assert_eq!(stderr(&program.run(&["What is it?", "-q"])), "");
}

#[test]
fn stdin_is_the_question_or_follows_it() {
    let program = Program::new("tiny-text");
    let whole = stdout(&program.run(&["Summarise:\n\na note"]));
    assert_eq!(stdout(&program.run_with(&["Summarise:"], "a note\n")), whole);
    assert_eq!(stdout(&program.run_with(&["-"], "Summarise:\n\na note")), whole);
    assert_eq!(stdout(&program.run_with(&[], "Summarise:\n\na note")), whole);
    for (args, stdin) in [(&[][..], ""), (&["-"], " \n"), (&[""], "")] {
        let output = program.run_with(args, stdin);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains("nothing is asked"), "{}", stderr(&output));
    }
}

#[test]
fn messages_and_arguments_ask_the_same() {
    let program = Program::new("tiny-mm16");
    let picture = picture();
    let args = ["What is it?", "--image", &picture, "--system", "You are a radiologist.", "--json"];
    let asked = json(&program.run(&args));
    let content =
        json!([{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": "What is it?"}]);
    let messages =
        json!([{"role": "system", "content": "You are a radiologist."}, {"role": "user", "content": content}]);
    let file = program.file("messages.json", &messages.to_string());
    let read = json(&program.run(&["--messages", &file, "--json"]));
    assert_eq!(read["choices"], asked["choices"]);
    assert_eq!(read["usage"], asked["usage"]);
    let piped = json(&program.run_with(&["--messages", "-", "--json"], &messages.to_string()));
    assert_eq!(piped["choices"], asked["choices"]);
    let output = program.run_with(&["--messages", "-"], "[{");
    assert!(!output.status.success() && stderr(&output).contains("stdin"), "{}", stderr(&output));
    let blind = json(&program.run(&["What is it?", "--system", "You are a radiologist.", "--json"]));
    let tokens = |completion: &Value| completion["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(tokens(&asked) > tokens(&blind) + 16, "the picture is in the prompt");
}

#[test]
fn pictures_are_never_fetched() {
    let program = Program::new("tiny-mm16");
    let content = json!([{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x.png"}}]);
    let file = program.file("messages.json", &json!([{"role": "user", "content": content}]).to_string());
    let output = program.run(&["--messages", &file]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("not fetched"), "{}", stderr(&output));
}

#[test]
fn a_model_that_cannot_see_says_so_before_it_is_loaded() {
    let program = Program::new("tiny-text");
    let output = program.run(&["What is it?", "--image", &picture()]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()));
    assert!(stderr(&output).contains("can't see") && !stderr(&output).contains("takes about"), "{}", stderr(&output));
    let output = program.run(&["What is it?", "--image", "absent.png"]);
    assert!(stderr(&output).contains("absent.png"), "{}", stderr(&output));
}

#[test]
fn seeds_repeat_and_differ() {
    let program = Program::new("tiny-text");
    let drawn =
        |seed: &str| stdout(&program.run(&["What is it?", "--temperature", "5", "--top-k", "0", "--seed", seed]));
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
}

#[test]
fn the_answer_ends_before_a_stop_text() {
    let program = Program::new("tiny-text");
    let whole = json(&program.run(&["What is it?", "--json"]))["choices"][0]["message"]["content"].clone();
    let whole = whole.as_str().unwrap();
    let stop: String = whole.chars().skip(2).take(3).collect();
    let cut = json(&program.run(&["What is it?", "--json", "--stop", &stop]));
    assert_eq!(cut["choices"][0]["message"]["content"], whole[..whole.find(&stop).unwrap()]);
    assert_eq!(cut["choices"][0]["finish_reason"], "stop");
}

#[test]
fn a_thought_ends_when_its_budget_is_spent() {
    let program = Program::new("demo");
    let thought = |more: &[&str]| {
        let args = ["Report this X-ray.", "--think", "--json", "--max-tokens", "200"];
        let reply = json(&run(program.home.path(), &[&["run", "demo"], &args[..], more].concat()));
        let message = &reply["choices"][0]["message"];
        assert!(message["content"].as_str().is_some_and(|answer| !answer.is_empty()), "{reply}");
        message["reasoning_content"].as_str().unwrap_or_default().len()
    };
    let whole = thought(&[]);
    assert!(thought(&["--think-budget", "4"]) < whole && thought(&["--think-budget", "1000"]) == whole);
    let alone = run(program.home.path(), &["run", "demo", "x", "--think-budget", "4"]);
    assert!(alone.status.code() == Some(2) && stderr(&alone).contains("--think"));
}

#[test]
fn guesses_change_nothing_but_the_time() {
    let home = tempfile::tempdir().unwrap();
    let question = "The lungs are clear. The heart is normal. The lungs are clear. Is the heart normal?";
    let ask =
        |more: &[&str]| run(home.path(), &[&["run", "demo", question, "-v", "--max-tokens", "120"], more].concat());
    let plain = ask(&["--draft-max", "0"]);
    assert!(!stderr(&plain).contains("Guessed"));
    let drafted = ask(&["--draft", "demo"]);
    assert!(stderr(&drafted).contains("Guessed: "), "{}", stderr(&drafted));
    for output in [&drafted, &ask(&[])] {
        assert_eq!(stdout(output), stdout(&plain));
    }
    // Another vocabulary, and draws.
    let other = testdata("tiny-text");
    for (more, word) in [
        (&["--draft", other.to_str().unwrap()][..], "vocabularies differ"),
        (&["--draft", "demo", "--temperature", "1"], "--temperature"),
    ] {
        let output = ask(more);
        assert_eq!((output.status.code(), stderr(&output).contains(word)), (Some(1), true), "{}", stderr(&output));
    }
    assert_eq!(ask(&["--draft-max", "16"]).status.code(), Some(2));
}

#[test]
fn what_cannot_be_is_refused() {
    let program = Program::new("tiny-text");
    for args in [&["x", "--logprobs", "2"][..], &["x", "--logprobs", "21", "--json"], &["x", "--messages", "y.json"]] {
        assert_eq!(program.run(args).status.code(), Some(2), "{args:?}");
    }
    for (args, word) in [
        (&["x", "--temperature", "nan"][..], "out of range (0 to 100)"),
        (&["x", "--temperature", "200"], "out of range (0 to 100)"),
        (&["x", "--top-p", "0"], "out of range (above 0"),
        (&["x", "--min-p", "2"], "out of range (0 to 1)"),
        (&["x", "--max-tokens", "0"], "--max-tokens"),
        (&["x", "--context", "0"], "--context"),
    ] {
        let output = run(program.home.path(), &[&["run", &program.model], args].concat());
        assert_eq!((output.status.code(), stderr(&output).contains(word)), (Some(2), true), "{args:?}");
    }
    for (args, word) in [
        (&["x", "--device", "cuda:99"][..], "--device cpu"),
        (&["x", "--device", "cpu", "--gpu-layers", "1"], "--device auto"),
        (&["x", "--context", "4"], "context"),
    ] {
        let output = run(program.home.path(), &[&["run", &program.model], args].concat());
        assert_eq!((output.status.code(), stderr(&output).contains(word)), (Some(1), true), "{args:?}");
    }
}

#[test]
fn the_demo_needs_nothing_and_says_what_it_is() {
    let program = Program::new("demo");
    let output = run(program.home.path(), &["demo"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(stderr(&output).contains("Never use it for patients") && said.contains("medgemma pull"));
    assert!(said.contains("IMPRESSION") && said.contains("box_2d") && said.contains("[Observation/81445]"), "{said}");
    assert_eq!(std::fs::read_dir(program.home.path()).unwrap().count(), 0);
    let out = program.home.path().join("out");
    assert!(run(program.home.path(), &["demo", "-q", "--out", out.to_str().unwrap()]).status.success());
    assert_ne!(std::fs::read(out.join("phantom.png")).unwrap(), std::fs::read(out.join("phantom-boxes.png")).unwrap());
    let output = run(program.home.path(), &["demo", "Hello?", "-q"]);
    assert_eq!(stderr(&output), "");
}

#[test]
fn score_sums_what_it_lists() {
    let program = Program::new("tiny-text");
    let file = program.file("text.txt", "The heart is normal in size.");
    let report = json(&run(program.home.path(), &["score", &program.model, &file, "--json"]));
    let scores: Vec<f64> =
        report["tokens"].as_array().unwrap().iter().filter_map(|token| token["logprob"].as_f64()).collect();
    assert_eq!(report["scored_tokens"], scores.len());
    assert!((report["logprob"].as_f64().unwrap() - scores.iter().sum::<f64>()).abs() < 1e-4);
    let line =
        stdout(&run_with(program.home.path(), &["score", &program.model, "-", "-q"], "The heart is normal in size."));
    assert!(line.contains(&format!("perplexity {:.4}", report["perplexity"].as_f64().unwrap())), "{line}");
}

#[test]
fn a_reader_that_has_enough_ends_the_answer() {
    let program = Program::new("tiny-text");
    let mut command = medgemma(program.home.path());
    command.args(["run", &program.model, "What is it?", "-q"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
}

#[test]
fn a_converted_model_answers_the_same() {
    let program = Program::new("tiny-mm16");
    let out = program.home.path().join("tiny.gguf");
    let out = out.to_str().unwrap();
    let output = run(program.home.path(), &["quantize", &program.model, out, "--type", "f32", "-q"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("mmproj-tiny.gguf") && stdout(&output).contains("medgemma run"));
    let args = ["What is it?", "--image", &picture(), "--max-tokens", "8", "-q"];
    let converted = run(program.home.path(), &[&["run", out], &args[..]].concat());
    assert_eq!(stdout(&converted), stdout(&program.run(&args[..3])));
    let again = run(program.home.path(), &["quantize", &program.model, out]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("--force"), "{}", stderr(&again));
}
