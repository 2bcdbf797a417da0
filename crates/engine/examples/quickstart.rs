//! The usual first steps: choose a variant, quantize it, give it a role, ask, read.
//!
//! ```text
//! cargo run --release -p medgemma-engine --example quickstart -- google/medgemma-27b-text-it
//! ```
//! Without an argument it runs on the embedded toy, which knows little medicine.

use medgemma_engine::{LoadOptions, Pipeline, Quant, Request};

fn main() -> Result<(), medgemma_engine::Error> {
    let model = std::env::args().nth(1).unwrap_or_else(|| "demo".into());
    // 4 bits a weight: the 27B fits 24 GB. Leave `quant` out to run the weights as they are stored.
    let quant = (model != "demo").then_some(Quant::Q4);
    let mut pipeline = Pipeline::load_with(&model, &LoadOptions { quant, ..LoadOptions::default() }, |_| {})?;
    let request = Request::from("How do you differentiate bacterial from viral pneumonia?")
        .system("You are a helpful medical assistant.")
        .greedy()
        .max_tokens(300);
    let reply = pipeline.chat(request)?;
    println!("{}", reply.answer);
    eprintln!(
        "\n{:?}, {} tokens read, {} written",
        reply.finish, reply.usage.prompt_tokens, reply.usage.completion_tokens
    );
    Ok(())
}
