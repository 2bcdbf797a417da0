//! What stands between text and tokens: tokenizer, chat template, image settings, default sampling.

use crate::error::Error;
use medgemma_formats::{Folder, Gguf};
use medgemma_gemma::Config;
use medgemma_gemma::image::Preprocessor;
use medgemma_gemma::sampler::Sampling;
use medgemma_gemma::text::{ChatTemplate, Tokenizer};
use serde_json::Value;

/// A checkpoint's files other than its weights.
pub(super) struct Assets {
    pub(super) tokenizer: Tokenizer,
    /// `None` for pre-trained checkpoints.
    pub(super) template: Option<ChatTemplate>,
    /// `None` when the model can't see.
    pub(super) preprocessor: Option<Preprocessor>,
    pub(super) sampling: Sampling,
}

impl Assets {
    pub(super) fn from_folder(folder: &Folder, config: &Config) -> Result<Self, Error> {
        let path = |name: &str| folder.path().join(name).display().to_string();
        let tokenizer = Tokenizer::from_json(&path("tokenizer.json"), &folder.read("tokenizer.json")?)?;
        let preprocessor = match &config.vision {
            None => None,
            Some(vision) => match ["preprocessor_config.json", "processor_config.json"]
                .into_iter()
                .find(|name| folder.contains(name))
            {
                Some(name) => Some(Preprocessor::from_json(&path(name), &folder.read(name)?, vision.patch)?),
                None => Some(Preprocessor::gemma3()),
            },
        };
        let sampling = match folder.contains("generation_config.json") {
            true => published_sampling(&folder.read("generation_config.json")?),
            false => Sampling::PUBLISHED,
        };
        Ok(Self { tokenizer, template: ChatTemplate::from_folder(folder)?, preprocessor, sampling })
    }

    pub(super) fn from_gguf(model: &Gguf, mmproj: Option<&Gguf>) -> Result<Self, Error> {
        let tokenizer = Tokenizer::from_gguf(model)?;
        let template = ChatTemplate::from_gguf(model, &tokenizer)?;
        let preprocessor = mmproj.map(Preprocessor::from_gguf).transpose()?;
        Ok(Self { tokenizer, template, preprocessor, sampling: Sampling::PUBLISHED })
    }
}

/// The sampling of a generation_config.json; what it doesn't name is off. Its ids were read with the configuration,
/// which refuses a malformed file.
fn published_sampling(json: &[u8]) -> Sampling {
    let config: Value = serde_json::from_slice(json).unwrap_or_default();
    let number = |field: &str| config[field].as_f64().map(|n| n as f32);
    if config["do_sample"].as_bool() == Some(false) {
        return Sampling::GREEDY;
    }
    let sampling = Sampling {
        temperature: number("temperature").unwrap_or(1.0),
        top_k: config["top_k"].as_u64().map_or(0, |k| k as usize),
        top_p: number("top_p").unwrap_or(1.0),
        min_p: number("min_p").unwrap_or(0.0),
        seed: 0,
    };
    match sampling.check() {
        Ok(()) => sampling,
        Err(_) => Sampling::PUBLISHED,
    }
}
