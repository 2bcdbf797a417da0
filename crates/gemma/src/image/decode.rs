//! Files to pixels, within limits that are checked before anything is decoded.

use super::RgbImage;
use super::claims;
use super::color::{describe, to_rgb};
use super::jpeg::Jpeg;
use super::sniff::{Format, sniff};
use crate::Error;
use image::metadata::Orientation;
use image::{ImageDecoder, ImageError, ImageFormat, ImageReader};
use std::io::{Cursor, Read};
use std::path::Path;

/// How large a picture may be. The sizes are read from the header and checked before anything is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Pixels; 100 million unless told.
    pub pixels: u64,
    /// Bytes of the decoded samples and of the decoder's own buffers; 1 GiB unless told.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pixels: 100_000_000, bytes: 1 << 30 }
    }
}

/// What a picture file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// The format, told from the content.
    pub format: Format,
    /// Columns as stored, before the orientation is applied.
    pub width: usize,
    /// Rows as stored.
    pub height: usize,
    /// The stored samples in words, such as `16-bit grey`.
    pub samples: &'static str,
    /// EXIF orientation 1…8 (1 when the file has none); [`decode`] has applied it.
    pub orientation: u8,
}

/// Decodes a PNG, JPEG, WebP, TIFF or BMP file to upright RGB, as transformers' `load_image` does.
///
/// The format is told from the content. `name` is what errors call the picture. Of an animation or a file of several
/// pages the first picture is taken. The EXIF orientation is applied; palettes and greys become RGB; alpha is dropped,
/// not blended; 16-bit samples keep their high byte; colour profiles are ignored.
///
/// The pixels are Pillow's, with these exceptions. 16-bit greys: Pillow cuts them off at 255, which turns a radiograph
/// white. BMP of 16 bits a pixel and TIFF with JPEG inside: some values differ by 1. JPEG whose progressive scans leave
/// bits out: Pillow smooths it. Not read at all: arithmetic-coded and 12-bit JPEG, TIFF with a palette, YCbCr or samples
/// of 32 bits. Files that are cut off or damaged are errors, also where Pillow would fill in grey.
///
/// # Errors
/// [`Error::Image`] when the file is none of the formats (the message names what it is and the remedy), is cut off or
/// damaged, or is larger than `limits`.
pub fn decode(name: &str, bytes: &[u8], limits: &Limits) -> Result<RgbImage, Error> {
    decode_with_info(name, bytes, limits).map(|(image, _)| image)
}

/// As [`decode`], with what the file says of itself.
///
/// # Errors
/// As [`decode`].
pub fn decode_with_info(name: &str, bytes: &[u8], limits: &Limits) -> Result<(RgbImage, Info), Error> {
    decode_bytes(bytes, limits).map_err(|problem| Error::Image { name: name.to_owned(), problem })
}

/// Reads and decodes a picture file; errors call it by its path.
///
/// # Errors
/// As [`decode`], and [`medgemma_formats::Error::Io`] when the file can't be read.
pub fn open(path: &Path, limits: &Limits) -> Result<(RgbImage, Info), Error> {
    let io = |source| medgemma_formats::Error::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    // One byte more tells a file that is too long, also where the size isn't known before, as of a pipe.
    let file = std::fs::File::open(path).map_err(io)?;
    file.take(limits.bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
    let name = path.display().to_string();
    if bytes.len() as u64 > limits.bytes {
        let problem = format!("more than the {} MiB allowed: make it smaller", limits.bytes >> 20);
        return Err(Error::Image { name, problem });
    }
    decode_with_info(&name, &bytes, limits)
}

fn decode_bytes(bytes: &[u8], limits: &Limits) -> Result<(RgbImage, Info), String> {
    let (info, pixels) = match sniff(bytes)? {
        Format::Jpeg => decode_jpeg(bytes, limits)?,
        format => decode_other(format, bytes, limits)?,
    };
    let image = RgbImage::from_raw(info.width, info.height, pixels)
        .ok_or_else(|| format!("the {} decoder gave other pixels than it announced", info.format.name()))?;
    Ok((image.upright(info.orientation), info))
}

fn decode_jpeg(bytes: &[u8], limits: &Limits) -> Result<(Info, Vec<u8>), String> {
    let jpeg = Jpeg::open(bytes)?;
    let (width, height) = jpeg.dimensions();
    check_size(Format::Jpeg, bytes, (width, height), jpeg.memory(), limits)?;
    let orientation = jpeg
        .exif
        .and_then(Orientation::from_exif_chunk)
        .map(Orientation::to_exif)
        .or_else(|| jpeg.xmp.and_then(xmp_orientation))
        .unwrap_or(1);
    let (width, height) = (width as usize, height as usize);
    let info = Info { format: Format::Jpeg, width, height, samples: jpeg.samples(), orientation };
    Ok((info, jpeg.decode()?))
}

fn decode_other(format: Format, bytes: &[u8], limits: &Limits) -> Result<(Info, Vec<u8>), String> {
    let fits = match format {
        Format::WebP => claims::webp_chunks_fit(bytes),
        Format::Tiff => claims::tiff_entries_fit(bytes),
        _ => true,
    };
    if !fits {
        return Err(cut_off(format));
    }
    let kind = match format {
        Format::Png => ImageFormat::Png,
        Format::Jpeg => ImageFormat::Jpeg,
        Format::WebP => ImageFormat::WebP,
        Format::Tiff => ImageFormat::Tiff,
        Format::Bmp => ImageFormat::Bmp,
    };
    let say = |error| explain(format, error);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), kind);
    let mut library_limits = image::Limits::no_limits();
    library_limits.max_alloc = Some(limits.bytes);
    reader.limits(library_limits);
    let mut decoder = reader.into_decoder().map_err(say)?;
    let (width, height) = decoder.dimensions();
    check_size(format, bytes, (width, height), decoder.total_bytes(), limits)?;
    let orientation = orientation(format, &mut decoder);
    let color = decoder.color_type();
    let mut samples = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut samples).map_err(say)?;
    let info = Info { format, width: width as usize, height: height as usize, samples: describe(color), orientation };
    Ok((info, to_rgb(color, samples)?))
}

