//! ggml's blocks of 32, rounded as its reference does (`quantize_row_*_ref`).

use super::{half_bytes, inverse, map};

/// The element of largest magnitude, with its sign (the first of equals).
#[inline(always)]
fn extreme(x: &[f32; 32]) -> f32 {
    let amax = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    // Most blocks hold one such element; which sign comes first decides ties, as in ggml.
    x.iter().copied().find(|v| v.abs() == amax).unwrap_or(0.0)
}

#[inline(always)]
fn range(x: &[f32; 32]) -> (f32, f32) {
    x.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)))
}

/// Rounds to a level of a block by adding a half and cutting off: `as` cuts, and clamps what is below 0.
#[inline(always)]
fn level(x: f32, offset: f32, top: u8) -> u8 {
    ((x + offset) as i32).clamp(0, i32::from(top)) as u8
}

/// Two levels of four bits share a byte: element i and element i + 16.
#[inline(always)]
fn nibbles(levels: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| levels[i] & 15 | (levels[16 + i] & 15) << 4)
}

/// The fifth bits of 32 levels.
#[inline(always)]
fn fifths(levels: &[u8; 32]) -> [u8; 4] {
    levels.iter().enumerate().fold(0u32, |bits, (i, level)| bits | u32::from(level >> 4) << i).to_le_bytes()
}

/// Joins the parts of a block.
#[inline(always)]
fn join<const B: usize>(parts: [&[u8]; 4]) -> [u8; B] {
    let mut out = [0; B];
    let mut at = 0;
    for part in parts {
        out[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    out
}

#[inline(always)]
pub(super) fn q4_0(x: &[f32; 32]) -> [u8; 18] {
    // The largest element becomes level 0, the only one of magnitude 8.
    let d = extreme(x) / -8.0;
    let id = inverse(d);
    join([&half_bytes(d), &nibbles(&map(x, |v| level(v * id, 8.5, 15))), &[], &[]])
}

#[inline(always)]
pub(super) fn q4_1(x: &[f32; 32]) -> [u8; 20] {
    let (low, high) = range(x);
    let d = (high - low) / 15.0;
    let id = inverse(d);
    join([&half_bytes(d), &half_bytes(low), &nibbles(&map(x, |v| level((v - low) * id, 0.5, 15))), &[]])
}

#[inline(always)]
pub(super) fn q5_0(x: &[f32; 32]) -> [u8; 22] {
    let d = extreme(x) / -16.0;
    let id = inverse(d);
    let levels = map(x, |v| level(v * id, 16.5, 31));
    join([&half_bytes(d), &fifths(&levels), &nibbles(&levels), &[]])
}

#[inline(always)]
pub(super) fn q5_1(x: &[f32; 32]) -> [u8; 24] {
    let (low, high) = range(x);
    let d = (high - low) / 31.0;
    let id = inverse(d);
    let levels = map(x, |v| level((v - low) * id, 0.5, 31));
    join([&half_bytes(d), &half_bytes(low), &fifths(&levels), &nibbles(&levels)])
}

#[inline(always)]
pub(super) fn q8_0(x: &[f32; 32]) -> [u8; 34] {
    let amax = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let d = amax / 127.0;
    let id = inverse(d);
    // To nearest, halves away from zero (C's roundf): cut off, then go on where a half or more was cut.
    let levels = map(x, |v| {
        let scaled = v * id;
        let cut = scaled as i32;
        let rest = scaled - cut as f32;
        (cut + (rest + rest) as i32) as u8
    });
    join([&half_bytes(d), &levels, &[], &[]])
}
