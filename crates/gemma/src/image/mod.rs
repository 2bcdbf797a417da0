//! Pictures: decoding, resizing and what the vision tower is given.
//!
//! Everything here follows the reference's path: `load_image` of transformers (Pillow 13) to RGB, `Image.resize` with
//! the bilinear filter, then rescaling and normalisation in numpy. All of it is equal to the reference to the bit, but
//! for the few kinds of files that [`decode`] names.

mod claims;
mod color;
mod decode;
mod jpeg;
mod preprocess;
mod resize;
mod sniff;

pub use decode::{Info, Limits, decode, decode_with_info, open};
pub use preprocess::{PanAndScan, Preprocessor};
pub use resize::resize_bilinear;
pub use sniff::Format;

use crate::Error;
use image::ImageEncoder;
use image::codecs::png::PngEncoder;

/// An 8-bit RGB picture with at least one pixel.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbImage {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

/// A rectangle of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rect {
    /// First column.
    pub x: usize,
    /// First row.
    pub y: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl RgbImage {
    /// A picture from `height · width · 3` bytes, row after row, or `None` when that isn't their number or there is no
    /// pixel.
    pub fn from_raw(width: usize, height: usize, pixels: Vec<u8>) -> Option<Self> {
        let len = width.checked_mul(height)?.checked_mul(3)?;
        (len > 0 && pixels.len() == len).then_some(Self { width, height, pixels })
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Bytes `[height, width, 3]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Gives the bytes away.
    pub fn into_pixels(self) -> Vec<u8> {
        self.pixels
    }

    /// Row `y`: `width · 3` bytes.
    fn row(&self, y: usize) -> &[u8] {
        &self.pixels[y * self.width * 3..][..self.width * 3]
    }

    /// The picture as a PNG file.
    pub fn to_png(&self) -> Vec<u8> {
        let mut file = Vec::new();
        let (width, height) = (self.width as u32, self.height as u32);
        PngEncoder::new(&mut file)
            .write_image(&self.pixels, width, height, image::ExtendedColorType::Rgb8)
            .expect("the buffer has the size and writing to memory doesn't fail");
        file
    }

    /// A copy of the part of the picture inside `rect`, or `None` when `rect` is empty or reaches outside.
    pub fn crop(&self, rect: Rect) -> Option<Self> {
        let inside = |start: usize, len: usize, whole: usize| len > 0 && start < whole && len <= whole - start;
        if !inside(rect.x, rect.width, self.width) || !inside(rect.y, rect.height, self.height) {
            return None;
        }
        let mut pixels = Vec::with_capacity(rect.width * rect.height * 3);
        for y in rect.y..rect.y + rect.height {
            pixels.extend_from_slice(&self.row(y)[rect.x * 3..(rect.x + rect.width) * 3]);
        }
        Some(Self { width: rect.width, height: rect.height, pixels })
    }

    /// The picture in the middle of a black square, as medical pictures are given to the model, and where it lies
    /// there: a box on the square minus the rectangle's `x` and `y` is the box on the picture.
    ///
    /// An odd row or column of padding goes to the right or the bottom.
    ///
    /// # Errors
    /// When the square would have more pixels than [`Limits`] allows a picture: a line of pixels makes a huge square.
    pub fn pad_to_square(&self) -> Result<(Self, Rect), Error> {
        let side = self.width.max(self.height);
        let most = Limits::default().pixels;
        if side.checked_mul(side).is_none_or(|pixels| pixels as u64 > most) {
            let problem = format!(
                "{}×{} pixels make a square of more than {most}: crop or shrink the picture first",
                self.width, self.height
            );
            return Err(Error::Image { name: "padding".to_owned(), problem });
        }
        let inner =
            Rect { x: (side - self.width) / 2, y: (side - self.height) / 2, width: self.width, height: self.height };
        if self.width == self.height {
            return Ok((self.clone(), inner));
        }
        let mut pixels = vec![0; side * side * 3];
        for y in 0..self.height {
            let start = ((inner.y + y) * side + inner.x) * 3;
            pixels[start..start + self.width * 3].copy_from_slice(self.row(y));
        }
        Ok((Self { width: side, height: side, pixels }, inner))
    }

    /// The picture turned and mirrored as the EXIF orientation 1…8 says it was taken; any other value changes nothing.
    fn upright(self, orientation: u8) -> Self {
        let (transpose, mirror_columns, mirror_rows) = match orientation {
            2 => (false, true, false),
            3 => (false, true, true),
            4 => (false, false, true),
            5 => (true, false, false),
            6 => (true, false, true),
            7 => (true, true, true),
            8 => (true, true, false),
            _ => return self,
        };
        let (width, height) = if transpose { (self.height, self.width) } else { (self.width, self.height) };
        let mut pixels = Vec::with_capacity(self.pixels.len());
        for y in 0..height {
            for x in 0..width {
                let (column, row) = if transpose { (y, x) } else { (x, y) };
                let column = if mirror_columns { self.width - 1 - column } else { column };
                let row = if mirror_rows { self.height - 1 - row } else { row };
                pixels.extend_from_slice(&self.row(row)[column * 3..column * 3 + 3]);
            }
        }
        Self { width, height, pixels }
    }
}

/// Without the pixels: they may show a patient.
impl std::fmt::Debug for RgbImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RgbImage({}×{})", self.width, self.height)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pixel values that tell where they were.
    fn numbered(width: usize, height: usize) -> RgbImage {
        RgbImage::from_raw(width, height, (0..width * height * 3).map(|i| i as u8).collect()).unwrap()
    }

    #[test]
    fn raw_pixels_must_have_the_size() {
        assert!(RgbImage::from_raw(2, 3, vec![0; 18]).is_some());
        assert!(RgbImage::from_raw(2, 3, vec![0; 17]).is_none());
        assert!(RgbImage::from_raw(0, 3, vec![]).is_none());
        assert!(RgbImage::from_raw(usize::MAX, usize::MAX, vec![0; 3]).is_none());
    }

    #[test]
    fn a_png_holds_the_pixels() {
        let image = numbered(7, 5);
        assert_eq!(decode("made", &image.to_png(), &Limits::default()).unwrap(), image);
    }

    #[test]
    fn padding_is_black_and_centred() {
        let (square, inner) = numbered(2, 5).pad_to_square().unwrap();
        assert_eq!((square.width(), square.height()), (5, 5));
        assert_eq!(inner, Rect { x: 1, y: 0, width: 2, height: 5 });
        assert_eq!(square.crop(inner).unwrap(), numbered(2, 5));
        assert_eq!(square.row(0), [0, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0]);

        let (square, inner) = numbered(4, 4).pad_to_square().unwrap();
        assert_eq!((square, inner.x, inner.y), (numbered(4, 4), 0, 0));
    }

    #[test]
    fn a_line_of_pixels_is_not_blown_up_to_a_square() {
        let line = RgbImage::from_raw(20_000, 1, vec![0; 60_000]).unwrap();
        assert!(line.pad_to_square().unwrap_err().to_string().contains("20000×1"));
    }

    #[test]
    fn crops_stay_inside() {
        let image = numbered(4, 3);
        let crop = |x, y, width, height| image.crop(Rect { x, y, width, height });
        assert_eq!(crop(1, 2, 2, 1).unwrap().pixels(), [27, 28, 29, 30, 31, 32]);
        for outside in [crop(0, 0, 0, 1), crop(4, 0, 1, 1), crop(2, 0, 3, 1), crop(0, 1, 1, usize::MAX)] {
            assert_eq!(outside, None);
        }
    }

    #[test]
    fn debug_output_shows_no_pixel() {
        assert_eq!(format!("{:?}", numbered(2, 1)), "RgbImage(2×1)");
    }
}
