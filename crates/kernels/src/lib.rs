//! The fused operations of Gemma 3 and SigLIP behind one [`Backend`] trait, for the CPU.

pub mod backend;
mod cpu;
pub mod reference;

pub use backend::{BLOCK, Backend, CacheSpec, CacheType, Rows, Step, WeightFormat};
pub use cpu::{CpuBackend, CpuCache, CpuMatrix, CpuVector, CpuWeight, Error, Isa};
