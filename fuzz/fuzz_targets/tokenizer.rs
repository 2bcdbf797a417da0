//! A tokenizer.json: read, and used when it can be.
#![no_main]

use libfuzzer_sys::fuzz_target;
use medgemma_gemma::text::{Special, Tokenizer};

fuzz_target!(|data: &[u8]| {
    let Ok(tokenizer) = Tokenizer::from_json("fuzz", data) else { return };
    for text in
        ["", "Hello,  world\n\n<eos>", "日本 é \u{1f9ea}", &String::from_utf8_lossy(&data[..data.len().min(400)])]
    {
        let plain = tokenizer.encode(text, Special::Plain);
        assert!(plain.iter().all(|&id| !tokenizer.is_control(id) && tokenizer.token(id).is_some()));
        tokenizer.decode(&tokenizer.encode(text, Special::Parse), false);
    }
    for id in 0..tokenizer.vocab_size() as u32 + 2 {
        tokenizer.token_bytes(id);
    }
});
