//! Gemma 3 with its SigLIP encoder, written once over [`Backend`].
//!
//! Shapes in the comments: m rows (tokens of one step), h hidden, f feed-forward, q = heads · head_dim,
//! kv = kv_heads · head_dim.

mod decoder;
mod vision;

pub use decoder::{Caches, Input, Workspace};
pub use vision::ImageFeatures;

use crate::{Config, Error, VisionConfig, Weights};
use decoder::Decoder;
use medgemma_kernels::{Backend, Greedy, Part, WeightFormat};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use vision::{Vision, VisionWorkspace};

/// A loaded model.
pub struct Model<B: Backend> {
    backend: B,
    config: Config,
    decoder: Decoder<B>,
    /// What the image encoder is loaded from and as.
    weights: Weights,
    format: WeightFormat,
    /// The image encoder, loaded at the first image: most conversations have none.
    vision: OnceLock<Vision<B>>,
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

/// How the image encoder is held: as stored, for its rows aren't whole blocks, and decoded only where `format` says so.
/// Beside a quantized decoder it is multiplied in bf16 where it is stored in 16 bits.
fn vision_format(weights: &Weights, format: WeightFormat) -> Result<WeightFormat, Error> {
    Ok(match format {
        WeightFormat::F32 => WeightFormat::F32,
        _ if weights.exact(format)? => WeightFormat::Stored,
        _ => WeightFormat::BF16Products,
    })
}

/// Turns a backend's error into this crate's.
fn backend<E: std::error::Error + Send + Sync + 'static>(error: E) -> Error {
    Error::Backend(Box::new(error))
}

impl<B: Backend> Model<B> {
    /// Packs a checkpoint's weights for `backend`; matrices of the decoder are held as `format`, the image encoder as
    /// stored (its rows aren't whole quantization blocks), unless `format` is F32. The image encoder is packed when it
    /// is first needed, or by [`Model::load_vision`].
    ///
    /// # Errors
    /// When a tensor is missing or of another shape than the configuration says, or memory runs out.
    pub fn load(
        backend: B,
        config: Config,
        weights: Weights,
        format: WeightFormat,
        mut progress: impl FnMut(LoadProgress),
    ) -> Result<Self, Error> {
        let total = 1 + config.text.global.len();
        let mut done = 0;
        let mut step = || {
            done += 1;
            progress(LoadProgress { done, total });
        };
        backend.begin(&Part { name: "decoder", files: &weights.files(false), format });
        let decoder = Decoder::load(&backend, &config.text, &weights, format, &mut step);
        backend.finish(decoder.is_ok());
        let (decoder, vision) = (decoder?, OnceLock::new());
        Ok(Self { backend, config, decoder, weights, format, vision, vision_workspace: Mutex::new(None) })
    }

    /// Packs the image encoder's weights now, instead of at the first image.
    ///
    /// # Errors
    /// When the model can't see, a tensor is missing or of another shape, or memory runs out.
    pub fn load_vision(&self) -> Result<(), Error> {
        self.seeing(&self.vision_workspace()).map(|_| ())
    }

    /// The image encoder. Whoever holds the workspace's lock is alone here, so that it is loaded once.
    fn seeing(
        &self,
        _alone: &MutexGuard<'_, Option<VisionWorkspace<B>>>,
    ) -> Result<(&Vision<B>, &VisionConfig), Error> {
        let config = self.config.vision.as_ref().ok_or(Error::NoVision)?;
        if let Some(vision) = self.vision.get() {
            return Ok((vision, config));
        }
        let format = vision_format(&self.weights, self.format)?;
        self.backend.begin(&Part { name: "vision", files: &self.weights.files(true), format });
        let vision = Vision::load(&self.backend, config, self.config.text.hidden, &self.weights, format);
        self.backend.finish(vision.is_ok());
        let vision = vision?;
        Ok((self.vision.get_or_init(|| vision), config))
    }

    fn vision_workspace(&self) -> MutexGuard<'_, Option<VisionWorkspace<B>>> {
        self.vision_workspace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The device.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Bytes of packed weights; those of the image encoder once it is loaded.
    pub fn weight_bytes(&self) -> usize {
        self.decoder.weight_bytes(&self.backend) + self.vision.get().map_or(0, |v| v.weight_bytes(&self.backend))
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

    /// The most likely token after each of some rows of the last step: what [`Model::logits`] would say, without moving
    /// all logits to the host.
    ///
    /// # Panics
    /// When `rows` is longer than the workspace's outputs or than `out`.
    pub fn greedy(&self, rows: &[u32], workspace: &mut Workspace<B>, out: &mut [Greedy]) {
        self.decoder.greedy(&self.backend, &self.config.text, rows, workspace, out);
    }

    /// Encodes one image: `pixels` are its patches `[patches, 3 · patch²]` in raster order, channel-major in a patch.
    ///
    /// # Errors
    /// When the model can't see, `pixels` has another length, memory runs out, or, at the first image, one of the
    /// encoder's tensors is missing or of another shape.
    pub fn encode_image(&self, pixels: &[f32]) -> Result<ImageFeatures<B>, Error> {
        let mut slot = self.vision_workspace();
        let config = self.config.vision.as_ref().ok_or(Error::NoVision)?;
        let wanted = config.patches() * 3 * config.patch * config.patch;
        if pixels.len() != wanted {
            return Err(Error::Pixels { found: pixels.len(), wanted });
        }
        let (vision, config) = self.seeing(&slot)?;
        let workspace = match &mut *slot {
            Some(workspace) => workspace,
            empty => empty.insert(VisionWorkspace::new(&self.backend, config, vision)?),
        };
        vision.encode(&self.backend, config, self.config.text.hidden, pixels, workspace)
    }

    /// Gives back the image encoder's buffers; the next image makes them anew.
    pub fn release_vision_workspace(&self) {
        *self.vision_workspace() = None;
    }
}
