//! Why a request can't be served.

/// An error of loading or of a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model's files or inputs.
    #[error(transparent)]
    Model(#[from] medgemma_gemma::Error),
    /// The model isn't where it was looked for.
    #[error(transparent)]
    Locate(#[from] medgemma_gemma::locate::Error),
    /// A file couldn't be read.
    #[error(transparent)]
    Formats(#[from] medgemma_formats::Error),
    /// The device that was asked for isn't there.
    #[error(transparent)]
    Device(#[from] medgemma_kernels::Error),
    /// The prompt and the tokens asked for don't fit the context.
    #[error("{wanted} tokens don't fit the context of {context}: shorten the prompt or load with a larger --context")]
    Context {
        /// Tokens of the prompt, or of prompt and budget.
        wanted: usize,
        /// Tokens that fit.
        context: usize,
    },
    /// No block of the KV cache is free.
    #[error("the KV cache is full ({context} tokens): load with a larger --context")]
    CacheFull {
        /// Tokens of the pool.
        context: usize,
    },
    /// A prompt without a token, or a sequence in which nothing waits to be computed.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A model that is to guess for another one has another vocabulary.
    #[error(
        "{draft} can't draft for {model}: their vocabularies differ ({difference}); give a smaller model of the same family"
    )]
    Draft {
        /// The model that was to guess.
        draft: String,
        /// The model it was to guess for.
        model: String,
        /// What is different.
        difference: String,
    },
    /// A token id the model doesn't have.
    #[error("a token id isn't in the vocabulary of {vocab}")]
    TokenId {
        /// Rows of the embedding table.
        vocab: usize,
    },
    /// The model computed something that is not a number.
    #[error("the model's numbers are not finite: its weights are damaged; get the files anew")]
    NotFinite,
    /// A parameter out of its range.
    #[error("{0}")]
    Parameter(String),
}
