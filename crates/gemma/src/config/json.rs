//! `config.json` as `transformers` writes it.

use super::{Config, DEFAULT_PATTERN, Rope, TextConfig, TokenIds, VisionConfig, pattern_layers};
use crate::Error;
use serde_json::{Map, Value};

/// An object of the file, with the path to it for errors.
struct Object<'a> {
    file: &'a str,
    path: String,
    map: &'a Map<String, Value>,
}

pub(super) fn config(file: &str, config: &[u8], generation: Option<&[u8]>) -> Result<Config, Error> {
    let value = parse(file, config)?;
    let root = Object::root(file, &value)?;
    let model_type = root.str("model_type")?.unwrap_or("gemma3");
    let (text, multimodal) = match model_type {
        "gemma3" => (root.object("text_config")?, true),
        "gemma3_text" => (Some(root.again()), false),
        other => return Err(root.bad("model_type", format!("{other:?} is not a Gemma 3 model (gemma3, gemma3_text)"))),
    };
    root.check_quantization()?;
    let empty = Map::new();
    let text = text.unwrap_or(Object { file, path: "text_config.".into(), map: &empty });
    let vision = match root.object("vision_config")? {
        Some(v) if multimodal => Some(vision(&v, root.usize("mm_tokens_per_image", 256)?)?),
        _ => None,
    };
    let tied = root.bool("tie_word_embeddings", true)? && text.bool("tie_word_embeddings", true)?;
    let mut eos = match generation {
        Some(bytes) => {
            let value = parse("generation_config.json", bytes)?;
            Object::root("generation_config.json", &value)?.ids("eos_token_id")?
        }
        None => Vec::new(),
    };
    for id in root.ids("eos_token_id")?.into_iter().chain(text.ids("eos_token_id")?) {
        if !eos.contains(&id) {
            eos.push(id);
        }
    }
    if eos.is_empty() {
        eos.push(1);
    }
    let image = match root.map.get("image_token_id") {
        Some(_) => root.usize("image_token_id", 0)?,
        None => root.usize("image_token_index", 262_144)?,
    };
    let image = u32::try_from(image).map_err(|_| root.bad("image_token_index", "is too large".into()))?;
    Ok(Config { text: text_config(&text, tied)?, vision, tokens: TokenIds { eos, image } })
}

fn parse(file: &str, bytes: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(bytes).map_err(|e| Error::Config {
        file: file.to_owned(),
        field: "JSON".into(),
        problem: e.to_string(),
    })
}

fn text_config(text: &Object, tied: bool) -> Result<TextConfig, Error> {
    let layers = text.usize("num_hidden_layers", 26)?;
    if layers > 1 << 10 {
        return Err(text.bad("num_hidden_layers", format!("{layers} is out of range")));
    }
    for unsupported in ["final_logit_softcapping", "attn_logit_softcapping"] {
        if text.map.get(unsupported).is_some_and(|v| !v.is_null()) {
            return Err(text.bad(unsupported, "soft-capping isn't part of Gemma 3; this is another model".into()));
        }
    }
    for flag in ["attention_bias", "use_bidirectional_attention"] {
        if text.bool(flag, false)? {
            return Err(text.bad(flag, "isn't supported".into()));
        }
    }
    let activation = text.str("hidden_activation")?.unwrap_or("gelu_pytorch_tanh");
    if activation != "gelu_pytorch_tanh" {
        return Err(text.bad("hidden_activation", format!("{activation:?} isn't gelu_pytorch_tanh")));
    }
    let (rope_global, rope_local) = text.ropes()?;
    Ok(TextConfig {
        vocab: text.usize("vocab_size", 262_208)?,
        hidden: text.usize("hidden_size", 2304)?,
        ffn: text.usize("intermediate_size", 9216)?,
        heads: text.usize("num_attention_heads", 8)?,
        kv_heads: text.usize("num_key_value_heads", 4)?,
        head_dim: text.usize("head_dim", 256)?,
        scale: (f64::from(text.f32("query_pre_attn_scalar", 256.0)?).powf(-0.5)) as f32,
        window: text.usize("sliding_window", 4096)?,
        global: text.layer_kinds(layers)?,
        eps: text.f32("rms_norm_eps", 1e-6)?,
        rope_global,
        rope_local,
        max_position: text.usize("max_position_embeddings", 131_072)?,
        tied,
    })
}

