//! Loading a model by the name a person gives it.

use super::Pipeline;
use super::assets::Assets;
use super::features::FeatureCache;
use crate::demo;
use crate::error::Error;
use crate::load::Checkpoint;
use crate::placement::{Device, Placed, fitting};
use crate::runner::{Runner, RunnerConfig};
use crate::sequence::Sequence;
use crate::speculate::{DRAFT_MAX, DraftModel};
use medgemma_formats::{DType, Folder, Gguf};
use medgemma_gemma::LoadProgress;
use medgemma_gemma::locate::{Located, locate};
use medgemma_gemma::sampler::Sampling;
use medgemma_gemma::text::Tokenizer;
use medgemma_kernels::{AnyBackend, CacheType, PackCache, WeightFormat};
use std::path::{Path, PathBuf};

/// How the decoder's weights are held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quant {
    /// f32: exact for every stored type.
    F32,
    /// bf16: exact for the published checkpoints.
    Bf16,
    /// 8 bits (Q8_0).
    Q8,
    /// 8-bit floats (E4M3) with a power of two for each row; the embedding table in Q8_0.
    F8,
    /// 4 bits (Q4_0).
    Q4,
    /// 4-bit NormalFloat.
    Nf4,
}

impl Quant {
    pub(crate) fn format(self) -> WeightFormat {
        match self {
            Self::F32 => WeightFormat::F32,
            Self::Bf16 => WeightFormat::BF16,
            Self::Q8 => WeightFormat::Q8,
            Self::F8 => WeightFormat::F8,
            Self::Q4 => WeightFormat::Q4,
            Self::Nf4 => WeightFormat::Nf4,
        }
    }

    /// The blocks that weights are held in.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::Q8 => DType::Q8_0,
            Self::F8 => DType::F8,
            Self::Q4 => DType::Q4_0,
            Self::Nf4 => DType::Nf4,
        }
    }
}

/// How to load a model. The default is as the files are, on all cores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// How weights are held; as stored when `None`.
    pub quant: Option<Quant>,
    /// Most tokens of a conversation; when `None`, what the model was made for, or, on a card, as many as there is room
    /// for; [`USUAL_CONTEXT`](crate::footprint::USUAL_CONTEXT) where a card takes some of the layers. The processor's memory for them is taken as they come,
    /// a card's at once.
    pub context: Option<usize>,
    /// Where it is computed.
    pub device: Device,
    /// How many of the decoder's last layers are computed on a card, with the output matrix and the image encoder; as many
    /// as there is room for when `None`.
    pub gpu_layers: Option<usize>,
    /// Conversations of that context that a card is to have room for (0: one); a [`Serving`](super::Serving) may have several.
    pub conversations: usize,
    /// Threads; as many as the machine runs at once when `None`.
    pub threads: Option<usize>,
    /// The image encoder of a GGUF, when it isn't beside it.
    pub mmproj: Option<PathBuf>,
    /// Prompt tokens computed at once; 512 when `None`, 2048 on a card. Answers don't depend on it.
    pub chunk: Option<usize>,
    /// How keys and values are held; when `None`, exactly for float weights and in bf16 for quantized ones.
    pub cache: Option<CacheType>,
    /// Where packed weights are kept, so that the next start finds them; nowhere when `None`.
    pub packed: Option<PackCache>,
}

/// Prompt tokens in one step, when nobody says: enough rows for the matrix kernels, few enough for the caches.
pub const CHUNK: usize = 512;
/// The same on a card, which has more to do at once.
pub const CARD_CHUNK: usize = 2048;
/// More threads than any machine this runs on has.
pub(crate) const MOST_THREADS: usize = 1024;
/// Rows that get logits at once: a token and those guessed behind it; scoring goes faster with some.
pub(crate) const OUTPUTS: usize = DRAFT_MAX + 1;

/// A model's files, opened and read but for the weights: enough to say what it is and what it will take.
pub struct Opened {
    name: String,
    checkpoint: Checkpoint,
    assets: Assets,
}

