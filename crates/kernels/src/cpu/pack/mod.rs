//! Weight matrices, packed at load in panels of [`LANES`] output rows.
//!
//! A panel is interleaved along k: one vector load brings the same k of all its rows. One row of activations and many
//! read the same layout in the same order, so that they give the same sums.
//!
//! Rows are read, converted and packed panel by panel, so that loading a model takes little more memory than holding
//! it.
#![allow(unsafe_code)]

mod blocks;
mod layout;
mod panel;

use super::Error;
use super::memory::{Buffer, Parts};
use super::pool::Pool;
use super::simd::LANES;
use super::store::{Store, WriteError, Writer, tag};
use crate::backend::WeightFormat;
pub(crate) use layout::{Bits, F8_SCALES, GROUP, Ints, Layout, NF4_BLOCK, NF4_BYTES, RECORD, Scales};
use medgemma_formats::{Bytes, DType, Nf4, Tensor, f8_scale, f32_to_f8, quantize, quantize_nf4};
use panel::Row;
use std::fmt::Write;
use std::ops::Deref;
use std::sync::{Mutex, PoisonError};

/// A packed weight matrix `[n, k]`.
///
/// Tensors of different types may be stacked in one weight (a Q4_K_M file mixes Q4_K and Q6_K): each run of rows of
/// one layout is a segment.
#[derive(Debug)]
pub struct CpuWeight {
    n: usize,
    k: usize,
    segments: Vec<Segment>,
}

/// Consecutive rows in one layout.
#[derive(Debug)]
pub(crate) struct Segment {
    /// First row of the weight.
    pub(crate) first: usize,
    pub(crate) rows: usize,
    pub(crate) layout: Layout,
    panel_bytes: usize,
    data: Data,
}

/// The memory of packed rows.
#[derive(Debug)]
enum Data {
    Own(Buffer<u8>),
    /// Of a file that holds what was packed before.
    Mapped(Bytes),
}

impl Deref for Data {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(buffer) => buffer,
            Self::Mapped(bytes) => bytes,
        }
    }
}

impl Segment {
    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    pub(crate) fn panel(&self, panel: usize) -> &[u8] {
        &self.data[panel * self.panel_bytes..][..self.panel_bytes]
    }
}

/// How rows of a tensor come into a panel.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Via {
    /// As the bytes they are.
    Bytes,
    /// As values.
    Values,
    /// Quantized to a block type.
    Blocks(DType),
    /// Quantized to NF4.
    Nf4,
    /// Rounded to 8-bit floats.
    F8,
}

/// Where rows come from.
#[derive(Clone, Copy)]
enum Source<'a> {
    Tensor(&'a Tensor),
    Values(&'a [f32]),
}

/// Rows that come from one source in one way.
struct Part<'a> {
    source: Source<'a>,
    rows: usize,
    layout: Layout,
    via: Via,
}

