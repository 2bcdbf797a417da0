//! From what was typed to a model that can be asked.

use crate::args::{Kv, Load, Quant};
use crate::catalog::Variant;
use crate::conversation::{Turn, for_engine};
use crate::interrupt;
use crate::machine::{self, Memory};
use crate::packed;
use crate::terminal::{AnswerView, LoadBar, bytes, say_note};
use anyhow::{Context, Result, anyhow, bail};
use medgemma_engine::footprint::{self, USUAL_CONTEXT};
use medgemma_engine::{Checkpoint, Event, LoadOptions, Opened, Options, Pipeline, Placed, Reply};
use medgemma_formats::DType;
use medgemma_gemma::Weights;
use medgemma_gemma::locate::{self, DEMO, Located, locate};
use medgemma_gemma::text::{Message, Role};
use medgemma_kernels::{CacheType, WeightFormat};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

impl Quant {
    /// As the engine has it.
    fn for_engine(self) -> medgemma_engine::Quant {
        match self {
            Self::Bf16 => medgemma_engine::Quant::Bf16,
            Self::Q8 => medgemma_engine::Quant::Q8,
            Self::Fp8 => medgemma_engine::Quant::F8,
            Self::Q4 => medgemma_engine::Quant::Q4,
            Self::Nf4 => medgemma_engine::Quant::Nf4,
        }
    }
}

impl Load {
    /// How weights are packed: as the file has them, or smaller.
    pub(crate) fn weight_format(&self) -> WeightFormat {
        match self.quant {
            None => WeightFormat::Stored,
            Some(Quant::Bf16) => WeightFormat::BF16,
            Some(Quant::Q8) => WeightFormat::Q8,
            Some(Quant::Fp8) => WeightFormat::F8,
            Some(Quant::Q4) => WeightFormat::Q4,
            Some(Quant::Nf4) => WeightFormat::Nf4,
        }
    }

    /// How keys and values are held, where that was asked for.
    pub(crate) fn cache(&self) -> Option<CacheType> {
        self.kv.map(|kv| match kv {
            Kv::Bf16 => CacheType::BF16,
            Kv::Fp8 => CacheType::F8,
        })
    }

    /// As the engine has them.
    pub(crate) fn for_engine(&self) -> LoadOptions {
        LoadOptions {
            device: self.device,
            gpu_layers: self.gpu_layers,
            quant: self.quant.map(Quant::for_engine),
            cache: self.cache(),
            context: self.context,
            threads: self.threads,
            mmproj: self.mmproj.clone(),
            packed: if self.no_pack_cache { None } else { packed::from_env() },
            ..LoadOptions::default()
        }
    }
}

/// Loads a model, saying first what it is and whether it fits; `pictures` says whether it will be shown some.
///
/// # Errors
/// When it isn't here, doesn't fit, can't see what it will be shown, or its files are malformed.
pub(crate) fn load(model: &str, load: &Load, pictures: bool, quiet: bool) -> Result<Pipeline> {
    load_with(model, None, load, &load.for_engine(), pictures, quiet)
}

/// As [`load`], with room for so many conversations.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_for_serving(model: &str, load: &Load, conversations: usize, quiet: bool) -> Result<Pipeline> {
    load_with(model, None, load, &LoadOptions { conversations, ..load.for_engine() }, false, quiet)
}

/// As [`load`], with a smaller model that guesses tokens for it.
///
/// # Errors
/// As [`load`], for either model, and when their vocabularies differ.
pub(crate) fn load_with_draft(
    model: &str,
    draft: Option<&str>,
    load: &Load,
    pictures: bool,
    quiet: bool,
) -> Result<Pipeline> {
    load_with(model, draft, load, &load.for_engine(), pictures, quiet)
}

fn load_with(
    model: &str,
    draft: Option<&str>,
    load: &Load,
    options: &LoadOptions,
    pictures: bool,
    quiet: bool,
) -> Result<Pipeline> {
    let opened = open(model, load.mmproj.as_deref())?;
    let placed = opened.checkpoint().place(options)?;
    let draft = draft.map(|name| open(name, None).map(|opened| (name, opened))).transpose()?;
    if let Some((_, draft)) = &draft {
        opened.check_draft(draft)?;
    }
    if model != DEMO {
        // Loading takes minutes: what can be known before is said before.
        let checkpoint = opened.checkpoint();
        let about = announcement(model, checkpoint, load, &placed)?;
        if pictures && checkpoint.config.vision.is_none() {
            return Err(medgemma_gemma::Error::NoVision.into());
        }
        if !quiet {
            say_note(&about);
        }
    }
    let bar = LoadBar::new(model, quiet);
    let pipeline = opened.load_on(placed, options, |progress| bar.set(progress.done, progress.total));
    bar.finish();
    let mut pipeline = pipeline?;
    if let Some((name, draft)) = draft {
        // It is small: it is held as its file has it.
        let options = LoadOptions { quant: None, cache: None, mmproj: None, ..options.clone() };
        let bar = LoadBar::new(name, quiet);
        let loaded = pipeline.load_draft(draft, &options, |progress| bar.set(progress.done, progress.total));
        bar.finish();
        loaded?;
    }
    Ok(pipeline)
}

