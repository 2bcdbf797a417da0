//! From any checkpoint to GGUF files that llama.cpp loads too: the decoder with its tokenizer, and beside it the image
//! encoder (`mmproj`).
//!
//! Tensor after tensor is read from the mapped checkpoint, encoded and written, so a model never stands in memory
//! whole. The files get their names when they are complete.

mod metadata;
mod mix;
mod tensors;

pub use mix::Target;

use crate::{Config, Error, Weights};
use medgemma_formats::{DType, Folder, GgufTensors, GgufWriter, NewFile};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tensors::{Encoder, Planned};

/// What is converted.
pub struct Source<'a> {
    /// What a reader of the file will call the model (`general.name`).
    pub name: &'a str,
    /// The configuration.
    pub config: &'a Config,
    /// The tensors. Those of a GGUF bring their metadata with them.
    pub weights: &'a Weights,
    /// The folder with `tokenizer.json`; not needed for a GGUF.
    pub folder: Option<&'a Folder>,
}

/// How.
#[derive(Clone, Debug)]
pub struct Options {
    /// The element types.
    pub target: Target,
    /// Whether files that are there are replaced.
    pub overwrite: bool,
    /// Threads that encode; as many as the machine runs at once when `None`.
    pub threads: Option<usize>,
}

/// How far conversion has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The tensor being written.
    pub tensor: &'a str,
    /// Bytes written.
    pub done: u64,
    /// Bytes to write.
    pub total: u64,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Report {
    /// The decoder.
    pub model: Written,
    /// The image encoder, when the checkpoint has one.
    pub mmproj: Option<Written>,
    /// What the user should know: losses that aren't those of the type asked for.
    pub notes: Vec<String>,
}

/// One file.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// Where.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// For each element type, its tensors and their elements.
    pub types: BTreeMap<&'static str, (usize, u64)>,
}

impl Written {
    /// Elements in all.
    pub fn elements(&self) -> u64 {
        self.types.values().map(|(_, elements)| elements).sum()
    }

    /// Bits of the file for each element.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elements().max(1) as f64
    }
}

/// A conversion that was found possible, as far as can be told without encoding.
pub struct Plan<'a> {
    source: Source<'a>,
    options: Options,
    model: File,
    mmproj: Option<File>,
    notes: Vec<String>,
}

/// A file to be written.
struct File {
    path: PathBuf,
    writer: GgufWriter,
    tensors: Vec<Planned>,
}

impl File {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), writer: GgufWriter::new(path), tensors: Vec::new() }
    }

    fn plan(&mut self, tensors: Vec<Planned>) -> Result<(), Error> {
        for tensor in &tensors {
            self.writer.tensor(&tensor.name, tensor.dtype, &tensor.shape)?;
        }
        self.tensors = tensors;
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes() as u64).sum()
    }

    fn write(self, encoder: &mut Encoder<'_>) -> Result<(NewFile, Written), Error> {
        let mut types = BTreeMap::new();
        let mut out: GgufTensors<NewFile> = self.writer.create()?;
        for tensor in &self.tensors {
            encoder.write(tensor, &mut out)?;
            let (count, elements) = types.entry(tensor.dtype.name()).or_insert((0, 0));
            *count += 1;
            *elements += tensor.elements() as u64;
        }
        let bytes = out.position() as u64;
        Ok((out.finish()?, Written { path: self.path, bytes, types }))
    }
}

/// Where the image encoder of the model at `model` goes: beside it, under the name that [`crate::locate`] looks for.
pub fn mmproj_path(model: &Path) -> PathBuf {
    let name = model.file_name().unwrap_or_default().to_string_lossy();
    model.with_file_name(format!("mmproj-{name}"))
}

