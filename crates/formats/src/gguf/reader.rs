//! Reading the header of a GGUF file: metadata and tensor descriptions, every size checked against the bytes present.

use super::{ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, Value, dtype_of};
use crate::tensor::byte_size;
use crate::{Bytes, DType, Error, Tensor};
use std::collections::BTreeMap;
use std::path::Path;

/// Arrays in arrays deeper than this are refused: the format sets no limit, no file needs more than two.
const DEEPEST_ARRAY: usize = 4;
/// ggml's limit (`GGML_MAX_DIMS`).
const MOST_DIMS: u32 = 4;

/// What can be wrong at one place; the caller knows which place.
type Problem = String;

/// Metadata and tensors of a file.
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) tensors: Vec<Tensor>,
}

/// A position in the file. Reading past its end is an error.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Problem> {
        let end = self.at.checked_add(len);
        let taken = end.and_then(|end| self.bytes.get(self.at..end)).ok_or_else(|| {
            format!("{len} bytes at {} reach past the file's {}: was it cut short?", self.at, self.bytes.len())
        })?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        self.take(N).map(|bytes| bytes.try_into().expect("N bytes were taken"))
    }

    fn u32(&mut self) -> Result<u32, Problem> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Problem> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things that take at least `each` bytes: more than fit the rest of the file is an error.
    fn count(&mut self, each: usize) -> Result<usize, Problem> {
        let count = self.u64()?;
        let fit = self.left() / each;
        match usize::try_from(count) {
            Ok(n) if n <= fit => Ok(n),
            _ => Err(format!("{count} elements where the rest of the file holds {fit} at most")),
        }
    }

    fn string(&mut self) -> Result<String, Problem> {
        let len = self.count(1)?;
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| "a string that is not UTF-8".into())
    }

    fn value(&mut self) -> Result<Value, Problem> {
        Ok(match self.u32()? {
            0 => Value::U8(self.array().map(u8::from_le_bytes)?),
            1 => Value::I8(self.array().map(i8::from_le_bytes)?),
            2 => Value::U16(self.array().map(u16::from_le_bytes)?),
            3 => Value::I16(self.array().map(i16::from_le_bytes)?),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(self.array().map(i32::from_le_bytes)?),
            6 => Value::F32(self.array().map(f32::from_le_bytes)?),
            7 => Value::Bool(bool_of(self.array::<1>()?[0])?),
            8 => Value::String(self.string()?),
            9 => Value::Array(self.values(1)?),
            10 => Value::U64(self.u64()?),
            11 => Value::I64(self.array().map(i64::from_le_bytes)?),
            12 => Value::F64(self.array().map(f64::from_le_bytes)?),
            other => return Err(format!("unknown value type {other}")),
        })
    }

    /// An array: element type, count, elements.
    fn values(&mut self, depth: usize) -> Result<Array, Problem> {
        if depth > DEEPEST_ARRAY {
            return Err(format!("arrays nested deeper than {DEEPEST_ARRAY}"));
        }
        Ok(match self.u32()? {
            0 => Array::U8(self.numbers(u8::from_le_bytes)?),
            1 => Array::I8(self.numbers(i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(f32::from_le_bytes)?),
            7 => {
                let count = self.count(1)?;
                Array::Bool(self.take(count)?.iter().map(|&byte| bool_of(byte)).collect::<Result<_, _>>()?)
            }
            8 => Array::String(self.each(8, Self::string)?),
            9 => Array::Array(self.each(12, |cursor| cursor.values(depth + 1))?),
            10 => Array::U64(self.numbers(u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(i64::from_le_bytes)?),
            12 => Array::F64(self.numbers(f64::from_le_bytes)?),
            other => return Err(format!("unknown type {other} of an array's elements")),
        })
    }

    fn numbers<const N: usize, T>(&mut self, read: impl Fn([u8; N]) -> T) -> Result<Vec<T>, Problem> {
        let count = self.count(N)?;
        // `count` elements were just found to fit the file.
        let bytes = self.take(count * N)?;
        Ok(bytes.as_chunks::<N>().0.iter().map(|raw| read(*raw)).collect())
    }

    /// Elements of unequal size, each taking `least` bytes or more.
    fn each<T>(
        &mut self,
        least: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, Problem>,
    ) -> Result<Vec<T>, Problem> {
        let count = self.count(least)?;
        let mut out = Vec::new();
        for i in 0..count {
            out.push(read(self).map_err(|problem| format!("element {i}: {problem}"))?);
        }
        Ok(out)
    }
}

fn bool_of(byte: u8) -> Result<bool, Problem> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(format!("a bool of {other}")),
    }
}

