//! What can be wrong with a model, a prompt or a picture.

/// Why something can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the checkpoint.
    #[error(transparent)]
    Formats(#[from] medgemma_formats::Error),
    /// A picture, or the settings for preparing pictures.
    #[error("{name}: {problem}")]
    Image {
        /// What the caller calls it.
        name: String,
        /// What is wrong, and the remedy.
        problem: String,
    },
}
