//! One tensor: a name, a type, a shape and bytes that fit them.

use crate::{Bytes, DType, Error, Nf4, dequantize};
use std::sync::Arc;

/// A named tensor: element type, shape (outermost dimension first, as PyTorch prints it) and its bytes.
///
/// The bytes were checked against the shape when the tensor was made. Cloning shares them.
///
/// ```
/// use medgemma_formats::Tensor;
/// let tensor = Tensor::from_f32("w", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// let mut row = [0.0; 3];
/// tensor.row_f32(1, &mut row)?;
/// assert_eq!(row, [4.0, 5.0, 6.0]);
/// # Ok::<(), medgemma_formats::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive] // made by `from_parts`, which checks
pub struct Tensor {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first; the last one is contiguous.
    pub shape: Vec<usize>,
    /// Elements, row after row.
    pub bytes: Bytes,
    /// Scales, when `dtype` is [`DType::Nf4`].
    pub nf4: Option<Arc<Nf4>>,
}

impl Tensor {
    /// A tensor of given bytes, and scales when it is NF4.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the shape overflows, its rows aren't whole blocks, the bytes or scales are too few or
    /// too many, or scales are missing or superfluous.
    pub fn from_parts(
        name: impl Into<String>,
        dtype: DType,
        shape: Vec<usize>,
        bytes: Bytes,
        nf4: Option<Arc<Nf4>>,
    ) -> Result<Self, Error> {
        let name = name.into();
        let expected = byte_size(dtype, &shape).map_err(|problem| Error::tensor(&name, problem))?;
        if bytes.len() != expected {
            let problem = format!("shape {shape:?} in {dtype} takes {expected} bytes, there are {}", bytes.len());
            return Err(Error::tensor(&name, problem));
        }
        match (&nf4, dtype) {
            (Some(nf4), DType::Nf4) => {
                let scales = shape.iter().product::<usize>().div_ceil(DType::Nf4.block_len());
                if nf4.absmax.len() != scales {
                    let problem = format!("shape {shape:?} takes {scales} scales, there are {}", nf4.absmax.len());
                    return Err(Error::tensor(&name, problem));
                }
            }
            (None, DType::Nf4) => return Err(Error::tensor(&name, "NF4 without its scales")),
            (Some(_), _) => return Err(Error::tensor(&name, format!("NF4 scales beside {dtype} elements"))),
            (None, _) => {}
        }
        Ok(Self { name, dtype, shape, bytes, nf4 })
    }

    /// An F32 tensor of values in memory.
    ///
    /// # Errors
    /// [`Error::Tensor`] when there are not as many values as the shape says.
    pub fn from_f32(name: impl Into<String>, shape: &[usize], values: &[f32]) -> Result<Self, Error> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::from_parts(name, DType::F32, shape.to_vec(), Bytes::from(bytes), None)
    }

    /// Elements in all.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Size of the last dimension (1 for a scalar).
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len().saturating_sub(1)].iter().product()
    }

    /// Decodes row `row` (of [`Tensor::rows`]) into `out`, whose length is [`Tensor::cols`].
    ///
    /// # Errors
    /// When `row` or the length of `out` doesn't fit the shape.
    pub fn row_f32(&self, row: usize, out: &mut [f32]) -> Result<(), Error> {
        let (rows, cols) = (self.rows(), self.cols());
        if row >= rows {
            return Err(Error::tensor(&self.name, format!("row {row} of {rows}")));
        }
        if out.len() != cols {
            return Err(Error::tensor(&self.name, format!("a row of {cols} elements into {}", out.len())));
        }
        self.elements_f32(row.checked_mul(cols), out)
    }

    /// Decodes the whole tensor, row after row.
    ///
    /// # Errors
    /// As [`Tensor::row_f32`].
    pub fn to_f32(&self) -> Result<Vec<f32>, Error> {
        let mut out = vec![0.0; self.len()];
        self.elements_f32(Some(0), &mut out)?;
        Ok(out)
    }

    /// Decodes consecutive elements of the flattened tensor from `start`, a row's first (`None`: it overflowed).
    fn elements_f32(&self, start: Option<usize>, out: &mut [f32]) -> Result<(), Error> {
        let short = || Error::tensor(&self.name, format!("bytes don't fit shape {:?} in {}", self.shape, self.dtype));
        let start = start.ok_or_else(short)?;
        if let Some(nf4) = &self.nf4 {
            return nf4.decode(&self.bytes, start, out).ok_or_else(short);
        }
        let (first, size) = self.dtype.row_bytes(start).zip(self.dtype.row_bytes(out.len())).ok_or_else(short)?;
        let bytes = first.checked_add(size).and_then(|end| self.bytes.get(first..end)).ok_or_else(short)?;
        dequantize(self.dtype, bytes, out)
    }
}

