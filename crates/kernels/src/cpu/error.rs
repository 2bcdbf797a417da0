//! What a backend can't do.

/// Why a backend couldn't be had, or couldn't hold something.
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
    /// There is no such card, or no driver for it.
    #[error("{0}; --device cpu computes on the processor")]
    NoDevice(String),
    /// The card has no such memory.
    #[error(
        "out of memory on the GPU: {bytes} bytes were refused; choose a smaller --context, --quant q8 or q4, fewer --gpu-layers, or --device cpu"
    )]
    OutOfDeviceMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// The card or its driver failed.
    #[error("the GPU failed in {call}: {problem}")]
    Device {
        /// What was asked of the driver.
        call: &'static str,
        /// What it answered.
        problem: String,
    },
}
