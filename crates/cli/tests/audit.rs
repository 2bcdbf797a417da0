//! The audit log as an auditor meets it: whole after the server was killed, and without a word of what was said.

#![cfg(unix)]

#[allow(dead_code)] // shared with other tests
#[path = "support/program.rs"]
mod program;

use program::{medgemma, run, stderr};
use rusqlite::Connection;
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

const KEY: &str = "the key of the archive";

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(home: &Path) -> Self {
        let mut command = medgemma(home);
        command.args(["serve", "demo", "--port", "0", "--keys", "keys", "--audit", "audit.db"]);
        let mut child = command.current_dir(home).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let address = lines.find_map(|line| Some(line.split_once("http://")?.1.split(';').next()?.to_owned())).unwrap();
        lines.find(|line| line.contains("Ready")).unwrap();
        Self { child, address }
    }

    fn send(&self, key: &str, body: &str) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.address)?;
        let (address, length) = (&self.address, body.len());
        write!(
            stream,
            "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n\
             Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        Ok(stream)
    }
}

fn question(number: usize) -> String {
    let stream = number.is_multiple_of(2);
    format!(
        r#"{{"messages": [{{"role": "user", "content": "Mrs. Smith {number}: how is she?"}}], "max_tokens": 60, "stream": {stream}}}"#
    )
}

fn log(home: &Path) -> Connection {
    let log = Connection::open(home.join("audit.db")).unwrap();
    let check: String = log.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    log
}

#[test]
fn every_answered_request_is_in_it_after_a_kill() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    std::fs::write(home.join("keys"), format!("sha256:{} the archive\n", hex(KEY.as_bytes()))).unwrap();
    let mut server = Server::start(home);
    let answered = AtomicUsize::new(0);
    // Who gets as much as a byte of an answer must be in the log.
    let seen: Vec<String> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..4)
            .map(|client| {
                let (server, answered) = (&server, &answered);
                scope.spawn(move || {
                    let mut seen = Vec::new();
                    for number in (client..).step_by(4) {
                        let body = question(number);
                        let Ok(mut stream) = server.send(KEY, &body) else { break };
                        let mut first = [0; 16];
                        if stream.read_exact(&mut first).is_err() {
                            break;
                        }
                        assert!(first.starts_with(b"HTTP/1.1 200"));
                        seen.push(hex(body.as_bytes()));
                        answered.fetch_add(1, Ordering::Relaxed);
                        let _ = stream.read_to_end(&mut Vec::new());
                    }
                    seen
                })
            })
            .collect();
        while answered.load(Ordering::Relaxed) < 25 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        // Child::kill would need the server that the clients hold.
        kill("-KILL", &server.child);
        asking.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    server.child.wait().unwrap();
    assert!(seen.len() >= 25);
    let killed = log(home);
    for digest in &seen {
        let found: (String, String) = killed
            .query_row("SELECT key, route FROM request WHERE input_sha256 = ?1", [digest], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .expect("an answered request has a row");
        assert_eq!(found, ("the archive".into(), "/v1/chat/completions".into()));
    }
    drop(killed);
    ends_whole(home);
}

/// Starts it again on the same log, and ends it as one should.
fn ends_whole(home: &Path) {
    let mut server = Server::start(home);
    let body = question(1);
    let mut answer = String::new();
    server.send(KEY, &body).unwrap().read_to_string(&mut answer).unwrap();
    let answer: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    server.send("a key that nobody has", &body).unwrap().read_to_end(&mut Vec::new()).unwrap();
    server.send(KEY, "no JSON").unwrap().read_to_end(&mut Vec::new()).unwrap();
    drop(server.send(KEY, r#"{"messages": [{"role": "user", "content": "x"}], "ignore_eos": true, "temperature": 3}"#));
    kill("-TERM", &server.child);
    assert!(server.child.wait().unwrap().success());
    let log = log(home);
    let open =
        "SELECT count(*) FROM request JOIN run USING (run) WHERE run.ended IS NOT NULL AND request.ended IS NULL";
    assert_eq!(log.query_row(open, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    let runs: Vec<bool> = log
        .prepare("SELECT ended IS NULL FROM run ORDER BY run")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(runs, [true, false], "the first run was cut off");
    let mut statement = log
        .prepare(
            "SELECT key, status, finish, input_sha256, output_sha256, prompt_tokens, new_tokens FROM request
             WHERE run = 2 AND ended >= begun AND model = 'demo' ORDER BY number",
        )
        .unwrap();
    let mut rows = statement
        .query_map([], |row| {
            let text = |at: usize| row.get::<_, Option<String>>(at).map(Option::unwrap_or_default);
            let (status, prompt, new): (Option<u16>, Option<i64>, Option<i64>) =
                (row.get(1)?, row.get(5)?, row.get(6)?);
            Ok(([text(0)?, text(2)?, text(3)?, text(4)?], status, prompt.zip(new)))
        })
        .unwrap()
        .map(Result::unwrap);
    let usage = |name: &str| answer["usage"][name].as_i64().unwrap();
    let (words, status, tokens) = rows.next().unwrap();
    let finish = answer["choices"][0]["finish_reason"].as_str().unwrap();
    assert_eq!(words, ["the archive".into(), finish.to_owned(), hex(body.as_bytes()), hex(text.as_bytes())]);
    assert_eq!((status, tokens), (Some(200), Some((usage("prompt_tokens"), usage("completion_tokens")))));
    assert_eq!(
        rows.next().unwrap(),
        ([String::new(), "refused".into(), String::new(), String::new()], Some(401), None)
    );
    let malformed = ["the archive".into(), "refused".into(), hex(b"no JSON"), String::new()];
    assert_eq!(rows.next().unwrap(), (malformed, Some(400), None));
    for name in ["audit.db", "audit.db-wal", "audit.db-shm"] {
        let bytes = std::fs::read(home.join(name)).unwrap_or_default();
        for word in ["Smith", KEY, text] {
            assert!(!bytes.windows(word.len()).any(|part| part == word.as_bytes()), "{word} in {name}");
        }
    }
}

fn kill(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn without_it_nothing_starts() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("keys"), "a key without a name\n").unwrap();
    let keys = home.path().join("keys");
    let serve = |audit: &str, keys: &str| {
        let output = run(home.path(), &["serve", "demo", "--port", "0", "--audit", audit, "--keys", keys]);
        assert_eq!(output.status.code(), Some(1));
        stderr(&output)
    };
    let error = serve(home.path().join("audit.db").to_str().unwrap(), keys.to_str().unwrap());
    assert!(error.contains("line 1") && error.contains("NAME") && !error.contains("a key without"), "{error}");
    std::fs::write(&keys, format!("sha256:{} one\n", hex(KEY.as_bytes()))).unwrap();
    let error = serve(keys.to_str().unwrap(), keys.to_str().unwrap());
    assert!(error.contains("audit log"), "{error}");
    let error = serve("/no/such/folder/audit.db", keys.to_str().unwrap());
    assert!(error.contains("/no/such/folder"), "{error}");
}
