//! The SigLIP image encoder and the projector behind it.

use super::backend;
use crate::{Error, VisionConfig, Weights};
use medgemma_formats::{DType, Tensor};
use medgemma_kernels::{BLOCK, Backend, CacheSpec, CacheType, Place, Rows, Step, WeightFormat};

/// One image as the decoder sees it: `[tokens per image, hidden]`, not scaled as token embeddings are.
pub struct ImageFeatures<B: Backend>(pub(super) B::Matrix);

impl<B: Backend> ImageFeatures<B> {
    /// Copies the features to `out`, `[tokens per image, hidden]`.
    pub fn download(&self, backend: &B, out: &mut [f32]) {
        backend.download(&self.0, out);
    }
}

/// Weights of the encoder; v is its width.
pub(super) struct Vision<B: Backend> {
    /// `[v, 3 · patch²]`.
    patch: B::Weight,
    patch_bias: B::Vector,
    /// `[patches, v]`.
    positions: B::Matrix,
    layers: Vec<VisionLayer<B>>,
    post_norm: (B::Vector, B::Vector),
    projector_norm: B::Vector,
    /// `[h, v]`.
    projection: B::Weight,
    /// How attention is computed.
    cache: CacheType,
}

struct VisionLayer<B: Backend> {
    norm1: (B::Vector, B::Vector),
    /// q, k and v stacked: `[3·v, v]`.
    qkv: (B::Weight, B::Vector),
    output: (B::Weight, B::Vector),
    norm2: (B::Vector, B::Vector),
    up: (B::Weight, B::Vector),
    down: (B::Weight, B::Vector),
}

/// Activations of one image.
pub(super) struct VisionWorkspace<B: Backend> {
    pixels: B::Matrix,
    x: B::Matrix,
    normed: B::Matrix,
    qkv: B::Matrix,
    q: B::Matrix,
    attention: B::Matrix,
    block: B::Matrix,
    activated: B::Matrix,
    pooled: B::Matrix,
    pooled_normed: B::Matrix,
    /// Keys and values of one layer at a time.
    cache: B::Cache,
    /// Every patch sees every other.
    step: B::Staged,
}

/// Reads weights under one prefix.
struct Loader<'a, B: Backend> {
    b: &'a B,
    weights: &'a Weights,
    format: WeightFormat,
}

impl<B: Backend> Loader<'_, B> {
    fn vector(&self, name: &str, len: usize) -> Result<B::Vector, Error> {
        self.b.vector(&self.weights.vector(name, len)?).map_err(backend)
    }

    fn norm(&self, name: &str, len: usize) -> Result<(B::Vector, B::Vector), Error> {
        Ok((self.vector(&format!("{name}.weight"), len)?, self.vector(&format!("{name}.bias"), len)?))
    }

    /// Linear layers stacked along their outputs, with their biases.
    fn linear(&self, names: &[String], rows: usize, cols: usize) -> Result<(B::Weight, B::Vector), Error> {
        let mut tensors: Vec<Tensor> = Vec::new();
        let mut bias = Vec::new();
        for name in names {
            tensors.push(self.weights.tensor(&format!("{name}.weight"), &[rows, cols])?);
            bias.extend(self.weights.vector(&format!("{name}.bias"), rows)?);
        }
        let weight = self.b.weight(&tensors.iter().collect::<Vec<_>>(), self.format).map_err(backend)?;
        Ok((weight, self.b.vector(&bias).map_err(backend)?))
    }
}

impl<B: Backend> Vision<B> {
    pub(super) fn load(
        b: &B,
        c: &VisionConfig,
        hidden: usize,
        weights: &Weights,
        format: WeightFormat,
    ) -> Result<Self, Error> {
        b.place(Place::Vision);
        let loader = Loader { b, weights, format };
        let pixels = 3 * c.patch * c.patch;
        let patch = weights.tensor("v.patch_embd.weight", &[c.hidden, 3, c.patch, c.patch])?;
        // As a matrix, the convolution's last dimension is a whole patch.
        let patch = Tensor::from_parts(patch.name, patch.dtype, vec![c.hidden, pixels], patch.bytes, patch.nf4)?;
        let table = weights.tensor("v.position_embd.weight", &[c.patches(), c.hidden])?.to_f32()?;
        let mut positions = b.matrix(c.patches(), c.hidden).map_err(backend)?;
        b.upload(&table, &mut positions);
        let mut layers = Vec::with_capacity(c.layers);
        for index in 0..c.layers {
            layers.push(VisionLayer::load(&loader, c, index)?);
        }
        let projection = weights.image_projection(hidden, c.hidden)?;
        // An encoder that is not stored in 16 bits keeps its attention exact.
        let stored = weights.tensor("v.blk.0.attn_q.weight", &[c.hidden, c.hidden])?.dtype;
        let rounded = format == WeightFormat::BF16Products && matches!(stored, DType::F16 | DType::BF16);
        Ok(Self {
            patch: b.weight(&[&patch], format).map_err(backend)?,
            patch_bias: loader.vector("v.patch_embd.bias", c.hidden)?,
            positions,
            layers,
            post_norm: loader.norm("v.post_ln", c.hidden)?,
            projector_norm: b.vector(&weights.rms_norm("mm.soft_emb_norm.weight", c.hidden)?).map_err(backend)?,
            projection: b.weight_f32(&projection, hidden, c.hidden, WeightFormat::F32).map_err(backend)?,
            cache: if rounded { CacheType::BF16Products } else { CacheType::F32 },
        })
    }

