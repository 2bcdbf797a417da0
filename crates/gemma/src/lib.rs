//! Images, text and the model.

mod error;
pub mod image;
pub mod locate;

pub use error::Error;
