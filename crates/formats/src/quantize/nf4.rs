//! Encoding as bitsandbytes NF4.

use crate::{DType, Nf4};

/// Elements that share a scale.
const BLOCK: usize = DType::Nf4.block_len();

/// Where one value of NF4 ends and the next begins: the midpoints, as bitsandbytes rounds.
const MIDPOINTS: [f32; 15] = {
    let mut out = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        out[i] = ((Nf4::VALUES[i] as f64 + Nf4::VALUES[i + 1] as f64) / 2.0) as f32;
        i += 1;
    }
    out
};

/// Encodes values as NF4: the largest magnitude of each 64 consecutive ones is their scale (not quantized itself),
/// and each value becomes the nearest of [`Nf4::VALUES`] times it. The high nibble of a byte comes first.
///
/// A value that is not finite makes its whole block so.
///
/// ```
/// use medgemma_formats::{Bytes, DType, Tensor, quantize_nf4};
/// let values = [0.5f32; 64];
/// let (bytes, nf4) = quantize_nf4(&values);
/// let tensor = Tensor::from_parts("w", DType::Nf4, vec![1, 64], Bytes::from(bytes), Some(nf4.into()))?;
/// assert_eq!(tensor.to_f32()?, values);
/// # Ok::<(), medgemma_formats::Error>(())
/// ```
pub fn quantize_nf4(values: &[f32]) -> (Vec<u8>, Nf4) {
    let mut bytes = Vec::with_capacity(values.len().div_ceil(2));
    let mut absmax = Vec::with_capacity(values.len().div_ceil(BLOCK));
    for block in values.chunks(BLOCK) {
        // Not `f32::max`, which would drop a NaN.
        let scale = block.iter().fold(0.0f32, |most, v| if most.is_nan() || v.abs() <= most { most } else { v.abs() });
        absmax.push(scale);
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let mut codes = [0u8; BLOCK];
        for (code, value) in codes.iter_mut().zip(block) {
            let scaled = value * inverse;
            *code = MIDPOINTS.iter().map(|&midpoint| u8::from(scaled > midpoint)).sum();
        }
        let pairs = codes.as_chunks::<2>().0;
        bytes.extend(pairs[..block.len().div_ceil(2)].iter().map(|[high, low]| high << 4 | low));
    }
    (bytes, Nf4 { quant_map: Nf4::VALUES, absmax })
}
