//! Operations on rows that stand by themselves: norms, activations, tables.
//!
//! A row is worked through in vectors of 16; a shorter last one is filled up, so that an element's result doesn't
//! depend on where the row ends.

use super::math;
use super::simd::{Kernel, LANES, Simd};

/// The last elements of a row, filled up with `fill`.
#[inline(always)]
fn filled(tail: &[f32], fill: f32) -> [f32; LANES] {
    let mut lanes = [fill; LANES];
    lanes[..tail.len()].copy_from_slice(tail);
    lanes
}

/// The sum of (x - mean)² over a row: four vectors of sums side by side, each adding every fourth vector.
#[inline(always)]
fn sum_squares<S: Simd>(s: S, x: &[f32], mean: f32) -> f32 {
    let mut sums = [s.splat(0.0); 4];
    let mean_lanes = s.splat(mean);
    let (fours, rest) = x.as_chunks::<{ 4 * LANES }>();
    for four in fours {
        for (sum, x) in sums.iter_mut().zip(four.as_chunks::<LANES>().0) {
            let d = s.sub(s.load(x), mean_lanes);
            *sum = s.fma(d, d, *sum);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest.chunks(LANES)) {
        let d = s.sub(s.load(&filled(x, mean)), mean_lanes);
        *sum = s.fma(d, d, *sum);
    }
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}

/// The sum of a row, as [`sum_squares`].
#[inline(always)]
fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut sums = [s.splat(0.0); 4];
    let (fours, rest) = x.as_chunks::<{ 4 * LANES }>();
    for four in fours {
        for (sum, x) in sums.iter_mut().zip(four.as_chunks::<LANES>().0) {
            *sum = s.add(*sum, s.load(x));
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest.chunks(LANES)) {
        *sum = s.add(*sum, s.load(&filled(x, 0.0)));
    }
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}

/// `1 / √(mean(x²) + eps)`.
#[inline(always)]
fn inverse_rms<S: Simd>(s: S, x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_squares(s, x, 0.0) / x.len() as f32 + eps).sqrt()
}

/// `out = x / rms(x) · w`.
pub(crate) struct RmsNorm<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) w: &'a [f32],
    pub(crate) eps: f32,
    pub(crate) out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let inverse = inverse_rms(s, self.x, self.eps);
        for ((out, &x), &w) in self.out.iter_mut().zip(self.x).zip(self.w) {
            *out = x * inverse * w;
        }
    }
}

/// `x += y / rms(y) · w`.
pub(crate) struct AddRmsNorm<'a> {
    pub(crate) y: &'a [f32],
    pub(crate) w: &'a [f32],
    pub(crate) eps: f32,
    pub(crate) x: &'a mut [f32],
}

impl Kernel for AddRmsNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let inverse = inverse_rms(s, self.y, self.eps);
        for ((x, &y), &w) in self.x.iter_mut().zip(self.y).zip(self.w) {
            *x += y * inverse * w;
        }
    }
}

/// `out = (x - mean) / √(var + eps) · w + b`.
pub(crate) struct LayerNorm<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) w: &'a [f32],
    pub(crate) b: &'a [f32],
    pub(crate) eps: f32,
    pub(crate) out: &'a mut [f32],
}

impl Kernel for LayerNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let len = self.x.len() as f32;
        let mean = sum(s, self.x) / len;
        let inverse = 1.0 / (sum_squares(s, self.x, mean) / len + self.eps).sqrt();
        for (((out, &x), &w), &b) in self.out.iter_mut().zip(self.x).zip(self.w).zip(self.b) {
            *out = (x - mean) * inverse * w + b;
        }
    }
}

/// `x += y`.
pub(crate) struct Add<'a> {
    pub(crate) y: &'a [f32],
    pub(crate) x: &'a mut [f32],
}

impl Kernel for Add<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (x, &y) in self.x.iter_mut().zip(self.y) {
            *x += y;
        }
    }
}

/// `out = gelu_tanh(gate) · up`; `gate_up` holds the gates, then as many ups.
pub(crate) struct GeGlu<'a> {
    pub(crate) gate_up: &'a [f32],
    pub(crate) out: &'a mut [f32],
}

impl Kernel for GeGlu<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (gates, ups) = self.gate_up.split_at(self.out.len());
        let (gates, last_gates) = gates.as_chunks::<LANES>();
        let (ups, last_ups) = ups.as_chunks::<LANES>();
        let (outs, last_out) = self.out.as_chunks_mut::<LANES>();
        for ((gate, up), out) in gates.iter().zip(ups).zip(outs) {
            s.store(s.mul(math::gelu_tanh(s, s.load(gate)), s.load(up)), out);
        }
        if !last_out.is_empty() {
            let mut lanes = [0f32; LANES];
            let (gate, up) = (filled(last_gates, 0.0), filled(last_ups, 0.0));
            s.store(s.mul(math::gelu_tanh(s, s.load(&gate)), s.load(&up)), &mut lanes);
            last_out.copy_from_slice(&lanes[..last_out.len()]);
        }
    }
}

/// One row of the table of cosines and sines.
pub(crate) fn rope_row(inv_freq: &[f32], position: u32, out: &mut [f32]) {
    let (cos, sin) = out.split_at_mut(inv_freq.len());
    for (i, &f) in inv_freq.iter().enumerate() {
        // The reference multiplies in f32; the functions of that f32 angle are then taken exactly.
        let (s, c) = f64::from(position as f32 * f).sin_cos();
        cos[i] = c as f32;
        sin[i] = s as f32;
    }
}

/// `out = x / rms(x) · w`, its pairs (`i`, `i + len/2`) rotated by a row of the table.
pub(crate) struct NormRotate<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) w: &'a [f32],
    pub(crate) eps: f32,
    pub(crate) table: &'a [f32],
    pub(crate) out: &'a mut [f32],
}

impl Kernel for NormRotate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let half = self.table.len() / 2;
        let inverse = inverse_rms(s, self.x, self.eps);
        let (cos, sin) = self.table.split_at(half);
        let ((x_low, x_high), (w_low, w_high)) = (self.x.split_at(half), self.w.split_at(half));
        let (low, high) = self.out.split_at_mut(half);
        let pairs = low.iter_mut().zip(high).zip(x_low.iter().zip(x_high));
        for ((((low, high), (&a, &b)), (&wa, &wb)), (&c, &s)) in
            pairs.zip(w_low.iter().zip(w_high)).zip(cos.iter().zip(sin))
        {
            let (a, b) = (a * inverse * wa, b * inverse * wb);
            *low = a * c - b * s;
            *high = b * c + a * s;
        }
    }
}
