//! Pictures by address: from hosts that were listed, and no others.

#[allow(dead_code)] // shared with other tests
mod support;

use medgemma_gemma::image::RgbImage;
use medgemma_serve::Config;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{Answer, Server, config};

const CHAT: &str = "/v1/chat/completions";

/// A host of pictures: what it says to each path, and how often it was asked.
struct Host {
    address: SocketAddr,
    says: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    asked: Arc<AtomicUsize>,
}

impl Host {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let says: Arc<Mutex<HashMap<String, Vec<u8>>>> = Arc::default();
        let asked: Arc<AtomicUsize> = Arc::default();
        let (known, count) = (Arc::clone(&says), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
                let known = Arc::clone(&known);
                std::thread::spawn(move || answer(&stream.unwrap(), &known));
            }
        });
        Self { address, says, asked }
    }

    fn says(&self, path: &str, status: &str, headers: &str, body: &[u8]) {
        let mut said = format!("HTTP/1.1 {status}\r\n{headers}Connection: close\r\n\r\n").into_bytes();
        said.extend_from_slice(body);
        self.says.lock().unwrap().insert(path.into(), said);
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn answer(mut stream: &TcpStream, known: &Mutex<HashMap<String, Vec<u8>>>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    assert!(!headers.iter().any(|header| header.to_lowercase().starts_with("authorization")), "{headers:?}");
    let path = first.split(' ').nth(1).unwrap_or_default();
    match path {
        // One that never ends, one that never begins.
        "/endless" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            while stream.write_all(&[0; 65_536]).is_ok() {}
        }
        "/silent" => std::thread::sleep(Duration::from_secs(20)),
        _ => {
            let said = known.lock().unwrap().get(path).cloned();
            let _ = stream
                .write_all(&said.unwrap_or_else(|| b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into()));
        }
    }
}

fn picture() -> Vec<u8> {
    let values = (0..64 * 64 * 3).map(|at| (at * 13 % 251) as u8).collect();
    RgbImage::from_raw(64, 64, values).unwrap().to_png()
}

fn data_url(bytes: &[u8]) -> String {
    use ::base64::Engine;
    format!("data:image/png;base64,{}", ::base64::engine::general_purpose::STANDARD.encode(bytes))
}