/// Reads the header of a file and checks its tensors against it.
pub(super) fn read(path: &Path, file: &Bytes) -> Result<Header, Error> {
    let at = |field: &str| {
        let field = field.to_owned();
        move |problem: Problem| Error::malformed(path, field, problem)
    };
    let mut cursor = Cursor { bytes: file, at: 0 };
    if cursor.take(4).map_err(at("magic"))? != b"GGUF" {
        return Err(at("magic")("not a GGUF file".into()));
    }
    match cursor.u32().map_err(at("version"))? {
        2 | 3 => {}
        version if version.swap_bytes() <= 3 => return Err(at("version")("big-endian files are not supported".into())),
        version => return Err(at("version")(format!("version {version}: only 2 and 3 are supported"))),
    }
    // A tensor takes at least its name's length, n_dims, type and offset; a pair its key's length, type and a byte.
    let tensor_count = cursor.count(24).map_err(at("tensor_count"))?;
    let pair_count = cursor.count(13).map_err(at("metadata_kv_count"))?;

    let mut metadata = BTreeMap::new();
    for i in 0..pair_count {
        let key = cursor.string().map_err(at(&format!("key {i}")))?;
        if key.is_empty() {
            return Err(at(&format!("key {i}"))("an empty key".into()));
        }
        let value = cursor.value().map_err(at(&key))?;
        if metadata.contains_key(&key) {
            return Err(at(&key)("there twice".into()));
        }
        metadata.insert(key, value);
    }
    let alignment = alignment(metadata.get(ALIGNMENT_KEY)).map_err(at(ALIGNMENT_KEY))?;

    let mut infos = Vec::new();
    for i in 0..tensor_count {
        let name = cursor.string().map_err(at(&format!("name of tensor {i}")))?;
        if name.is_empty() {
            return Err(at(&format!("name of tensor {i}"))("an empty name".into()));
        }
        let info = info(&mut cursor, alignment).map_err(at(&name))?;
        infos.push((name, info));
    }
    let data = cursor.at.checked_next_multiple_of(alignment);
    let data = data.ok_or_else(|| at(ALIGNMENT_KEY)("overflows".into()))?;
    let tensors = infos.into_iter().map(|(name, info)| {
        let bytes = data
            .checked_add(info.offset)
            .and_then(|start| Some(start..start.checked_add(info.size)?))
            .and_then(|range| file.slice(range))
            .ok_or_else(|| {
                let problem = format!(
                    "{} bytes at offset {} reach past the file's {}: was it cut short? Download it again",
                    info.size,
                    info.offset,
                    file.len()
                );
                Error::malformed(path, &name, problem)
            })?;
        Ok((info.offset, Tensor::from_parts(name, info.dtype, info.shape, bytes, None)?))
    });
    let tensors: Vec<(usize, Tensor)> = tensors.collect::<Result<_, Error>>()?;
    check_overlap(path, &tensors)?;
    Ok(Header { metadata, tensors: tensors.into_iter().map(|(_, tensor)| tensor).collect() })
}

/// `general.alignment`, checked.
pub(super) fn alignment(value: Option<&Value>) -> Result<usize, Problem> {
    let Some(value) = value else { return Ok(DEFAULT_ALIGNMENT) };
    let alignment = value.as_u64().and_then(|n| usize::try_from(n).ok());
    alignment.filter(|n| n.is_power_of_two()).ok_or_else(|| format!("{value:?} is not a power of two"))
}

/// What the file says of a tensor.
struct Info {
    dtype: DType,
    /// Outermost first: the file has them the other way round.
    shape: Vec<usize>,
    /// From the start of the data.
    offset: usize,
    size: usize,
}

fn info(cursor: &mut Cursor, alignment: usize) -> Result<Info, Problem> {
    let n_dims = cursor.u32()?;
    if n_dims > MOST_DIMS {
        return Err(format!("{n_dims} dimensions, more than {MOST_DIMS}"));
    }
    let mut shape = Vec::new();
    for _ in 0..n_dims {
        let dim = cursor.u64()?;
        if dim == 0 {
            return Err("a dimension of 0".into());
        }
        shape.push(usize::try_from(dim).map_err(|_| format!("a dimension of {dim}"))?);
    }
    shape.reverse();
    let dtype = dtype_of(cursor.u32()?)?;
    let offset = cursor.u64()?;
    let aligned = usize::try_from(offset).ok().filter(|offset| offset.is_multiple_of(alignment));
    let offset = aligned.ok_or_else(|| format!("offset {offset} is not a multiple of the alignment {alignment}"))?;
    let size = byte_size(dtype, &shape)?;
    Ok(Info { dtype, shape, offset, size })
}

/// Two tensors of one name, or that share bytes, are an error.
fn check_overlap(path: &Path, tensors: &[(usize, Tensor)]) -> Result<(), Error> {
    let mut order: Vec<&(usize, Tensor)> = tensors.iter().collect();
    order.sort_by_key(|(offset, _)| *offset);
    for pair in order.windows(2) {
        let [(first, one), (second, other)] = pair else { continue };
        // The first one was found to lie in the file, so its end doesn't overflow.
        if first + one.bytes.len() > *second {
            return Err(Error::malformed(path, &other.name, format!("overlaps {}", one.name)));
        }
    }
    order.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    match order.windows(2).find(|pair| pair[0].1.name == pair[1].1.name) {
        Some(pair) => Err(Error::malformed(path, &pair[0].1.name, "there twice")),
        None => Ok(()),
    }
}
