//! Several turns: what was computed for earlier turns is not computed again.
//!
//! ```text
//! cargo run --release -p medgemma-engine --example conversation -- google/medgemma-4b-it
//! ```

use medgemma_engine::{Pipeline, Request};
use medgemma_gemma::text::Message;

fn main() -> Result<(), medgemma_engine::Error> {
    let model = std::env::args().nth(1).unwrap_or_else(|| "demo".into());
    let mut pipeline = Pipeline::load(&model)?;
    let mut messages = vec![Message::system("Answer in one sentence.")];
    for question in ["What is atrial fibrillation?", "How is it treated?", "What should the patient watch for?"] {
        messages.push(Message::user(question));
        let reply = pipeline.chat(Request::new(messages.clone()).greedy().max_tokens(100))?;
        println!("> {question}\n{}\n", reply.answer);
        eprintln!("({} of {} prompt tokens were known)", reply.usage.cached_tokens, reply.usage.prompt_tokens);
        messages.push(Message::assistant(reply.answer));
    }
    Ok(())
}
