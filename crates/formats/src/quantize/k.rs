//! Q4_K, Q5_K and Q6_K.
//!
//! Each group's scale (and minimum) is the weighted least-squares fit to the levels that a range of trial scales
//! would round its elements to; then the groups' scales are rounded to what the super-block can express, each tried
//! with its neighbours, and the super-block's own scale is fitted to the outcome. Larger elements weigh more: they
//! matter more to a dot product.

use super::{half_bytes, inverse, map};
use crate::blocks::f16_to_f32;
use half::f16;

/// Sums run in this many lanes, in one fixed order that vectorizes.
const LANES: usize = 8;

/// Rounds to the nearest whole number, ties to even, when `|x| < 2²²`: adding 1.5·2²³ leaves no bits for a fraction.
/// Unlike `f32::round`, it needs no instruction beyond baseline x86-64.
#[inline(always)]
fn round(x: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    (x + NO_FRACTION) - NO_FRACTION
}

/// Clamps, and takes NaN to `low`.
#[inline(always)]
fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = if x > low { x } else { low };
    if x < high { x } else { high }
}

/// `Σ f(i)` for several sums at once.
#[inline(always)]
fn sums<const N: usize, const S: usize>(f: impl Fn(usize) -> [f32; S]) -> [f32; S] {
    let mut lanes = [[0.0f32; LANES]; S];
    for first in (0..N).step_by(LANES) {
        for lane in 0..LANES {
            let terms = f(first + lane);
            for (sum, term) in lanes.iter_mut().zip(terms) {
                sum[lane] += term;
            }
        }
    }
    lanes.map(|lane| lane.iter().sum())
}

/// How much each element's error counts.
#[inline(always)]
fn weights<const N: usize>(x: &[f32; N]) -> [f32; N] {
    let [squares] = sums::<N, 1>(|i| [x[i] * x[i]]);
    let typical = (squares / N as f32).sqrt();
    map(x, |v| typical + v.abs())
}

/// Nearest half, as bits and value.
#[inline(always)]
fn to_half(value: f32) -> f32 {
    f16_to_f32(f16::from_f32(value).to_bits())
}

// Groups with a scale and a minimum: x ≈ scale · q - min, q in 0 ..= top, min >= 0.

/// Elements of a group of Q4_K and Q5_K.
const GROUP: usize = 32;

type Group = [f32; GROUP];

#[inline(always)]
fn affine_levels(x: &Group, scale: f32, min: f32, top: f32) -> Group {
    let inverse = inverse(scale);
    map(x, |v| round(clamp((v + min) * inverse, 0.0, top)))
}

/// `Σ w · (scale · q - min - x)²`.
#[inline(always)]
fn affine_error(x: &Group, w: &Group, q: &Group, scale: f32, min: f32) -> f32 {
    let [error] = sums::<GROUP, 1>(|i| {
        let difference = scale * q[i] - min - x[i];
        [w[i] * difference * difference]
    });
    error
}

