//! Damaged, lying and enormous picture files: an error that says why, never a panic, never memory by a claim.

use medgemma_gemma::image::{Limits, decode};
use std::path::Path;

/// Every small picture of the goldens.
fn pictures() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pictures");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap())
        })
        .collect();
    files.sort();
    assert!(files.len() > 60);
    files
}

fn picture(name: &str) -> Vec<u8> {
    pictures().into_iter().find(|(file, _)| file == name).unwrap().1
}

fn problem(bytes: &[u8]) -> String {
    decode("scan", bytes, &Limits::default()).expect_err("this can't be decoded").to_string()
}

/// A PNG chunk with a right checksum.
fn chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = 0xffff_ffff_u32;
    for byte in name.iter().chain(data) {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    let mut out = (data.len() as u32).to_be_bytes().to_vec();
    out.extend_from_slice(name);
    out.extend_from_slice(data);
    out.extend_from_slice(&(!crc).to_be_bytes());
    out
}

fn png(width: u32, height: u32, depth: u8, kind: u8) -> Vec<u8> {
    let mut head = [width.to_be_bytes(), height.to_be_bytes()].concat();
    head.extend_from_slice(&[depth, kind, 0, 0, 0]);
    let idat = chunk(b"IDAT", &[0x78, 0x9c, 0x03, 0, 0, 0, 0, 1]);
    [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &head), idat, chunk(b"IEND", &[])].concat()
}

#[test]
fn png_sizes_are_checked_first() {
    for (width, height, word) in [
        (65535, 65535, "pixels is more than the 100 million allowed"),
        (0x7fff_ffff, 0x7fff_ffff, "PNG"),
        (0x7fff_ffff, 1, "more memory than allowed"),
        (10_000, 9_000, "cut off"),
        (0, 5, "PNG"),
        (5, 0, "PNG"),
    ] {
        let problem = problem(&png(width, height, 8, 2));
        assert!(problem.starts_with("scan: ") && problem.contains(word), "{width}×{height}: {problem}");
    }
    let wide = problem(&png(9_999, 10_000, 16, 6));
    assert!(wide.contains("cut off") || wide.contains("MiB"), "{wide}");
}

#[test]
fn bytes_are_capped_too() {
    let limits = Limits { pixels: 1_000_000, bytes: 800 };
    let problem = decode("scan", &picture("rgb.png"), &limits).unwrap_err().to_string();
    assert!(problem.contains("more memory than allowed") || problem.contains("MiB decoded"), "{problem}");
    let limits = Limits { pixels: 100, bytes: 1 << 20 };
    for (name, bytes) in pictures().into_iter().filter(|(name, _)| !["dot.jpg", "narrow.jpg"].contains(&name.as_str()))
    {
        assert!(decode(&name, &bytes, &limits).is_err(), "{name} has more than 100 pixels");
    }
}

/// Puts `value` at `offset`.
fn patched(mut bytes: Vec<u8>, offset: usize, value: &[u8]) -> Vec<u8> {
    bytes[offset..offset + value.len()].copy_from_slice(value);
    bytes
}

#[test]
fn bmp_sizes_are_checked_first() {
    let file = picture("rgb-24.bmp");
    let huge = 65535_u32.to_le_bytes();
    assert!(problem(&patched(patched(file.clone(), 18, &huge), 22, &huge)).contains("pixels is more than"));
    assert!(problem(&patched(file.clone(), 18, &9_000_u32.to_le_bytes())).contains("cut off"));
    for value in [0, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff_u32] {
        problem(&patched(patched(file.clone(), 18, &value.to_le_bytes()), 22, &value.to_le_bytes()));
    }
}

#[test]
fn jpeg_sizes_are_checked_first() {
    let file = picture("420.jpg");
    let frame = file.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    assert!(problem(&patched(file.clone(), frame + 5, &[0xff; 4])).contains("pixels is more than"));
    assert!(problem(&patched(file, frame + 5, &9_000_u16.to_be_bytes().repeat(2))).contains("cut off"));
}

