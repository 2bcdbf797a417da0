//! AVX2 with FMA and F16C, and AVX-VNNI where the machine has it: two registers a vector.

use super::{Kernel, LANES, Simd};
use std::arch::x86_64::*;

/// Proof that the machine has AVX2, FMA and F16C, and AVX-VNNI when `VNNI`. Made only in [`run`] and [`run_vnni`].
#[derive(Clone, Copy)]
pub(crate) struct Avx2<const VNNI: bool>(());

/// Runs a kernel with these instructions, less VNNI.
///
/// # Safety
/// The machine has them.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2::<false>(()))
}

/// Runs a kernel with all these instructions.
///
/// # Safety
/// The machine has them.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(crate) unsafe fn run_vnni<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2::<true>(()))
}

type F = [__m256; 2];
type I = [__m256i; 2];

/// Signed 8-bit weights, and unsigned ones made of them: plus 128 with VNNI, else their magnitudes.
#[derive(Clone, Copy)]
pub(crate) struct Weights {
    signed: I,
    unsigned: I,
}

// Every `unsafe` below calls instructions that `self` proves to be there; loads and stores go through references of
// exactly their size.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<const VNNI: bool> Avx2<VNNI> {
    #[inline(always)]
    fn bytes<T>(self, v: &[T; 64]) -> I {
        const { assert!(size_of::<T>() == 1) };
        unsafe { [_mm256_loadu_si256(v.as_ptr().cast()), _mm256_loadu_si256(v[32..].as_ptr().cast())] }
    }

    /// Sums of neighbouring 16-bit products.
    #[inline(always)]
    fn pairs(self, v: __m256i) -> __m256i {
        unsafe { _mm256_madd_epi16(v, _mm256_set1_epi16(1)) }
    }

    #[inline(always)]
    fn halves(self, v: &[u16; LANES]) -> [__m128i; 2] {
        unsafe { [_mm_loadu_si128(v.as_ptr().cast()), _mm_loadu_si128(v[8..].as_ptr().cast())] }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)] // as above
