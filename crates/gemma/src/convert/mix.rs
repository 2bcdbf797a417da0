//! Which element type each tensor gets: llama.cpp's mixes.

use medgemma_formats::DType;
use std::fmt;
use std::str::FromStr;

/// What a checkpoint is converted to. The quantized ones are llama.cpp's mixes, whose names its users know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Every matrix in 32-bit floats.
    F32,
    /// Every matrix in bfloat16: as published, nothing lost.
    BF16,
    /// Every matrix in blocks of 32 with 8 bits an element.
    Q8_0,
    /// Blocks of 256 with 4 bits, and 6 bits for the embedding table and the half of the layers' matrices that matter
    /// most.
    Q4KM,
    /// Blocks of 32 with 4 bits, 6 for the embedding table.
    Q4_0,
}

impl Target {
    /// All of them, the largest first.
    pub const ALL: [Self; 5] = [Self::F32, Self::BF16, Self::Q8_0, Self::Q4KM, Self::Q4_0];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4KM => "q4_k_m",
            Self::Q4_0 => "q4_0",
        }
    }

    /// `general.file_type`: llama.cpp's number of the mix (`enum llama_ftype`).
    pub(super) const fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::Q4_0 => 2,
            Self::Q8_0 => 7,
            Self::Q4KM => 15,
            Self::BF16 => 32,
        }
    }

    /// The type of most matrices.
    const fn base(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::BF16 => DType::BF16,
            Self::Q8_0 => DType::Q8_0,
            Self::Q4KM => DType::Q4K,
            Self::Q4_0 => DType::Q4_0,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let lower = name.to_lowercase();
        Self::ALL.into_iter().find(|target| target.name() == lower).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|target| target.name()).collect();
            format!("{name:?} is none of {}", names.join(", "))
        })
    }
}

/// What a matrix is for, as far as the mix cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// What makes the logits: the output matrix, and the embedding table when it is that too.
    Output,
    /// Values (`attn_v`) or the second feed-forward matrix (`ffn_down`) of a layer: the most sensitive ones.
    Sensitive {
        /// The layer.
        layer: usize,
        /// Layers in all.
        layers: usize,
    },
    /// Any other.
    Matrix,
}

/// The type of a decoder's matrix with rows of `cols` elements.
pub(super) fn dtype(target: Target, role: Role, cols: usize) -> DType {
    let base = target.base();
    if matches!(target, Target::F32 | Target::BF16) {
        return base;
    }
    let wanted = match role {
        // Where even the mix's own type doesn't fit, llama.cpp goes to 8 bits here rather than to 6.
        Role::Output if !fits(base, cols) => DType::Q8_0,
        Role::Output if base != DType::Q8_0 => DType::Q6K,
        Role::Sensitive { layer, layers } if target == Target::Q4KM && more_bits(layer, layers) => DType::Q6K,
        Role::Output | Role::Sensitive { .. } | Role::Matrix => base,
    };
    fallback(wanted, cols)
}

/// The layers that get more bits: the first and last eighth, and every third between.
const fn more_bits(layer: usize, layers: usize) -> bool {
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

const fn fits(dtype: DType, cols: usize) -> bool {
    cols.is_multiple_of(dtype.block_len())
}

/// What stands in for a type whose blocks don't fill rows of `cols`: the next one up with blocks of 32, else F16.
fn fallback(wanted: DType, cols: usize) -> DType {
    if fits(wanted, cols) {
        return wanted;
    }
    let smaller = match wanted {
        DType::Q4K => DType::Q5_0,
        DType::Q5K => DType::Q5_1,
        DType::Q6K => DType::Q8_0,
        _ => DType::F16,
    };
    if fits(smaller, cols) { smaller } else { DType::F16 }
}

/// The type of the image encoder's matrices, stored as `stored`. Its rows (1152 and 4304 in SigLIP) aren't whole blocks
/// of 256 and it is a small part of a model, so it stays in floats: 16 bits of the kind it came in, unless all 32 are
/// asked for.
pub(super) fn vision_dtype(target: Target, stored: DType) -> DType {
    match (target, stored) {
        (Target::F32, _) => DType::F32,
        (Target::BF16, _) | (_, DType::BF16) => DType::BF16,
        _ => DType::F16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_either_case() {
        for target in Target::ALL {
            assert_eq!(target.name().to_uppercase().parse(), Ok(target));
        }
        let error = "q3_k".parse::<Target>().unwrap_err();
        assert!(error.contains("q4_k_m"), "{error}");
    }

    /// The types in the published Q4_K_M file of Gemma 3 270M, whose rows of 640 aren't whole blocks of 256.
    #[test]
    fn q4_k_m_of_the_270m_is_as_published() {
        let six_bits = [0, 1, 4, 7, 10, 13, 15, 16, 17];
        for layer in 0..18 {
            let role = Role::Sensitive { layer, layers: 18 };
            let more = six_bits.contains(&layer);
            let value = dtype(Target::Q4KM, role, 640);
            assert_eq!(value, if more { DType::Q8_0 } else { DType::Q5_0 }, "attn_v of layer {layer}");
            let down = dtype(Target::Q4KM, role, 2048);
            assert_eq!(down, if more { DType::Q6K } else { DType::Q4K }, "ffn_down of layer {layer}");
        }
        assert_eq!(dtype(Target::Q4KM, Role::Output, 640), DType::Q8_0);
        assert_eq!(dtype(Target::Q4KM, Role::Matrix, 640), DType::Q5_0);
        assert_eq!(dtype(Target::Q4KM, Role::Matrix, 1024), DType::Q4K);
    }

    #[test]
    fn rows_that_are_not_whole_blocks_fall_back() {
        assert_eq!(dtype(Target::Q4_0, Role::Output, 2560), DType::Q6K);
        assert_eq!(dtype(Target::Q4_0, Role::Output, 640), DType::Q8_0);
        assert_eq!(dtype(Target::Q4_0, Role::Output, 72), DType::F16);
        assert_eq!(dtype(Target::Q4_0, Role::Matrix, 72), DType::F16);
        assert_eq!(dtype(Target::Q4_0, Role::Sensitive { layer: 0, layers: 34 }, 2560), DType::Q4_0);
        assert_eq!(dtype(Target::Q8_0, Role::Output, 2560), DType::Q8_0);
        assert_eq!(dtype(Target::Q8_0, Role::Matrix, 4304), DType::F16);
        assert_eq!(dtype(Target::BF16, Role::Matrix, 7), DType::BF16);
        assert_eq!(fallback(DType::Q5K, 640), DType::Q5_1);
    }
}
