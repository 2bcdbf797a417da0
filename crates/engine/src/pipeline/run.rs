//! Answering: messages → prompt → tokens → text.

use super::features::digest;
use super::hold::ThoughtBudget;
use super::spoken::{Speech, Spoken, SpokenToken};
use super::{Options, Pipeline, Request};
use crate::error::Error;
use crate::generate::{self, Finish, Generation, Progress, Timings};
use crate::scheduler::Mask;
use crate::sequence::PlacedImage;
use crate::speculate::{DRAFT_MAX, Speculator};
use medgemma_gemma::image::RgbImage;
use medgemma_gemma::text::{Encoded, Part, Prompt};
use medgemma_kernels::AnyBackend;
use std::ops::ControlFlow;

/// Budget of new tokens when a request doesn't say: the longest output the models were made for.
pub(super) const LONGEST_REPLY: usize = 8192;

/// What happens while answering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// So many images are encoded.
    Images {
        /// Images done.
        done: usize,
        /// Images in all, crops included.
        total: usize,
    },
    /// So many of the prompt's tokens are computed.
    Prompt {
        /// Tokens done.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// More of the thought.
    Thought(String),
    /// More of the answer.
    Answer(String),
}

/// How many tokens a reply took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, tokens that were computed before.
    pub cached_tokens: usize,
    /// Tokens of the reply, thought and end of turn included.
    pub completion_tokens: usize,
}

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The answer, without the thought.
    pub answer: String,
    /// The thought, when the model thought.
    pub thought: Option<String>,
    /// Whether the text ended inside the thought: then there is no answer, and a larger budget is the remedy.
    pub cut_in_thought: bool,
    /// Why the reply ended.
    pub finish: Finish,
    /// Tokens taken.
    pub usage: Usage,
    /// Time taken.
    pub timings: Timings,
    /// Each token with its log-probability, when asked for.
    pub tokens: Vec<SpokenToken>,
}

/// A token of a text that was scored.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredToken {
    /// Its id.
    pub id: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its log-probability, given the tokens before it; `None` for the first.
    pub logprob: Option<f32>,
}

type Listener<'a> = &'a mut dyn FnMut(Event) -> ControlFlow<()>;

impl Pipeline {
    /// Answers a conversation.
    ///
    /// # Errors
    /// When the messages don't fit the template, the pictures don't fit the messages or the model can't see them, or
    /// the prompt doesn't fit the context.
    pub fn chat(&mut self, request: impl Into<Request>) -> Result<Reply, Error> {
        self.chat_with(&request.into(), &mut |_| ControlFlow::Continue(()))
    }

    /// As [`Pipeline::chat`], telling `on` of everything as it happens; `on` may end the reply.
    ///
    /// # Errors
    /// As [`Pipeline::chat`].
    pub fn chat_with(&mut self, request: &Request, on: Listener<'_>) -> Result<Reply, Error> {
        let prompt = self.assets.render(request)?;
        self.reply(&prompt, &request.images, &request.options, on)
    }

    /// Continues a text, without a chat template: what pre-trained checkpoints do. Pictures stand before the text.
    ///
    /// # Errors
    /// As [`Pipeline::chat`].
    pub fn complete(
        &mut self,
        text: &str,
        images: &[RgbImage],
        options: &Options,
        on: Listener<'_>,
    ) -> Result<Reply, Error> {
        let mut parts = vec![Part::IMAGE; images.len()];
        parts.push(Part::Text(text.to_owned()));
        let prompt = Prompt::continuation(&parts, &self.assets.tokenizer)?;
        self.reply(&prompt, images, options, on)
    }

    /// Log-probabilities of a text's tokens, bos first.
    ///
    /// # Errors
    /// When the text is longer than the context.
    pub fn score(&mut self, text: &str, on: Listener<'_>) -> Result<Vec<ScoredToken>, Error> {
        let ids = Prompt::continuation(&[text.into()], &self.assets.tokenizer)?.encode(&self.assets.tokenizer)?;
        let bytes = |id: u32| self.assets.tokenizer.token_bytes(id).to_vec();
        let mut tokens: Vec<ScoredToken> =
            ids.iter().map(|id| ScoredToken { id: *id, bytes: bytes(*id), logprob: None }).collect();
        self.runner.release(&mut self.sequence);
        self.runner.start(&mut self.sequence, ids, Vec::new())?;
        let scores = generate::score(&mut self.runner, &mut self.sequence, 0, &mut |progress| match progress {
            Progress::Prompt { done, total } => on(Event::Prompt { done, total }),
            Progress::Token(_) => ControlFlow::Continue(()),
        })?;
        for (token, score) in tokens.iter_mut().skip(1).zip(scores) {
            token.logprob = score.logprob;
        }
        Ok(tokens)
    }

    /// The token ids that a request becomes, images expanded: for looking at what the model is given.
    ///
    /// # Errors
    /// As [`Pipeline::chat`].
    pub fn prompt_ids(&self, request: &Request) -> Result<Vec<u32>, Error> {
        let prompt = self.assets.render(request)?;
        let crops = self.assets.crops(&request.images, &request.options)?;
        Ok(self.assets.encode(&prompt, &crops.iter().map(Vec::len).collect::<Vec<_>>(), self.config())?.ids)
    }