impl CpuWeight {
    /// Packs the rows of `tensors`, stacked.
    ///
    /// K that a requested format's groups don't divide (NF4: 64, Q8 and Q4: 32) is held as [`WeightFormat::Stored`].
    pub(crate) fn from_tensors(
        pool: &Pool,
        store: &mut Store,
        tensors: &[&Tensor],
        format: WeightFormat,
    ) -> Result<Self, Error> {
        let k = tensors.first().map_or(0, |t| t.cols());
        let mut parts = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            if tensor.cols() != k {
                return Err(Error::Shape(format!(
                    "tensor {}: {} columns where the rows it is stacked on have {k}",
                    tensor.name,
                    tensor.cols()
                )));
            }
            let map = tensor.nf4.as_ref().map(|nf4| nf4.quant_map);
            let (layout, via) = plan(tensor.dtype, map, k, format);
            parts.push(Part { source: Source::Tensor(tensor), rows: tensor.rows(), layout, via });
        }
        Self::pack(pool, store, &parts, k)
    }

    /// Packs `values`, `[n, k]`.
    pub(crate) fn from_values(
        pool: &Pool,
        store: &mut Store,
        values: &[f32],
        n: usize,
        k: usize,
        format: WeightFormat,
    ) -> Result<Self, Error> {
        if n.checked_mul(k) != Some(values.len()) {
            return Err(Error::Shape(format!("{} values for a weight of {n} × {k}", values.len())));
        }
        let (layout, via) = plan(DType::F32, None, k, format);
        Self::pack(pool, store, &[Part { source: Source::Values(values), rows: n, layout, via }], k)
    }

    fn pack(pool: &Pool, store: &mut Store, parts: &[Part<'_>], k: usize) -> Result<Self, Error> {
        if k == 0 {
            return Err(Error::Shape("a weight without columns".into()));
        }
        let mut segments = Vec::new();
        let mut n = 0usize;
        for run in parts.chunk_by(|a, b| a.layout == b.layout) {
            let rows = run.iter().try_fold(0usize, |sum, part| sum.checked_add(part.rows)).ok_or(Error::TooLarge)?;
            segments.push(pack_segment(pool, store, run, n, rows, k)?);
            n = n.checked_add(rows).ok_or(Error::TooLarge)?;
        }
        Ok(Self { n, k, segments })
    }

    /// Output features.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input features.
    pub fn k(&self) -> usize {
        self.k
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    pub(crate) fn bytes(&self) -> usize {
        self.segments.iter().map(|s| s.data.len()).sum()
    }

    /// Decodes row `row` into `out`, times `by`.
    pub(crate) fn row(&self, row: usize, by: f32, out: &mut [f32]) {
        assert!(row < self.n && out.len() == self.k, "row {row} of a weight of {} × {}", self.n, self.k);
        let segment = &self.segments[self.segments.partition_point(|s| s.first + s.rows <= row)];
        let row = row - segment.first;
        panel::read(&segment.layout, segment.panel(row / LANES), row % LANES, by, out);
    }
}

/// The layout for rows of `k` elements of type `dtype`, and how they come into it.
fn plan(dtype: DType, map: Option<[f32; 16]>, k: usize, format: WeightFormat) -> (Layout, Via) {
    let whole = |block: usize| k.is_multiple_of(block);
    match format {
        WeightFormat::F32 => (Layout::F32, Via::Values),
        WeightFormat::BF16Products if dtype == DType::BF16 && whole(2) => (Layout::Pairs, Via::Bytes),
        WeightFormat::BF16Products if dtype == DType::F16 && whole(2) => (Layout::Pairs, Via::Values),
        WeightFormat::BF16 if dtype != DType::BF16 => (Layout::BF16, Via::Values),
        WeightFormat::Q8 if dtype != DType::Q8_0 && whole(GROUP) => quantized(DType::Q8_0),
        WeightFormat::Q4 if dtype != DType::Q4_0 && whole(GROUP) => quantized(DType::Q4_0),
        WeightFormat::Nf4 if dtype != DType::Nf4 && whole(NF4_BLOCK) => (Layout::Nf4(Nf4::VALUES), Via::Nf4),
        WeightFormat::F8 if blocks::layout(dtype).is_none() => (Layout::F8, Via::F8),
        _ => match (dtype, map) {
            (DType::F16, _) => (Layout::F16, Via::Bytes),
            (DType::BF16, _) => (Layout::BF16, Via::Bytes),
            // Blocks run over the flattened tensor: where they cross rows, the values are kept instead.
            (DType::Nf4, Some(map)) if whole(NF4_BLOCK) => (Layout::Nf4(map), Via::Bytes),
            _ => match blocks::layout(dtype) {
                Some(ints) => (Layout::Int(ints), Via::Bytes),
                None => (Layout::F32, Via::Values),
            },
        },
    }
}

fn quantized(dtype: DType) -> (Layout, Via) {
    (blocks::layout(dtype).map_or(Layout::F32, Layout::Int), Via::Blocks(dtype))
}

/// Packs parts of one layout, or takes them from the store.
fn pack_segment(
    pool: &Pool,
    store: &mut Store,
    parts: &[Part<'_>],
    first: usize,
    rows: usize,
    k: usize,
) -> Result<Segment, Error> {
    let layout = parts[0].layout;
    let panel_bytes = layout.panel_bytes(k)?;
    let len = rows.div_ceil(LANES).checked_mul(panel_bytes).ok_or(Error::TooLarge)?;
    let tag = tag(|to| parts.iter().try_for_each(|part| part.describe(to)));
    let panels = Panels { parts, layout, panel_bytes, rows, k };
    let data = match store.take(tag, len) {
        Some(bytes) => Data::Mapped(bytes),
        None => {
            let data = match store.put(tag, len, |file| panels.write(pool, file, len))? {
                Some(bytes) => Data::Mapped(bytes),
                None => Data::Own(panels.in_memory(pool, len)?),
            };
            for part in parts {
                if let Source::Tensor(tensor) = part.source {
                    tensor.bytes.release();
                }
            }
            data
        }
    };
    Ok(Segment { first, rows, layout, panel_bytes, data })
}

impl Part<'_> {
    /// Writes what decides the packed bytes, but for the values.
    fn describe(&self, to: &mut String) -> std::fmt::Result {
        let (name, dtype) = match self.source {
            Source::Tensor(tensor) => (tensor.name.as_str(), tensor.dtype),
            Source::Values(_) => ("", DType::F32),
        };
        write!(to, "{name:?} {dtype:?} {} {:?} {:?};", self.rows, self.layout, self.via)
    }
}

/// What is to be packed as one segment.
struct Panels<'a> {
    parts: &'a [Part<'a>],
    layout: Layout,
    panel_bytes: usize,
    rows: usize,
    k: usize,
}

