//! The metadata of a `gemma3` GGUF file and of its mmproj.
//!
//! Real files lack the layer pattern, the local θ and query_pre_attn_scalar; llama.cpp fills them in by hand, and so
//! does this.

use super::{Config, Rope, TextConfig, TokenIds, VisionConfig, default_layers, pattern_layers};
use crate::Error;
use medgemma_formats::{Array, Gguf, Value};

/// A GGUF file with its name and the prefix of its keys.
struct Keys<'a> {
    file: &'a str,
    prefix: &'static str,
    gguf: &'a Gguf,
}

/// The layer count of the 27B, whose query_pre_attn_scalar is hidden / heads instead of head_dim.
const LAYERS_27B: usize = 62;

pub(super) fn config(file: &str, model: &Gguf, mmproj: Option<(&str, &Gguf)>) -> Result<Config, Error> {
    let k = Keys { file, prefix: "gemma3.", gguf: model };
    let architecture = model.str("general.architecture")?.unwrap_or("");
    if architecture != "gemma3" {
        return Err(k.bad("general.architecture", format!("{architecture:?} isn't gemma3")));
    }
    let text = text_config(&k)?;
    let vision = mmproj.map(|(file, gguf)| vision(&Keys { file, prefix: "clip.", gguf }, text.hidden)).transpose()?;
    let image = token(model, "<image_soft_token>")?.unwrap_or(262_144);
    let mut eos = Vec::new();
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
        if let Some(id) = model.u64(key)? {
            eos.push(u32::try_from(id).map_err(|_| k.bad(key, format!("{id} isn't a token id")))?);
        }
    }
    // Instruction-tuned files name one of the two that end a reply.
    for content in ["<eos>", "<end_of_turn>"] {
        if let Some(id) = token(model, content)?
            && !eos.contains(&id)
        {
            eos.push(id);
        }
    }
    Ok(Config { text, vision, tokens: TokenIds { eos, image } })
}

/// The factor on attention scores, which a GGUF doesn't say: `head_dim^-1/2`, but for the 27B.
pub(crate) fn implied_scale(layers: usize, hidden: usize, heads: usize, head_dim: usize) -> f32 {
    let pre_attention = if layers == LAYERS_27B { hidden / heads } else { head_dim };
    (pre_attention as f64).powf(-0.5) as f32
}

fn token(model: &Gguf, content: &str) -> Result<Option<u32>, Error> {
    let tokens = model.strings("tokenizer.ggml.tokens")?.unwrap_or(&[]);
    Ok(tokens.iter().position(|t| t == content).and_then(|i| u32::try_from(i).ok()))
}

fn text_config(k: &Keys) -> Result<TextConfig, Error> {
    let layers = k.size("block_count", None)?;
    let hidden = k.size("embedding_length", None)?;
    let heads = k.size("attention.head_count", None)?;
    let head_dim = k.size("attention.key_length", Some(256))?;
    if layers > 1 << 10 {
        return Err(k.bad("gemma3.block_count", format!("{layers} is out of range")));
    }
    if k.size("attention.value_length", Some(head_dim))? != head_dim {
        return Err(k.bad("gemma3.attention.value_length", "differs from key_length".into()));
    }
    if heads == 0 {
        return Err(k.bad("gemma3.attention.head_count", "must be at least 1".into()));
    }
    let vocab = match k.gguf.tensor("token_embd.weight") {
        Some(t) => t.rows(),
        None => return Err(k.bad("token_embd.weight", "the file has no such tensor".into())),
    };
    Ok(TextConfig {
        vocab,
        hidden,
        ffn: k.size("feed_forward_length", None)?,
        heads,
        kv_heads: k.size("attention.head_count_kv", Some(heads))?,
        head_dim,
        scale: implied_scale(layers, hidden, heads, head_dim),
        window: k.size("attention.sliding_window", Some(1024))?,
        global: k.layer_kinds(layers)?,
        eps: k.f32("attention.layer_norm_rms_epsilon", 1e-6)?,
        rope_global: Rope { theta: k.f32("rope.freq_base", 1e6)?, factor: k.rope_factor()? },
        rope_local: Rope { theta: k.f32("rope.freq_base_swa", 1e4)?, factor: 1.0 },
        max_position: k.size("context_length", Some(131_072))?,
        tied: k.gguf.tensor("output.weight").is_none(),
    })
}

