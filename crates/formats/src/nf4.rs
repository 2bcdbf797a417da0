//! bitsandbytes' 4-bit NormalFloat.

use crate::DType;

/// Elements that share a scale.
const BLOCK: usize = DType::Nf4.block_len();

/// The scales of one bitsandbytes NF4 tensor, nested ones already resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Nf4 {
    /// The 16 values a nibble stands for.
    pub quant_map: [f32; 16],
    /// One scale for each block of 64 consecutive elements of the flattened tensor.
    pub absmax: Vec<f32>,
}

impl Nf4 {
    /// The values of NF4 (Dettmers et al., QLoRA, appendix E), as bitsandbytes has them.
    pub const VALUES: [f32; 16] = [
        -1.0,
        -0.696_192_8,
        -0.525_073_05,
        -0.394_917_5,
        -0.284_441_38,
        -0.184_773_43,
        -0.091_050_036,
        0.0,
        0.079_580_3,
        0.160_930_2,
        0.246_112_3,
        0.337_915_24,
        0.440_709_83,
        0.562_617,
        0.722_956_84,
        1.0,
    ];

    /// Decodes the elements from `start` of the flattened tensor; `None` when bytes or scales are too few.
    ///
    /// Element `j` is nibble `j` of `bytes` (the high one first) looked up and multiplied by its block's scale.
    pub(crate) fn decode(&self, bytes: &[u8], start: usize, out: &mut [f32]) -> Option<()> {
        let end = start.checked_add(out.len())?;
        if end > bytes.len().saturating_mul(2) || end > self.absmax.len().saturating_mul(BLOCK) {
            return None;
        }
        // A row may begin or end inside a block: those ends go one by one, whole blocks in between together.
        let head = (start.next_multiple_of(BLOCK) - start).min(out.len());
        let (head, rest) = out.split_at_mut(head);
        let (blocks, tail) = rest.as_chunks_mut::<BLOCK>();
        let middle = start + head.len();
        self.decode_each(bytes, start, head);
        self.decode_each(bytes, middle + blocks.len() * BLOCK, tail);
        let packed = bytes[middle / 2..].as_chunks::<{ BLOCK / 2 }>().0;
        for ((values, packed), &scale) in blocks.iter_mut().zip(packed).zip(&self.absmax[middle / BLOCK..]) {
            let table = self.quant_map.map(|value| value * scale);
            for (pair, &byte) in values.as_chunks_mut::<2>().0.iter_mut().zip(packed) {
                *pair = [table[usize::from(byte >> 4)], table[usize::from(byte & 15)]];
            }
        }
        Some(())
    }

    fn decode_each(&self, bytes: &[u8], start: usize, out: &mut [f32]) {
        for (j, value) in (start..).zip(out) {
            let nibble = bytes[j / 2] >> (if j % 2 == 0 { 4 } else { 0 }) & 15;
            *value = self.quant_map[usize::from(nibble)] * self.absmax[j / BLOCK];
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Bytes, DType, Nf4, Tensor};
    use std::sync::Arc;

    #[test]
    fn rows_that_cut_blocks_agree_with_the_whole() {
        // 5 rows of 77: odd, and never on a block's edge.
        let bytes: Vec<u8> = (0..193u32).map(|i| (i * 71 % 256) as u8).collect();
        let absmax = (0..7).map(|i| 0.5 + i as f32).collect();
        let nf4 = Arc::new(Nf4 { quant_map: Nf4::VALUES, absmax });
        let tensor =
            Tensor::from_parts("t", DType::Nf4, vec![5, 77], Bytes::from(bytes.clone()), Some(nf4.clone())).unwrap();
        let whole = tensor.to_f32().unwrap();
        for (j, &got) in whole.iter().enumerate() {
            let nibble = if j % 2 == 0 { bytes[j / 2] >> 4 } else { bytes[j / 2] & 15 };
            assert_eq!(got, Nf4::VALUES[nibble as usize] * nf4.absmax[j / 64], "element {j}");
        }
        for row in 0..5 {
            let mut out = [0.0; 77];
            tensor.row_f32(row, &mut out).unwrap();
            assert_eq!(out, whole[row * 77..][..77]);
        }
    }

    #[test]
    fn scales_must_fit() {
        let make = |scales| {
            let nf4 = Arc::new(Nf4 { quant_map: Nf4::VALUES, absmax: vec![1.0; scales] });
            Tensor::from_parts("t", DType::Nf4, vec![65], Bytes::from(vec![0; 33]), Some(nf4))
        };
        assert!(make(2).is_ok());
        assert!(make(1).is_err());
        assert!(make(3).is_err());
        let nf4 = Some(Arc::new(Nf4 { quant_map: Nf4::VALUES, absmax: vec![1.0] }));
        assert!(Tensor::from_parts("t", DType::F16, vec![16], Bytes::from(vec![0; 32]), nf4).is_err());
    }
}
