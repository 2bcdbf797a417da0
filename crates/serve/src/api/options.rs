//! What several routes ask alike: how tokens are chosen, how many there may be, what an answer is held to.

use crate::config::Config;
use crate::failure::Failure;
use crate::fields::{Fields, within};
use crate::form::Form;
use crate::server::Shared;
use crate::tools::Tools;
use medgemma_engine::Options;
use medgemma_engine::pipeline::{Frontend, Penalized, Prepared};
use medgemma_gemma::sampler::{Penalties, Sampling};
use serde_json::Value;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

/// Most stop strings, and the longest.
const STOPS: usize = 16;
const STOP_LENGTH: usize = 1024;
/// Most answers to one request.
const ANSWERS: usize = 16;
/// Most alternatives to a token.
pub(super) const ALTERNATIVES: usize = 20;
/// Most tokens with a bias.
const BIASES: usize = 1024;
/// Tokens of the thought by OpenAI's words for how hard a model is to think; at most what the answer may have where
/// there is none.
const LOW: usize = 1024;
const MEDIUM: usize = 4096;

/// What an answer is held to, besides its length.
#[derive(Clone, Default)]
pub(super) struct Hold {
    pub(super) form: Option<Form>,
    /// Functions that it may call.
    pub(super) tools: Option<Tools>,
    pub(super) penalties: Penalties,
}

impl Hold {
    /// Holds an answer; a thought before it is free of the form.
    pub(super) fn apply(self, mut prepared: Prepared, think: bool, shared: &Shared) -> Result<Prepared, Failure> {
        let ready = shared.ready()?;
        if !self.penalties.is_none() {
            let vocab = ready.frontend.config().text.vocab;
            let penalized = Penalized::new(self.penalties, prepared.ids(), vocab)?;
            prepared = prepared.held_to(Box::new(penalized));
        }
        if let Some(form) = self.form {
            prepared = prepared.held_to(ready.forms()?.mask(form, think)?);
        }
        if let Some(tools) = &self.tools {
            prepared = prepared.held_to(ready.forms()?.calls(tools, think)?);
        }
        Ok(prepared)
    }
}

/// How a model is to think.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Thinking {
    /// Whether it is asked to.
    pub(super) asked: bool,
    /// Most tokens that it may take.
    pub(super) budget: Option<usize>,
}

impl Thinking {
    /// By OpenAI's word for how hard.
    pub(super) fn effort(fields: &Fields, name: &str) -> Result<Option<Self>, Failure> {
        let budget = match fields.text(name)? {
            None => return Ok(None),
            Some("none" | "minimal") => return Ok(Some(Self::default())),
            Some("low") => Some(LOW),
            Some("medium") => Some(MEDIUM),
            Some("high" | "xhigh" | "max") => None,
            Some(_) => return Err(fields.wrong(name, "it must be none, minimal, low, medium, high, xhigh or max")),
        };
        Ok(Some(Self { asked: true, budget }))
    }

    /// With a budget of its own, where there is one; without a token there is no thought.
    pub(super) fn within(self, budget: Option<usize>) -> Self {
        let budget = budget.or(self.budget);
        Self { asked: self.asked && budget != Some(0), budget }
    }
}

/// A budget of tokens; a negative one is none.
pub(super) fn tokens(fields: &Fields, name: &str) -> Result<Option<usize>, Failure> {
    Ok(fields.integer(name)?.and_then(|tokens| usize::try_from(tokens).ok()))
}

/// What OpenAI's routes that write texts ask alike.
pub(super) struct Writing {
    pub(super) options: Options,
    pub(super) hold: Hold,
    /// Answers to each prompt.
    pub(super) answers: usize,
    pub(super) stream: bool,
    pub(super) with_usage: bool,
}

impl Writing {
    /// Reads it; the budget of tokens, the thought and log-probabilities are each route's own.
    pub(super) fn of(fields: &Fields, form: Option<Form>, frontend: &Frontend) -> Result<Self, Failure> {
        for name in ["best_of", "suffix", "audio", "grammar"] {
            fields.refuse(name, "it isn't supported")?;
        }
        let ignore_eos = fields.flag("ignore_eos")?.unwrap_or(false);
        if ignore_eos && form.is_some() {
            return Err(fields.wrong("ignore_eos", "an answer that is held to a form ends where its form does"));
        }
        let options = Options {
            sampling: Some(sampling(fields, frontend)?),
            stop: stops(fields, "stop")?,
            ignore_eos,
            // Who asks for so many tokens whatever they are gets them.
            detect_loops: !ignore_eos,
            ..Options::default()
        };
        let penalties = penalties(fields, "repetition_penalty", frontend)?;
        fields.get("user");
        Ok(Self {
            options,
            hold: Hold { form, penalties, ..Hold::default() },
            answers: fields.count("n", 1, ANSWERS)?.unwrap_or(1),
            stream: fields.flag("stream")?.unwrap_or(false),
            with_usage: fields.object("stream_options")?.flag("include_usage")?.unwrap_or(false),
        })
    }

