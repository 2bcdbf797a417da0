//! Where a model's tensors come from: a Hugging Face folder in any of its name layouts, a GGUF with its mmproj, or
//! random numbers of the right shape.
//!
//! The model asks by llama.cpp's names (`blk.0.attn_q`), which are short and the same for all layers; this module
//! knows how each layout spells them.

mod names;
mod synthetic;

pub use synthetic::Synthetic;

use crate::Error;
use medgemma_formats::{DType, Gguf, Safetensors, Tensor};
use medgemma_kernels::WeightFormat;
use names::Layout;
use std::path::Path;

/// A checkpoint's tensors, under canonical names.
pub enum Weights {
    /// Safetensors of a Hugging Face folder.
    Safetensors {
        /// Name for errors.
        name: String,
        /// The files.
        files: Safetensors,
        /// How the tensors are spelled.
        layout: Layout,
    },
    /// A GGUF file and, when the model can see, its mmproj.
    Gguf {
        /// Name for errors.
        name: String,
        /// The decoder.
        model: Gguf,
        /// The image encoder.
        mmproj: Option<Gguf>,
    },
    /// Random weights of a true shape, for measuring.
    Synthetic(Synthetic),
}

/// Whether a tensor is stored as the model wants it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Norm {
    /// RMSNorm weights lack the 1 that is added to them.
    WithoutOne,
    /// The 1 is in the file, or the norm is a LayerNorm, which has none.
    AsStored,
}

impl Weights {
    /// Takes the tensors of a folder, finding out which name layout it has.
    ///
    /// # Errors
    /// When no known layout's embedding table is there.
    pub fn from_safetensors(name: &str, files: Safetensors) -> Result<Self, Error> {
        let layout = Layout::detect(&files).ok_or_else(|| Error::Weights {
            checkpoint: name.to_owned(),
            name: "model.embed_tokens.weight".into(),
            problem: "not found under any of Gemma 3's names; is this a Gemma 3 checkpoint?".into(),
        })?;
        Ok(Self::Safetensors { name: name.to_owned(), files, layout })
    }

    /// Name for errors.
    pub fn name(&self) -> &str {
        match self {
            Self::Safetensors { name, .. } | Self::Gguf { name, .. } => name,
            Self::Synthetic(s) => s.name(),
        }
    }

    /// The files that the decoder's tensors (or the image encoder's) come from; none where they don't come from files.
    pub fn files(&self, vision: bool) -> Vec<&Path> {
        match self {
            Self::Safetensors { files, .. } => files.paths().collect(),
            Self::Gguf { model, mmproj, .. } => {
                (if vision { mmproj.as_ref() } else { Some(model) }).map(Gguf::path).into_iter().collect()
            }
            Self::Synthetic(_) => Vec::new(),
        }
    }

