//! What can be wrong with a file.

use crate::DType;
use std::path::{Path, PathBuf};

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
    /// Values and blocks of different sizes, or a type that can't be converted this way.
    #[error("{dtype} blocks: {problem}")]
    Blocks {
        /// The element type.
        dtype: DType,
        /// What was wrong.
        problem: String,
    },
}

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn malformed(path: &Path, field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), field: shown(field.into()), problem: shown(problem.into()) }
    }

    pub(crate) fn tensor(name: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { name: shown(name.to_owned()), problem: problem.into() }
    }
}

/// Names in errors may come from a hostile file: control characters (a terminal would act on them) are escaped, and
/// what is longer than a name should be is cut.
fn shown(text: String) -> String {
    const MOST: usize = 400;
    if text.len() <= MOST && !text.chars().any(char::is_control) {
        return text;
    }
    let mut out = String::with_capacity(MOST);
    for c in text.chars() {
        if out.len() >= MOST {
            out.push('…');
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}
