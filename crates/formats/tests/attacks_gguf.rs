//! Malformed GGUF files: each must be an error that names the file, never a panic, never a large allocation.

use cap::Cap;
use medgemma_formats::{Array, DType, Error, Gguf, GgufWriter, Value};
use std::alloc::System;

/// Allocating by a size that a file merely claims ends the test.
#[global_allocator]
static LIMITED: Cap<System> = Cap::new(System, 64 << 20);

/// Opens a file and reads everything in it.
fn read(bytes: &[u8]) -> Result<(), Error> {
    let gguf = Gguf::from_bytes("evil.gguf", bytes.to_vec().into())?;
    for name in gguf.names() {
        let tensor = gguf.tensor(name).expect("it was just named");
        tensor.to_f32()?;
        assert_eq!(tensor.rows() * tensor.cols(), tensor.len());
    }
    Ok(())
}

/// The error must name the file and say `why`.
#[track_caller]
fn refused(bytes: &[u8], why: &str) {
    let error = read(bytes).expect_err(why).to_string();
    assert!(error.contains("evil.gguf"), "names no file: {error}");
    assert!(error.contains(why), "{error:?} doesn't say {why:?}");
    assert!(error.len() < 1500, "{} bytes of error", error.len());
}

/// A file put together by hand, so that every number in it can lie.
#[derive(Clone)]
struct Raw {
    version: u32,
    tensor_count: u64,
    pair_count: u64,
    pairs: Vec<u8>,
    infos: Vec<u8>,
    data: usize,
}

impl Raw {
    fn new() -> Self {
        Self { version: 3, tensor_count: 0, pair_count: 0, pairs: Vec::new(), infos: Vec::new(), data: 0 }
    }

    /// Adds a pair whose value is given as it stands in the file, its type before it.
    fn pair(mut self, key: &str, value: &[u8]) -> Self {
        self.pairs.extend(string(key));
        self.pairs.extend(value);
        self.pair_count += 1;
        self
    }

    fn tensor(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        self.infos.extend(string(name));
        self.infos.extend((dims.len() as u32).to_le_bytes());
        self.infos.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
        self.infos.extend(kind.to_le_bytes());
        self.infos.extend(offset.to_le_bytes());
        self.tensor_count += 1;
        self
    }

    fn data(mut self, bytes: usize) -> Self {
        self.data = bytes;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.to_le_bytes());
        out.extend(self.pair_count.to_le_bytes());
        out.extend(&self.pairs);
        out.extend(&self.infos);
        out.resize(out.len().next_multiple_of(32) + self.data, 0);
        out
    }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A value: its type's number, then its bytes.
fn value(kind: u32, bytes: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes(), bytes].concat()
}

/// An array value that claims `count` elements of type `kind`.
fn array(kind: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    value(9, &[&kind.to_le_bytes()[..], &count.to_le_bytes(), elements].concat())
}

/// A valid file with a value of most kinds and two tensors.
fn good() -> Vec<u8> {
    let mut writer = GgufWriter::new("good.gguf");
    writer.set("general.architecture", "gemma3").unwrap();
    writer.set("a.count", 7u32).unwrap();
    writer.set("a.flag", true).unwrap();
    writer.set("a.names", vec!["x".to_owned(), "yy".to_owned()]).unwrap();
    writer.set("a.nested", Array::Array(vec![Array::F32(vec![1.0]), Array::U8(vec![])])).unwrap();
    writer.set("a.long", Value::I64(-1)).unwrap();
    writer.tensor("one", DType::F32, &[2, 3]).unwrap();
    writer.tensor("two", DType::Q8_0, &[32]).unwrap();
    let mut tensors = writer.to(Vec::new()).unwrap();
    tensors.write(&[0; 24]).unwrap();
    tensors.write(&[0; 34]).unwrap();
    tensors.finish().unwrap()
}

#[test]
fn cut_short_anywhere() {
    let good = good();
    read(&good).unwrap();
    // The padding after the last tensor may be missing: some writers leave it out.
    let needed = good.len() - 64 + 34;
    for len in 0..needed {
        refused(&good[..len], "");
    }
    read(&good[..needed]).unwrap();
}

