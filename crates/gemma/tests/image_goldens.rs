//! Pictures against Pillow and transformers: see tools/goldens/images.py and tools/goldens/pictures.py.

use medgemma_gemma::image::{Limits, Preprocessor, Rect, RgbImage, decode, resize_bilinear};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(path)
}

fn testdata(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(path)
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&read(path)).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn numbers(value: &Value) -> Vec<usize> {
    list(value).iter().map(|n| n.as_u64().unwrap() as usize).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .as_chunks::<2>()
        .0
        .iter()
        .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap())
        .collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The noisy picture that the goldens state the formula of.
fn pattern(width: usize, height: usize) -> RgbImage {
    let mut pixels = Vec::with_capacity(width * height * 3);
    for y in 0..height as u32 {
        for x in 0..width as u32 {
            for c in 0..3u32 {
                let h = x.wrapping_mul(374761393) ^ y.wrapping_mul(668265263) ^ c.wrapping_mul(2246822519);
                let h = (h ^ (h >> 13)).wrapping_mul(1274126177);
                pixels.push((h >> 16) as u8);
            }
        }
    }
    RgbImage::from_raw(width, height, pixels).unwrap()
}

/// How far a file's pixels may lie from Pillow's. Only where another decoder rounds otherwise: a JPEG inside a TIFF, and
/// Pillow's cutting off of 5-bit samples.
fn tolerance(file: &str) -> u8 {
    match file {
        "rgb-jpeg.tif" | "rgb-555.bmp" | "rgb-565.bmp" => 1,
        _ => 0,
    }
}

#[test]
fn files_decode_as_pillow_decodes_them() {
    for case in list(&json(&data("pictures.json"))["pictures"]) {
        let file = case["file"].as_str().unwrap();
        let result = decode(file, &read(&data("pictures").join(file)), &Limits::default());
        if file == "palette-8.tif" {
            assert!(result.unwrap_err().to_string().ends_with("save it as an 8-bit RGB PNG"));
            continue;
        }
        let image = result.unwrap_or_else(|e| panic!("{e}"));
        // Pillow cuts 16-bit greys off at 255; we keep the high byte, as of every other 16-bit sample.
        let want = match file {
            "grey-16.png" | "grey-16.tif" => {
                decode("grey", &read(&data("pictures/grey.png")), &Limits::default()).unwrap()
            }
            _ => {
                let size = numbers(&case["size"]);
                RgbImage::from_raw(size[0], size[1], unhex(case["rgb"].as_str().unwrap())).unwrap()
            }
        };
        assert_eq!((image.width(), image.height()), (want.width(), want.height()), "{file}");
        let worst = want.pixels().iter().zip(image.pixels()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= tolerance(file), "{file}: off by {worst}");
    }
}

#[test]
fn resizing_gives_pillows_bytes() {
    for case in list(&json(&data("images.json"))["resizes"]) {
        let [width, height, to_width, to_height] = numbers(&Value::from(list(case)[..4].to_vec()))[..] else {
            panic!("{case}")
        };
        let resized = resize_bilinear(&pattern(width, height), to_width, to_height);
        assert_eq!(sha256(resized.pixels()), case[4], "{width}×{height} to {to_width}×{to_height}");
    }
}

#[test]
fn resizing_test_pictures_gives_pillows_bytes() {
    let goldens = json(&testdata("resize.json"));
    for case in list(&goldens["files"]).iter().chain(list(&goldens["patterns"])) {
        let image = match case["file"].as_str() {
            Some(file) => decode(file, &read(&testdata("images").join(file)), &Limits::default()).unwrap(),
            None => {
                let size = numbers(&case["pattern"]);
                pattern(size[0], size[1])
            }
        };
        assert_eq!(sha256(image.pixels()), case["decoded"]["sha256"], "{case}");
        for want in list(&case["to"]) {
            let size = numbers(&want["size"]);
            let resized = resize_bilinear(&image, size[0], size[1]);
            assert_eq!(sha256(resized.pixels()), want["sha256"], "{image:?} to {size:?}");
        }
    }
}

#[test]
fn values_are_the_references() {
    for case in list(&json(&data("images.json"))["values"]) {
        let settings = serde_json::to_vec(&case["settings"]).unwrap();
        let patch = case["patch"].as_u64().unwrap() as usize;
        let preprocessor = Preprocessor::from_json("settings", &settings, patch).unwrap();
        let size = numbers(&case["pattern"]);
        let values = preprocessor.pixel_values(&pattern(size[0], size[1]));
        let first: Vec<f32> = list(&case["first"]).iter().map(|v| v.as_f64().unwrap() as f32).collect();
        assert_eq!(values[..first.len()], first);
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(sha256(&bytes), case["sha256"], "{}", case["settings"]);
    }
}

#[test]
fn published_settings_are_gemma_3s() {
    let settings = br#"{"size": {"height": 896, "width": 896}, "do_pan_and_scan": null, "resample": 2,
        "rescale_factor": 0.00392156862745098, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}"#;
    let read = Preprocessor::from_json("settings", settings, 14).unwrap();
    let image = pattern(40, 30);
    assert_eq!(read.pixel_values(&image), Preprocessor::gemma3().pixel_values(&image));
}

#[test]
fn pan_and_scan_cuts_as_the_reference_does() {
    let preprocessor = Preprocessor::gemma3();
    for case in list(&json(&data("images.json"))["crops"]) {
        let (width, height) = (case[0].as_u64().unwrap() as usize, case[1].as_u64().unwrap() as usize);
        let want: Vec<Rect> =
            list(&case[2]).iter().map(numbers).map(|r| Rect { x: r[0], y: r[1], width: r[2], height: r[3] }).collect();
        assert_eq!(preprocessor.crop_rects(width, height), want, "{width}×{height}");
    }
}
