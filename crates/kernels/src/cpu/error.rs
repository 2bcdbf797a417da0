//! What the CPU backend can't do.

/// Why the CPU backend couldn't hold something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor couldn't be read.
    #[error(transparent)]
    Format(#[from] medgemma_formats::Error),
    /// The shapes of tensors or values don't go together.
    #[error("{0}")]
    Shape(String),
    /// A size overflows the address space.
    #[error("a buffer larger than the address space was asked for; choose a smaller context or batch")]
    TooLarge,
    /// The system has no such memory.
    #[error(
        "out of memory: {bytes} bytes were refused; choose a smaller model, a smaller context or a narrower quantization"
    )]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
}
