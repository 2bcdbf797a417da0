#![doc = include_str!("../README.md")]

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

pub use blocks::{dequantize, f8_scale, f8_to_f32, f32_to_f8};
pub use bytes::Bytes;
pub use dtype::DType;
pub use error::Error;
pub use folder::Folder;
pub use gguf::{Array, Gguf, GgufTensors, GgufWriter, NewFile, Value};
pub use nf4::Nf4;
pub use quantize::{quantize, quantize_nf4};
pub use safetensors::Safetensors;
pub use tensor::Tensor;