fn vision(k: &Keys, text_hidden: usize) -> Result<VisionConfig, Error> {
    // Newer converters name the projector under clip.vision.
    let kind = match k.gguf.str("clip.projector_type")? {
        Some(kind) => kind,
        None => k.gguf.str("clip.vision.projector_type")?.unwrap_or(""),
    };
    if kind != "gemma3" {
        return Err(k.bad("clip.projector_type", format!("{kind:?} isn't gemma3: this mmproj is another model's")));
    }
    let projected = k.size("vision.projection_dim", Some(text_hidden))?;
    if projected != text_hidden {
        return Err(k.bad(
            "clip.vision.projection_dim",
            format!("{projected} differs from the model's {text_hidden}: this mmproj belongs to another size"),
        ));
    }
    let image = k.size("vision.image_size", Some(896))?;
    let patch = k.size("vision.patch_size", Some(14))?;
    if patch == 0 || image / patch == 0 {
        return Err(k.bad("clip.vision.patch_size", format!("{patch} doesn't fit an image of {image}")));
    }
    // Gemma 3 averages 4×4 patches; newer files may say so.
    let pool = k.size("vision.projector.scale_factor", Some(4))?.max(1);
    let side = image / patch / pool;
    Ok(VisionConfig {
        hidden: k.size("vision.embedding_length", None)?,
        ffn: k.size("vision.feed_forward_length", None)?,
        layers: k.size("vision.block_count", None)?,
        heads: k.size("vision.attention.head_count", None)?,
        image,
        patch,
        eps: k.f32("vision.attention.layer_norm_epsilon", 1e-6)?,
        tokens_per_image: side * side,
    })
}

impl Keys<'_> {
    fn bad(&self, field: &str, problem: String) -> Error {
        Error::Config { file: self.file.to_owned(), field: field.to_owned(), problem }
    }

    fn size(&self, key: &str, default: Option<usize>) -> Result<usize, Error> {
        let key = format!("{}{key}", self.prefix);
        match self.gguf.u64(&key)? {
            Some(n) if n <= 1 << 30 => Ok(n as usize),
            Some(n) => Err(self.bad(&key, format!("{n} is out of range"))),
            None => default.ok_or_else(|| self.bad(&key, "the file has no such key".into())),
        }
    }

    fn f32(&self, key: &str, default: f32) -> Result<f32, Error> {
        Ok(self.gguf.f32(&format!("{}{key}", self.prefix))?.unwrap_or(default))
    }

    /// For each layer whether it is global: every sixth unless the file says which are local, or every how manieth isn't.
    fn layer_kinds(&self, layers: usize) -> Result<Vec<bool>, Error> {
        let key = "gemma3.attention.sliding_window_pattern";
        match self.gguf.get(key) {
            None => Ok(default_layers(layers)),
            Some(Value::Array(Array::Bool(local))) if local.len() == layers => {
                Ok(local.iter().map(|local| !local).collect())
            }
            Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(pattern) if pattern > 0 => Ok(pattern_layers(layers, pattern)),
                _ => Err(self.bad(key, format!("is neither a bool for each of the {layers} layers nor their period"))),
            },
        }
    }

    fn rope_factor(&self) -> Result<f32, Error> {
        match self.gguf.str("gemma3.rope.scaling.type")? {
            None | Some("none") => Ok(1.0),
            Some("linear") => self.f32("rope.scaling.factor", 1.0),
            Some(other) => Err(self.bad("gemma3.rope.scaling.type", format!("{other:?} isn't none or linear"))),
        }
    }
}
