//! GGUF, llama.cpp's single-file format: metadata and tensors, read and written.

mod reader;
mod value;
mod writer;

use crate::{Bytes, DType, Error, Tensor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use value::{Array, Value};
pub use writer::{GgufTensors, GgufWriter, NewFile};

/// Key of the alignment of tensors.
const ALIGNMENT_KEY: &str = "general.alignment";
/// Alignment of tensors without that key.
const DEFAULT_ALIGNMENT: usize = 32;

/// An opened GGUF file (versions 2 and 3, little endian).
///
/// ```
/// use medgemma_formats::{DType, Gguf, GgufWriter};
/// let mut writer = GgufWriter::new("tiny.gguf");
/// writer.set("general.architecture", "gemma3")?;
/// writer.tensor("output_norm.weight", DType::F32, &[2])?;
/// let mut tensors = writer.to(Vec::new())?;
/// tensors.write(&[0, 0, 128, 63, 0, 0, 0, 64])?;
/// let file = tensors.finish()?;
///
/// let gguf = Gguf::from_bytes("tiny.gguf", file.into())?;
/// assert_eq!(gguf.str("general.architecture")?, Some("gemma3"));
/// assert_eq!(gguf.u64("gemma3.block_count")?, None);
/// assert_eq!(gguf.tensor("output_norm.weight").unwrap().to_f32()?, [1.0, 2.0]);
/// # Ok::<(), medgemma_formats::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Gguf {
    path: PathBuf,
    metadata: BTreeMap<String, Value>,
    tensors: Vec<Tensor>,
    index: BTreeMap<String, usize>,
}

impl Gguf {
    /// Maps a file and reads its header.
    ///
    /// # Errors
    /// [`Error::Io`] when it can't be read, [`Error::Malformed`] when anything in its header contradicts the file or
    /// the format, or a tensor is of a type this crate doesn't know.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::from_bytes(path, Bytes::map(path)?)
    }

    /// Reads the header of a file in memory; `name` stands for its path in errors.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn from_bytes(name: impl AsRef<Path>, bytes: Bytes) -> Result<Self, Error> {
        let path = name.as_ref();
        let reader::Header { metadata, tensors } = reader::read(path, &bytes)?;
        let index = tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), i)).collect();
        let gguf = Self { path: path.to_owned(), metadata, tensors, index };
        match gguf.u64("split.count")? {
            Some(parts) if parts > 1 => {
                let problem = format!("one of {parts} parts: join them with llama-gguf-split --merge");
                Err(Error::malformed(path, "split.count", problem))
            }
            _ => Ok(gguf),
        }
    }

    /// The file's path, or the name given for it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the tensors, in the file's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|tensor| tensor.name.as_str())
    }

    /// The tensor of that name; its shape is outermost first, so ggml's `ne` reversed.
    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        self.index.get(name).map(|&i| self.tensors[i].clone())
    }

    /// All metadata, sorted by key.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.metadata.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// A string; `None` when the key is absent.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the value is of another type, as for the other getters.
    pub fn str(&self, key: &str) -> Result<Option<&str>, Error> {
        self.typed(key, "a string", Value::as_str)
    }

    /// An integer of any width, not negative.
    ///
    /// # Errors
    /// As [`Gguf::str`].
    pub fn u64(&self, key: &str) -> Result<Option<u64>, Error> {
        self.typed(key, "an integer of at least 0", Value::as_u64)
    }

    /// A floating-point number.
    ///
    /// # Errors
    /// As [`Gguf::str`].
    pub fn f32(&self, key: &str) -> Result<Option<f32>, Error> {
        self.typed(key, "a floating-point number", Value::as_f32)
    }

    /// A bool.
    ///
    /// # Errors
    /// As [`Gguf::str`].
    pub fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "a bool", Value::as_bool)
    }

    /// An array of strings.
    ///
    /// # Errors
    /// As [`Gguf::str`].
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, Error> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::String(strings)) => Some(strings.as_slice()),
            _ => None,
        })
    }

    /// An array of f32.
    ///
    /// # Errors
    /// As [`Gguf::str`].
    pub fn f32s(&self, key: &str) -> Result<Option<&[f32]>, Error> {
        self.typed(key, "an array of f32", |value| match value {
            Value::Array(Array::F32(numbers)) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    /// An array of i32.
    ///
    /// # Errors
    /// As [`Gguf::str`].
    pub fn i32s(&self, key: &str) -> Result<Option<&[i32]>, Error> {
        self.typed(key, "an array of i32", |value| match value {
            Value::Array(Array::I32(numbers)) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        get: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        get(value).map(Some).ok_or_else(|| {
            Error::malformed(&self.path, key, format!("is {} where {expected} was expected", value.kind()))
        })
    }
}

/// ggml's number for an element type (`enum ggml_type`); `None` for F8 and NF4, which ggml doesn't have.
fn type_id(dtype: DType) -> Option<u32> {
    Some(match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Q4_0 => 2,
        DType::Q4_1 => 3,
        DType::Q5_0 => 6,
        DType::Q5_1 => 7,
        DType::Q8_0 => 8,
        DType::Q2K => 10,
        DType::Q3K => 11,
        DType::Q4K => 12,
        DType::Q5K => 13,
        DType::Q6K => 14,
        DType::Iq4Nl => 20,
        DType::Iq4Xs => 23,
        DType::BF16 => 30,
        DType::F8 | DType::Nf4 => return None,
    })
}

/// The element type of ggml's number, or what to say of one that isn't supported.
fn dtype_of(id: u32) -> Result<DType, String> {
    let name = match id {
        0 => return Ok(DType::F32),
        1 => return Ok(DType::F16),
        2 => return Ok(DType::Q4_0),
        3 => return Ok(DType::Q4_1),
        6 => return Ok(DType::Q5_0),
        7 => return Ok(DType::Q5_1),
        8 => return Ok(DType::Q8_0),
        10 => return Ok(DType::Q2K),
        11 => return Ok(DType::Q3K),
        12 => return Ok(DType::Q4K),
        13 => return Ok(DType::Q5K),
        14 => return Ok(DType::Q6K),
        20 => return Ok(DType::Iq4Nl),
        23 => return Ok(DType::Iq4Xs),
        30 => return Ok(DType::BF16),
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return Err(format!("unknown element type {id}")),
    };
    Err(format!(
        "element type {name} is not supported: use a file in F16, BF16, Q8_0, Q4_0 … Q5_1, Q2_K … Q6_K, IQ4_NL or IQ4_XS"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_numbers_go_both_ways() {
        let known: Vec<DType> =
            (0..256).filter_map(|id| dtype_of(id).ok().filter(|d| type_id(*d) == Some(id))).collect();
        assert_eq!(known.len(), 15, "all but NF4: {known:?}");
        assert!(dtype_of(16).unwrap_err().contains("IQ2_XXS"));
        assert!(dtype_of(4).unwrap_err().contains('4'));
    }
}
