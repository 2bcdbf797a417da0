//! Encoding of f32 values as element types and quantized blocks.
//!
//! The layouts are ggml's; how scales are found is our own. Only the standard library's portable arithmetic is used,
//! in loops that vectorize: a row is quantized on the caller's thread, callers spread rows over theirs.

mod k;
mod legacy;
mod nf4;

use crate::{DType, Error, f32_to_f8};
use half::{bf16, f16};

pub use nf4::quantize_nf4;

/// The largest finite half. Blocks keep their scales as halves: within it no scale overflows.
const LARGEST_HALF: f32 = 65504.0;

/// Encodes values, whole rows of them, and appends the bytes to `out`.
///
/// F32, F16, BF16, F8, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K can be written; floats are rounded to nearest,
/// ties to even. Q4_0 … Q8_0 round as ggml's reference does; the K types search for the scales with the least
/// weighted squared error.
///
/// ```
/// use medgemma_formats::{DType, dequantize, quantize};
/// let values: Vec<f32> = (0..32).map(|i| i as f32 / 31.0).collect();
/// let mut bytes = Vec::new();
/// quantize(DType::Q8_0, &values, &mut bytes)?;
/// assert_eq!(bytes.len(), 34);
/// let mut back = [0.0; 32];
/// dequantize(DType::Q8_0, &bytes, &mut back)?;
/// assert!(values.iter().zip(back).all(|(a, b)| (a - b).abs() < 0.5 / 127.0 + 1e-3));
/// # Ok::<(), medgemma_formats::Error>(())
/// ```
///
/// # Errors
/// [`Error::Blocks`] when the values are not whole blocks, one of them is not finite or beyond ±65504 (except for F32
/// and BF16, which hold it, and F8, which becomes its largest number), or the type can't be written. `out` is then unchanged.
pub fn quantize(dtype: DType, values: &[f32], out: &mut Vec<u8>) -> Result<(), Error> {
    let blocks = |problem| Error::Blocks { dtype, problem };
    let size = dtype
        .row_bytes(values.len())
        .ok_or_else(|| blocks(format!("{} elements are not whole blocks of {}", values.len(), dtype.block_len())))?;
    if !matches!(dtype, DType::F32 | DType::BF16 | DType::F8)
        && let Some(at) = values.iter().position(|v| v.is_nan() || v.abs() > LARGEST_HALF)
    {
        return Err(blocks(format!("element {at} is {}, more than a half-precision scale can express", values[at])));
    }
    out.reserve(size);
    match dtype {
        DType::F32 => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        DType::F16 => out.extend(values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())),
        DType::BF16 => out.extend(values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
        DType::F8 => out.extend(values.iter().map(|v| f32_to_f8(*v))),
        DType::Q4_0 => each(values, out, legacy::q4_0),
        DType::Q4_1 => each(values, out, legacy::q4_1),
        DType::Q5_0 => each(values, out, legacy::q5_0),
        DType::Q5_1 => each(values, out, legacy::q5_1),
        DType::Q8_0 => each(values, out, legacy::q8_0),
        DType::Q4K => each(values, out, k::q4_k),
        DType::Q5K => each(values, out, k::q5_k),
        DType::Q6K => each(values, out, k::q6_k),
        DType::Nf4 => return Err(blocks("NF4 keeps its scales apart: use quantize_nf4".into())),
        DType::Q2K | DType::Q3K | DType::Iq4Nl | DType::Iq4Xs => {
            return Err(blocks(
                "can be read but not written: choose Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K".into(),
            ));
        }
    }
    Ok(())
}

/// Encodes block after block; `N` elements become `B` bytes.
#[inline(always)]
fn each<const N: usize, const B: usize>(values: &[f32], out: &mut Vec<u8>, encode: impl Fn(&[f32; N]) -> [u8; B]) {
    for block in values.as_chunks::<N>().0 {
        out.extend_from_slice(&encode(block));
    }
}

/// `f` of each element. As `<[T; N]>::map`, which for long arrays doesn't become a loop that vectorizes.
#[inline(always)]
fn map<const N: usize, T: Copy, U: Copy + Default>(x: &[T; N], f: impl Fn(T) -> U) -> [U; N] {
    let mut out = [U::default(); N];
    for (out, x) in out.iter_mut().zip(x) {
        *out = f(*x);
    }
    out
}

/// `1 / d`, or 0 for a block of zeros.
#[inline(always)]
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// A scale as a block stores it.
#[inline(always)]
fn half_bytes(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}
