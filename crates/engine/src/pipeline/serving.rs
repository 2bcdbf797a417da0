//! Many requests at once: [`Frontend`] turns them into tokens, on any thread; [`Serving`] computes them together and
//! turns tokens into text.

use super::assets::Assets;
use super::features::{FeatureCache, digest};
use super::hold::ThoughtBudget;
use super::run::LONGEST_REPLY;
use super::spoken::{Speech, Spoken, SpokenToken};
use super::{Options, Pipeline, Request};
use crate::error::Error;
use crate::generate::{Finish, Generation, NewToken, Timings};
use crate::runner::{Runner, RunnerConfig};
use crate::scheduler::{Mask, Occupancy, Scheduler, SchedulerConfig, Task, Ticket, Update};
use crate::sequence::PlacedImage;
use medgemma_gemma::Config;
use medgemma_gemma::image::RgbImage;
use medgemma_gemma::sampler::Sampling;
use medgemma_gemma::text::{Part, Prompt, Tokenizer};
use medgemma_kernels::{AnyBackend, Backend};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Sizes of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServingOptions {
    /// Conversations as long as the context that there is room for at once; more of them when they are shorter.
    pub conversations: usize,
    /// Most requests that are computed together; others wait.
    pub running: usize,
    /// Of these, most of one owner.
    pub of_one: usize,
    /// Tokens of prompts in a step, beside one token of each answer that is being written.
    pub prompt_tokens_beside: usize,
}

impl Default for ServingOptions {
    fn default() -> Self {
        Self { conversations: 4, running: 16, of_one: 16, prompt_tokens_beside: 128 }
    }
}

/// What turns requests into tokens. It is shared by threads; nothing in it changes.
#[derive(Clone)]
pub struct Frontend(Arc<Shared>);

struct Shared {
    name: String,
    assets: Assets,
    config: Config,
    context: usize,
    device: String,
}

/// A request, ready to be computed.
pub struct Prepared {
    ids: Vec<u32>,
    pictures: Vec<Picture>,
    generation: Generation,
    stops: Vec<String>,
    prompt_logprobs: Option<usize>,
    masks: Vec<Box<dyn Mask>>,
    plain: bool,
}

struct Picture {
    positions: Range<usize>,
    digest: [u8; 32],
    values: Arc<Vec<f32>>,
}

/// What is said of a request.
#[derive(Debug)]
pub enum Said {
    /// Its prompt is being computed.
    Begun {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Of these, tokens that were computed before.
        cached_tokens: usize,
    },
    /// Its prompt's tokens, scored.
    Scores(Vec<PromptToken>),
    /// A token came; the texts that can be shown now may be empty.
    Token {
        /// More of the thought.
        thought: String,
        /// More of the answer.
        answer: String,
        /// The token with its log-probability, when asked for.
        token: Option<SpokenToken>,
        /// Whether it belongs to the thought (markers included).
        thinks: bool,
    },
    /// It has ended.
    Ended(Ending),
    /// It can't be answered.
    Failed(Error),
}

/// A token of a prompt that was scored.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptToken {
    /// Its id.
    pub id: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its log-probability, given the tokens before it; `None` for the first.
    pub logprob: Option<f32>,
    /// The most likely tokens in its place: id, bytes and log-probability, most likely first.
    pub top: Vec<(u32, Vec<u8>, f32)>,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    /// The last of the thought.
    pub thought: String,
    /// The last of the answer.
    pub answer: String,
    /// Whether it ended inside the thought.
    pub cut_in_thought: bool,
    /// Why.
    pub finish: Finish,
    /// The stop string that came.
    pub stop: Option<String>,
    /// The token that ended the text, with its log-probability, where one came and that was asked for.
    pub token: Option<Box<SpokenToken>>,
    /// Tokens and time taken.
    pub timings: Timings,
}

