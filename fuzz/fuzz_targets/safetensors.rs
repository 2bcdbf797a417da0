//! A safetensors file: header, shapes, NF4 parts and every element.
#![no_main]

use libfuzzer_sys::fuzz_target;
use medgemma_formats::{Bytes, Safetensors};

fuzz_target!(|data: &[u8]| {
    let Ok(weights) = Safetensors::from_bytes("fuzz.safetensors", Bytes::from(data.to_vec())) else { return };
    for name in weights.names() {
        if let Ok(tensor) = weights.tensor(name) {
            let tensor = tensor.expect("it was just named");
            tensor.to_f32().expect("its bytes were checked");
        }
    }
});
