//! Malformed checkpoint folders: each must be an error that names the file, never a panic, never a large allocation.

use cap::Cap;
use medgemma_formats::{Error, Folder, Safetensors};
use std::alloc::System;
use std::path::Path;

/// Allocating by a size that a file merely claims ends the test.
#[global_allocator]
static LIMITED: Cap<System> = Cap::new(System, 64 << 20);

/// A file of a header and `data` bytes of elements.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.resize(out.len() + data, 0);
    out
}

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// Opens a folder and reads every tensor in it.
fn read_all(dir: &Path) -> Result<(), Error> {
    read(&Safetensors::open(&Folder::open(dir)?)?)
}

fn read(weights: &Safetensors) -> Result<(), Error> {
    for name in weights.names() {
        let tensor = weights.tensor(name)?.expect("it was just named");
        tensor.to_f32()?;
        assert_eq!(tensor.rows() * tensor.cols(), tensor.len());
    }
    Ok(())
}

fn read_single(bytes: &[u8]) -> Result<(), Error> {
    read(&Safetensors::from_bytes("model.safetensors", bytes.to_vec().into())?)
}

/// The error must name the file and say `why`.
#[track_caller]
fn refused(result: Result<(), Error>, why: &str) {
    let error = result.expect_err(why).to_string();
    assert!(error.contains("safetensors"), "names no file: {error}");
    assert!(error.contains(why), "{error:?} doesn't say {why:?}");
    assert!(error.len() < 1500, "{} bytes of error", error.len());
}

const GOOD: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}}"#;

#[test]
fn cut_short_anywhere() {
    let good = file(GOOD, 22);
    read_single(&good).unwrap();
    for len in 0..good.len() {
        refused(read_single(&good[..len]), "");
    }
    refused(read_single(&[&good[..], &[0]].concat()), "the file at");
}

#[test]
fn any_byte_changed_never_panics() {
    let good = file(GOOD, 22);
    for at in 0..good.len() - 22 {
        for with in [0x00, 0x22, 0x2d, 0x39, 0x5b, 0x7d, 0xff, good[at] ^ 1, good[at] ^ 0x80] {
            let mut bad = good.clone();
            bad[at] = with;
            let _ = read_single(&bad);
        }
    }
}

#[test]
fn lying_header_lengths() {
    let with_length = |length: u64| {
        let mut bytes = file(GOOD, 22);
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        bytes
    };
    refused(read_single(&with_length(u64::MAX)), "more than the format allows");
    refused(read_single(&with_length(u64::MAX - 7)), "more than the format allows");
    refused(read_single(&with_length(100_000_001)), "more than the format allows");
    refused(read_single(&with_length(100_000_000)), "bytes, the file has");
    refused(read_single(&with_length(GOOD.len() as u64 + 23)), "bytes, the file has");
    refused(read_single(&with_length(GOOD.len() as u64 - 1)), "not the JSON");
    refused(read_single(&with_length(0)), "not the JSON");
}

#[test]
fn headers_that_are_not_the_json_expected() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for header in [
        "",
        "[]",
        "null",
        "{",
        "{}{}",
        r#"{"a":1}"#,
        r#"{"a":{}}"#,
        r#"{"a":{"dtype":"F32","shape":[1]}}"#,
        r#"{"a":{"dtype":7,"shape":[1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,4]}}"#,
        r#"{"__metadata__":{"format":1}}"#,
        "{\"a\":\"\u{0}\"}",
        &deep,
        &format!(r#"{{"a":{deep}}}"#),
    ] {
        refused(read_single(&file(header, 4)), "header: not the JSON expected");
    }
    let mut not_utf8 = file(r#"{"?":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4);
    not_utf8[10] = 0xff;
    refused(read_single(&not_utf8), "not the JSON expected");
}

#[test]
fn shapes_and_offsets_that_lie() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        read_single(&file(&format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#), 16))
    };
    one("F32", "[4]", "[0,16]").unwrap();
    refused(one("F32", "[3]", "[0,16]"), "does not take the 16 bytes");
    refused(one("F32", "[5]", "[0,20]"), "reach past");
    refused(one("F32", "[4]", "[16,0]"), "backwards");
    refused(one("F32", "[4]", "[1,17]"), "reach past");
    refused(one("F32", "[3]", "[4,16]"), "gap");
    refused(one("F32", "[3]", "[0,12]"), "the file at");
    refused(one("F32", "[0]", "[0,0]"), "the file at");
    refused(one("F32", "[4]", "[0,18446744073709551615]"), "reach past");
    refused(one("F32", "[4]", "[18446744073709551600,18446744073709551615]"), "reach past");
    refused(one("F32", "[4294967296,4294967296,4]", "[0,16]"), "overflows");
    refused(one("F32", "[9223372036854775808,2,4]", "[0,16]"), "overflows");
    refused(one("F32", "[576460752303423488,8]", "[0,16]"), "overflows");
    refused(one("F64", "[2]", "[0,16]"), "F64 elements are not supported");
    refused(one("F4", "[32]", "[0,16]"), "F4 elements are not supported");
    refused(one("U8", "[16]", "[0,16]"), "NF4");
    refused(one("F33", "[4]", "[0,16]"), "unknown dtype");
    refused(one("f32", "[4]", "[0,16]"), "unknown dtype");
    refused(one("F4", "[31]", "[0,16]"), "does not take");

    let two = |a: &str, b: &str| {
        let header = format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{a}}},"b":{{"dtype":"F32","shape":[2],"data_offsets":{b}}}}}"#
        );
        read_single(&file(&header, 16))
    };
    two("[0,8]", "[8,16]").unwrap();
    two("[8,16]", "[0,8]").unwrap();
    refused(two("[0,8]", "[0,8]"), "overlaps");
    refused(two("[0,8]", "[4,12]"), "overlaps");

    // Eight tensors whose sizes add up past 2⁶⁴, so that their end seems to be that of a small file.
    let huge = 1u64 << 61;
    let entries: Vec<String> = (0..8)
        .map(|i: u64| {
            let (from, to) = (i.wrapping_mul(huge), (i + 1).wrapping_mul(huge).wrapping_sub(u64::from(i == 7)));
            format!(r#""t{i}":{{"dtype":"U8","shape":[{}],"data_offsets":[{from},{to}]}}"#, to.wrapping_sub(from))
        })
        .collect();
    refused(read_single(&file(&format!("{{{}}}", entries.join(",")), 0)), "reach past");
}