impl Frontend {
    /// What the model was loaded as.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.0.assets.tokenizer
    }

    /// Most tokens of a conversation.
    pub fn context(&self) -> usize {
        self.0.context
    }

    /// What computes.
    pub fn device(&self) -> &str {
        &self.0.device
    }

    /// Whether the model takes images.
    pub fn can_see(&self) -> bool {
        self.0.config.vision.is_some()
    }

    /// Whether the checkpoint has a chat template.
    pub fn can_chat(&self) -> bool {
        self.0.assets.template.is_some()
    }

    /// The checkpoint's chat template, as it is written in Jinja.
    pub fn chat_template(&self) -> Option<String> {
        self.0.assets.template.as_ref().map(|template| template.source())
    }

    /// How tokens are chosen when a request doesn't say.
    pub fn default_sampling(&self) -> Sampling {
        self.0.assets.sampling
    }

    /// Prepares a conversation to be answered.
    ///
    /// # Errors
    /// As [`Pipeline::chat`].
    pub fn chat(&self, request: &Request) -> Result<Prepared, Error> {
        let prompt = self.0.assets.render(request)?;
        self.prepare(&prompt, &request.images, &request.options, false)
    }

    /// Prepares a text to be continued, with pictures before it.
    ///
    /// # Errors
    /// As [`Pipeline::complete`].
    pub fn complete(&self, text: &str, images: &[RgbImage], options: &Options) -> Result<Prepared, Error> {
        let mut parts = vec![Part::IMAGE; images.len()];
        parts.push(Part::Text(text.to_owned()));
        let prompt = Prompt::continuation(&parts, self.tokenizer())?;
        self.prepare(&prompt, images, options, true)
    }

    /// Prepares token ids to be continued, as they are.
    ///
    /// # Errors
    /// When there are none, too many, or one isn't in the vocabulary.
    pub fn continue_ids(&self, ids: Vec<u32>, options: &Options) -> Result<Prepared, Error> {
        let vocab = self.0.config.text.vocab;
        if ids.iter().any(|id| *id as usize >= vocab) {
            return Err(Error::TokenId { vocab });
        }
        self.ready(ids, Vec::new(), options, true)
    }

    /// The token ids of a conversation's prompt, images expanded.
    ///
    /// # Errors
    /// As [`Pipeline::chat`].
    pub fn prompt_ids(&self, request: &Request) -> Result<Vec<u32>, Error> {
        Ok(self.chat(request)?.ids)
    }

    fn prepare(&self, prompt: &Prompt, images: &[RgbImage], options: &Options, plain: bool) -> Result<Prepared, Error> {
        let assets = &self.0.assets;
        let crops = assets.crops(images, options)?;
        let encoded = assets.encode(prompt, &crops.iter().map(Vec::len).collect::<Vec<_>>(), &self.0.config)?;
        // Before pixels are worked on: a prompt that is too long is refused at once.
        self.check_length(encoded.ids.len())?;
        let pictures = images.iter().zip(&crops).flat_map(|(image, crops)| std::iter::once(image).chain(crops));
        let preprocessor = assets.preprocessor.as_ref();
        let pictures = pictures.zip(encoded.pictures).map(|(picture, positions)| {
            let values = preprocessor.ok_or(medgemma_gemma::Error::NoVision)?.pixel_values(picture);
            Ok(Picture { positions, digest: digest(picture), values: Arc::new(values) })
        });
        let pictures = pictures.collect::<Result<_, Error>>()?;
        self.ready(encoded.ids, pictures, options, plain)
    }

    fn check_length(&self, tokens: usize) -> Result<(), Error> {
        let context = self.context();
        match tokens {
            0 => Err(Error::EmptyPrompt),
            tokens if tokens >= context => Err(Error::Context { wanted: tokens + 1, context }),
            _ => Ok(()),
        }
    }

    fn ready(&self, ids: Vec<u32>, pictures: Vec<Picture>, options: &Options, plain: bool) -> Result<Prepared, Error> {
        self.check_length(ids.len())?;
        let sampling = options.sampling.unwrap_or(self.0.assets.sampling);
        sampling.check().map_err(Error::Parameter)?;
        let generation = Generation {
            max_tokens: options.max_tokens.unwrap_or(LONGEST_REPLY).min(self.context() - ids.len()),
            sampling,
            stop_ids: if options.ignore_eos { Vec::new() } else { self.0.config.tokens.eos.clone() },
            logprobs: options.logprobs,
            detect_loops: options.detect_loops,
            draft_max: 0,
        };
        let stops = options.stop.clone();
        let budget = options.thought_budget.and_then(|tokens| ThoughtBudget::new(self.tokenizer(), tokens));
        let masks = budget.into_iter().map(|budget| Box::new(budget) as Box<dyn Mask>).collect();
        Ok(Prepared { ids, pictures, generation, stops, prompt_logprobs: None, masks, plain })
    }
}

