//! What a checkpoint says of its architecture.
//!
//! Configurations written by the hub omit every value that equals the default of `transformers`' config classes, so
//! those defaults are repeated here. Two spellings are in use and both are read: `sliding_window_pattern` or
//! `layer_types`; `rope_scaling` + `rope_theta` + `rope_local_base_freq`, or `rope_parameters`.

mod gguf;
mod json;
mod variants;

use crate::Error;
pub(crate) use gguf::implied_scale;

/// A whole model's configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The decoder.
    pub text: TextConfig,
    /// The image encoder; `None` for text-only checkpoints.
    pub vision: Option<VisionConfig>,
    /// Ids with a meaning of their own.
    pub tokens: TokenIds,
}

/// The Gemma 3 decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// Rows of the embedding table.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward network.
    pub ffn: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements of a head; even.
    pub head_dim: usize,
    /// Factor on attention scores: `query_pre_attn_scalar^-1/2`.
    pub scale: f32,
    /// Keys that a query of a local layer sees, its own included.
    pub window: usize,
    /// For each layer, whether it attends to everything (global) or to its window.
    pub global: Vec<bool>,
    /// Added to the mean square in every RMSNorm.
    pub eps: f32,
    /// Rotary embedding of the global layers.
    pub rope_global: Rope,
    /// Rotary embedding of the local layers.
    pub rope_local: Rope,
    /// Longest context the model was made for, in tokens.
    pub max_position: usize,
    /// Whether the output matrix is the embedding table.
    pub tied: bool,
}

/// A rotary position embedding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base θ of the frequencies `θ^(-2i/head_dim)`.
    pub theta: f32,
    /// Linear scaling: positions are divided by it.
    pub factor: f32,
}

/// The SigLIP image encoder and what joins it to the decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Width of the encoder.
    pub hidden: usize,
    /// Width of its feed-forward network.
    pub ffn: usize,
    /// Layers.
    pub layers: usize,
    /// Attention heads; divides `hidden`.
    pub heads: usize,
    /// Side of the square input, pixels.
    pub image: usize,
    /// Side of a patch, pixels; divides `image`.
    pub patch: usize,
    /// Added to the variance in every LayerNorm.
    pub eps: f32,
    /// Tokens an image becomes: a square number that divides the patches into squares.
    pub tokens_per_image: usize,
}

/// Token ids named by the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenIds {
    /// Ids that end a generation.
    pub eos: Vec<u32>,
    /// The placeholder that image features replace.
    pub image: u32,
}

impl Rope {
    /// Inverse frequencies `1 / (θ^(2i/head_dim) · factor)`, rounded to f32 where the reference rounds.
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        (0..head_dim / 2)
            .map(|i| {
                let exponent = (2 * i) as f32 / head_dim as f32;
                let inverse = 1.0 / (f64::from(self.theta).powf(f64::from(exponent)) as f32);
                inverse / self.factor
            })
            .collect()
    }
}

impl TextConfig {
    /// Number of global layers.
    pub fn global_layers(&self) -> usize {
        self.global.iter().filter(|g| **g).count()
    }

    /// Number of local (sliding window) layers.
    pub fn local_layers(&self) -> usize {
        self.global.len() - self.global_layers()
    }
}

impl VisionConfig {
    /// Patches along one side of the image.
    pub fn side(&self) -> usize {
        self.image / self.patch
    }

    /// Patches of an image.
    pub fn patches(&self) -> usize {
        self.side() * self.side()
    }

    /// Side of the square of patches that is averaged into one token.
    pub fn pool(&self) -> usize {
        self.side() / self.tokens_per_image.isqrt()
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }
}

/// Every sixth layer is global when a checkpoint doesn't say otherwise.
const DEFAULT_PATTERN: usize = 6;

/// The pattern of a GGUF that doesn't say.
pub(crate) fn default_layers(layers: usize) -> Vec<bool> {
    pattern_layers(layers, DEFAULT_PATTERN)
}

/// Layer `i` (from 0) is global when `(i + 1) % pattern == 0`.
fn pattern_layers(layers: usize, pattern: usize) -> Vec<bool> {
    (0..layers).map(|i| (i + 1) % pattern == 0).collect()
}