/// Bytes a tensor takes, every step checked; or what is wrong with its shape.
pub(crate) fn byte_size(dtype: DType, shape: &[usize]) -> Result<usize, String> {
    let overflow = || format!("shape {shape:?} overflows");
    let elements = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim)).ok_or_else(overflow)?;
    if dtype == DType::Nf4 {
        // Blocks run over the flattened tensor; the last one may be short.
        return Ok(elements.div_ceil(2));
    }
    let cols = shape.last().copied().unwrap_or(1);
    if !cols.is_multiple_of(dtype.block_len()) {
        return Err(format!("rows of {cols} elements are not whole {dtype} blocks of {}", dtype.block_len()));
    }
    dtype.row_bytes(elements).ok_or_else(overflow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dtype: DType, shape: &[usize], bytes: usize) -> Result<Tensor, Error> {
        Tensor::from_parts("t", dtype, shape.to_vec(), Bytes::from(vec![0u8; bytes]), None)
    }

    #[test]
    fn bytes_must_fit_the_shape() {
        assert!(tensor(DType::F32, &[2, 3], 24).is_ok());
        assert!(tensor(DType::F32, &[2, 3], 23).is_err());
        assert!(tensor(DType::F32, &[2, 3], 28).is_err());
        assert!(tensor(DType::Q8_0, &[2, 32], 68).is_ok());
        assert!(tensor(DType::Q8_0, &[2, 16], 34).is_err(), "half a block a row, though one block in all");
        assert!(tensor(DType::F32, &[usize::MAX, 2], 8).is_err());
        assert!(tensor(DType::F32, &[1 << 62, 4], 0).is_err(), "wraps to 0");
        assert!(tensor(DType::F32, &[1 << 63, 2, 0], 0).is_err());
        assert!(tensor(DType::Nf4, &[64], 32).is_err(), "no scales");
    }

    #[test]
    fn rows_and_wholes_agree() {
        let values: Vec<f32> = (0..24).map(|i| i as f32 * 0.5).collect();
        let tensor = Tensor::from_f32("t", &[2, 3, 4], &values).unwrap();
        assert_eq!((tensor.rows(), tensor.cols(), tensor.len()), (6, 4, 24));
        assert_eq!(tensor.to_f32().unwrap(), values);
        let mut row = [0.0; 4];
        tensor.row_f32(5, &mut row).unwrap();
        assert_eq!(row, values[20..]);
        assert!(tensor.row_f32(6, &mut row).is_err());
        assert!(tensor.row_f32(usize::MAX, &mut row).is_err());
        assert!(tensor.row_f32(0, &mut [0.0; 3]).is_err());
    }

    #[test]
    fn scalars_and_empty_tensors() {
        let scalar = Tensor::from_f32("s", &[], &[3.0]).unwrap();
        assert_eq!((scalar.rows(), scalar.cols(), scalar.len()), (1, 1, 1));
        assert_eq!(scalar.to_f32().unwrap(), [3.0]);
        let empty = Tensor::from_f32("e", &[0, 5], &[]).unwrap();
        assert!(empty.is_empty() && empty.to_f32().unwrap().is_empty());
        assert!(empty.row_f32(0, &mut [0.0; 5]).is_err());
    }

    #[test]
    fn a_tampered_tensor_is_an_error() {
        let mut tensor = Tensor::from_f32("t", &[2, 2], &[1.0; 4]).unwrap();
        tensor.shape = vec![3, 2];
        assert!(tensor.row_f32(2, &mut [0.0; 2]).is_err());
        assert!(tensor.to_f32().is_err());
    }
}
