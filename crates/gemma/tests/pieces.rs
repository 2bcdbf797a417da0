//! The pieces made from Gemma's own tokenizer.json against those in a published file, which llama.cpp's converter made
//! from SentencePiece's model.

use medgemma_formats::Gguf;
use medgemma_gemma::text::Tokenizer;
use std::path::Path;

/// Token types.
const NORMAL: i32 = 1;
const USER_DEFINED: i32 = 4;
/// The id of ▁, the first of the single characters.
const SPACE: usize = 236_743;

#[test]
fn the_real_tokenizers_pieces_are_those_published() {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/fetched");
    let json = fetched.join("gemma3-tokenizer/tokenizer.json");
    let gguf = fetched.join("gemma-3-270m-Q4_K_M.gguf");
    if !json.exists() || !gguf.exists() {
        eprintln!("skipped: scripts/fetch-testdata.sh and scripts/fetch-gemma3-270m.sh fetch what it needs");
        return;
    }
    let gguf = Gguf::open(&gguf).unwrap();
    let tokenizer = Tokenizer::from_json("tokenizer.json", &std::fs::read(&json).unwrap()).unwrap();
    let mut pieces = tokenizer.pieces("tokenizer.json").unwrap();
    // The published model is text-only: it has no <image_soft_token>, and doesn't call the image tokens control tokens.
    assert_eq!(pieces.resize(262_144), 1);
    for image in ["<start_of_image>", "<end_of_image>"] {
        pieces.types[tokenizer.id(image).unwrap() as usize] = USER_DEFINED;
    }
    let same = |what: &str, differ: Option<usize>| assert!(differ.is_none(), "{what} of token {}", differ.unwrap());
    let tokens = gguf.strings("tokenizer.ggml.tokens").unwrap().unwrap();
    same("text", (0..tokens.len()).find(|&id| tokens[id] != pieces.tokens[id]));
    let types = gguf.i32s("tokenizer.ggml.token_type").unwrap().unwrap();
    same("type", (0..tokens.len()).find(|&id| types[id] != pieces.types[id]));
    // SentencePiece's counting skips 31 before the single characters: what matters is the order.
    let scores = gguf.f32s("tokenizer.ggml.scores").unwrap().unwrap();
    let skipped = |id: usize| if pieces.scores[id] <= scores[SPACE] + 31.0 && types[id] == NORMAL { 31.0 } else { 0.0 };
    same("score", (0..tokens.len()).find(|&id| scores[id] != pieces.scores[id] - skipped(id)));
}
