//! The tokenizers and templates of this crate against Hugging Face's, on the goldens of tools/goldens/text.py.

use medgemma_gemma::text::{DecodeStream, Special, Tokenizer};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Folders of the tokenizers, by their names in the goldens.
const FOLDERS: [(&str, &str); 3] = [("real", "fetched/gemma3-tokenizer"), ("mm", "tiny-mm"), ("compact", "tiny-text")];

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

/// A tokenizer by its name in the goldens; `None`, with a word on it, for the real one when it wasn't fetched.
fn tokenizer(name: &str) -> Option<Tokenizer> {
    let (_, folder) = FOLDERS.into_iter().find(|(n, _)| *n == name).unwrap();
    let path = testdata(folder).join("tokenizer.json");
    if name == "real" && !path.exists() {
        eprintln!("skipped: {} is not there; scripts/fetch-testdata.sh gemma3-tokenizer fetches it", path.display());
        return None;
    }
    let bytes = std::fs::read(&path).unwrap();
    Some(Tokenizer::from_json(&path.display().to_string(), &bytes).unwrap())
}

fn lines(data: &str) -> impl Iterator<Item = Value> {
    data.lines().map(|line| serde_json::from_str(line).unwrap())
}

fn ids_of(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Ids as encode.jsonl writes them: a list, or their number and 48 bits of FNV-1a over their little-endian bytes.
fn same(ids: &[u32], golden: &Value) -> bool {
    let Some(golden) = golden.as_str() else { return ids == ids_of(golden) };
    let hash = ids
        .iter()
        .flat_map(|id| id.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    golden == format!("{}:{:012x}", ids.len(), hash >> 16)
}

fn encodes_as_the_reference(name: &str, column: usize) {
    let Some(tokenizer) = tokenizer(name) else { return };
    let mut count = 0;
    for line in lines(include_str!("data/encode.jsonl")) {
        let text = match line[0].as_array() {
            Some(item) => item[0].as_str().unwrap().repeat(item[1].as_u64().unwrap() as usize),
            None => line[0].as_str().unwrap().to_owned(),
        };
        let ids = tokenizer.encode(&text, Special::Parse);
        assert!(same(&ids, &line[column]), "{text:?}: {ids:?} where the reference has {}", line[column]);
        let plain = tokenizer.encode(&text, Special::Plain);
        if name == "real" {
            let golden = if line[4].is_null() { &line[column] } else { &line[4] };
            assert!(same(&plain, golden), "{text:?} as plain text: {plain:?} where the reference has {golden}");
        }
        assert!(plain.iter().all(|&id| !tokenizer.is_control(id)), "{text:?} as plain text has a control token");
        // ▁ stands for a space, and a text that has it comes back with spaces.
        assert_eq!(tokenizer.decode(&plain, true), text.replace('▁', " "));
        assert_eq!(tokenizer.decode(&ids, false), text.replace('▁', " "));
        count += 1;
    }
    assert!(count > 3000, "{count} texts");
}

#[test]
fn the_real_tokenizer_encodes_as_the_reference() {
    encodes_as_the_reference("real", 1);
}

#[test]
fn the_tiny_tokenizer_encodes_as_the_reference() {
    encodes_as_the_reference("mm", 2);
}

#[test]
fn a_tokenizer_with_other_ids_encodes_as_the_reference() {
    encodes_as_the_reference("compact", 3);
}

#[test]
fn decodes_as_the_reference_whole_and_streamed() {
    for (name, _) in FOLDERS {
        let Some(tokenizer) = tokenizer(name) else { continue };
        let mut count = 0;
        for line in lines(include_str!("data/decode.jsonl")).filter(|line| line[0] == name) {
            let ids = ids_of(&line[1]);
            for (skip, golden) in [(false, &line[2]), (true, &line[3])] {
                assert_eq!(tokenizer.decode(&ids, skip), golden.as_str().unwrap(), "{name} {ids:?}");
                let mut stream = DecodeStream::new(&tokenizer, skip);
                let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
                text += &stream.finish();
                assert_eq!(text, golden.as_str().unwrap(), "{name} {ids:?} streamed");
            }
            count += 1;
        }
        assert!(count >= 150, "{count} lists of ids");
    }
}

/// The lists of a GGUF made from a `tokenizer.json`, as llama.cpp's converter writes them.
fn pieces(name: &str) -> Option<(Vec<String>, Vec<f32>, Vec<i32>)> {
    let tokenizer = tokenizer(name)?;
    let (_, folder) = FOLDERS.into_iter().find(|(n, _)| *n == name).unwrap();
    let file: Value = serde_json::from_slice(&std::fs::read(testdata(folder).join("tokenizer.json")).unwrap()).unwrap();
    let added: Vec<&str> =
        file["added_tokens"].as_array().unwrap().iter().map(|t| t["content"].as_str().unwrap()).collect();
    let mut score = 0.0;
    let mut lists = (Vec::new(), Vec::new(), Vec::new());
    for id in 0..tokenizer.vocab_size() as u32 {
        let text = tokenizer.token(id).unwrap();
        let (text, rank, kind) = if tokenizer.is_control(id) {
            // The image tokens and [multimodal] of Gemma's real files are user-defined.
            (text.to_owned(), -1000.0, if text.contains("image>") || text == "[multimodal]" { 4 } else { 3 })
        } else if added.contains(&text) {
            (text.replace('▁', " "), -1000.0, 4)
        } else if tokenizer.byte(id).is_some() {
            (text.to_owned(), 0.0, 6)
        } else {
            score -= 1.0;
            (text.to_owned(), score + 1.0, 1)
        };
        lists.0.push(text);
        lists.1.push(rank);
        lists.2.push(kind);
    }
    Some(lists)
}

#[test]
fn a_gguf_gives_the_ids_and_texts_of_the_json() {
    for (name, _) in FOLDERS {
        let (Some(json), Some((tokens, scores, types))) = (tokenizer(name), pieces(name)) else { continue };
        let gguf = Tokenizer::from_pieces("tokenizer.gguf", &tokens, &scores, &types).unwrap();
        for line in lines(include_str!("data/encode.jsonl")) {
            let Some(text) = line[0].as_str() else { continue };
            for special in [Special::Parse, Special::Plain] {
                assert_eq!(gguf.encode(text, special), json.encode(text, special), "{name}: {text:?}");
            }
        }
        for line in lines(include_str!("data/decode.jsonl")).filter(|line| line[0] == name) {
            let ids = ids_of(&line[1]);
            assert_eq!(gguf.decode(&ids, false), line[2].as_str().unwrap());
            assert_eq!(gguf.decode(&ids, true), line[3].as_str().unwrap());
        }
        for id in 0..json.vocab_size() as u32 {
            let all = |t: &Tokenizer| (t.token(id).map(str::to_owned), t.is_special(id), t.is_control(id), t.byte(id));
            assert_eq!(all(&gguf), all(&json), "{name} token {id}");
            assert_eq!(gguf.token_bytes(id), json.token_bytes(id));
        }
    }
}
