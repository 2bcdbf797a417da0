//! The published sizes, for building a model of a true shape with random weights.

use super::{Config, DEFAULT_PATTERN, Rope, TextConfig, TokenIds, VisionConfig, pattern_layers};

/// What differs between the published sizes.
struct Size {
    /// Names it goes by.
    names: &'static [&'static str],
    layers: usize,
    hidden: usize,
    ffn: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// query_pre_attn_scalar.
    pre_attention: f64,
    window: usize,
    /// Linear factor of the global layers' positions.
    rope_factor: f32,
    sees: bool,
}

const SIZES: [Size; 6] = [
    Size {
        names: &["4b-it", "4b-pt", "4b", "1.5-4b-it", "medgemma-4b-it", "medgemma-1.5-4b-it"],
        layers: 34,
        hidden: 2560,
        ffn: 10240,
        heads: 8,
        kv_heads: 4,
        head_dim: 256,
        pre_attention: 256.0,
        window: 1024,
        rope_factor: 8.0,
        sees: true,
    },
    Size {
        names: &["27b-it", "27b", "medgemma-27b-it"],
        layers: 62,
        hidden: 5376,
        ffn: 21504,
        heads: 32,
        kv_heads: 16,
        head_dim: 128,
        pre_attention: 168.0,
        window: 1024,
        rope_factor: 8.0,
        sees: true,
    },
    Size {
        names: &["27b-text-it", "medgemma-27b-text-it"],
        layers: 62,
        hidden: 5376,
        ffn: 21504,
        heads: 32,
        kv_heads: 16,
        head_dim: 128,
        pre_attention: 168.0,
        window: 1024,
        rope_factor: 8.0,
        sees: false,
    },
    Size {
        names: &["12b", "gemma-3-12b"],
        layers: 48,
        hidden: 3840,
        ffn: 15360,
        heads: 16,
        kv_heads: 8,
        head_dim: 256,
        pre_attention: 256.0,
        window: 1024,
        rope_factor: 8.0,
        sees: true,
    },
    Size {
        names: &["1b", "gemma-3-1b"],
        layers: 26,
        hidden: 1152,
        ffn: 6912,
        heads: 4,
        kv_heads: 1,
        head_dim: 256,
        pre_attention: 256.0,
        window: 512,
        rope_factor: 1.0,
        sees: false,
    },
    Size {
        names: &["270m", "gemma-3-270m"],
        layers: 18,
        hidden: 640,
        ffn: 2048,
        heads: 4,
        kv_heads: 1,
        head_dim: 256,
        pre_attention: 256.0,
        window: 512,
        rope_factor: 1.0,
        sees: false,
    },
];

impl Config {
    /// The published shape of a variant (`4b-it`, `27b-it`, `27b-text-it`, `12b`, `1b`, `270m`; `google/` before it and
    /// `medgemma-` are fine), or `None`.
    pub fn of_variant(name: &str) -> Option<Self> {
        let name = name.strip_prefix("google/").unwrap_or(name);
        SIZES.iter().find(|size| size.names.contains(&name)).map(Size::config)
    }

    /// The names that [`Config::of_variant`] knows, the usual one of each size first.
    pub fn variants() -> impl Iterator<Item = &'static str> {
        SIZES.iter().map(|size| size.names[0])
    }
}

impl Size {
    fn config(&self) -> Config {
        let text = TextConfig {
            vocab: if self.sees { 262_208 } else { 262_144 },
            hidden: self.hidden,
            ffn: self.ffn,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: self.pre_attention.powf(-0.5) as f32,
            window: self.window,
            global: pattern_layers(self.layers, DEFAULT_PATTERN),
            eps: 1e-6,
            rope_global: Rope { theta: 1e6, factor: self.rope_factor },
            rope_local: Rope { theta: 1e4, factor: 1.0 },
            max_position: if self.rope_factor > 1.0 { 131_072 } else { 32_768 },
            tied: true,
        };
        let vision = self.sees.then_some(VisionConfig {
            hidden: 1152,
            ffn: 4304,
            layers: 27,
            heads: 16,
            image: 896,
            patch: 14,
            eps: 1e-6,
            tokens_per_image: 256,
        });
        Config { text, vision, tokens: TokenIds { eos: vec![1, 106], image: 262_144 } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_shapes_pass_their_own_checks() {
        for name in Config::variants() {
            assert!(Config::of_variant(name).unwrap().checked(name).is_ok(), "{name}");
        }
        assert!(Config::of_variant("google/medgemma-27b-it").is_some() && Config::of_variant("7b").is_none());
    }

    #[test]
    fn parameter_counts_are_the_published_ones() {
        for (name, millions) in [("4b-it", 3880), ("27b-text-it", 27_009), ("270m", 268), ("1b", 1000), ("12b", 11_766)]
        {
            let t = Config::of_variant(name).unwrap().text;
            let attention = t.hidden * t.head_dim * 2 * (t.heads + t.kv_heads);
            let layer = attention + 3 * t.hidden * t.ffn;
            let all = (t.vocab * t.hidden + t.global.len() * layer) / 1_000_000;
            assert!(all.abs_diff(millions) * 100 <= millions, "{name}: {all} million");
        }
    }
}