impl<'a> Plan<'a> {
    /// Looks at a checkpoint and says what converting it to `out` would write. Nothing is written yet.
    ///
    /// # Errors
    /// When a file is there and may not be replaced, is the checkpoint itself or isn't named as a model, when a tensor is
    /// missing or has another shape than the configuration says, or when the tokenizer is missing or can't be put into a
    /// GGUF.
    pub fn new(source: Source<'a>, out: &Path, options: Options) -> Result<Self, Error> {
        check_name(out)?;
        let (config, weights) = (source.config, source.weights);
        let factor = metadata::q_norm_factor(config);
        let text = tensors::text(config, weights, options.target, factor)?;
        let vision = match &config.vision {
            Some(vision) => {
                let stored = weights.vision_stored_as()?.unwrap_or(DType::F32);
                tensors::vision(vision, config.text.hidden, stored, options.target)
            }
            None => Vec::new(),
        };
        // Before anything is made as large as the configuration says.
        tensors::check(weights, text.iter().chain(&vision))?;
        let mut model = File::new(out);
        let mut notes = metadata::decoder(&mut model.writer, &source, options.target)?;
        model.plan(text)?;
        let mmproj = match &config.vision {
            Some(c) => {
                let mut file = File::new(&mmproj_path(out));
                metadata::vision(&mut file.writer, c, &source, options.target)?;
                file.plan(vision)?;
                Some(file)
            }
            None => None,
        };
        for file in std::iter::once(&model).chain(&mmproj) {
            check_free(&file.path, &source, options.overwrite)?;
        }
        if let Some(stored) = weights.stored_as()?.filter(|dtype| dtype.block_len() > 1)
            && model.tensors.iter().any(|t| t.name == "blk.0.ffn_up.weight" && t.dtype != stored)
        {
            let target = options.target;
            let consequence = match target {
                Target::F32 | Target::BF16 => format!("{target} doesn't bring back what that lost"),
                _ => format!("what that lost stays lost, and {target} adds to it"),
            };
            notes.push(format!(
                "the checkpoint is quantized already ({stored}): {consequence}; convert the original for the best quality"
            ));
        }
        if let Weights::Gguf { model: from, .. } = weights {
            let left: Vec<&str> = from.names().filter(|name| model.tensors.iter().all(|t| t.name != *name)).collect();
            if let Some(first) = left.first() {
                notes.push(format!("{} tensors that Gemma 3 doesn't have were left out ({first})", left.len()));
            }
        }
        Ok(Self { source, options, model, mmproj, notes })
    }

    /// Bytes that will be written, but for the headers.
    pub fn bytes(&self) -> u64 {
        self.model.bytes() + self.mmproj.as_ref().map_or(0, File::bytes)
    }

    /// The files that will be written.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&self.model).chain(&self.mmproj).map(|file| file.path.as_path())
    }

    /// What the user should know before: see [`Report::notes`].
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Converts. `progress` is told of every step and may break off; then, and after an error, nothing is left behind.
    ///
    /// # Errors
    /// When a tensor has values that its new type can't hold, writing fails, or `progress` broke off
    /// ([`Error::Interrupted`]).
    pub fn run(self, mut progress: impl FnMut(Progress<'_>) -> ControlFlow<()>) -> Result<Report, Error> {
        let total = self.bytes();
        let threads = self.options.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from));
        let mut encoder = Encoder {
            weights: self.source.weights,
            threads: threads.unwrap_or(1).max(1),
            progress: &mut progress,
            done: 0,
            total,
        };
        let (model, written) = self.model.write(&mut encoder)?;
        let mmproj = self.mmproj.map(|file| file.write(&mut encoder)).transpose()?;
        // The model comes last: once it has its name, all that belongs to it is there.
        let mmproj = match mmproj {
            Some((file, written)) => {
                file.commit()?;
                Some(written)
            }
            None => None,
        };
        model.commit()?;
        Ok(Report { model: written, mmproj, notes: self.notes })
    }
}

/// The name must be one under which [`crate::locate`] finds the model.
fn check_name(out: &Path) -> Result<(), Error> {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let problem = match () {
        () if !name.to_lowercase().ends_with(".gguf") => "the name must end in .gguf",
        () if crate::locate::is_mmproj(&name) => {
            "mmproj in a name is for image encoders: choose another (theirs is made from it)"
        }
        () => return Ok(()),
    };
    Err(Error::Output { path: out.to_owned(), problem: problem.into() })
}

fn check_free(path: &Path, source: &Source, overwrite: bool) -> Result<(), Error> {
    let refuse = |problem: &str| Err(Error::Output { path: path.to_owned(), problem: problem.into() });
    if !path.exists() {
        return Ok(());
    }
    if !overwrite {
        return refuse("is there already: choose another name, or replace it with --force");
    }
    if let Weights::Gguf { model, mmproj, .. } = source.weights {
        let same = |other: &Path| path.canonicalize().ok().is_some_and(|path| other.canonicalize().ok() == Some(path));
        if same(model.path()) || mmproj.as_ref().is_some_and(|mmproj| same(mmproj.path())) {
            return refuse("is what is being converted: choose another name");
        }
    }
    Ok(())
}
