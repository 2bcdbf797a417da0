//! Getting models from the hub: the only part of the program that goes to the network, and only when asked.

mod client;
mod download;
mod listing;
mod plan;
mod token;

pub(crate) use client::Client;
pub(crate) use download::{Pull, Watch};
pub(crate) use listing::Repo;
pub(crate) use plan::{File, plan};
pub(crate) use token::find as find_token;

/// Whether the environment forbids the network (`HF_HUB_OFFLINE`).
pub(crate) fn offline() -> bool {
    let set = |name| {
        std::env::var(name).is_ok_and(|value| matches!(value.to_lowercase().as_str(), "1" | "true" | "yes" | "on"))
    };
    set("HF_HUB_OFFLINE") || set("TRANSFORMERS_OFFLINE")
}
