//! Blocks and metadata against ggml's Python package: see `tools/goldens/blocks.py`.

use medgemma_formats::{Array, DType, Gguf, Value, quantize};
use std::path::Path;

const READ: [DType; 12] = [
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q2K,
    DType::Q3K,
    DType::Q4K,
    DType::Q5K,
    DType::Q6K,
    DType::Iq4Nl,
    DType::Iq4Xs,
];
const WRITTEN_LIKE_GGML: [DType; 7] =
    [DType::F16, DType::BF16, DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0];

fn golden() -> Gguf {
    Gguf::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/blocks.gguf")).unwrap()
}

#[test]
fn every_type_decodes_to_the_bit() {
    let gguf = golden();
    for dtype in READ {
        let blocks = gguf.tensor(dtype.name()).unwrap();
        let expected = gguf.tensor(&format!("{dtype}.f32")).unwrap().to_f32().unwrap();
        assert_eq!((blocks.dtype, &blocks.shape[..]), (dtype, &[2, 512][..]));
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert!(bits(&blocks.to_f32().unwrap()) == bits(&expected), "{dtype}");
        let mut row = [0.0; 512];
        blocks.row_f32(1, &mut row).unwrap();
        assert!(bits(&row) == bits(&expected[512..]), "{dtype}");
    }
}

#[test]
fn floats_and_blocks_of_32_are_encoded_as_ggml_does() {
    let gguf = golden();
    let input = gguf.tensor("input").unwrap().to_f32().unwrap();
    for dtype in WRITTEN_LIKE_GGML {
        let expected = gguf.tensor(&format!("{dtype}.of_input")).unwrap();
        let mut bytes = Vec::new();
        quantize(dtype, &input, &mut bytes).unwrap();
        let differing = bytes.iter().zip(&*expected.bytes).filter(|(a, b)| a != b).count();
        assert_eq!((bytes.len(), differing), (expected.bytes.len(), 0), "{dtype}");
    }
}

#[test]
fn metadata_of_every_type() {
    let gguf = golden();
    let expected: [(&str, Value); 13] = [
        ("t.u8", Value::U8(200)),
        ("t.i8", Value::I8(-100)),
        ("t.u16", Value::U16(60000)),
        ("t.i16", Value::I16(-30000)),
        ("t.u32", Value::U32(4_000_000_000)),
        ("t.i32", Value::I32(-2_000_000_000)),
        ("t.u64", Value::U64(1 << 63)),
        ("t.i64", Value::I64(-(1 << 62))),
        ("t.f32", Value::F32(0.1)),
        ("t.f64", Value::F64(1e300)),
        ("t.bool", Value::Bool(true)),
        ("t.bools", Value::Array(Array::Bool(vec![true, false]))),
        ("t.nested", Value::Array(Array::Array(vec![Array::I32(vec![1, 2]), Array::I32(vec![3])]))),
    ];
    for (key, value) in &expected {
        assert_eq!(gguf.get(key), Some(value), "{key}");
    }
    assert_eq!(gguf.str("t.string").unwrap(), Some("Grüße, 世界"));
    assert_eq!(gguf.strings("t.strings").unwrap().unwrap(), ["<pad>", "", "▁the"]);
    assert_eq!(gguf.f32s("t.f32s").unwrap().unwrap(), [0.5, -1.5]);
    assert_eq!(gguf.i32s("t.i32s").unwrap().unwrap(), [1, -2, 3]);
    assert_eq!(gguf.u64("t.u16").unwrap(), Some(60000));
    assert_eq!(gguf.f32("t.f32").unwrap(), Some(0.1));
    assert_eq!(gguf.bool("t.bool").unwrap(), Some(true));
    assert_eq!(gguf.u64("t.absent").unwrap(), None);
    let error = gguf.u64("t.i8").unwrap_err().to_string();
    assert!(error.contains("t.i8") && error.contains("at least 0"), "{error}");
    assert!(gguf.str("t.u8").is_err() && gguf.strings("t.f32s").is_err() && gguf.i32s("t.f32s").is_err());
}
