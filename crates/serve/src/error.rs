//! Why a server can't be started or has ended.

use std::net::SocketAddr;
use std::path::PathBuf;

/// An error of starting or running a server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It would answer anybody in the network.
    #[error("{0} can be reached from other machines: give a file of keys with --keys, or bind to 127.0.0.1")]
    NeedsKeys(SocketAddr),
    /// The address can't be bound.
    #[error("{address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The file of keys can't be used.
    #[error("{}: {problem}", path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong, without the keys.
        problem: String,
    },
    /// TLS can't be spoken.
    #[error("{}: {problem}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong, without the key.
        problem: String,
    },
    /// The audit log can't be kept.
    #[error("the audit log {}: {problem}", path.display())]
    Audit {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Conversations can't be kept.
    #[error("the file of conversations {}: {problem}", path.display())]
    Sessions {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The authorities of hosts of pictures can't be used.
    #[error("authorities of hosts of pictures: {}: {problem}", path.display())]
    ImageRoots {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The model can't be loaded.
    #[error("{0}")]
    Load(Box<dyn std::error::Error + Send + Sync>),
    /// The system refused something.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The thread that computes has ended.
    #[error("the engine has stopped")]
    Stopped,
}
