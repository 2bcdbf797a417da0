//! Gemma 3 with its SigLIP encoder, written once over [`Backend`].
//!
//! Shapes in the comments: m rows (tokens of one step), h hidden, f feed-forward, q = heads · head_dim,
//! kv = kv_heads · head_dim.

mod decoder;
mod vision;

pub use decoder::{Caches, Input, Workspace};
pub use vision::ImageFeatures;

use crate::{Config, Error, Weights};
use decoder::Decoder;
use medgemma_kernels::{Backend, WeightFormat};
use std::sync::Mutex;
use vision::{Vision, VisionWorkspace};

/// A loaded model.
pub struct Model<B: Backend> {
    backend: B,
    config: Config,
    decoder: Decoder<B>,
    vision: Option<Vision<B>>,
    /// The encoder's buffers, made at the first image.
    vision_workspace: Mutex<Option<VisionWorkspace<B>>>,
}

/// How far loading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Layers loaded.
    pub done: usize,
    /// Layers in all, the embedding table counted as one.
    pub total: usize,
}

/// How the image encoder is held: as stored, for its rows aren't whole blocks; decoded only where all is to be exact.
fn vision_format(format: WeightFormat) -> WeightFormat {
    if format == WeightFormat::F32 { WeightFormat::F32 } else { WeightFormat::Stored }
}

/// Turns a backend's error into this crate's.
fn backend<E: std::error::Error + Send + Sync + 'static>(error: E) -> Error {
    Error::Backend(Box::new(error))
}

impl<B: Backend> Model<B> {
    /// Packs a checkpoint's weights for `backend`; matrices of the decoder are held as `format`, the image encoder as
    /// stored (its rows aren't whole quantization blocks), unless `format` is F32.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape than the configuration says, or memory runs out.
    pub fn load(
        backend: B,
        config: Config,
        weights: &Weights,
        format: WeightFormat,
        mut progress: impl FnMut(LoadProgress),
    ) -> Result<Self, Error> {
        let vision_layers = config.vision.as_ref().map_or(0, |v| v.layers);
        let total = 1 + config.text.global.len() + vision_layers;
        let mut done = 0;
        let mut step = || {
            done += 1;
            progress(LoadProgress { done, total });
        };
        let decoder = Decoder::load(&backend, &config.text, weights, format, &mut step)?;
        let vision = match &config.vision {
            Some(v) => Some(Vision::load(&backend, v, config.text.hidden, weights, vision_format(format), &mut step)?),
            None => None,
        };
        Ok(Self { backend, config, decoder, vision, vision_workspace: Mutex::new(None) })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The device.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Bytes of packed weights.
    pub fn weight_bytes(&self) -> usize {
        self.decoder.weight_bytes(&self.backend) + self.vision.as_ref().map_or(0, |v| v.weight_bytes(&self.backend))
    }

    /// Buffers for steps of up to `rows` tokens of which up to `outputs` want logits at once.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn workspace(&self, rows: usize, outputs: usize) -> Result<Workspace<B>, Error> {
        Workspace::new(&self.backend, &self.config.text, rows, outputs)
    }

    /// KV pools of the given numbers of blocks.
    ///
    /// # Errors
    /// When the address space for them can't be reserved.
    pub fn caches(
        &self,
        global_blocks: usize,
        local_blocks: usize,
        dtype: medgemma_kernels::CacheType,
    ) -> Result<Caches<B>, Error> {
        Caches::new(&self.backend, &self.config.text, global_blocks, local_blocks, dtype)
    }

    /// Runs the decoder over one step's rows; afterwards [`Model::logits`] may be asked for any of them.
    ///
    /// Ids at image positions may be any: the features replace them.
    pub fn forward(&self, input: &Input<'_, B>, caches: &mut Caches<B>, workspace: &mut Workspace<B>) {
        self.decoder.forward(&self.backend, &self.config.text, input, caches, workspace);
    }

    /// Logits `[rows.len(), vocab]` of rows of the last step.
    ///
    /// # Panics
    /// When `rows` is longer than the workspace's outputs or `out` isn't `[rows.len(), vocab]`.
    pub fn logits(&self, rows: &[u32], workspace: &mut Workspace<B>, out: &mut [f32]) {
        self.decoder.logits(&self.backend, &self.config.text, rows, workspace, out);
    }

    /// Encodes one image: `pixels` are its patches `[patches, 3 · patch²]` in raster order, channel-major in a patch.
    ///
    /// # Errors
    /// When the model can't see, `pixels` has another length, or memory runs out.
    pub fn encode_image(&self, pixels: &[f32]) -> Result<ImageFeatures<B>, Error> {
        let (Some(vision), Some(config)) = (&self.vision, &self.config.vision) else {
            return Err(Error::NoVision);
        };
        let wanted = config.patches() * 3 * config.patch * config.patch;
        if pixels.len() != wanted {
            return Err(Error::Pixels { found: pixels.len(), wanted });
        }
        let mut slot = self.vision_workspace.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let workspace = match &mut *slot {
            Some(workspace) => workspace,
            empty => empty.insert(VisionWorkspace::new(&self.backend, config)?),
        };
        vision.encode(&self.backend, config, self.config.text.hidden, pixels, workspace)
    }

    /// Gives back the image encoder's buffers; the next image makes them anew.
    pub fn release_vision_workspace(&self) {
        *self.vision_workspace.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }
}
