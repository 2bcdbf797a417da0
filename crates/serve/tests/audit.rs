//! The audit log of a server.

#[allow(dead_code)] // shared with other tests
mod support;

use medgemma_serve::Config;
use rusqlite::Connection;
use serde_json::json;
use std::io::Read;
use std::path::Path;
use std::time::Duration;
use support::{Server, ask, config, endless};

fn rows(path: &Path, columns: &str) -> Vec<Vec<String>> {
    let log = Connection::open(path).unwrap();
    let mut statement = log.prepare(&format!("SELECT {columns} FROM request ORDER BY run, number")).unwrap();
    let count = statement.column_count();
    let text = |value: rusqlite::types::Value| match value {
        rusqlite::types::Value::Null => String::new(),
        rusqlite::types::Value::Integer(number) => number.to_string(),
        rusqlite::types::Value::Text(text) => text,
        other => panic!("{other:?}"),
    };
    let rows = statement.query_map([], |row| (0..count).map(|at| row.get(at).map(text)).collect()).unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn each_way_to_end_has_its_word() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.db");
    let mut server = Server::start(Config { audit: Some(path.clone()), body: 10_000, ..config() });
    let chat = "/v1/chat/completions";
    server.post(chat, &json!({"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 2, "n": 2}));
    let mut leaving = server.send("POST", "/v1/completions", "", endless().to_string().as_bytes());
    leaving.read_exact(&mut [0; 300]).unwrap();
    drop(leaving);
    server.wait_until_idle();
    server.post("/tokenize", &json!({"prompt": "Hello!"}));
    server.post(chat, &json!({"messages": []}));
    support::receive(server.send("POST", chat, "", &[b' '; 20_000]));
    support::receive(server.send("POST", "/Smith", "", b"{}"));
    support::receive(server.send("GET", "/v1/models", "Origin: https://evil.example\r\n", b""));
    server.get("/v1/models");
    server.ended().unwrap();
    let found = rows(&path, "route, status, finish, input_sha256 IS NULL, output_sha256 IS NULL, new_tokens > 0");
    let expected = [
        [chat, "200", "length", "0", "0", "1"],
        ["/v1/completions", "200", "cancelled", "0", "0", "1"],
        ["/tokenize", "200", "done", "0", "1", ""],
        [chat, "400", "refused", "0", "1", ""],
        [chat, "413", "refused", "1", "1", ""],
        ["other", "404", "refused", "1", "1", ""],
        ["/v1/models", "403", "refused", "1", "1", ""],
    ];
    assert_eq!(found, expected.map(|row| row.map(str::to_owned).to_vec()));
}

/// Who reads what is kept is in the log, as who keeps it.
#[test]
fn kept_conversations_are_logged_when_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.db");
    let sessions = Some(folder.path().join("sessions.db"));
    let mut server = Server::start(Config { audit: Some(path.clone()), sessions, ..config() });
    let body = json!({"session": {"title": "Smith"}}).to_string();
    support::receive(server.send("PUT", "/v1/sessions/s1", "", body.as_bytes()));
    assert!(server.get("/v1/sessions").body.contains("Smith"));
    support::receive(server.send("PUT", "/v1/sessions/pictures/p1", "", b"\xff\xd8\xff"));
    server.get("/v1/sessions/pictures/p2");
    server.ended().unwrap();
    let found = rows(&path, "route, status, finish, input_sha256 IS NULL");
    let expected = [
        ["/v1/sessions/{id}", "200", "done", "0"],
        ["/v1/sessions", "200", "done", "0"],
        ["/v1/sessions/pictures/{id}", "200", "done", "0"],
        ["/v1/sessions/pictures/{id}", "404", "refused", "0"],
    ];
    assert_eq!(found, expected.map(|row| row.map(str::to_owned).to_vec()));
}

/// What the end of the server cuts off is no client's doing.
#[test]
fn an_answer_that_the_server_cut_off_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.db");
    let drain = Duration::from_millis(100);
    let mut server = Server::start(Config { audit: Some(path.clone()), drain, ..config() });
    let mut running = server.send("POST", "/v1/completions", "", endless().to_string().as_bytes());
    running.read_exact(&mut [0; 300]).unwrap();
    server.ended().unwrap();
    assert_eq!(rows(&path, "status, finish, output_sha256 IS NULL"), [["200", "error", "0"]]);
}

#[test]
fn nothing_is_answered_that_cannot_be_logged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.db");
    let mut server = Server::start(Config { audit: Some(path.clone()), ..config() });
    let mut long = endless();
    long["max_tokens"] = json!(600);
    let mut running = server.send("POST", "/v1/completions", "", long.to_string().as_bytes());
    running.read_exact(&mut [0; 300]).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = server.post("/v1/chat/completions", &ask("Hello!"));
    assert_eq!((refused.status, refused.json()["error"]["type"].as_str()), (503, Some("server_error")));
    assert_eq!(server.get("/health").status, 503);
    assert!(server.metric("medgemma_audit_failures_total") >= 1.0);
    let rest = support::receive(running);
    assert!(rest.head.contains("[done]") || rest.body.contains("[DONE]"), "what ran before goes on");
    other.execute_batch("COMMIT").unwrap();
    server.wait_until("it is tried again", |server| server.get("/health").status == 200);
    assert_eq!(server.post("/v1/chat/completions", &ask("Hello!")).status, 200);
    server.ended().unwrap();
    let found: Vec<String> = rows(&path, "status, ended IS NULL").iter().map(|row| row.join(" ")).collect();
    assert_eq!(found, ["200 0", "503 0", "200 0"], "and what happened meanwhile is in it");
}
