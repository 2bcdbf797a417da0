//! Sequences, KV cache, generation and the public [`Pipeline`].

mod blocks;
mod demo;
mod error;
pub mod footprint;
mod generate;
mod load;
mod loops;
mod outputs;
pub mod pipeline;
mod placement;
mod runner;
pub mod scheduler;
mod sequence;
pub mod speculate;

pub use error::Error;
pub use generate::{Finish, Generation, NewToken, Progress, Timings, generate, generate_held, generate_with, score};
pub use load::Checkpoint;
pub use loops::LoopDetector;
pub use pipeline::{Event, LoadOptions, Opened, Options, Pipeline, Quant, Reply, Request, Serving, ServingOptions};
pub use placement::{Device, Placed, gpu_layers};
pub use runner::{Runner, RunnerConfig, Work};
pub use scheduler::{Scheduler, SchedulerConfig};
pub use sequence::{PlacedImage, Sequence};
pub use speculate::{DraftModel, Drafter, Speculator};