    /// The matrix or table `name` (canonical, such as `blk.0.attn_q.weight`) of the given shape.
    ///
    /// # Errors
    /// When it isn't there or has another shape.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        let (spelled, found) = self.find(name, shape)?;
        let Some(tensor) = found else {
            return Err(Error::Weights {
                checkpoint: self.name().to_owned(),
                name: spelled,
                problem: "is missing; the download may be incomplete, or the file is another model's".into(),
            });
        };
        // Layouts differ in dimensions of 1: a convolution's, a vector's.
        let squeezed = |s: &[usize]| s.iter().copied().filter(|d| *d != 1).collect::<Vec<_>>();
        if squeezed(&tensor.shape) != squeezed(shape) {
            return Err(self.shape_error(spelled, &tensor.shape, shape));
        }
        if tensor.shape == shape {
            return Ok(tensor);
        }
        let nf4 = tensor.nf4.clone();
        Ok(Tensor::from_parts(spelled, tensor.dtype, shape.to_vec(), tensor.bytes.clone(), nf4)?)
    }

    /// A vector, decoded.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        Ok(self.tensor(name, &[len])?.to_f32()?)
    }

    /// RMSNorm weights, with the 1 that the formula adds already in them.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn rms_norm(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        let mut values = self.vector(name, len)?;
        if self.norm() == Norm::WithoutOne {
            values.iter_mut().for_each(|w| *w += 1.0);
        }
        Ok(values)
    }

    /// Whether the checkpoint has the tensor.
    ///
    /// # Errors
    /// When the file's description of it is broken.
    pub fn contains(&self, name: &str) -> Result<bool, Error> {
        Ok(self.find(name, &[])?.1.is_some())
    }

    fn shape_error(&self, name: String, found: &[usize], wanted: &[usize]) -> Error {
        self.error(name, format!("has the shape {found:?}, but the configuration says {wanted:?}"))
    }

    /// What is wrong with a tensor.
    pub(crate) fn error(&self, name: impl Into<String>, problem: String) -> Error {
        Error::Weights { checkpoint: self.name().to_owned(), name: name.into(), problem }
    }

    fn norm(&self) -> Norm {
        match self {
            Self::Safetensors { .. } => Norm::WithoutOne,
            Self::Gguf { .. } | Self::Synthetic(_) => Norm::AsStored,
        }
    }

    /// The tensor and how the checkpoint spells its name.
    fn find(&self, name: &str, shape: &[usize]) -> Result<(String, Option<Tensor>), Error> {
        match self {
            Self::Safetensors { files, layout, .. } => {
                let spelled = layout.spell(name);
                let tensor = files.tensor(&spelled)?;
                Ok((spelled, tensor))
            }
            Self::Gguf { model, mmproj, .. } => {
                let vision = name.starts_with("v.") || name.starts_with("mm.");
                let file = if vision { mmproj.as_ref() } else { Some(model) };
                let tensor = file.and_then(|f| f.tensor(&names::gguf(name, f)));
                Ok((name.to_owned(), tensor))
            }
            Self::Synthetic(s) => Ok((name.to_owned(), s.tensor(name, shape))),
        }
    }

    /// The projection of image features, as rows of the decoder's width: `[hidden, vision hidden]`.
    ///
    /// Hugging Face folders and llama.cpp's mmproj store the transpose, since the reference multiplies from the left.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn image_projection(&self, hidden: usize, vision_hidden: usize) -> Result<Vec<f32>, Error> {
        let stored = self.tensor("mm.input_projection.weight", &[vision_hidden, hidden])?.to_f32()?;
        let mut rows = vec![0.0; stored.len()];
        for (i, row) in stored.chunks_exact(hidden).enumerate() {
            for (j, value) in row.iter().enumerate() {
                rows[j * vision_hidden + i] = *value;
            }
        }
        Ok(rows)
    }

    /// The element type most of the decoder's weights are stored in, for showing.
    ///
    /// # Errors
    /// When the first layer's tensors are broken.
    pub fn stored_as(&self) -> Result<Option<DType>, Error> {
        self.stored("blk.0.ffn_up.weight")
    }

    /// The element type that a tensor is stored in; `None` where there is no such tensor.
    ///
    /// # Errors
    /// When the file's description of it is broken.
    pub fn stored(&self, name: &str) -> Result<Option<DType>, Error> {
        Ok(self.find(name, &[])?.1.map(|t| t.dtype))
    }

    /// Whether matrices held as `format` keep the decoder exact: what stands beside quantized ones may be rounded to
    /// bf16, for they lose more than that.
    ///
    /// # Errors
    /// As [`Weights::stored_as`].
    pub fn exact(&self, format: WeightFormat) -> Result<bool, Error> {
        Ok(match format {
            WeightFormat::Stored => matches!(self.stored_as()?, Some(DType::F32 | DType::F16 | DType::BF16)),
            WeightFormat::F32 | WeightFormat::BF16 => true,
            WeightFormat::BF16Products | WeightFormat::Q8 | WeightFormat::Q4 | WeightFormat::Nf4 | WeightFormat::F8 => {
                false
            }
        })
    }

    /// The element type most of the image encoder's weights are stored in; `None` without an encoder.
    ///
    /// # Errors
    /// As [`Weights::stored_as`].
    pub fn vision_stored_as(&self) -> Result<Option<DType>, Error> {
        self.stored("v.blk.0.attn_q.weight")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medgemma_formats::GgufWriter;

    fn gguf(shape: &[usize]) -> Weights {
        let mut writer = GgufWriter::new("tiny.gguf");
        writer.set("general.architecture", "gemma3").unwrap();
        writer.tensor("blk.0.ffn_up.weight", DType::F32, shape).unwrap();
        let mut tensors = writer.to(Vec::new()).unwrap();
        tensors.write(&[0; 24]).unwrap();
        let model = Gguf::from_bytes("tiny.gguf", tensors.finish().unwrap().into()).unwrap();
        Weights::Gguf { name: "tiny.gguf".into(), model, mmproj: None }
    }

    /// A file may write a matrix with dimensions of 1; the backend must not take one of them for its columns.
    #[test]
    fn tensors_have_the_shape_that_was_asked_for() {
        for stored in [&[2, 3][..], &[2, 3, 1], &[1, 2, 3]] {
            let tensor = gguf(stored).tensor("blk.0.ffn_up.weight", &[2, 3]).unwrap();
            assert_eq!((tensor.rows(), tensor.cols()), (2, 3), "{stored:?}");
        }
        let error = gguf(&[3, 2]).tensor("blk.0.ffn_up.weight", &[2, 3]).unwrap_err().to_string();
        assert!(error.contains("ffn_up") && error.contains("[3, 2]"), "{error}");
    }
}
