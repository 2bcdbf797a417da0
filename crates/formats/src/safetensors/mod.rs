//! Safetensors: one file, or shards with an index; bitsandbytes NF4 tensors put together from their parts.

mod header;
mod nf4;

use crate::{Bytes, DType, Error, Folder, Tensor};
use header::Entry;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The single file.
const SINGLE: &str = "model.safetensors";
/// The index of shards.
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a checkpoint folder: `model.safetensors`, or `model.safetensors.index.json` and its shards.
///
/// Opening reads the headers only; elements stay in the mapped files. A tensor that bitsandbytes stored as NF4
/// appears once, under its own name and in its logical shape, and the tensors that hold its scales don't appear.
///
/// ```no_run
/// use medgemma_formats::{Folder, Safetensors};
/// let folder = Folder::open("medgemma-4b-it".as_ref())?;
/// let weights = Safetensors::open(&folder)?;
/// for name in weights.names() {
///     let tensor = weights.tensor(name)?.expect("it was just named");
///     println!("{name} {} {:?}", tensor.dtype, tensor.shape);
/// }
/// # Ok::<(), medgemma_formats::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Safetensors {
    shards: Vec<Shard>,
    tensors: BTreeMap<String, (usize, Entry)>,
}

#[derive(Clone, Debug)]
struct Shard {
    path: PathBuf,
    bytes: Bytes,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Safetensors {
    /// The files, in the order of their names.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|shard| shard.path.as_path())
    }

    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names, when there is no such file.
    ///
    /// # Errors
    /// [`Error::Io`] when neither is there or a shard is missing, [`Error::Malformed`] when a header or the index is.
    pub fn open(folder: &Folder) -> Result<Self, Error> {
        if folder.contains(SINGLE) {
            return Self::open_file(folder, SINGLE);
        }
        if !folder.contains(INDEX) {
            let absent = format!("no {SINGLE} and no {INDEX} in this folder");
            return Err(Error::io(folder.path(), std::io::Error::new(std::io::ErrorKind::NotFound, absent)));
        }
        let path = folder.path().join(INDEX);
        let index: Index = serde_json::from_slice(&folder.read(INDEX)?)
            .map_err(|e| Error::malformed(&path, "weight_map", format!("not the JSON expected: {e}")))?;
        let mut out = Self { shards: Vec::new(), tensors: BTreeMap::new() };
        if index.weight_map.is_empty() {
            return Err(Error::malformed(&path, "weight_map", "names no tensor"));
        }
        let shards: BTreeSet<&String> = index.weight_map.values().collect();
        for shard in shards {
            out.add(folder.path().join(shard), folder.read(shard)?)?;
        }
        for (name, shard) in &index.weight_map {
            let found = out.tensors.get(name).is_some_and(|(i, _)| out.shards[*i].path.ends_with(shard));
            if !found {
                return Err(Error::malformed(&path, name, format!("not in {shard}, where the index says it is")));
            }
        }
        Ok(out)
    }

    /// Opens one file of the folder, such as an adapter's `adapter_model.safetensors`.
    ///
    /// # Errors
    /// As [`Safetensors::open`].
    pub fn open_file(folder: &Folder, name: &str) -> Result<Self, Error> {
        Self::from_bytes(folder.path().join(name), folder.read(name)?)
    }

    /// Reads one file in memory; `name` stands for its path in errors.
    ///
    /// # Errors
    /// [`Error::Malformed`], as for [`Safetensors::open`].
    pub fn from_bytes(name: impl AsRef<Path>, bytes: Bytes) -> Result<Self, Error> {
        let mut out = Self { shards: Vec::new(), tensors: BTreeMap::new() };
        out.add(name.as_ref().to_owned(), bytes)?;
        Ok(out)
    }

    fn add(&mut self, path: PathBuf, bytes: Bytes) -> Result<(), Error> {
        let index = self.shards.len();
        for (name, entry) in header::read(&path, &bytes)? {
            if self.tensors.contains_key(&name) {
                return Err(Error::malformed(&path, name, "is in another shard too"));
            }
            self.tensors.insert(name, (index, entry));
        }
        self.shards.push(Shard { path, bytes });
        Ok(())
    }

    /// Names of the tensors, sorted, without the parts that hold the scales of NF4 tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str).filter(|name| !self.is_nf4_part(name))
    }

    /// The tensor of that name, or `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Malformed`] when its element type is none of F32, F16, BF16 and NF4, or its NF4 parts contradict
    /// each other.
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>, Error> {
        let Some((shard, entry)) = self.tensors.get(name) else { return Ok(None) };
        if let Some(state) = self.nf4_state(name)? {
            return self.nf4_tensor(name, &state).map(Some);
        }
        let path = &self.shards[*shard].path;
        let dtype = match entry.dtype.as_str() {
            "F32" => DType::F32,
            "F16" => DType::F16,
            "BF16" => DType::BF16,
            "I8" | "U8" => {
                let problem = format!(
                    "{} elements without an NF4 quant_state: of bitsandbytes' types only NF4 is supported; use the unquantized checkpoint",
                    entry.dtype
                );
                return Err(Error::malformed(path, name, problem));
            }
            other => {
                let problem = format!("{other} elements are not supported, only F32, F16, BF16 and bitsandbytes NF4");
                return Err(Error::malformed(path, name, problem));
            }
        };
        Tensor::from_parts(name, dtype, entry.shape.clone(), self.bytes(*shard, entry)?, None).map(Some)
    }

    /// The bytes of an entry, whose range was checked when the header was read.
    fn bytes(&self, shard: usize, entry: &Entry) -> Result<Bytes, Error> {
        let Shard { path, bytes } = &self.shards[shard];
        bytes.slice(entry.range.clone()).ok_or_else(|| Error::malformed(path, "data_offsets", "reach past the file"))
    }

    /// The file a tensor is in, for errors.
    fn path_of(&self, name: &str) -> &Path {
        let shard = self.tensors.get(name).map_or(0, |(shard, _)| *shard);
        &self.shards[shard].path
    }
}
