//! Weights on a card: how they are held, and how they get there.
//!
//! A quantized matrix lies in tiles of 16 rows and 64 k, in the order of the tiles' rows, then k; a lane of a warp is
//! 4·g + t, where g is a row (and the row 8 below) and t eight of 32 k:
//! - 4 bits: 512 bytes, 16 a lane: four words, of (row g, first 32 k), (row g + 8, first), (row g, second), (row g + 8,
//!   second). In a word the even ones of eight k are the low four nibbles, the odd ones the high four.
//! - 8 bits: 1024 bytes, the first 32 k of all lanes before the second: 16 bytes a lane, eight of row g and eight of row
//!   g + 8; where 16 share a scale, these eight are four of the first 16 k (from 4·t) and four of the second.
//! - scales, and minimums likewise: for each g four numbers, in the order of the words; where 16 share a scale, two for
//!   each of these.
//!
//! - 8-bit floats: as 8 bits, but of each four bytes the second and third are exchanged, as widening them gives pairs; an f32
//!   scale for each row, a power of two.
//!
//! w = scale · q - min; without minimums a nibble stands for q - 8.

use super::CudaBackend;
use super::driver::{Buffer, Param, Shape, param};
use crate::Error;
use crate::backend::WeightFormat;
use medgemma_formats::{DType, Tensor};

/// How a part of a weight is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    F32,
    BF16,
    /// 4 bits, an f16 scale for 32.
    Q4,
    /// 4 bits, an f32 scale and minimum for 32.
    Q4Min,
    /// 8 bits, an f16 scale for 32.
    Q8,
    /// 8 bits, an f32 scale for 16.
    Q8Half,
    /// 8 bits, an f32 scale and minimum for 32.
    Q8Min,
    /// 8 bits, an f32 scale and minimum for 16.
    Q8HalfMin,
    /// 8-bit floats, an f32 scale for a row.
    F8,
}

impl Layout {
    /// As `WeightKind` in blocks.cuh.
    fn kind(self) -> i32 {
        match self {
            Self::F32 => 0,
            Self::BF16 => 1,
            Self::Q4 | Self::Q4Min => 2,
            Self::Q8 | Self::Q8Half | Self::Q8Min | Self::Q8HalfMin => 3,
            Self::F8 => 4,
        }
    }

    fn group(self) -> usize {
        if matches!(self, Self::Q8Half | Self::Q8HalfMin) { 16 } else { 32 }
    }

    fn wide_scales(self) -> bool {
        !matches!(self, Self::Q4 | Self::Q8)
    }

    fn mins(self) -> bool {
        matches!(self, Self::Q4Min | Self::Q8Min | Self::Q8HalfMin)
    }

    pub(super) fn quantized(self) -> bool {
        !matches!(self, Self::F32 | Self::BF16)
    }

    /// As what a type is held without loss.
    fn of(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::F16 | DType::BF16 | DType::F8 | DType::Nf4 => Self::BF16,
            DType::Q4_0 => Self::Q4,
            DType::Q4_1 | DType::Q4K => Self::Q4Min,
            DType::Q8_0 | DType::Q5_0 | DType::Iq4Nl => Self::Q8,
            DType::Q3K | DType::Q6K | DType::Iq4Xs => Self::Q8Half,
            DType::Q5_1 | DType::Q5K => Self::Q8Min,
            DType::Q2K => Self::Q8HalfMin,
        }
    }

    /// How a tensor is held when `format` is asked for: what isn't quantized is f32 where everything is exact, else bf16.
    fn choose(dtype: DType, format: WeightFormat, k: usize, exact: bool) -> Result<Self, Error> {
        let float = if exact { Self::F32 } else { Self::BF16 };
        let stored = Self::of(dtype);
        let layout = match format {
            WeightFormat::Stored | WeightFormat::BF16Products => stored,
            WeightFormat::F32 | WeightFormat::BF16 => float,
            WeightFormat::Q8 => {
                if stored.quantized() {
                    stored
                } else {
                    Self::Q8
                }
            }
            WeightFormat::Q4 => {
                if stored.quantized() && !matches!(stored, Self::Q8) {
                    stored
                } else {
                    Self::Q4
                }
            }
            WeightFormat::F8 if stored.quantized() => stored,
            WeightFormat::F8 => Self::F8,
            WeightFormat::Nf4 if dtype == DType::Nf4 => stored,
            WeightFormat::Nf4 => {
                return Err(Error::Shape(
                    "weights aren't quantized to NF4 on a GPU: choose q4, or --device cpu".into(),
                ));
            }
        };
        Ok(if layout.quantized() && k.is_multiple_of(64) { layout } else { float })
    }
}

