//! From files to a model on a device.

use crate::error::Error;
use medgemma_formats::{DType, Folder, Gguf, Safetensors};
use medgemma_gemma::{Config, LoadProgress, Model, Synthetic, Weights};
use medgemma_kernels::{Backend, CacheType, CpuBackend, WeightFormat};
use std::path::Path;

/// An opened checkpoint: its configuration and its weights, nothing packed yet.
pub struct Checkpoint {
    /// What the model looks like.
    pub config: Config,
    /// Its tensors.
    pub weights: Weights,
}

impl Checkpoint {
    /// Opens a folder in Hugging Face layout.
    ///
    /// # Errors
    /// When a file is missing or malformed.
    pub fn from_folder(folder: &Folder) -> Result<Self, Error> {
        let name = folder.path().display().to_string();
        let file = |f: &str| folder.path().join(f).display().to_string();
        let generation = match folder.contains("generation_config.json") {
            true => Some(folder.read("generation_config.json")?),
            false => None,
        };
        let config = Config::from_json(&file("config.json"), &folder.read("config.json")?, generation.as_deref())?;
        let weights = Weights::from_safetensors(&name, Safetensors::open(folder)?)?;
        Ok(Self { config, weights })
    }

    /// Takes opened GGUF files: the language model and, so that it can see, its mmproj.
    ///
    /// # Errors
    /// When their metadata is malformed or they don't belong together.
    pub fn from_gguf(model: Gguf, mmproj: Option<Gguf>) -> Result<Self, Error> {
        let name = |gguf: &Gguf| gguf.path().display().to_string();
        let vision_name = mmproj.as_ref().map(name);
        let vision = mmproj.as_ref().zip(vision_name.as_deref()).map(|(gguf, name)| (name, gguf));
        let config = Config::from_gguf(&name(&model), &model, vision)?;
        Ok(Self { config, weights: Weights::Gguf { name: name(&model), model, mmproj } })
    }

    /// Opens a GGUF file and its mmproj.
    ///
    /// # Errors
    /// As [`Checkpoint::from_gguf`].
    pub fn open_gguf(model: &Path, mmproj: Option<&Path>) -> Result<Self, Error> {
        Self::from_gguf(Gguf::open(model)?, mmproj.map(Gguf::open).transpose()?)
    }

    /// A model of a published shape (see [`Config::of_variant`]) with random weights: its words mean nothing, its speed
    /// and memory are those of the real one. Matrices of the decoder are made in `dtype`: BF16, Q8_0 or Q4_0.
    ///
    /// # Errors
    /// When there is no such variant.
    pub fn synthetic(variant: &str, dtype: DType) -> Result<Self, Error> {
        let config = Config::of_variant(variant).ok_or_else(|| {
            let known = Config::variants().collect::<Vec<_>>().join(", ");
            Error::Parameter(format!("there is no variant {variant:?}; known: {known}"))
        })?;
        let weights = Weights::Synthetic(Synthetic::new(&format!("synthetic {variant}"), dtype, 0));
        Ok(Self { config, weights })
    }

    /// How keys and values are held when nobody says: exactly for float weights, in bf16 beside quantized ones, which
    /// lose more than that.
    ///
    /// # Errors
    /// When the first layer's tensors are broken.
    pub fn cache_type(&self, format: WeightFormat) -> Result<CacheType, Error> {
        Ok(if self.weights.exact(format)? { CacheType::F32 } else { CacheType::BF16 })
    }

    /// Packs the weights for the host's processor.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape, or memory runs out.
    pub fn load_cpu(
        self,
        format: WeightFormat,
        threads: Option<usize>,
        progress: impl FnMut(LoadProgress),
    ) -> Result<Model<CpuBackend>, Error> {
        self.load(CpuBackend::new(threads), format, progress)
    }

    /// Packs the weights for a device.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape, or memory runs out.
    pub fn load<B: Backend>(
        self,
        backend: B,
        format: WeightFormat,
        progress: impl FnMut(LoadProgress),
    ) -> Result<Model<B>, Error> {
        Ok(Model::load(backend, self.config, self.weights, format, progress)?)
    }
}