#[test]
fn one_name_twice() {
    let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    refused(read_single(&file(header, 8)), "there twice");
}

#[test]
fn names_from_a_file_do_not_reach_the_terminal_raw() {
    let name = format!("\\u001b[2J{}", "x".repeat(10_000));
    let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}}}"#);
    let error = read_single(&file(&header, 4)).unwrap_err().to_string();
    assert!(!error.contains('\u{1b}') && error.len() < 1000, "{error}");
}

#[test]
fn an_index_that_leads_astray() {
    let shard = file(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4);
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("x.safetensors"), &shard).unwrap();
    let absolute = outside.path().join("x.safetensors");
    let with_index = |index: &str| {
        let files: [(&str, &[u8]); 3] = [
            ("model.safetensors.index.json", index.as_bytes()),
            ("s1.safetensors", &shard),
            ("s2.safetensors", &shard),
        ];
        let dir = folder(&files);
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/s.safetensors"), &shard).unwrap();
        read_all(dir.path())
    };
    let with_shard = |name: &str| with_index(&format!(r#"{{"weight_map":{{"a":{}}}}}"#, serde_json::json!(name)));
    with_shard("s1.safetensors").unwrap();
    for name in [
        "../x.safetensors",
        "sub/s.safetensors",
        "./s1.safetensors",
        "sub/../s1.safetensors",
        "..\\x.safetensors",
        "C:x.safetensors",
        "",
        ".",
        "..",
        "s1.safetensors\0",
        "\u{1b}[2J.safetensors",
        absolute.to_str().unwrap(),
    ] {
        let error = with_shard(name).expect_err(name).to_string();
        assert!(error.contains("not a plain file name"), "{name}: {error}");
    }
    refused(with_shard("absent.safetensors"), "absent.safetensors");
    assert!(with_shard("sub").is_err(), "a folder");
    refused(with_shard("model.safetensors.index.json"), "header");
    refused(with_index(r#"{"weight_map":{"b":"s1.safetensors"}}"#), "not in s1.safetensors");
    refused(with_index(r#"{"weight_map":{"a":"s1.safetensors","b":"s2.safetensors"}}"#), "another shard");
    for index in ["", "[]", "{}", r#"{"weight_map":[]}"#, r#"{"weight_map":{"a":1}}"#, r#"{"weight_map":{"a":null}}"#] {
        refused(with_index(index), "not the JSON expected");
    }
    refused(with_index(r#"{"weight_map":{}}"#), "names no tensor");
}

#[test]
fn an_empty_folder_says_what_is_missing() {
    let error = read_all(folder(&[]).path()).unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("index.json"), "{error}");
}

/// One part of an NF4 weight of 130 elements: suffix, type, bytes.
type Part = (&'static str, &'static str, Vec<u8>);

fn nf4_parts() -> Vec<Part> {
    let state = r#"{"quant_type":"nf4","blocksize":64,"dtype":"bfloat16","shape":[10,13],"nested_blocksize":256,"nested_dtype":"float32","nested_offset":0.5}"#;
    vec![
        ("", "U8", vec![0; 65]),
        (".absmax", "U8", vec![0; 3]),
        (".nested_absmax", "F32", vec![0; 4]),
        (".nested_quant_map", "F32", vec![0; 1024]),
        (".quant_map", "F32", vec![0; 64]),
        (".quant_state.bitsandbytes__nf4", "U8", state.into()),
    ]
}

fn read_nf4(parts: &[Part]) -> Result<(), Error> {
    let mut entries = Vec::new();
    let mut data: Vec<u8> = Vec::new();
    for (suffix, dtype, bytes) in parts {
        let elements = bytes.len()
            / match *dtype {
                "F32" => 4,
                "BF16" => 2,
                _ => 1,
            };
        let (from, to) = (data.len(), data.len() + bytes.len());
        entries.push(format!(r#""w{suffix}":{{"dtype":"{dtype}","shape":[{elements}],"data_offsets":[{from},{to}]}}"#));
        data.extend(bytes);
    }
    let mut bytes = file(&format!("{{{}}}", entries.join(",")), 0);
    bytes.extend(data);
    read_single(&bytes)
}

#[test]
fn nf4_parts_that_lie() {
    read_nf4(&nf4_parts()).unwrap();
    // Each part missing, too short, too long, of another type.
    for (i, (suffix, dtype, _)) in nf4_parts().iter().enumerate() {
        let mut parts = nf4_parts();
        parts.remove(i);
        if !suffix.is_empty() {
            refused(
                read_nf4(&parts),
                if *suffix == ".quant_state.bitsandbytes__nf4" { "quant_state" } else { "absent" },
            );
        }
        for change in [-4i64, -1, 1, 4] {
            let mut parts = nf4_parts();
            let len = parts[i].2.len() as i64 + change;
            if len < 0 || (parts[i].1 == "F32" && len % 4 != 0) {
                continue;
            }
            parts[i].2.resize(len as usize, 0);
            refused(read_nf4(&parts), "");
        }
        let mut parts = nf4_parts();
        parts[i].1 = if *dtype == "U8" { "I8" } else { "I32" };
        let whole = parts[i].2.len() / 4 * 4;
        parts[i].2.truncate(whole);
        if !suffix.is_empty() {
            refused(read_nf4(&parts), "");
        }
    }
}

#[test]
fn nf4_states_that_lie() {
    let with_state = |state: &str| {
        let mut parts = nf4_parts();
        parts[5].2 = state.into();
        read_nf4(&parts)
    };
    let state = |quant_type: &str, blocksize: &str, shape: &str, rest: &str| {
        with_state(&format!(r#"{{"quant_type":{quant_type},"blocksize":{blocksize},"shape":{shape}{rest}}}"#))
    };
    let nested = r#","nested_blocksize":256,"nested_offset":0.5"#;
    state(r#""nf4""#, "64", "[10,13]", nested).unwrap();
    state(r#""nf4""#, "64", "[129]", nested).unwrap(); // an odd count leaves half a byte
    refused(state(r#""fp4""#, "64", "[10,13]", nested), "fp4");
    refused(state("4", "64", "[10,13]", nested), "not the JSON");
    for blocksize in ["0", "32", "128", "18446744073709551615"] {
        refused(state(r#""nf4""#, blocksize, "[10,13]", nested), "only 64");
    }
    refused(state(r#""nf4""#, "-64", "[10,13]", nested), "not the JSON");
    for shape in ["[]", "[0]", "[10,14]", "[1000000000000]", "[128]"] {
        refused(state(r#""nf4""#, "64", shape, nested), "65 bytes");
    }
    for shape in ["[4294967296,4294967296,130]", "[9223372036854775808,2,130]"] {
        refused(state(r#""nf4""#, "64", shape, nested), "overflows");
    }
    for shape in ["130", "[-130]", "[1e2]", "null"] {
        refused(state(r#""nf4""#, "64", shape, nested), "not the JSON");
    }
    for size in ["0", "64", "18446744073709551615"] {
        refused(state(r#""nf4""#, "64", "[10,13]", &format!(r#","nested_blocksize":{size}"#)), "only 256");
    }
    refused(state(r#""nf4""#, "64", "[10,13]", r#","nested_blocksize":256,"nested_offset":1e300"#), "finite");
    refused(state(r#""nf4""#, "64", "[10,13]", ""), "U8 elements where F32");
    for junk in ["", "{", "[]", "null", "{}"] {
        refused(with_state(junk), "not the JSON");
    }
    let deep = "[".repeat(200_000);
    refused(with_state(&deep), "not the JSON");
}

#[test]
fn nf4_parts_without_their_weight_are_tensors_like_others() {
    let mut parts = nf4_parts();
    parts.remove(0);
    refused(read_nf4(&parts), "quant_state"); // U8 elements, of no known meaning
}
