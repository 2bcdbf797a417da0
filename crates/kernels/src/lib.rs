#![doc = include_str!("../README.md")]

mod any;
pub mod backend;
mod cpu;
mod cuda;
pub mod reference;

pub use any::{AnyBackend, AnyRecordings, Either};
pub use backend::{BLOCK, Backend, Behind, CacheSpec, CacheType, Greedy, Part, Rows, Step, WeightFormat};
pub use cpu::{CpuBackend, CpuCache, CpuMatrix, CpuStaged, CpuVector, CpuWeight, Error, Isa, PackCache, Packed};
pub use cuda::{Card, CudaBackend, CudaCache, CudaMatrix, CudaRecordings, CudaStaged, CudaVector, CudaWeight};
