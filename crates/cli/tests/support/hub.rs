//! A stand-in for the hub on loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first byte that a Range asks for.
    pub(crate) fn from(&self) -> usize {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes="));
        range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap())
    }
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Hang up after so many bytes of the body.
    pub(crate) cut: Option<usize>,
}

impl Reply {
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn cut(mut self, at: usize) -> Self {
        self.cut = Some(at);
        self
    }

    /// The part of `body` that the request asks for.
    pub(crate) fn range(request: &Request, body: &[u8]) -> Self {
        let from = request.from();
        if from == 0 {
            return Self::ok(body);
        }
        let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
        Self { status: 206, body: body[from..].to_vec(), ..Self::default() }.with("content-range", &range)
    }
}

/// The server: answers until the test ends.
pub(crate) struct Hub {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Hub {
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Some(request) = read(&stream) {
                    log.lock().unwrap().push(request.clone());
                    // The client may hang up first.
                    let _ = write(stream, &answer(&request));
                }
            }
        });
        Self { url, requests }
    }

    /// Every request so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let headers = lines.map_while(Result::ok).take_while(|line| !line.is_empty());
    let headers = headers.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_lowercase(), value.trim().to_owned()))
    });
    Some(Request { path, headers: headers.collect() })
}

fn write(mut stream: TcpStream, reply: &Reply) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {} X\r\nconnection: close\r\ncontent-length: {}\r\n", reply.status, reply.body.len())?;
    for (name, value) in &reply.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    write!(stream, "\r\n")?;
    stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())])
}

/// What the hub's API says of a model with these files; the ones that end in `.safetensors` or `.gguf` are in
/// large-file storage, as they are there.
pub(crate) fn listing(files: &[(&str, &[u8])]) -> String {
    use sha2::Digest;
    let hex = |digest: &[u8]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let entry = |(name, body): &(&str, &[u8])| {
        let size = body.len();
        let git = hex(&sha1::Sha1::new_with_prefix(format!("blob {size}\0")).chain_update(body).finalize());
        let lfs = match name.ends_with(".safetensors") || name.ends_with(".gguf") {
            true => format!(r#", "lfs": {{"sha256": "{}", "size": {size}}}"#, hex(&sha2::Sha256::digest(body))),
            false => String::new(),
        };
        format!(r#"{{"rfilename": "{name}", "size": {size}, "blobId": "{git}"{lfs}}}"#)
    };
    let files: Vec<String> = files.iter().map(entry).collect();
    format!(r#"{{"sha": "{COMMIT}", "siblings": [{}]}}"#, files.join(","))
}

/// The commit of every listing.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
