//! Text in and out: tokenizer, streaming decoder.

mod added;
mod bpe;
mod gguf;
mod json;
mod stream;
mod tokenizer;
mod vocab;

pub use stream::DecodeStream;
pub use tokenizer::{Special, Tokenizer};

#[cfg(test)]
mod tests;
