//! A thought, kept apart from the answer, both shown as they come.
//!
//! ```text
//! cargo run --release -p medgemma-engine --example thinking -- google/medgemma-27b-text-it
//! ```
//! Without an argument it runs on the embedded toy.

use medgemma_engine::{Event, Pipeline, Request};
use std::io::Write;
use std::ops::ControlFlow;

fn main() -> Result<(), medgemma_engine::Error> {
    let model = std::env::args().nth(1).unwrap_or_else(|| "demo".into());
    let mut pipeline = Pipeline::load(&model)?;
    // A thought takes many tokens: with too few, it is cut before the answer begins.
    let request = Request::from("A 60-year-old has sudden tearing chest pain radiating to the back. What comes first?")
        .system("You are a helpful medical assistant.")
        .think()
        .greedy()
        .max_tokens(1300);
    let reply = pipeline.chat_with(&request, &mut |event| {
        match event {
            Event::Thought(text) => eprint!("{text}"),
            Event::Answer(text) => print!("{text}"),
            Event::Images { .. } | Event::Prompt { .. } => {}
        }
        // Nothing is lost if the terminal is gone.
        let _ = std::io::stdout().flush();
        ControlFlow::Continue(())
    })?;
    println!();
    if reply.cut_in_thought {
        eprintln!("The budget ended inside the thought: allow more tokens.");
    }
    Ok(())
}
