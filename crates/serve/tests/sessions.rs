//! Conversations that the server keeps where it was told to.

#[allow(dead_code)] // shared with other tests
mod support;

use medgemma_serve::{Config, Error, Keys};
use serde_json::{Value, json};
use std::io::Write;
use support::{Answer, Server, config, receive};

const KEYS: &str = "sha256:6aab3a2d1b0e9f1d4f3cd9e2ba0a4d2a8a6cb9ed1f7d9eab2d3f58a2c4f9a0ff ward 3";

fn asked(server: &Server, method: &str, path: &str, key: &str, body: &[u8]) -> Answer {
    receive(server.send(method, path, &format!("x-api-key: {key}\r\n"), body))
}

fn keep(server: &Server, key: &str, id: &str, version: Option<&str>, text: &str) -> Answer {
    let body = json!({"session": {"text": text}, "version": version, "pictures": ["p1"]}).to_string();
    asked(server, "PUT", &format!("/v1/sessions/{id}"), key, body.as_bytes())
}

#[test]
fn each_owner_has_their_own_and_they_outlive_the_server() {
    use sha2::{Digest, Sha256};
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let line = |key: &str, name: &str| {
        let digest: String = Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{digest} {name}\n")
    };
    let (one, other) = ("a key of the third ward", "a key of the fourth ward");
    std::fs::write(&file, line(one, "ward 3") + &line(other, "ward 4")).unwrap();
    let with = || Config {
        keys: Some(Keys::read(&file).unwrap()),
        sessions: Some(folder.path().join("sessions.db")),
        ..config()
    };
    let server = Server::start(with());
    let list = |server: &Server, key: &str| asked(server, "GET", "/v1/sessions", key, b"").json()["data"].clone();
    assert_eq!(server.get("/v1/sessions").status, 401);
    let made = keep(&server, one, "s1", None, "first");
    let version = made.json()["version"].as_str().unwrap().to_owned();
    assert_eq!(keep(&server, one, "s1", None, "blind").status, 409);
    assert_eq!(keep(&server, one, "s1", Some(&version), "second").status, 200);
    assert_eq!(keep(&server, one, "s1", Some(&version), "late").status, 409);
    assert_eq!(keep(&server, one, "s2", Some(&version), "gone").status, 410);
    assert_eq!(keep(&server, one, "no%20name", None, "x").status, 400);
    let picture = b"\x89PNG\r\n\x1a\n and so on";
    let path = "/v1/sessions/pictures/p1";
    assert_eq!(asked(&server, "PUT", path, one, b"<svg onload=alert(1)>").status, 400);
    assert_eq!(asked(&server, "PUT", path, one, picture).status, 200);
    let models = asked(&server, "GET", "/v1/models", one, b"").json();
    assert_eq!(models["data"][0]["capabilities"]["sessions"], true);
    drop(server);
    let server = Server::start(with());
    assert_eq!(list(&server, one)[0]["session"], json!({"text": "second"}));
    assert_eq!(list(&server, other), json!([]));
    assert_eq!(asked(&server, "GET", path, other, b"").status, 404);
    let mut stream = server.send("GET", path, &format!("x-api-key: {one}\r\n"), b"");
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut bytes).unwrap();
    assert!(bytes.ends_with(picture) && String::from_utf8_lossy(&bytes).contains("nosniff"));
    assert_eq!(asked(&server, "DELETE", "/v1/sessions", other, b"").status, 200);
    assert_eq!(list(&server, one).as_array().map(Vec::len), Some(1), "another owner's");
    assert_eq!(asked(&server, "DELETE", "/v1/sessions/s1", one, b"").status, 200);
    assert_eq!(list(&server, one), json!([]));
    assert_eq!(asked(&server, "GET", path, one, b"").status, 404, "it goes with the conversation");
    assert_eq!(keep(&server, one, "s3", None, "again").status, 200);
    assert_eq!(asked(&server, "DELETE", "/v1/sessions", one, b"").status, 200);
    assert_eq!(list(&server, one), json!([]));
}

#[test]
fn nothing_is_kept_unless_it_is_asked_for() {
    let server = Server::start(config());
    let refused: [Answer; 3] = [
        server.get("/v1/sessions"),
        keep(&server, "", "s1", None, "x"),
        asked(&server, "PUT", "/v1/sessions/pictures/p1", "", b"\xff\xd8\xff"),
    ];
    for answer in refused {
        let error: Value = answer.json();
        assert_eq!((answer.status, &error["error"]["code"]), (404, &json!("no_sessions")), "{error}");
    }
    assert_eq!(server.get("/v1/models").json()["data"][0]["capabilities"]["sessions"], false);
}

#[test]
fn keys_without_names_cannot_tell_owners_apart() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{KEYS}\na key that has no name").unwrap();
    let sessions = Some(folder.path().join("sessions.db"));
    let refused = medgemma_serve::serve::<medgemma_kernels::CpuBackend>(
        Config { keys: Some(Keys::read(file.path()).unwrap()), sessions, ..config() },
        || Err("it must not be loaded".into()),
        std::future::pending(),
        |_| {},
    );
    assert!(matches!(refused, Err(Error::Sessions { problem, .. }) if problem.contains("line 2")));
}
