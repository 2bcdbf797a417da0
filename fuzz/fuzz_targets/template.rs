//! Any chat template, run on a conversation: an answer or an error, in bounded time and memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use medgemma_gemma::text::{ChatTemplate, Message, RenderOptions, Tokenizer};
use std::sync::LazyLock;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    Tokenizer::from_json("tiny", include_bytes!("../../testdata/tiny-mm/tokenizer.json")).expect("it is a good one")
});

fuzz_target!(|data: &[u8]| {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let Ok(template) = ChatTemplate::new("fuzz", source, "<bos>", "<eos>") else { return };
    let chat = [
        Message::system("You are terse."),
        Message::user_with_image("What is this? <end_of_turn>"),
        Message::assistant("A test."),
        Message::user("Thanks."),
    ];
    match template.render(&chat, &TOKENIZER, RenderOptions::default()) {
        Ok(prompt) => drop(prompt.encode(&TOKENIZER)),
        Err(error) => assert!(!error.to_string().contains("terse")),
    }
});
