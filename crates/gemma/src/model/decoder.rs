//! The Gemma 3 decoder.

use super::{ImageFeatures, backend};
use crate::{Error, TextConfig, Weights};
use medgemma_kernels::{Backend, Behind, CacheSpec, CacheType, Greedy, Place, Step, WeightFormat};

/// Weights of the decoder.
pub(super) struct Decoder<B: Backend> {
    /// `[vocab, h]`; also the output matrix when tied.
    embedding: B::Weight,
    output: Option<B::Weight>,
    output_norm: B::Vector,
    rope_global: B::Vector,
    rope_local: B::Vector,
    layers: Vec<Layer<B>>,
}

struct Layer<B: Backend> {
    global: bool,
    /// Index among the layers of its pool on its device.
    cache_layer: usize,
    attn_norm: B::Vector,
    /// q, k and v stacked: `[q + 2·kv, h]`.
    qkv: B::Weight,
    q_norm: B::Vector,
    k_norm: B::Vector,
    /// `[h, q]`.
    attn_output: B::Weight,
    post_attention_norm: B::Vector,
    ffn_norm: B::Vector,
    /// gate and up stacked: `[2·f, h]`.
    gate_up: B::Weight,
    /// `[h, f]`.
    down: B::Weight,
    post_ffw_norm: B::Vector,
}

/// The two pools of keys and values: global layers keep everything, local layers their window.
pub struct Caches<B: Backend> {
    global: B::Cache,
    local: B::Cache,
}

/// Activations of one step, allocated once.
pub struct Workspace<B: Backend> {
    rows: usize,
    outputs: usize,
    /// The step as the device sees it, with the blocks of either pool.
    global: B::Staged,
    local: B::Staged,
    recordings: B::Recordings,
    /// The residual stream `[m, h]`.
    x: B::Matrix,
    /// Normed input of a block `[m, h]`.
    normed: B::Matrix,
    qkv: B::Matrix,
    q: B::Matrix,
    attention: B::Matrix,
    /// Output of a block before its post-norm `[m, h]`.
    block: B::Matrix,
    gate_up: B::Matrix,
    activated: B::Matrix,
    rope_global: B::Matrix,
    rope_local: B::Matrix,
    /// Rows that want logits `[outputs, h]`.
    last: B::Matrix,
    last_normed: B::Matrix,
    logits: B::Matrix,
}

/// What one step computes.
pub struct Input<'a, B: Backend> {
    /// Token id of each row.
    pub ids: &'a [u32],
    /// Rows and blocks of the global pool.
    pub global: &'a Step,
    /// The same rows and the blocks of the local pool.
    pub local: &'a Step,
    /// Image features, and the row of the step at which each begins.
    pub images: &'a [(usize, &'a ImageFeatures<B>)],
}

/// How the embedding table is held, which is the output matrix, too: it suffers most from few bits. llama.cpp gives it 6
/// or 8 where the others have 4, bitsandbytes leaves it as it is.
fn embedding_format(format: WeightFormat) -> WeightFormat {
    match format {
        WeightFormat::Q4 | WeightFormat::F8 => WeightFormat::Q8,
        WeightFormat::Nf4 => WeightFormat::Stored,
        other => other,
    }
}

