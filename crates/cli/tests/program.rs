//! The program as scripts and people meet it: exit codes, what goes to stdout and what to stderr.

#[allow(dead_code)] // shared with the tests of the downloader
#[path = "support/hub.rs"]
mod hub;
#[allow(dead_code)] // shared with other tests
#[path = "support/program.rs"]
mod program;

use hub::{COMMIT, Hub, Reply, listing};
use program::{json, medgemma, picture, run, stderr, stdout, testdata};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

/// A hub with one tiny model.
fn tiny() -> Hub {
    let files: [(&str, &[u8]); 3] =
        [("config.json", br#"{"model_type": "gemma3"}"#), ("tokenizer.json", b"{}"), ("model.safetensors", b"weights")];
    Hub::start(move |request| {
        if request.path.starts_with("/api/models/google/tiny/revision/main") {
            return Reply::ok(listing(&files));
        }
        let file = files.iter().find(|(name, _)| request.path == format!("/google/tiny/resolve/{COMMIT}/{name}"));
        file.map_or(Reply::status(404), |(_, body)| Reply::ok(*body))
    })
}

/// A hub with a folder of the test data.
fn hub_of(folder: &str) -> Hub {
    let entries = std::fs::read_dir(testdata(folder)).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<(String, Vec<u8>)> = entries
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap()))
        .collect();
    Hub::start(move |request| {
        if request.path.starts_with("/api/") {
            let files: Vec<(&str, &[u8])> = files.iter().map(|(name, body)| (&name[..], &body[..])).collect();
            return Reply::ok(listing(&files));
        }
        let file = files.iter().find(|(name, _)| request.path.ends_with(&format!("/{name}")));
        file.map_or(Reply::status(404), |(_, body)| Reply::ok(body.clone()))
    })
}

