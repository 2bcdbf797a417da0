//! A GGUF file: metadata, tensor descriptions and every element.
#![no_main]

use libfuzzer_sys::fuzz_target;
use medgemma_formats::{Bytes, Gguf};

fuzz_target!(|data: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes("fuzz.gguf", Bytes::from(data.to_vec())) else { return };
    for (key, _) in gguf.metadata() {
        let _ = (gguf.str(key), gguf.u64(key), gguf.f32(key), gguf.bool(key));
        let _ = (gguf.strings(key), gguf.f32s(key), gguf.i32s(key));
    }
    for name in gguf.names() {
        let tensor = gguf.tensor(name).expect("it was just named");
        tensor.to_f32().expect("its bytes were checked");
        if tensor.rows() > 0 {
            let mut row = vec![0.0; tensor.cols()];
            tensor.row_f32(tensor.rows() - 1, &mut row).expect("its bytes were checked");
        }
    }
});
