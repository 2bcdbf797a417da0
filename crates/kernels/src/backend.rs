//! The operations a model is written in: about twenty, fused the way Gemma 3 and SigLIP use them.
//!
//! All activations are f32 matrices, one row a token (or an image patch), allocated once and reused: no operation
//! allocates. A matrix has a capacity in rows; operations take the number of rows in use from their inputs.
//!
//! # Determinism
//! A row's result must not depend on which other rows are computed beside it, on the number of threads or on the
//! number of rows: each output is summed in one fixed order. So prompt chunking, batching and prefix reuse give
//! bit-identical logits on the CPU.

use medgemma_formats::Tensor;
use std::fmt::Debug;
use std::ops::Range;
use std::path::Path;

/// Tokens in one block of the KV cache.
///
/// Attention works through whole numbers of blocks that begin at fixed absolute positions, so that a query meets its keys in
/// the same groups however the prompt was chunked.
pub const BLOCK: usize = 32;

/// How a weight matrix is held by the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WeightFormat {
    /// As the file stores it: float types stay exact (activations in f32), quantized blocks keep their exact
    /// dequantized values (activations may be quantized to 8 bits in groups of 32, or of 128 for K-quants).
    #[default]
    Stored,
    /// f32 values, exact for every stored type.
    F32,
    /// bf16 values with f32 activations: exact when the file holds bf16.
    BF16,
    /// As [`WeightFormat::Stored`], but f16 and bf16 weights are multiplied in bf16, activations rounded to it, where the
    /// device is faster that way: as the reference does when it runs in bf16. Values of f16 are rounded to bf16; those
    /// that were converted from bf16 stay exact.
    BF16Products,
    /// 8 bits, one scale for each 32 elements of a row (Q8_0).
    Q8,
    /// 4 bits, one scale for each 32 elements of a row (Q4_0).
    Q4,
    /// 4-bit NormalFloat, one scale for each 64 elements.
    Nf4,
    /// 8-bit floats (E4M3) with a power of two for each row, with which they are numbers of bf16; activations as for those.
    /// Blocks that a file holds stay as they are.
    F8,
}

/// Weights that are loaded together: the decoder, or the image encoder.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// `decoder` or `vision`.
    pub name: &'static str,
    /// The files that they come from; none where they don't come from files.
    pub files: &'a [&'a Path],
    /// How its matrices are held, where they don't call for another format.
    pub format: WeightFormat,
}

/// Where in a model weights belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The embedding table.
    Embedding {
        /// Whether it is the output matrix, too.
        tied: bool,
    },
    /// A layer of the decoder.
    Layer(usize),
    /// The output matrix.
    Output,
    /// The image encoder.
    Vision,
}

/// How keys and values are held in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CacheType {
    /// Exact.
    #[default]
    F32,
    /// Half the memory, rounded to bf16.
    BF16,
    /// Rounded to bf16, and multiplied in it where the device is faster that way: then queries and the softmax's weights
    /// are rounded, too.
    BF16Products,
    /// A quarter of the memory, rounded to 8-bit floats (E4M3) without a scale: what is beyond ±448 becomes that.
    F8,
}

/// The shape of a KV cache pool: every block holds [`BLOCK`] tokens of all its layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSpec {
    /// Layers that share a block table.
    pub layers: usize,
    /// Blocks in the pool. Memory is reserved, and taken from the system only when a block is first written.
    pub blocks: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Element type.
    pub dtype: CacheType,
}

/// The rows of one step that belong to one sequence, and where its keys and values lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Rows of the step's matrices.
    pub rows: Range<usize>,
    /// Block of the pool for each [`BLOCK`] consecutive positions, indexed by `position / BLOCK`. Entries of blocks
    /// that have left the window are `u32::MAX` and are never read.
    pub table: Vec<u32>,
}

/// One forward pass over rows of one or several sequences, as one cache pool sees it.
///
/// Row `r` sees the keys `lo..ends[r]` of its own sequence, where `lo = position + 1 - window` with a window (0 at
/// least), or 0 without one. For ordinary text `ends[r] = position + 1`; inside an image it is the image's end, so
/// that its tokens see each other in both directions on every layer, as far as the window reaches back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Position of each row in its sequence.
    pub positions: Vec<u32>,
    /// The position behind the last key that each row sees.
    pub ends: Vec<u32>,
    /// Rows of each sequence, in order and without gaps.
    pub sequences: Vec<Rows>,
}

/// The most likely token of a row of logits: the first of equals.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Greedy {
    /// Its column.
    pub id: u32,
    /// Its logit.
    pub logit: f32,
}

