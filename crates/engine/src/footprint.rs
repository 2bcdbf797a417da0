//! How much memory a model takes, from its configuration: said before it is loaded.

use medgemma_formats::DType;
use medgemma_gemma::{Config, TextConfig, VisionConfig};
use medgemma_kernels::CacheType;

/// Tokens of context that memory is stated for when none is asked for.
pub const USUAL_CONTEXT: usize = 8192;

/// What is computed in between, and the program itself: with an image encoder, and without.
const WORK: (u64, u64) = (300_000_000, 150_000_000);

/// Weights of the decoder's layers.
fn layer_weights(text: &TextConfig) -> u64 {
    text.global.len() as u64 * matrices(text).into_iter().map(|(_, weights)| weights).sum::<u64>()
}

/// The matrices of a layer: their names behind `blk.N.`, and their weights.
pub(crate) fn matrices(text: &TextConfig) -> [(&'static str, u64); 7] {
    let size = |rows: usize, cols: usize| (rows * cols) as u64;
    let (q, kv) = (text.heads * text.head_dim, text.kv_heads * text.head_dim);
    let (h, f) = (text.hidden, text.ffn);
    [
        ("attn_q", size(h, q)),
        ("attn_k", size(h, kv)),
        ("attn_v", size(h, kv)),
        ("attn_output", size(h, q)),
        ("ffn_gate", size(h, f)),
        ("ffn_up", size(h, f)),
        ("ffn_down", size(h, f)),
    ]
}

/// Weights of the embedding table, and of the output matrix where it isn't the same.
pub(crate) fn table_weights(text: &TextConfig) -> u64 {
    let tables = if text.tied { 1 } else { 2 };
    (tables * text.vocab * text.hidden) as u64
}

/// Weights of the decoder's matrices.
pub fn decoder_weights(text: &TextConfig) -> u64 {
    layer_weights(text) + table_weights(text)
}

/// Weights of the image encoder and its projector.
pub(crate) fn encoder_weights(vision: &VisionConfig, hidden: usize) -> u64 {
    let layer = 4 * vision.hidden * vision.hidden + 2 * vision.hidden * vision.ffn;
    let patches = vision.hidden * (3 * vision.patch * vision.patch + vision.patches());
    (vision.layers * layer + patches + vision.hidden * hidden) as u64
}

/// Bytes of so many weights, whole blocks each.
pub fn bytes_as(weights: u64, dtype: DType) -> u64 {
    let blocks = weights.div_ceil(dtype.block_len() as u64);
    // NF4's scales lie beside its blocks.
    let scale = if dtype == DType::Nf4 { 4 } else { 0 };
    blocks * (dtype.block_bytes() as u64 + scale)
}

/// How the tables are held beside layers of `dtype`: with more bits than 4.
pub(crate) fn table_dtype(dtype: DType) -> DType {
    match dtype {
        DType::Q4_0 | DType::F8 => DType::Q8_0,
        DType::Nf4 => DType::BF16,
        dtype => dtype,
    }
}

/// Bytes of a model's weights with the decoder held as `dtype`. The image encoder stays as it is published, in bf16:
/// its rows aren't whole blocks.
pub fn weights(config: &Config, dtype: DType) -> u64 {
    let encoder = config.vision.as_ref().map_or(0, |vision| encoder_weights(vision, config.text.hidden));
    bytes_as(layer_weights(&config.text), dtype)
        + bytes_as(table_weights(&config.text), table_dtype(dtype))
        + bytes_as(encoder, DType::BF16)
}

/// Bytes of an element of the cache on the processor, where nobody says how it is held: f32 beside weights in floats, bf16
/// beside quantized ones.
fn element(dtype: DType, kv: Option<CacheType>) -> usize {
    match kv {
        Some(CacheType::F8) => 1,
        Some(CacheType::BF16 | CacheType::BF16Products) => 2,
        Some(CacheType::F32) => 4,
        None if matches!(dtype, DType::F32 | DType::F16 | DType::BF16) => 4,
        None => 2,
    }
}

/// Bytes of keys and values for `context` tokens: global layers keep all of them, the others their window.
fn cache(text: &TextConfig, context: usize, element: usize) -> u64 {
    let token = 2 * text.kv_heads * text.head_dim * element;
    (token * (text.global_layers() * context + text.local_layers() * context.min(text.window))) as u64
}

/// Bytes to run a model in, its keys and values held as `kv`, or as they are when nobody says.
pub fn memory(config: &Config, dtype: DType, kv: Option<CacheType>, context: usize) -> u64 {
    let work = if config.vision.is_some() { WORK.0 } else { WORK.1 };
    weights(config, dtype) + cache(&config.text, context, element(dtype, kv)) + work
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GB as published or measured for the checkpoints; within 4 %.
    #[test]
    fn weights_are_as_published() {
        let published = [
            ("4b-it", DType::BF16, 8.6),
            ("4b-it", DType::Q8_0, 5.0),
            ("27b-text-it", DType::BF16, 54.0),
            ("27b-text-it", DType::Q8_0, 28.7),
            ("270m", DType::BF16, 0.536),
            ("1b", DType::BF16, 2.0),
            ("12b", DType::BF16, 24.4),
        ];
        for (variant, dtype, gb) in published {
            let bytes = weights(&Config::of_variant(variant).unwrap(), dtype) as f64 / 1e9;
            assert!((bytes / gb - 1.0).abs() < 0.04, "{variant} {dtype:?}: {bytes}");
        }
    }

    #[test]
    fn the_cache_at_full_context_is_as_designed() {
        // 27B at 128K tokens: 10.9 GB in bf16, twice that in f32, half of it in 8 bits.
        for (dtype, kv, gb) in
            [(DType::Q4_0, None, 10.9), (DType::BF16, None, 21.8), (DType::BF16, Some(CacheType::F8), 5.45)]
        {
            let text = Config::of_variant("27b-it").unwrap().text;
            let bytes = cache(&text, 131_072, element(dtype, kv)) as f64 / 1e9;
            assert!((bytes / gb - 1.0).abs() < 0.06, "{dtype:?}, {kv:?}: {bytes}");
        }
    }
}
