//! The repository's checkpoints, saved by transformers, bitsandbytes and the `gguf` package: all must open, and all of
//! their tensors decode.

use medgemma_formats::{DType, Folder, Gguf, Safetensors, Tensor};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

/// Folders in the test data, `fetched/` aside.
fn folders() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(testdata()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_dir() && !path.ends_with("fetched")).collect()
}

fn check(tensor: &Tensor) -> DType {
    let values = tensor.to_f32().unwrap();
    assert!(!values.is_empty() && values.iter().all(|v| v.is_finite()), "{}", tensor.name);
    assert!(values.iter().any(|v| *v != 0.0) || tensor.cols() == 1 || tensor.shape.len() == 1, "{}", tensor.name);
    let mut row = vec![0.0; tensor.cols()];
    tensor.row_f32(tensor.rows() - 1, &mut row).unwrap();
    assert_eq!(row, values[values.len() - row.len()..], "{}", tensor.name);
    tensor.dtype
}

#[test]
fn safetensors_checkpoints() {
    let mut seen = BTreeSet::new();
    let mut opened = 0;
    for path in folders() {
        let folder = Folder::open(&path).unwrap();
        if !folder.names().iter().any(|name| name.ends_with(".safetensors")) {
            continue;
        }
        let weights = Safetensors::open(&folder).unwrap();
        let names: Vec<&str> = weights.names().collect();
        assert!(names.iter().all(|name| !name.contains("quant")), "{names:?}");
        seen.extend(names.iter().map(|name| check(&weights.tensor(name).unwrap().unwrap()).name()));
        opened += 1;
    }
    assert!(opened >= 5, "{opened} checkpoints");
    assert!(seen.contains("BF16") && seen.contains("NF4"), "{seen:?}");
}

#[test]
fn gguf_files() {
    let mut seen = BTreeSet::new();
    for folder in folders() {
        for name in Folder::open(&folder).unwrap().names().iter().filter(|name| name.ends_with(".gguf")) {
            let gguf = Gguf::open(&folder.join(name)).unwrap();
            assert!(gguf.str("general.architecture").unwrap().is_some(), "{name}");
            seen.extend(gguf.names().map(|name| check(&gguf.tensor(name).unwrap()).name()));
        }
    }
    assert_eq!(seen.len(), 15, "every type but NF4: {seen:?}");
}