/// A part of a weight, as kernels take it (`Weight` in blocks.cuh).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) data: u64,
    pub(super) scales: u64,
    pub(super) mins: u64,
    pub(super) n: i32,
    pub(super) k: i32,
    kind: i32,
    wide_scales: i32,
    group: i32,
}
// SAFETY: as `Weight` in blocks.cuh.
unsafe impl Param for View {}

/// Rows of a weight that are held alike.
#[derive(Debug)]
pub(super) struct Part {
    /// The first of them in the weight.
    pub(super) first: usize,
    pub(super) layout: Layout,
    pub(super) n: usize,
    pub(super) k: usize,
    data: Buffer,
    scales: Option<Buffer>,
    mins: Option<Buffer>,
}

impl Part {
    fn new(b: &CudaBackend, first: usize, n: usize, k: usize, layout: Layout) -> Result<Self, Error> {
        let elements = |n: usize| n.checked_mul(k).ok_or(Error::TooLarge);
        if !layout.quantized() {
            let size = if layout == Layout::F32 { 4 } else { 2 };
            let data = Buffer::new(&b.device, elements(n)?.checked_mul(size).ok_or(Error::TooLarge)?)?;
            return Ok(Self { first, layout, n, k, data, scales: None, mins: None });
        }
        let all = elements(n.next_multiple_of(16))?;
        let data = Buffer::zeroed(&b.device, if layout.kind() == 2 { all / 2 } else { all })?;
        let groups = if layout == Layout::F8 { n.next_multiple_of(16) } else { all / layout.group() };
        let scales = Buffer::zeroed(&b.device, groups * if layout.wide_scales() { 4 } else { 2 })?;
        let mins = if layout.mins() { Some(Buffer::zeroed(&b.device, groups * 4)?) } else { None };
        Ok(Self { first, layout, n, k, data, scales: Some(scales), mins })
    }

    pub(super) fn view(&self) -> View {
        let at = |buffer: &Option<Buffer>| buffer.as_ref().map_or(0, Buffer::at);
        View {
            data: self.data.at(),
            scales: at(&self.scales),
            mins: at(&self.mins),
            n: self.n as i32,
            k: self.k as i32,
            kind: self.layout.kind(),
            wide_scales: i32::from(self.layout.wide_scales()),
            group: self.layout.group() as i32,
        }
    }

    /// Its bf16 values, where it is held so.
    pub(super) fn bf16(&self) -> Option<u64> {
        (self.layout == Layout::BF16).then(|| self.data.at())
    }

    fn bytes(&self) -> usize {
        let size = |buffer: &Option<Buffer>| buffer.as_ref().map_or(0, Buffer::bytes);
        self.data.bytes() + size(&self.scales) + size(&self.mins)
    }

