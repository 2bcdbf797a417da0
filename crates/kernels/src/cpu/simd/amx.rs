//! AMX: products of 16 × 16 tiles, for many rows of activations. Everything else there runs as AVX-512.
//!
//! Eight tile registers hold 16 rows of 64 bytes each. Rust's own functions for them aren't stable yet, so they are
//! named in assembly; the compiler never uses them by itself. A thread sets their shape by [`Shape::set`] and lets them
//! go by [`release`], so that the system has nothing of them to save in between.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.

use super::avx512::Avx512;
use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

/// Whether this machine has AMX with products of 8-bit integers and bf16, and the system lets this process use it.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_instructions() && permitted())
}

fn has_instructions() -> bool {
    const BF16_TILE_INT8: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    let (highest, features) = (__cpuid_count(0, 0).eax, |leaf| __cpuid_count(leaf, 0));
    highest >= 7 && features(7).edx & BF16_TILE_INT8 == BF16_TILE_INT8
}

/// Asks the system for the tiles: they make a thread's saved state 8 KiB larger, so that it gives them to those only
/// that ask.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: the call reads and writes no memory of this process; a system that doesn't know it answers with an error.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// A computation with tiles, and AVX-512 with BF16.
pub(crate) trait Kernel {
    /// Must be `#[inline(always)]`, with all it calls.
    fn run(self, s: Avx512<true>);
}

/// The shapes of tile registers: what `ldtilecfg` reads.
#[repr(C, align(64))]
pub(crate) struct Shape {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_of_rows: [u16; 16],
    rows: [u8; 16],
}

impl Shape {
    /// All eight with 16 rows of 64 bytes.
    pub(crate) const fn new() -> Self {
        let (mut bytes_of_rows, mut rows) = ([0; 16], [0; 16]);
        let mut i = 0;
        while i < 8 {
            bytes_of_rows[i] = 64;
            rows[i] = 16;
            i += 1;
        }
        Self { palette: 1, start_row: 0, reserved: [0; 14], bytes_of_rows, rows }
    }

    /// The same, but for one with so many rows of so many bytes.
    pub(crate) const fn with(mut self, tile: usize, rows: usize, bytes: usize) -> Self {
        assert!(tile < 8 && rows > 0 && rows <= 16 && bytes > 0 && bytes <= 64 && bytes.is_multiple_of(4));
        self.rows[tile] = rows as u8;
        self.bytes_of_rows[tile] = bytes as u16;
        self
    }

    /// Gives this thread's tiles these shapes.
    ///
    /// # Safety
    /// [`is_available`].
    #[inline(always)]
    pub(crate) unsafe fn set(&self) {
        // SAFETY: 64 bytes are read, which describe shapes that exist.
        unsafe { asm!("ldtilecfg [{}]", in(reg) self, options(nostack, readonly, preserves_flags)) }
    }
}

/// Lets this thread's tiles go.
///
/// # Safety
/// [`is_available`].
#[inline(always)]
pub(crate) unsafe fn release() {
    // SAFETY: nothing but tiles changes.
    unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) }
}

/// Tile `T` becomes zeros.
///
/// # Safety
/// Shapes are set.
#[inline(always)]
pub(crate) unsafe fn zero<const T: usize>() {
    // SAFETY: nothing but the tile changes.
    unsafe { asm!("tilezero tmm{t}", t = const T, options(nostack, nomem, preserves_flags)) }
}

/// Tile `T` becomes what lies at `from`, its rows `stride` bytes apart.
///
/// # Safety
/// Shapes are set, and the tile's rows can be read.
#[inline(always)]
pub(crate) unsafe fn load<const T: usize>(from: *const u8, stride: usize) {
    // SAFETY: the caller's.
    unsafe {
        asm!("tileloadd tmm{t}, [{from} + {stride}]", t = const T, from = in(reg) from, stride = in(reg) stride,
            options(nostack, readonly, preserves_flags));
    }
}

/// Writes tile `T` of 16 rows of 16 numbers, row after row.
///
/// # Safety
/// Shapes are set.
#[inline(always)]
pub(crate) unsafe fn store<const T: usize, N>(to: &mut [[N; 16]; 16]) {
    const { assert!(size_of::<N>() == 4) };
    // SAFETY: a tile has 1,024 bytes at most.
    unsafe { store_rows::<T>(to.as_mut_ptr().cast(), 64) };
}

/// Writes tile `T` to `to`, its rows `stride` bytes apart.
///
/// # Safety
/// Shapes are set, and the tile's rows can be written.
#[inline(always)]
pub(crate) unsafe fn store_rows<const T: usize>(to: *mut f32, stride: usize) {
    // SAFETY: the caller's.
    unsafe {
        asm!("tilestored [{to} + {stride}], tmm{t}", t = const T, to = in(reg) to, stride = in(reg) stride,
            options(nostack, preserves_flags));
    }
}

/// Adds to tile `C`, 32-bit integers, the products of signed bytes of `A` (activations, rows of k) and `B` (weights,
/// four k of 16 outputs a row).
///
/// # Safety
/// Shapes are set, and fit.
#[inline(always)]
pub(crate) unsafe fn dot8<const C: usize, const A: usize, const B: usize>() {
    // SAFETY: nothing but the tile changes.
    unsafe {
        asm!("tdpbssd tmm{c}, tmm{a}, tmm{b}", c = const C, a = const A, b = const B,
            options(nostack, nomem, preserves_flags));
    }
}

/// The same of bf16: adds to f32, in pairs of k.
///
/// # Safety
/// Shapes are set, and fit.
#[inline(always)]
pub(crate) unsafe fn dot16<const C: usize, const A: usize, const B: usize>() {
    // SAFETY: nothing but the tile changes.
    unsafe {
        asm!("tdpbf16ps tmm{c}, tmm{a}, tmm{b}", c = const C, a = const A, b = const B,
            options(nostack, nomem, preserves_flags));
    }
}

/// Integers of a tile's row.
#[inline(always)]
pub(crate) fn integers(_: Avx512<true>, row: &[i32; 16]) -> __m512i {
    // SAFETY: 64 bytes; there is AVX-512.
    unsafe { _mm512_loadu_si512(row.as_ptr().cast()) }
}

/// Integers of two rows: `256 · high + low`.
#[inline(always)]
pub(crate) fn join(s: Avx512<true>, high: &[i32; 16], low: &[i32; 16]) -> __m512i {
    // SAFETY: as above.
    unsafe { _mm512_add_epi32(_mm512_slli_epi32::<8>(integers(s, high)), integers(s, low)) }
}
