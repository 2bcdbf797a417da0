//! Weights on disk: safetensors, GGUF, bitsandbytes NF4 and the block layouts they hold.
//!
//! Files are memory-mapped and opened without copying; every size a file claims is checked against the file before
//! anything is allocated or read.

mod blocks;
mod bytes;
mod dtype;
mod error;
mod folder;
mod gguf;
mod nf4;
mod quantize;
mod safetensors;
mod tensor;

pub use blocks::dequantize;
pub use bytes::Bytes;
pub use dtype::DType;
pub use error::Error;
pub use folder::Folder;
pub use gguf::{Array, Gguf, GgufTensors, GgufWriter, NewFile, Value};
pub use nf4::Nf4;
pub use quantize::{quantize, quantize_nf4};
pub use safetensors::Safetensors;
pub use tensor::Tensor;
