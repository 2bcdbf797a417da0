//! ggml's blocks, taken apart into integers and the scales they were stored with: nothing is rounded.

use super::layout::{Bits, GROUP, Ints, RECORD, Scales};
use medgemma_formats::DType;

/// Up to 256 weights of one row, as its [`Bits`] hold them.
pub(crate) struct Record {
    pub(crate) q: [i8; RECORD],
    /// f16 scales: one for each 32 weights, or one in all.
    pub(crate) scales: [u16; RECORD / GROUP],
    /// f16 minimums, likewise.
    pub(crate) mins: [u16; RECORD / GROUP],
    /// Factors of the one scale and the one minimum, for each group.
    pub(crate) scale_factors: [i8; RECORD / 16],
    pub(crate) min_factors: [i8; RECORD / 16],
}

/// What a nibble of the IQ4 types stands for (`kvalues_iq4nl` of `ggml-common.h`).
const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The layout that holds a quantized type without rounding; `None` for types that aren't integers in groups.
pub(crate) fn layout(dtype: DType) -> Option<Ints> {
    let (bits, scales, mins, group) = match dtype {
        DType::Q4_0 => (Bits::Four, Scales::Half, false, 32),
        DType::Q4_1 => (Bits::Four, Scales::Half, true, 32),
        DType::Q5_0 => (Bits::Six, Scales::Half, false, 32),
        DType::Q5_1 => (Bits::Six, Scales::Half, true, 32),
        DType::Q8_0 | DType::Iq4Nl => (Bits::Eight, Scales::Half, false, 32),
        DType::Q4K => (Bits::Four, Scales::Super, true, 32),
        DType::Q5K => (Bits::Six, Scales::Super, true, 32),
        DType::Iq4Xs => (Bits::Eight, Scales::Super, false, 32),
        DType::Q3K | DType::Q6K => (Bits::Six, Scales::Super, false, 16),
        DType::Q2K => (Bits::Six, Scales::Super, true, 16),
        DType::F32 | DType::F16 | DType::BF16 | DType::F8 | DType::Nf4 => return None,
    };
    Some(Ints { bits, scales, mins, group })
}

impl Record {
    pub(crate) const fn new() -> Self {
        Self {
            q: [0; RECORD],
            scales: [0; RECORD / GROUP],
            mins: [0; RECORD / GROUP],
            scale_factors: [0; RECORD / 16],
            min_factors: [0; RECORD / 16],
        }
    }

    /// Weights 4i to 4i + 3.
    pub(crate) fn quad(&self, i: usize) -> u32 {
        u32::from_ne_bytes(self.q.as_chunks::<4>().0[i].map(|q| q as u8))
    }

    /// Takes apart the blocks of up to 256 weights.
    ///
    /// # Panics
    /// When the bytes aren't whole blocks, or the type is a float or NF4.
    pub(crate) fn decode(&mut self, dtype: DType, bytes: &[u8]) {
        if dtype.block_len() == GROUP {
            for (i, block) in bytes.chunks_exact(dtype.block_bytes()).enumerate() {
                self.group(dtype, i, block);
            }
            return;
        }
        match dtype {
            DType::Q2K => self.q2_k(bytes),
            DType::Q3K => self.q3_k(bytes),
            DType::Q4K => self.q4_k(bytes),
            DType::Q5K => self.q5_k(bytes),
            DType::Q6K => self.q6_k(bytes),
            DType::Iq4Xs => self.iq4_xs(bytes),
            _ => unreachable!("a layout of integers was chosen by `layout`"),
        }
    }

    /// A block of 32 with a scale of its own, the first 16 elements in the low nibbles.
    fn group(&mut self, dtype: DType, i: usize, block: &[u8]) {
        self.scales[i] = half(block, 0);
        let q = &mut self.q[i * GROUP..][..GROUP];
        let fifths = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        match dtype {
            DType::Q4_0 => nibbles(&block[2..18], q, |v, _| v as i8),
            DType::Q4_1 => {
                self.mins[i] = half(block, 2);
                nibbles(&block[4..20], q, |v, _| v as i8);
            }
            DType::Q5_0 => nibbles(&block[6..22], q, |v, j| (v | fifth(fifths(2), j)) as i8 + 16),
            DType::Q5_1 => {
                self.mins[i] = half(block, 2);
                nibbles(&block[8..24], q, |v, j| (v | fifth(fifths(4), j)) as i8);
            }
            DType::Q8_0 => q.iter_mut().zip(&block[2..34]).for_each(|(q, &v)| *q = v as i8),
            DType::Iq4Nl => nibbles(&block[2..18], q, |v, _| IQ4_VALUES[usize::from(v)]),
            _ => unreachable!("no other type has blocks of 32"),
        }
    }

    /// 16 bytes of (4-bit scale, 4-bit minimum) for groups of 16, 64 bytes of 2-bit values, scale, minimum.
    fn q2_k(&mut self, block: &[u8]) {
        self.scales[0] = half(block, 80);
        self.mins[0] = negated(half(block, 82));
        for g in 0..16 {
            self.scale_factors[g] = (block[g] & 15) as i8;
            self.min_factors[g] = (block[g] >> 4) as i8;
            two_bits(&block[16..80], g, &mut self.q[g * 16..][..16]);
        }
    }

