//! Loading a model by the name a person gives it.

use super::Pipeline;
use super::assets::Assets;
use super::features::FeatureCache;
use crate::demo;
use crate::error::Error;
use crate::load::Checkpoint;
use crate::runner::{Runner, RunnerConfig};
use crate::sequence::Sequence;
use medgemma_formats::{DType, Folder, Gguf};
use medgemma_gemma::LoadProgress;
use medgemma_gemma::locate::{DEMO, Located, locate};
use medgemma_kernels::{CacheType, WeightFormat};
use std::path::PathBuf;

/// How the decoder's weights are held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quant {
    /// f32: exact for every stored type.
    F32,
    /// bf16: exact for the published checkpoints.
    Bf16,
    /// 8 bits (Q8_0).
    Q8,
    /// 4 bits (Q4_0).
    Q4,
    /// 4-bit NormalFloat.
    Nf4,
}

impl Quant {
    fn format(self) -> WeightFormat {
        match self {
            Self::F32 => WeightFormat::F32,
            Self::Bf16 => WeightFormat::BF16,
            Self::Q8 => WeightFormat::Q8,
            Self::Q4 => WeightFormat::Q4,
            Self::Nf4 => WeightFormat::Nf4,
        }
    }

    /// Whether weights lose something.
    fn is_lossy(self) -> bool {
        matches!(self, Self::Q8 | Self::Q4 | Self::Nf4)
    }
}

/// How to load a model. The default is as the files are, on all cores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// How weights are held; as stored when `None`.
    pub quant: Option<Quant>,
    /// Most tokens of a conversation; what the model was made for when `None`. Memory for them is taken as they come.
    pub context: Option<usize>,
    /// Threads; as many as the machine runs at once when `None`.
    pub threads: Option<usize>,
    /// The image encoder of a GGUF, when it isn't beside it.
    pub mmproj: Option<PathBuf>,
    /// Prompt tokens computed at once; 512 when `None`. Answers don't depend on it.
    pub chunk: Option<usize>,
    /// How keys and values are held; when `None`, exactly for float weights and in bf16 for quantized ones.
    pub cache: Option<CacheType>,
}

/// Prompt tokens in one step: enough rows for the matrix kernels, few enough for the caches.
const CHUNK: usize = 512;
/// Rows that get logits at once: a single sequence needs one, scoring goes faster with some.
const OUTPUTS: usize = 16;

impl Pipeline {
    /// Loads a model: a hub id (`google/medgemma-4b-it`) that was pulled, a folder in Hugging Face layout, a `.gguf`
    /// file, or `demo`. Nothing goes to the network.
    ///
    /// # Errors
    /// When the model isn't here, a file is malformed, or memory runs out.
    pub fn load(model: &str) -> Result<Self, Error> {
        Self::load_with(model, &LoadOptions::default(), |_| {})
    }

    /// As [`Pipeline::load`], with options; `progress` is called as layers are loaded.
    ///
    /// # Errors
    /// As [`Pipeline::load`].
    pub fn load_with(model: &str, options: &LoadOptions, progress: impl FnMut(LoadProgress)) -> Result<Self, Error> {
        match locate(model)? {
            Located::Folder(path) => Self::from_folder(model, &Folder::open(&path)?, options, progress),
            Located::Demo => Self::from_folder(DEMO, &demo::folder(), options, progress),
            Located::Gguf { model: file, mmproj } => {
                let mmproj = options.mmproj.clone().or(mmproj);
                let gguf = Gguf::open(&file)?;
                let eyes = mmproj.as_deref().map(Gguf::open).transpose()?;
                let assets = Assets::from_gguf(&gguf, eyes.as_ref())?;
                Self::build(model, assets, Checkpoint::from_gguf(gguf, eyes)?, options, progress)
            }
        }
    }

    /// Loads a folder in Hugging Face layout, from disk or from memory.
    ///
    /// # Errors
    /// As [`Pipeline::load`].
    pub fn from_folder(
        name: &str,
        folder: &Folder,
        options: &LoadOptions,
        progress: impl FnMut(LoadProgress),
    ) -> Result<Self, Error> {
        let checkpoint = Checkpoint::from_folder(folder)?;
        let assets = Assets::from_folder(folder, &checkpoint.config)?;
        Self::build(name, assets, checkpoint, options, progress)
    }

    fn build(
        name: &str,
        assets: Assets,
        checkpoint: Checkpoint,
        options: &LoadOptions,
        progress: impl FnMut(LoadProgress),
    ) -> Result<Self, Error> {
        let lossy = match options.quant {
            Some(quant) => quant.is_lossy(),
            None => !matches!(checkpoint.weights.stored_as()?, Some(DType::F32 | DType::F16 | DType::BF16)),
        };
        let longest = checkpoint.config.text.max_position;
        let context = options.context.unwrap_or(longest);
        if context == 0 || context > longest {
            return Err(Error::Parameter(format!("a context of {context} tokens is out of range (1 to {longest})")));
        }
        let config = RunnerConfig {
            context,
            chunk: options.chunk.unwrap_or(CHUNK).clamp(1, context),
            outputs: OUTPUTS,
            cache: options.cache.unwrap_or(if lossy { CacheType::BF16 } else { CacheType::F32 }),
        };
        let format = options.quant.map_or(WeightFormat::Stored, Quant::format);
        let model = checkpoint.load_cpu(format, options.threads, progress)?;
        let runner = Runner::new(model, config)?;
        Ok(Self {
            name: name.to_owned(),
            assets,
            runner,
            sequence: Sequence::default(),
            features: FeatureCache::default(),
        })
    }
}
