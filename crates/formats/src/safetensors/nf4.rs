//! NF4 tensors as bitsandbytes serializes them: the packed nibbles under the weight's own name, and beside it
//! `.absmax`, `.quant_map`, the JSON `.quant_state.bitsandbytes__nf4` and, when the scales are quantized themselves,
//! `.nested_absmax` and `.nested_quant_map`.

use super::Safetensors;
use crate::{Bytes, DType, Error, Nf4, Tensor, dequantize};
use serde::Deserialize;
use std::sync::Arc;

/// Suffix of the JSON state.
const STATE: &str = ".quant_state.bitsandbytes__nf4";
/// Suffixes of the other parts.
const PARTS: [&str; 4] = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"];
/// Scales that share a scale, when nested.
const NESTED_BLOCK: usize = 256;

/// The JSON state.
#[derive(Deserialize)]
pub(super) struct State {
    quant_type: String,
    blocksize: usize,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}

impl Safetensors {
    /// Whether a tensor only serves another one, the NF4 weight it belongs to.
    pub(super) fn is_nf4_part(&self, name: &str) -> bool {
        let owner = |suffix: &&str| name.strip_suffix(*suffix).filter(|owner| self.tensors.contains_key(*owner));
        let is_nf4 = |owner: &str| self.tensors.contains_key(&format!("{owner}{STATE}"));
        owner(&STATE).is_some() || PARTS.iter().find_map(owner).is_some_and(is_nf4)
    }

    /// The state of an NF4 tensor, or `None` when it isn't one.
    pub(super) fn nf4_state(&self, name: &str) -> Result<Option<State>, Error> {
        let key = format!("{name}{STATE}");
        if !self.tensors.contains_key(&key) {
            return Ok(None);
        }
        let json = self.part(&key, "U8")?;
        let state: State = serde_json::from_slice(&json)
            .map_err(|e| Error::malformed(self.path_of(&key), &key, format!("not the JSON expected: {e}")))?;
        let expect = |ok: bool, problem: String| {
            if ok { Ok(()) } else { Err(Error::malformed(self.path_of(&key), &key, problem)) }
        };
        let State { quant_type, blocksize, nested_blocksize, nested_offset, .. } = &state;
        expect(quant_type == "nf4", format!("quant_type {quant_type:?} where \"nf4\" was expected"))?;
        let block = DType::Nf4.block_len();
        expect(*blocksize == block, format!("blocksize {blocksize}: only {block} is supported"))?;
        let nested = nested_blocksize.is_none_or(|n| n == NESTED_BLOCK);
        expect(nested, format!("nested_blocksize {nested_blocksize:?}: only {NESTED_BLOCK} is supported"))?;
        expect(nested_offset.is_none_or(f32::is_finite), "nested_offset is not a finite number".into())?;
        Ok(Some(state))
    }

    /// Puts an NF4 tensor together.
    pub(super) fn nf4_tensor(&self, name: &str, state: &State) -> Result<Tensor, Error> {
        let wrong =
            |part: &str, problem: String| Error::malformed(self.path_of(name), format!("{name}{part}"), problem);
        // Whatever element type the nibbles are stored as (U8, or bf16 in FSDP checkpoints), they are bytes.
        let (shard, entry) = self.tensors.get(name).ok_or_else(|| wrong("", "absent".into()))?;
        let nibbles = self.bytes(*shard, entry)?;
        let elements = state.shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
        let elements = elements.ok_or_else(|| wrong(STATE, format!("shape {:?} overflows", state.shape)))?;
        if elements.div_ceil(2) != nibbles.len() {
            let problem = format!("shape {:?} doesn't take the weight's {} bytes", state.shape, nibbles.len());
            return Err(wrong(STATE, problem));
        }
        let scales = elements.div_ceil(DType::Nf4.block_len());
        let quant_map = self.floats(&format!("{name}.quant_map"), 16)?;
        let quant_map = quant_map.try_into().map_err(|_| wrong(".quant_map", "not 16 values".into()))?;
        let absmax = match state.nested_blocksize {
            None => self.floats(&format!("{name}.absmax"), scales)?,
            Some(_) => self.nested_scales(name, scales, state.nested_offset.unwrap_or(0.0))?,
        };
        let nf4 = Some(Arc::new(Nf4 { quant_map, absmax }));
        Tensor::from_parts(name, DType::Nf4, state.shape.clone(), nibbles, nf4)
    }

    /// Scales that are quantized themselves: `map[u8_i] · nested_absmax[i / 256] + offset`.
    fn nested_scales(&self, name: &str, scales: usize, offset: f32) -> Result<Vec<f32>, Error> {
        let key = format!("{name}.absmax");
        let codes = self.part(&key, "U8")?;
        if codes.len() != scales {
            let problem = format!("{} scales where the shape takes {scales}", codes.len());
            return Err(Error::malformed(self.path_of(&key), key, problem));
        }
        let map = self.floats(&format!("{name}.nested_quant_map"), 256)?;
        let nested = self.floats(&format!("{name}.nested_absmax"), scales.div_ceil(NESTED_BLOCK))?;
        let mut absmax = Vec::with_capacity(codes.len());
        for (codes, scale) in codes.chunks(NESTED_BLOCK).zip(nested) {
            absmax.extend(codes.iter().map(|&code| map[usize::from(code)] * scale + offset));
        }
        Ok(absmax)
    }

    /// The bytes of a part, which must be there and of the type named.
    fn part(&self, key: &str, dtype: &str) -> Result<Bytes, Error> {
        let Some((shard, entry)) = self.tensors.get(key) else {
            let problem = "absent, though the weight's NF4 state needs it";
            return Err(Error::malformed(self.path_of(key), key, problem));
        };
        if entry.dtype != dtype {
            let problem = format!("{} elements where {dtype} was expected", entry.dtype);
            return Err(Error::malformed(self.path_of(key), key, problem));
        }
        self.bytes(*shard, entry)
    }

    /// A part of `expected` F32 values.
    fn floats(&self, key: &str, expected: usize) -> Result<Vec<f32>, Error> {
        let bytes = self.part(key, "F32")?;
        if Some(bytes.len()) != expected.checked_mul(4) {
            let problem = format!("{} values where {expected} were expected", bytes.len() / 4);
            return Err(Error::malformed(self.path_of(key), key, problem));
        }
        let mut out = vec![0.0; expected];
        dequantize(DType::F32, &bytes, &mut out)?;
        Ok(out)
    }
}
