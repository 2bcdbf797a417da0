//! Each instruction set of this machine against plain arithmetic.

use super::*;
use crate::cpu::testing::isas;
use half::{bf16, f16};
use medgemma_formats::f8_to_f32;

struct Check;

fn lanes<S: Simd>(s: S, v: S::F) -> [f32; LANES] {
    let mut out = [0f32; LANES];
    s.store(v, &mut out);
    out
}

impl Kernel for Check {
    type Output = ();

    fn run<S: Simd>(self, s: S) {
        let a: [f32; LANES] = std::array::from_fn(|i| i as f32 * 1.25 - 7.6);
        let b: [f32; LANES] = std::array::from_fn(|i| 3.0 - i as f32 * 0.5);
        let (va, vb) = (s.load(&a), s.load(&b));
        let by = |f: fn(f32, f32) -> f32| std::array::from_fn::<f32, LANES, _>(|i| f(a[i], b[i]));
        assert_eq!(lanes(s, s.add(va, vb)), by(|a, b| a + b));
        assert_eq!(lanes(s, s.sub(va, vb)), by(|a, b| a - b));
        assert_eq!(lanes(s, s.mul(va, vb)), by(|a, b| a * b));
        assert_eq!(lanes(s, s.div(va, s.splat(3.0))), by(|a, _| a / 3.0));
        assert_eq!(lanes(s, s.max(va, vb)), by(f32::max));
        assert_eq!(lanes(s, s.min(va, vb)), by(f32::min));
        assert_eq!(lanes(s, s.abs(va)), by(|a, _| a.abs()));
        assert_eq!(lanes(s, s.round(va)), by(|a, _| a.round_ties_even()));
        assert_eq!(lanes(s, s.round(s.splat(2.5))), [2.0; LANES]);
        assert_eq!(lanes(s, s.fma(s.splat(2.0), s.splat(3.0), s.splat(4.0))), [10.0; LANES]);
        for e in [-126.0, -1.0, 0.0, 127.0] {
            assert_eq!(lanes(s, s.pow2(s.splat(e))), [e.exp2(); LANES]);
        }
        assert!(lanes(s, s.max(s.splat(1.0), s.splat(f32::NAN)))[0].is_nan());
        assert!(lanes(s, s.min(s.splat(1.0), s.splat(f32::NAN)))[0].is_nan());
        let (sixteenth, mut tree) = (s.load(&std::array::from_fn(|i| 0.1 * i as f32)), [0f32; LANES]);
        s.store(sixteenth, &mut tree);
        for width in [8, 4, 2, 1] {
            (0..width).for_each(|i| tree[i] += tree[i + width]);
        }
        assert_eq!(s.sum(sixteenth), tree[0]);
        for at in 0..LANES {
            let mut peak = b;
            peak[at] = 3.5;
            assert_eq!(s.largest(s.load(&peak)), 3.5);
        }
        for (from, to) in [(0, 16), (3, 9), (0, 0), (15, 40), (20, 30)] {
            let kept = std::array::from_fn(|i| if i >= from && i < to { a[i] } else { f32::NEG_INFINITY });
            assert_eq!(lanes(s, s.keep(va, from, to)), kept);
        }

        let wide = [65504.0, -1.5, 1e-7, 0.0, f32::INFINITY, 3.140_625, 6.1e-5, -0.0];
        let half: [u16; LANES] = std::array::from_fn(|i| f16::from_f32(wide[i % 8]).to_bits());
        assert_eq!(lanes(s, s.load_f16(&half)), half.map(|h| f16::from_bits(h).to_f32()));
        let brain: [u16; LANES] = std::array::from_fn(|i| bf16::from_f32(wide[i % 8]).to_bits());
        assert_eq!(lanes(s, s.load_bf16(&brain)), brain.map(|h| bf16::from_bits(h).to_f32()));
        for first in (0..256).step_by(LANES) {
            let codes: [u8; LANES] = std::array::from_fn(|i| (first + i) as u8);
            let values = lanes(s, s.load_f8(&codes)).map(|v| v * 256.0);
            for (code, value) in codes.into_iter().zip(values) {
                let expected = if code & 0x7F == 0x7F { 480f32.copysign(value) } else { f8_to_f32(code) };
                assert_eq!(value.to_bits(), expected.to_bits(), "{code:#04x}");
            }
        }
        let bytes: [i8; LANES] = std::array::from_fn(|i| (i as i8 - 8) * 16);
        assert_eq!(lanes(s, s.to_f32(s.widen(&bytes))), bytes.map(f32::from));
        let pairs: [[i8; 2]; LANES] = std::array::from_fn(|i| [bytes[i], (i as i8) * 16 - 127]);
        let (w, x) = (s.widen_pairs(&pairs), [-4064i32, 31]);
        let sum = s.dot_pairs(s.splat_i32(3), w, x[0] & 0xFFFF | x[1] << 16);
        let expected = pairs.map(|[a, b]| 3 + i32::from(a) * x[0] + i32::from(b) * x[1]);
        assert_eq!(lanes(s, s.to_f32(sum)), expected.map(|v| v as f32));
        let sum = s.multiply_add(s.splat_i32(-100_000), s.widen(&bytes), s.splat_i32(7));
        assert_eq!(lanes(s, s.to_f32(sum)), bytes.map(|b| (7 - 100_000 * i32::from(b)) as f32));
        let fractions = std::array::from_fn(|i| i as f32 * 17.5 - 126.5);
        let rounded = fractions.map(|v: f32| v.round_ties_even() as i8);
        assert_eq!(s.to_i8(s.load(&fractions)), rounded);

        let values: [f32; 16] = std::array::from_fn(|i| i as f32 * 0.3 - 2.0);
        let nibbles: [u8; LANES] = std::array::from_fn(|i| (i * 16 + (i * 7) % 16) as u8);
        let (low, high) = s.lookup(s.lut(&values), &nibbles);
        assert_eq!(lanes(s, low), nibbles.map(|n| values[usize::from(n & 15)]));
        assert_eq!(lanes(s, high), nibbles.map(|n| values[usize::from(n >> 4)]));
    }
}

