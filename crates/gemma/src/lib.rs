//! Images, text and the model.

pub mod locate;
