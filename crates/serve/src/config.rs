//! How a server is run.

use crate::cors::Origin;
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
    /// The model's name in the API.
    pub model: String,
    /// Whether the model was trained to think before it answers; `None` when that isn't known.
    pub thinks: Option<bool>,
    /// Requests that are computed or wait, at most: others are told to come back later.
    pub in_flight: usize,
    /// Bytes of a request's body.
    pub body: usize,
    /// Pixels of a picture.
    pub pixels: u64,
    /// Pictures of a request.
    pub images: usize,
    /// Most new tokens of an answer, whatever a request says.
    pub max_tokens: usize,
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
            model: model.into(),
            thinks: None,
            in_flight: 80,
            body: 64 << 20,
            pixels: 64_000_000,
            images: 32,
            max_tokens: 8192,
            time: Duration::from_secs(3600),
            drain: Duration::from_secs(30),
        }
    }
}
