//! A server of one model: the OpenAI API, and those of Anthropic and Ollama, over HTTP.
//!
//! One thread owns the model and computes all requests together; handlers prepare requests and turn what comes back
//! into each API's words. Nothing of a prompt or an answer is logged, kept on disk or put into an error or a metric;
//! the audit log holds digests. Only the workbench's conversations are kept, where the operator turns that on.

mod api;
mod assets;
mod audit;
mod body;
mod config;
mod connections;
mod cors;
mod database;
mod docs;
mod error;
mod failure;
mod fetch;
mod fields;
mod form;
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod image;
mod keys;
mod metrics;
mod openapi;
mod outcome;
mod places;
mod routes;
mod server;
mod sessions;
mod stream;
mod tls;
mod tools;
mod worker;

pub use config::Config;
pub use cors::Origin;
pub use error::Error;
pub use fetch::ImageHost;
pub use keys::Keys;
pub use server::{Started, serve};
pub use tls::Tls;
