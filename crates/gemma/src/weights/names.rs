//! How each layout spells a tensor's name.

use medgemma_formats::{Gguf, Safetensors};

/// The name layouts of Hugging Face folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Before `layers.N.…`, `embed_tokens.weight` and `norm.weight`.
    text: &'static str,
    /// Before `embeddings.…` and `encoder.…`.
    vision: &'static str,
    /// Before `mm_input_projection_weight`.
    projector: &'static str,
    /// The output matrix, when it isn't tied.
    head: &'static str,
}

const LAYOUTS: [Layout; 4] = [
    // What the hub has.
    Layout {
        text: "language_model.model.",
        vision: "vision_tower.vision_model.",
        projector: "multi_modal_projector.",
        head: "language_model.lm_head.weight",
    },
    // What newer versions of transformers save.
    Layout {
        text: "model.language_model.",
        vision: "model.vision_tower.vision_model.",
        projector: "model.multi_modal_projector.",
        head: "lm_head.weight",
    },
    // The same without the encoder's inner module.
    Layout {
        text: "model.language_model.",
        vision: "model.vision_tower.",
        projector: "model.multi_modal_projector.",
        head: "lm_head.weight",
    },
    // Text-only.
    Layout {
        text: "model.",
        vision: "vision_tower.vision_model.",
        projector: "multi_modal_projector.",
        head: "lm_head.weight",
    },
];

impl Layout {
    pub(super) fn detect(files: &Safetensors) -> Option<Layout> {
        let has = |name: String| files.names().any(|n| n == name);
        let candidates: Vec<_> =
            LAYOUTS.into_iter().filter(|l| has(format!("{}embed_tokens.weight", l.text))).collect();
        let sees = |l: &&Layout| has(format!("{}embeddings.patch_embedding.weight", l.vision));
        candidates.iter().find(sees).or(candidates.first()).cloned()
    }

    /// The folder's spelling of a canonical name.
    pub(super) fn spell(&self, name: &str) -> String {
        let Layout { text, vision, projector, head } = self;
        match name {
            "token_embd.weight" => return format!("{text}embed_tokens.weight"),
            "output_norm.weight" => return format!("{text}norm.weight"),
            "output.weight" => return (*head).to_owned(),
            "mm.input_projection.weight" => return format!("{projector}mm_input_projection_weight"),
            "mm.soft_emb_norm.weight" => return format!("{projector}mm_soft_emb_norm.weight"),
            "v.position_embd.weight" => return format!("{vision}embeddings.position_embedding.weight"),
            _ => {}
        }
        if let Some((layer, part, suffix)) = layer_part(name, "blk.") {
            return format!("{text}layers.{layer}.{}.{suffix}", text_part(part));
        }
        if let Some((layer, part, suffix)) = layer_part(name, "v.blk.") {
            return format!("{vision}encoder.layers.{layer}.{}.{suffix}", vision_part(part));
        }
        let (part, suffix) = name.rsplit_once('.').unwrap_or((name, ""));
        match part {
            "v.patch_embd" => format!("{vision}embeddings.patch_embedding.{suffix}"),
            "v.post_ln" => format!("{vision}post_layernorm.{suffix}"),
            _ => name.to_owned(),
        }
    }
}

/// Splits `blk.3.attn_q.weight` into layer, part and suffix.
fn layer_part<'a>(name: &'a str, prefix: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let (layer, rest) = name.strip_prefix(prefix)?.split_once('.')?;
    let (part, suffix) = rest.rsplit_once('.')?;
    Some((layer, part, suffix))
}

fn text_part(part: &str) -> &str {
    match part {
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "attn_norm" => "input_layernorm",
        "post_attention_norm" => "post_attention_layernorm",
        "ffn_norm" => "pre_feedforward_layernorm",
        "post_ffw_norm" => "post_feedforward_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        other => other,
    }
}

fn vision_part(part: &str) -> &str {
    match part {
        "ln1" => "layer_norm1",
        "ln2" => "layer_norm2",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_out" => "self_attn.out_proj",
        "ffn_up" => "mlp.fc1",
        "ffn_down" => "mlp.fc2",
        other => other,
    }
}

/// The GGUF's spelling. Some converters call the encoder's first feed-forward matrix `ffn_down` and its second
/// `ffn_up`; the first one's bias has the feed-forward width, which tells.
pub(super) fn gguf(name: &str, file: &Gguf) -> String {
    let Some((layer, part @ ("ffn_up" | "ffn_down"), suffix)) = layer_part(name, "v.blk.") else {
        return name.to_owned();
    };
    let bias = |part: &str| file.tensor(&format!("v.blk.{layer}.{part}.bias")).map(|t| t.len());
    let swapped = matches!((bias("ffn_up"), bias("ffn_down")), (Some(up), Some(down)) if up < down);
    let spelled = match (part, swapped) {
        ("ffn_up", true) => "ffn_down",
        ("ffn_down", true) => "ffn_up",
        (part, _) => part,
    };
    format!("v.blk.{layer}.{spelled}.{suffix}")
}