#[test]
fn jpegs_with_endless_scans_are_refused() {
    let file = picture("progressive.jpg");
    let scan = file.windows(2).position(|marker| marker == [0xff, 0xda]).unwrap();
    let second =
        scan + 2 + file[scan + 2..].windows(2).position(|two| two == [0xff, 0xda] || two == [0xff, 0xc4]).unwrap();
    let many = [&file[..second], &file[scan..second].repeat(300), &file[second..]].concat();
    assert!(problem(&many).contains("more than 200 scans"));
}

#[test]
fn webp_sizes_are_checked_first() {
    // The extended header holds 24-bit sizes less one.
    let file = picture("animation.webp");
    assert_eq!(&file[12..16], b"VP8X", "the file has an extended header");
    assert!(problem(&patched(file, 24, &[0xfe, 0xff, 0, 0xfe, 0xff, 0])).contains("pixels is more than"));
}

#[test]
fn webp_chunks_larger_than_the_file_are_refused() {
    let file = picture("orientation-6.webp");
    let exif = file.windows(4).position(|name| name == b"EXIF").unwrap();
    assert!(problem(&patched(file, exif + 4, &[0xff; 4])).contains("cut off"));
    // A lossy frame larger than its canvas.
    let file = picture("lossy-alpha.webp");
    let frame = file.windows(3).position(|start| start == [0x9d, 0x01, 0x2a]).unwrap();
    problem(&patched(file, frame + 3, &[0xff, 0x3f, 0xff, 0x3f]));
}

#[test]
fn tiff_sizes_are_checked_first() {
    let file = picture("rgb-raw.tif");
    let directory = u32::from_le_bytes(file[4..8].try_into().unwrap()) as usize;
    let entries = usize::from(u16::from_le_bytes(file[directory..directory + 2].try_into().unwrap()));
    for value in [0_u32, 65535, 0x7fff_ffff, 0xffff_ffff] {
        let mut lying = file.clone();
        for entry in 0..entries {
            let at = directory + 2 + entry * 12;
            let tag = u16::from_le_bytes(lying[at..at + 2].try_into().unwrap());
            if tag == 256 || tag == 257 {
                lying = patched(lying, at + 2, &[4, 0, 1, 0, 0, 0]);
                lying = patched(lying, at + 8, &value.to_le_bytes());
            }
        }
        problem(&lying);
    }
    // Every entry claims four billion values.
    let mut lying = file;
    for entry in 0..entries {
        lying = patched(lying, directory + 2 + entry * 12 + 4, &[0xff; 4]);
    }
    assert!(problem(&lying).contains("cut off"));
}

#[test]
fn palette_indices_past_the_palette_are_black() {
    let image = decode("scan", &picture("palette-short.png"), &Limits::default()).unwrap();
    assert!(image.pixels().chunks_exact(3).any(|pixel| pixel == [0; 3]));
}

#[test]
fn cut_off_files_are_errors() {
    for (name, bytes) in pictures() {
        // What follows the pixels may be missing: a second page or frame, metadata, padding, the end marker.
        let slack = match name.as_str() {
            "two-pages.tif" | "animation.webp" => bytes.len() * 3 / 4,
            _ if name.ends_with(".jpg") => 2,
            _ if name.ends_with(".webp") => 7,
            _ => 32,
        };
        for length in 0..bytes.len() {
            let result = decode(&name, &bytes[..length], &Limits::default());
            assert!(result.is_err() || length + slack >= bytes.len(), "{name}: {length} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn flipped_bytes_do_not_panic() {
    let limits = Limits { pixels: 1_000_000, bytes: 1 << 25 };
    for (name, bytes) in pictures() {
        for at in 0..bytes.len().min(700) {
            for value in [0, 0x7f, 0xff, bytes[at] ^ 1] {
                let _ = decode(&name, &patched(bytes.clone(), at, &[value]), &limits);
            }
        }
    }
}