fn vision(v: &Object, tokens_per_image: usize) -> Result<VisionConfig, Error> {
    if v.usize("num_channels", 3)? != 3 {
        return Err(v.bad("num_channels", "must be 3".into()));
    }
    let activation = v.str("hidden_act")?.unwrap_or("gelu_pytorch_tanh");
    if activation != "gelu_pytorch_tanh" {
        return Err(v.bad("hidden_act", format!("{activation:?} isn't gelu_pytorch_tanh")));
    }
    Ok(VisionConfig {
        hidden: v.usize("hidden_size", 768)?,
        ffn: v.usize("intermediate_size", 3072)?,
        layers: v.usize("num_hidden_layers", 12)?,
        heads: v.usize("num_attention_heads", 12)?,
        image: v.usize("image_size", 224)?,
        patch: v.usize("patch_size", 16)?,
        eps: v.f32("layer_norm_eps", 1e-6)?,
        tokens_per_image,
    })
}

impl<'a> Object<'a> {
    fn root(file: &'a str, value: &'a Value) -> Result<Self, Error> {
        match value {
            Value::Object(map) => Ok(Self { file, path: String::new(), map }),
            _ => Err(Error::Config { file: file.to_owned(), field: "JSON".into(), problem: "isn't an object".into() }),
        }
    }

    fn again(&self) -> Self {
        Self { file: self.file, path: self.path.clone(), map: self.map }
    }

    fn bad(&self, field: &str, problem: String) -> Error {
        Error::Config { file: self.file.to_owned(), field: format!("{}{field}", self.path), problem }
    }