#[test]
fn any_byte_changed_never_panics() {
    let good = good();
    for at in 0..good.len() {
        for with in [0x00, 0x01, 0x7f, 0x80, 0xff, good[at] ^ 1, good[at].wrapping_add(1)] {
            let mut bad = good.clone();
            bad[at] = with;
            let _ = read(&bad);
        }
    }
}

#[test]
fn other_files_and_versions() {
    refused(b"", "magic");
    refused(b"GGML\x03\0\0\0", "not a GGUF");
    refused(&[b'G'; 100], "not a GGUF");
    let version = |version| Raw { version, ..Raw::new() }.bytes();
    read(&version(2)).unwrap();
    read(&version(3)).unwrap();
    refused(&version(0), "version");
    refused(&version(1), "version 1");
    refused(&version(4), "version 4");
    refused(&version(3u32.swap_bytes()), "big-endian");
}

#[test]
fn counts_that_lie() {
    let raw = Raw::new().pair("k", &value(4, &[1, 0, 0, 0])).tensor("t", &[1], 0, 0).data(4);
    read(&raw.bytes()).unwrap();
    for count in [2, 1000, u64::MAX / 24, u64::MAX / 13 + 1, 1 << 63, u64::MAX] {
        refused(&Raw { tensor_count: count, ..raw.clone() }.bytes(), "");
        refused(&Raw { pair_count: count, ..raw.clone() }.bytes(), "");
    }
    refused(&Raw { tensor_count: u64::MAX, ..raw.clone() }.bytes(), "tensor_count");
    refused(&Raw { pair_count: u64::MAX, ..raw }.bytes(), "metadata_kv_count");
}

#[test]
fn strings_that_lie() {
    for len in [1000u64, 1 << 32, 1 << 63, u64::MAX, u64::MAX - 7] {
        let lying = [&len.to_le_bytes()[..], b"abcd"].concat();
        refused(&Raw::new().pair("k", &value(8, &lying)).bytes()[..24 + 9 + 4 + 12], "");
        let mut raw = Raw::new();
        raw.pairs = lying.clone();
        raw.pair_count = 1;
        refused(&raw.bytes(), "");
        let mut raw = Raw::new();
        raw.infos = lying;
        raw.tensor_count = 1;
        refused(&raw.bytes(), "");
    }
    let latin1 = [&2u64.to_le_bytes()[..], &[0xc3, 0x28]].concat();
    refused(&Raw::new().pair("k", &value(8, &latin1)).bytes(), "not UTF-8");
}

#[test]
fn values_that_lie() {
    refused(&Raw::new().pair("k", &value(13, &[0; 8])).bytes(), "unknown value type 13");
    refused(&Raw::new().pair("k", &value(u32::MAX, &[0; 8])).bytes(), "unknown value type");
    refused(&Raw::new().pair("k", &value(7, &[2])).bytes(), "a bool of 2");
    refused(&Raw::new().pair("k", &array(7, 2, &[1, 2])).bytes(), "a bool of 2");
    refused(&Raw::new().pair("k", &array(13, 1, &[0; 8])).bytes(), "unknown type 13");
    for kind in 0..=12 {
        for count in [100, 1 << 32, 1 << 61, 1 << 62, 1 << 63, u64::MAX] {
            refused(&Raw::new().pair("k", &array(kind, count, &[0; 8])).bytes(), "k: ");
        }
    }
    let twice = Raw::new().pair("k", &value(0, &[1])).pair("k", &value(0, &[2]));
    refused(&twice.bytes(), "there twice");
}

#[test]
fn arrays_of_arrays_without_end() {
    let mut deep = value(9, &[]);
    for _ in 0..100_000 {
        deep.extend(9u32.to_le_bytes());
        deep.extend(1u64.to_le_bytes());
    }
    refused(&Raw::new().pair("k", &deep).bytes(), "nested deeper");
}

#[test]
fn alignments_that_lie() {
    let with =
        |alignment: &[u8]| Raw::new().pair("general.alignment", alignment).tensor("t", &[1], 0, 0).data(64).bytes();
    let u32s = |n: u32| value(4, &n.to_le_bytes());
    read(&with(&u32s(32))).unwrap();
    read(&with(&u32s(1))).unwrap();
    for bad in [0u32, 3, 24, 33, u32::MAX] {
        refused(&with(&u32s(bad)), "power of two");
    }
    refused(&with(&u32s(1 << 31)), "reach past");
    refused(&with(&value(10, &(1u64 << 63).to_le_bytes())), "");
    refused(&with(&value(10, &u64::MAX.to_le_bytes())), "power of two");
    refused(&with(&value(5, &(-32i32).to_le_bytes())), "power of two");
    refused(&with(&value(8, &string("32"))), "power of two");
    refused(&with(&array(4, 1, &32u32.to_le_bytes())), "power of two");
}

