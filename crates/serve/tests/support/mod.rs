//! A server of the embedded model in this process, and a client that knows just enough HTTP.

use medgemma_engine::{LoadOptions, Pipeline, ServingOptions};
use medgemma_serve::{Config, Error, Started, serve};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

pub(crate) fn config() -> Config {
    Config { address: "127.0.0.1:0".parse().unwrap(), drain: Duration::from_secs(20), ..Config::new("demo") }
}

impl Server {
    /// A server that is ready.
    pub(crate) fn start(config: Config) -> Self {
        let server = Self::loading(config, || {});
        server.wait_until("the model is loaded", |server| server.get("/health").status == 200);
        server
    }

    /// A server whose model is loaded once `before` has returned.
    pub(crate) fn loading(config: Config, before: impl FnOnce() + Send + 'static) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (tell, listening) = mpsc::channel();
        let load = move || {
            before();
            let options = LoadOptions { threads: Some(1), context: Some(4096), ..LoadOptions::default() };
            let serving = ServingOptions { conversations: 2, running: 8, ..ServingOptions::default() };
            Ok(Pipeline::load_with("demo", &options, |_| {})?.into_serving(&serving)?)
        };
        let stop_it = async move { stopped.await.unwrap_or(()) };
        let on = move |started| {
            if let Started::Listening(address) = started {
                tell.send(address).unwrap();
            }
        };
        let thread = std::thread::spawn(move || serve(config, load, stop_it, on));
        Self { address: listening.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }

    /// Tells it to end.
    pub(crate) fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).unwrap();
        }
    }

    /// Waits until it has ended.
    pub(crate) fn ended(&mut self) -> Result<(), Error> {
        self.stop();
        self.thread.take().unwrap().join().unwrap()
    }

    pub(crate) fn wait_until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is(self) {
            assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends what comes before a request's body.
    pub(crate) fn begin(&self, method: &str, path: &str, headers: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let address = self.address;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream
    }

    /// Sends a request and leaves the rest to the caller.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> TcpStream {
        let mut stream = self.begin(method, path, &format!("Content-Length: {}\r\n{headers}", body.len()));
        // A server may refuse before it has read everything.
        let _ = stream.write_all(body);
        stream
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        receive(self.send("GET", path, "", b""))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        receive(self.send("POST", path, "", body.to_string().as_bytes()))
    }

    /// A value of `/metrics`.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Nothing runs, nothing waits, no place is taken and no block is held.
    pub(crate) fn wait_until_idle(&self) {
        self.wait_until("nothing runs", |server| {
            [
                "requests_in_flight",
                "requests_running",
                "requests_waiting",
                "kv_blocks_held{pool=\"global\"}",
                "kv_blocks_held{pool=\"local\"}",
            ]
            .iter()
            .all(|name| server.metric(&format!("medgemma_{name}")) == 0.0)
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.ended();
        }
    }
}

/// Reads a response to its end.
pub(crate) fn receive(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    parsed(bytes)
}

/// A response that was read to its end.
pub(crate) fn parsed(bytes: Vec<u8>) -> Answer {
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let head = head.to_lowercase();
    let body = if head.contains("transfer-encoding: chunked") { unchunked(body) } else { body.to_owned() };
    Answer { status, head, body }
}

fn unchunked(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        text.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    text
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{}: {}", self.status, self.body))
    }

    /// The objects of a stream of events.
    pub(crate) fn events(&self) -> Vec<Value> {
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

/// A conversation of one question.
pub(crate) fn ask(question: &str) -> Value {
    json!({"model": "demo", "messages": [{"role": "user", "content": question}], "max_tokens": 40})
}

/// Something that takes thousands of tokens and falls into no loop.
pub(crate) fn endless() -> Value {
    json!({"prompt": "Report:", "max_tokens": 3000, "ignore_eos": true, "stream": true,
           "temperature": 3.0, "top_k": 0, "top_p": 1.0, "seed": 1})
}