impl<B: Backend> Decoder<B> {
    pub(super) fn load(
        b: &B,
        c: &TextConfig,
        weights: &Weights,
        format: WeightFormat,
        step: &mut impl FnMut(),
    ) -> Result<Self, Error> {
        let matrix = |name: &str| -> Result<B::Weight, Error> {
            let tensor = weights.tensor(name, &[c.vocab, c.hidden])?;
            b.weight(&[&tensor], embedding_format(format)).map_err(backend)
        };
        b.place(Place::Embedding { tied: c.tied });
        let embedding = matrix("token_embd.weight")?;
        b.place(Place::Output);
        let output = if c.tied { None } else { Some(matrix("output.weight")?) };
        step();
        let (mut globals, mut locals) = (0, 0);
        let mut layers = Vec::with_capacity(c.global.len());
        for (index, &global) in c.global.iter().enumerate() {
            b.place(Place::Layer(index));
            // Behind a boundary layers have a cache of their own.
            if b.boundary() == Some(index) {
                (globals, locals) = (0, 0);
            }
            let counter = if global { &mut globals } else { &mut locals };
            layers.push(Layer::load(b, c, weights, format, index, global, *counter)?);
            *counter += 1;
            step();
        }
        Ok(Self {
            embedding,
            output,
            output_norm: b.vector(&weights.rms_norm("output_norm.weight", c.hidden)?).map_err(backend)?,
            rope_global: b.vector(&c.rope_global.inverse_frequencies(c.head_dim)).map_err(backend)?,
            rope_local: b.vector(&c.rope_local.inverse_frequencies(c.head_dim)).map_err(backend)?,
            layers,
        })
    }

    pub(super) fn weight_bytes(&self, b: &B) -> usize {
        let layer = |l: &Layer<B>| [&l.qkv, &l.attn_output, &l.gate_up, &l.down].map(|w| b.weight_bytes(w));
        let layers: usize = self.layers.iter().flat_map(layer).sum();
        layers + b.weight_bytes(&self.embedding) + self.output.as_ref().map_or(0, |w| b.weight_bytes(w))
    }

    pub(super) fn forward(
        &self,
        b: &B,
        c: &TextConfig,
        input: &Input<'_, B>,
        caches: &mut Caches<B>,
        ws: &mut Workspace<B>,
    ) {
        let rows = input.ids.len();
        assert!(rows <= ws.rows, "a step of {rows} rows in a workspace of {}", ws.rows);
        assert!(input.global.positions.len() == rows && input.local.positions.len() == rows);
        b.stage(input.ids, input.global, &mut ws.global);
        b.stage(input.ids, input.local, &mut ws.local);
        let keys = b.recording_key(&ws.global, &caches.global).zip(b.recording_key(&ws.local, &caches.local));
        match keys.filter(|_| input.images.is_empty()) {
            Some((global, local)) => {
                let mut recordings = std::mem::take(&mut ws.recordings);
                b.recorded([global, local], &mut recordings, &mut || self.run(b, c, &[], caches, ws));
                ws.recordings = recordings;
            }
            None => self.run(b, c, input.images, caches, ws),
        }
    }

    /// The operations of a staged step.
    fn run(
        &self,
        b: &B,
        c: &TextConfig,
        images: &[(usize, &ImageFeatures<B>)],
        caches: &mut Caches<B>,
        ws: &mut Workspace<B>,
    ) {
        b.embed(&self.embedding, &ws.global, (c.hidden as f32).sqrt(), &mut ws.x);
        for (first, features) in images {
            b.overwrite(&features.0, *first, &mut ws.x);
        }
        b.rope_table(&self.rope_global, &ws.global, &mut ws.rope_global);
        b.rope_table(&self.rope_local, &ws.local, &mut ws.rope_local);
        self.begin(b, c, 0, ws);
        for (index, layer) in self.layers.iter().enumerate() {
            layer.attend(b, c, caches, ws);
            let crossed = b.boundary() == Some(index + 1);
            let next = self.layers.get(index + 1).filter(|_| !crossed);
            if !layer.follow(b, c, next, ws) {
                layer.output(b, c, ws);
                layer.feed_forward(b, c, next, ws);
            }
            if crossed {
                self.begin(b, c, index + 1, ws);
            }
        }
    }

    /// Begins with layer `index`, where none before it did on this device: `x` is brought there, and `qkv` is what the layer
    /// begins with.
    fn begin(&self, b: &B, c: &TextConfig, index: usize, ws: &mut Workspace<B>) {
        if b.boundary() == Some(index) {
            b.cross(&mut ws.x);
        }
        if let Some(layer) = self.layers.get(index) {
            b.rms_norm(&ws.x, &layer.attn_norm, c.eps, &mut ws.normed);
            b.matmul(&ws.normed, &layer.qkv, &mut ws.qkv);
        }
    }

