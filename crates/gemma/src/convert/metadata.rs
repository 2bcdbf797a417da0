//! The keys of a converted file, as llama.cpp's converter writes them for Gemma 3.

use super::mix::Target;
use super::{Error, Source};
use crate::config::{default_layers, implied_scale};
use crate::text::{ChatTemplate, Tokenizer};
use crate::{Config, VisionConfig, Weights};
use medgemma_formats::{Array, Folder, Gguf, GgufWriter, Value};
use serde_json::Value as Json;

/// The version of ggml's block layouts.
const QUANTIZATION_VERSION: u32 = 2;

/// What the GGUF can't say as a key and the queries' norm says instead: readers scale scores by `head_dim^-1/2`
/// (the 27B's by its own rule), so the rest of the checkpoint's factor goes into the weights that queries are
/// multiplied by.
pub(super) fn q_norm_factor(config: &Config) -> f32 {
    let c = &config.text;
    let implied = implied_scale(c.global.len(), c.hidden, c.heads, c.head_dim);
    (f64::from(c.scale) / f64::from(implied)) as f32
}

/// Sets the decoder's keys and returns what to tell the user.
pub(super) fn decoder(out: &mut GgufWriter, source: &Source, target: Target) -> Result<Vec<String>, Error> {
    let mut notes = Vec::new();
    match source.weights {
        Weights::Gguf { model, .. } => copy(out, model)?,
        Weights::Safetensors { .. } | Weights::Synthetic(_) => {
            let folder = source.folder.ok_or_else(|| missing(source.name, "tokenizer.json", "there is no folder"))?;
            out.set("general.type", "model")?;
            out.set("general.name", source.name)?;
            notes.extend(tokenizer(out, folder, source.config)?);
        }
    }
    out.set("general.architecture", "gemma3")?;
    general(out, target)?;
    architecture(out, source)?;
    Ok(notes)
}

fn general(out: &mut GgufWriter, target: Target) -> Result<(), Error> {
    out.set("general.file_type", target.file_type())?;
    Ok(out.set("general.quantization_version", QUANTIZATION_VERSION)?)
}

/// Takes over what a GGUF says that doesn't depend on how its tensors are stored.
fn copy(out: &mut GgufWriter, from: &Gguf) -> Result<(), Error> {
    for (key, value) in from.metadata() {
        if key != "general.alignment" && !key.starts_with("split.") {
            out.set(key, value.clone())?;
        }
    }
    Ok(())
}

fn architecture(out: &mut GgufWriter, source: &Source) -> Result<(), Error> {
    let c = &source.config.text;
    let mut set = |key: &str, value: Value| out.set(&format!("gemma3.{key}"), value);
    let size = |n: usize| -> Result<Value, Error> {
        let small = u32::try_from(n).map_err(|_| missing(source.name, "config", &format!("{n} is out of range")))?;
        Ok(Value::U32(small))
    };
    set("context_length", size(c.max_position)?)?;
    set("embedding_length", size(c.hidden)?)?;
    set("block_count", size(c.global.len())?)?;
    set("feed_forward_length", size(c.ffn)?)?;
    set("attention.head_count", size(c.heads)?)?;
    set("attention.head_count_kv", size(c.kv_heads)?)?;
    set("attention.key_length", size(c.head_dim)?)?;
    set("attention.value_length", size(c.head_dim)?)?;
    set("attention.layer_norm_rms_epsilon", c.eps.into())?;
    set("attention.sliding_window", size(c.window)?)?;
    // Readers take Gemma's pattern without being told; some don't know the key.
    if c.global != default_layers(c.global.len()) {
        let local = c.global.iter().map(|global| !global).collect();
        set("attention.sliding_window_pattern", Array::Bool(local).into())?;
    }
    set("rope.freq_base", c.rope_global.theta.into())?;
    set("rope.freq_base_swa", c.rope_local.theta.into())?;
    if c.rope_global.factor != 1.0 {
        set("rope.scaling.type", "linear".into())?;
        set("rope.scaling.factor", c.rope_global.factor.into())?;
    }
    if c.rope_local.factor != 1.0 {
        let problem = "a GGUF can't say that the local layers' positions are scaled, which no Gemma 3's are";
        return Err(missing(source.name, "rope_parameters.sliding_attention.factor", problem));
    }
    Ok(())
}

fn missing(file: &str, field: &str, problem: &str) -> Error {
    Error::Config { file: file.to_owned(), field: field.to_owned(), problem: problem.to_owned() }
}