impl Config {
    /// Reads `config.json`, and the ids that end a generation from `generation_config.json` when it is there.
    ///
    /// # Errors
    /// When a field is missing, out of range, or names something this program doesn't implement.
    pub fn from_json(file: &str, config: &[u8], generation: Option<&[u8]>) -> Result<Self, Error> {
        json::config(file, config, generation)?.checked(file)
    }

    /// Reads the metadata of a `gemma3` GGUF file and of its mmproj.
    ///
    /// # Errors
    /// As [`Config::from_json`].
    pub fn from_gguf(
        file: &str,
        model: &medgemma_formats::Gguf,
        mmproj: Option<(&str, &medgemma_formats::Gguf)>,
    ) -> Result<Self, Error> {
        gguf::config(file, model, mmproj)?.checked(file)
    }

    /// Checks what the rest of the program relies on.
    fn checked(self, file: &str) -> Result<Self, Error> {
        let bad = |field: &str, problem: String| {
            Err(Error::Config { file: file.to_owned(), field: field.to_owned(), problem })
        };
        let t = &self.text;
        // No Gemma comes near these; they keep products of sizes far from overflow.
        for (field, value, most) in [
            ("vocab_size", t.vocab, 1 << 24),
            ("hidden_size", t.hidden, 1 << 18),
            ("intermediate_size", t.ffn, 1 << 20),
            ("num_hidden_layers", t.global.len(), 1 << 10),
            ("num_attention_heads", t.heads, 1 << 12),
            ("num_key_value_heads", t.kv_heads, 1 << 12),
            ("head_dim", t.head_dim, 1 << 12),
            ("sliding_window", t.window, 1 << 24),
            ("max_position_embeddings", t.max_position, 1 << 24),
        ] {
            if value == 0 || value > most {
                return bad(field, format!("{value} is out of range (1 to {most})"));
            }
        }
        if !t.heads.is_multiple_of(t.kv_heads) {
            return bad("num_key_value_heads", format!("{} doesn't divide the {} heads", t.kv_heads, t.heads));
        }
        if !t.head_dim.is_multiple_of(2) {
            return bad("head_dim", format!("{} is odd; rotary embeddings need pairs", t.head_dim));
        }
        if !(t.scale.is_finite() && t.scale > 0.0) {
            return bad("query_pre_attn_scalar", "must be positive".into());
        }
        if !(t.eps > 0.0 && t.eps < 1.0) {
            return bad("rms_norm_eps", format!("{} is out of range", t.eps));
        }
        for (field, rope) in [("rope_theta", t.rope_global), ("rope_local_base_freq", t.rope_local)] {
            if !(rope.theta.is_finite() && rope.theta > 1.0 && rope.factor.is_finite() && rope.factor >= 1.0) {
                return bad(field, format!("θ {} with factor {} is out of range", rope.theta, rope.factor));
            }
        }
        match self.vision.as_ref().map_or(Ok(()), check_vision) {
            Ok(()) => Ok(self),
            Err((field, problem)) => bad(field, problem),
        }
    }
}

fn check_vision(v: &VisionConfig) -> Result<(), (&'static str, String)> {
    for (field, value, most) in [
        ("vision_config.hidden_size", v.hidden, 1 << 16),
        ("vision_config.intermediate_size", v.ffn, 1 << 18),
        ("vision_config.num_hidden_layers", v.layers, 1 << 10),
        ("vision_config.num_attention_heads", v.heads, 1 << 10),
        ("vision_config.image_size", v.image, 1 << 13),
        ("vision_config.patch_size", v.patch, 1 << 10),
        ("mm_tokens_per_image", v.tokens_per_image, 1 << 16),
    ] {
        if value == 0 || value > most {
            return Err((field, format!("{value} is out of range (1 to {most})")));
        }
    }
    if !v.hidden.is_multiple_of(v.heads) {
        return Err(("vision_config.num_attention_heads", format!("{} doesn't divide {}", v.heads, v.hidden)));
    }
    if !v.image.is_multiple_of(v.patch) {
        return Err(("vision_config.patch_size", format!("{} doesn't divide the image's {}", v.patch, v.image)));
    }
    let side = v.tokens_per_image.isqrt();
    if side * side != v.tokens_per_image || !v.side().is_multiple_of(side) {
        return Err((
            "mm_tokens_per_image",
            format!("{} tokens can't be pooled from {}×{} patches", v.tokens_per_image, v.side(), v.side()),
        ));
    }
    Ok(())
}
