//! The tokenizers and templates of this crate against Hugging Face's, on the goldens of tools/goldens/text.py.

use medgemma_formats::{Folder, Gguf, GgufWriter};
use medgemma_gemma::Error;
use medgemma_gemma::text::{
    ChatTemplate, DecodeStream, ImageLayout, ImageTokens, Message, Part, Prompt, RenderOptions, Special, Tokenizer,
};
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

/// The GGUF made from a `tokenizer.json`, as llama.cpp's converter writes them.
fn gguf(name: &str) -> Option<Gguf> {
    let tokenizer = tokenizer(name)?;
    let (_, folder) = FOLDERS.into_iter().find(|(n, _)| *n == name).unwrap();
    let file: Value = serde_json::from_slice(&std::fs::read(testdata(folder).join("tokenizer.json")).unwrap()).unwrap();
    let added: Vec<&str> =
        file["added_tokens"].as_array().unwrap().iter().map(|t| t["content"].as_str().unwrap()).collect();
    let mut score = 0.0;
    let (mut tokens, mut scores, mut types) = (Vec::new(), Vec::new(), Vec::new());
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
        tokens.push(text);
        scores.push(rank);
        types.push(kind);
    }
    let mut writer = GgufWriter::new("tokenizer.gguf");
    writer.set("tokenizer.ggml.model", "llama").unwrap();
    writer.set("tokenizer.ggml.tokens", tokens).unwrap();
    writer.set("tokenizer.ggml.scores", scores).unwrap();
    writer.set("tokenizer.ggml.token_type", types).unwrap();
    writer.set("tokenizer.ggml.add_bos_token", true).unwrap();
    writer.set("tokenizer.ggml.add_space_prefix", false).unwrap();
    for token in ["bos", "eos"] {
        let id = tokenizer.id(&format!("<{token}>")).unwrap();
        writer.set(&format!("tokenizer.ggml.{token}_token_id"), id).unwrap();
    }
    writer.set("tokenizer.chat_template", real_template()).unwrap();
    let bytes = writer.to(Vec::new()).unwrap().finish().unwrap();
    Some(Gguf::from_bytes("tokenizer.gguf", bytes.into()).unwrap())
}