/// Scale and minimum of one group.
#[inline(always)]
fn affine_fit(x: &Group, w: &Group, top: f32) -> (f32, f32) {
    /// Trial scales, and how many levels more or fewer than `top` the widest and the narrowest span.
    const TRIALS: i32 = 10;
    const SPREAD: f32 = 1.5;

    let low = x.iter().fold(0.0f32, |low, &v| if v < low { v } else { low });
    let high = x.iter().fold(f32::MIN, |high, &v| if v > high { v } else { high });
    if high <= low {
        return (0.0, -low);
    }
    let span = high - low;
    let [sw, swx] = sums::<GROUP, 2>(|i| [w[i], w[i] * x[i]]);
    let mean = swx / sw;
    let centred = map(x, |v| v - mean);
    let mut best = (span / top, -low);
    let mut most = 0.0;
    // Fits levels, and keeps the fit when it explains more of the weighted variance than the best so far.
    let mut consider = |q: &Group| {
        let [sq, sqq, sqx] = sums::<GROUP, 3>(|i| {
            let wq = w[i] * q[i];
            [wq, wq * q[i], wq * centred[i]]
        });
        let variance = sqq - sq * sq / sw;
        if variance <= 0.0 {
            return None;
        }
        let mut scale = sqx / variance;
        let mut min = scale * sq / sw - mean;
        let mut explained = scale * sqx;
        if min < 0.0 {
            // The minimum can't be negative: the best line through the origin instead.
            let sqx = sqx + mean * sq;
            (scale, min) = (sqx / sqq, 0.0);
            explained = scale * sqx - sw * mean * mean;
        }
        let better = scale > 0.0 && explained > most;
        if better {
            (most, best) = (explained, (scale, min));
        }
        better.then_some((scale, min))
    };
    let mut fit = None;
    for trial in 0..=TRIALS {
        let levels = top + SPREAD * (2.0 * trial as f32 / TRIALS as f32 - 1.0);
        fit = consider(&affine_levels(x, span / levels, -low, top)).or(fit);
    }
    for _ in 0..2 {
        if let Some((scale, min)) = fit {
            fit = consider(&affine_levels(x, scale, min, top));
        }
    }
    best
}

/// A super-block of eight groups with scales and minimums.
struct Affine {
    d: f32,
    dmin: f32,
    scales: [u8; 8],
    mins: [u8; 8],
    levels: [Group; 8],
    error: f32,
}

/// Largest scale or minimum of a group: six bits.
const TOP_SCALE: f32 = 63.0;

impl Affine {
    /// Rounds the groups' scales and minimums to whole multiples of `d` and `dmin`, each the best among its neighbours.
    #[inline(always)]
    fn round(x: &[Group; 8], w: &[Group; 8], fits: &[(f32, f32); 8], d: f32, dmin: f32, top: f32) -> Self {
        let (d, dmin) = (to_half(d), to_half(dmin));
        let mut out = Self { d, dmin, scales: [0; 8], mins: [0; 8], levels: [[0.0; GROUP]; 8], error: 0.0 };
        for g in 0..8 {
            let scale = round(clamp(fits[g].0 * inverse(d), 0.0, TOP_SCALE));
            let min = round(clamp(fits[g].1 * inverse(dmin), 0.0, TOP_SCALE));
            let mut least = f32::INFINITY;
            for (ds, dm) in [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1), (-1, 1), (1, -1)] {
                let scale = clamp(scale + ds as f32, 0.0, TOP_SCALE);
                let min = clamp(min + dm as f32, 0.0, TOP_SCALE);
                let levels = affine_levels(&x[g], d * scale, dmin * min, top);
                let error = affine_error(&x[g], &w[g], &levels, d * scale, dmin * min);
                if error < least {
                    least = error;
                    (out.scales[g], out.mins[g], out.levels[g]) = (scale as u8, min as u8, levels);
                }
            }
            out.error += least;
        }
        out
    }

    /// The `d` and `dmin` that fit best with these scales, minimums and levels; `None` when they are not determined.
    #[inline(always)]
    fn refit(&self, x: &[Group; 8], w: &[Group; 8]) -> Option<(f32, f32)> {
        let (mut saa, mut sab, mut sbb, mut sax, mut sbx) = (0.0f64, 0.0, 0.0, 0.0, 0.0);
        for g in 0..8 {
            let (q, scale, min) = (&self.levels[g], f64::from(self.scales[g]), f64::from(self.mins[g]));
            let [sw, swx, sq, sqq, sqx] = sums::<GROUP, 5>(|i| {
                let (wx, wq) = (w[g][i] * x[g][i], w[g][i] * q[i]);
                [w[g][i], wx, wq, wq * q[i], wx * q[i]]
            });
            saa += scale * scale * f64::from(sqq);
            sab += scale * min * f64::from(sq);
            sbb += min * min * f64::from(sw);
            sax += scale * f64::from(sqx);
            sbx += min * f64::from(swx);
        }
        let determinant = saa * sbb - sab * sab;
        let (d, dmin) = if determinant > 0.0 {
            ((sax * sbb - sab * sbx) / determinant, (sab * sax - saa * sbx) / determinant)
        } else if saa > 0.0 {
            (sax / saa, 0.0)
        } else {
            return None;
        };
        (d > 0.0 && dmin >= 0.0).then_some((d as f32, dmin as f32))
    }
}

