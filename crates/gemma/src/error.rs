//! Why a model can't be built or used.

/// An error of the model's files, inputs or use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file couldn't be read.
    #[error(transparent)]
    Formats(#[from] medgemma_formats::Error),
    /// The backend couldn't hold or compute something.
    #[error("{0}")]
    Backend(Box<dyn std::error::Error + Send + Sync>),
    /// A field of the configuration is missing, out of range or of an unsupported kind.
    #[error("{file}: {field}: {problem}")]
    Config {
        /// The file.
        file: String,
        /// The field or key.
        field: String,
        /// What is wrong, and the remedy where there is one.
        problem: String,
    },
    /// A tensor of the checkpoint is missing or of another shape than the configuration says.
    #[error("{checkpoint}: tensor {name}: {problem}")]
    Weights {
        /// The checkpoint.
        checkpoint: String,
        /// The tensor's name as the checkpoint spells it.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// An image was given to a model without an image encoder.
    #[error(
        "this model can't see: its checkpoint has no image encoder (a GGUF needs its mmproj file beside it or --mmproj; \
         medgemma-27b-text-it has none)"
    )]
    NoVision,
    /// Pixels of another size than the encoder's.
    #[error("an image of {found} values where the encoder takes {wanted}")]
    Pixels {
        /// Values given.
        found: usize,
        /// Values the encoder takes.
        wanted: usize,
    },
    /// A picture, or the settings for preparing pictures.
    #[error("{name}: {problem}")]
    Image {
        /// What the caller calls it.
        name: String,
        /// What is wrong, and the remedy.
        problem: String,
    },
    /// A tokenizer is malformed, or of a kind that Gemma 3 doesn't use.
    #[error("{file}: {field}: {problem}")]
    Tokenizer {
        /// The file.
        file: String,
        /// The field or key.
        field: String,
        /// What is wrong with it, and the remedy where there is one.
        problem: String,
    },
    /// A chat template is malformed, or refuses or fails on a conversation.
    #[error("{file}: {problem}")]
    Template {
        /// The file it came from.
        file: String,
        /// What is wrong, without anything that the messages say.
        problem: String,
    },
    /// Messages are malformed or can't be used.
    #[error("{field}: {problem}")]
    Messages {
        /// The field, such as `messages[0].content`.
        field: String,
        /// What is wrong with it, without anything that it says.
        problem: String,
    },
    /// A prompt doesn't fit the model or the images given with it.
    #[error("{problem}")]
    Prompt {
        /// What is wrong, and the remedy.
        problem: String,
    },
    /// A file that can't be written where it was asked for.
    #[error("{}: {problem}", path.display())]
    Output {
        /// The file.
        path: std::path::PathBuf,
        /// Why, and the remedy.
        problem: String,
    },
    /// The caller broke off.
    #[error("interrupted")]
    Interrupted,
}
