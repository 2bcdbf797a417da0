//! What a caller asks for.

use medgemma_gemma::image::RgbImage;
use medgemma_gemma::sampler::Sampling;
use medgemma_gemma::text::{Message, Part, Role};

/// Messages with their pictures, and how to answer them.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The conversation so far; the last message is the user's.
    pub messages: Vec<Message>,
    /// A picture for each image part of the messages, in order.
    pub images: Vec<RgbImage>,
    /// How to answer.
    pub options: Options,
}

/// How to answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Most new tokens, the thought's included; as many as fit the context when `None`, at most 8,192.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen; as the checkpoint's authors publish when `None`.
    pub sampling: Option<Sampling>,
    /// Ask the model to think before it answers (1.5-4b-it, 27b-it, 27b-text-it were trained to).
    pub think: bool,
    /// Most tokens of the thought: then it is ended, and the answer follows. No bound of its own when `None`.
    pub thought_budget: Option<usize>,
    /// Strings that end the answer; they aren't part of it. Not looked for in the thought.
    pub stop: Vec<String>,
    /// Report log-probabilities, with this many alternatives to each token.
    pub logprobs: Option<usize>,
    /// Add crops of oblong pictures, for details; `None` as the checkpoint's settings say.
    pub pan_and_scan: Option<bool>,
    /// End an answer that repeats itself without end.
    pub detect_loops: bool,
    /// Go on when the model ends its turn, until the budget is used up.
    pub ignore_eos: bool,
    /// Most tokens that are guessed and verified in one step (see [`speculate`](crate::speculate)): the answer doesn't
    /// depend on it, its speed does. 0 to guess none, 15 at most; as many as pay when `None`. Draws are never guessed.
    pub draft_max: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_tokens: None,
            sampling: None,
            think: false,
            thought_budget: None,
            stop: Vec::new(),
            logprobs: None,
            pan_and_scan: None,
            detect_loops: true,
            ignore_eos: false,
            draft_max: None,
        }
    }
}

impl Request {
    /// A request to go on with a conversation.
    pub fn new(messages: impl IntoIterator<Item = Message>) -> Self {
        Self { messages: messages.into_iter().collect(), ..Self::default() }
    }

    /// Puts a picture into the last message of the user, before its text.
    #[must_use]
    pub fn image(mut self, picture: RgbImage) -> Self {
        match self.messages.iter_mut().rev().find(|m| m.role == Role::User) {
            Some(message) => {
                let at = message.images();
                message.content.insert(at, Part::IMAGE);
            }
            None => self.messages.push(Message::new(Role::User, [Part::IMAGE])),
        }
        self.images.push(picture);
        self
    }

    /// Puts a role instruction before the conversation.
    #[must_use]
    pub fn system(mut self, text: impl Into<String>) -> Self {
        self.messages.insert(0, Message::system(text));
        self
    }

    /// Limits the number of new tokens.
    #[must_use]
    pub fn max_tokens(mut self, tokens: usize) -> Self {
        self.options.max_tokens = Some(tokens);
        self
    }

    /// Always takes the most likely token.
    #[must_use]
    pub fn greedy(mut self) -> Self {
        self.options.sampling = Some(Sampling::GREEDY);
        self
    }

    /// Chooses tokens in this way.
    #[must_use]
    pub fn sampling(mut self, sampling: Sampling) -> Self {
        self.options.sampling = Some(sampling);
        self
    }

    /// Asks the model to think first.
    #[must_use]
    pub fn think(mut self) -> Self {
        self.options.think = true;
        self
    }

    /// Sets all options at once.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }
}

impl From<&str> for Request {
    fn from(question: &str) -> Self {
        Self::new([Message::user(question)])
    }
}

impl From<Message> for Request {
    fn from(message: Message) -> Self {
        Self::new([message])
    }
}

impl From<Vec<Message>> for Request {
    fn from(messages: Vec<Message>) -> Self {
        Self::new(messages)
    }
}