#[test]
fn a_gguf_gives_the_ids_and_texts_of_the_json() {
    for (name, _) in FOLDERS {
        let (Some(json), Some(file)) = (tokenizer(name), gguf(name)) else { continue };
        let gguf = Tokenizer::from_gguf(&file).unwrap();
        assert_eq!((gguf.prefix(), gguf.suffix()), (json.prefix(), json.suffix()));
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

/// The GGUF that llama.cpp's converter made of Gemma 3 270M against the tokenizer.json of the same vocabulary.
#[test]
fn the_real_gguf_gives_the_ids_of_the_real_json() {
    let path = testdata("fetched/gemma-3-270m-Q4_K_M.gguf");
    if !path.exists() {
        eprintln!("skipped: {} is not there; scripts/fetch-testdata.sh gemma3-270m fetches it", path.display());
        return;
    }
    let Some(json) = tokenizer("real") else { return };
    let gguf = Tokenizer::from_gguf(&Gguf::open(&path).unwrap()).unwrap();
    assert_eq!(gguf.prefix(), json.prefix());
    for line in lines(include_str!("data/encode.jsonl")) {
        let Some(text) = line[0].as_str() else { continue };
        assert_eq!(gguf.encode(text, Special::Plain), json.encode(text, Special::Plain), "{text:?}");
        // A text-only model's vocabulary ends before <image_soft_token>.
        if !text.contains("<image_soft_token>") {
            assert_eq!(gguf.encode(text, Special::Parse), json.encode(text, Special::Parse), "{text:?}");
        }
    }
}

/// Gemma's own chat template, which the tiny checkpoints have too.
fn real_template() -> String {
    std::fs::read_to_string(testdata("tiny-mm16/chat_template.jinja")).unwrap()
}

fn render(template: &ChatTemplate, tokenizer: &Tokenizer, line: &Value) -> Result<Prompt, Error> {
    let messages = Message::list(&line["messages"]).unwrap();
    let options = RenderOptions { add_generation_prompt: line["generate"] != false };
    template.render(&messages, tokenizer, options)
}

#[test]
fn chats_become_the_reference_s_ids() {
    let own = ChatTemplate::new("chat_template.jinja", &real_template(), "<bos>", "<eos>").unwrap();
    let built_in = ChatTemplate::built_in();
    assert!(built_in.is_built_in() && !own.is_built_in());
    for (name, _) in FOLDERS {
        let Some(tokenizer) = tokenizer(name) else { continue };
        let mut count = 0;
        for line in lines(include_str!("data/chat.jsonl")).filter(|line| line["tokenizer"] == name) {
            for template in [&own, &built_in] {
                let rendered = render(template, &tokenizer, &line);
                // Gemma's own template lets a late system message stand for the model's turn; ours doesn't.
                let late =
                    line["messages"].as_array().unwrap().iter().skip(1).any(|message| message["role"] == "system");
                if template.is_built_in() && late {
                    assert!(rendered.is_err());
                    continue;
                }
                if let Some(error) = line["error"].as_str() {
                    let ours = rendered.unwrap_err().to_string();
                    assert!(ours.ends_with(&format!(": {error}")), "{ours}");
                    continue;
                }
                let prompt = rendered.unwrap();
                assert_eq!(prompt.text(&tokenizer), line["text"].as_str().unwrap());
                let crops: Vec<usize> = ids_of(&line["crops"]).into_iter().map(|n| n as usize).collect();
                let ids = if crops.is_empty() {
                    prompt.encode(&tokenizer).unwrap()
                } else {
                    let per_image = line["soft"].as_u64().unwrap() as usize;
                    let tokens = ImageTokens::of(&tokenizer).unwrap();
                    let encoded = prompt
                        .encode_with_images(&tokenizer, ImageLayout { tokens, per_image, crops: &crops })
                        .unwrap();
                    let pictures: usize = crops.iter().map(|n| 1 + n).sum();
                    assert_eq!(encoded.pictures.len(), pictures);
                    let soft = encoded.ids.iter().filter(|&&id| id == tokens.soft).count();
                    assert_eq!(soft, pictures * per_image);
                    for range in &encoded.pictures {
                        assert_eq!(range.len(), per_image);
                        assert!(encoded.ids[range.clone()].iter().all(|&id| id == tokens.soft));
                        assert_eq!((encoded.ids[range.start - 1], encoded.ids[range.end]), (tokens.start, tokens.end));
                    }
                    encoded.ids
                };
                assert_eq!(ids, ids_of(&line["ids"]), "{name}: {}", line["messages"]);
            }
            count += 1;
        }
        assert!(count >= 20, "{count} chats");
    }
}

#[test]
fn the_checkpoints_of_testdata_get_the_reference_s_prompts() {
    for folder in ["tiny-mm", "tiny-mm16", "tiny-text"] {
        let files = Folder::open(&testdata(folder)).unwrap();
        let tokenizer = Tokenizer::from_json(folder, &files.read("tokenizer.json").unwrap()).unwrap();
        let template = ChatTemplate::from_folder(&files).unwrap().unwrap();
        let goldens: Value =
            serde_json::from_slice(&std::fs::read(testdata(folder).join("goldens.json")).unwrap()).unwrap();
        for case in goldens["cases"].as_array().unwrap() {
            let prompt = match case["text"].as_str() {
                Some(text) => Prompt::continuation(&[text.into()], &tokenizer).unwrap(),
                None => {
                    let prompt = render(&template, &tokenizer, case).unwrap();
                    assert_eq!(prompt.text(&tokenizer), case["prompt"].as_str().unwrap());
                    prompt
                }
            };
            // With pan-and-scan only the wide picture is cut, in two.
            let crops: Vec<usize> = case["images"]
                .as_array()
                .unwrap()
                .iter()
                .map(|image| if case["pan_and_scan"] == true && image.to_string().contains("wide") { 2 } else { 0 })
                .collect();
            let ids = if crops.is_empty() {
                prompt.encode(&tokenizer).unwrap()
            } else {
                let tokens = ImageTokens::of(&tokenizer).unwrap();
                let positions = case["image_positions"].as_array().unwrap();
                let per_image = positions[0][1].as_u64().unwrap() as usize;
                let encoded =
                    prompt.encode_with_images(&tokenizer, ImageLayout { tokens, per_image, crops: &crops }).unwrap();
                let ours: Vec<Value> = encoded.pictures.iter().map(|r| serde_json::json!([r.start, r.len()])).collect();
                assert_eq!(&ours, positions, "{folder}: {}", case["name"]);
                encoded.ids
            };
            assert_eq!(ids, ids_of(&case["input_ids"]), "{folder}: {}", case["name"]);
        }
    }
}

#[test]
fn templates_are_found_where_checkpoints_keep_them() {
    let tokenizer = tokenizer("mm").unwrap();
    let gguf = gguf("mm").unwrap();
    let template = ChatTemplate::from_gguf(&gguf, &tokenizer).unwrap().unwrap();
    let chat = [Message::user("Hello")];
    let wanted = "<bos><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n";
    let text = |template: &ChatTemplate| {
        template.render(&chat, &tokenizer, RenderOptions::default()).unwrap().text(&tokenizer)
    };
    assert_eq!(text(&template), wanted);

    let folder = tempfile::tempdir().unwrap();
    let find = || ChatTemplate::from_folder(&Folder::open(folder.path()).unwrap());
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    assert!(find().unwrap().is_none());
    write("tokenizer_config.json", r#"{"bos_token": {"content": "<bos>"}}"#);
    assert!(find().unwrap().is_none());
    let named = r#"{"bos_token": "<bos>", "chat_template": [
        {"name": "tool_use", "template": "no"}, {"name": "default", "template": "{{ bos_token }}named"}]}"#;
    write("tokenizer_config.json", named);
    assert_eq!(text(&find().unwrap().unwrap()), "<bos>named");
    write("chat_template.json", r#"{"chat_template": "json without bos"}"#);
    assert_eq!(text(&find().unwrap().unwrap()), "<bos>json without bos");
    write("chat_template.jinja", "{{ bos_token }}file");
    assert_eq!(text(&find().unwrap().unwrap()), "<bos>file");
    write("chat_template.jinja", "{% if %}");
    assert!(find().unwrap_err().to_string().contains("chat_template.jinja: the chat template isn't Jinja"));
    std::fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    write("chat_template.json", "{\"chat_template\": 7}");
    assert!(find().unwrap_err().to_string().contains("chat_template.json"));
    write("chat_template.json", "{");
    assert!(find().unwrap_err().to_string().contains("not JSON"));
}

#[test]
fn images_and_their_places_must_agree() {
    let tokenizer = tokenizer("mm").unwrap();
    let template = ChatTemplate::built_in();
    let with_image = [Message::user_with_image("What is this?")];
    let prompt = template.render(&with_image, &tokenizer, RenderOptions::default()).unwrap();
    let tokens = ImageTokens::of(&tokenizer).unwrap();
    let encode = |prompt: &Prompt, crops: &[usize]| {
        prompt.encode_with_images(&tokenizer, ImageLayout { tokens, per_image: 4, crops })
    };
    assert_eq!(encode(&prompt, &[0]).unwrap().pictures.len(), 1);
    for wrong in [encode(&prompt, &[]), encode(&prompt, &[0, 0])] {
        assert!(wrong.unwrap_err().to_string().contains("1 places for images"));
    }
    assert!(prompt.encode(&tokenizer).unwrap_err().to_string().contains("1 places for images and 0 were given"));
    let deaf = ChatTemplate::new("t", "{{ bos_token }}{{ messages[0].role }}", "<bos>", "<eos>").unwrap();
    let prompt = deaf.render(&with_image, &tokenizer, RenderOptions::default()).unwrap();
    assert!(encode(&prompt, &[0]).unwrap_err().to_string().contains("takes no images"));

    let text_only = self::tokenizer("compact").unwrap();
    assert!(ImageTokens::of(&text_only).unwrap_err().to_string().contains("no <image_soft_token>"));
    assert!(Prompt::continuation(&[Part::IMAGE], &text_only).is_err());
    let findings = Prompt::continuation(&[Part::IMAGE, " findings:".into()], &tokenizer).unwrap();
    assert_eq!(findings.text(&tokenizer), "<bos><start_of_image> findings:");
}
