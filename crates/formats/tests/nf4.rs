//! NF4 against bitsandbytes: see `tools/goldens/nf4_blocks.py`.

use medgemma_formats::{DType, Folder, Safetensors, Tensor, quantize_nf4};
use std::path::Path;

fn golden() -> Safetensors {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    Safetensors::open_file(&Folder::open(&data).unwrap(), "nf4.safetensors").unwrap()
}

fn tensor(name: &str) -> Tensor {
    golden().tensor(name).unwrap().unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn parts_are_not_tensors_of_their_own() {
    assert_eq!(golden().names().collect::<Vec<_>>(), ["flat", "input", "nested", "nested.f32"]);
}

#[test]
fn decodes_to_the_bit() {
    let nested = tensor("nested");
    let expected = tensor("nested.f32").to_f32().unwrap();
    assert_eq!((nested.dtype, &nested.shape[..]), (DType::Nf4, &[130, 130][..]));
    assert!(bits(&nested.to_f32().unwrap()) == bits(&expected));
    for row in [0, 1, 2, 64, 129] {
        let mut out = [0.0; 130];
        nested.row_f32(row, &mut out).unwrap();
        assert!(bits(&out) == bits(&expected[row * 130..][..130]), "row {row}");
    }
}

#[test]
fn encodes_as_bitsandbytes_does() {
    let flat = tensor("flat");
    let (bytes, nf4) = quantize_nf4(&tensor("input").to_f32().unwrap());
    assert!(bytes == *flat.bytes);
    assert_eq!(Some(&nf4), flat.nf4.as_deref());
}
