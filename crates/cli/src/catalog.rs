//! The models that this program runs, what each is for, and how much memory each takes.

/// Tokens of context that memory is stated for.
pub(crate) const USUAL_CONTEXT: u64 = 8192;

/// Weights as they are held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    /// As published.
    Bf16,
    /// 8 bits, a scale for each 32.
    Q8,
    /// 4 bits, a scale for each 32.
    Q4,
}

impl Precision {
    /// From the most exact to the smallest.
    pub(crate) const ALL: [Self; 3] = [Self::Bf16, Self::Q8, Self::Q4];

    /// As `--quant` has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }

    /// Bytes of so many weights.
    fn bytes(self, weights: u64) -> u64 {
        match self {
            Self::Bf16 => weights * 2,
            Self::Q8 => weights / 32 * 34,
            Self::Q4 => weights / 32 * 18,
        }
    }
}

/// One published model.
#[derive(Debug)]
pub(crate) struct Variant {
    /// Hub id.
    pub(crate) id: &'static str,
    /// Parameters, as its name says.
    pub(crate) parameters: &'static str,
    /// What it takes.
    pub(crate) input: &'static str,
    /// Whether it can think before it answers.
    pub(crate) thinks: bool,
    /// What to choose it for.
    pub(crate) purpose: &'static str,
    shape: &'static Shape,
    /// Whether it has an image encoder.
    pub(crate) sees: bool,
}

/// The dimensions that memory follows from.
#[derive(Debug)]
struct Shape {
    layers: u64,
    hidden: u64,
    ffn: u64,
    heads: u64,
    kv_heads: u64,
    head_dim: u64,
    window: u64,
    context: u64,
}

/// Weights of SigLIP at 896 pixels without its projector.
const SIGLIP_WEIGHTS: u64 = 417_000_000;
const VOCABULARY: u64 = 262_144;

const S270M: Shape =
    Shape { layers: 18, hidden: 640, ffn: 2048, heads: 4, kv_heads: 1, head_dim: 256, window: 512, context: 32_768 };
const S1B: Shape =
    Shape { layers: 26, hidden: 1152, ffn: 6912, heads: 4, kv_heads: 1, head_dim: 256, window: 512, context: 32_768 };
const S4B: Shape = Shape {
    layers: 34,
    hidden: 2560,
    ffn: 10_240,
    heads: 8,
    kv_heads: 4,
    head_dim: 256,
    window: 1024,
    context: 131_072,
};
const S12B: Shape = Shape {
    layers: 48,
    hidden: 3840,
    ffn: 15_360,
    heads: 16,
    kv_heads: 8,
    head_dim: 256,
    window: 1024,
    context: 131_072,
};
const S27B: Shape = Shape {
    layers: 62,
    hidden: 5376,
    ffn: 21_504,
    heads: 32,
    kv_heads: 16,
    head_dim: 128,
    window: 1024,
    context: 131_072,
};

/// Every model, MedGemma first.
pub(crate) const VARIANTS: [Variant; 10] = [
    Variant {
        id: "google/medgemma-4b-it",
        parameters: "4B",
        input: "text, images",
        thinks: false,
        purpose: "small machines, prototypes, images",
        shape: &S4B,
        sees: true,
    },
    Variant {
        id: "google/medgemma-1.5-4b-it",
        parameters: "4B",
        input: "text, images, CT/MR volumes, slides, documents",
        thinks: true,
        purpose: "small machines, images and volumes, records",
        shape: &S4B,
        sees: true,
    },
    Variant {
        id: "google/medgemma-27b-it",
        parameters: "27B",
        input: "text, images, patient records",
        thinks: true,
        purpose: "text, records and images together",
        shape: &S27B,
        sees: true,
    },
    Variant {
        id: "google/medgemma-27b-text-it",
        parameters: "27B",
        input: "text",
        thinks: true,
        purpose: "text alone",
        shape: &S27B,
        sees: false,
    },
    Variant {
        id: "google/medgemma-4b-pt",
        parameters: "4B",
        input: "text, images",
        thinks: false,
        purpose: "continuing a text and fine-tuning; it does not chat",
        shape: &S4B,
        sees: true,
    },
    gemma("google/gemma-3-270m-it", "270M", "trying things out", &S270M, false),
    gemma("google/gemma-3-1b-it", "1B", "trying things out", &S1B, false),
    gemma("google/gemma-3-4b-it", "4B", "comparing with MedGemma", &S4B, true),
    gemma("google/gemma-3-12b-it", "12B", "comparing with MedGemma", &S12B, true),
    gemma("google/gemma-3-27b-it", "27B", "comparing with MedGemma", &S27B, true),
];

