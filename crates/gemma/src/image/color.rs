//! From a decoder's samples to 8-bit RGB, as Pillow's `convert("RGB")` does it.
//!
//! Alpha is dropped, not blended: a transparent pixel shows the colour that the file gives it. Of 16-bit samples the
//! high byte is taken, as Pillow does for RGB; its 16-bit greys it cuts off at 255 instead, which turns a radiograph
//! white, so there we differ on purpose.

use image::ColorType;

/// Converts samples (16-bit ones in native byte order) to RGB, or gives the reason why not.
pub(super) fn to_rgb(color: ColorType, samples: Vec<u8>) -> Result<Vec<u8>, String> {
    match color {
        ColorType::Rgb8 => Ok(samples),
        ColorType::Rgba8 => Ok(pick::<4>(&samples, |p| [p[0], p[1], p[2]])),
        ColorType::L8 => Ok(pick::<1>(&samples, |p| [p[0]; 3])),
        ColorType::La8 => Ok(pick::<2>(&samples, |p| [p[0]; 3])),
        ColorType::L16 => Ok(pick::<2>(&samples, |p| [high(p, 0); 3])),
        ColorType::La16 => Ok(pick::<4>(&samples, |p| [high(p, 0); 3])),
        ColorType::Rgb16 => Ok(pick::<6>(&samples, |p| [high(p, 0), high(p, 1), high(p, 2)])),
        ColorType::Rgba16 => Ok(pick::<8>(&samples, |p| [high(p, 0), high(p, 1), high(p, 2)])),
        _ => Err("samples of 32 bits have no agreed black and white: save the picture with 8 or 16 bits".to_owned()),
    }
}

/// What a person would call these samples.
pub(super) fn describe(color: ColorType) -> &'static str {
    match color {
        ColorType::L8 => "8-bit grey",
        ColorType::La8 => "8-bit grey with alpha",
        ColorType::Rgb8 => "8-bit RGB",
        ColorType::Rgba8 => "8-bit RGB with alpha",
        ColorType::L16 => "16-bit grey",
        ColorType::La16 => "16-bit grey with alpha",
        ColorType::Rgb16 => "16-bit RGB",
        ColorType::Rgba16 => "16-bit RGB with alpha",
        _ => "32-bit samples",
    }
}

/// The high byte of 16-bit sample `i`.
fn high(pixel: &[u8], i: usize) -> u8 {
    (u16::from_ne_bytes([pixel[2 * i], pixel[2 * i + 1]]) >> 8) as u8
}

/// Maps every pixel of `N` bytes to RGB.
fn pick<const N: usize>(samples: &[u8], rgb: impl Fn(&[u8; N]) -> [u8; 3]) -> Vec<u8> {
    samples.as_chunks::<N>().0.iter().flat_map(rgb).collect()
}