    pub(super) fn logits(&self, b: &B, c: &TextConfig, rows: &[u32], ws: &mut Workspace<B>, out: &mut [f32]) {
        self.compute_logits(b, c, rows, ws);
        b.download(&ws.logits, out);
    }

    pub(super) fn greedy(&self, b: &B, c: &TextConfig, rows: &[u32], ws: &mut Workspace<B>, out: &mut [Greedy]) {
        self.compute_logits(b, c, rows, ws);
        b.greedy(&ws.logits, out);
    }

    fn compute_logits(&self, b: &B, c: &TextConfig, rows: &[u32], ws: &mut Workspace<B>) {
        assert!(rows.len() <= ws.outputs, "{} rows of logits in a workspace of {}", rows.len(), ws.outputs);
        b.gather(&ws.x, rows, &mut ws.last);
        b.rms_norm(&ws.last, &self.output_norm, c.eps, &mut ws.last_normed);
        b.matmul(&ws.last_normed, self.output.as_ref().unwrap_or(&self.embedding), &mut ws.logits);
    }
}

impl<B: Backend> Layer<B> {
    fn load(
        b: &B,
        c: &TextConfig,
        weights: &Weights,
        format: WeightFormat,
        index: usize,
        global: bool,
        cache_layer: usize,
    ) -> Result<Self, Error> {
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let stacked = |parts: &[(&str, usize)], cols: usize| -> Result<B::Weight, Error> {
            let tensors = parts
                .iter()
                .map(|(part, rows)| weights.tensor(&format!("blk.{index}.{part}.weight"), &[*rows, cols]))
                .collect::<Result<Vec<_>, _>>()?;
            b.weight(&tensors.iter().collect::<Vec<_>>(), format).map_err(backend)
        };
        let norm = |part: &str, len: usize| -> Result<B::Vector, Error> {
            b.vector(&weights.rms_norm(&format!("blk.{index}.{part}.weight"), len)?).map_err(backend)
        };
        Ok(Self {
            global,
            cache_layer,
            attn_norm: norm("attn_norm", c.hidden)?,
            qkv: stacked(&[("attn_q", q), ("attn_k", kv), ("attn_v", kv)], c.hidden)?,
            q_norm: norm("attn_q_norm", c.head_dim)?,
            k_norm: norm("attn_k_norm", c.head_dim)?,
            attn_output: stacked(&[("attn_output", c.hidden)], q)?,
            post_attention_norm: norm("post_attention_norm", c.hidden)?,
            ffn_norm: norm("ffn_norm", c.hidden)?,
            gate_up: stacked(&[("ffn_gate", c.ffn), ("ffn_up", c.ffn)], c.hidden)?,
            down: stacked(&[("ffn_down", c.hidden)], c.ffn)?,
            post_ffw_norm: norm("post_ffw_norm", c.hidden)?,
        })
    }

    /// Attention over `qkv`.
    fn attend(&self, b: &B, c: &TextConfig, caches: &mut Caches<B>, ws: &mut Workspace<B>) {
        let (step, cache, rope, window) = match self.global {
            true => (&ws.global, &mut caches.global, &ws.rope_global, None),
            false => (&ws.local, &mut caches.local, &ws.rope_local, Some(c.window)),
        };
        b.qkv_attention(
            &ws.qkv,
            c.heads,
            &self.q_norm,
            &self.k_norm,
            c.eps,
            rope,
            step,
            cache,
            self.cache_layer,
            window,
            c.scale,
            &mut ws.q,
            &mut ws.attention,
        );
    }