/// Finds a model's files.
///
/// # Errors
/// When they aren't here.
pub(crate) fn find(model: &str) -> Result<Located> {
    locate(model).map_err(|error| match (Variant::meant_by(model), &error) {
        (Some(id), locate::Error::BadId { .. }) => anyhow!("{model} is a part of a hub id: give {id}"),
        _ => error.into(),
    })
}

/// Opens a model's files without loading its weights.
///
/// # Errors
/// When it isn't here, or its files are malformed.
pub(crate) fn open(model: &str, mmproj: Option<&Path>) -> Result<Opened> {
    find(model)?;
    Ok(Opened::open(model, mmproj)?)
}

/// How the decoder's matrices are held.
fn dtype(checkpoint: &Checkpoint, load: &Load) -> Result<DType> {
    let stored = checkpoint.weights.stored_as()?.unwrap_or(DType::BF16);
    Ok(load.quant.map_or(stored, Quant::dtype))
}

/// What a model is, whether there is room for it, and what of it goes to the GPU, in a sentence or two.
///
/// # Errors
/// When its weights alone are more than the memory of this machine, or of the GPU: it would be killed, or run for hours.
pub(crate) fn announcement(name: &str, checkpoint: &Checkpoint, load: &Load, placed: &Placed) -> Result<String> {
    let dtype = dtype(checkpoint, load)?;
    let context = load.context.unwrap_or(USUAL_CONTEXT);
    let needed = footprint::memory(&checkpoint.config, dtype, load.cache(), context);
    let (memory, whose) = memory(placed)?;
    let smaller = [Quant::Q8, Quant::Q4].into_iter().find(|quant| {
        let smaller = footprint::memory(&checkpoint.config, quant.dtype(), load.cache(), context);
        smaller < needed && smaller < memory.available
    });
    let remedy = smaller.map_or_else(String::new, |quant| format!(": use --quant {}", quant.name()));
    let weights = footprint::weights(&checkpoint.config, dtype);
    if weights > memory.total {
        bail!("{name} has {} of weights, {whose} {} of memory{remedy}", bytes(weights), bytes(memory.total));
    }
    let sees = match (&checkpoint.config.vision, &checkpoint.weights) {
        (Some(_), _) => "",
        (None, Weights::Gguf { .. }) => ", no mmproj beside it: it can't see",
        (None, _) => ", text only",
    };
    // A path's last part says enough; a hub id is said whole.
    let name = if Path::new(name).exists() { name.rsplit(['/', '\\']).next().unwrap_or(name) } else { name };
    let about = format!(
        "{name} ({dtype:?}{sees}) takes about {}; {} of memory are free",
        bytes(needed),
        bytes(memory.available)
    );
    let mut about =
        if needed > memory.available { format!("{about}, so that it may be very slow{remedy}.") } else { about + "." };
    if let Some(note) = &placed.note {
        about = format!("{about} {note}");
    }
    Ok(about)
}

/// The memory of the devices that a model is on, and whose it is.
fn memory(placed: &Placed) -> Result<(Memory, &'static str)> {
    let Some(card) = placed.backend.back() else { return Ok((machine::memory()?, "this machine")) };
    let (free, total) = card.memory()?;
    let card = Memory { total: total as u64, available: free as u64 };
    if placed.backend.front().is_none() {
        return Ok((card, "the GPU"));
    }
    let machine = machine::memory()?;
    let both = Memory { total: machine.total + card.total, available: machine.available + card.available };
    Ok((both, "this machine with its GPU"))
}

/// Answers a conversation, showing it in `view` as it is written. Ctrl-C ends it.
///
/// A pre-trained model can't chat: it continues the last turn's text.
///
/// # Errors
/// When the conversation doesn't fit the model, or the answer can't be shown.
pub(crate) fn answer<W: Write>(
    pipeline: &mut Pipeline,
    turns: &[Turn],
    options: &Options,
    view: &mut AnswerView<W>,
) -> Result<Reply> {
    let _polite = interrupt::guard();
    let mut broken: Option<io::Error> = None;
    let mut on = |event: Event| {
        let shown = match event {
            Event::Images { done, total } => {
                view.images(done, total);
                Ok(())
            }
            Event::Prompt { done, total } => {
                view.prompt(done, total);
                Ok(())
            }
            Event::Thought(text) => view.thought(&text),
            Event::Answer(text) => view.answer(&text),
        };
        match shown {
            Ok(()) if !interrupt::asked() => ControlFlow::Continue(()),
            Ok(()) => ControlFlow::Break(()),
            Err(error) => {
                broken = Some(error);
                ControlFlow::Break(())
            }
        }
    };
    let mut request = for_engine(turns);
    let reply = if pipeline.can_chat() {
        request.options = options.clone();
        pipeline.chat_with(&request, &mut on)
    } else {
        pipeline.complete(&continued(&request.messages)?, &request.images, options, &mut on)
    };
    match broken {
        Some(error) => Err(error).context("stdout"),
        None => Ok(reply?),
    }
}

/// The text that a pre-trained model continues.
fn continued(messages: &[Message]) -> Result<String> {
    match messages {
        [only] if only.role == Role::User => Ok(only.text()),
        _ => bail!("this model is a pre-trained one: it continues one text, without a role instruction or turns"),
    }
}
