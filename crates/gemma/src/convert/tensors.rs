//! The tensors of a file, and how their bytes are made.

use super::mix::{Role, Target, dtype, vision_dtype};
use super::{Error, Progress};
use crate::{Config, VisionConfig, Weights};
use medgemma_formats::{DType, GgufTensors, Tensor, quantize};
use std::io::Write;
use std::ops::ControlFlow;

/// Elements encoded between two writes, over all threads: what conversion holds in memory besides the output's
/// buffer, in floats 16 MB.
const STEP: usize = 1 << 22;

/// Where a tensor's values come from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Values {
    /// The checkpoint's, as they are.
    Stored,
    /// RMSNorm weights: with the 1 that the formula adds, times a factor.
    RmsNorm(f32),
}

/// A tensor to be written.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) dtype: DType,
    /// Outermost first.
    pub(super) shape: Vec<usize>,
    values: Values,
}

impl Planned {
    fn vector(name: String, len: usize) -> Self {
        Self { name, dtype: DType::F32, shape: vec![len], values: Values::Stored }
    }

    fn rms_norm(name: String, len: usize, factor: f32) -> Self {
        Self { name, dtype: DType::F32, shape: vec![len], values: Values::RmsNorm(factor) }
    }

    fn matrix(name: String, dtype: DType, shape: &[usize]) -> Self {
        Self { name, dtype, shape: shape.to_vec(), values: Values::Stored }
    }

    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes in the file, without padding.
    pub(super) fn bytes(&self) -> usize {
        let row = self.shape.last().and_then(|&cols| self.dtype.row_bytes(cols)).unwrap_or(0);
        self.shape[..self.shape.len() - 1].iter().product::<usize>() * row
    }
}

/// The decoder's tensors. `q_norm_factor` goes into the weights of the queries' norm.
///
/// # Errors
/// When the checkpoint's description of its output matrix is broken.
pub(super) fn text(
    config: &Config,
    weights: &Weights,
    target: Target,
    q_norm_factor: f32,
) -> Result<Vec<Planned>, Error> {
    let c = &config.text;
    let (h, f, d) = (c.hidden, c.ffn, c.head_dim);
    let (q, kv) = (c.heads * d, c.kv_heads * d);
    let layers = c.global.len();
    let matrix = |name: String, role: Role, rows: usize, cols: usize| {
        Planned::matrix(name, dtype(target, role, cols), &[rows, cols])
    };
    let untied = !c.tied && weights.contains("output.weight")?;
    let table = if untied { Role::Matrix } else { Role::Output };
    let mut out = vec![matrix("token_embd.weight".into(), table, c.vocab, h)];
    for layer in 0..layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let sensitive = Role::Sensitive { layer, layers };
        out.extend([
            Planned::rms_norm(name("attn_norm"), h, 1.0),
            matrix(name("attn_q"), Role::Matrix, q, h),
            matrix(name("attn_k"), Role::Matrix, kv, h),
            matrix(name("attn_v"), sensitive, kv, h),
            Planned::rms_norm(name("attn_q_norm"), d, q_norm_factor),
            Planned::rms_norm(name("attn_k_norm"), d, 1.0),
            matrix(name("attn_output"), Role::Matrix, h, q),
            Planned::rms_norm(name("post_attention_norm"), h, 1.0),
            Planned::rms_norm(name("ffn_norm"), h, 1.0),
            matrix(name("ffn_gate"), Role::Matrix, f, h),
            matrix(name("ffn_up"), Role::Matrix, f, h),
            matrix(name("ffn_down"), sensitive, h, f),
            Planned::rms_norm(name("post_ffw_norm"), h, 1.0),
        ]);
    }
    out.push(Planned::rms_norm("output_norm.weight".into(), h, 1.0));
    if untied {
        out.push(matrix("output.weight".into(), Role::Output, c.vocab, h));
    }
    Ok(out)
}

