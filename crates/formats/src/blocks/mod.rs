//! Decoding of element types and quantized blocks to f32.
//!
//! The formulas and their order of operations are ggml's (`dequantize_row_*` of `ggml-quants.c`), so results agree to
//! the bit. Plain loops over fixed-size blocks: the type is chosen once for a row, never for an element.

mod f8;
mod float;
mod iq4;
mod k;
mod legacy;

use crate::{DType, Error};

pub use f8::{f8_scale, f8_to_f32, f32_to_f8};
pub(crate) use float::f16_to_f32;

/// Decodes whole blocks: `bytes` holds exactly the elements of `out`.
///
/// ```
/// use medgemma_formats::{DType, dequantize};
/// let mut out = [0.0; 2];
/// dequantize(DType::BF16, &[0x80, 0x3f, 0x00, 0xc0], &mut out)?;
/// assert_eq!(out, [1.0, -2.0]);
/// # Ok::<(), medgemma_formats::Error>(())
/// ```
///
/// # Errors
/// [`Error::Blocks`] when the sizes differ or `out` is not whole blocks, and for [`DType::Nf4`], whose scales lie
/// elsewhere (a [`crate::Tensor`] has them).
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    let blocks = |problem| Error::Blocks { dtype, problem };
    let expected = dtype
        .row_bytes(out.len())
        .ok_or_else(|| blocks(format!("{} elements are not whole blocks of {}", out.len(), dtype.block_len())))?;
    if bytes.len() != expected {
        return Err(blocks(format!("{} elements take {expected} bytes, not {}", out.len(), bytes.len())));
    }
    match dtype {
        DType::F32 => float::f32(bytes, out),
        DType::F16 => float::f16(bytes, out),
        DType::BF16 => float::bf16(bytes, out),
        DType::F8 => f8::f8(bytes, out),
        DType::Q4_0 => each(bytes, out, legacy::q4_0),
        DType::Q4_1 => each(bytes, out, legacy::q4_1),
        DType::Q5_0 => each(bytes, out, legacy::q5_0),
        DType::Q5_1 => each(bytes, out, legacy::q5_1),
        DType::Q8_0 => each(bytes, out, legacy::q8_0),
        DType::Q2K => each(bytes, out, k::q2_k),
        DType::Q3K => each(bytes, out, k::q3_k),
        DType::Q4K => each(bytes, out, k::q4_k),
        DType::Q5K => each(bytes, out, k::q5_k),
        DType::Q6K => each(bytes, out, k::q6_k),
        DType::Iq4Nl => each(bytes, out, iq4::iq4_nl),
        DType::Iq4Xs => each(bytes, out, iq4::iq4_xs),
        DType::Nf4 => return Err(blocks("the scales of NF4 are not in its blocks: decode the tensor instead".into())),
    }
    Ok(())
}

/// Decodes block after block; `B` bytes stand for `N` elements.
#[inline(always)]
fn each<const B: usize, const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn(&[u8; B], &mut [f32; N])) {
    for (block, values) in bytes.as_chunks::<B>().0.iter().zip(out.as_chunks_mut::<N>().0) {
        decode(block, values);
    }
}

/// The half-precision number at `at`.
#[inline(always)]
fn half_at<const B: usize>(block: &[u8; B], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}