    /// Puts a tensor at rows `first..` of this part, through a piece of memory on the card.
    fn put(&self, b: &CudaBackend, first: usize, tensor: &Tensor, format: WeightFormat) -> Result<(), Error> {
        let (rows, cols) = (tensor.rows(), tensor.cols());
        let (len, size) = (tensor.dtype.block_len(), tensor.dtype.block_bytes());
        // 64 rows are whole blocks of NF4, whatever their width.
        let row_bytes = (cols * size).div_ceil(len).max(1);
        let each = (PIECE / row_bytes / 64 * 64).max(64);
        let staging = Buffer::new(&b.device, each.min(rows.next_multiple_of(64)) * row_bytes)?;
        let scales = match &tensor.nf4 {
            None => None,
            Some(nf4) => {
                let buffer = Buffer::new(&b.device, (16 + nf4.absmax.len()) * 4)?;
                buffer.write(0, &floats(&nf4.quant_map))?;
                buffer.write(64, &floats(&nf4.absmax))?;
                Some(buffer)
            }
        };
        let stored_blocks = Layout::of(tensor.dtype).quantized();
        let requantized = self.layout.quantized() && Layout::of(tensor.dtype) != self.layout;
        let kernel = match self.layout.quantized() {
            // Whatever the width is, the values are those of 8-bit floats.
            _ if format == WeightFormat::F8 && !stored_blocks => "round_rows",
            false => "decode_rows",
            true if requantized => "quantize_rows",
            true => "repack_rows",
        };
        for at in (0..rows).step_by(each) {
            let count = each.min(rows - at);
            let from = at * cols / len * size;
            let to = if at + count == rows { tensor.bytes.len() } else { (at + count) * cols / len * size };
            staging.write(0, &tensor.bytes[from..to])?;
            let raw = Raw {
                bytes: staging.at(),
                absmax: scales.as_ref().map_or(0, |s| s.at() + 64 + (at * cols / 64 * 4) as u64),
                map: scales.as_ref().map_or(0, Buffer::at),
                stored: stored(tensor.dtype),
                block_len: len as i32,
                block_bytes: size as i32,
            };
            let blocks = match kernel {
                "round_rows" => count,
                "decode_rows" => (count * cols).div_ceil(256),
                _ => (count * cols / 8).div_ceil(256),
            };
            let shape = Shape::new((blocks.clamp(1, 1 << 16), 1), 256).in_turn();
            let (view, first, count) = (self.view(), (first + at) as i32, count as i32);
            // SAFETY: the kernels take these four; the rows lie within the part, and the raw bytes are there.
            unsafe { b.launch(kernel, shape, &mut [param(&raw), param(&view), param(&first), param(&count)]) };
        }
        tensor.bytes.release();
        Ok(())
    }
}

/// Bytes of a tensor that are on their way at once.
const PIECE: usize = 64 << 20;

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// As `Raw` in blocks.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
struct Raw {
    bytes: u64,
    absmax: u64,
    map: u64,
    stored: i32,
    block_len: i32,
    block_bytes: i32,
}
// SAFETY: as `Raw` in blocks.cuh.
unsafe impl Param for Raw {}

/// As `Stored` in blocks.cuh.
fn stored(dtype: DType) -> i32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::BF16 => 2,
        DType::Q4_0 => 3,
        DType::Q4_1 => 4,
        DType::Q5_0 => 5,
        DType::Q5_1 => 6,
        DType::Q8_0 => 7,
        DType::Q2K => 8,
        DType::Q3K => 9,
        DType::Q4K => 10,
        DType::Q5K => 11,
        DType::Q6K => 12,
        DType::Iq4Nl => 13,
        DType::Iq4Xs => 14,
        DType::Nf4 => 15,
        DType::F8 => 16,
    }
}

/// A weight matrix on a card. Rows that came from tensors of different types are parts of their own.
#[derive(Debug)]
pub struct CudaWeight {
    pub(super) parts: Vec<Part>,
    pub(super) n: usize,
    pub(super) k: usize,
}

impl CudaWeight {
    pub(super) fn new(b: &CudaBackend, tensors: &[&Tensor], format: WeightFormat) -> Result<Self, Error> {
        let Some(k) = tensors.first().map(|t| t.cols()) else {
            return Err(Error::Shape("a weight of no tensors".into()));
        };
        if let Some(other) = tensors.iter().find(|t| t.cols() != k) {
            return Err(Error::Shape(format!("{}: {} columns beside {k}", other.name, other.cols())));
        }
        let layouts =
            tensors.iter().map(|t| Layout::choose(t.dtype, format, k, b.exact)).collect::<Result<Vec<Layout>, _>>()?;
        let mut parts: Vec<Part> = Vec::new();
        let (mut n, mut at) = (0, 0);
        while at < tensors.len() {
            let alike = layouts[at..].iter().take_while(|layout| **layout == layouts[at]).count();
            let rows = tensors[at..at + alike].iter().map(|t| t.rows()).sum();
            if n + rows > i32::MAX as usize || k > i32::MAX as usize {
                return Err(Error::TooLarge);
            }
            let part = Part::new(b, n, rows, k, layouts[at])?;
            let mut first = 0;
            for tensor in &tensors[at..at + alike] {
                part.put(b, first, tensor, format)?;
                first += tensor.rows();
            }
            parts.push(part);
            n += rows;
            at += alike;
        }
        Ok(Self { parts, n, k })
    }

    pub(super) fn bytes(&self) -> usize {
        self.parts.iter().map(Part::bytes).sum()
    }
}