#[test]
fn mistakes_in_typing_exit_with_2() {
    let home = tempfile::tempdir().unwrap();
    for args in [&["nonsense"][..], &["pull"], &["models", "--nonsense"], &[]] {
        let output = run(home.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
    let output = run(home.path(), &["--version"]);
    assert_eq!(stdout(&output), format!("medgemma {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn json_is_one_object_on_stdout() {
    let home = tempfile::tempdir().unwrap();
    let models = json(&run(home.path(), &["models", "--json"]));
    let first = &models["models"][0];
    assert_eq!((first["id"].as_str(), first["here"].as_str()), (Some("google/medgemma-4b-it"), Some("no")));
    assert_eq!(first["layers"], 34);
    assert_eq!(models["gpu_memory_bytes"].is_null(), first["gpu_layers"].is_null());
    let doctor = json(&run(home.path(), &["doctor", "--json"]));
    let placement = doctor["gpu"]["placement"].as_array().unwrap();
    assert_eq!(placement.is_empty(), doctor["gpu"]["free_bytes"].is_null());
    assert!(doctor["memory"]["total"].as_u64() > Some(0) && doctor["memory_bytes_per_second"].as_u64() > Some(0));
    assert_eq!(doctor["cache"]["path"], home.path().join(".cache/huggingface/hub").to_str().unwrap());
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "looking leaves nothing behind");
}

#[test]
fn a_pulled_model_is_found_again() {
    let (home, hub) = (tempfile::tempdir().unwrap(), tiny());
    let output = run(home.path(), &["pull", "google/tiny", "--endpoint", &hub.url]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("medgemma run google/tiny"));
    assert!(stderr(&output).contains("model.safetensors"), "progress goes to stderr");
    assert_eq!(json(&run(home.path(), &["models", "--json"]))["others"][0], "google/tiny");

    let report = json(&run(home.path(), &["pull", "google/tiny", "--endpoint", &hub.url, "--json", "-q"]));
    assert_eq!((report["commit"].as_str(), report["bytes"].as_u64()), (Some(COMMIT), Some(24 + 2 + 7)));
    let path = report["path"].as_str().unwrap();
    assert_eq!(std::fs::read(Path::new(path).join("model.safetensors")).unwrap(), b"weights");
}

/// From the hub to an answer: what `pull` brings, `run` finds, as a folder and as one of several GGUFs.
#[test]
fn what_was_pulled_runs() {
    for (folder, model, named) in [
        ("tiny-mm16", "google/tiny", "google/tiny"),
        ("tiny-mm16-gguf", "google/tiny:Q8_0", "google/tiny:Q8_0"),
        ("tiny-mm16-gguf", "google/tiny", "google/tiny"),
    ] {
        let (home, hub) = (tempfile::tempdir().unwrap(), hub_of(folder));
        let output = run(home.path(), &["pull", model, "--endpoint", &hub.url, "-q"]);
        assert!(output.status.success(), "{folder}: {}", stderr(&output));
        assert!(stdout(&output).contains(&format!("medgemma run {named}\n")), "{folder}: {}", stdout(&output));
        let picture = picture();
        let question = ["What is it?", "--image", &picture, "--max-tokens", "4", "--json"];
        let pulled = json(&run(home.path(), &[&["run", named], &question[..]].concat()));
        let tokens = pulled["usage"]["prompt_tokens"].as_u64();
        assert!(tokens > Some(16), "{folder}: the picture is in the prompt");
    }
}

/// A repository may keep its GGUFs in folders: what `pull` then says to run is found.
#[test]
fn ggufs_below_the_top_are_found_again() {
    let body = std::fs::read(testdata("tiny-mm16-gguf").join("tiny-mm16-q8_0.gguf")).unwrap();
    let hub = Hub::start(move |request| match request.path.starts_with("/api/") {
        true => Reply::ok(listing(
            &["small/t-Q8_0.gguf", "large/t-F32.gguf", "other/t-F32.gguf"].map(|name| (name, &body[..])),
        )),
        false => Reply::ok(body.clone()),
    });
    let home = tempfile::tempdir().unwrap();
    let pull = |args: &[&str]| {
        let output = run(home.path(), &[&["pull", "google/tiny", "-q", "--endpoint", &hub.url], args].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let said = stdout(&output);
        said.trim_end().rsplit("medgemma run ").next().unwrap().to_owned()
    };
    // The usual one; then one beside it; then one whose name is that of another.
    let names = [pull(&[]), pull(&["--file", "large/t-F32.gguf"]), pull(&["--file", "other/t-F32.gguf"]), pull(&[])];
    assert_eq!(names[..2], ["google/tiny", "google/tiny:t-F32.gguf"]);
    assert!(names[2].ends_with("other/t-F32.gguf"), "{}", names[2]);
    assert_eq!(names[3], "google/tiny:t-Q8_0.gguf");
    for name in [&names[2], &names[3]] {
        let output = run(home.path(), &["run", name, "Hello", "--max-tokens", "1", "-q"]);
        assert!(output.status.success(), "{name}: {}", stderr(&output));
    }
}

#[test]
fn what_went_wrong_is_one_line() {
    let home = tempfile::tempdir().unwrap();
    let gated = Hub::start(|_| Reply::status(401).with("x-error-code", "GatedRepo"));
    let output = run(home.path(), &["pull", "google/tiny", "--endpoint", &gated.url, "--token", "hf_secret"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("licence") && text.contains(&gated.url) && !text.contains("hf_secret"), "{text}");
    assert!(output.stdout.is_empty());
}

#[test]
fn offline_means_offline() {
    let (home, hub) = (tempfile::tempdir().unwrap(), tiny());
    let mut command = medgemma(home.path());
    let output = command.env("HF_HUB_OFFLINE", "1").args(["pull", "google/tiny", "--endpoint", &hub.url]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("HF_HUB_OFFLINE"));
    assert!(hub.requests().is_empty());
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let home = tempfile::tempdir().unwrap();
    for args in [&["completions", "bash"][..], &["models"], &["models", "--json"]] {
        let mut child = medgemma(home.path()).args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn bench_measures_a_folder() {
    let home = tempfile::tempdir().unwrap();
    let model = testdata("tiny-mm16");
    let args =
        ["bench", model.to_str().unwrap(), "--prompt", "5", "--generate", "3", "--runs", "2", "--image", "--json"];
    let report = json(&run(home.path(), &args));
    assert_eq!((report["prompt"]["tokens"].as_u64(), report["generate"]["tokens"].as_u64()), (Some(5), Some(3)));
    let is_speed = |part: &serde_json::Value| part["median"].as_f64() > Some(0.0) && part["runs"] == 2;
    assert!(is_speed(&report["prompt"]["tokens_per_second"]) && is_speed(&report["image_seconds"]), "{report}");
    assert!(report["layers"].as_u64() > Some(0) && report["gpu_layers"].as_u64() <= report["layers"].as_u64());
    assert!(report["gpu_layers"].is_u64());
    let cpu = json(&run(home.path(), &[&args[..], &["--gpu-layers", "0"]].concat()));
    assert_eq!(cpu["gpu_layers"], 0);
    let output = run(home.path(), &["bench", "--synthetic", "7b"]);
    assert!(output.status.code() == Some(1) && stderr(&output).contains("27b-text-it"));
}

/// Past the window of the tiny model's local layers, run after run from the same place.
#[test]
fn bench_measures_at_a_depth() {
    let home = tempfile::tempdir().unwrap();
    let model = testdata("tiny-mm16");
    let args =
        ["bench", model.to_str().unwrap(), "-p", "9", "-n", "0", "-d", "200", "-r", "3", "--batch", "2", "--json"];
    let report = json(&run(home.path(), &args));
    assert_eq!((report["depth"].as_u64(), report["context"].as_u64()), (Some(200), Some(210)));
    assert!(report["prompt"]["tokens_per_second"]["runs"] == 3 && report["generate"].is_null(), "{report}");
    let nothing = run(home.path(), &["bench", model.to_str().unwrap(), "-p", "0", "-n", "0"]);
    assert!(nothing.status.code() == Some(1) && stderr(&nothing).contains("--generate"), "{}", stderr(&nothing));
}

#[test]
fn bench_takes_turns() {
    let home = tempfile::tempdir().unwrap();
    let args = ["bench", testdata("tiny-mm16").to_str().unwrap(), "-q", "-p", "0", "-n", "4", "-d", "60", "--turns"]
        .map(str::to_owned);
    let mut child = medgemma(home.path()).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut lines = stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
    assert_eq!(lines.next().unwrap()["ready"], true);
    for _ in 0..2 {
        stdin.write_all(b"\n").unwrap();
        let took = lines.next().unwrap();
        assert!(took["generate_seconds"].as_f64() > Some(0.0) && took["prompt_seconds"].is_null(), "{took}");
    }
    drop(stdin);
    assert!(lines.next().is_none() && child.wait().unwrap().success());
}