    pub(super) fn weight_bytes(&self, b: &B) -> usize {
        let layer = |l: &VisionLayer<B>| [&l.qkv.0, &l.output.0, &l.up.0, &l.down.0].map(|w| b.weight_bytes(w));
        self.layers.iter().flat_map(layer).sum::<usize>()
            + b.weight_bytes(&self.patch)
            + b.weight_bytes(&self.projection)
    }

    pub(super) fn encode(
        &self,
        b: &B,
        c: &VisionConfig,
        hidden: usize,
        pixels: &[f32],
        ws: &mut VisionWorkspace<B>,
    ) -> Result<ImageFeatures<B>, Error> {
        b.upload(pixels, &mut ws.pixels);
        b.overwrite(&self.positions, 0, &mut ws.x);
        b.matmul_bias(&ws.pixels, &self.patch, &self.patch_bias, &mut ws.block);
        b.add(&ws.block, &mut ws.x);
        for layer in &self.layers {
            layer.forward(b, c, ws);
        }
        b.layer_norm(&ws.x, &self.post_norm.0, &self.post_norm.1, c.eps, &mut ws.normed);
        b.avg_pool(&ws.normed, c.side(), c.pool(), &mut ws.pooled);
        b.rms_norm(&ws.pooled, &self.projector_norm, c.eps, &mut ws.pooled_normed);
        let mut features = b.matrix(c.tokens_per_image, hidden).map_err(backend)?;
        b.matmul(&ws.pooled_normed, &self.projection, &mut features);
        Ok(ImageFeatures(features))
    }
}

impl<B: Backend> VisionLayer<B> {
    fn load(loader: &Loader<'_, B>, c: &VisionConfig, index: usize) -> Result<Self, Error> {
        let name = |part: &str| format!("v.blk.{index}.{part}");
        let (v, f) = (c.hidden, c.ffn);
        Ok(Self {
            norm1: loader.norm(&name("ln1"), v)?,
            qkv: loader.linear(&[name("attn_q"), name("attn_k"), name("attn_v")], v, v)?,
            output: loader.linear(&[name("attn_out")], v, v)?,
            norm2: loader.norm(&name("ln2"), v)?,
            up: loader.linear(&[name("ffn_up")], f, v)?,
            down: loader.linear(&[name("ffn_down")], v, f)?,
        })
    }

    /// `x += output(attention(norm1(x)))`, then `x += down(gelu(up(norm2(x))))`.
    fn forward(&self, b: &B, c: &VisionConfig, ws: &mut VisionWorkspace<B>) {
        let scale = (c.head_dim() as f64).powf(-0.5) as f32;
        b.layer_norm(&ws.x, &self.norm1.0, &self.norm1.1, c.eps, &mut ws.normed);
        b.matmul_bias(&ws.normed, &self.qkv.0, &self.qkv.1, &mut ws.qkv);
        b.qkv_store(&ws.qkv, &ws.step, &mut ws.cache, 0, &mut ws.q);
        b.attention(&ws.q, c.heads, &ws.cache, 0, &ws.step, None, scale, &mut ws.attention);
        b.matmul_bias_add(&ws.attention, &self.output.0, &self.output.1, &mut ws.block, &mut ws.x);
        b.layer_norm(&ws.x, &self.norm2.0, &self.norm2.1, c.eps, &mut ws.normed);
        b.matmul_bias_gelu(&ws.normed, &self.up.0, &self.up.1, &mut ws.activated);
        b.matmul_bias_add(&ws.activated, &self.down.0, &self.down.1, &mut ws.block, &mut ws.x);
    }
}

impl<B: Backend> VisionWorkspace<B> {
    /// Room for one image of `vision`.
    pub(super) fn new(b: &B, c: &VisionConfig, vision: &Vision<B>) -> Result<Self, Error> {
        let patches = c.patches();
        let matrix = |rows: usize, cols: usize| b.matrix(rows, cols).map_err(backend);
        let blocks = patches.div_ceil(BLOCK);
        let count = u32::try_from(patches).expect("the configuration bounds the image's side");
        let spec = CacheSpec { layers: 1, blocks, kv_heads: c.heads, head_dim: c.head_dim(), dtype: vision.cache };
        let mut staged = b.staged().map_err(backend)?;
        let step = Step {
            positions: (0..count).collect(),
            ends: vec![count; patches],
            sequences: vec![Rows { rows: 0..patches, table: (0..blocks as u32).collect() }],
        };
        b.stage(&[], &step, &mut staged);
        Ok(Self {
            pixels: matrix(patches, 3 * c.patch * c.patch)?,
            x: matrix(patches, c.hidden)?,
            normed: matrix(patches, c.hidden)?,
            qkv: matrix(patches, 3 * c.hidden)?,
            q: matrix(patches, c.hidden)?,
            attention: matrix(patches, c.hidden)?,
            block: matrix(patches, c.hidden)?,
            activated: matrix(patches, c.ffn)?,
            pooled: matrix(c.tokens_per_image, c.hidden)?,
            pooled_normed: matrix(c.tokens_per_image, c.hidden)?,
            cache: b.cache(spec).map_err(backend)?,
            step: staged,
        })
    }
}
