//! The model inside the program.
//!
//! It is tiny and random: it shows that the whole path works (weights, tokenizer, template, image encoder, sampler),
//! and its words mean nothing.

use medgemma_formats::Folder;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../../testdata/tiny-mm/", $name)))),*]
    };
}

/// Its files, in Hugging Face layout.
pub(crate) fn folder() -> Folder {
    Folder::embedded(files![
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ])
}