/// Integer products at the ends of their ranges: 32 k, as a group has.
struct Dot {
    weights: i8,
    nibbles: u8,
    x: i8,
}

impl Kernel for Dot {
    type Output = ();

    fn run<S: Simd>(self, s: S) {
        let quad = i32::from_ne_bytes([self.x as u8; 4]);
        let minus = -32 * i32::from(self.x);
        let mut sum = s.start8(128 * minus);
        let (mut small, mut shifted) = (s.start4(0), s.start4(8 * minus));
        let bytes = [self.nibbles << 4 | (15 - self.nibbles); 64];
        for i in 0..8 {
            sum = s.dot8(sum, s.load_w8(&[self.weights; 64]), quad);
            let (low, high) = s.load_w4(&bytes);
            let side = if i % 2 == 0 { low } else { high };
            (small, shifted) = (s.dot4(small, side, quad), s.dot4(shifted, side, quad));
        }
        let expected = 32 * i32::from(self.weights) * i32::from(self.x);
        assert_eq!(lanes(s, s.to_f32(sum)), [expected as f32; LANES]);
        // Half of the products have the low nibble, half the high one: 15 together.
        let expected = 16 * 15 * i32::from(self.x);
        assert_eq!(lanes(s, s.to_f32(s.finish4(small, 0))), [expected as f32; LANES]);
        assert_eq!(lanes(s, s.to_f32(s.finish4(shifted, 8 * minus))), [(expected + 8 * minus) as f32; LANES]);
    }
}

/// Rows and k of a quad lie where the packing puts them.
struct Order;

impl Kernel for Order {
    type Output = ();

