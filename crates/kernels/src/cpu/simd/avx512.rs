//! AVX-512 with VNNI: one register a vector.

use super::amx;
use super::{Kernel, Kernel16, LANES, Products16, Simd};
use std::arch::x86_64::*;

/// Proof that the machine has AVX-512 F, BW, DQ, VL and VNNI, and with `PRODUCTS16` BF16 too. Made only in [`run`] and
/// [`run16`].
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const PRODUCTS16: bool>(());

/// Runs a kernel with these instructions.
///
/// # Safety
/// The machine has them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(crate) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<false>(()))
}

/// Runs a kernel with these instructions and AVX-512 BF16.
///
/// # Safety
/// The machine has them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
pub(crate) unsafe fn run16<K: Kernel16>(kernel: K) {
    kernel.run(Avx512::<true>(()));
}

/// Runs a kernel with these instructions, AVX-512 BF16 and AMX, and lets the tiles go.
///
/// # Safety
/// The machine has them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
pub(crate) unsafe fn run_amx<K: amx::Kernel>(kernel: K) {
    kernel.run(Avx512::<true>(()));
    // SAFETY: there is AMX.
    unsafe { amx::release() };
}

// Every `unsafe` below calls instructions that `self` proves to be there; loads and stores go through references of
// exactly their size.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<const PRODUCTS16: bool> Simd for Avx512<PRODUCTS16> {
    const WIDE: bool = true;
    type F = __m512;
    type I = __m512i;
    type W8 = __m512i;
    type W4 = __m512i;
    type A4 = __m512i;
    type Lut = __m512;

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn splat(self, v: f32) -> __m512 {
        unsafe { _mm512_set1_ps(v) }
    }
    #[inline(always)]
    fn load(self, v: &[f32; LANES]) -> __m512 {
        unsafe { _mm512_loadu_ps(v.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, v: __m512, to: &mut [f32; LANES]) {
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn load_bf16(self, v: &[u16; LANES]) -> __m512 {
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(v.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }
    #[inline(always)]
    fn load_f16(self, v: &[u16; LANES]) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(v.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_f8(self, v: &[u8; LANES]) -> __m512 {
        unsafe {
            // As halves: the sign stays in front, all else moves behind one more bit of exponent.
            let wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(v.as_ptr().cast()));
            let bits = _mm256_and_si256(_mm256_slli_epi16::<7>(wide), _mm256_set1_epi16(0xBF80_u16 as i16));
            _mm512_cvtph_ps(bits)
        }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn pow2(self, a: __m512) -> __m512 {
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
    }
    #[inline(always)]
    fn scale(self, a: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    fn scale_or_vanish(self, a: __m512, n: __m512, x: __m512, least: f32) -> __m512 {
        // Not less: what is not a number is handed on.
        unsafe { _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(least)), a, n) }
    }
    #[inline(always)]
    fn keep(self, v: __m512, from: usize, to: usize) -> __m512 {
        let below = |n: usize| if n >= LANES { u16::MAX } else { (1 << n) - 1 };
        unsafe { _mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), below(to) & !below(from), v) }
    }
    #[inline(always)]
    fn to_i8(self, v: __m512) -> [i8; LANES] {
        let mut out = [0i8; LANES];
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v))) };
        out
    }
    #[inline(always)]
    fn to_f32(self, v: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(v) }
    }

    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        unsafe {
            let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }
    #[inline(always)]
    fn largest(self, v: __m512) -> f32 {
        unsafe {
            let v = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }

    #[inline(always)]
    fn splat_i32(self, v: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(v) }
    }
    #[inline(always)]
    fn widen(self, v: &[i8; LANES]) -> __m512i {
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(v.as_ptr().cast())) }
    }
    #[inline(always)]
    fn widen_pairs(self, v: &[[i8; 2]; LANES]) -> __m512i {
        unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(v.as_ptr().cast())) }
    }
    #[inline(always)]
    fn multiply_add(self, a: __m512i, b: __m512i, c: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(_mm512_mullo_epi32(a, b), c) }
    }
    #[inline(always)]
    fn dot_pairs(self, sum: __m512i, w: __m512i, x: i32) -> __m512i {
        unsafe { _mm512_dpwssd_epi32(sum, w, _mm512_set1_epi32(x)) }
    }

    // The instruction multiplies unsigned by signed bytes: 128 is added to the weights, and 128 times the activations
    // taken off the sum.
    #[inline(always)]
    fn load_w8(self, w: &[i8; 64]) -> __m512i {
        unsafe { _mm512_xor_si512(_mm512_loadu_si512(w.as_ptr().cast()), _mm512_set1_epi8(i8::MIN)) }
    }
    #[inline(always)]
    fn start8(self, offset: i32) -> __m512i {
        self.splat_i32(offset)
    }
    #[inline(always)]
    fn dot8(self, sum: __m512i, w: __m512i, x: i32) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(x)) }
    }

    #[inline(always)]
    fn load_w4(self, w: &[u8; 64]) -> (__m512i, __m512i) {
        unsafe {
            let (both, low) = (_mm512_loadu_si512(w.as_ptr().cast()), _mm512_set1_epi8(15));
            (_mm512_and_si512(both, low), _mm512_and_si512(_mm512_srli_epi16::<4>(both), low))
        }
    }
    #[inline(always)]
    fn start4(self, offset: i32) -> __m512i {
        self.splat_i32(offset)
    }
    #[inline(always)]
    fn dot4(self, sum: __m512i, w: __m512i, x: i32) -> __m512i {
        self.dot8(sum, w, x)
    }
    #[inline(always)]
    fn finish4(self, sum: __m512i, _offset: i32) -> __m512i {
        sum
    }

    #[inline(always)]
    fn load_w6<const PAIR: usize>(self, low: &[u8; 64], high: &[u8; 64]) -> (__m512i, __m512i) {
        let (a, b) = self.load_w4(low);
        unsafe {
            // What shifts bring in from a neighbouring byte is masked off.
            let (high, mask) = (_mm512_loadu_si512(high.as_ptr().cast()), _mm512_set1_epi8(0x30));
            let (first, second) = if PAIR == 0 {
                (_mm512_slli_epi16::<4>(high), _mm512_slli_epi16::<2>(high))
            } else {
                (high, _mm512_srli_epi16::<2>(high))
            };
            (_mm512_or_si512(a, _mm512_and_si512(first, mask)), _mm512_or_si512(b, _mm512_and_si512(second, mask)))
        }
    }
    #[inline(always)]
    fn dot6(self, sum: __m512i, w: __m512i, x: i32) -> __m512i {
        self.dot8(sum, w, x)
    }

    #[inline(always)]
    fn lut(self, values: &[f32; 16]) -> __m512 {
        self.load(values)
    }
    #[inline(always)]
    fn lookup(self, lut: __m512, nibbles: &[u8; LANES]) -> (__m512, __m512) {
        unsafe {
            // The permutation reads the low 4 bits of each index only.
            let both = _mm512_cvtepu8_epi32(_mm_loadu_si128(nibbles.as_ptr().cast()));
            (_mm512_permutexvar_ps(both, lut), _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(both), lut))
        }
    }
}

