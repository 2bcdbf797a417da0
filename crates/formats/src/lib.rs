//! Weights on disk: safetensors, GGUF, bitsandbytes NF4 and the block layouts they hold.
//!
//! Files are memory-mapped and opened without copying; every size a file claims is checked against the file before
//! anything is allocated or read.

mod dtype;
mod error;
mod tensor;

pub use dtype::DType;
pub use error::Error;
pub use tensor::{Bytes, Nf4, Tensor};