fn chat(url: &str) -> Value {
    let parts = json!([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is it?"}]);
    json!({"messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": 12})
}

fn listing(hosts: &[&str]) -> Config {
    let image_hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
    Config { image_hosts, image_time: Duration::from_secs(10), ..config() }
}

/// It is refused, and the answer says neither the address nor what stands there.
fn refused(answer: &Answer, why: &str) {
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert!(answer.body.contains(why) && !answer.body.contains("127.0.0.1"), "{}", answer.body);
}

#[test]
fn pictures_come_from_listed_hosts() {
    let host = Host::start();
    let server = Server::start(listing(&[&host.url("")]));
    host.says("/a.png?x=1", "200 OK", "", &picture());
    host.says("/moved", "302 Found", &format!("Location: {}\r\n", host.url("/a.png?x=1")), b"");
    host.says("/beside", "301 Moved Permanently", "Location: /a.png?x=1\r\n", b"");
    let content = |url: &str| server.post(CHAT, &chat(url)).json()["choices"][0]["message"]["content"].clone();
    let usual = content(&data_url(&picture()));
    assert!(usual.is_string() && host.asked() == 0);
    for path in ["/a.png?x=1", "/moved", "/beside"] {
        assert_eq!(content(&host.url(path)), usual, "{path}");
    }
    let url = host.url("/a.png?x=1");
    let source = json!({"type": "url", "url": url});
    let question = json!({"type": "text", "text": "What is it?"});
    let message = json!({"role": "user", "content": [{"type": "image", "source": source}, question]});
    let anthropic = json!({"max_tokens": 12, "temperature": 0, "messages": [message]});
    assert_eq!(server.post("/v1/messages", &anthropic).json()["content"][0]["text"], usual);
    let parts = json!([{"type": "input_image", "image_url": url}, {"type": "input_text", "text": "What is it?"}]);
    let responses = json!({"input": [{"role": "user", "content": parts}], "temperature": 0, "max_output_tokens": 12});
    assert_eq!(server.post("/v1/responses", &responses).json()["output"][0]["content"][0]["text"], usual);
    let tokens =
        |url: &str| server.post("/tokenize", &json!({"messages": chat(url)["messages"]})).json()["tokens"].clone();
    assert_eq!(tokens(&url), tokens(&data_url(&picture())));
    let two = json!([{"type": "image_url", "image_url": {"url": url}}, {"type": "image_url", "image_url": {"url": data_url(&picture())}}]);
    let both = json!({"messages": [{"role": "user", "content": two}], "max_tokens": 4});
    assert_eq!(server.post(CHAT, &both).status, 200);
}

#[test]
fn nothing_else_is_asked() {
    let (host, trap) = (Host::start(), Host::start());
    let server = Server::start(listing(&[&host.url(""), "pictures.example"]));
    trap.says("/a.png", "200 OK", "", &picture());
    let port = trap.address.port();
    for url in [
        trap.url("/a.png"),
        format!("https://127.0.0.1:{port}/a.png"),
        format!("http://localhost:{port}/a.png"),
        format!("http://{}@127.0.0.1:{port}/a.png", host.address),
        format!("http://pictures.example:{port}/"),
        "http://pictures.example/".into(),
        "http://2130706433/".into(),
        "http://[::ffff:127.0.0.1]/".into(),
        "http:///a.png".into(),
        "http://".into(),
    ] {
        refused(&server.post(CHAT, &chat(&url)), "messages[0].content[0]");
    }
    for (at, place) in [
        trap.url("/a.png"),
        format!("//127.0.0.1:{port}/a.png"),
        format!("http://user@{}/a.png", host.address),
        "file:///etc/passwd".into(),
        "http://169.254.169.254/latest/meta-data/".into(),
    ]
    .iter()
    .enumerate()
    {
        let path = format!("/away{at}");
        host.says(&path, "302 Found", &format!("Location: {place}\r\n"), b"");
        refused(&server.post(CHAT, &chat(&host.url(&path))), "host");
    }
    assert_eq!(trap.asked(), 0, "somebody called");
    host.says("/round", "302 Found", "Location: /round\r\n", b"");
    refused(&server.post(CHAT, &chat(&host.url("/round"))), "redirects too often");
    refused(&server.post(CHAT, &chat(&host.url("/missing"))), "has no such picture");
    host.says("/text", "200 OK", "", b"SECRET of another service");
    let answer = server.post(CHAT, &chat(&host.url("/text")));
    refused(&answer, "messages[0].content[0]");
    assert!(!answer.body.contains("SECRET"));
}

/// A name that leads into the machine's own network is followed only where the address is listed, too.
#[test]
fn names_lead_to_public_addresses_or_listed_ones() {
    let host = Host::start();
    host.says("/a.png", "200 OK", "", &picture());
    let named = format!("http://localhost:{}", host.address.port());
    let url = format!("{named}/a.png");
    let server = Server::start(listing(&[&named]));
    refused(&server.post(CHAT, &chat(&url)), "isn't public");
    assert_eq!(host.asked(), 0, "somebody called");
    drop(server);
    let server = Server::start(listing(&[&named, "127.0.0.1:1"]));
    assert_eq!(server.post(CHAT, &chat(&url)).status, 200);
}

#[test]
fn time_and_bytes_are_bounded() {
    let host = Host::start();
    let limits = Config { body: 1 << 20, images: 2, image_time: Duration::from_secs(2), ..listing(&[&host.url("")]) };
    let server = Server::start(limits);
    let begun = Instant::now();
    refused(&server.post(CHAT, &chat(&host.url("/endless"))), "larger together");
    refused(&server.post(CHAT, &chat(&host.url("/silent"))), "too long");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let asked = host.asked();
    let part = json!({"type": "image_url", "image_url": {"url": host.url("/a.png")}});
    let many = json!({"messages": [{"role": "user", "content": [part, part, part]}]});
    assert_eq!(server.post(CHAT, &many).status, 400);
    assert_eq!(host.asked(), asked, "more pictures than allowed, and some were fetched");
    server.wait_until_idle();
}

#[test]
fn a_host_that_hangs_holds_up_nobody_else() {
    let host = Host::start();
    let server = Server::start(Config { image_time: Duration::from_secs(60), ..listing(&[&host.url("")]) });
    let body = chat(&host.url("/silent")).to_string();
    let hanging: Vec<_> = (0..8).map(|_| server.send("POST", CHAT, "", body.as_bytes())).collect();
    server.wait_until("the host is asked", |_| host.asked() >= 4);
    let begun = Instant::now();
    assert_eq!(server.post(CHAT, &chat(&data_url(&picture()))).status, 200);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(host.asked(), 4, "only so many are asked at once");
    drop(hanging);
}