/// Sets the tokenizer's keys from a folder's files.
fn tokenizer(out: &mut GgufWriter, folder: &Folder, config: &Config) -> Result<Option<String>, Error> {
    let name = folder.path().join("tokenizer.json").display().to_string();
    let tokenizer = Tokenizer::from_json(&name, &folder.read("tokenizer.json")?)?;
    let mut pieces = tokenizer.pieces(&name)?;
    let cut = pieces.resize(config.text.vocab);
    let settings = json(folder, "tokenizer_config.json")?;
    out.set("tokenizer.ggml.model", "llama")?;
    out.set("tokenizer.ggml.pre", "default")?;
    for (key, field, default) in [
        ("bos_token_id", "bos_token", "<bos>"),
        ("eos_token_id", "eos_token", "<eos>"),
        ("unknown_token_id", "unk_token", "<unk>"),
        ("padding_token_id", "pad_token", "<pad>"),
        ("eot_token_id", "eot_token", "<end_of_turn>"),
    ] {
        let token = &settings[field];
        let text = token.as_str().or(token["content"].as_str()).unwrap_or(default);
        if let Some(id) = tokenizer.id(text).filter(|&id| (id as usize) < config.text.vocab) {
            out.set(&format!("tokenizer.ggml.{key}"), id)?;
        }
    }
    let bos = !tokenizer.prefix().is_empty() || settings["add_bos_token"].as_bool().unwrap_or(true);
    out.set("tokenizer.ggml.add_bos_token", bos)?;
    out.set("tokenizer.ggml.add_eos_token", !tokenizer.suffix().is_empty())?;
    out.set("tokenizer.ggml.add_space_prefix", false)?;
    if let Some(template) = ChatTemplate::from_folder(folder)? {
        out.set("tokenizer.chat_template", template.source())?;
    }
    out.set("tokenizer.ggml.tokens", pieces.tokens)?;
    out.set("tokenizer.ggml.scores", pieces.scores)?;
    out.set("tokenizer.ggml.token_type", pieces.types)?;
    Ok((cut > 0).then(|| format!("the tokenizer's last {cut} tokens have no row in the model and were left out")))
}

/// A JSON file of the folder; null when it isn't there.
fn json(folder: &Folder, name: &str) -> Result<Json, Error> {
    if !folder.contains(name) {
        return Ok(Json::Null);
    }
    serde_json::from_slice(&folder.read(name)?)
        .map_err(|error| missing(&folder.path().join(name).display().to_string(), "JSON", &error.to_string()))
}

/// Sets the image encoder's keys.
pub(super) fn vision(out: &mut GgufWriter, v: &VisionConfig, source: &Source, target: Target) -> Result<(), Error> {
    let (mean, std) = match source.weights {
        Weights::Gguf { mmproj: Some(mmproj), .. } => {
            copy(out, mmproj)?;
            let channels = |key: &str| -> Result<Vec<f32>, Error> {
                Ok(mmproj.f32s(key)?.map_or_else(|| vec![0.5; 3], <[f32]>::to_vec))
            };
            (channels("clip.vision.image_mean")?, channels("clip.vision.image_std")?)
        }
        _ => {
            out.set("general.name", source.name)?;
            let settings = match source.folder {
                Some(folder) => json(folder, "preprocessor_config.json")?,
                None => Json::Null,
            };
            (channels(&settings["image_mean"]), channels(&settings["image_std"]))
        }
    };
    out.set("general.architecture", "clip")?;
    out.set("general.type", "mmproj")?;
    general(out, target)?;
    out.set("clip.has_vision_encoder", true)?;
    out.set("clip.projector_type", "gemma3")?;
    out.set("clip.use_gelu", true)?;
    let mut set = |key: &str, value: Value| out.set(&format!("clip.vision.{key}"), value);
    // Config's own check keeps all of these far below 2³².
    let size = |n: usize| Value::U32(n as u32);
    set("image_size", size(v.image))?;
    set("patch_size", size(v.patch))?;
    set("embedding_length", size(v.hidden))?;
    set("feed_forward_length", size(v.ffn))?;
    set("block_count", size(v.layers))?;
    set("projection_dim", size(source.config.text.hidden))?;
    set("attention.head_count", size(v.heads))?;
    set("attention.layer_norm_epsilon", v.eps.into())?;
    set("image_mean", mean.into())?;
    set("image_std", std.into())?;
    set("projector.scale_factor", size(v.pool()))?;
    Ok(())
}

/// A value for each channel: one, or a list of three; 0.5 unless given.
fn channels(value: &Json) -> Vec<f32> {
    let number = |v: &Json| v.as_f64().map(|v| v as f32);
    match value {
        Json::Array(list) => list.iter().filter_map(number).collect(),
        other => vec![number(other).unwrap_or(0.5); 3],
    }
}
