//! Functions of sixteen lanes.

use super::simd::{Products16, Simd};

/// e^x, within 2 units in the last place; exactly 0 for -∞ and below -104, ∞ above 89, not a number for such.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let whole = x;
    // The bound comes first, so that `max` and `min` hand on what is not a number.
    let x = s.min(s.splat(89.0), s.max(s.splat(-104.0), x));
    // x = n·ln 2 + r: ln 2 in two parts, the first so short that n times it is exact.
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    // e^r = 1 + r + r²·q(r); q is the polynomial with the least relative error for |r| <= ln 2 / 2, 3e-9 (Remez).
    let mut q = s.splat(0.001_381_459_9);
    for c in [0.008_368_717, 0.041_668_39, 0.166_665_2, 0.499_999_93] {
        q = s.fma(q, r, s.splat(c));
    }
    let e = s.add(s.fma(s.mul(r, r), q, r), s.splat(1.0));
    s.scale_or_vanish(e, n, whole, -104.0)
}

/// 2^x for x <= 0, within 3·10⁻⁶ of it: as good as exact to what is rounded to bf16 next. Exactly 1 for 0, and 0 for -∞.
#[inline(always)]
pub(crate) fn exp2_bf16<S: Products16>(s: S, x: S::F) -> S::F {
    // 2^f = 1 + f·q(f) for the fraction f; q is the polynomial with the least relative error of the sum (Remez).
    let f = s.fraction(x);
    let mut q = s.splat(0.013_426_684);
    for c in [0.052_242_473, 0.241_280_2, 0.693_044_84, 1.0] {
        q = s.fma(q, f, s.splat(c));
    }
    s.scale_floor(q, x)
}

/// GELU in its tanh form, `0.5 · x · (1 + tanh(u))`, written as `x / (1 + e^(-2u))`, which doesn't cancel.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(s: S, x: S::F) -> S::F {
    // -2u = x · (a + b·x²) with a = -2·√(2/π) and b = 0.044715·a.
    let inner = s.fma(s.mul(x, x), s.splat(-0.071_354_82), s.splat(-1.595_769_2));
    // Beside 1 anything below e^-87 is nothing, and denormal numbers take long on some processors.
    let power = s.max(s.splat(-87.0), s.mul(x, inner));
    s.div(x, s.add(s.splat(1.0), exp(s, power)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Found, Isa, Kernel, Kernel16, LANES};
    use crate::cpu::testing::isas;
    use crate::reference;

    struct Map<'a>(&'a [f32], bool);

    impl Kernel for Map<'_> {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let mut out = Vec::with_capacity(self.0.len());
            for x in self.0.as_chunks::<LANES>().0 {
                let x = s.load(x);
                let y = if self.1 { gelu_tanh(s, x) } else { exp(s, x) };
                let mut lanes = [0f32; LANES];
                s.store(y, &mut lanes);
                out.extend(lanes);
            }
            out
        }
    }

    fn every_isa(test: impl Fn(Found)) {
        isas().for_each(|isa| test(Found::new(isa)));
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut xs: Vec<f32> = (0..320_000).map(|i| -104.0 + i as f32 * 6e-4).collect();
        xs.extend((0..16_000).map(|i| (i as f32 - 8000.0) * 1e-5));
        xs.truncate(xs.len() / LANES * LANES);
        every_isa(|isa| {
            for (&x, y) in xs.iter().zip(isa.run(Map(&xs, false))) {
                let exact = f64::from(x).exp();
                let unit = f64::from((exact as f32).next_up() - exact as f32);
                if x < 88.7 {
                    assert!((f64::from(y) - exact).abs() <= 2.0 * unit, "{isa:?}: exp({x}) = {y:e}, not {exact:e}");
                }
            }
        });
    }

    #[test]
    fn exp_at_its_ends() {
        let mut xs = [0f32; LANES];
        xs[..8].copy_from_slice(&[f32::NEG_INFINITY, -1e30, -104.1, 0.0, 89.1, 1e30, f32::INFINITY, f32::NAN]);
        every_isa(|isa| {
            let y = isa.run(Map(&xs, false));
            assert_eq!(y[..7], [0.0, 0.0, 0.0, 1.0, f32::INFINITY, f32::INFINITY, f32::INFINITY]);
            assert!(y[7].is_nan());
        });
    }

    struct Exp2<'a>(&'a [f32], &'a mut [f32]);

    impl Kernel16 for Exp2<'_> {
        #[inline(always)]
        fn run<S: Products16>(self, s: S) {
            for (x, out) in self.0.as_chunks::<LANES>().0.iter().zip(self.1.as_chunks_mut::<LANES>().0) {
                s.store(exp2_bf16(s, s.load(x)), out);
            }
        }
    }

    #[test]
    fn powers_for_bf16_are_close() {
        let isa = Found::new(Isa::detect());
        if !isa.products16() {
            return;
        }
        let mut xs: Vec<f32> = (0..160_000).map(|i| i as f32 * -1e-3).collect();
        xs.extend([-0.0, f32::NEG_INFINITY, f32::MIN, f32::NAN]);
        xs.resize(xs.len().next_multiple_of(LANES), 0.0);
        let mut ys = vec![f32::NAN; xs.len()];
        isa.run16(Exp2(&xs, &mut ys));
        for (&x, y) in xs.iter().zip(ys) {
            let exact = f64::from(x).exp2();
            let near = (f64::from(y) - exact).abs() <= 3.1e-6 * exact + f64::from(f32::from_bits(1));
            assert!(near || x.is_nan() && y.is_nan(), "2^{x} = {y:e}, not {exact:e}");
            assert!(x != 0.0 || y == 1.0);
        }
    }

    #[test]
    fn gelu_follows_its_twin() {
        let mut xs: Vec<f32> = (0..200_000).map(|i| -12.0 + i as f32 * 1.2e-4).collect();
        xs.extend([1e5, -1e5, f32::MAX, f32::MIN, 1e-30, -1e-30, 0.0, 300.0]);
        xs.resize(xs.len().next_multiple_of(LANES), 0.0);
        every_isa(|isa| {
            for (&x, y) in xs.iter().zip(isa.run(Map(&xs, true))) {
                let exact = reference::gelu_tanh(x);
                assert!((y - exact).abs() <= 2e-7 * x.abs(), "{isa:?}: gelu({x}) = {y}, not {exact}");
            }
        });
    }
}
