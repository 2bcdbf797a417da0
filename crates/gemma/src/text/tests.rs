//! Malformed tokenizers, and what holds for every text.

use super::*;
use crate::Error;
use medgemma_formats::{Gguf, GgufWriter, Value as GgufValue};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// The tiny tokenizers of testdata: Gemma's layout, and the same with other ids.
pub(super) static TINY: LazyLock<[Tokenizer; 2]> = LazyLock::new(|| {
    let read = |folder: &str| {
        let path = format!("{}/../../testdata/{folder}/tokenizer.json", env!("CARGO_MANIFEST_DIR"));
        Tokenizer::from_json(&path, &std::fs::read(&path).unwrap()).unwrap()
    };
    [read("tiny-mm"), read("tiny-text")]
});

/// A tokenizer.json of a few tokens: `a`, `b`, `ab`, `▁`, `<eos>`, the bytes from 10 on.
fn small() -> Value {
    let mut vocab = json!({"<unk>": 0, "<eos>": 1, "a": 2, "b": 3, "ab": 4, "▁": 5, "▁a": 6});
    for byte in 0..256 {
        vocab[format!("<0x{byte:02X}>")] = json!(10 + byte);
    }
    let flags = json!({"single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
    let added = |id: u32, content: &str, special: bool| {
        let mut token = flags.clone();
        token["id"] = json!(id);
        token["content"] = json!(content);
        token["special"] = json!(special);
        token
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<unk>", true), added(1, "<eos>", true), added(300, "<x>", false)],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<eos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<eos>": {"id": "<eos>", "ids": [1], "tokens": ["<eos>"]}}
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}
        ]},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": [["a", "b"], ["▁", "a"]]
        }
    })
}

fn load(file: &Value) -> Result<Tokenizer, Error> {
    Tokenizer::from_json("tokenizer.json", file.to_string().as_bytes())
}

/// [`small`] with the value at a JSON pointer replaced; a pointer to nothing adds to its parent.
fn with(pointer: &str, value: Value) -> Value {
    let mut file = small();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match file.pointer_mut(parent).unwrap() {
        Value::Object(map) => drop(map.insert(key.into(), value)),
        Value::Array(list) => match key.parse::<usize>() {
            Ok(at) => list[at] = value,
            Err(_) => list.push(value),
        },
        other => panic!("{other} has no {key}"),
    }
    file
}

#[test]
fn reads_both_spellings_of_merges_and_the_options() {
    let tokenizer = load(&small()).unwrap();
    assert_eq!(tokenizer.encode("ab a<x>c", Special::Parse), [4, 6, 300, 10 + u32::from(b'c')]);
    assert_eq!((tokenizer.prefix(), tokenizer.suffix()), (&[1][..], &[][..]));
    assert_eq!(tokenizer.vocab_size(), 301);
    assert_eq!((tokenizer.token(9), tokenizer.token_bytes(9)), (None, &b""[..]), "an id without a token");
    assert_eq!(tokenizer.token_bytes(6), b" a");
    assert_eq!(tokenizer.token_bytes(10), b"\0");
    assert_eq!(tokenizer.decode(&[4, 9, 5, 300, 1, 4000], false), "ab <x><eos>");

    let legacy = load(&with("/model/merges", json!(["a b", "▁ a"]))).unwrap();
    assert_eq!(legacy.encode("ab a", Special::Plain), [4, 6]);
    let whole = load(&with("/model/ignore_merges", json!(true))).unwrap();
    assert_eq!(whole.encode("<eos>", Special::Parse), [1]);
    assert_eq!(whole.encode("▁a", Special::Plain), [6]);
    assert!(!whole.encode("<eos>", Special::Plain).contains(&1));
    let normalized = load(&with("/added_tokens/2/normalized", json!(true))).unwrap();
    assert_eq!(normalized.encode("a<x>", Special::Plain), [2, 300]);
    // A merge can't make a control token of text.
    let file = with("/model/merges", json!([["a", "b"], ["▁", "a"]]));
    let mut file = serde_json::from_str::<Value>(&file.to_string()).unwrap();
    file["added_tokens"][2] = json!({"id": 4, "content": "ab", "special": true});
    let guarded = load(&file).unwrap();
    assert_eq!(guarded.encode("ab", Special::Plain), [2, 3]);
    assert_eq!(guarded.encode("ab", Special::Parse), [4]);
}

