//! Activations, vectors and caches on a card.

use super::driver::{Buffer, Device, Param};
use crate::Error;
use crate::backend::{BLOCK, CacheSpec};
use half::bf16;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How elements are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    F32 = 0,
    BF16 = 1,
    /// 8-bit floats (E4M3), in caches only.
    F8 = 2,
}

impl Kind {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::BF16 => 2,
            Self::F8 => 1,
        }
    }
}

/// A matrix on a card, row after row. What writes it says whether its elements are f32 or bf16; there is room for f32.
#[derive(Debug)]
pub struct CudaMatrix {
    buffer: Buffer,
    capacity: usize,
    cols: usize,
    rows: usize,
    kind: Kind,
}

impl CudaMatrix {
    pub(super) fn new(device: &Arc<Device>, capacity: usize, cols: usize) -> Result<Self, Error> {
        let bytes = capacity.checked_mul(cols).and_then(|n| n.checked_mul(4)).ok_or(Error::TooLarge)?;
        Ok(Self { buffer: Buffer::zeroed(device, bytes)?, capacity, cols, rows: 0, kind: Kind::F32 })
    }

    /// Rows in use.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn at(&self) -> u64 {
        self.buffer.at()
    }

    pub(super) fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// Elements in use.
    pub(super) fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Says what the next operation writes.
    pub(super) fn set(&mut self, rows: usize, kind: Kind) {
        assert!(rows <= self.capacity, "{rows} rows in a matrix with room for {}", self.capacity);
        self.rows = rows;
        self.kind = kind;
    }
}

/// A vector of f32 on a card.
#[derive(Debug)]
pub struct CudaVector {
    pub(super) buffer: Buffer,
    /// The same in bf16, as cuBLASLt wants a bias.
    pub(super) rounded: Buffer,
    pub(super) len: usize,
}

impl CudaVector {
    pub(super) fn new(device: &Arc<Device>, values: &[f32]) -> Result<Self, Error> {
        let keep = |bytes: Vec<u8>| {
            let buffer = Buffer::new(device, bytes.len())?;
            buffer.write(0, &bytes)?;
            Ok::<Buffer, Error>(buffer)
        };
        Ok(Self {
            buffer: keep(values.iter().flat_map(|v| v.to_le_bytes()).collect())?,
            rounded: keep(values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect())?,
            len: values.len(),
        })
    }
}

/// A pool of KV blocks on a card: keys, then values, each `[layer][block][kv_head][32][head_dim]`.
#[derive(Debug)]
pub struct CudaCache {
    buffer: Buffer,
    spec: CacheSpec,
    kind: Kind,
    /// Tells caches apart in recordings: another one may lie at the same address later.
    id: u64,
}

/// One layer of a cache, as kernels take it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Layer {
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) kind: i32,
    pub(super) kv_heads: i32,
    pub(super) dim: i32,
}
// SAFETY: as `Layer` in cache.cuh.
unsafe impl Param for Layer {}

/// A number that nothing else has.
pub(super) fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl CudaCache {
    pub(super) fn new(device: &Arc<Device>, spec: CacheSpec, kind: Kind) -> Result<Self, Error> {
        let sizes = [spec.layers, spec.blocks, spec.kv_heads, spec.head_dim, BLOCK, 2, kind.bytes()];
        let bytes = sizes.iter().try_fold(1usize, |n, size| n.checked_mul(*size)).ok_or(Error::TooLarge)?;
        Ok(Self { buffer: Buffer::zeroed(device, bytes)?, spec, kind, id: unique() })
    }

    /// Its shape.
    pub fn spec(&self) -> CacheSpec {
        self.spec
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Elements of a layer's keys; it has as many of values.
    pub(super) fn layer_elements(&self) -> usize {
        self.spec.blocks * self.spec.kv_heads * BLOCK * self.spec.head_dim
    }

    pub(super) fn layer(&self, layer: usize) -> Layer {
        assert!(layer < self.spec.layers, "layer {layer} of {}", self.spec.layers);
        let each = self.buffer.bytes() / 2 / self.spec.layers;
        let keys = self.buffer.at() + (layer * each) as u64;
        Layer {
            keys,
            values: keys + (self.buffer.bytes() / 2) as u64,
            kind: self.kind as i32,
            kv_heads: self.spec.kv_heads as i32,
            dim: self.spec.head_dim as i32,
        }
    }
}
