//! How a server is run.

use crate::cors::Origin;
use crate::fetch::ImageHost;
use crate::keys::Keys;
use crate::tls::Tls;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// How a server is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens. Only loopback addresses are allowed without keys.
    pub address: SocketAddr,
    /// Who may ask; anybody on this machine when `None`.
    pub keys: Option<Keys>,
    /// What it is known by to clients that ask by TLS; without, it speaks in the clear.
    pub tls: Option<Tls>,
    /// Origins whose pages may ask, beside its own.
    pub origins: Vec<Origin>,
    /// The audit log's file: made if it isn't there. None is kept when `None`. With keys, each must have a name.
    pub audit: Option<PathBuf>,
    /// The file that the workbench's conversations are kept in, each key's apart: made if it isn't there. They stay in
    /// browsers when `None`. With keys, each must have a name.
    pub sessions: Option<PathBuf>,
    /// The model's name in the API.
    pub model: String,
    /// Whether the model was trained to think before it answers; `None` when that isn't known.
    pub thinks: Option<bool>,
    /// Whether it is the embedded demo model, a toy: the workbench says so.
    pub demo: bool,
    /// Requests that are computed or wait, at most: others are told to come back later.
    pub in_flight: usize,
    /// Bytes of a request's body.
    pub body: usize,
    /// Pixels of a picture; all of a request may have four times as many together.
    pub pixels: u64,
    /// Pictures of a request.
    pub images: usize,
    /// Servers that pictures are fetched from where a request gives their address; none, and nothing is fetched, when
    /// empty.
    pub image_hosts: Vec<ImageHost>,
    /// Authorities that these servers' certificates are from, in PEM; Mozilla's when `None`.
    pub image_roots: Option<PathBuf>,
    /// How long fetching a request's pictures may take.
    pub image_time: Duration,
    /// Most new tokens of an answer, whatever a request says.
    pub max_tokens: usize,
    /// How long a request's headers may take to come, and how long a connection may ask nothing.
    pub headers: Duration,
    /// How long a client may read nothing of what it is sent.
    pub reading: Duration,
    /// How long a request may take, waiting included.
    pub time: Duration,
    /// How long running requests may go on when the server is told to end.
    pub drain: Duration,
}

impl Config {
    /// Answers this machine only, as `model`.
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000),
            keys: None,
            tls: None,
            origins: Vec::new(),
            audit: None,
            sessions: None,
            model: model.into(),
            thinks: None,
            demo: false,
            in_flight: 80,
            body: 64 << 20,
            pixels: 64_000_000,
            images: 32,
            image_hosts: Vec::new(),
            image_roots: None,
            image_time: Duration::from_secs(20),
            max_tokens: 8192,
            headers: Duration::from_secs(30),
            reading: Duration::from_secs(60),
            time: Duration::from_secs(3600),
            drain: Duration::from_secs(30),
        }
    }
}