#[inline(always)]
fn affine(x: &[f32; 256], top: f32) -> Affine {
    let x: [Group; 8] = std::array::from_fn(|g| std::array::from_fn(|i| x[g * GROUP + i]));
    let w = x.each_ref().map(weights);
    let fits: [(f32, f32); 8] = std::array::from_fn(|g| affine_fit(&x[g], &w[g], top));
    let d = fits.iter().fold(0.0f32, |most, fit| most.max(fit.0)) / TOP_SCALE;
    let dmin = fits.iter().fold(0.0f32, |most, fit| most.max(fit.1)) / TOP_SCALE;
    let mut best = Affine::round(&x, &w, &fits, d, dmin, top);
    if let Some((d, dmin)) = best.refit(&x, &w) {
        let again = Affine::round(&x, &w, &fits, d, dmin, top);
        if again.error < best.error {
            best = again;
        }
    }
    best
}

/// The 12 bytes of eight 6-bit scales and minimums: the first four of each in the low six bits of a byte, the others'
/// low nibbles together in a byte and their high two bits on top of the first ones.
fn pack_scales(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut out = [0; 12];
    for j in 0..4 {
        out[j] = scales[j] | scales[j + 4] >> 4 << 6;
        out[j + 4] = mins[j] | mins[j + 4] >> 4 << 6;
        out[j + 8] = scales[j + 4] & 15 | mins[j + 4] << 4;
    }
    out
}

/// `d`, `dmin` and the scales, with which both types begin.
fn head<const B: usize>(affine: &Affine) -> [u8; B] {
    let mut out = [0; B];
    out[..2].copy_from_slice(&half_bytes(affine.d));
    out[2..4].copy_from_slice(&half_bytes(affine.dmin));
    out[4..16].copy_from_slice(&pack_scales(&affine.scales, &affine.mins));
    out
}

pub(super) fn q4_k(x: &[f32; 256]) -> [u8; 144] {
    let affine = affine(x, 15.0);
    let mut out: [u8; 144] = head(&affine);
    for (pair, levels) in affine.levels.as_chunks::<2>().0.iter().enumerate() {
        for i in 0..GROUP {
            out[16 + pair * GROUP + i] = levels[0][i] as u8 | (levels[1][i] as u8) << 4;
        }
    }
    out
}

pub(super) fn q5_k(x: &[f32; 256]) -> [u8; 176] {
    let affine = affine(x, 31.0);
    let mut out: [u8; 176] = head(&affine);
    for (g, levels) in affine.levels.iter().enumerate() {
        for i in 0..GROUP {
            let level = levels[i] as u8;
            out[16 + i] |= level >> 4 << g;
            out[48 + g / 2 * GROUP + i] |= (level & 15) << (g % 2 * 4);
        }
    }
    out
}

// Groups with a scale alone: x ≈ scale · q, q in -32 ..= 31.

/// Elements of a group of Q6_K.
const SMALL: usize = 16;

type Small = [f32; SMALL];

#[inline(always)]
fn symmetric_levels(x: &Small, inverse: f32) -> Small {
    map(x, |v| round(clamp(v * inverse, -32.0, 31.0)))
}

/// Scale of one group. Its sign is chosen so that the largest element falls on the side with one level more.
#[inline(always)]
fn symmetric_fit(x: &Small, w: &Small) -> f32 {
    const TRIALS: i32 = 10;
    const SPREAD: f32 = 4.0;

    let extreme = x.iter().fold(0.0f32, |most, &v| if v.abs() > most.abs() { v } else { most });
    if extreme == 0.0 {
        return 0.0;
    }
    let mut best = extreme / -32.0;
    // The error is Σ w·x² less (Σ w·q·x)² / Σ w·q²: the larger that, the better.
    let mut most = 0.0;
    for trial in 0..=TRIALS {
        let levels = 32.0 + SPREAD * (2.0 * trial as f32 / TRIALS as f32 - 1.0);
        let q = symmetric_levels(x, -levels / extreme);
        let [sqq, sqx] = sums::<SMALL, 2>(|i| {
            let wq = w[i] * q[i];
            [wq * q[i], wq * x[i]]
        });
        if sqq > 0.0 && sqx * sqx > most * sqq {
            (most, best) = (sqx * sqx / sqq, sqx / sqq);
        }
    }
    best
}

