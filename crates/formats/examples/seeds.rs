//! Writes the small valid files that fuzzing starts from:
//! `cargo run --release -p medgemma-formats --example seeds -- fuzz/seeds`

use medgemma_formats::{Array, DType, Error, GgufWriter, Nf4, Value, quantize, quantize_nf4};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = std::env::args().nth(1).ok_or("usage: seeds FOLDER")?;
    let out = Path::new(&out);
    std::fs::create_dir_all(out.join("gguf"))?;
    std::fs::create_dir_all(out.join("safetensors"))?;
    std::fs::write(out.join("gguf/values.gguf"), values()?)?;
    for dtype in [DType::F32, DType::F16, DType::Q4_0, DType::Q5_1, DType::Q4K, DType::Q6K] {
        std::fs::write(out.join(format!("gguf/{dtype}.gguf")), blocks(dtype)?)?;
    }
    std::fs::write(out.join("safetensors/floats.safetensors"), floats())?;
    std::fs::write(out.join("safetensors/nf4.safetensors"), nf4(false))?;
    std::fs::write(out.join("safetensors/nf4-nested.safetensors"), nf4(true))?;
    Ok(())
}

/// Metadata of every type, no tensor.
fn values() -> Result<Vec<u8>, Error> {
    let mut writer = GgufWriter::new("values.gguf");
    writer.set("general.architecture", "gemma3")?;
    writer.set("general.alignment", 64u32)?;
    writer.set("a", Value::U8(1))?;
    writer.set("b", Value::I16(-1))?;
    writer.set("c", Value::U64(1))?;
    writer.set("d", Value::F64(1.0))?;
    writer.set("e", true)?;
    writer.set("f", vec!["<pad>".to_owned(), String::new()])?;
    writer.set("g", vec![0.5f32])?;
    writer.set("h", vec![1i32, 2])?;
    writer.set("i", Array::Bool(vec![true, false]))?;
    writer.set("j", Array::Array(vec![Array::U8(vec![1]), Array::String(Vec::new())]))?;
    writer.to(Vec::new())?.finish()
}

/// Two tensors of one type.
fn blocks(dtype: DType) -> Result<Vec<u8>, Error> {
    let cols = dtype.block_len();
    let row: Vec<f32> = (0..cols).map(|i| (i as f32 * 0.7).sin()).collect();
    let mut writer = GgufWriter::new("blocks.gguf");
    writer.tensor("blk.0.attn_q.weight", dtype, &[2, cols])?;
    writer.tensor("output_norm.weight", dtype, &[cols])?;
    let mut tensors = writer.to(Vec::new())?;
    for _ in 0..3 {
        let mut bytes = Vec::new();
        quantize(dtype, &row, &mut bytes)?;
        tensors.write(&bytes)?;
    }
    tensors.finish()
}

/// A safetensors file of tensors given by name, type, shape and bytes.
fn safetensors(tensors: &[(&str, &str, &str, Vec<u8>)]) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let (from, to) = (data.len(), data.len() + bytes.len());
        entries.push(format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#));
        data.extend(bytes);
    }
    let header = format!(r#"{{"__metadata__":{{"format":"pt"}},{}}}"#, entries.join(","));
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

fn floats() -> Vec<u8> {
    safetensors(&[
        ("a", "F32", "[2,2]", vec![0; 16]),
        ("b", "F16", "[3]", vec![0x3c; 6]),
        ("c", "BF16", "[1,2]", vec![0x3f; 4]),
        ("d", "I64", "[]", vec![0; 8]),
    ])
}

fn le(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn nf4(nested: bool) -> Vec<u8> {
    let (nibbles, nf4) = quantize_nf4(&[0.25; 70]);
    let rest = if nested { r#","nested_blocksize":256,"nested_dtype":"float32","nested_offset":0.5"# } else { "" };
    let state = format!(r#"{{"quant_type":"nf4","blocksize":64,"dtype":"bfloat16","shape":[7,10]{rest}}}"#);
    let state_shape = format!("[{}]", state.len());
    let mut tensors = vec![
        ("w", "U8", "[35,1]", nibbles),
        ("w.quant_map", "F32", "[16]", le(&Nf4::VALUES)),
        ("w.quant_state.bitsandbytes__nf4", "U8", state_shape.as_str(), state.into_bytes()),
    ];
    if nested {
        tensors.push(("w.absmax", "U8", "[2]", vec![1, 2]));
        tensors.push(("w.nested_absmax", "F32", "[1]", le(&[1.0])));
        tensors.push(("w.nested_quant_map", "F32", "[256]", vec![0; 1024]));
    } else {
        tensors.push(("w.absmax", "F32", "[2]", le(&nf4.absmax)));
    }
    safetensors(&tensors)
}
