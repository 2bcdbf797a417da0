//! Random weights of a true shape, made one tensor at a time.

use medgemma_formats::{DType, Nf4, Tensor};
use std::sync::Arc;

/// Makes any tensor that is asked for: matrices in one element type, vectors in f32.
///
/// Values are small and of mean zero, so that activations stay finite through any number of layers.
#[derive(Clone, Debug)]
pub struct Synthetic {
    name: String,
    dtype: DType,
    seed: u64,
}

/// Where the decoder's matrices aren't floats of 16 bits, this is what everything else is: the image encoder's rows
/// aren't whole blocks.
const FLOAT: DType = DType::BF16;

impl Synthetic {
    /// `name` is for showing; `dtype` is the type of the decoder's matrices: BF16, F16, Q8_0, Q4_0 or NF4.
    /// F16 is the image encoder's, too; beside the others it is in BF16.
    pub fn new(name: &str, dtype: DType, seed: u64) -> Self {
        Self { name: name.to_owned(), dtype, seed }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Option<Tensor> {
        if name == "output.weight" || shape.is_empty() {
            return None;
        }
        let len: usize = shape.iter().product();
        let mut random = SplitMix64(self.seed ^ hash(name));
        if shape.len() == 1 {
            let ones = if name.contains("norm") || name.contains("ln") { 1.0 } else { 0.0 };
            let values: Vec<f32> = (0..len).map(|_| ones + random.signed() * 0.05).collect();
            return Tensor::from_f32(name, shape, &values).ok();
        }
        let cols = *shape.last()?;
        let decoder = !name.starts_with("v.") && !name.starts_with("mm.");
        let float = if self.dtype == DType::F16 { DType::F16 } else { FLOAT };
        // As the decoder holds the embedding table beside matrices of 4 bits.
        let wanted = match (name, self.dtype) {
            ("token_embd.weight", DType::Q4_0) => DType::Q8_0,
            ("token_embd.weight", DType::Nf4) => float,
            (_, dtype) => dtype,
        };
        let dtype = if decoder && cols.is_multiple_of(wanted.block_len()) { wanted } else { float };
        let deviation = 1.0 / (cols as f32).sqrt();
        // NF4's values are spread about half as widely as their scale.
        let nf4 = (dtype == DType::Nf4).then(|| {
            Arc::new(Nf4 { quant_map: Nf4::VALUES, absmax: vec![2.0 * deviation; len.div_ceil(dtype.block_len())] })
        });
        let bytes = blocks(dtype, len, deviation, &mut random);
        Tensor::from_parts(name, dtype, shape.to_vec(), bytes.into(), nf4).ok()
    }
}

/// Blocks that are random; then they come again. An odd number, so that rows differ.
const RANDOM: usize = (1 << 20) + 1;

/// Random blocks of `len` elements whose values are spread about as widely as `deviation`.
fn blocks(dtype: DType, len: usize, deviation: f32, random: &mut SplitMix64) -> Vec<u8> {
    let mut bytes = random_blocks(dtype, (len / dtype.block_len()).min(RANDOM), deviation, random);
    let (period, all) = (bytes.len(), len / dtype.block_len() * dtype.block_bytes());
    bytes.reserve_exact(all - period);
    while bytes.len() < all {
        bytes.extend_from_within(..period.min(all - bytes.len()));
    }
    bytes
}

/// So many random blocks.
fn random_blocks(dtype: DType, count: usize, deviation: f32, random: &mut SplitMix64) -> Vec<u8> {
    let mut bytes = vec![0u8; count * dtype.block_bytes()];
    match dtype {
        DType::Q4_0 | DType::Q8_0 => {
            // The deviation of uniform quants is the range over √12: 16 steps, or 256.
            let steps = if dtype == DType::Q4_0 { 16.0 } else { 256.0 };
            let scale = half::f16::from_f32(deviation * 12f32.sqrt() / steps).to_le_bytes();
            random.fill(&mut bytes);
            for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
                block[..2].copy_from_slice(&scale);
            }
        }
        DType::Nf4 => random.fill(&mut bytes),
        DType::F16 => {
            let scale = deviation * 3f32.sqrt();
            for pair in bytes.chunks_exact_mut(2) {
                pair.copy_from_slice(&half::f16::from_f32(random.signed() * scale).to_le_bytes());
            }
        }
        _ => {
            let scale = deviation * 3f32.sqrt();
            for pair in bytes.chunks_exact_mut(2) {
                pair.copy_from_slice(&half::bf16::from_f32(random.signed() * scale).to_le_bytes());
            }
        }
    }
    bytes
}

/// A tensor's own random numbers, whatever the order in which tensors are asked for (FNV-1a).
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// Steele, Lea and Flood's SplitMix64.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in (-1, 1).
    fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let next = self.next().to_le_bytes();
            chunk.copy_from_slice(&next[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A norm of mean 1 would multiply up through the layers if values were spread otherwise than is said.
    #[test]
    fn values_are_spread_alike_in_every_type() {
        for dtype in [DType::BF16, DType::F16, DType::Q8_0, DType::Q4_0, DType::Nf4] {
            let model = Synthetic::new("random", dtype, 1);
            for (name, expected) in [
                ("blk.0.attn_q.weight", dtype),
                ("v.blk.0.attn_q.weight", if dtype == DType::F16 { DType::F16 } else { DType::BF16 }),
            ] {
                let tensor = model.tensor(name, &[64, 256]).unwrap();
                assert_eq!(tensor.dtype, expected, "{name}");
                let values = tensor.to_f32().unwrap();
                let deviation = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt() * 16.0;
                assert!((0.85..1.15).contains(&deviation), "{dtype:?} {name}: {deviation} times the expected spread");
            }
        }
    }
}
