//! What can be wrong with a file.

use std::path::PathBuf;

/// A file that can't be used, and why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file contradicts itself or its format.
    #[error("{}: {field}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The header field, key or tensor.
        field: String,
        /// What is wrong with it, and the remedy where there is one.
        problem: String,
    },
    /// A tensor was used against its shape or type.
    #[error("tensor {name}: {problem}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What was wrong.
        problem: String,
    },
}
