//! Gemma 3 and SigLIP: configuration, tokenizer, chat template, images, the model and the sampler.

mod config;
pub mod convert;
mod error;
pub mod image;
pub mod locate;
mod model;
pub mod sampler;
pub mod text;
mod weights;

pub use config::{Config, Rope, TextConfig, TokenIds, VisionConfig};
pub use error::Error;
pub use model::{Caches, ImageFeatures, Input, LoadProgress, Model, Workspace};
pub use weights::{Synthetic, Weights};
