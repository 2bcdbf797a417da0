//! Where the bytes of a panel lie.
//!
//! A panel holds [`LANES`] output rows, interleaved along k. All panels of a layout are equally long, so that threads
//! find theirs by multiplication.
//!
//! * Floats: `[k][LANES]` elements.
//! * Pairs: `[k / 2][LANES][2]` bf16.
//! * 8-bit floats: `[LANES]` f32 scales, each times 2⁸, then `[k][LANES]` bytes.
//! * NF4: for each 64 k, `[LANES]` f32 scales, then for each two k `[LANES]` bytes, the first k in the low nibble.
//! * Integers: for each 256 k a record of scales, padded to a cache line, then weights. 8-bit weights: for each 4 k
//!   `[LANES][4]` bytes. 4-bit ones: for each 8 k `[LANES][4]` bytes, the first 4 k in the low nibbles. 6-bit ones: for
//!   each 16 k their low 4 bits like those, then `[LANES][4]` bytes whose pairs of bits, lowest first, are the high two of
//!   each 4 k. The last record may be shorter, by whole groups of 32.

use crate::cpu::Error;
use crate::cpu::simd::LANES;

/// k that one record of an integer layout covers.
pub(crate) const RECORD: usize = 256;
/// Elements that share a scale of activations, and of 32-wide weights.
pub(crate) const GROUP: usize = 32;
/// Elements that share a scale in NF4.
pub(crate) const NF4_BLOCK: usize = 64;
/// Bytes of one block of an NF4 panel.
pub(crate) const NF4_BYTES: usize = LANES * 4 + NF4_BLOCK / 2 * LANES;

/// Bytes of the scales of a panel of 8-bit floats.
pub(crate) const F8_SCALES: usize = LANES * 4;

/// How a panel holds its weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Layout {
    F32,
    F16,
    BF16,
    /// bf16 for products in bf16.
    Pairs,
    /// E4M3, with a scale for each row.
    F8,
    /// With the values its nibbles stand for.
    Nf4([f32; 16]),
    Int(Ints),
}

/// An integer layout: a weight is `scale · q`, or `scale · q + min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ints {
    pub(crate) bits: Bits,
    pub(crate) scales: Scales,
    /// Whether each group has a minimum.
    pub(crate) mins: bool,
    /// Elements that share a scale: 16 or 32.
    pub(crate) group: usize,
}

/// How an integer is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bits {
    /// 0..=15; without minimums it stands for itself less 8.
    Four,
    /// 0..=63; without minimums it stands for itself less 32.
    Six,
    /// Signed.
    Eight,
}

impl Bits {
    pub(crate) const fn count(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Six => 6,
            Self::Eight => 8,
        }
    }
}

/// How the scales and minimums of a record are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scales {
    /// One f16 a group: `[groups][LANES]` scales, then as many minimums.
    Half,
    /// One f16 a record times a signed byte a group: `[LANES]` f16 factors of scales, `[LANES]` f16 factors of minimums,
    /// `[groups][LANES]` bytes of scales, `[groups / 2][LANES][2]` bytes of minimums. Records are whole.
    Super,
}

impl Ints {
    /// Bytes of the scales of a record of `len` k.
    pub(crate) fn scale_bytes(&self, len: usize) -> usize {
        let groups = len / self.group;
        let one = match self.scales {
            Scales::Half => groups * LANES * 2,
            Scales::Super => LANES * 2 + groups * LANES,
        };
        (if self.mins { 2 * one } else { one }).next_multiple_of(64)
    }

    /// Bytes of the weights of `len` k.
    pub(crate) fn weight_bytes(&self, len: usize) -> usize {
        len * LANES * self.bits.count() / 8
    }

    /// Bytes of a record of `len` k.
    pub(crate) fn record_bytes(&self, len: usize) -> usize {
        if len == 0 { 0 } else { self.scale_bytes(len) + self.weight_bytes(len) }
    }
}

impl Layout {
    /// Bytes of one panel of `k` columns, which the layout can hold.
    pub(crate) fn panel_bytes(&self, k: usize) -> Result<usize, Error> {
        // No layout takes more than 80 bytes for the LANES elements of one k, and none more than a record's scales.
        k.checked_mul(128).ok_or(Error::TooLarge)?;
        Ok(match self {
            Self::F32 => k * LANES * 4,
            Self::F16 | Self::BF16 | Self::Pairs => k * LANES * 2,
            Self::F8 => F8_SCALES + k * LANES,
            Self::Nf4(_) => k / NF4_BLOCK * NF4_BYTES,
            Self::Int(ints) => k / RECORD * ints.record_bytes(RECORD) + ints.record_bytes(k % RECORD),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::pack::blocks;
    use medgemma_formats::DType;

    /// Bits a weight, as KERNELS.md says: they decide whether a model fits a machine.
    #[test]
    fn layouts_are_as_narrow_as_promised() {
        let bits = |layout: Layout| layout.panel_bytes(2560).unwrap() as f64 * 8.0 / (2560 * LANES) as f64;
        assert_eq!(bits(Layout::F32), 32.0);
        assert_eq!(bits(Layout::F16), 16.0);
        assert_eq!(bits(Layout::BF16), 16.0);
        assert_eq!(bits(Layout::F8), 8.0 + 32.0 / 2560.0);
        assert_eq!(bits(Layout::Nf4([0.0; 16])), 4.5);
        for (dtype, expected) in [
            (DType::Q4_0, 4.5),
            (DType::Q4_1, 5.0),
            (DType::Q4K, 4.625),
            (DType::Q8_0, 8.5),
            (DType::Q5_0, 6.5),
            (DType::Iq4Nl, 8.5),
            (DType::Q5_1, 7.0),
            (DType::Q5K, 6.625),
            (DType::Iq4Xs, 8.375),
            (DType::Q6K, 6.625),
            (DType::Q3K, 6.625),
            (DType::Q2K, 7.125),
        ] {
            assert_eq!(bits(Layout::Int(blocks::layout(dtype).unwrap())), expected, "{dtype:?}");
        }
    }

    #[test]
    fn sizes_that_overflow_are_errors() {
        assert!(matches!(Layout::F32.panel_bytes(usize::MAX / 4), Err(Error::TooLarge)));
    }
}