/// Bytes that are packed before they are written to a file: a large page.
const PIECE: usize = 2 << 20;

impl Panels<'_> {
    /// Packs one panel into zeroed bytes.
    fn pack(&self, panel: usize, out: &mut [u8]) -> Result<(), Error> {
        let range = panel * LANES..self.rows.min((panel + 1) * LANES);
        let held: Vec<Held<'_>> = range.map(|row| hold(self.parts, row, self.k)).collect::<Result<_, _>>()?;
        let rows: Vec<Row<'_>> = held.iter().map(Held::row).collect();
        panel::write(&self.layout, self.k, &rows, out);
        Ok(())
    }

    fn in_memory(&self, pool: &Pool, len: usize) -> Result<Buffer<u8>, Error> {
        let mut data = Buffer::in_large_pages(len)?;
        let out = Parts::new(&mut data);
        let failed = Mutex::new(None);
        pool.run(self.rows.div_ceil(LANES), &|panel, _| {
            // SAFETY: each panel is its own part.
            let out = unsafe { out.part(panel * self.panel_bytes..(panel + 1) * self.panel_bytes) };
            if let Err(error) = self.pack(panel, out) {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(data), Err)
    }

    /// Packs into a file, in pieces that begin where a large page would: the system can then hold and map them as such.
    /// Panels that reach over a border are packed for both sides.
    fn write(&self, pool: &Pool, file: &Writer<'_>, len: usize) -> Result<(), WriteError> {
        let buffers: Vec<Mutex<Vec<u8>>> = (0..pool.threads()).map(|_| Mutex::default()).collect();
        let before = file.within(PIECE);
        let failed = Mutex::new(None);
        pool.run((before + len).div_ceil(PIECE), &|piece, thread| {
            let bytes = (piece * PIECE).saturating_sub(before)..((piece + 1) * PIECE - before).min(len);
            let panels = bytes.start / self.panel_bytes..bytes.end.div_ceil(self.panel_bytes);
            let first = panels.start * self.panel_bytes;
            let mut buffer = buffers[thread].lock().unwrap_or_else(PoisonError::into_inner);
            buffer.clear();
            buffer.resize(panels.len() * self.panel_bytes, 0);
            let packed: Result<(), Error> = panels
                .zip(buffer.chunks_exact_mut(self.panel_bytes))
                .try_for_each(|(panel, out)| self.pack(panel, out));
            let written = packed
                .map_err(WriteError::from)
                .and_then(|()| file.write_at(&buffer[bytes.start - first..bytes.end - first], bytes.start));
            if let Err(error) = written {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// A row, with what was computed for it.
enum Held<'a> {
    Slice(&'a [f32]),
    Values(Vec<f32>),
    Bits(&'a [u8]),
    Stored(DType, &'a [u8]),
    Blocks(DType, Vec<u8>),
    Nf4(&'a [u8], &'a [f32]),
    MadeNf4(Vec<u8>, Vec<f32>),
    F8(Vec<u8>, f32),
}

impl Held<'_> {
    fn row(&self) -> Row<'_> {
        match self {
            Self::Slice(values) => Row::F32(values),
            Self::Values(values) => Row::F32(values),
            Self::Bits(bytes) => Row::Bits(bytes),
            Self::Stored(dtype, bytes) => Row::Blocks(*dtype, bytes),
            Self::Blocks(dtype, bytes) => Row::Blocks(*dtype, bytes),
            Self::Nf4(bytes, scales) => Row::Nf4(bytes, scales),
            Self::MadeNf4(bytes, scales) => Row::Nf4(bytes, scales),
            Self::F8(bytes, scale) => Row::F8(bytes, *scale),
        }
    }
}

/// Row `row` of the stacked `parts`.
fn hold<'a>(parts: &[Part<'a>], mut row: usize, k: usize) -> Result<Held<'a>, Error> {
    let mut at = 0;
    while row >= parts[at].rows {
        row -= parts[at].rows;
        at += 1;
    }
    let part = &parts[at];
    if part.via == Via::Bytes
        && let Source::Tensor(tensor) = part.source
    {
        return stored(tensor, row, k);
    }
    let values = match part.source {
        Source::Values(values) => Held::Slice(&values[row * k..][..k]),
        Source::Tensor(tensor) => {
            let mut values = vec![0f32; k];
            tensor.row_f32(row, &mut values)?;
            Held::Values(values)
        }
    };
    let Row::F32(floats) = values.row() else { unreachable!("both hold values") };
    Ok(match part.via {
        Via::Bytes | Via::Values => values,
        Via::Blocks(dtype) => {
            let mut bytes = Vec::new();
            quantize(dtype, floats, &mut bytes)?;
            Held::Blocks(dtype, bytes)
        }
        Via::Nf4 => {
            let (bytes, nf4) = quantize_nf4(floats);
            Held::MadeNf4(bytes, nf4.absmax)
        }
        Via::F8 => {
            let scale = f8_scale(floats);
            Held::F8(floats.iter().map(|v| f32_to_f8(v / scale)).collect(), scale)
        }
    })
}

/// The bytes of a tensor's row.
fn stored<'a>(tensor: &'a Tensor, row: usize, k: usize) -> Result<Held<'a>, Error> {
    let short = || Error::Shape(format!("tensor {}: its bytes end before row {row}", tensor.name));
    if let Some(nf4) = &tensor.nf4 {
        let (bytes, blocks) = (k / 2, k / NF4_BLOCK);
        let nibbles = tensor.bytes.get(row * bytes..(row + 1) * bytes).ok_or_else(short)?;
        let scales = nf4.absmax.get(row * blocks..(row + 1) * blocks).ok_or_else(short)?;
        return Ok(Held::Nf4(nibbles, scales));
    }
    let size = tensor.dtype.row_bytes(k).ok_or_else(short)?;
    let bytes = tensor.bytes.get(row * size..(row + 1) * size).ok_or_else(short)?;
    Ok(match tensor.dtype {
        DType::F16 | DType::BF16 => Held::Bits(bytes),
        dtype => Held::Stored(dtype, bytes),
    })
}

#[cfg(test)]
mod tests;
