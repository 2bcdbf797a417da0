//! What tests of the kernels share.

use super::{CpuBackend, CpuMatrix, CpuStaged, Isa};
use crate::backend::{Backend, Step};
use half::f16;
use medgemma_formats::{Bytes, DType, Nf4, Tensor};
use std::sync::Arc;

/// The instruction sets this machine has.
pub(crate) fn isas() -> impl Iterator<Item = Isa> {
    [Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Amx].into_iter().filter(|isa| isa.is_available())
}

/// Repeatable pseudo-random numbers (xorshift).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }

    /// In -1..1.
    pub(crate) fn float(&mut self) -> f32 {
        (self.next() & 0xFF_FFFF) as f32 / (1u32 << 23) as f32 - 1.0
    }
}

/// Values in -1..1.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..len).map(|_| random.float()).collect()
}

pub(crate) fn matrix(backend: &CpuBackend, values: &[f32], cols: usize) -> CpuMatrix {
    let mut out = backend.matrix(values.len() / cols, cols).unwrap();
    backend.upload(values, &mut out);
    out
}

/// A step where the operations read it.
pub(crate) fn staged(backend: &CpuBackend, ids: &[u32], step: &Step) -> CpuStaged {
    let mut staged = backend.staged().unwrap();
    backend.stage(ids, step, &mut staged);
    staged
}

#[track_caller]
pub(crate) fn close(ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len());
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "element {i}: {a} for {b}");
    }
}

/// Every type a tensor can have.
pub(crate) const DTYPES: [DType; 16] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q2K,
    DType::Q3K,
    DType::Q4K,
    DType::Q5K,
    DType::Q6K,
    DType::Iq4Nl,
    DType::Iq4Xs,
    DType::Nf4,
];

/// Whether products with this type round the activations.
pub(crate) fn rounds(dtype: DType) -> bool {
    !matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F8 | DType::Nf4)
}

/// How many activations share a scale in products with this type, when they are rounded.
pub(crate) fn span(dtype: DType) -> Option<usize> {
    rounds(dtype).then_some(if dtype.block_len() == 256 { 128 } else { 32 })
}

/// Where the f16 scales and minimums of a block are.
pub(crate) fn halves(dtype: DType) -> &'static [usize] {
    match dtype {
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 | DType::Iq4Nl | DType::Iq4Xs => &[0],
        DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => &[0, 2],
        DType::Q2K => &[80, 82],
        DType::Q3K => &[108],
        DType::Q6K => &[208],
        DType::F32 | DType::F16 | DType::BF16 | DType::F8 | DType::Nf4 => &[],
    }
}

/// A random tensor `[rows, cols]` whose blocks take every bit pattern, with scales that keep products near 1.
pub(crate) fn tensor(seed: u64, dtype: DType, rows: usize, cols: usize) -> Tensor {
    let mut random = Random::new(seed);
    let name = format!("{dtype:?}");
    if !rounds(dtype) && dtype != DType::Nf4 {
        let values = noise(seed, rows * cols);
        let bytes: Vec<u8> = match dtype {
            DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DType::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
        };
        return Tensor::from_parts(name, dtype, vec![rows, cols], Bytes::from(bytes), None).unwrap();
    }
    if dtype == DType::Nf4 {
        let bytes: Vec<u8> = (0..(rows * cols).div_ceil(2)).map(|_| random.next() as u8).collect();
        let absmax = (0..(rows * cols).div_ceil(64)).map(|_| random.float()).collect();
        let nf4 = Nf4 { quant_map: Nf4::VALUES, absmax };
        return Tensor::from_parts(name, dtype, vec![rows, cols], Bytes::from(bytes), Some(Arc::new(nf4))).unwrap();
    }
    let mut bytes = Vec::new();
    let size = match dtype {
        DType::Q8_0 | DType::Iq4Nl => 0.01,
        DType::Q3K | DType::Q4K | DType::Q5K | DType::Q6K => 0.001,
        DType::Iq4Xs => 0.0003,
        _ => 0.1,
    };
    for _ in 0..rows * cols / dtype.block_len() {
        let mut block: Vec<u8> = (0..dtype.block_bytes()).map(|_| random.next() as u8).collect();
        for &at in halves(dtype) {
            block[at..at + 2].copy_from_slice(&f16::from_f32(random.float() * size).to_le_bytes());
        }
        bytes.extend(block);
    }
    Tensor::from_parts(name, dtype, vec![rows, cols], Bytes::from(bytes), None).unwrap()
}