impl<const VNNI: bool> Simd for Avx2<VNNI> {
    const WIDE: bool = false;
    type F = F;
    type I = I;
    type W8 = Weights;
    type W4 = I;
    type A4 = I;
    type Lut = F;

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn splat(self, v: f32) -> F {
        unsafe { [_mm256_set1_ps(v); 2] }
    }
    #[inline(always)]
    fn load(self, v: &[f32; LANES]) -> F {
        unsafe { [_mm256_loadu_ps(v.as_ptr()), _mm256_loadu_ps(v[8..].as_ptr())] }
    }
    #[inline(always)]
    fn store(self, v: F, to: &mut [f32; LANES]) {
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(to[8..].as_mut_ptr(), v[1]);
        }
    }
    #[inline(always)]
    fn load_bf16(self, v: &[u16; LANES]) -> F {
        let [a, b] = self.halves(v);
        unsafe {
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(a))),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(b))),
            ]
        }
    }
    #[inline(always)]
    fn load_f16(self, v: &[u16; LANES]) -> F {
        let [a, b] = self.halves(v);
        unsafe { [_mm256_cvtph_ps(a), _mm256_cvtph_ps(b)] }
    }
    #[inline(always)]
    fn load_f8(self, v: &[u8; LANES]) -> F {
        unsafe {
            // As halves: the sign stays in front, all else moves behind one more bit of exponent.
            let wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(v.as_ptr().cast()));
            let bits = _mm256_and_si256(_mm256_slli_epi16::<7>(wide), _mm256_set1_epi16(0xBF80_u16 as i16));
            [_mm256_cvtph_ps(_mm256_castsi256_si128(bits)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(bits))]
        }
    }

    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn abs(self, a: F) -> F {
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            [_mm256_andnot_ps(sign, a[0]), _mm256_andnot_ps(sign, a[1])]
        }
    }
    #[inline(always)]
    fn round(self, a: F) -> F {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        unsafe { [_mm256_round_ps::<NEAREST>(a[0]), _mm256_round_ps::<NEAREST>(a[1])] }
    }
    #[inline(always)]
    fn pow2(self, a: F) -> F {
        unsafe {
            let bias = _mm256_set1_epi32(127);
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(a[0]), bias))),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(a[1]), bias))),
            ]
        }
    }
    #[inline(always)]
    fn keep(self, v: F, from: usize, to: usize) -> F {
        let mut lanes = [0f32; LANES];
        self.store(v, &mut lanes);
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = if i >= from && i < to { *lane } else { f32::NEG_INFINITY };
        }
        self.load(&lanes)
    }
    #[inline(always)]
    fn to_i8(self, v: F) -> [i8; LANES] {
        let mut out = [0i8; LANES];
        unsafe {
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
            // Packing works in halves of a register: bring the quarters back in order.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
        }
        out
    }
    #[inline(always)]
    fn to_f32(self, v: I) -> F {
        unsafe { [_mm256_cvtepi32_ps(v[0]), _mm256_cvtepi32_ps(v[1])] }
    }

    #[inline(always)]
    fn sum(self, v: F) -> f32 {
        unsafe {
            let v = _mm256_add_ps(v[0], v[1]);
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }
    #[inline(always)]
    fn largest(self, v: F) -> f32 {
        unsafe {
            let v = _mm256_max_ps(v[0], v[1]);
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }

    #[inline(always)]
    fn splat_i32(self, v: i32) -> I {
        unsafe { [_mm256_set1_epi32(v); 2] }
    }
    #[inline(always)]
    fn widen(self, v: &[i8; LANES]) -> I {
        unsafe {
            let all = _mm_loadu_si128(v.as_ptr().cast());
            [_mm256_cvtepi8_epi32(all), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(all))]
        }
    }
    #[inline(always)]
    fn widen_pairs(self, v: &[[i8; 2]; LANES]) -> I {
        unsafe {
            [
                _mm256_cvtepi8_epi16(_mm_loadu_si128(v.as_ptr().cast())),
                _mm256_cvtepi8_epi16(_mm_loadu_si128(v[8..].as_ptr().cast())),
            ]
        }
    }
    #[inline(always)]
    fn multiply_add(self, a: I, b: I, c: I) -> I {
        unsafe {
            [
                _mm256_add_epi32(_mm256_mullo_epi32(a[0], b[0]), c[0]),
                _mm256_add_epi32(_mm256_mullo_epi32(a[1], b[1]), c[1]),
            ]
        }
    }
    #[inline(always)]
    fn dot_pairs(self, sum: I, w: I, x: i32) -> I {
        unsafe {
            let x = _mm256_set1_epi32(x);
            [_mm256_add_epi32(sum[0], _mm256_madd_epi16(w[0], x)), _mm256_add_epi32(sum[1], _mm256_madd_epi16(w[1], x))]
        }
    }

    // Both instructions multiply unsigned by signed bytes. VNNI adds up in 32 bits: 128 is added to the weights, and 128
    // times the activations taken off the sum. The older one saturates pairs at 16 bits: magnitudes of weights (128 at
    // most) times activations with the weights' signs (127 at most) stay below.
    #[inline(always)]
    fn load_w8(self, w: &[i8; 64]) -> Weights {
        let signed = self.bytes(w);
        unsafe {
            let unsigned = if VNNI {
                let sign = _mm256_set1_epi8(i8::MIN);
                [_mm256_xor_si256(signed[0], sign), _mm256_xor_si256(signed[1], sign)]
            } else {
                [_mm256_abs_epi8(signed[0]), _mm256_abs_epi8(signed[1])]
            };
            Weights { signed, unsigned }
        }
    }
    #[inline(always)]
    fn start8(self, offset: i32) -> I {
        self.splat_i32(if VNNI { offset } else { 0 })
    }
    #[inline(always)]
    fn dot8(self, sum: I, w: Weights, x: i32) -> I {
        unsafe {
            let x = _mm256_set1_epi32(x);
            if VNNI {
                return [
                    _mm256_dpbusd_avx_epi32(sum[0], w.unsigned[0], x),
                    _mm256_dpbusd_avx_epi32(sum[1], w.unsigned[1], x),
                ];
            }
            let a = _mm256_maddubs_epi16(w.unsigned[0], _mm256_sign_epi8(x, w.signed[0]));
            let b = _mm256_maddubs_epi16(w.unsigned[1], _mm256_sign_epi8(x, w.signed[1]));
            [_mm256_add_epi32(sum[0], self.pairs(a)), _mm256_add_epi32(sum[1], self.pairs(b))]
        }
    }

    #[inline(always)]
    fn load_w4(self, w: &[u8; 64]) -> (I, I) {
        let both = self.bytes(w);
        unsafe {
            let low = _mm256_set1_epi8(15);
            let high = |v| _mm256_and_si256(_mm256_srli_epi16::<4>(v), low);
            ([_mm256_and_si256(both[0], low), _mm256_and_si256(both[1], low)], [high(both[0]), high(both[1])])
        }
    }
    #[inline(always)]
    fn start4(self, offset: i32) -> I {
        self.splat_i32(if VNNI { offset } else { 0 })
    }
    // Without VNNI sums stay in 16 bits: 8 quads of two products of at most 15 · 127 make 30480.
    #[inline(always)]
    fn dot4(self, sum: I, w: I, x: i32) -> I {
        unsafe {
            let x = _mm256_set1_epi32(x);
            if VNNI {
                return [_mm256_dpbusd_avx_epi32(sum[0], w[0], x), _mm256_dpbusd_avx_epi32(sum[1], w[1], x)];
            }
            [
                _mm256_add_epi16(sum[0], _mm256_maddubs_epi16(w[0], x)),
                _mm256_add_epi16(sum[1], _mm256_maddubs_epi16(w[1], x)),
            ]
        }
    }
    #[inline(always)]
    fn finish4(self, sum: I, offset: i32) -> I {
        if VNNI {
            return sum;
        }
        unsafe {
            let offset = _mm256_set1_epi32(offset);
            [_mm256_add_epi32(self.pairs(sum[0]), offset), _mm256_add_epi32(self.pairs(sum[1]), offset)]
        }
    }

    #[inline(always)]
    fn load_w6<const PAIR: usize>(self, low: &[u8; 64], high: &[u8; 64]) -> (I, I) {
        let (a, b) = self.load_w4(low);
        let high = self.bytes(high);
        unsafe {
            // What shifts bring in from a neighbouring byte is masked off.
            let mask = _mm256_set1_epi8(0x30);
            let merge = |low: __m256i, high: __m256i| _mm256_or_si256(low, _mm256_and_si256(high, mask));
            let first = |v: __m256i| if PAIR == 0 { _mm256_slli_epi16::<4>(v) } else { v };
            let second = |v: __m256i| if PAIR == 0 { _mm256_slli_epi16::<2>(v) } else { _mm256_srli_epi16::<2>(v) };
            (
                [merge(a[0], first(high[0])), merge(a[1], first(high[1]))],
                [merge(b[0], second(high[0])), merge(b[1], second(high[1]))],
            )
        }
    }
    // Pairs of products are at most 2 · 63 · 127: far from saturating.
    #[inline(always)]
    fn dot6(self, sum: I, w: I, x: i32) -> I {
        if VNNI {
            return self.dot4(sum, w, x);
        }
        unsafe {
            let x = _mm256_set1_epi32(x);
            let (a, b) = (_mm256_maddubs_epi16(w[0], x), _mm256_maddubs_epi16(w[1], x));
            [_mm256_add_epi32(sum[0], self.pairs(a)), _mm256_add_epi32(sum[1], self.pairs(b))]
        }
    }

    #[inline(always)]
    fn lut(self, values: &[f32; 16]) -> F {
        self.load(values)
    }
    #[inline(always)]
    fn lookup(self, lut: F, nibbles: &[u8; LANES]) -> (F, F) {
        unsafe {
            let all = _mm_loadu_si128(nibbles.as_ptr().cast());
            let both = [_mm256_cvtepu8_epi32(all), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(all))];
            // The permutation reads 3 bits of each index; the fourth, moved to the sign, chooses the half.
            let pick = |index: __m256i| {
                let (a, b) = (_mm256_permutevar8x32_ps(lut[0], index), _mm256_permutevar8x32_ps(lut[1], index));
                _mm256_blendv_ps(a, b, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index)))
            };
            let high = |index: __m256i| _mm256_srli_epi32::<4>(index);
            ([pick(both[0]), pick(both[1])], [pick(high(both[0])), pick(high(both[1]))])
        }
    }
}
