//! ggml's blocks of 32 with one scale, and a minimum in the `_1` types. The first 16 elements are the low nibbles.

use super::half_at;

/// `d`, 16 bytes of nibbles: `d · (q - 8)`.
#[inline(always)]
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for i in 0..16 {
        let q = block[2 + i];
        out[i] = f32::from((q & 15) as i8 - 8) * d;
        out[16 + i] = f32::from((q >> 4) as i8 - 8) * d;
    }
}

/// `d`, `m`, 16 bytes of nibbles: `d · q + m`.
#[inline(always)]
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for i in 0..16 {
        let q = block[4 + i];
        out[i] = f32::from(q & 15) * d + m;
        out[16 + i] = f32::from(q >> 4) * d + m;
    }
}

/// The fifth bits of a block of 5-bit types, one bit an element, as the value 16 or 0.
#[inline(always)]
fn fifth(high: u32, i: usize) -> u8 {
    ((high >> i) as u8 & 1) << 4
}

/// `d`, 4 bytes of fifth bits, 16 bytes of nibbles: `d · (q - 16)`.
#[inline(always)]
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for i in 0..16 {
        let q = block[6 + i];
        out[i] = f32::from((q & 15 | fifth(high, i)) as i8 - 16) * d;
        out[16 + i] = f32::from((q >> 4 | fifth(high, 16 + i)) as i8 - 16) * d;
    }
}

/// `d`, `m`, 4 bytes of fifth bits, 16 bytes of nibbles: `d · q + m`.
#[inline(always)]
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for i in 0..16 {
        let q = block[8 + i];
        out[i] = f32::from(q & 15 | fifth(high, i)) * d + m;
        out[16 + i] = f32::from(q >> 4 | fifth(high, 16 + i)) * d + m;
    }
}

/// `d`, 32 signed bytes: `d · q`.
#[inline(always)]
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for i in 0..32 {
        out[i] = f32::from(block[2 + i] as i8) * d;
    }
}