// As above, with BF16.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Products16 for Avx512<true> {
    type Pairs = __m512bh;

    #[inline(always)]
    fn load_pairs(self, w: &[u32; LANES]) -> __m512bh {
        unsafe { std::mem::transmute(_mm512_loadu_si512(w.as_ptr().cast())) }
    }
    #[inline(always)]
    fn dot16(self, sum: __m512, w: __m512bh, x: u32) -> __m512 {
        unsafe { _mm512_dpbf16_ps(sum, w, std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(x as i32))) }
    }
    #[inline(always)]
    fn to_pairs(self, v: __m512) -> [u32; LANES / 2] {
        unsafe { std::mem::transmute(_mm512_cvtneps_pbh(v)) }
    }
    #[inline(always)]
    fn zip_pairs(self, first: __m512, second: __m512) -> [u32; LANES] {
        // Word i of a half beside word i of the other.
        const ORDER: [u16; 2 * LANES] = {
            let (mut order, mut i) = ([0; 2 * LANES], 0);
            while i < order.len() {
                order[i] = (i / 2 + i % 2 * LANES) as u16;
                i += 1;
            }
            order
        };
        unsafe {
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(second, first));
            let order = _mm512_loadu_si512(ORDER.as_ptr().cast());
            std::mem::transmute(_mm512_permutexvar_epi16(order, both))
        }
    }
    #[inline(always)]
    fn fraction(self, v: __m512) -> __m512 {
        unsafe { _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(v) }
    }
    #[inline(always)]
    fn scale_floor(self, a: __m512, n: __m512) -> __m512 {
        // Below that, a < 2 rounds to 0.
        self.scale_or_vanish(a, n, n, -150.0)
    }
    #[inline(always)]
    fn keep_between(self, v: __m512, at: __m512, from: __m512, to: __m512) -> __m512 {
        unsafe {
            let seen = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(at, from) & _mm512_cmp_ps_mask::<_CMP_LT_OQ>(at, to);
            _mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), seen, v)
        }
    }
}
