//! Sixteen lanes: what the kernels ask of an instruction set, and which one this machine has.
//!
//! A kernel is written once, over [`Simd`], and compiled once for each instruction set. Its body must be inlined into
//! the function that enables the instructions: kernels and all they call are `#[inline(always)]`. A vector is always
//! 16 f32, whatever the registers' width, so sums run in the same order everywhere.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Sixteen lanes of an instruction set. A value proves that the machine has it.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Whether there are 32 registers of 16 lanes: tiles of a product are chosen by it.
    const WIDE: bool;
    /// 16 f32.
    type F: Copy;
    /// 16 i32.
    type I: Copy;
    /// 16 rows × 4 consecutive k of signed 8-bit weights, ready to be multiplied.
    type W8: Copy;
    /// 16 rows × 4 consecutive k of unsigned weights of few bits, one a byte.
    type W4: Copy;
    /// Sums of products of [`Simd::W4`] over up to 32 k.
    type A4: Copy;
    /// 16 f32 to choose from.
    type Lut: Copy;

    /// Asks for the cache line at `p`, which need not be readable.
    fn prefetch(self, p: *const u8);

    fn splat(self, v: f32) -> Self::F;
    fn load(self, v: &[f32; LANES]) -> Self::F;
    fn store(self, v: Self::F, to: &mut [f32; LANES]);
    fn load_bf16(self, v: &[u16; LANES]) -> Self::F;
    fn load_f16(self, v: &[u16; LANES]) -> Self::F;
    /// 8-bit floats (E4M3) times 2⁻⁸; the two codes that aren't numbers count as ±480.
    fn load_f8(self, v: &[u8; LANES]) -> Self::F;

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`, rounded once where the instruction set can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger; `b` where one of them is not a number.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; `b` where one of them is not a number.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// To the nearest integer, ties to even; exact for |a| < 2²².
    fn round(self, a: Self::F) -> Self::F;
    /// 2^a for integers a in -126..=127.
    fn pow2(self, a: Self::F) -> Self::F;
    /// a · 2^n for integers n in -150..=128, rounded once.
    #[inline(always)]
    fn scale(self, a: Self::F, n: Self::F) -> Self::F {
        // 2^n in two factors: one has no exponent for all of them. The first product is exact.
        let half = self.round(self.mul(n, self.splat(0.5)));
        self.mul(self.mul(a, self.pow2(half)), self.pow2(self.sub(n, half)))
    }
    /// [`Simd::scale`] where it is known to give 0 in lanes with `x < least`: some processors take a hundred times as long
    /// to find out that a product vanishes.
    #[inline(always)]
    fn scale_or_vanish(self, a: Self::F, n: Self::F, x: Self::F, least: f32) -> Self::F {
        let _ = (x, least);
        self.scale(a, n)
    }
    /// `v` in the lanes `from..to`, -∞ elsewhere.
    fn keep(self, v: Self::F, from: usize, to: usize) -> Self::F;
    /// The nearest 8-bit integers of values in -127..=127.
    fn to_i8(self, v: Self::F) -> [i8; LANES];
    fn to_f32(self, v: Self::I) -> Self::F;
    /// The sum of the lanes: each half is added to the other until one lane is left.
    fn sum(self, v: Self::F) -> f32;
    /// The largest of the lanes, found in the same order.
    fn largest(self, v: Self::F) -> f32;

    fn splat_i32(self, v: i32) -> Self::I;
    /// 16 integers of 8 bits.
    fn widen(self, v: &[i8; LANES]) -> Self::I;
    /// 16 pairs of integers of 16 bits, of 8 in memory.
    fn widen_pairs(self, v: &[[i8; 2]; LANES]) -> Self::I;
    /// `a · b + c`.
    fn multiply_add(self, a: Self::I, b: Self::I, c: Self::I) -> Self::I;
    /// Adds the products of pairs of 16-bit integers with the pair in `x`, the first of it in the low half.
    fn dot_pairs(self, sum: Self::I, w: Self::I, x: i32) -> Self::I;
    fn load_w8(self, w: &[i8; 64]) -> Self::W8;
    /// Begins a sum of products; `offset` is -128 times the sum of their activations.
    fn start8(self, offset: i32) -> Self::I;
    /// Adds the products of 4 k with the activations in the 4 bytes of `x`.
    fn dot8(self, sum: Self::I, w: Self::W8, x: i32) -> Self::I;

    /// The low nibbles (the first 4 k), then the high ones (the next 4).
    fn load_w4(self, w: &[u8; 64]) -> (Self::W4, Self::W4);
    /// Begins a sum of products; `offset` is -8 times the sum of their activations where weights stand for themselves
    /// less 8, otherwise 0.
    fn start4(self, offset: i32) -> Self::A4;
    fn dot4(self, sum: Self::A4, w: Self::W4, x: i32) -> Self::A4;
    /// The sums, begun with the same `offset`.
    fn finish4(self, sum: Self::A4, offset: i32) -> Self::I;

    /// The `PAIR`-th two of four quads of 6-bit weights: low nibbles as for [`Simd::load_w4`], high pairs of bits of all
    /// four, lowest first.
    fn load_w6<const PAIR: usize>(self, low: &[u8; 64], high: &[u8; 64]) -> (Self::W4, Self::W4);
    /// Adds the products of 4 k of 6-bit weights.
    fn dot6(self, sum: Self::I, w: Self::W4, x: i32) -> Self::I;

    fn lut(self, values: &[f32; 16]) -> Self::Lut;
    /// The values that 16 low nibbles, then the 16 high ones, stand for.
    fn lookup(self, lut: Self::Lut, nibbles: &[u8; LANES]) -> (Self::F, Self::F);
}

/// Products of bf16, which few instruction sets have.
pub(crate) trait Products16: Simd {
    /// 16 rows × 2 consecutive k.
    type Pairs: Copy;

    /// Pairs as they lie in memory: the first of each in the low half.
    fn load_pairs(self, w: &[u32; LANES]) -> Self::Pairs;
    /// Adds the products of 2 k with the pair in `x`. Denormal numbers count as zero.
    fn dot16(self, sum: Self::F, w: Self::Pairs, x: u32) -> Self::F;
    /// Neighbours rounded to the nearest bf16, ties to even, in pairs: the first of each in the low half.
    fn to_pairs(self, v: Self::F) -> [u32; LANES / 2];
    /// Lanes of both rounded so, in pairs: `first` in the low half of each, `second` in the high one.
    fn zip_pairs(self, first: Self::F, second: Self::F) -> [u32; LANES];
    /// What `v` is above the next integer below it; 0 for infinities.
    fn fraction(self, v: Self::F) -> Self::F;
    /// a · 2^⌊n⌋ for a in 1..4 and n < 126, rounded once; 0 for n < -150, where a < 2 would round to it.
    fn scale_floor(self, a: Self::F, n: Self::F) -> Self::F;
    /// `v` in the lanes where `from <= at < to`, -∞ elsewhere.
    fn keep_between(self, v: Self::F, at: Self::F, from: Self::F, to: Self::F) -> Self::F;
}

/// A computation with [`Products16`].
pub(crate) trait Kernel16 {
    /// Must be `#[inline(always)]`, with all it calls.
    fn run<S: Products16>(self, s: S);
}