impl Prepared {
    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.ids.len()
    }

    /// Whether it holds pictures, which take megabytes until they are encoded.
    pub fn has_pictures(&self) -> bool {
        !self.pictures.is_empty()
    }

    /// The prompt's token ids.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Scores the prompt's tokens, too, with this many alternatives to each.
    #[must_use]
    pub fn scored(mut self, count: usize) -> Self {
        self.prompt_logprobs = Some(count);
        self
    }

    /// Holds the answer to a form, or changes how tokens are chosen; after what it was given before.
    #[must_use]
    pub fn held_to(mut self, mask: Box<dyn Mask>) -> Self {
        self.masks.push(mask);
        self
    }

    /// The same request, drawn with another seed.
    #[must_use]
    pub fn with_seed(&self, seed: u64) -> Self {
        let pictures = self.pictures.iter().map(|p| Picture {
            positions: p.positions.clone(),
            digest: p.digest,
            values: Arc::clone(&p.values),
        });
        let mut generation = self.generation.clone();
        generation.sampling.seed = seed;
        Self {
            ids: self.ids.clone(),
            pictures: pictures.collect(),
            generation,
            stops: self.stops.clone(),
            prompt_logprobs: self.prompt_logprobs,
            masks: self.masks.iter().map(|mask| mask.fork()).collect(),
            plain: self.plain,
        }
    }
}

/// Computes requests together.
pub struct Serving<B: Backend> {
    frontend: Frontend,
    scheduler: Scheduler<B>,
    features: FeatureCache<B>,
    talks: HashMap<Ticket, Talk>,
}

/// The text of a request in the making.
struct Talk {
    speech: Speech,
    stops: Vec<String>,
    prompt: Vec<u32>,
    tokens: usize,
}

impl Pipeline {
    /// Makes a server of the model, which answers many requests at once.
    ///
    /// # Errors
    /// When memory for the conversations can't be had.
    pub fn into_serving(self, options: &ServingOptions) -> Result<Serving<AnyBackend>, Error> {
        let Self { name, assets, runner, .. } = self;
        Serving::new(name, assets, runner, options)
    }
}

impl<B: Backend> Serving<B> {
    fn new(name: String, assets: Assets, runner: Runner<B>, options: &ServingOptions) -> Result<Self, Error> {
        let (running, made) = (options.running.max(1), runner.config());
        let model = runner.into_model();
        let config = model.config().clone();
        let image = config.vision.as_ref().map_or(1, |v| v.tokens_per_image);
        let sizes = RunnerConfig {
            sequences: options.conversations.max(1),
            chunk: made.chunk.max(running + image),
            outputs: running,
            ..made
        };
        let device = model.backend().name();
        let runner = Runner::new(model, sizes)?;
        let scheduling = SchedulerConfig {
            running,
            of_one: options.of_one.max(1),
            step_tokens: sizes.chunk,
            prompt_tokens_beside: options.prompt_tokens_beside,
            kept: running,
        };
        let shared = Shared { name, assets, config, context: made.context, device };
        Ok(Self {
            frontend: Frontend(Arc::new(shared)),
            scheduler: Scheduler::new(runner, scheduling)?,
            features: FeatureCache::default(),
            talks: HashMap::new(),
        })
    }

    /// What prepares requests for this server.
    pub fn frontend(&self) -> Frontend {
        self.frontend.clone()
    }

    /// How busy it is.
    pub fn occupancy(&self) -> Occupancy {
        self.scheduler.occupancy()
    }