    fn reply(
        &mut self,
        prompt: &Prompt,
        images: &[RgbImage],
        options: &Options,
        on: Listener<'_>,
    ) -> Result<Reply, Error> {
        let sampling = options.sampling.unwrap_or(self.assets.sampling);
        sampling.check().map_err(Error::Parameter)?;
        let crops = self.assets.crops(images, options)?;
        let counts: Vec<usize> = crops.iter().map(Vec::len).collect();
        let encoded = self.assets.encode(prompt, &counts, self.config())?;
        let context = self.context();
        if encoded.ids.len() >= context {
            return Err(Error::Context { wanted: encoded.ids.len() + 1, context });
        }
        let pictures: Vec<&RgbImage> =
            images.iter().zip(&crops).flat_map(|(image, crops)| std::iter::once(image).chain(crops)).collect();
        let Some(placed) = self.place(&pictures, &encoded, on)? else { return Ok(Reply::cancelled(encoded.ids.len())) };
        let prompt_tokens = encoded.ids.len();
        let cached_tokens = self.runner.start(&mut self.sequence, encoded.ids, placed)?;
        let room = context - prompt_tokens;
        let generation = Generation {
            max_tokens: options.max_tokens.unwrap_or(LONGEST_REPLY).min(room),
            sampling,
            stop_ids: if options.ignore_eos { Vec::new() } else { self.config().tokens.eos.clone() },
            logprobs: options.logprobs,
            detect_loops: options.detect_loops,
            draft_max: options.draft_max.unwrap_or(DRAFT_MAX),
        };
        let mut reply = self.speak(&generation, options, on)?;
        reply.usage = Usage { prompt_tokens, cached_tokens, completion_tokens: reply.timings.generated_tokens };
        Ok(reply)
    }

    /// Generates tokens and turns them into text.
    fn speak(&mut self, generation: &Generation, options: &Options, on: Listener<'_>) -> Result<Reply, Error> {
        let tokenizer = &self.assets.tokenizer;
        let mut speech = Speech::new(tokenizer, &options.stop);
        let mut budget = options.thought_budget.and_then(|tokens| ThoughtBudget::new(tokenizer, tokens));
        let mask = budget.as_mut().map(|budget| budget as &mut dyn Mask);
        let mut step = |progress: Progress<'_>| match progress {
            Progress::Prompt { done, total } => on(Event::Prompt { done, total }),
            Progress::Token(token) => {
                tell(speech.push(tokenizer, token), on)?;
                if speech.stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
        };
        let mut drafter = match &mut self.draft {
            Some(model) => Speculator::with_model(model),
            None => Speculator::default(),
        };
        let (runner, sequence) = (&mut self.runner, &mut self.sequence);
        let (finish, timings) = generate::generate_held(runner, sequence, generation, &mut drafter, mask, &mut step)?;
        let finish = if speech.stopped() { Finish::Stop } else { finish };
        let cut_in_thought = speech.in_thought();
        // The listener may have had enough already; there is nothing left to end.
        let _ = tell(speech.finish(), on);
        Ok(Reply {
            answer: speech.answer,
            thought: speech.thinks.then_some(speech.thought),
            cut_in_thought,
            finish,
            usage: Usage::default(),
            timings,
            tokens: speech.tokens,
        })
    }

    /// Encodes the pictures that aren't kept; `None` when the listener ended it.
    fn place(
        &mut self,
        pictures: &[&RgbImage],
        encoded: &Encoded,
        on: Listener<'_>,
    ) -> Result<Option<Vec<PlacedImage<AnyBackend>>>, Error> {
        let total = pictures.len();
        let mut placed = Vec::with_capacity(total);
        for (done, (picture, positions)) in pictures.iter().zip(&encoded.pictures).enumerate() {
            if on(Event::Images { done, total }).is_break() {
                return Ok(None);
            }
            let digest = digest(picture);
            let features = match self.features.get(&digest) {
                Some(features) => features,
                None => {
                    let preprocessor = self.assets.preprocessor.as_ref().ok_or(medgemma_gemma::Error::NoVision)?;
                    let features = self.runner.encode_image(&preprocessor.pixel_values(picture))?;
                    self.features.put(digest, &features);
                    features
                }
            };
            placed.push(PlacedImage { positions: positions.clone(), features, digest });
        }
        match total > 0 && on(Event::Images { done: total, total }).is_break() {
            true => Ok(None),
            false => Ok(Some(placed)),
        }
    }
}

impl Reply {
    /// A reply that was ended before it began.
    fn cancelled(prompt_tokens: usize) -> Self {
        Self {
            answer: String::new(),
            thought: None,
            cut_in_thought: false,
            finish: Finish::Cancelled,
            usage: Usage { prompt_tokens, ..Usage::default() },
            timings: Timings::default(),
            tokens: Vec::new(),
        }
    }
}

fn tell(spoken: Vec<Spoken>, on: Listener<'_>) -> ControlFlow<()> {
    for piece in spoken {
        on(match piece {
            Spoken::Thought(text) => Event::Thought(text),
            Spoken::Answer(text) => Event::Answer(text),
        })?;
    }
    ControlFlow::Continue(())
}
