//! Checkpoint folders, written by the format's own crate and read by ours.

use medgemma_formats::{DType, Error, Folder, Nf4, Safetensors};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::path::Path;

/// A tensor to write: name, type, shape, bytes.
type Spec = (&'static str, Dtype, Vec<usize>, Vec<u8>);

fn write(dir: &Path, file: &str, specs: &[Spec]) {
    let views = specs.iter().map(|(name, dtype, shape, bytes)| {
        (*name, TensorView::new(*dtype, shape.clone(), bytes).expect("the spec fits its shape"))
    });
    std::fs::write(dir.join(file), safetensors::serialize(views, None).unwrap()).unwrap();
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn open(dir: &Path) -> Result<Safetensors, Error> {
    Safetensors::open(&Folder::open(dir)?)
}

/// The parts of a non-nested and a nested NF4 weight of shape `[3, 64]`.
fn nf4_specs() -> Vec<Spec> {
    let state = |nested: &str| {
        format!(
            r#"{{"quant_type":"nf4","blocksize":64,"dtype":"bfloat16","shape":[3,64],"quant_map_dtype":"x"{nested}}}"#
        )
        .into_bytes()
    };
    let flat = state("");
    let nested = state(r#","nested_blocksize":256,"nested_dtype":"float32","nested_offset":0.25"#);
    let nibbles: Vec<u8> = (0..96).map(|i| (i * 37 % 256) as u8).collect();
    let map256: Vec<f32> = (0..256).map(|i| i as f32 / 255.0).collect();
    vec![
        ("flat.weight", Dtype::U8, vec![96, 1], nibbles.clone()),
        ("flat.weight.absmax", Dtype::F32, vec![3], floats(&[0.5, 1.0, 2.0])),
        ("flat.weight.quant_map", Dtype::F32, vec![16], floats(&Nf4::VALUES)),
        ("flat.weight.quant_state.bitsandbytes__nf4", Dtype::U8, vec![flat.len()], flat),
        ("nested.weight", Dtype::U8, vec![96, 1], nibbles),
        ("nested.weight.absmax", Dtype::U8, vec![3], vec![0, 51, 255]),
        ("nested.weight.quant_map", Dtype::F32, vec![16], floats(&Nf4::VALUES)),
        ("nested.weight.nested_absmax", Dtype::F32, vec![1], floats(&[3.0])),
        ("nested.weight.nested_quant_map", Dtype::F32, vec![256], floats(&map256)),
        ("nested.weight.quant_state.bitsandbytes__nf4", Dtype::U8, vec![nested.len()], nested),
        ("plain.weight", Dtype::BF16, vec![2], vec![0x80, 0x3f, 0x00, 0x40]),
    ]
}

#[test]
fn a_single_file() {
    let dir = tempfile::tempdir().unwrap();
    let specs = [
        ("a", Dtype::F32, vec![2, 2], floats(&[1.0, -2.0, 3.5, 4.0])),
        ("b", Dtype::F16, vec![2], vec![0x00, 0x3c, 0x00, 0xc0]),
        ("c", Dtype::BF16, vec![1, 2], vec![0x80, 0x3f, 0x00, 0xc0]),
        ("ids", Dtype::I64, vec![1], vec![0; 8]),
    ];
    write(dir.path(), "model.safetensors", &specs);
    let weights = open(dir.path()).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b", "c", "ids"]);
    let a = weights.tensor("a").unwrap().unwrap();
    assert_eq!((a.dtype, &a.shape[..], a.to_f32().unwrap()), (DType::F32, &[2, 2][..], vec![1.0, -2.0, 3.5, 4.0]));
    assert_eq!(weights.tensor("b").unwrap().unwrap().to_f32().unwrap(), [1.0, -2.0]);
    assert_eq!(weights.tensor("c").unwrap().unwrap().to_f32().unwrap(), [1.0, -2.0]);
    assert!(weights.tensor("d").unwrap().is_none());
    let error = weights.tensor("ids").unwrap_err().to_string();
    assert!(error.contains("I64") && error.contains("ids") && error.contains("model.safetensors"), "{error}");
}

#[test]
fn shards() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "model-1.safetensors", &[("a", Dtype::F32, vec![1], floats(&[1.0]))]);
    write(dir.path(), "model-2.safetensors", &[("b", Dtype::F32, vec![1], floats(&[2.0]))]);
    let index = r#"{"metadata":{"total_size":8},"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
    std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    let weights = open(dir.path()).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(weights.tensor("b").unwrap().unwrap().to_f32().unwrap(), [2.0]);
}

#[test]
fn nf4_is_put_together() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "model.safetensors", &nf4_specs());
    let weights = open(dir.path()).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["flat.weight", "nested.weight", "plain.weight"]);
    for (name, scales) in [("flat.weight", [0.5, 1.0, 2.0]), ("nested.weight", [0.25, 0.2f32 * 3.0 + 0.25, 3.25])] {
        let tensor = weights.tensor(name).unwrap().unwrap();
        assert_eq!((tensor.dtype, &tensor.shape[..]), (DType::Nf4, &[3, 64][..]));
        let values = tensor.to_f32().unwrap();
        for (j, value) in values.iter().enumerate() {
            let byte = (j / 2) * 37 % 256;
            let nibble = if j % 2 == 0 { byte >> 4 } else { byte & 15 };
            assert_eq!(*value, Nf4::VALUES[nibble] * scales[j / 64], "{name} {j}");
        }
        let mut row = [0.0; 64];
        tensor.row_f32(2, &mut row).unwrap();
        assert_eq!(row, values[128..]);
    }
    assert!(weights.tensor("plain.weight").unwrap().unwrap().nf4.is_none());
}
