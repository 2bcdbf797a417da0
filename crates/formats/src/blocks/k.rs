//! ggml's K-quants: super-blocks of 256 whose groups of 16 or 32 have quantized scales.

use super::half_at;

/// 16 bytes of (4-bit scale, 4-bit minimum) for groups of 16, 64 bytes of 2-bit values, `d`, `dmin`.
#[inline(always)]
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    // Group g covers 16 elements; 128 elements share 32 bytes, two bits for each 32.
    for (g, values) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block[g] & 15);
        let min = dmin * f32::from(block[g] >> 4);
        let bytes = 16 + (g / 8) * 32 + (g % 2) * 16;
        let shift = (g % 8) / 2 * 2;
        for (i, value) in values.iter_mut().enumerate() {
            *value = scale * f32::from(block[bytes + i] >> shift & 3) - min;
        }
    }
}

/// 32 bytes of third bits (clear: subtract 4), 64 bytes of 2-bit values, 12 bytes of 6-bit scales less 32, `d`.
#[inline(always)]
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = half_at(block, 108);
    for (g, values) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        // Scale g: its low four bits in a nibble of bytes 0..8, its high two in bytes 8..12.
        let low = block[96 + g % 8] >> (g / 8 * 4) & 15;
        let high = block[104 + g % 4] >> (g / 4 * 2) & 3;
        let scale = d * f32::from((low | high << 4) as i8 - 32);
        let bytes = 32 + (g / 8) * 32 + (g % 2) * 16;
        let shift = (g % 8) / 2 * 2;
        let third = g / 2; // bit of the mask, whose bytes repeat every 32 elements
        for (i, value) in values.iter_mut().enumerate() {
            let q = (block[bytes + i] >> shift & 3) as i8;
            let less = if block[(g % 2) * 16 + i] >> third & 1 == 0 { 4 } else { 0 };
            *value = scale * f32::from(q - less);
        }
    }
}

/// Scale and minimum, six bits each, of group `j` of 8 in the 12 bytes that Q4_K and Q5_K share.
#[inline(always)]
fn scale_min(scales: &[u8; 12], j: usize) -> (u8, u8) {
    if j < 4 {
        (scales[j] & 63, scales[j + 4] & 63)
    } else {
        (scales[j + 4] & 15 | scales[j - 4] >> 6 << 4, scales[j + 4] >> 4 | scales[j] >> 6 << 4)
    }
}

/// The 12 bytes of scales and minimums of a Q4_K or Q5_K block.
#[inline(always)]
fn scales<const B: usize>(block: &[u8; B]) -> [u8; 12] {
    std::array::from_fn(|i| block[4 + i])
}

/// `d`, `dmin`, 12 bytes of scales and minimums, 128 bytes: 32 bytes hold 64 elements, low nibbles first.
#[inline(always)]
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let scales = scales(block);
    for (g, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_min(&scales, g);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        let bytes = 16 + g / 2 * 32;
        let shift = g % 2 * 4;
        for (i, value) in values.iter_mut().enumerate() {
            *value = scale * f32::from(block[bytes + i] >> shift & 15) - min;
        }
    }
}

/// As Q4_K, with 32 bytes of fifth bits (bit `g` for group `g`) before the nibbles.
#[inline(always)]
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let scales = scales(block);
    for (g, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_min(&scales, g);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        let bytes = 48 + g / 2 * 32;
        let shift = g % 2 * 4;
        for (i, value) in values.iter_mut().enumerate() {
            let q = block[bytes + i] >> shift & 15 | (block[16 + i] >> g & 1) << 4;
            *value = scale * f32::from(q) - min;
        }
    }
}

/// 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales for groups of 16, `d`: `d · scale · (q - 32)`.
#[inline(always)]
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half_at(block, 208);
    for (g, values) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block[192 + g] as i8);
        // 128 elements are four runs of 32: low nibbles of two runs, then high nibbles of the same bytes.
        let (half, run, part) = (g / 8, g % 8 / 2, g % 2);
        let low = half * 64 + run % 2 * 32 + part * 16;
        let high = 128 + half * 32 + part * 16;
        for (i, value) in values.iter_mut().enumerate() {
            let q = block[low + i] >> (run / 2 * 4) & 15 | (block[high + i] >> (run * 2) & 3) << 4;
            *value = scale * f32::from(q as i8 - 32);
        }
    }
}