    /// Whether there is nothing to compute.
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle()
    }

    /// Puts a request at the end of the queue; its images are encoded now, but for those that were before. `owner` says
    /// whose it is (see [`Task::owner`]).
    ///
    /// # Errors
    /// When an image can't be encoded, or as [`Scheduler::submit`].
    pub fn submit(&mut self, request: Prepared, owner: u64) -> Result<Ticket, Error> {
        let mut images = Vec::with_capacity(request.pictures.len());
        for Picture { positions, digest, values } in request.pictures {
            let features = match self.features.get(&digest) {
                Some(features) => features,
                None => {
                    let features = self.scheduler.runner().encode_image(&values)?;
                    self.features.put(digest, &features);
                    features
                }
            };
            images.push(PlacedImage { positions, features, digest });
        }
        let tokenizer = self.frontend.tokenizer();
        let speech = match request.plain {
            true => Speech::plain(tokenizer, &request.stops),
            false => Speech::new(tokenizer, &request.stops),
        };
        let prompt = if request.prompt_logprobs.is_some() { request.ids.clone() } else { Vec::new() };
        let tokens = request.ids.len();
        let ticket = self.scheduler.submit(Task {
            tokens: request.ids,
            images,
            generation: request.generation,
            prompt_logprobs: request.prompt_logprobs,
            masks: request.masks,
            owner,
        })?;
        let stops = request.stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        self.talks.insert(ticket, Talk { speech, stops, prompt, tokens });
        Ok(ticket)
    }

    /// Ends a request; nothing more is said of it.
    pub fn cancel(&mut self, ticket: Ticket) {
        self.scheduler.cancel(ticket);
        self.talks.remove(&ticket);
    }

    /// Forgets what was computed for requests that have ended.
    pub fn forget(&mut self) {
        self.scheduler.forget();
        self.features.clear();
    }

    /// Computes one step.
    pub fn step(&mut self) -> Vec<(Ticket, Said)> {
        let mut said = Vec::new();
        let mut stopped: Vec<(Ticket, usize)> = Vec::new();
        let frontend = self.frontend.clone();
        let tokenizer = frontend.tokenizer();
        for (ticket, update) in self.scheduler.step() {
            // One that a stop string has ended in this step is told nothing more.
            let Some(talk) = self.talks.get_mut(&ticket) else { continue };
            let what = match update {
                Update::Begun { cached } => Said::Begun { prompt_tokens: talk.tokens, cached_tokens: cached },
                Update::Scores(scores) => Said::Scores(scored(tokenizer, &talk.prompt, scores)),
                Update::Token(token) => {
                    let thought_before = talk.speech.in_thought();
                    let (thought, answer) = split(talk.speech.push(tokenizer, &token));
                    let thinks = thought_before || talk.speech.in_thought();
                    said.push((ticket, Said::Token { thought, answer, token: talk.speech.tokens.pop(), thinks }));
                    if let Some(stop) = talk.speech.stop_found() {
                        stopped.push((ticket, stop));
                    }
                    continue;
                }
                Update::Ended { finish, timings, token } => {
                    let thought = talk.speech.in_thought();
                    let ended = match stopped.iter().find(|(other, _)| *other == ticket) {
                        // The stop string came with the last token.
                        Some((_, stop)) => talk.end(Finish::Stop, Some(*stop), timings),
                        None => talk.end(finish, None, timings),
                    };
                    let spoken = |token: NewToken| Some(SpokenToken::new(tokenizer, &token, token.logprob?, thought));
                    let ended = Ending { token: token.and_then(spoken).map(Box::new), ..ended };
                    self.talks.remove(&ticket);
                    Said::Ended(ended)
                }
                Update::Failed(error) => {
                    self.talks.remove(&ticket);
                    Said::Failed(error)
                }
            };
            said.push((ticket, what));
        }
        for (ticket, stop) in stopped {
            if let Some(mut talk) = self.talks.remove(&ticket) {
                let timings = self.scheduler.timings(ticket).unwrap_or_default();
                said.push((ticket, Said::Ended(talk.end(Finish::Stop, Some(stop), timings))));
                self.scheduler.cancel(ticket);
            }
        }
        said
    }
}

impl Talk {
    fn end(&mut self, finish: Finish, stop: Option<usize>, timings: Timings) -> Ending {
        let cut_in_thought = self.speech.in_thought();
        let (thought, answer) = split(self.speech.finish());
        let stop = stop.and_then(|stop| self.stops.get(stop).cloned());
        Ending { thought, answer, cut_in_thought, finish, stop, token: None, timings }
    }
}

/// The thought and the answer of what can be shown.
fn split(spoken: Vec<Spoken>) -> (String, String) {
    let (mut thought, mut answer) = (String::new(), String::new());
    for piece in spoken {
        match piece {
            Spoken::Thought(text) => thought.push_str(&text),
            Spoken::Answer(text) => answer.push_str(&text),
        }
    }
    (thought, answer)
}

/// A prompt's tokens with their scores, the first one without.
fn scored(tokenizer: &Tokenizer, prompt: &[u32], scores: Vec<NewToken>) -> Vec<PromptToken> {
    let bytes = |id: u32| tokenizer.token_bytes(id).to_vec();
    let first = prompt.first().map(|id| PromptToken { id: *id, bytes: bytes(*id), logprob: None, top: Vec::new() });
    let rest = scores.into_iter().map(|token| {
        let top = token.top.iter().map(|t| (t.id, bytes(t.id), t.logprob)).collect();
        PromptToken { id: token.id, bytes: bytes(token.id), logprob: token.logprob, top }
    });
    first.into_iter().chain(rest).collect()
}
