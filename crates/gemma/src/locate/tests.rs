use super::*;
use std::fs;

/// A cache with one model `a/b` at commit `c0ffee`, holding the named files.
fn cache(files: &[(&str, &str)]) -> (tempfile::TempDir, Cache, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path());
    let repo = cache.repo(&HubId::parse("a/b").unwrap());
    let snapshot = repo.join("snapshots/c0ffee");
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(repo.join("refs/main"), "c0ffee\n").unwrap();
    for (name, text) in files {
        fs::write(snapshot.join(name), text).unwrap();
    }
    (folder, cache, snapshot)
}

fn message(result: Result<Located, Error>) -> String {
    result.unwrap_err().to_string()
}

const CONFIG: (&str, &str) = ("config.json", "{}");
const TOKENIZER: (&str, &str) = ("tokenizer.json", "{}");

#[test]
fn the_demo_needs_no_file() {
    assert_eq!(locate_in("demo", &Cache::new("/nowhere")).unwrap(), Located::Demo);
}

#[test]
fn a_pulled_model_is_its_snapshot() {
    let (_keep, cache, snapshot) = cache(&[CONFIG, TOKENIZER, ("model.safetensors", "")]);
    assert_eq!(locate_in("a/b", &cache).unwrap(), Located::Folder(snapshot.clone()));
    assert_eq!(locate_in("a/b@c0ffee", &cache).unwrap(), Located::Folder(snapshot));
    assert!(message(locate_in("a/b@v2", &cache)).contains("medgemma pull a/b@v2"));
}

#[test]
fn a_model_that_was_never_pulled_names_the_command() {
    let (_keep, cache, _) = cache(&[]);
    assert!(message(locate_in("a/b", &cache)).contains("`medgemma pull a/b`"));
    assert!(message(locate_in("google/medgemma-4b-it", &cache)).contains("`medgemma pull google/medgemma-4b-it`"));
}

#[test]
fn a_pull_cut_short_names_what_is_missing() {
    let index = r#"{"weight_map": {"x": "model-1.safetensors", "y": "model-2.safetensors"}}"#;
    let index = ("model.safetensors.index.json", index);
    let (_keep, cache, snapshot) = cache(&[CONFIG, TOKENIZER, index, ("model-1.safetensors", "")]);
    let text = message(locate_in("a/b", &cache));
    assert!(text.contains("model-2.safetensors is missing") && text.contains("medgemma pull a/b"), "{text}");
    fs::write(snapshot.join("model-2.safetensors"), "").unwrap();
    assert_eq!(locate_in("a/b", &cache).unwrap(), Located::Folder(snapshot));
}

#[cfg(unix)]
#[test]
fn a_link_to_nothing_is_missing() {
    let (_keep, cache, snapshot) = cache(&[CONFIG, TOKENIZER]);
    std::os::unix::fs::symlink("../../blobs/gone", snapshot.join("model.safetensors")).unwrap();
    assert!(message(locate_in("a/b", &cache)).contains("model.safetensors is missing"));
}

