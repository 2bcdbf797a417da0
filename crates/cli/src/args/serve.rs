//! What can be typed after `serve`.

use super::{Load, at_least_1};
use clap::Args;
use std::net::IpAddr;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Hub id, folder, .gguf file or `demo`
    pub(crate) model: String,
    /// Address to listen on; other machines can reach any but 127.0.0.1, which needs --keys
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) host: IpAddr,
    /// Port to listen on (0: any that is free)
    #[arg(long, value_name = "N", default_value_t = 8000)]
    pub(crate) port: u16,
    /// File of the keys that are let in, one a line: `sha256:` and the key's digest, or the key
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
    /// The model's name in the API; else MODEL, or its file's name
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Conversations of --context tokens that there is room for at once; shorter ones are more
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = at_least_1)]
    pub(crate) conversations: usize,
    /// Requests that are computed together, at most
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least_1)]
    pub(crate) running: usize,
    /// Requests that may wait beside them; others are told to come back later
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
    /// Largest picture in megapixels
    #[arg(long, value_name = "MP", default_value_t = 64)]
    pub(crate) max_pixels: u64,
    /// Seconds that a request may take, waiting included
    #[arg(long, value_name = "S", default_value_t = 3600)]
    pub(crate) time_limit: u64,
    /// Seconds that requests may go on when the server is told to end
    #[arg(long, value_name = "S", default_value_t = 30)]
    pub(crate) drain: u64,
    #[command(flatten)]
    pub(crate) load: Load,
}