/// Refuses sizes above the limits, and sizes that so few bytes can't hold.
fn check_size(
    format: Format,
    file: &[u8],
    (width, height): (u32, u32),
    decoded: u64,
    limits: &Limits,
) -> Result<(), String> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Err(format!("{width}×{height} pixels: the picture is empty"));
    }
    if pixels > limits.pixels {
        return Err(format!(
            "{width}×{height} pixels is more than the {} million allowed: make it smaller",
            limits.pixels / 1_000_000
        ));
    }
    if decoded > limits.bytes {
        return Err(format!(
            "{width}×{height} pixels take {} MiB decoded, more than the {} allowed: make it smaller or save it with \
             8 bits",
            decoded >> 20,
            limits.bytes >> 20
        ));
    }
    // Deflate gives at most 1032 bytes for one; a JPEG spends a bit at least on each 8×8 block.
    let most = match format {
        Format::Png => 8 * 1032,
        Format::Jpeg => 8 * 64,
        Format::Bmp if !claims::bmp_is_run_length_coded(file) => 8,
        Format::WebP | Format::Tiff | Format::Bmp => u64::MAX,
    };
    if pixels > most.saturating_mul(file.len() as u64) {
        return Err(cut_off(format));
    }
    Ok(())
}

fn cut_off(format: Format) -> String {
    format!("the {} file is cut off: it holds less than its header says", format.name())
}

/// The EXIF orientation, or the one in the XMP metadata when EXIF has none, or 1; damaged metadata doesn't make a
/// picture unreadable.
fn orientation(format: Format, decoder: &mut impl ImageDecoder) -> u8 {
    let exif = match format {
        Format::Tiff => decoder.orientation().ok(),
        _ => decoder.exif_metadata().ok().flatten().and_then(|exif| Orientation::from_exif_chunk(&exif)),
    };
    exif.map(Orientation::to_exif).or_else(|| xmp_orientation(&decoder.xmp_metadata().ok().flatten()?)).unwrap_or(1)
}

/// `tiff:Orientation="6"` or `<tiff:Orientation>6<`.
fn xmp_orientation(xmp: &[u8]) -> Option<u8> {
    const KEY: &[u8] = b"tiff:Orientation";
    xmp.windows(KEY.len() + 3).find_map(|window| {
        let rest = window.strip_prefix(KEY)?;
        let digit = match rest {
            [b'=', b'"', digit] | [b'>', digit, _] => digit,
            _ => return None,
        };
        (b'1'..=b'8').contains(digit).then(|| digit - b'0')
    })
}

/// A decoder's error as one sentence with a remedy.
fn explain(format: Format, error: ImageError) -> String {
    let name = format.name();
    match error {
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => cut_off(format),
        ImageError::Limits(_) => format!("decoding the {name} file takes more memory than allowed: make it smaller"),
        ImageError::Unsupported(error) => format!("{error}: save it as an 8-bit RGB PNG"),
        error => format!("the {name} file is damaged: {error}"),
    }
}