    /// The seed of the first answer.
    pub(super) fn seed(&self) -> u64 {
        self.options.sampling.map_or(0, |sampling| sampling.seed)
    }
}

/// How tokens are chosen: what a request doesn't say is as the checkpoint's authors publish it, but for the seed.
pub(super) fn sampling(fields: &Fields, frontend: &Frontend) -> Result<Sampling, Failure> {
    let usual = frontend.default_sampling();
    let seed = match fields.get("seed").and_then(Value::as_u64) {
        Some(seed) => seed,
        None => fields.integer("seed")?.map_or_else(random, |seed| seed as u64),
    };
    let sampling = Sampling {
        temperature: fields.number("temperature", &Sampling::TEMPERATURE)?.unwrap_or(usual.temperature),
        top_k: fields.integer("top_k")?.map_or(usual.top_k, |k| usize::try_from(k).unwrap_or(0)),
        top_p: fields.number("top_p", &Sampling::SHARE)?.unwrap_or(usual.top_p),
        min_p: fields.number("min_p", &Sampling::SHARE)?.unwrap_or(usual.min_p),
        seed,
    };
    match sampling.top_p == 0.0 {
        true => Err(fields.wrong("top_p", "it must be above 0 and at most 1")),
        false => Ok(sampling),
    }
}

/// What makes tokens more or less likely; `repetition` is the name of the one that OpenAI hasn't.
pub(super) fn penalties(fields: &Fields, repetition: &str, frontend: &Frontend) -> Result<Penalties, Failure> {
    let bias = match fields.get("logit_bias") {
        None => Vec::new(),
        Some(Value::Object(map)) if map.len() <= BIASES => {
            let problem =
                || fields.wrong("logit_bias", "it must give token ids of the vocabulary numbers from -100 to 100");
            let vocab = frontend.config().text.vocab;
            let given = map.iter().map(|(id, value)| bias(id, value, vocab).ok_or_else(problem));
            let given: Vec<(u32, f32)> = given.collect::<Result<_, _>>()?;
            let ids: HashSet<u32> = given.iter().map(|(id, _)| *id).collect();
            match ids.len() == given.len() {
                true => given,
                false => return Err(fields.wrong("logit_bias", "it names a token twice")),
            }
        }
        Some(_) => return Err(fields.wrong("logit_bias", format!("it must be an object of at most {BIASES} tokens"))),
    };
    Ok(Penalties {
        presence: fields.number("presence_penalty", &Penalties::ADDED)?.unwrap_or(0.0),
        frequency: fields.number("frequency_penalty", &Penalties::ADDED)?.unwrap_or(0.0),
        repetition: fields.number(repetition, &Penalties::REPETITION)?.unwrap_or(1.0),
        bias,
    })
}

/// A token and its bias, where it is one.
fn bias(id: &str, value: &Value, vocab: usize) -> Option<(u32, f32)> {
    let digits = id.bytes().all(|byte| byte.is_ascii_digit());
    let id = id.parse().ok().filter(|id| digits && (*id as usize) < vocab)?;
    Some((id, within(value, &Penalties::BIAS)?))
}

/// Strings that end an answer.
pub(super) fn stops(fields: &Fields, name: &str) -> Result<Vec<String>, Failure> {
    let stops = fields.texts(name, STOPS)?;
    match stops.iter().any(|stop| stop.len() > STOP_LENGTH) {
        true => Err(fields.wrong(name, format!("longer than {STOP_LENGTH} bytes"))),
        false => Ok(stops),
    }
}

/// The budget of new tokens: the smallest of what is asked for and the server's limit.
pub(super) fn budget(fields: &Fields, names: &[&str], least: usize, config: &Config) -> Result<usize, Failure> {
    let mut budget = config.max_tokens;
    for name in names {
        if let Some(asked) = fields.count(name, least, usize::MAX)? {
            budget = budget.min(asked);
        }
    }
    Ok(budget)
}

/// A random number.
pub(super) fn random() -> u64 {
    // Each RandomState has keys of its own, from the system's randomness at first.
    RandomState::new().hash_one(0u8)
}
