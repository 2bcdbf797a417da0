//! GGUF files written by our own writer and read back.

use medgemma_formats::{Array, DType, Error, Gguf, GgufWriter, Value, quantize};

fn writer() -> GgufWriter {
    let mut writer = GgufWriter::new("test.gguf");
    writer.set("general.architecture", "gemma3").unwrap();
    writer
}

#[test]
fn what_is_written_is_read() {
    let mut writer = writer();
    let pairs: Vec<(&str, Value)> = vec![
        ("u8", Value::U8(255)),
        ("i8", Value::I8(-128)),
        ("u16", Value::U16(65535)),
        ("i16", Value::I16(-32768)),
        ("u32", u32::MAX.into()),
        ("i32", i32::MIN.into()),
        ("u64", u64::MAX.into()),
        ("i64", Value::I64(i64::MIN)),
        ("f32", 1.5f32.into()),
        ("f64", Value::F64(-2.5)),
        ("bool", true.into()),
        ("string", "héllo".into()),
        ("u8s", Array::U8(vec![1, 2]).into()),
        ("i8s", Array::I8(vec![-1]).into()),
        ("u16s", Array::U16(vec![3]).into()),
        ("i16s", Array::I16(vec![-3]).into()),
        ("u32s", vec![7u32].into()),
        ("i32s", vec![-7i32].into()),
        ("u64s", Array::U64(vec![9]).into()),
        ("i64s", Array::I64(vec![-9]).into()),
        ("f32s", vec![0.5f32].into()),
        ("f64s", Array::F64(vec![0.25]).into()),
        ("bools", Array::Bool(vec![true, false]).into()),
        ("strings", vec!["a".to_owned(), String::new()].into()),
        ("empty", Array::String(Vec::new()).into()),
        ("nested", Array::Array(vec![Array::String(vec!["x".into()]), Array::U8(vec![])]).into()),
    ];
    for (key, value) in &pairs {
        writer.set(key, value.clone()).unwrap();
    }
    writer.tensor("a", DType::F32, &[3]).unwrap();
    writer.tensor("b", DType::Q8_0, &[2, 1, 32]).unwrap();
    writer.tensor("c", DType::BF16, &[1, 2, 1, 2]).unwrap();
    let mut b = Vec::new();
    quantize(DType::Q8_0, &[2.0; 64], &mut b).unwrap();
    let mut tensors = writer.to(Vec::new()).unwrap();
    tensors.write(&[0, 0, 128, 63, 0, 0]).unwrap(); // in pieces
    tensors.write(&[0, 64, 0, 0, 64, 64]).unwrap();
    tensors.write(&b).unwrap();
    tensors.write(&[0x80, 0x3f, 0, 0, 0, 0, 0x80, 0xbf]).unwrap();
    let file = tensors.finish().unwrap();
    assert_eq!(file.len() % 32, 0, "padded after the last tensor too");

    let gguf = Gguf::from_bytes("test.gguf", file.into()).unwrap();
    for (key, value) in &pairs {
        assert_eq!(gguf.get(key), Some(value), "{key}");
    }
    assert_eq!(gguf.metadata().count(), pairs.len() + 1);
    assert_eq!(gguf.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(gguf.tensor("a").unwrap().to_f32().unwrap(), [1.0, 2.0, 3.0]);
    let b = gguf.tensor("b").unwrap();
    assert_eq!((b.dtype, &b.shape[..]), (DType::Q8_0, &[2, 1, 32][..]));
    assert!(b.to_f32().unwrap().iter().all(|v| (v - 2.0).abs() < 1e-3));
    let c = gguf.tensor("c").unwrap();
    assert_eq!((&c.shape[..], c.to_f32().unwrap()), (&[1, 2, 1, 2][..], vec![1.0, 0.0, 0.0, -1.0]));
    assert!(gguf.tensor("d").is_none());
}

#[test]
fn alignment_is_followed() {
    let mut writer = writer();
    writer.set("general.alignment", 256u32).unwrap();
    writer.tensor("a", DType::F32, &[1]).unwrap();
    writer.tensor("b", DType::F32, &[1]).unwrap();
    let mut tensors = writer.to(Vec::new()).unwrap();
    tensors.write(&1.0f32.to_le_bytes()).unwrap();
    tensors.write(&2.0f32.to_le_bytes()).unwrap();
    let file = tensors.finish().unwrap();
    assert_eq!(file.len(), 3 * 256);
    let gguf = Gguf::from_bytes("test.gguf", file.into()).unwrap();
    assert_eq!(gguf.tensor("b").unwrap().to_f32().unwrap(), [2.0]);
}

#[test]
fn a_plan_ggml_would_refuse_is_refused() {
    let mut writer = writer();
    writer.tensor("a", DType::F32, &[1]).unwrap();
    assert!(writer.tensor("a", DType::F32, &[1]).is_err(), "taken");
    assert!(writer.tensor(&"x".repeat(64), DType::F32, &[1]).is_err(), "too long");
    assert!(writer.tensor("d", DType::F32, &[1, 1, 1, 1, 1]).is_err(), "five dimensions");
    assert!(writer.tensor("e", DType::F32, &[2, 0]).is_err(), "a zero");
    assert!(writer.tensor("f", DType::Q4K, &[1152]).is_err(), "not whole blocks");
    assert!(writer.tensor("g", DType::Nf4, &[64]).is_err(), "not in GGUF");
    assert!(writer.tensor("h", DType::F32, &[usize::MAX, 2]).is_err(), "overflow");
    assert!(writer.set("general.alignment", 24u32).is_err() && writer.set("", 1u32).is_err());
}

#[test]
fn bytes_must_be_those_planned() {
    let mut plan = writer();
    plan.tensor("a", DType::F32, &[2]).unwrap();
    let mut tensors = plan.clone().to(Vec::new()).unwrap();
    assert!(matches!(tensors.write(&[0; 9]), Err(Error::Tensor { .. })), "one too many");
    tensors.write(&[0; 7]).unwrap();
    let error = tensors.finish().unwrap_err().to_string();
    assert!(error.contains("7 of its 8"), "{error}");
    let mut tensors = plan.to(Vec::new()).unwrap();
    tensors.write(&[0; 8]).unwrap();
    assert!(tensors.write(&[0]).is_err(), "after the last");
}

#[test]
fn a_file_appears_when_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.gguf");
    let plan = || {
        let mut writer = GgufWriter::new(&path);
        writer.tensor("a", DType::F32, &[1]).unwrap();
        writer.create().unwrap()
    };
    let mut broken_off = plan();
    broken_off.write(&[0; 2]).unwrap();
    drop(broken_off);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left of it");

    let mut tensors = plan();
    tensors.write(&1.0f32.to_le_bytes()).unwrap();
    assert!(!path.exists());
    tensors.finish().unwrap().commit().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.tensor("a").unwrap().to_f32().unwrap(), [1.0]);
}

#[test]
fn a_part_of_a_split_model_says_so() {
    let mut writer = writer();
    writer.set("split.count", Value::U16(3)).unwrap();
    let file = writer.to(Vec::new()).unwrap().finish().unwrap();
    let error = Gguf::from_bytes("part.gguf", file.into()).unwrap_err().to_string();
    assert!(error.contains("--merge"), "{error}");
}