/// A Gemma 3 without medical training.
const fn gemma(
    id: &'static str,
    parameters: &'static str,
    purpose: &'static str,
    shape: &'static Shape,
    sees: bool,
) -> Variant {
    let input = if sees { "text, images" } else { "text" };
    Variant { id, parameters, input, thinks: false, purpose, shape, sees }
}

impl Variant {
    /// The variant of a hub id.
    pub(crate) fn find(id: &str) -> Option<&'static Self> {
        VARIANTS.iter().find(|variant| variant.id == id)
    }

    /// Tokens it can attend to.
    pub(crate) fn context(&self) -> u64 {
        self.shape.context
    }

    /// Bytes of its weights. The image encoder stays in bf16: its rows aren't whole blocks.
    pub(crate) fn weights(&self, precision: Precision) -> u64 {
        let image = if self.sees { SIGLIP_WEIGHTS + 1152 * self.shape.hidden } else { 0 };
        self.read_per_token(precision) + Precision::Bf16.bytes(image)
    }

    /// Bytes of the language model's weights: all of them are read for each token, which bounds the speed.
    pub(crate) fn read_per_token(&self, precision: Precision) -> u64 {
        let s = self.shape;
        let attention = 2 * s.hidden * (s.heads + s.kv_heads) * s.head_dim;
        precision.bytes(VOCABULARY * s.hidden + s.layers * (attention + 3 * s.hidden * s.ffn))
    }

    /// Bytes of keys and values for `context` tokens: every sixth layer keeps all of them, the others their window.
    pub(crate) fn cache(&self, context: u64) -> u64 {
        let s = self.shape;
        let global = s.layers / 6;
        let token = 2 * s.kv_heads * s.head_dim * 4;
        token * (global * context + (s.layers - global) * context.min(s.window))
    }

    /// Bytes to run it in, with room for the usual context and for what is computed.
    pub(crate) fn memory(&self, precision: Precision) -> u64 {
        const WORK: u64 = 300_000_000;
        self.weights(precision) + self.cache(USUAL_CONTEXT) + WORK
    }

    /// The most exact precision that fits into so much memory.
    pub(crate) fn best_fit(&self, available: u64) -> Option<Precision> {
        Precision::ALL.into_iter().find(|&precision| self.memory(precision) <= available)
    }
}

/// What a machine with so much memory can give a model: its system needs some too.
pub(crate) fn usable(total: u64) -> u64 {
    total.saturating_sub((total / 10).clamp(1_000_000_000, 4_000_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GB as published or measured for the checkpoints; within 4 %.
    #[test]
    fn weights_are_as_published() {
        let published = [
            ("google/medgemma-4b-it", Precision::Bf16, 8.6),
            ("google/medgemma-4b-it", Precision::Q8, 5.0),
            ("google/medgemma-27b-text-it", Precision::Bf16, 54.0),
            ("google/medgemma-27b-text-it", Precision::Q8, 28.7),
            ("google/gemma-3-270m-it", Precision::Bf16, 0.536),
            ("google/gemma-3-1b-it", Precision::Bf16, 2.0),
            ("google/gemma-3-12b-it", Precision::Bf16, 24.4),
        ];
        for (id, precision, gb) in published {
            let bytes = Variant::find(id).unwrap().weights(precision) as f64 / 1e9;
            assert!((bytes / gb - 1.0).abs() < 0.04, "{id} {}: {bytes}", precision.name());
        }
    }

    #[test]
    fn the_cache_at_full_context_is_as_designed() {
        // 27B at 128K tokens: 10.9 GB in bf16, twice that in f32.
        let bytes = Variant::find("google/medgemma-27b-it").unwrap().cache(131_072) as f64 / 1e9;
        assert!((bytes / (2.0 * 10.9) - 1.0).abs() < 0.06, "{bytes}");
    }

    #[test]
    fn the_fit_is_the_most_exact_that_there_is_room_for() {
        let small = Variant::find("google/medgemma-4b-it").unwrap();
        assert_eq!(small.best_fit(1 << 30), None);
        assert_eq!(small.best_fit(small.memory(Precision::Q4)), Some(Precision::Q4));
        assert_eq!(small.best_fit(u64::MAX), Some(Precision::Bf16));
    }
}
