//! The public API: from messages and pictures to text.
//!
//! ```
//! use medgemma_engine::Pipeline;
//!
//! let mut pipeline = Pipeline::load("demo")?;
//! let reply = pipeline.chat("What is a pleural effusion?")?;
//! println!("{}", reply.answer);
//! # Ok::<(), medgemma_engine::Error>(())
//! ```

mod assets;
mod features;
mod hold;
mod load;
mod prepare;
mod request;
mod run;
mod serving;
mod spoken;

pub use hold::{Penalized, ThoughtBudget};
pub use load::{CARD_CHUNK, CHUNK, LoadOptions, Opened, Quant};
pub(crate) use load::{MOST_THREADS, OUTPUTS};
pub use request::{Options, Request};
pub use run::{Event, Reply, ScoredToken, Usage};
pub use serving::{Ending, Frontend, Prepared, PromptToken, Said, Serving, ServingOptions};
pub use spoken::SpokenToken;

use crate::runner::Runner;
use crate::sequence::Sequence;
use crate::speculate::DraftModel;
use assets::Assets;
use features::FeatureCache;
use medgemma_gemma::Config;
use medgemma_gemma::sampler::Sampling;
use medgemma_gemma::text::Tokenizer;
use medgemma_kernels::{AnyBackend, Backend};

/// A loaded model with everything that turns messages into tokens and tokens into text.
///
/// It answers one request at a time, and remembers what it computed: a conversation that goes on computes only what is
/// new in it.
pub struct Pipeline {
    name: String,
    assets: Assets,
    runner: Runner<AnyBackend>,
    sequence: Sequence<AnyBackend>,
    features: FeatureCache<AnyBackend>,
    /// A smaller model that guesses for this one.
    draft: Option<DraftModel<AnyBackend>>,
}

impl Pipeline {
    /// What the model was loaded as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        self.runner.model().config()
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.assets.tokenizer
    }

    /// Whether the model takes images.
    pub fn can_see(&self) -> bool {
        self.config().vision.is_some()
    }

    /// Whether the checkpoint has a chat template. A pre-trained one has none: it continues text
    /// (see [`Pipeline::complete`]).
    pub fn can_chat(&self) -> bool {
        self.assets.template.is_some()
    }

    /// Whether the model is the one inside the program: a toy, trained on synthetic pictures.
    pub fn is_demo(&self) -> bool {
        self.name == medgemma_gemma::locate::DEMO
    }

    /// How tokens are chosen when a request doesn't say: what the checkpoint's authors publish.
    pub fn default_sampling(&self) -> Sampling {
        self.assets.sampling
    }

    /// Most tokens of a conversation, prompt and answers.
    pub fn context(&self) -> usize {
        self.runner.config().context
    }

    /// Bytes of the packed weights.
    pub fn weight_bytes(&self) -> usize {
        self.runner.model().weight_bytes()
    }

    /// What computes, such as `cpu (AVX-512 VNNI, 2 threads)`.
    pub fn device(&self) -> String {
        self.runner.model().backend().name()
    }

    /// Forgets what was computed for the last conversation.
    pub fn forget(&mut self) {
        self.runner.release(&mut self.sequence);
        self.features.clear();
        if let Some(draft) = &mut self.draft {
            draft.forget();
        }
    }
}