impl Opened {
    /// Opens a model: a hub id (`google/medgemma-4b-it`) that was pulled, a folder in Hugging Face layout, a `.gguf`
    /// file, or `demo`. Nothing goes to the network. `mmproj` is the image encoder of a GGUF, when it isn't beside it.
    ///
    /// # Errors
    /// When the model isn't here or a file is malformed.
    pub fn open(model: &str, mmproj: Option<&Path>) -> Result<Self, Error> {
        match locate(model)? {
            Located::Folder(_) | Located::Demo if mmproj.is_some() => {
                Err(Error::Parameter("an mmproj belongs to a GGUF; this model has its image encoder with it".into()))
            }
            Located::Folder(path) => Self::from_folder(model, &Folder::open(&path)?),
            Located::Demo => {
                let (gguf, eyes) = demo::files()?;
                // It was trained to give one answer.
                let assets = Assets { sampling: Sampling::GREEDY, ..Assets::from_gguf(&gguf, Some(&eyes))? };
                Self::new(model, Checkpoint::from_gguf(gguf, Some(eyes))?, assets)
            }
            Located::Gguf { model: file, mmproj: beside } => {
                let gguf = Gguf::open(&file)?;
                let eyes = mmproj.or(beside.as_deref()).map(Gguf::open).transpose()?;
                let assets = Assets::from_gguf(&gguf, eyes.as_ref())?;
                Self::new(model, Checkpoint::from_gguf(gguf, eyes)?, assets)
            }
        }
    }

    /// Opens a folder in Hugging Face layout, on disk or in memory.
    ///
    /// # Errors
    /// When a file is missing or malformed.
    pub fn from_folder(name: &str, folder: &Folder) -> Result<Self, Error> {
        let checkpoint = Checkpoint::from_folder(folder)?;
        let assets = Assets::from_folder(folder, &checkpoint.config)?;
        Self::new(name, checkpoint, assets)
    }

    fn new(name: &str, mut checkpoint: Checkpoint, assets: Assets) -> Result<Self, Error> {
        if let (Some(vision), Some(preprocessor)) = (&checkpoint.config.vision, &assets.preprocessor)
            && preprocessor.side() != vision.image
        {
            let (side, wanted) = (preprocessor.side(), vision.image);
            let problem = format!("pictures are prepared at {side} pixels, but the image encoder takes {wanted}");
            return Err(Error::Parameter(format!("{name}: {problem}")));
        }
        // Configurations of instruction-tuned checkpoints don't always name the token that ends a turn.
        let eos = &mut checkpoint.config.tokens.eos;
        if let Some(end) = assets.tokenizer.id("<end_of_turn>").filter(|end| !eos.contains(end)) {
            eos.push(end);
        }
        Ok(Self { name: name.to_owned(), checkpoint, assets })
    }

    /// The configuration and the weights.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The configuration and the weights, without what turns text into tokens.
    pub fn into_checkpoint(self) -> Checkpoint {
        self.checkpoint
    }

    /// Whether `draft` can guess tokens for this model: whether its token ids mean the same.
    ///
    /// # Errors
    /// When they don't.
    pub fn check_draft(&self, draft: &Self) -> Result<(), Error> {
        check_draft((&self.name, &self.assets.tokenizer), draft)
    }

    /// Packs the weights and makes room for a conversation; `progress` is called as layers are loaded.
    /// [`LoadOptions::mmproj`] means nothing here any more.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape, an option is out of range, or memory runs out.
    pub fn load(self, options: &LoadOptions, progress: impl FnMut(LoadProgress)) -> Result<Pipeline, Error> {
        let placed = self.checkpoint.place(options)?;
        self.load_on(placed, options, progress)
    }

    /// As [`Opened::load`], where [`Checkpoint::place`] put it.
    ///
    /// # Errors
    /// As [`Opened::load`].
    pub fn load_on(
        self,
        placed: Placed,
        options: &LoadOptions,
        progress: impl FnMut(LoadProgress),
    ) -> Result<Pipeline, Error> {
        let (name, assets, runner) = self.runner(placed, options, OUTPUTS, progress)?;
        let (sequence, features) = (Sequence::default(), FeatureCache::default());
        Ok(Pipeline { name, assets, runner, sequence, features, draft: None })
    }

