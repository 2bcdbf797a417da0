//! F32, F16 and BF16.

pub(super) fn f32(bytes: &[u8], out: &mut [f32]) {
    for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*raw);
    }
}

pub(super) fn bf16(bytes: &[u8], out: &mut [f32]) {
    for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *value = f32::from_bits(u32::from(u16::from_le_bytes(*raw)) << 16);
    }
}

pub(super) fn f16(bytes: &[u8], out: &mut [f32]) {
    for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *value = f16_to_f32(u16::from_le_bytes(*raw));
    }
}

/// An IEEE half as f32, exactly. Without branches or table, so that loops over it vectorize on any CPU.
#[inline(always)]
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    let bits = u32::from(bits);
    let sign = (bits & 0x8000) << 16;
    let magnitude = (bits & 0x7fff) << 13;
    // Exponents are biased by 15 in a half and by 127 in f32.
    let normal = magnitude.wrapping_add((127 - 15) << 23);
    // A subnormal half: put it below an implicit one, then subtract that one.
    const ONE: u32 = (127 - 15 + 1) << 23;
    let subnormal = (f32::from_bits(magnitude | ONE) - f32::from_bits(ONE)).to_bits();
    let infinite = magnitude | 0x7f80_0000;
    let finite = if magnitude < 0x400 << 13 { subnormal } else { normal };
    f32::from_bits(sign | if magnitude >= 0x7c00 << 13 { infinite } else { finite })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_exact() {
        for bits in 0..=u16::MAX {
            let expected = half::f16::from_bits(bits).to_f32();
            let got = f16_to_f32(bits);
            assert!(got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan()), "{bits:#06x}");
        }
    }

    #[test]
    fn every_bf16_is_exact() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut out = vec![0.0; 1 << 16];
        bf16(&bytes, &mut out);
        for (bits, got) in (0..=u16::MAX).zip(out) {
            let expected = half::bf16::from_bits(bits).to_f32();
            assert!(got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan()), "{bits:#06x}");
        }
    }
}