#[test]
fn malformed_files_are_refused_with_the_field() {
    let wrong: &[(&str, Value, &str)] = &[
        ("/model/type", json!("WordPiece"), "model.type"),
        ("/model/type", json!(7), "line 1"),
        ("/model/dropout", json!(0.1), "model.dropout"),
        ("/model/byte_fallback", json!(false), "model.byte_fallback"),
        ("/model/end_of_word_suffix", json!("</w>"), "model.end_of_word_suffix"),
        ("/model/continuing_subword_prefix", json!("##"), "model.continuing_subword_prefix"),
        ("/model/vocab", json!(["a", "b"]), "model.vocab"),
        ("/model/vocab", json!({"a": -1}), "model.vocab"),
        ("/model/vocab", json!({"a": 1e30}), "model.vocab"),
        ("/model/vocab", json!({"a": u32::MAX}), "limit"),
        ("/model/vocab/c", json!(4), "both"),
        ("/model/vocab/c", json!("4"), "model.vocab"),
        ("/model/vocab/", json!(400), "bytes"),
        ("/model/merges", json!({}), "model.merges"),
        ("/model/merges/0", json!("ab"), "model.merges"),
        ("/model/merges/0", json!("a b c"), "model.merges"),
        ("/model/merges/0", json!(["a"]), "two tokens"),
        ("/model/merges/0", json!(["a", "b", "c"]), "two tokens"),
        ("/model/merges/0", json!(["a", "q"]), "\"q\" is not in the vocabulary"),
        ("/model/merges/0", json!(["b", "a"]), "\"ba\" is not in the vocabulary"),
        ("/model/merges/0", json!([1, 2]), "model.merges"),
        ("/normalizer", json!({"type": "NFC"}), "normalizer"),
        ("/normalizer", json!(null), "normalizer"),
        ("/normalizer/content", json!("_"), "normalizer"),
        ("/pre_tokenizer", json!({"type": "ByteLevel"}), "pre_tokenizer"),
        ("/decoder", json!(null), "decoder"),
        ("/decoder/decoders/x", json!({"type": "Strip"}), "decoder"),
        ("/post_processor", json!({"type": "ByteLevel"}), "post_processor"),
        ("/post_processor/single", json!([]), "post_processor"),
        ("/post_processor/single/x", json!({"Sequence": {"id": "A"}}), "post_processor"),
        ("/post_processor/single/x", json!({"Other": 1}), "post_processor"),
        ("/post_processor/special_tokens", json!({}), "post_processor"),
        ("/post_processor/special_tokens/<eos>/ids", json!([9]), "post_processor"),
        ("/added_tokens/2/id", json!(4), "added_tokens[2]"),
        ("/added_tokens/2/content", json!("<eos>"), "added_tokens[2]"),
        ("/added_tokens/2/content", json!(""), "added_tokens[2]"),
        ("/added_tokens/2/content", json!("x".repeat(5000)), "added_tokens[2]"),
        ("/added_tokens/2/id", json!(1 << 30), "limit"),
        ("/added_tokens/2/lstrip", json!(true), "lstrip"),
        ("/added_tokens/2/single_word", json!(true), "single_word"),
        ("/added_tokens", json!("none"), "line 1"),
    ];
    for (pointer, value, word) in wrong {
        let error = load(&with(pointer, value.clone())).unwrap_err().to_string();
        assert!(error.contains(word) && error.starts_with("tokenizer.json: "), "{pointer} = {value}: {error}");
        assert!(error.len() < 500, "{error}");
    }
    for text in ["", "{", "[]", "null", "{}", "{\"model\":{}}", "\"", "{\"model\":{\"vocab\":{},\"vocab\":{}}}"] {
        assert!(Tokenizer::from_json("t", text.as_bytes()).is_err(), "{text}");
    }
    assert!(Tokenizer::from_json("t", b"{\"model\xff\"}").is_err());
    assert!(Tokenizer::from_json("t", "[".repeat(1 << 20).as_bytes()).is_err());
    let short = small().to_string().replace("<0xE9>", "<0xE9 >");
    assert!(Tokenizer::from_json("t", short.as_bytes()).unwrap_err().to_string().contains("<0xE9> is missing"));
    let doubled = small().to_string().replacen("\"a\":2", "\"a\":2,\"a\":9", 1);
    assert!(Tokenizer::from_json("t", doubled.as_bytes()).unwrap_err().to_string().contains("two ids"));
    // Every beginning of a good file is an error, never a panic.
    let good = small().to_string();
    for end in (0..good.len()).step_by(7).filter(|&end| good.is_char_boundary(end)) {
        assert!(Tokenizer::from_json("t", &good.as_bytes()[..end]).is_err());
    }
}

/// A GGUF's metadata of these tokens.
fn gguf(tokens: &[&str], scores: &[f32], types: &[i32], more: &[(&str, GgufValue)]) -> Result<Tokenizer, Error> {
    let mut writer = GgufWriter::new("m.gguf");
    writer.set("tokenizer.ggml.model", "llama")?;
    writer.set("tokenizer.ggml.tokens", tokens.iter().map(|s| s.to_string()).collect::<Vec<_>>())?;
    writer.set("tokenizer.ggml.scores", scores.to_vec())?;
    writer.set("tokenizer.ggml.token_type", types.to_vec())?;
    for (key, value) in more {
        writer.set(key, value.clone())?;
    }
    let bytes = writer.to(Vec::new())?.finish()?;
    Tokenizer::from_gguf(&Gguf::from_bytes("m.gguf", bytes.into())?)
}