    /// Packs the weights and makes room for a sequence, with logits for `outputs` rows of a step.
    fn runner(
        self,
        placed: Placed,
        options: &LoadOptions,
        outputs: usize,
        progress: impl FnMut(LoadProgress),
    ) -> Result<(String, Assets, Runner<AnyBackend>), Error> {
        let Self { name, checkpoint, assets } = self;
        let vocab = checkpoint.config.text.vocab;
        if let Some(id) = checkpoint.config.tokens.eos.iter().find(|id| **id as usize >= vocab) {
            let problem = format!("eos_token_id: {id} isn't in the vocabulary of {vocab}");
            return Err(Error::Parameter(format!("{name}: {problem}")));
        }
        let format = options.quant.map_or(WeightFormat::Stored, Quant::format);
        let cache = options.cache.map_or_else(|| checkpoint.cache_type(format), Ok)?;
        let model = checkpoint.load(placed.backend, format, progress)?;
        let (context, chunk) = (placed.context, placed.chunk);
        let mut config = RunnerConfig { context, sequences: 1, chunk, outputs, cache };
        if options.context.is_none() && placed.gpu_layers == placed.layers {
            config.context = fitting(model.backend(), model.config(), &config)?;
            config.chunk = config.chunk.min(config.context);
        }
        let runner = Runner::new(model, config)?;
        Ok((name, assets, runner))
    }
}

/// Tokens that one of two vocabularies of the same model family may have more than the other: padding, and the
/// placeholder of pictures.
const MOST_PADDING: usize = 128;

/// Whether token ids of the model's vocabulary mean the same in that of `draft`.
fn check_draft((name, vocabulary): (&str, &Tokenizer), draft: &Opened) -> Result<(), Error> {
    let theirs = &draft.assets.tokenizer;
    let (here, there) = (vocabulary.vocab_size(), theirs.vocab_size());
    let other = |id: &u32| vocabulary.token(*id) != theirs.token(*id);
    let difference = match here.abs_diff(there) > MOST_PADDING {
        true => Some(format!("{here} tokens and {there}")),
        false => (0..here.min(there) as u32).find(other).map(|id| format!("in token {id}")),
    };
    match difference {
        None => Ok(()),
        Some(difference) => Err(Error::Draft { draft: draft.name.clone(), model: name.to_owned(), difference }),
    }
}

impl Pipeline {
    /// Loads a model by the name a person gives it, as [`Opened::open`] says.
    ///
    /// # Errors
    /// When the model isn't here, a file is malformed, or memory runs out.
    pub fn load(model: &str) -> Result<Self, Error> {
        Self::load_with(model, &LoadOptions::default(), |_| {})
    }

    /// Loads a smaller model that guesses tokens for this one (see [`speculate`](crate::speculate)): answers stay the
    /// same, greedy ones come faster where it guesses well. It takes texts up to its own context, which
    /// [`LoadOptions::context`] may limit.
    ///
    /// # Errors
    /// When its vocabulary is another one, or as [`Opened::load`].
    pub fn load_draft(
        &mut self,
        draft: Opened,
        options: &LoadOptions,
        progress: impl FnMut(LoadProgress),
    ) -> Result<(), Error> {
        check_draft((&self.name, self.tokenizer()), &draft)?;
        let longest = draft.checkpoint.config.text.max_position;
        let context = options.context.unwrap_or(usize::MAX).min(longest).min(self.context());
        let options = LoadOptions { context: Some(context), gpu_layers: None, ..options.clone() };
        let placed = draft.checkpoint.place(&options)?;
        let (_, _, runner) = draft.runner(placed, &options, 1, progress)?;
        self.draft = Some(DraftModel::new(runner));
        Ok(())
    }

    /// As [`Pipeline::load`], with options; `progress` is called as layers are loaded.
    ///
    /// # Errors
    /// As [`Pipeline::load`].
    pub fn load_with(model: &str, options: &LoadOptions, progress: impl FnMut(LoadProgress)) -> Result<Self, Error> {
        Opened::open(model, options.mmproj.as_deref())?.load(options, progress)
    }
}
