#![doc = include_str!("../README.md")]

pub mod backend;
mod cpu;
mod cuda;
pub mod reference;
mod split;

pub use backend::{BLOCK, Backend, Behind, CacheSpec, CacheType, Greedy, Part, Place, Rows, Step, WeightFormat};
pub use cpu::{CpuBackend, CpuCache, CpuMatrix, CpuStaged, CpuVector, CpuWeight, Error, Isa, PackCache, Packed};
pub use cuda::{Card, CudaBackend, CudaCache, CudaMatrix, CudaRecordings, CudaStaged, CudaVector, CudaWeight};
pub use split::{AnyBackend, Split, SplitMatrix, SplitRecordings, Two};
