//! Arrays of 16, for every machine: loops over lanes that the compiler may vectorize with what all machines have.

use super::{LANES, Simd};
use half::f16;

#[derive(Clone, Copy)]
pub(crate) struct Scalar;

type F = [f32; LANES];
type I = [i32; LANES];

#[inline(always)]
fn map(a: F, f: impl Fn(f32) -> f32) -> F {
    let mut out = a;
    for lane in &mut out {
        *lane = f(*lane);
    }
    out
}

#[inline(always)]
fn zip(a: F, b: F, f: impl Fn(f32, f32) -> f32) -> F {
    let mut out = a;
    for (lane, b) in out.iter_mut().zip(b) {
        *lane = f(*lane, b);
    }
    out
}

#[inline(always)]
fn fold(mut v: F, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            v[i] = f(v[i], v[i + width]);
        }
    }
    v[0]
}

impl Simd for Scalar {
    const WIDE: bool = false;
    type F = F;
    type I = I;
    type W8 = [i8; 64];
    type W4 = [i8; 64];
    type A4 = I;
    type Lut = F;

    #[inline(always)]
    fn prefetch(self, _p: *const u8) {}
    #[inline(always)]
    fn splat(self, v: f32) -> F {
        [v; LANES]
    }
    #[inline(always)]
    fn load(self, v: &F) -> F {
        *v
    }
    #[inline(always)]
    fn store(self, v: F, to: &mut F) {
        *to = v;
    }
    #[inline(always)]
    fn load_bf16(self, v: &[u16; LANES]) -> F {
        v.map(|v| f32::from_bits(u32::from(v) << 16))
    }
    #[inline(always)]
    fn load_f16(self, v: &[u16; LANES]) -> F {
        v.map(|v| f16::from_bits(v).to_f32())
    }
    #[inline(always)]
    fn load_f8(self, v: &[u8; LANES]) -> F {
        v.map(|v| f16::from_bits(u16::from(v & 0x80) << 8 | u16::from(v & 0x7F) << 7).to_f32())
    }

    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        // Not `mul_add`, which is a slow call where the machine has no such instruction.
        zip(zip(a, b, |a, b| a * b), c, |ab, c| ab + c)
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn abs(self, a: F) -> F {
        map(a, f32::abs)
    }
    #[inline(always)]
    fn round(self, a: F) -> F {
        // Adding 1.5·2²³ leaves no room for a fraction.
        const SHIFT: f32 = 12_582_912.0;
        map(a, |a| (a + SHIFT) - SHIFT)
    }
    #[inline(always)]
    fn pow2(self, a: F) -> F {
        map(a, |a| f32::from_bits(((a as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn keep(self, v: F, from: usize, to: usize) -> F {
        let mut out = v;
        for (i, lane) in out.iter_mut().enumerate() {
            *lane = if i >= from && i < to { *lane } else { f32::NEG_INFINITY };
        }
        out
    }
    #[inline(always)]
    fn to_i8(self, v: F) -> [i8; LANES] {
        self.round(v).map(|v| v as i8)
    }
    #[inline(always)]
    fn to_f32(self, v: I) -> F {
        v.map(|v| v as f32)
    }

    #[inline(always)]
    fn sum(self, v: F) -> f32 {
        fold(v, |a, b| a + b)
    }
    #[inline(always)]
    fn largest(self, v: F) -> f32 {
        fold(v, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn splat_i32(self, v: i32) -> I {
        [v; LANES]
    }
    #[inline(always)]
    fn widen(self, v: &[i8; LANES]) -> I {
        v.map(i32::from)
    }
    #[inline(always)]
    fn widen_pairs(self, v: &[[i8; 2]; LANES]) -> I {
        v.map(|[low, high]| i32::from(low) & 0xFFFF | i32::from(high) << 16)
    }
    #[inline(always)]
    fn multiply_add(self, a: I, b: I, c: I) -> I {
        let mut out = c;
        for (lane, (a, b)) in out.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
        out
    }
    #[inline(always)]
    fn dot_pairs(self, sum: I, w: I, x: i32) -> I {
        let mut out = sum;
        for (lane, w) in out.iter_mut().zip(w) {
            *lane += i32::from(w as i16) * i32::from(x as i16) + (w >> 16) * (x >> 16);
        }
        out
    }
    #[inline(always)]
    fn load_w8(self, w: &[i8; 64]) -> [i8; 64] {
        *w
    }
    #[inline(always)]
    fn start8(self, _offset: i32) -> I {
        [0; LANES]
    }
    #[inline(always)]
    fn dot8(self, sum: I, w: [i8; 64], x: i32) -> I {
        let x = x.to_ne_bytes().map(|x| i32::from(x as i8));
        let mut out = sum;
        for (lane, w) in out.iter_mut().zip(w.as_chunks::<4>().0) {
            *lane += i32::from(w[0]) * x[0] + i32::from(w[1]) * x[1] + i32::from(w[2]) * x[2] + i32::from(w[3]) * x[3];
        }
        out
    }

    #[inline(always)]
    fn load_w4(self, w: &[u8; 64]) -> ([i8; 64], [i8; 64]) {
        (w.map(|w| (w & 15) as i8), w.map(|w| (w >> 4) as i8))
    }
    #[inline(always)]
    fn start4(self, offset: i32) -> I {
        [offset; LANES]
    }
    #[inline(always)]
    fn dot4(self, sum: I, w: [i8; 64], x: i32) -> I {
        self.dot8(sum, w, x)
    }
    #[inline(always)]
    fn finish4(self, sum: I, _offset: i32) -> I {
        sum
    }

    #[inline(always)]
    fn load_w6<const PAIR: usize>(self, low: &[u8; 64], high: &[u8; 64]) -> ([i8; 64], [i8; 64]) {
        let (mut a, mut b) = self.load_w4(low);
        for (i, high) in high.iter().enumerate() {
            a[i] |= ((high >> (4 * PAIR) & 3) << 4) as i8;
            b[i] |= ((high >> (4 * PAIR + 2) & 3) << 4) as i8;
        }
        (a, b)
    }
    #[inline(always)]
    fn dot6(self, sum: I, w: [i8; 64], x: i32) -> I {
        self.dot8(sum, w, x)
    }

    #[inline(always)]
    fn lut(self, values: &F) -> F {
        *values
    }
    #[inline(always)]
    fn lookup(self, lut: F, nibbles: &[u8; LANES]) -> (F, F) {
        (nibbles.map(|n| lut[usize::from(n & 15)]), nibbles.map(|n| lut[usize::from(n >> 4)]))
    }
}
