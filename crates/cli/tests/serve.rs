//! `serve` as a service manager meets it.

#[allow(dead_code)] // shared with other tests
#[path = "support/program.rs"]
mod program;

use program::{medgemma, run, stderr};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn others_are_not_let_in_without_a_key() {
    let home = tempfile::tempdir().unwrap();
    let output = run(home.path(), &["serve", "demo", "--host", "0.0.0.0", "--port", "0"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--keys"), "{}", stderr(&output));
    let keys = home.path().join("keys");
    std::fs::write(&keys, "short\n").unwrap();
    let output = run(home.path(), &["serve", "demo", "--port", "0", "--keys", keys.to_str().unwrap()]);
    assert!(output.status.code() == Some(1) && stderr(&output).contains("line 1"), "{}", stderr(&output));
}

#[test]
fn a_model_that_is_not_there_ends_it() {
    let home = tempfile::tempdir().unwrap();
    let output = run(home.path(), &["serve", "google/medgemma-4b-it", "--port", "0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("medgemma pull"), "{}", stderr(&output));
}

#[cfg(unix)]
#[test]
fn it_answers_until_it_is_told_to_end() {
    let home = tempfile::tempdir().unwrap();
    let mut command = medgemma(home.path());
    let mut child = command.args(["serve", "demo", "--port", "0"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let address = lines.find_map(|line| Some(line.split_once("http://")?.1.split(';').next()?.to_owned())).unwrap();
    lines.find(|line| line.contains("Ready")).unwrap();
    let mut stream = TcpStream::connect(&address).unwrap();
    let body = r#"{"messages": [{"role": "user", "content": "Hello!"}]}"#;
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n", body.len());
    write!(stream, "{head}Connection: close\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("chat.completion"), "{answer}");
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it doesn't end");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(child.wait().unwrap().success());
}
