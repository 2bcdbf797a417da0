//! What can be typed after `serve`.

use super::{Load, at_least_1};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, value_parser};
use medgemma_serve::{ImageHost, Origin};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Hub id, folder, .gguf file or `demo`
    pub(crate) model: String,
    /// Address to listen on; other machines can reach any but 127.0.0.1, which needs --keys
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = address)]
    pub(crate) host: IpAddr,
    /// Port to listen on (0: any that is free)
    #[arg(long, value_name = "N", default_value_t = 8000)]
    pub(crate) port: u16,
    /// File of the keys that are let in, one a line: `sha256:`, the key's digest and its name, or the key
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
    /// Speak TLS, known by this certificate (PEM, with those between it and the authority's)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Let pages of another origin ask, such as `https://pages.example` (can be given several times)
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) cors_origin: Vec<Origin>,
    /// Keep an audit log in this SQLite file: who asked, when, digests of what came and went; never content
    #[arg(long, value_name = "FILE")]
    pub(crate) audit: Option<PathBuf>,
    /// Keep the workbench's conversations, pictures included, in this SQLite file, each key's apart; without, they stay
    /// in browsers
    #[arg(long, value_name = "FILE")]
    pub(crate) sessions: Option<PathBuf>,
    /// The model's name in the API; else MODEL, or its file's name
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: Option<String>,
    /// Conversations of --context tokens that there is room for at once; shorter ones are more
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = at_least_1)]
    pub(crate) conversations: usize,
    /// Requests that are computed together, at most
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least_1)]
    pub(crate) running: usize,
    /// Requests that may wait beside them; others are told to come back later. With several keys, of these and those that
    /// are computed an eighth is left to others
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) queue: usize,
    /// Tokens of prompts read in a step while answers are being written: more reads prompts sooner, fewer writes
    /// answers more evenly
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = at_least_1)]
    pub(crate) prompt_tokens: usize,
    /// Most tokens of an answer, whatever a request says
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = at_least_1)]
    pub(crate) max_tokens: usize,
    /// Largest request in MB
    #[arg(long, value_name = "MB", default_value_t = 64, value_parser = at_least_1)]
    pub(crate) max_body: usize,
    /// Most pictures of a request
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) max_images: usize,
    /// Fetch pictures that a request gives by address from this host, such as `pacs.example` (can be given several times)
    #[arg(long, value_name = "HOST")]
    pub(crate) image_host: Vec<ImageHost>,
    /// Largest picture in megapixels
    #[arg(long, value_name = "MP", default_value_t = 64)]
    pub(crate) max_pixels: u64,
    /// Seconds that a request may take, waiting included
    #[arg(long, value_name = "S", default_value_t = 3600, value_parser = value_parser!(u64).range(1..))]
    pub(crate) time_limit: u64,
    /// Seconds that requests may go on when the server is told to end
    #[arg(long, value_name = "S", default_value_t = 30)]
    pub(crate) drain: u64,
    #[command(flatten)]
    pub(crate) load: Load,
}

fn address(text: &str) -> Result<IpAddr, String> {
    match text {
        "localhost" => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        _ => text.parse().map_err(|_| "it must be an IP address, such as 127.0.0.1, or localhost".into()),
    }
}