    /// 32 bytes of third bits (clear: less 4), 64 bytes of 2-bit values, 12 bytes of 6-bit factors less 32, scale.
    fn q3_k(&mut self, block: &[u8]) {
        self.scales[0] = half(block, 108);
        for g in 0..16 {
            let (low, high) = (block[96 + g % 8] >> (g / 8 * 4) & 15, block[104 + g % 4] >> (g / 4 * 2) & 3);
            self.scale_factors[g] = (low | high << 4) as i8 - 32;
            let q = &mut self.q[g * 16..][..16];
            two_bits(&block[32..96], g, q);
            for (q, &thirds) in q.iter_mut().zip(&block[g % 2 * 16..][..16]) {
                *q += 28 + ((thirds >> (g / 2) & 1) << 2) as i8;
            }
        }
    }

    /// Scale and minimum, then for each of 8 groups six bits of factors of both.
    fn scales_and_mins(&mut self, block: &[u8]) {
        self.scales[0] = half(block, 0);
        self.mins[0] = negated(half(block, 2));
        let packed = &block[4..16];
        for g in 0..8 {
            let (scale, min) = if g < 4 {
                (packed[g] & 63, packed[g + 4] & 63)
            } else {
                (packed[g + 4] & 15 | packed[g - 4] >> 6 << 4, packed[g + 4] >> 4 | packed[g] >> 6 << 4)
            };
            self.scale_factors[g] = scale as i8;
            self.min_factors[g] = min as i8;
        }
    }

    /// Scales and minimums, 128 bytes: each 32 hold two groups, the first in the low nibbles.
    fn q4_k(&mut self, block: &[u8]) {
        self.scales_and_mins(block);
        for (g, q) in self.q.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
            let shift = g % 2 * 4;
            for (q, byte) in q.iter_mut().zip(&block[16 + g / 2 * 32..][..32]) {
                *q = (byte >> shift & 15) as i8;
            }
        }
    }

    /// As Q4_K, with 32 bytes of fifth bits (bit g for group g) before the nibbles.
    fn q5_k(&mut self, block: &[u8]) {
        self.scales_and_mins(block);
        for (g, q) in self.q.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
            let shift = g % 2 * 4;
            let bytes = block[48 + g / 2 * 32..][..32].iter().zip(&block[16..48]);
            for (q, (low, fifths)) in q.iter_mut().zip(bytes) {
                *q = (low >> shift & 15 | (fifths >> g & 1) << 4) as i8;
            }
        }
    }

    /// 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed factors, scale; values less 32.
    fn q6_k(&mut self, block: &[u8]) {
        self.scales[0] = half(block, 208);
        for g in 0..16 {
            self.scale_factors[g] = block[192 + g] as i8;
        }
        for (g, q) in self.q.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
            // 128 elements are four runs of 32: the low nibbles of 64 bytes, then their high ones.
            let (half, run) = (g / 4, g % 4);
            let bytes = block[half * 64 + run % 2 * 32..][..32].iter().zip(&block[128 + half * 32..][..32]);
            for (q, (low, high)) in q.iter_mut().zip(bytes) {
                *q = (low >> (run / 2 * 4) & 15 | (high >> (run * 2) & 3) << 4) as i8;
            }
        }
    }

    /// Scale, high bit pairs and low nibbles of 8 factors less 32, 128 bytes of nibbles.
    fn iq4_xs(&mut self, block: &[u8]) {
        self.scales[0] = half(block, 0);
        let high = half(block, 2);
        for g in 0..8 {
            let factor = block[4 + g / 2] >> (g % 2 * 4) & 15 | ((high >> (2 * g)) as u8 & 3) << 4;
            self.scale_factors[g] = factor as i8 - 32;
            let q = &mut self.q[g * GROUP..][..GROUP];
            nibbles(&block[8 + g * 16..][..16], q, |v, _| IQ4_VALUES[usize::from(v)]);
        }
    }
}

fn half(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// K-quants subtract their minimums.
fn negated(half: u16) -> u16 {
    half ^ 0x8000
}

fn fifth(bits: u32, i: usize) -> u8 {
    ((bits >> i) as u8 & 1) << 4
}

/// The 16 elements of group g where 128 elements share 32 bytes, two bits for each 32.
fn two_bits(bytes: &[u8], g: usize, out: &mut [i8]) {
    let shift = g % 8 / 2 * 2;
    for (out, byte) in out.iter_mut().zip(&bytes[g / 8 * 32 + g % 2 * 16..][..16]) {
        *out = (byte >> shift & 3) as i8;
    }
}

/// `f(nibble, element)` of 16 low nibbles, then of the 16 high ones.
fn nibbles(bytes: &[u8], out: &mut [i8], f: impl Fn(u8, usize) -> i8) {
    for (i, &byte) in bytes.iter().enumerate() {
        out[i] = f(byte & 15, i);
        out[i + 16] = f(byte >> 4, i + 16);
    }
}
