//! ggml's non-linear 4-bit types: a nibble picks one of 16 fixed values.

use super::half_at;

/// What a nibble stands for (`kvalues_iq4nl` of `ggml-common.h`).
const VALUES: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

/// `d`, 16 bytes of nibbles, low ones first.
#[inline(always)]
pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for i in 0..16 {
        let q = block[2 + i];
        out[i] = d * VALUES[usize::from(q & 15)];
        out[16 + i] = d * VALUES[usize::from(q >> 4)];
    }
}

/// `d`, 16 high bit pairs and 8 low nibbles of the scales (less 32) of 8 groups of 32, 128 bytes of nibbles.
#[inline(always)]
pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (g, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let scale = block[4 + g / 2] >> (g % 2 * 4) & 15 | ((high >> (2 * g)) as u8 & 3) << 4;
        let scale = d * f32::from(scale as i8 - 32);
        for i in 0..16 {
            let q = block[8 + g * 16 + i];
            values[i] = scale * VALUES[usize::from(q & 15)];
            values[16 + i] = scale * VALUES[usize::from(q >> 4)];
        }
    }
}