#[test]
fn shapes_that_lie() {
    let with = |dims: &[u64], kind: u32| Raw::new().tensor("t", dims, kind, 0).data(64).bytes();
    read(&with(&[16], 0)).unwrap();
    read(&with(&[4, 2, 1, 2], 0)).unwrap();
    refused(&with(&[17], 0), "reach past");
    refused(&with(&[1, 1, 1, 1, 1], 0), "5 dimensions");
    refused(&with(&[0], 0), "a dimension of 0");
    refused(&with(&[16, 0], 0), "a dimension of 0");
    refused(&with(&[u64::MAX], 0), "overflows");
    refused(&with(&[u64::MAX], 12), "whole");
    refused(&with(&[1 << 62], 0), "overflows");
    refused(&with(&[1 << 32, 1 << 32], 0), "overflows");
    refused(&with(&[1 << 32, 1 << 30, 4], 0), "overflows");
    refused(&with(&[1 << 63, 2], 1), "overflows");
    refused(&with(&[1 << 61, 4], 8), "reach past");
    refused(&with(&[1 << 60], 0), "reach past");
    refused(&with(&[31], 8), "whole Q8_0 blocks");
    refused(&with(&[16, 2], 8), "whole Q8_0 blocks");
    refused(&with(&[128, 2], 12), "whole Q4_K blocks");
    let mut many_dims = Raw::new().tensor("t", &[1], 0, 0).data(64);
    let at = many_dims.infos.len() - 4 - 8 - 8 - 4;
    many_dims.infos[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    refused(&many_dims.bytes(), "4294967295 dimensions");
}

#[test]
fn types_that_are_not_known() {
    let with = |kind: u32| Raw::new().tensor("blk.0.ffn_up.weight", &[256], kind, 0).data(2048).bytes();
    for (kind, name) in [(16, "IQ2_XXS"), (9, "Q8_1"), (26, "I32"), (28, "F64"), (35, "TQ2_0"), (39, "MXFP4")] {
        refused(&with(kind), name);
        refused(&with(kind), "blk.0.ffn_up.weight");
    }
    for kind in [4, 5, 31, 32, 33, 1000, u32::MAX] {
        refused(&with(kind), "unknown element type");
    }
}

#[test]
fn offsets_that_lie() {
    let with = |offset: u64| Raw::new().tensor("t", &[8], 0, offset).data(64).bytes();
    read(&with(0)).unwrap();
    read(&with(32)).unwrap();
    refused(&with(64), "reach past");
    refused(&with(1), "not a multiple");
    refused(&with(31), "not a multiple");
    for offset in [1 << 40, 1 << 63, u64::MAX - 31, u64::MAX - 63] {
        refused(&with(offset), "reach past");
    }
    refused(&with(u64::MAX), "not a multiple");
}

#[test]
fn names_that_are_empty() {
    refused(&Raw::new().pair("", &value(0, &[1])).bytes(), "an empty key");
    refused(&Raw::new().tensor("", &[1], 0, 0).data(4).bytes(), "an empty name");
}

#[test]
fn tensors_that_collide() {
    let two =
        |name: &str, offset: u64| Raw::new().tensor("a", &[16], 0, 0).tensor(name, &[8], 0, offset).data(128).bytes();
    read(&two("b", 64)).unwrap();
    refused(&two("b", 0), "overlaps");
    refused(&two("b", 32), "overlaps");
    refused(&two("a", 64), "there twice");
}

#[test]
fn names_from_a_file_do_not_reach_the_terminal_raw() {
    let name = format!("\u{1b}[2J{}", "x".repeat(10_000));
    let error = read(&Raw::new().tensor(&name, &[0], 0, 0).bytes()).unwrap_err().to_string();
    assert!(!error.contains('\u{1b}') && error.len() < 1000, "{error}");
}