/// A super-block of sixteen groups with scales.
struct Symmetric {
    d: f32,
    scales: [i8; 16],
    levels: [Small; 16],
    error: f32,
}

impl Symmetric {
    /// Rounds the groups' scales to whole multiples of `d`, each the best among its neighbours.
    #[inline(always)]
    fn round(x: &[Small; 16], w: &[Small; 16], fits: &[f32; 16], d: f32) -> Self {
        let d = to_half(d);
        let mut out = Self { d, scales: [0; 16], levels: [[0.0; SMALL]; 16], error: 0.0 };
        for g in 0..16 {
            let scale = round(clamp(fits[g] * inverse(d), -128.0, 127.0));
            let mut least = f32::INFINITY;
            for step in [0.0, -1.0, 1.0] {
                let scale = clamp(scale + step, -128.0, 127.0);
                let levels = symmetric_levels(&x[g], inverse(d * scale));
                let [error] = sums::<SMALL, 1>(|i| {
                    let difference = d * scale * levels[i] - x[g][i];
                    [w[g][i] * difference * difference]
                });
                if error < least {
                    least = error;
                    (out.scales[g], out.levels[g]) = (scale as i8, levels);
                }
            }
            out.error += least;
        }
        out
    }

    /// The `d` that fits best with these scales and levels; `None` when it is not determined.
    #[inline(always)]
    fn refit(&self, x: &[Small; 16], w: &[Small; 16]) -> Option<f32> {
        let (mut saa, mut sax) = (0.0f64, 0.0);
        for g in 0..16 {
            let (q, scale) = (&self.levels[g], f64::from(self.scales[g]));
            let [sqq, sqx] = sums::<SMALL, 2>(|i| {
                let wq = w[g][i] * q[i];
                [wq * q[i], wq * x[g][i]]
            });
            saa += scale * scale * f64::from(sqq);
            sax += scale * f64::from(sqx);
        }
        (saa > 0.0).then(|| (sax / saa) as f32)
    }
}

pub(super) fn q6_k(x: &[f32; 256]) -> [u8; 210] {
    let x: [Small; 16] = std::array::from_fn(|g| std::array::from_fn(|i| x[g * SMALL + i]));
    let w = x.each_ref().map(weights);
    let fits: [f32; 16] = std::array::from_fn(|g| symmetric_fit(&x[g], &w[g]));
    let d = fits.iter().fold(0.0f32, |most, &fit| if fit.abs() > most.abs() { fit } else { most }) / -128.0;
    let mut best = Symmetric::round(&x, &w, &fits, d);
    if let Some(d) = best.refit(&x, &w) {
        let again = Symmetric::round(&x, &w, &fits, d);
        if again.error < best.error {
            best = again;
        }
    }

    let mut out = [0; 210];
    for (g, levels) in best.levels.iter().enumerate() {
        // 128 elements are four runs of 32: low nibbles of two runs, then high nibbles of the same bytes.
        let (half, run, part) = (g / 8, g % 8 / 2, g % 2);
        let low = half * 64 + run % 2 * 32 + part * SMALL;
        let high = 128 + half * 32 + part * SMALL;
        for (i, level) in levels.iter().enumerate() {
            let level = (level + 32.0) as u8;
            out[low + i] |= (level & 15) << (run / 2 * 4);
            out[high + i] |= level >> 4 << (run * 2);
        }
        out[192 + g] = best.scales[g] as u8;
    }
    out[208..].copy_from_slice(&half_bytes(best.d));
    out
}
