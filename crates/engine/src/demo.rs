//! The model inside the program.
//!
//! A small Gemma 3 with a SigLIP encoder, trained by tools/demo-model on synthetic pictures and made-up records:
//! docs/demo-model.md says what it can do. A toy, never for patients.

use crate::error::Error;
use medgemma_formats::{Bytes, Gguf};

const MODEL: &[u8] = include_bytes!("../../../demo-model/medgemma-demo-q8_0.gguf");
const MMPROJ: &[u8] = include_bytes!("../../../demo-model/mmproj-medgemma-demo-q8_0.gguf");

/// Its files: the decoder and the image encoder.
pub(crate) fn files() -> Result<(Gguf, Gguf), Error> {
    let open = |name: &str, bytes| Gguf::from_bytes(name, Bytes::from_static(bytes));
    Ok((open("demo", MODEL)?, open("demo (mmproj)", MMPROJ)?))
}
