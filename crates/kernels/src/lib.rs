//! The fused operations of Gemma 3 and SigLIP behind one [`Backend`] trait, for the CPU.

pub mod backend;

pub use backend::{BLOCK, Backend, CacheSpec, CacheType, Rows, Step, WeightFormat};
