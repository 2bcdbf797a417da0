//! Text in and out: tokenizer, chat messages and templates, thinking, streaming.
//!
//! The way in: [`Message`]s → [`ChatTemplate::render`] → [`Prompt`] → [`Prompt::encode`] → token ids. The way out:
//! token ids → [`DecodeStream`] or [`ThoughtParser`] → [`StopMatcher`] → text to show.

mod added;
mod bpe;
mod gguf;
mod growth;
mod guard;
mod json;
mod message;
mod pieces;
mod prompt;
mod stop;
mod stream;
mod template;
mod thought;
mod tokenizer;
mod vocab;

pub use message::{Message, Part, Role};
pub use pieces::Pieces;
pub use prompt::{Encoded, ImageLayout, ImageTokens, Prompt};
pub use stop::StopMatcher;
pub use stream::DecodeStream;
pub use template::{ChatTemplate, RenderOptions};
pub use thought::{Event, ThoughtParser, ThoughtTextParser, thinking_system, thought_tokens};
pub use tokenizer::{Special, Tokenizer};

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod tests;
