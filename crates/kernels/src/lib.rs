#![doc = include_str!("../README.md")]

pub mod backend;
mod cpu;
pub mod reference;

pub use backend::{BLOCK, Backend, CacheSpec, CacheType, Part, Rows, Step, WeightFormat};
pub use cpu::{CpuBackend, CpuCache, CpuMatrix, CpuVector, CpuWeight, Error, Isa, PackCache, Packed};