    /// All that follows attention up to the next layer's `qkv`, where the backend has it in one.
    fn follow(&self, b: &B, c: &TextConfig, next: Option<&Self>, ws: &mut Workspace<B>) -> bool {
        let behind = Behind {
            attn_output: &self.attn_output,
            post_attention_norm: &self.post_attention_norm,
            ffn_norm: &self.ffn_norm,
            gate_up: &self.gate_up,
            down: &self.down,
            post_ffw_norm: &self.post_ffw_norm,
            next: next.map(|next| (&next.attn_norm, &next.qkv)),
            eps: c.eps,
        };
        b.behind_attention(&behind, &ws.attention, &mut ws.x, &mut ws.normed, &mut ws.activated, &mut ws.qkv)
    }

    /// `x += post_attention_norm(attention)`; then `normed` is `ffn_norm(x)`.
    fn output(&self, b: &B, c: &TextConfig, ws: &mut Workspace<B>) {
        let (product, next) = ((&ws.attention, &self.attn_output), (&self.ffn_norm, &mut ws.normed));
        b.matmul_residual(product, &mut ws.block, &self.post_attention_norm, c.eps, &mut ws.x, Some(next));
    }

    /// `x += post_ffw_norm(down(gelu(gate) · up))` of `normed`; then `qkv` is what the next layer begins with.
    fn feed_forward(&self, b: &B, c: &TextConfig, next: Option<&Self>, ws: &mut Workspace<B>) {
        b.matmul_geglu(&ws.normed, &self.gate_up, &mut ws.gate_up, &mut ws.activated);
        let room = next.map(|next| (&next.attn_norm, &mut ws.normed));
        b.matmul_residual((&ws.activated, &self.down), &mut ws.block, &self.post_ffw_norm, c.eps, &mut ws.x, room);
        if let Some(next) = next {
            b.matmul(&ws.normed, &next.qkv, &mut ws.qkv);
        }
    }
}

impl<B: Backend> Caches<B> {
    pub(super) fn new(
        b: &B,
        c: &TextConfig,
        global_blocks: usize,
        local_blocks: usize,
        dtype: CacheType,
    ) -> Result<Self, Error> {
        let behind = &c.global[b.boundary().map_or(c.global.len(), |layer| layer.min(c.global.len()))..];
        let pool = |global: bool, blocks: usize| {
            let layers = c.global.iter().filter(|kind| **kind == global).count();
            let spec = CacheSpec { layers, blocks, kv_heads: c.kv_heads, head_dim: c.head_dim, dtype };
            b.split_cache(spec, behind.iter().filter(|kind| **kind == global).count()).map_err(backend)
        };
        Ok(Self { global: pool(true, global_blocks)?, local: pool(false, local_blocks)? })
    }
}

impl<B: Backend> Workspace<B> {
    pub(super) fn new(b: &B, c: &TextConfig, rows: usize, outputs: usize) -> Result<Self, Error> {
        let matrix = |rows: usize, cols: usize| b.matrix(rows, cols).map_err(backend);
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        Ok(Self {
            rows,
            outputs,
            global: b.staged().map_err(backend)?,
            local: b.staged().map_err(backend)?,
            recordings: B::Recordings::default(),
            x: matrix(rows, c.hidden)?,
            normed: matrix(rows, c.hidden)?,
            qkv: matrix(rows, q + 2 * kv)?,
            q: matrix(rows, q)?,
            attention: matrix(rows, q)?,
            block: matrix(rows, c.hidden)?,
            gate_up: matrix(rows, 2 * c.ffn)?,
            activated: matrix(rows, c.ffn)?,
            rope_global: matrix(rows, c.head_dim)?,
            rope_local: matrix(rows, c.head_dim)?,
            last: matrix(outputs, c.hidden)?,
            last_normed: matrix(outputs, c.hidden)?,
            logits: matrix(outputs, c.vocab)?,
        })
    }

    /// Most rows of a step.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Most rows that get logits at once.
    pub fn outputs(&self) -> usize {
        self.outputs
    }
}