/// The image encoder's tensors and the projector's.
///
/// llama.cpp takes the patch embedding (a convolution there) in F32 or F16 only, and can't transpose the projection,
/// as it must, in BF16: both stay in F32, and so do the positions, which are added to the residual stream.
pub(super) fn vision(v: &VisionConfig, text_hidden: usize, stored: DType, target: Target) -> Vec<Planned> {
    let float = vision_dtype(target, stored);
    let (h, f) = (v.hidden, v.ffn);
    let full = |name: &str, shape: &[usize]| Planned::matrix(name.into(), DType::F32, shape);
    let mut out = vec![
        full("v.patch_embd.weight", &[h, 3, v.patch, v.patch]),
        Planned::vector("v.patch_embd.bias".into(), h),
        full("v.position_embd.weight", &[v.patches(), h]),
    ];
    for layer in 0..v.layers {
        let mut linear = |part: &str, rows: usize, cols: usize| {
            let name = |suffix: &str| format!("v.blk.{layer}.{part}.{suffix}");
            if cols > 0 {
                out.push(Planned::matrix(name("weight"), float, &[rows, cols]));
            } else {
                out.push(Planned::vector(name("weight"), rows));
            }
            out.push(Planned::vector(name("bias"), rows));
        };
        linear("ln1", h, 0);
        for part in ["attn_q", "attn_k", "attn_v", "attn_out"] {
            linear(part, h, h);
        }
        linear("ln2", h, 0);
        linear("ffn_up", f, h);
        linear("ffn_down", h, f);
    }
    out.push(Planned::vector("v.post_ln.weight".into(), h));
    out.push(Planned::vector("v.post_ln.bias".into(), h));
    out.push(Planned::rms_norm("mm.soft_emb_norm.weight".into(), h, 1.0));
    out.push(full("mm.input_projection.weight", &[h, text_hidden]));
    out
}

/// Looks whether the checkpoint has the tensors, in their shapes.
///
/// # Errors
/// When one is missing or has another shape.
pub(super) fn check<'a>(weights: &Weights, planned: impl Iterator<Item = &'a Planned>) -> Result<(), Error> {
    if matches!(weights, Weights::Synthetic(_)) {
        return Ok(()); // makes whatever is asked for, at length
    }
    for tensor in planned {
        weights.tensor(&tensor.name, &tensor.shape)?;
    }
    Ok(())
}

/// Writes the tensors of a file one after the other, their rows encoded by `threads` at a time.
pub(super) struct Encoder<'a> {
    pub(super) weights: &'a Weights,
    pub(super) threads: usize,
    /// Told of every step; may break off.
    pub(super) progress: &'a mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    pub(super) done: u64,
    pub(super) total: u64,
}

impl Encoder<'_> {
    /// Encodes and writes one tensor.
    ///
    /// # Errors
    /// When it has values that its type can't hold, writing fails, or the caller broke off.
    pub(super) fn write<W: Write>(&mut self, tensor: &Planned, out: &mut GgufTensors<W>) -> Result<(), Error> {
        if let Values::RmsNorm(factor) = tensor.values {
            let mut values = self.weights.rms_norm(&tensor.name, tensor.elements())?;
            values.iter_mut().for_each(|value| *value *= factor);
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            return self.put(tensor, &bytes, out);
        }
        let stored = self.weights.tensor(&tensor.name, &tensor.shape)?;
        // Layouts differ in dimensions of 1 and a row must be what the file calls one.
        let stored = Tensor::from_parts(stored.name, stored.dtype, tensor.shape.clone(), stored.bytes, stored.nf4)?;
        if stored.dtype == tensor.dtype {
            for bytes in stored.bytes.chunks(STEP) {
                self.put(tensor, bytes, out)?;
            }
            return Ok(());
        }
        let rows = (STEP / stored.cols().max(1)).max(1);
        let mut first = 0;
        while first < stored.rows() {
            let end = stored.rows().min(first + rows);
            for bytes in self.encode(tensor, &stored, first, end)? {
                self.put(tensor, &bytes, out)?;
            }
            first = end;
        }
        Ok(())
    }

    /// Encodes rows `first..end`, in one piece a thread.
    fn encode(&self, to: &Planned, from: &Tensor, first: usize, end: usize) -> Result<Vec<Vec<u8>>, Error> {
        let each = (end - first).div_ceil(self.threads).max(1);
        let part = |begin: usize| -> Result<Vec<u8>, medgemma_formats::Error> {
            let mut row = vec![0.0; from.cols()];
            let mut bytes = Vec::new();
            for index in begin..end.min(begin + each) {
                from.row_f32(index, &mut row)?;
                quantize(to.dtype, &row, &mut bytes)?;
            }
            Ok(bytes)
        };
        let parts: Vec<_> = std::thread::scope(|scope| {
            let handles: Vec<_> = (first..end).step_by(each).map(|begin| scope.spawn(move || part(begin))).collect();
            // A panic in a thread is a fault of this program: hand it on.
            handles.into_iter().map(|h| h.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        parts.into_iter().collect::<Result<_, _>>().map_err(|error| match error {
            medgemma_formats::Error::Blocks { dtype, problem } => {
                self.weights.error(&to.name, format!("{dtype}: {problem}"))
            }
            other => other.into(),
        })
    }

    fn put<W: Write>(&mut self, tensor: &Planned, bytes: &[u8], out: &mut GgufTensors<W>) -> Result<(), Error> {
        out.write(bytes)?;
        self.done += bytes.len() as u64;
        match (self.progress)(Progress { tensor: &tensor.name, done: self.done, total: self.total }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        }
    }
}