    fn run<S: Simd>(self, s: S) {
        let w: [i8; 64] = std::array::from_fn(|i| (i as i8) * 3 - 90);
        let x = [5i8, -7, 11, -2];
        let quad = i32::from_ne_bytes(x.map(|x| x as u8));
        let sum = s.dot8(s.start8(-7 * 128), s.load_w8(&w), quad);
        let row = |i: usize| (0..4).map(|j| i32::from(w[4 * i + j]) * i32::from(x[j])).sum::<i32>();
        assert_eq!(lanes(s, s.to_f32(sum)), std::array::from_fn(|i| row(i) as f32));
        let nibbles: [u8; 64] = std::array::from_fn(|i| (i * 37 % 256) as u8);
        let (low, high) = s.load_w4(&nibbles);
        for (side, shift) in [(low, 0), (high, 4)] {
            let sum = s.finish4(s.dot4(s.start4(0), side, quad), 0);
            let row =
                |i: usize| (0..4).map(|j| i32::from(nibbles[4 * i + j] >> shift & 15) * i32::from(x[j])).sum::<i32>();
            assert_eq!(lanes(s, s.to_f32(sum)), std::array::from_fn(|i| row(i) as f32));
        }
        let pairs: [u8; 64] = std::array::from_fn(|i| (i * 91 % 256) as u8);
        let ((a, b), (c, d)) = (s.load_w6::<0>(&nibbles, &pairs), s.load_w6::<1>(&nibbles, &pairs));
        for (side, shift, pair) in [(a, 0, 0), (b, 4, 2), (c, 0, 4), (d, 4, 6)] {
            let sum = s.dot6(s.splat_i32(5), side, quad);
            let weight = |i: usize| i32::from(nibbles[i] >> shift & 15 | (pairs[i] >> pair & 3) << 4);
            let row = |i: usize| 5 + (0..4).map(|j| weight(4 * i + j) * i32::from(x[j])).sum::<i32>();
            assert_eq!(lanes(s, s.to_f32(sum)), std::array::from_fn(|i| row(i) as f32));
        }
    }
}

#[test]
fn instruction_sets_agree_with_plain_arithmetic() {
    for isa in isas() {
        let isa = Found::new(isa);
        isa.run(Check);
        isa.run(Order);
        for weights in [-128, -1, 0, 127] {
            for x in [-127, 0, 1, 127] {
                isa.run(Dot { weights, nibbles: 15, x });
                isa.run(Dot { weights, nibbles: 0, x });
            }
        }
    }
}

struct Check16;

impl Kernel16 for Check16 {
    fn run<S: Products16>(self, s: S) {
        let a: [f32; LANES] = std::array::from_fn(|i| i as f32 * 1.26 - 7.63);
        let b: [f32; LANES] = std::array::from_fn(|i| 3.1 - i as f32 * 0.57);
        let (va, vb) = (s.load(&a), s.load(&b));
        let bits = |v: f32| u32::from(bf16::from_f32(v).to_bits());
        let pairs: [u32; LANES] = std::array::from_fn(|i| bits(a[i]) | bits(b[i]) << 16);
        assert_eq!(s.zip_pairs(va, vb), pairs);
        assert_eq!(s.to_pairs(va), std::array::from_fn(|i| bits(a[2 * i]) | bits(a[2 * i + 1]) << 16));
        let product = |i: usize| bf16::from_f32(a[i]).to_f32() * 2.0 - bf16::from_f32(b[i]).to_f32();
        let sum = s.dot16(s.splat(0.0), s.load_pairs(&pairs), bits(2.0) | bits(-1.0) << 16);
        for (i, sum) in lanes(s, sum).into_iter().enumerate() {
            assert!((sum - product(i)).abs() <= 1e-5, "{sum}, not {}", product(i));
        }
        assert_eq!(lanes(s, s.fraction(va)), a.map(|a| a - a.floor()));
        assert_eq!(lanes(s, s.fraction(s.splat(f32::NEG_INFINITY))), [0.0; LANES]);
        assert_eq!(lanes(s, s.scale_floor(s.splat(3.0), vb)), b.map(|b| 3.0 * b.floor().exp2()));
        assert_eq!(lanes(s, s.scale_floor(s.splat(3.0), s.splat(f32::NEG_INFINITY))), [0.0; LANES]);
        let kept = lanes(s, s.keep_between(va, s.splat(2.0), vb, s.splat(2.5)));
        assert_eq!(kept, std::array::from_fn(|i| if b[i] <= 2.0 { a[i] } else { f32::NEG_INFINITY }));
        let kept = lanes(s, s.keep_between(va, s.splat(2.0), s.splat(2.0), vb));
        assert_eq!(kept, std::array::from_fn(|i| if b[i] > 2.0 { a[i] } else { f32::NEG_INFINITY }));
    }
}

#[test]
fn products_of_bf16_agree_with_plain_arithmetic() {
    let isa = Found::new(Isa::detect());
    if isa.products16() {
        isa.run16(Check16);
    }
}
