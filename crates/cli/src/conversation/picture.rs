//! A picture as it is given to the model.

use anyhow::{Context, Result, bail};
use medgemma_gemma::image::{Format, Limits, RgbImage, decode_with_info};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The largest file that is read as a picture.
const MAX_FILE: u64 = 512 << 20;

/// A picture, decoded, and the file that it came from.
#[derive(Clone, PartialEq)]
pub(crate) struct Picture {
    /// The file's name, or `picture` where it came without one.
    pub(crate) name: String,
    /// The file's format.
    pub(crate) format: Format,
    /// The file.
    pub(crate) file: Arc<[u8]>,
    /// The pixels, upright.
    pub(crate) image: Arc<RgbImage>,
}

impl Picture {
    /// Decodes a file's bytes.
    ///
    /// # Errors
    /// When they are no picture that can be read, or one that is too large.
    pub(crate) fn decode(name: &str, file: Vec<u8>) -> Result<Self> {
        let (image, info) = decode_with_info(name, &file, &Limits::default())?;
        Ok(Self { name: name.to_owned(), format: info.format, file: file.into(), image: Arc::new(image) })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it can't be read, or as [`Picture::decode`].
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let full = || path.display().to_string();
        let meta = std::fs::metadata(path).with_context(full)?;
        if !meta.is_file() {
            bail!("{}: not a file", full());
        }
        if meta.len() > MAX_FILE {
            bail!("{}: {} is too large for a picture", full(), crate::terminal::bytes(meta.len()));
        }
        let name = path.file_name().map_or_else(full, |name| name.to_string_lossy().into_owned());
        Self::decode(&name, std::fs::read(path).with_context(full)?)
    }

    /// The picture in a black square when `pad` says so: its file stays what it was.
    ///
    /// # Errors
    /// When the square would be too large.
    pub(crate) fn padded(mut self, pad: bool) -> Result<Self> {
        if pad {
            let square = self.image.pad_to_square().with_context(|| self.name.clone())?.0;
            self.image = Arc::new(square);
        }
        Ok(self)
    }

    /// Its name and size, for a person.
    pub(crate) fn about(&self) -> String {
        format!("{} ({} × {})", self.name, self.image.width(), self.image.height())
    }

    /// A grey picture, for tests.
    #[cfg(test)]
    pub(crate) fn grey(name: &str) -> Self {
        let image = RgbImage::from_raw(3, 2, vec![128; 18]).unwrap();
        Self::decode(name, image.to_png()).unwrap()
    }
}

/// Without the pixels: they may show a patient.
impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Picture({}, {:?})", self.name, self.image)
    }
}
