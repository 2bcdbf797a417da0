//! What a file is, told from its first bytes: names lie.

/// A picture format that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the formats' own names
pub enum Format {
    Png,
    Jpeg,
    WebP,
    Tiff,
    Bmp,
}

impl Format {
    /// The format's usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
            Self::Tiff => "TIFF",
            Self::Bmp => "BMP",
        }
    }
}

/// What can be read, for messages.
const READABLE: &str = "PNG, JPEG, WebP, TIFF and BMP can be read";

/// The format of a file, or why it can't be decoded.
pub(super) fn sniff(bytes: &[u8]) -> Result<Format, String> {
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    if bytes.is_empty() {
        return Err("the file is empty".to_owned());
    }
    if at(0, b"\x89PNG\r\n\x1a\n") {
        return Ok(Format::Png);
    }
    if at(0, b"\xff\xd8\xff") {
        return Ok(Format::Jpeg);
    }
    if at(0, b"RIFF") && at(8, b"WEBP") {
        return Ok(Format::WebP);
    }
    if [&b"II*\0"[..], b"MM\0*", b"II+\0", b"MM\0+"].iter().any(|magic| at(0, magic)) {
        return Ok(Format::Tiff);
    }
    if at(0, b"BM") && bmp_header(bytes) {
        return Ok(Format::Bmp);
    }
    Err(match unreadable(bytes) {
        Some((what, remedy)) => format!("{what} isn't read: {remedy}"),
        None => format!("not a picture that is known here ({READABLE})"),
    })
}

/// Whether a file that begins with `BM`, as text may too, goes on with the size of a BMP header.
fn bmp_header(bytes: &[u8]) -> bool {
    let size = bytes.get(14..18).and_then(|size| size.try_into().ok()).map(u32::from_le_bytes);
    matches!(size, Some(12 | 16 | 40 | 52 | 56 | 64 | 108 | 124))
}

/// Formats that people bring and that aren't decoded, with what to do about it.
fn unreadable(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    const EXPORT: &str = "export it as PNG";
    const FRAME: &str = "export the frame that matters as PNG";
    const PAGE: &str = "export the page that matters as PNG";
    const SLICE: &str = "export the slices that matter as PNG";
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    if at(128, b"DICM") {
        return Some(("DICOM", "export the picture as PNG, with the window that matters"));
    }
    if at(4, b"ftyp") {
        return Some(match bytes.get(8..11) {
            Some(b"avi") => ("AVIF", EXPORT),
            Some(b"hei" | b"hev" | b"mif" | b"msf") => ("HEIC", "export it as JPEG or PNG"),
            _ => ("an MP4 or QuickTime video", FRAME),
        });
    }
    let starts: [(&[u8], &str, &str); 14] = [
        (b"GIF8", "GIF", FRAME),
        (b"%PDF", "PDF", PAGE),
        (b"\0\0\0\x0cjP  ", "JPEG 2000", EXPORT),
        (b"\xff\x4f\xff\x51", "JPEG 2000", EXPORT),
        (b"\0\0\0\x0cJXL ", "JPEG XL", EXPORT),
        (b"\xff\x0a", "JPEG XL", EXPORT),
        (b"8BPS", "a Photoshop file", EXPORT),
        (b"v/1\x01", "OpenEXR", EXPORT),
        (b"\0\0\x01\0", "ICO", EXPORT),
        (b"SIMPLE  =", "FITS", EXPORT),
        (b"NRRD", "NRRD", SLICE),
        (b"\x89HDF", "HDF5", SLICE),
        (b"\x1f\x8b", "a gzip file", "unpack it first"),
        (b"PK\x03\x04", "a ZIP archive", "unpack it first"),
    ];
    if let Some((_, what, remedy)) = starts.iter().find(|(magic, ..)| at(0, magic)) {
        return Some((what, remedy));
    }
    if at(344, b"n+1\0") || at(344, b"ni1\0") {
        return Some(("NIfTI", SLICE));
    }
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]).to_ascii_lowercase();
    let text = head.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    if text.starts_with("<svg") || (text.starts_with("<?xml") && text.contains("<svg")) {
        return Some(("SVG", EXPORT));
    }
    if text.starts_with("<!doctype html") || text.starts_with("<html") {
        return Some(("a web page", "save the picture itself"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_named() {
        let mut dicom = vec![0; 128];
        dicom.extend_from_slice(b"DICM");
        let mut nifti = vec![0; 344];
        nifti.extend_from_slice(b"n+1\0");
        for (bytes, word) in [
            (&b"GIF89a\x01\0"[..], "GIF"),
            (&dicom, "DICOM"),
            (&nifti, "NIfTI"),
            (b"\0\0\0\x18ftypheic", "HEIC"),
            (b"\0\0\0\x18ftypavif", "AVIF"),
            (b"\0\0\0\x18ftypisom", "video"),
            (b"%PDF-1.7", "PDF"),
            (b"<?xml version='1.0'?>\n<svg xmlns", "SVG"),
            (b" <SVG>", "SVG"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"BMI of the patient", "not a picture"),
            (b"RIFF\0\0\0\0WAVE", "not a picture"),
            (b"", "empty"),
            (b"\x89", "not a picture"),
        ] {
            let problem = sniff(bytes).unwrap_err();
            assert!(problem.contains(word), "{problem}");
        }
    }
}