    /// The value, unless it is missing or null.
    fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|v| !v.is_null())
    }

    fn object(&self, field: &str) -> Result<Option<Object<'a>>, Error> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(Object { file: self.file, path: format!("{}{field}.", self.path), map }))
            }
            Some(_) => Err(self.bad(field, "isn't an object".into())),
        }
    }

    fn usize(&self, field: &str, default: usize) -> Result<usize, Error> {
        match self.get(field) {
            None => Ok(default),
            Some(v) => v
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .ok_or_else(|| self.bad(field, format!("{v} isn't a whole number"))),
        }
    }

    fn f32(&self, field: &str, default: f32) -> Result<f32, Error> {
        match self.get(field) {
            None => Ok(default),
            Some(v) => v.as_f64().map(|x| x as f32).ok_or_else(|| self.bad(field, format!("{v} isn't a number"))),
        }
    }

    fn bool(&self, field: &str, default: bool) -> Result<bool, Error> {
        match self.get(field) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.bad(field, format!("{v} isn't true or false"))),
        }
    }

    fn str(&self, field: &str) -> Result<Option<&'a str>, Error> {
        match self.get(field) {
            None => Ok(None),
            Some(v) => v.as_str().map(Some).ok_or_else(|| self.bad(field, format!("{v} isn't a string"))),
        }
    }

    /// One token id or a list of them.
    fn ids(&self, field: &str) -> Result<Vec<u32>, Error> {
        let id = |v: &Value| {
            let id = v.as_u64().and_then(|n| u32::try_from(n).ok());
            id.ok_or_else(|| self.bad(field, format!("{v} isn't a token id")))
        };
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(v) => Ok(vec![id(v)?]),
        }
    }

    fn layer_kinds(&self, layers: usize) -> Result<Vec<bool>, Error> {
        let Some(kinds) = self.get("layer_types") else {
            let pattern = match self.map.contains_key("_sliding_window_pattern") {
                true => self.usize("_sliding_window_pattern", DEFAULT_PATTERN)?,
                false => self.usize("sliding_window_pattern", DEFAULT_PATTERN)?,
            };
            if pattern == 0 {
                return Err(self.bad("sliding_window_pattern", "must be at least 1".into()));
            }
            return Ok(pattern_layers(layers, pattern));
        };
        let list = kinds.as_array().ok_or_else(|| self.bad("layer_types", "isn't a list".into()))?;
        if list.len() != layers {
            return Err(self.bad("layer_types", format!("has {} entries for {layers} layers", list.len())));
        }
        list.iter()
            .map(|kind| match kind.as_str() {
                Some("full_attention") => Ok(true),
                Some("sliding_attention") => Ok(false),
                _ => Err(self.bad("layer_types", format!("{kind} isn't full_attention or sliding_attention"))),
            })
            .collect()
    }

    /// Rotary embeddings of the global and the local layers, in either spelling.
    fn ropes(&self) -> Result<(Rope, Rope), Error> {
        let theta_global = self.f32("rope_theta", 1e6)?;
        let theta_local = self.f32("rope_local_base_freq", 1e4)?;
        if let Some(parameters) = self.object("rope_parameters")? {
            let rope = |kind: &str, theta: f32| -> Result<Rope, Error> {
                match parameters.object(kind)? {
                    Some(p) => Ok(Rope { theta: p.f32("rope_theta", theta)?, factor: p.linear_factor()? }),
                    None => Ok(Rope { theta, factor: 1.0 }),
                }
            };
            return Ok((rope("full_attention", theta_global)?, rope("sliding_attention", theta_local)?));
        }
        let factor = match self.object("rope_scaling")? {
            Some(scaling) => scaling.linear_factor()?,
            None => 1.0,
        };
        Ok((Rope { theta: theta_global, factor }, Rope { theta: theta_local, factor: 1.0 }))
    }

    fn linear_factor(&self) -> Result<f32, Error> {
        let kind = match self.str("rope_type")? {
            Some(kind) => kind,
            None => self.str("type")?.unwrap_or("default"),
        };
        match kind {
            "default" => Ok(1.0),
            "linear" => self.f32("factor", 1.0),
            other => Err(self.bad("rope_type", format!("{other:?} isn't default or linear"))),
        }
    }

    /// Quantized folders: only bitsandbytes' 4-bit NormalFloat is read.
    fn check_quantization(&self) -> Result<(), Error> {
        let Some(q) = self.object("quantization_config")? else { return Ok(()) };
        let method = q.str("quant_method")?.unwrap_or("bitsandbytes");
        if method != "bitsandbytes" || q.bool("load_in_8bit", false)? {
            return Err(q.bad(
                "quant_method",
                format!("{method} weights can't be read; use the original checkpoint with --quant, NF4, or a GGUF"),
            ));
        }
        let kind = q.str("bnb_4bit_quant_type")?.unwrap_or("nf4");
        if kind != "nf4" {
            return Err(q.bad("bnb_4bit_quant_type", format!("{kind:?} isn't nf4")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: &Value) -> Result<Config, Error> {
        Config::from_json("config.json", &serde_json::to_vec(value).unwrap(), None)
    }

    /// The 4B's config as the hub has it: everything that equals a default is left out.
    fn hub_4b() -> Value {
        json!({
            "model_type": "gemma3", "mm_tokens_per_image": 256, "image_token_index": 262144, "eos_token_id": [1, 106],
            "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
                "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
            "vision_config": {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304,
                "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14}
        })
    }

    #[test]
    fn defaults_that_the_hub_omits() {
        let c = read(&hub_4b()).unwrap();
        let t = &c.text;
        assert_eq!((t.vocab, t.heads, t.kv_heads, t.head_dim, t.window), (262_208, 8, 4, 256, 1024));
        assert_eq!(t.scale, 1.0 / 16.0);
        let global: Vec<usize> = (0..34).filter(|i| t.global[*i]).collect();
        assert_eq!(global, [5, 11, 17, 23, 29]);
        assert_eq!(t.rope_global, Rope { theta: 1e6, factor: 8.0 });
        assert_eq!(t.rope_local, Rope { theta: 1e4, factor: 1.0 });
        assert_eq!(c.tokens.eos, [1, 106]);
        let v = c.vision.unwrap();
        assert_eq!((v.patches(), v.pool(), v.head_dim()), (4096, 4, 72));
    }

    #[test]
    fn the_newer_spelling_says_the_same() {
        let mut newer = hub_4b();
        let text = newer["text_config"].as_object_mut().unwrap();
        text.remove("rope_scaling");
        text.insert(
            "rope_parameters".into(),
            json!({"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                   "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}),
        );
        let kinds: Vec<&str> =
            (0..34).map(|i| if (i + 1) % 6 == 0 { "full_attention" } else { "sliding_attention" }).collect();
        text.insert("layer_types".into(), json!(kinds));
        assert_eq!(read(&newer).unwrap(), read(&hub_4b()).unwrap());
    }

    #[test]
    fn what_cannot_run_is_refused_by_field() {
        for (pointer, value, field) in [
            ("/model_type", json!("llama"), "model_type"),
            ("/text_config/num_hidden_layers", json!(1u64 << 60), "num_hidden_layers"),
            ("/text_config/hidden_size", json!(-3), "hidden_size"),
            ("/text_config/rope_scaling/rope_type", json!("yarn"), "rope_type"),
            ("/vision_config/patch_size", json!(13), "patch_size"),
            ("/mm_tokens_per_image", json!(255), "mm_tokens_per_image"),
            ("/eos_token_id", json!("x"), "eos_token_id"),
        ] {
            let mut config = hub_4b();
            *config.pointer_mut(pointer).unwrap() = value;
            let error = read(&config).unwrap_err().to_string();
            assert!(error.contains(field), "{pointer}: {error}");
        }
    }
}
