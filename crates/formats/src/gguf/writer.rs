//! Writing GGUF: metadata and descriptions first, then the tensors' bytes as they come.

use super::value::write_string;
use super::{ALIGNMENT_KEY, Value, reader, type_id};
use crate::tensor::byte_size;
use crate::{DType, Error};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// ggml's limits (`GGML_MAX_NAME` counts the closing zero, `GGML_MAX_DIMS`): a file beyond them wouldn't load there.
const LONGEST_NAME: usize = 63;
const MOST_DIMS: usize = 4;

/// A GGUF file (version 3) in the making: metadata and the tensors to come.
///
/// The sizes of tensors follow from their type and shape, so the header is written before any of their bytes exist,
/// and a model is quantized tensor by tensor without holding it.
///
/// ```
/// use medgemma_formats::{DType, GgufWriter, quantize};
/// let mut writer = GgufWriter::new("out.gguf");
/// writer.set("general.architecture", "gemma3")?;
/// writer.set("gemma3.block_count", 34u32)?;
/// writer.tensor("token_embd.weight", DType::Q8_0, &[2, 32])?;
/// let mut tensors = writer.to(Vec::new())?; // or `create()`, for a file
/// for row in 0..2 {
///     let mut bytes = Vec::new();
///     quantize(DType::Q8_0, &[row as f32; 32], &mut bytes)?;
///     tensors.write(&bytes)?;
/// }
/// let file = tensors.finish()?;
/// assert_eq!(&file[..4], b"GGUF");
/// # Ok::<(), medgemma_formats::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct GgufWriter {
    path: PathBuf,
    metadata: BTreeMap<String, Value>,
    names: BTreeSet<String>,
    tensors: Vec<Planned>,
}

#[derive(Clone, Debug)]
struct Planned {
    name: String,
    type_id: u32,
    /// Outermost first.
    shape: Vec<usize>,
    size: usize,
}

impl GgufWriter {
    /// Plans a file; `path` is where [`GgufWriter::create`] puts it and what errors name.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned(), metadata: BTreeMap::new(), names: BTreeSet::new(), tensors: Vec::new() }
    }

    /// Sets a metadata value, in place of an earlier one of that key. (ggml itself doesn't read arrays of arrays.)
    ///
    /// # Errors
    /// [`Error::Malformed`] when the key is empty, or `general.alignment` is no power of two.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> Result<(), Error> {
        let value = value.into();
        if key.is_empty() {
            return Err(Error::malformed(&self.path, "metadata", "an empty key"));
        }
        if key == ALIGNMENT_KEY {
            reader::alignment(Some(&value)).map_err(|problem| Error::malformed(&self.path, key, problem))?;
        }
        self.metadata.insert(key.to_owned(), value);
        Ok(())
    }

    /// Plans the next tensor. `shape` is outermost first.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the name is taken, empty or too long for ggml, the shape has a zero, more than four dimensions
    /// or rows that aren't whole blocks, or the type is F8 or NF4, which GGUF doesn't have.
    pub fn tensor(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Result<(), Error> {
        let wrong = |problem: String| Error::tensor(name, problem);
        let type_id = type_id(dtype).ok_or_else(|| wrong(format!("GGUF has no {dtype}")))?;
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(wrong(format!("a name of {} bytes, ggml allows 1 to {LONGEST_NAME}", name.len())));
        }
        if shape.len() > MOST_DIMS || shape.contains(&0) {
            return Err(wrong(format!("shape {shape:?}: ggml has at most {MOST_DIMS} dimensions, none of them 0")));
        }
        let size = byte_size(dtype, shape).map_err(wrong)?;
        if !self.names.insert(name.to_owned()) {
            return Err(wrong("planned twice".into()));
        }
        self.tensors.push(Planned { name: name.to_owned(), type_id, shape: shape.to_vec(), size });
        Ok(())
    }

    /// Writes the header to `out` and returns the writer of the tensors' bytes.
    ///
    /// # Errors
    /// [`Error::Io`] when writing fails.
    pub fn to<W: Write>(self, out: W) -> Result<GgufTensors<W>, Error> {
        let alignment = reader::alignment(self.metadata.get(ALIGNMENT_KEY))
            .map_err(|problem| Error::malformed(&self.path, ALIGNMENT_KEY, problem))?;
        let header = self.header(alignment)?;
        let sizes = self.tensors.into_iter().map(|tensor| (tensor.name, tensor.size)).collect();
        let mut tensors = GgufTensors { path: self.path, out, alignment, sizes, current: 0, written: 0, position: 0 };
        tensors.put(&header)?;
        tensors.pad()?;
        Ok(tensors)
    }

    /// Creates the file. It gets its name when it is finished and [`NewFile::commit`] is called; until then it is
    /// beside it under `….partial`, so that a broken-off run leaves no half file at the path asked for.
    ///
    /// # Errors
    /// [`Error::Io`] when the file can't be created or written.
    pub fn create(self) -> Result<GgufTensors<NewFile>, Error> {
        let file = NewFile::create(&self.path)?;
        self.to(file)
    }

    /// All that comes before the tensors' bytes.
    fn header(&self, alignment: usize) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        out.extend(b"GGUF");
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            write_string(key, &mut out);
            out.extend(value.type_id().to_le_bytes());
            value.write(&mut out);
        }
        let mut offset = 0usize;
        for tensor in &self.tensors {
            write_string(&tensor.name, &mut out);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            for dim in tensor.shape.iter().rev() {
                out.extend((*dim as u64).to_le_bytes());
            }
            out.extend(tensor.type_id.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            let end = offset.checked_add(tensor.size).and_then(|end| end.checked_next_multiple_of(alignment));
            offset = end.ok_or_else(|| Error::tensor(&tensor.name, "the file's size overflows"))?;
        }
        Ok(out)
    }
}