/// A computation that is compiled for each instruction set.
pub(crate) trait Kernel {
    type Output;
    /// Must be `#[inline(always)]`, with all it calls.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// An instruction set that kernels exist for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Whatever the compiler may use on every machine of this architecture.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// The same with AVX-VNNI.
    AvxVnni,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// The same with AMX, for products of many rows.
    Amx,
}

impl Isa {
    /// The best one this machine has.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
                let wide = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni");
                return match (wide, is_x86_feature_detected!("avxvnni")) {
                    (true, _) if is_x86_feature_detected!("avx512bf16") && amx::is_available() => Self::Amx,
                    (true, _) => Self::Avx512,
                    (_, true) => Self::AvxVnni,
                    _ => Self::Avx2,
                };
            }
        }
        Self::Scalar
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            // A machine may have AVX-512 and not VNNI in the encoding of AVX.
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => Self::detect() >= Self::Avx2 && is_x86_feature_detected!("avxvnni"),
            _ => self <= Self::detect(),
        }
    }

    /// The one `MEDGEMMA_ISA` names (`scalar`, `avx2`, `avxvnni`, `avx512` or `amx`) where this machine has it, else the best.
    pub fn from_env() -> Self {
        let named = match std::env::var("MEDGEMMA_ISA").as_deref() {
            Ok("scalar") => Self::Scalar,
            Ok("avx2") => Self::Avx2,
            Ok("avxvnni") => Self::AvxVnni,
            Ok("avx512") => Self::Avx512,
            _ => Self::Amx,
        };
        if named.is_available() { named } else { Self::detect() }
    }

    /// What a person calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "AVX2",
            Self::AvxVnni => "AVX-VNNI",
            Self::Avx512 => "AVX-512 VNNI",
            Self::Amx => "AMX",
        }
    }
}

/// An instruction set that was found on this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    isa: Isa,
    /// Whether it is AVX-512 with products of bf16.
    products16: bool,
}

impl Found {
    /// `isa` where this machine has it, else the best it has.
    pub(crate) fn new(isa: Isa) -> Self {
        let isa = if isa.is_available() { isa } else { Isa::detect() };
        #[cfg(target_arch = "x86_64")]
        let products16 = isa >= Isa::Avx512 && is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        let products16 = false;
        Self { isa, products16 }
    }

    pub(crate) fn isa(self) -> Isa {
        self.isa
    }

    /// Whether there are 32 registers of 16 lanes.
    pub(crate) fn is_wide(self) -> bool {
        self.isa >= Isa::Avx512
    }

    /// Whether there are tiles of AMX.
    pub(crate) fn has_amx(self) -> bool {
        self.isa == Isa::Amx
    }

    /// Whether [`Found::run16`] can be called.
    pub(crate) fn products16(self) -> bool {
        self.products16
    }

    /// Runs `kernel` with this instruction set's products of bf16.
    ///
    /// # Panics
    /// When it has none.
    #[inline]
    pub(crate) fn run16<K: Kernel16>(self, kernel: K) {
        assert!(self.products16, "no products of bf16 here");
        // SAFETY: the instructions were detected when `self` was made.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            avx512::run16(kernel);
        }
        #[cfg(not(target_arch = "x86_64"))]
        drop(kernel);
    }

    /// Runs `kernel` with AMX.
    ///
    /// # Panics
    /// When there is none.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn run_amx<K: amx::Kernel>(self, kernel: K) {
        assert!(self.has_amx() && self.products16, "no AMX here");
        // SAFETY: the instructions were detected when `self` was made.
        unsafe { avx512::run_amx(kernel) };
    }

    /// Runs `kernel` as compiled for this instruction set.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.isa {
            // SAFETY: the instruction set was detected when `self` was made.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => unsafe { avx512::run(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => unsafe { avx2::run_vnni(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::run(kernel) },
            _ => kernel.run(scalar::Scalar),
        }
    }
}

#[cfg(test)]
mod tests;
