//! The models that this program runs, and what each is for.

use crate::args::Quant;
use medgemma_engine::footprint::{self, USUAL_CONTEXT};
use medgemma_engine::gpu_layers;
use medgemma_formats::DType;
use medgemma_gemma::Config;

/// Weights as they are held in memory, from the most exact to the smallest.
pub(crate) const PRECISIONS: [Quant; 3] = [Quant::Bf16, Quant::Q8, Quant::Q4];

impl Quant {
    /// As it is typed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Q8 => "q8",
            Self::Fp8 => "fp8",
            Self::Q4 => "q4",
            Self::Nf4 => "nf4",
        }
    }

    /// The blocks that weights are held in.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::Bf16 => DType::BF16,
            Self::Q8 => DType::Q8_0,
            Self::Fp8 => DType::F8,
            Self::Q4 => DType::Q4_0,
            Self::Nf4 => DType::Nf4,
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
    /// The shape's name.
    shape: &'static str,
}

/// Every model, MedGemma first.
pub(crate) const VARIANTS: [Variant; 10] = [
    Variant {
        id: "google/medgemma-4b-it",
        parameters: "4B",
        input: "text, images",
        thinks: false,
        purpose: "small machines, prototypes, images",
        shape: "4b-it",
    },
    Variant {
        id: "google/medgemma-1.5-4b-it",
        parameters: "4B",
        input: "text, images, CT/MR volumes, slides, documents",
        thinks: true,
        purpose: "small machines, images and volumes, records",
        shape: "4b-it",
    },
    Variant {
        id: "google/medgemma-27b-it",
        parameters: "27B",
        input: "text, images, patient records",
        thinks: true,
        purpose: "text, records and images together",
        shape: "27b-it",
    },
    Variant {
        id: "google/medgemma-27b-text-it",
        parameters: "27B",
        input: "text",
        thinks: true,
        purpose: "text alone",
        shape: "27b-text-it",
    },
    Variant {
        id: "google/medgemma-4b-pt",
        parameters: "4B",
        input: "text, images",
        thinks: false,
        purpose: "continuing a text and fine-tuning; it does not chat",
        shape: "4b-it",
    },
    gemma("google/gemma-3-270m-it", "270M", "text", "trying things out", "270m"),
    gemma("google/gemma-3-1b-it", "1B", "text", "trying things out", "1b"),
    gemma("google/gemma-3-4b-it", "4B", "text, images", "comparing with MedGemma", "4b-it"),
    gemma("google/gemma-3-12b-it", "12B", "text, images", "comparing with MedGemma", "12b"),
    gemma("google/gemma-3-27b-it", "27B", "text, images", "comparing with MedGemma", "27b-it"),
];

/// A Gemma 3 without medical training.
const fn gemma(
    id: &'static str,
    parameters: &'static str,
    input: &'static str,
    purpose: &'static str,
    shape: &'static str,
) -> Variant {
    Variant { id, parameters, input, thinks: false, purpose, shape }
}

impl Variant {
    /// The variant of a hub id.
    pub(crate) fn find(id: &str) -> Option<&'static Self> {
        VARIANTS.iter().find(|variant| variant.id == id)
    }

    /// The hub id that a name without its owner may stand for (`medgemma-4b-it`).
    pub(crate) fn meant_by(name: &str) -> Option<&'static str> {
        VARIANTS.iter().map(|variant| variant.id).find(|id| id.strip_prefix("google/") == Some(name))
    }

    /// The variant that a path or a hub id names, as files are usually called (`medgemma-1.5-4b-it-Q4_K_M.gguf`).
    pub(crate) fn named_in(model: &str) -> Option<&'static Self> {
        let model = model.to_ascii_lowercase();
        let short = |variant: &&Self| variant.id.strip_prefix("google/").is_some_and(|short| model.contains(short));
        VARIANTS.iter().filter(short).max_by_key(|variant| variant.id.len())
    }

    fn config(&self) -> Config {
        Config::of_variant(self.shape).expect("a test goes through all of them")
    }

    /// Tokens it can attend to.
    pub(crate) fn context(&self) -> usize {
        self.config().text.max_position
    }

    /// Bytes of its weights.
    pub(crate) fn weights(&self, quant: Quant) -> u64 {
        footprint::weights(&self.config(), quant.dtype())
    }

    /// Bytes of the language model's weights: all of them are read for each token, which bounds the speed.
    pub(crate) fn read_per_token(&self, quant: Quant) -> u64 {
        footprint::bytes_as(footprint::decoder_weights(&self.config().text), quant.dtype())
    }

    /// Bytes to run it in, with the usual context.
    pub(crate) fn memory(&self, quant: Quant) -> u64 {
        footprint::memory(&self.config(), quant.dtype(), None, USUAL_CONTEXT)
    }

    /// How many of its layers, and of how many, a GPU with so much free memory takes with the usual context.
    pub(crate) fn gpu_layers(&self, quant: Quant, free: u64) -> (usize, usize) {
        let config = self.config();
        (gpu_layers(&config, quant.dtype(), USUAL_CONTEXT, free), config.text.global.len())
    }

    /// The most exact precision that fits into so much memory.
    pub(crate) fn best_fit(&self, available: u64) -> Option<Quant> {
        PRECISIONS.into_iter().find(|&quant| self.memory(quant) <= available)
    }
}

/// What a machine with so much memory can give a model: its system needs some too.
pub(crate) fn usable(total: u64) -> u64 {
    total.saturating_sub((total / 10).clamp(1_000_000_000, 4_000_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_names() {
        let id = |name: &str| Variant::named_in(name).map(|variant| variant.id);
        assert_eq!(id("/models/medgemma-1.5-4b-it-Q4_K_M.gguf"), Some("google/medgemma-1.5-4b-it"));
        assert_eq!(id("google/medgemma-4b-it"), Some("google/medgemma-4b-it"));
        assert_eq!(id("MedGemma-27B-text-it.gguf"), Some("google/medgemma-27b-text-it"));
        assert_eq!(id("demo"), None);
    }

    #[test]
    fn every_variant_has_a_shape_of_its_size() {
        for variant in &VARIANTS {
            let sees = variant.config().vision.is_some();
            assert_eq!(sees, variant.input.contains("images"), "{}", variant.id);
            assert!(variant.memory(Quant::Q4) < variant.memory(Quant::Q8), "{}", variant.id);
            assert!(variant.context() >= 32_768, "{}", variant.id);
        }
    }

    #[test]
    fn the_fit_is_the_most_exact_that_there_is_room_for() {
        let small = Variant::find("google/medgemma-4b-it").unwrap();
        assert_eq!(small.best_fit(1 << 30), None);
        assert_eq!(small.best_fit(small.memory(Quant::Q4)), Some(Quant::Q4));
        assert_eq!(small.best_fit(u64::MAX), Some(Quant::Bf16));
    }
}