/// Takes the tensors' bytes, in the order they were planned.
#[derive(Debug)]
pub struct GgufTensors<W: Write> {
    path: PathBuf,
    out: W,
    alignment: usize,
    /// Name and size of each tensor.
    sizes: Vec<(String, usize)>,
    /// The tensor being written, and how much of it has been.
    current: usize,
    written: usize,
    /// Bytes of the file so far.
    position: usize,
}

impl<W: Write> GgufTensors<W> {
    /// Writes the next bytes of the current tensor (whole or in pieces); the next tensor begins where it is full.
    ///
    /// # Errors
    /// [`Error::Io`] when writing fails; [`Error::Tensor`] when the bytes run past the current tensor's end.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some((name, size)) = self.sizes.get(self.current) else {
            return Err(Error::malformed(&self.path, "tensors", "bytes after the last one"));
        };
        if bytes.len() > size - self.written {
            let problem = format!("{} bytes more where {} are left to write", bytes.len(), size - self.written);
            return Err(Error::tensor(name, problem));
        }
        let full = self.written + bytes.len() == *size;
        self.put(bytes)?;
        self.written += bytes.len();
        if full {
            self.pad()?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Bytes of the file so far, padding included.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Flushes and returns the writer.
    ///
    /// # Errors
    /// [`Error::Io`] when writing fails, [`Error::Tensor`] when tensors are missing bytes.
    pub fn finish(mut self) -> Result<W, Error> {
        if let Some((name, size)) = self.sizes.get(self.current) {
            return Err(Error::tensor(name, format!("{} of its {size} bytes were written", self.written)));
        }
        self.out.flush().map_err(|e| Error::io(&self.path, e))?;
        Ok(self.out)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(|e| Error::io(&self.path, e))?;
        self.position += bytes.len();
        Ok(())
    }

    /// Fills up with zeros to the alignment: the format pads after the last tensor too.
    fn pad(&mut self) -> Result<(), Error> {
        let end = self.position.next_multiple_of(self.alignment);
        let mut left = end - self.position;
        while left > 0 {
            let step = left.min(4096);
            self.put(&[0; 4096][..step])?;
            left -= step;
        }
        Ok(())
    }
}

/// A file being written under a name of its own. Dropped before [`NewFile::commit`], it is removed.
#[derive(Debug)]
#[must_use = "the file is removed unless it is committed"]
pub struct NewFile {
    path: PathBuf,
    partial: PathBuf,
    /// `None` once committed.
    file: Option<BufWriter<File>>,
}

impl NewFile {
    fn create(path: &Path) -> Result<Self, Error> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial).map_err(|e| Error::io(&partial, e))?;
        Ok(Self { path: path.to_owned(), partial, file: Some(BufWriter::with_capacity(1 << 20, file)) })
    }

    /// Brings the file to the disk and gives it its name, in place of an older file of that name.
    ///
    /// # Errors
    /// [`Error::Io`] when that fails; the old file is then untouched.
    pub fn commit(mut self) -> Result<(), Error> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(|e| Error::io(&self.partial, e))?;
        std::fs::rename(&self.partial, &self.path).map_err(|e| Error::io(&self.path, e))?;
        self.file = None;
        Ok(())
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.as_mut().map_or(Ok(0), |file| file.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.flush())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // Nothing is left to tell when even this fails.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}