/// The weights of a layer behind its attention, and those that the next layer begins with.
#[derive(Debug)]
pub struct Behind<'a, B: Backend + ?Sized> {
    /// `[h, q]`.
    pub attn_output: &'a B::Weight,
    /// `[h]`, as the norms below.
    pub post_attention_norm: &'a B::Vector,
    /// Before gate and up.
    pub ffn_norm: &'a B::Vector,
    /// gate and up stacked: `[2·f, h]`.
    pub gate_up: &'a B::Weight,
    /// `[h, f]`.
    pub down: &'a B::Weight,
    /// Behind down.
    pub post_ffw_norm: &'a B::Vector,
    /// The next layer's norm before attention and its q, k and v; none behind the last layer.
    pub next: Option<(&'a B::Vector, &'a B::Weight)>,
    /// Of all norms.
    pub eps: f32,
}

/// A machine that can run the model.
pub trait Backend: Send + Sync + 'static {
    /// Why the backend couldn't do something.
    type Error: std::error::Error + Send + Sync + 'static;
    /// An f32 matrix of activations with a fixed capacity; `rows` of them are in use.
    type Matrix: Send + Debug;
    /// A weight matrix `[n, k]`, packed for the kernels.
    type Weight: Send + Sync + Debug;
    /// A vector of f32: norm weights, biases, inverse frequencies.
    type Vector: Send + Sync + Debug;
    /// A pool of KV blocks.
    type Cache: Send + Debug;
    /// The tokens of a step and a [`Step`], where the operations read them. It is made once and filled anew for each step.
    type Staged: Send + Debug;
    /// Operations that were recorded once and are played back.
    type Recordings: Default + Send + Debug;

    /// What a person would call this device and its kernels, such as `cpu (AVX-512 VNNI, 2 threads)`.
    fn name(&self) -> String;

    // Loading.

    /// Says that the weights made until [`Backend::finish`] are a model's part, in the order in which they are always
    /// made: a backend may keep what it packs for the next time. Without it nothing is kept.
    fn begin(&self, _part: &Part<'_>) {}
    /// Ends what [`Backend::begin`] began; `whole` says whether all weights of the part were made.
    fn finish(&self, _whole: bool) {}
    /// Packs tensors, stacked along their rows and equal in columns, as one weight matrix `[Σ rows, cols]`.
    fn weight(&self, tensors: &[&Tensor], format: WeightFormat) -> Result<Self::Weight, Self::Error>;
    /// As [`Backend::weight`], from values in memory: `values` is `[n, k]`, row after row.
    fn weight_f32(&self, values: &[f32], n: usize, k: usize, format: WeightFormat)
    -> Result<Self::Weight, Self::Error>;
    /// Bytes the backend holds for a weight.
    fn weight_bytes(&self, weight: &Self::Weight) -> usize;
    /// Keeps a vector.
    fn vector(&self, values: &[f32]) -> Result<Self::Vector, Self::Error>;
    /// Allocates a zeroed matrix of `[capacity, cols]` with no row in use.
    fn matrix(&self, capacity: usize, cols: usize) -> Result<Self::Matrix, Self::Error>;
    /// Reserves a pool.
    fn cache(&self, spec: CacheSpec) -> Result<Self::Cache, Self::Error>;

    // Several devices.

    /// The first of the decoder's layers that isn't on the device of those before it: 0 where only the embedding table is
    /// before it, and as many as there are layers where only the output matrix is behind it. None where all is on one device.
    fn boundary(&self) -> Option<usize> {
        None
    }
    /// Says where the weights that are made from now on belong.
    fn place(&self, _place: Place) {}
    /// As [`Backend::cache`], for the decoder: `behind` of the layers lie behind the boundary, and are counted from 0 again.
    fn split_cache(&self, spec: CacheSpec, _behind: usize) -> Result<Self::Cache, Self::Error> {
        self.cache(spec)
    }
    /// Moves the rows in use of `x` to the device behind the boundary.
    fn cross(&self, _x: &mut Self::Matrix) {}

    /// Makes room for steps.
    fn staged(&self) -> Result<Self::Staged, Self::Error>;

    // Moving.

    /// Puts a step where the operations read it: `ids` are its tokens (none for images).
    fn stage(&self, ids: &[u32], step: &Step, out: &mut Self::Staged);

    /// Rows in use.
    fn rows(&self, x: &Self::Matrix) -> usize;
    /// Copies rows from the host: `values` is `[rows, cols]`; sets the number of rows in use.
    fn upload(&self, values: &[f32], out: &mut Self::Matrix);
    /// Copies the rows in use to the host: `out` is `[rows, cols]`.
    fn download(&self, x: &Self::Matrix, out: &mut [f32]);
    /// `out[i] = x[rows[i]]`.
    fn gather(&self, x: &Self::Matrix, rows: &[u32], out: &mut Self::Matrix);
    /// `x[first + i] = rows[i]` for every row in use of `rows`; rows up to the last of them are then in use of `x`.
    fn overwrite(&self, rows: &Self::Matrix, first: usize, x: &mut Self::Matrix);

    // Playing back.

    /// What must be equal so that the operations of one step are those of another: sizes and places in memory. `None`
    /// where recording is of no use.
    fn recording_key(&self, _step: &Self::Staged, _cache: &Self::Cache) -> Option<u64> {
        None
    }
    /// Does `work`, which calls operations of this backend and nothing else that matters. Where `recordings` has its `key`
    /// (and work with equal keys is always the same operations on the same matrices), they may be played back at once
    /// instead.
    fn recorded(&self, _key: [u64; 2], _recordings: &mut Self::Recordings, work: &mut dyn FnMut()) {
        work();
    }

    // Both models.

    /// `out = x · wᵀ`: x `[m, k]`, w `[n, k]`, out `[m, n]`.
    fn matmul(&self, x: &Self::Matrix, w: &Self::Weight, out: &mut Self::Matrix);
    /// `x += y`.
    fn add(&self, y: &Self::Matrix, x: &mut Self::Matrix);
    /// Softmax attention over the cache: q `[m, heads · head_dim]`, out the same shape; `scale` multiplies the scores;
    /// query head h reads key/value head `h / (heads / kv_heads)`.
    fn attention(
        &self,
        q: &Self::Matrix,
        heads: usize,
        cache: &Self::Cache,
        layer: usize,
        step: &Self::Staged,
        window: Option<usize>,
        scale: f32,
        out: &mut Self::Matrix,
    );

    // Gemma 3.

    /// `out[i] = w[ids[i]] · scale` of the step's tokens. Ids are in range (the caller checked them).
    fn embed(&self, w: &Self::Weight, step: &Self::Staged, scale: f32, out: &mut Self::Matrix);
    /// `out = x / rms(x) · (1 + w)`, with the 1 already added into `w`; rms over each row with `eps` under the root.
    fn rms_norm(&self, x: &Self::Matrix, w: &Self::Vector, eps: f32, out: &mut Self::Matrix);
    /// `x += rms_norm(y, w)`: the post-norm and the residual in one.
    fn add_rms_norm(&self, y: &Self::Matrix, w: &Self::Vector, eps: f32, x: &mut Self::Matrix);
    /// `x += rms_norm(y, post)`, then `out = rms_norm(x, next)`.
    fn residual_norm(
        &self,
        y: &Self::Matrix,
        post: &Self::Vector,
        next: &Self::Vector,
        eps: f32,
        x: &mut Self::Matrix,
        out: &mut Self::Matrix,
    ) {
        self.add_rms_norm(y, post, eps, x);
        self.rms_norm(x, next, eps, out);
    }
    /// `x += rms_norm(y, post)` where y is a product, `from · wᵀ` of `(from, w)`; with `next`, then `out = rms_norm(x, next)`. `y` is room
    /// for the product, and what it holds afterwards is not said.
    fn matmul_residual(
        &self,
        product: (&Self::Matrix, &Self::Weight),
        y: &mut Self::Matrix,
        post: &Self::Vector,
        eps: f32,
        x: &mut Self::Matrix,
        next: Option<(&Self::Vector, &mut Self::Matrix)>,
    ) {
        self.matmul(product.0, product.1, y);
        match next {
            Some((next, out)) => self.residual_norm(y, post, next, eps, x, out),
            None => self.add_rms_norm(y, post, eps, x),
        }
    }
    /// `out = gelu_tanh(gate) · up`, where `gate_up` is `[m, 2·n]`: n columns of gate, then n of up; out `[m, n]`.
    fn geglu(&self, gate_up: &Self::Matrix, out: &mut Self::Matrix);
    /// `out = geglu(x · wᵀ)`; `gate_up` is room for the product, and what it holds afterwards is not said.
    fn matmul_geglu(&self, x: &Self::Matrix, w: &Self::Weight, gate_up: &mut Self::Matrix, out: &mut Self::Matrix) {
        self.matmul(x, w, gate_up);
        self.geglu(gate_up, out);
    }
    /// What follows attention in a layer, up to the next layer's q, k and v, in one: `x += post_attention_norm(attention ·
    /// attn_outputᵀ)`, `x += post_ffw_norm(geglu(ffn_norm(x) · gate_upᵀ) · downᵀ)`, `qkv` is the next layer's product of its
    /// norm of x. `normed` `[m, h]` and `activated` `[m, f]` are room, and what they hold afterwards is not said. False, and
    /// nothing was done, where the backend has no such thing for these shapes: then the operations are called one by one.
    fn behind_attention(
        &self,
        _behind: &Behind<'_, Self>,
        _attention: &Self::Matrix,
        _x: &mut Self::Matrix,
        _normed: &mut Self::Matrix,
        _activated: &mut Self::Matrix,
        _qkv: &mut Self::Matrix,
    ) -> bool {
        false
    }
    /// The most likely token of each row; `out` is as long as there are rows.
    fn greedy(&self, logits: &Self::Matrix, out: &mut [Greedy]);
    /// Cosines and sines for the step's positions: out `[m, head_dim]`, `head_dim/2` cosines then as many sines of
    /// `position · inv_freq`, the product rounded to f32 as the reference does.
    fn rope_table(&self, inv_freq: &Self::Vector, step: &Self::Staged, out: &mut Self::Matrix);
    /// Splits `qkv` `[m, (heads + 2·kv_heads)·head_dim]` into q, k, v; norms q and k per head (weights `[head_dim]`,
    /// 1 already added); rotates both by the table (pairs `i`, `i + head_dim/2`); writes q to `q` and k, v to the
    /// cache at the rows' positions.
    fn qkv_rope_store(
        &self,
        qkv: &Self::Matrix,
        heads: usize,
        q_norm: &Self::Vector,
        k_norm: &Self::Vector,
        eps: f32,
        rope: &Self::Matrix,
        step: &Self::Staged,
        cache: &mut Self::Cache,
        layer: usize,
        q: &mut Self::Matrix,
    );

    /// [`Backend::qkv_rope_store`], then [`Backend::attention`]; `q` is room for the queries, and what it holds afterwards is
    /// not said.
    fn qkv_attention(
        &self,
        qkv: &Self::Matrix,
        heads: usize,
        q_norm: &Self::Vector,
        k_norm: &Self::Vector,
        eps: f32,
        rope: &Self::Matrix,
        step: &Self::Staged,
        cache: &mut Self::Cache,
        layer: usize,
        window: Option<usize>,
        scale: f32,
        q: &mut Self::Matrix,
        out: &mut Self::Matrix,
    ) {
        self.qkv_rope_store(qkv, heads, q_norm, k_norm, eps, rope, step, cache, layer, q);
        self.attention(q, heads, cache, layer, step, window, scale, out);
    }

    // SigLIP.

    /// `out = x · wᵀ + bias`.
    fn matmul_bias(&self, x: &Self::Matrix, w: &Self::Weight, bias: &Self::Vector, out: &mut Self::Matrix);
    /// `out = gelu_tanh(x · wᵀ + bias)`.
    fn matmul_bias_gelu(&self, x: &Self::Matrix, w: &Self::Weight, bias: &Self::Vector, out: &mut Self::Matrix);
    /// `sum += x · wᵀ + bias`; `out` is room for the product, and what it holds afterwards is not said.
    fn matmul_bias_add(
        &self,
        x: &Self::Matrix,
        w: &Self::Weight,
        bias: &Self::Vector,
        out: &mut Self::Matrix,
        sum: &mut Self::Matrix,
    ) {
        self.matmul_bias(x, w, bias, out);
        self.add(out, sum);
    }
    /// `out = (x - mean) / sqrt(var + eps) · w + b` over each row.
    fn layer_norm(&self, x: &Self::Matrix, w: &Self::Vector, b: &Self::Vector, eps: f32, out: &mut Self::Matrix);
    /// Splits `qkv` `[m, 3·heads·head_dim]` and writes q to `q` and k, v to the cache: no norm, no rotation.
    fn qkv_store(
        &self,
        qkv: &Self::Matrix,
        step: &Self::Staged,
        cache: &mut Self::Cache,
        layer: usize,
        q: &mut Self::Matrix,
    );
    /// Mean over squares of `kernel × kernel`: x `[side², cols]` in raster order, out `[(side/kernel)², cols]`.
    fn avg_pool(&self, x: &Self::Matrix, side: usize, kernel: usize, out: &mut Self::Matrix);
}