#[test]
fn reads_the_tokenizer_of_a_gguf() {
    let bytes: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut tokens = vec!["<unk>", "<bos>", "a", "b", "ab", "  ", "▁", "[PAD7]"];
    let mut types = vec![2, 3, 1, 1, 1, 4, 1, 5];
    tokens.extend(bytes.iter().map(|s| &s[..]));
    types.resize(tokens.len(), 6);
    let scores = vec![0.0; tokens.len()];
    let build = |more: &[(&str, GgufValue)]| gguf(&tokens, &scores, &types, more);
    let tokenizer = build(&[("tokenizer.ggml.bos_token_id", 1u32.into())]).unwrap();
    assert_eq!((tokenizer.prefix(), tokenizer.suffix()), (&[1][..], &[][..]));
    assert_eq!(tokenizer.encode("ab  <bos>c", Special::Parse), [4, 5, 1, 8 + u32::from(b'c')]);
    assert_eq!(tokenizer.token(5), Some("▁▁"));
    assert!(!tokenizer.encode("[PAD7]", Special::Parse).contains(&7), "unused tokens aren't looked for");
    assert_eq!(tokenizer.decode(&[0, 1, 4, 5, 2], true), "ab  a");

    let id = ("tokenizer.ggml.bos_token_id", 1u32.into());
    assert_eq!(build(&[id, ("tokenizer.ggml.add_bos_token", false.into())]).unwrap().prefix(), [0; 0]);
    let error = |more: &[(&str, GgufValue)]| build(more).unwrap_err().to_string();
    assert!(error(&[("tokenizer.ggml.bos_token_id", 999u32.into())]).contains("tokenizer.ggml.bos_token_id"));
    assert!(error(&[("tokenizer.ggml.add_space_prefix", true.into())]).contains("add_space_prefix"));
    assert!(error(&[("tokenizer.ggml.model", "gpt2".into())]).contains("tokenizer.ggml.model"));
    assert!(error(&[("tokenizer.ggml.tokens", 7u32.into())]).contains("tokenizer.ggml.tokens"));
}

#[test]
fn malformed_tokenizers_of_ggufs_are_refused() {
    let error =
        |tokens: &[&str], scores: &[f32], types: &[i32]| gguf(tokens, scores, types, &[]).unwrap_err().to_string();
    assert!(error(&[], &[], &[]).contains("tokenizer.ggml.tokens"));
    assert!(error(&["a"], &[], &[1]).contains("tokenizer.ggml.scores"));
    assert!(error(&["a"], &[0.0], &[1, 1]).contains("tokenizer.ggml.token_type"));
    assert!(error(&["a"], &[0.0], &[7]).contains("tokenizer.ggml.token_type"));
    assert!(error(&["a"], &[f32::NAN], &[1]).contains("not a number"));
    assert!(error(&["a", "a"], &[0.0; 2], &[1; 2]).contains("two ids"));
    assert!(error(&["a", ""], &[0.0; 2], &[1; 2]).contains("bytes"));
    assert!(error(&["a"], &[0.0], &[1]).contains("<0x00> is missing"));
    let empty = GgufWriter::new("m.gguf").to(Vec::new()).unwrap().finish().unwrap();
    assert!(Tokenizer::from_gguf(&Gguf::from_bytes("m.gguf", empty.into()).unwrap()).is_err());
}

fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<char>().prop_map(String::from),
        "[ -~]{0,6}",
        "[\n\t ]{1,5}",
        prop::sample::select(vec![
            "<bos>",
            "<end_of_turn>",
            "<unused94>",
            "<b>",
            "<0x41>",
            "the patient",
            "é",
            "日本",
            "▁▁"
        ])
        .prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn decoding_gives_the_text_back(text in any_text()) {
        let text = text.replace('▁', " ");
        for tokenizer in &*TINY {
            for special in [Special::Plain, Special::Parse] {
                prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text, special), false), &text[..]);
            }
        }
    }

    #[test]
    fn plain_text_never_steers(text in any_text()) {
        for tokenizer in &*TINY {
            let ids = tokenizer.encode(&text, Special::Plain);
            prop_assert!(ids.iter().all(|&id| !tokenizer.is_control(id) && !tokenizer.is_special(id)));
        }
    }

    #[test]
    fn streaming_gives_the_whole_text(ids in prop::collection::vec(0u32..1010, 0..40), skip in any::<bool>()) {
        for tokenizer in &*TINY {
            let mut stream = DecodeStream::new(tokenizer, skip);
            let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
            text += &stream.finish();
            prop_assert_eq!(text, tokenizer.decode(&ids, skip));
        }
    }
}