#[test]
fn an_index_that_points_elsewhere_is_refused() {
    for shard in ["../../x.safetensors", "/etc/passwd", "a/b.safetensors", "..\\\\x"] {
        let text = format!(r#"{{"weight_map": {{"x": "{shard}"}}}}"#);
        assert!(shards(text.as_bytes()).unwrap_err().contains("not a file beside it"), "{shard}");
    }
    assert!(shards(b"[]").is_err());
    assert!(shards(b"{\"weight_map\": 3}").is_err());
}

#[test]
fn a_quantization_picks_one_gguf() {
    let files = [("b-Q4_K_M.gguf", ""), ("b-Q8_0.gguf", ""), ("mmproj-b-F16.gguf", "")];
    let (_keep, cache, snapshot) = cache(&files);
    let expected =
        Located::Gguf { model: snapshot.join("b-Q4_K_M.gguf"), mmproj: Some(snapshot.join("mmproj-b-F16.gguf")) };
    for model in ["a/b:Q4_K_M", "a/b:q4_k_m", "a/b:b-Q4_K_M.gguf"] {
        assert_eq!(locate_in(model, &cache).unwrap(), expected, "{model}");
    }
    let text = message(locate_in("a/b", &cache));
    assert!(text.contains("b-Q4_K_M.gguf, b-Q8_0.gguf"), "{text}");
    assert!(message(locate_in("a/b:Q6_K", &cache)).contains("medgemma pull a/b:Q6_K"));
}

#[test]
fn a_quantization_may_have_a_folder_of_its_own() {
    let (_keep, cache, snapshot) = cache(&[("mmproj-b-F16.gguf", "")]);
    for kind in ["BF16", "Q8_0"] {
        fs::create_dir(snapshot.join(kind)).unwrap();
        fs::write(snapshot.join(format!("{kind}/b-{kind}.gguf")), "").unwrap();
    }
    let model = snapshot.join("BF16/b-BF16.gguf");
    let expected = Located::Gguf { model, mmproj: Some(snapshot.join("mmproj-b-F16.gguf")) };
    assert_eq!(locate_in("a/b:BF16", &cache).unwrap(), expected);
}

#[test]
fn a_repository_may_keep_its_only_gguf_below() {
    let (_keep, cache, snapshot) = cache(&[("mmproj-b-F16.gguf", "")]);
    fs::create_dir_all(snapshot.join("gguf/small")).unwrap();
    let model = snapshot.join("gguf/small/b-Q4_0.gguf");
    fs::write(&model, "").unwrap();
    let expected = Located::Gguf { model: model.clone(), mmproj: Some(snapshot.join("mmproj-b-F16.gguf")) };
    for name in ["a/b", "a/b:Q4_0", "a/b:b-Q4_0.gguf"] {
        assert_eq!(locate_in(name, &cache).unwrap(), expected, "{name}");
    }
    let names: Vec<String> = repository_ggufs(&snapshot).into_iter().collect();
    assert_eq!(names, ["gguf/small/b-Q4_0.gguf", "mmproj-b-F16.gguf"]);
    // A folder that was given by its path is looked into, not searched.
    let above = |path: &Path| locate_in(path.to_str().unwrap(), &cache);
    assert_eq!(above(&snapshot.join("gguf")).unwrap(), Located::Gguf { model, mmproj: None });
    assert!(message(above(&snapshot)).contains("no model is here"));
}

#[test]
fn a_quantization_is_a_whole_word() {
    assert!(quant_matches("m-Q4_K_M.gguf", Some("Q4_K_M")));
    assert!(quant_matches("m.Q4_0.gguf", Some("q4_0")));
    assert!(!quant_matches("m-Q4_K_M.gguf", Some("Q4_K")));
    assert!(!quant_matches("m-IQ4_XS.gguf", Some("Q4_XS")));
    assert!(quant_matches("m-UD-Q4_K_M.gguf", Some("Q4_K_M")));
}

#[test]
fn a_file_finds_the_image_encoder_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["med-4b-Q4_0.gguf", "med-27b-Q4_0.gguf", "mmproj-med-4b-f16.gguf", "mmproj-med-27b-f16.gguf"] {
        fs::write(path(name), "").unwrap();
    }
    fs::write(path("mmproj-med-4b-bf16.gguf"), "").unwrap();
    let found = |name: &str| match locate_in(path(name).to_str().unwrap(), &Cache::new("/nowhere")).unwrap() {
        Located::Gguf { mmproj, .. } => mmproj.unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(found("med-27b-Q4_0.gguf"), path("mmproj-med-27b-f16.gguf"));
    assert_eq!(found("med-4b-Q4_0.gguf"), path("mmproj-med-4b-bf16.gguf"));
    // As `medgemma quantize` names them: one that bears a model's name is that model's and nobody else's.
    for name in ["mmproj-med-4b-Q4_0.gguf", "mmproj-med-4b-q8_0.gguf", "med-4b-q8_0.gguf"] {
        fs::write(path(name), "").unwrap();
    }
    assert_eq!(found("med-4b-Q4_0.gguf"), path("mmproj-med-4b-Q4_0.gguf"));
    let alone = tempfile::tempdir().unwrap();
    for name in ["sees.gguf", "mmproj-sees.gguf", "text.gguf"] {
        fs::write(alone.path().join(name), "").unwrap();
    }
    let text = alone.path().join("text.gguf");
    let located = locate_in(text.to_str().unwrap(), &Cache::new("/nowhere")).unwrap();
    assert_eq!(located, Located::Gguf { model: text, mmproj: None });
}

#[test]
fn what_is_no_model_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = Cache::new("/nowhere");
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for name in ["mmproj-x.gguf", "notes.txt"] {
        fs::write(at(name), "").unwrap();
    }
    assert!(message(locate_in(&at("mmproj-x.gguf"), &nowhere)).contains("image encoder"));
    assert!(message(locate_in(&at("notes.txt"), &nowhere)).contains(".gguf"));
    assert!(message(locate_in(&at("absent.gguf"), &nowhere)).contains("no such file"));
    assert!(message(locate_in(&at(""), &nowhere)).contains("no model is here"));
    assert!(message(locate_in("./absent", &nowhere)).contains("no such file"));
    assert!(message(locate_in("medgemma", &nowhere)).contains("OWNER/NAME"));
}
