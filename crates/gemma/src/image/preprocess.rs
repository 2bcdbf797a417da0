//! From a picture to the values the vision tower takes.

use super::{Rect, RgbImage, resize_bilinear};
use crate::Error;
use medgemma_formats::Gguf;
use serde::Deserialize;

/// Pillow's number of the bilinear filter, as `resample` in the settings has it.
const BILINEAR: u64 = 2;

/// The largest side that settings may ask for; Gemma 3 has 896.
const MAX_SIDE: usize = 8192;

/// When and how a long picture is also given in pieces (Gemma 3's "pan and scan").
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PanAndScan {
    /// Smallest side of a piece, in pixels.
    pub min_crop_size: usize,
    /// Most pieces of a picture.
    pub max_crops: usize,
    /// Smallest ratio of the long side to the short one that makes pieces.
    pub min_ratio: f64,
}

impl Default for PanAndScan {
    /// What the reference's processor takes where the settings say `null`.
    fn default() -> Self {
        Self { min_crop_size: 256, max_crops: 4, min_ratio: 1.2 }
    }
}

/// Crops that settings may ask for: a file could otherwise turn one picture into millions.
const MOST_CROPS: usize = 64;

/// The settings of a checkpoint for pictures, and the work itself.
#[derive(Clone, Debug)]
pub struct Preprocessor {
    /// Side of the square that pictures are resized to, in pixels.
    side: usize,
    /// Side of a patch, in pixels.
    patch: usize,
    /// Whether the checkpoint asks for pan and scan itself.
    default_pan_and_scan: bool,
    pan_and_scan: PanAndScan,
    /// Normalised value of each 8-bit level, for each channel.
    levels: Box<[[f32; 256]; 3]>,
}

/// `preprocessor_config.json`; a missing or `null` field has the reference's default.
#[derive(Deserialize)]
struct Settings {
    size: Option<Size>,
    resample: Option<u64>,
    do_resize: Option<bool>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<Channels>,
    image_std: Option<Channels>,
    do_pan_and_scan: Option<bool>,
    pan_and_scan_min_crop_size: Option<usize>,
    pan_and_scan_max_num_crops: Option<usize>,
    pan_and_scan_min_ratio_to_activate: Option<f64>,
}

#[derive(Deserialize)]
struct Size {
    height: Option<usize>,
    width: Option<usize>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Channels {
    One(f64),
    Each([f64; 3]),
}

impl Channels {
    /// The settings' value, or the reference's default of 0.5, for each channel.
    fn each(channels: Option<Self>) -> [f64; 3] {
        match channels {
            None => [0.5; 3],
            Some(Self::One(value)) => [value; 3],
            Some(Self::Each(values)) => values,
        }
    }
}

impl Preprocessor {
    /// Reads `preprocessor_config.json`, or `processor_config.json` with the same fields under `image_processor`.
    /// `patch` is the side of the vision tower's patches, in pixels (14 for Gemma 3). `name` is what errors call the file.
    ///
    /// # Errors
    /// [`Error::Image`] when the file isn't JSON of this kind or asks for something other than a bilinear resize to a
    /// square of whole patches.
    pub fn from_json(name: &str, json: &[u8], patch: usize) -> Result<Self, Error> {
        Self::parse(json, patch).map_err(|problem| Error::Image { name: name.to_owned(), problem })
    }

    /// Reads the `clip.vision.*` keys of a GGUF image encoder (mmproj); what is missing has Gemma 3's values.
    ///
    /// # Errors
    /// [`Error::Formats`] when a key has another type, [`Error::Image`] when a value can't be used.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, Error> {
        let problem = |problem| Error::Image { name: gguf.path().display().to_string(), problem };
        let number = |key, default| match gguf.u64(key)? {
            None => Ok(default),
            Some(value) => usize::try_from(value).map_err(|_| problem(format!("{key}: {value} is too large"))),
        };
        let channels = |key| match gguf.f32s(key)? {
            None => Ok([0.5; 3]),
            Some(&[r, g, b]) => Ok([r, g, b].map(f64::from)),
            Some(other) => Err(problem(format!("{key}: {} values instead of 3", other.len()))),
        };
        let side = number("clip.vision.image_size", 896)?;
        let patch = number("clip.vision.patch_size", 14)?;
        let (mean, std) = (channels("clip.vision.image_mean")?, channels("clip.vision.image_std")?);
        Self::new(side, patch, 1.0 / 255.0, mean, std).map_err(|text| problem(format!("clip.vision.*: {text}")))
    }

    fn parse(json: &[u8], patch: usize) -> Result<Self, String> {
        let mut value: serde_json::Value = serde_json::from_slice(json).map_err(|e| format!("not JSON: {e}"))?;
        if let Some(inner) = value.get_mut("image_processor") {
            value = inner.take();
        }
        let settings: Settings = serde_json::from_value(value).map_err(|e| e.to_string())?;
        if let Some(other) = settings.resample.filter(|&filter| filter != BILINEAR) {
            return Err(format!("resample: filter {other} isn't known here, only 2 (bilinear)"));
        }
        if settings.do_resize == Some(false) {
            return Err("do_resize: must be true, the vision tower takes one size".to_owned());
        }
        let side = match settings.size {
            None => return Err("size: missing".to_owned()),
            Some(Size { height: Some(height), width: Some(width) }) if height == width => height,
            Some(_) => return Err("size: must have an equal height and width".to_owned()),
        };
        let factor = match settings.do_rescale {
            Some(false) => 1.0,
            _ => settings.rescale_factor.unwrap_or(1.0 / 255.0),
        };
        let normalize = settings.do_normalize != Some(false);
        let mean = if normalize { Channels::each(settings.image_mean) } else { [0.0; 3] };
        let std = if normalize { Channels::each(settings.image_std) } else { [1.0; 3] };
        let default = PanAndScan::default();
        let mut preprocessor = Self::new(side, patch, factor, mean, std)?;
        preprocessor.default_pan_and_scan = settings.do_pan_and_scan.unwrap_or(false);
        preprocessor.pan_and_scan = PanAndScan {
            min_crop_size: settings.pan_and_scan_min_crop_size.unwrap_or(default.min_crop_size),
            max_crops: settings.pan_and_scan_max_num_crops.unwrap_or(default.max_crops),
            min_ratio: settings.pan_and_scan_min_ratio_to_activate.unwrap_or(default.min_ratio),
        };
        if preprocessor.pan_and_scan.min_crop_size == 0 || preprocessor.pan_and_scan.max_crops == 0 {
            return Err("pan_and_scan_min_crop_size and pan_and_scan_max_num_crops: must be at least 1".to_owned());
        }
        if preprocessor.pan_and_scan.max_crops > MOST_CROPS {
            return Err(format!("pan_and_scan_max_num_crops: more than {MOST_CROPS} crops of a picture aren't made"));
        }
        Ok(preprocessor)
    }

    /// Gemma 3's published settings: 896 pixels in patches of 14, values from −1 to 1.
    pub fn gemma3() -> Self {
        Self::new(896, 14, 1.0 / 255.0, [0.5; 3], [0.5; 3]).expect("64 patches a side and finite values")
    }

    /// A square of `side` pixels in patches of `patch`; a level `v` becomes `(v · factor − mean) / std`, rounded at each
    /// step as numpy does in the reference: the product in f64, then all in f32.
    fn new(side: usize, patch: usize, factor: f64, mean: [f64; 3], std: [f64; 3]) -> Result<Self, String> {
        if patch == 0 || side == 0 || side > MAX_SIDE || !side.is_multiple_of(patch) {
            return Err(format!("size: {side} isn't a whole number of patches of {patch} pixels, up to {MAX_SIDE}"));
        }
        let mut levels = Box::new([[0.0; 256]; 3]);
        for (channel, levels) in levels.iter_mut().enumerate() {
            for (level, value) in levels.iter_mut().enumerate() {
                let scaled = (level as f64 * factor) as f32;
                *value = (scaled - mean[channel] as f32) / std[channel] as f32;
                if !value.is_finite() {
                    return Err("rescale_factor, image_mean and image_std: give values that aren't finite".to_owned());
                }
            }
        }
        Ok(Self { side, patch, default_pan_and_scan: false, pan_and_scan: PanAndScan::default(), levels })
    }

    /// Side of the square that pictures are resized to, in pixels.
    pub fn side(&self) -> usize {
        self.side
    }

    /// Whether the checkpoint's settings turn pan and scan on; Gemma 3's don't.
    pub fn default_pan_and_scan(&self) -> bool {
        self.default_pan_and_scan
    }

    /// The picture as the vision tower sees it, at 8 bits.
    pub fn resize(&self, image: &RgbImage) -> RgbImage {
        resize_bilinear(image, self.side, self.side)
    }

    /// The picture as the vision tower takes it: `[patches, 3 · patch²]`, patches in raster order, in each patch channel
    /// after channel and row after row, so that the patch convolution is a product with its flattened weight.
    pub fn pixel_values(&self, image: &RgbImage) -> Vec<f32> {
        let square = self.resize(image);
        let mut values = Vec::with_capacity(self.side * self.side * 3);
        for top in (0..self.side).step_by(self.patch) {
            for left in (0..self.side).step_by(self.patch) {
                for (channel, levels) in self.levels.iter().enumerate() {
                    for y in top..top + self.patch {
                        let pixels = &square.row(y)[left * 3..(left + self.patch) * 3];
                        values
                            .extend(pixels.as_chunks::<3>().0.iter().map(|pixel| levels[usize::from(pixel[channel])]));
                    }
                }
            }
        }
        values
    }

    /// The pieces that pan and scan gives beside the whole picture; none when the picture isn't long enough or a piece
    /// would be too small. They are cut along the long side, without overlap.
    pub fn crops(&self, image: &RgbImage) -> Vec<RgbImage> {
        self.crop_rects(image.width, image.height).into_iter().filter_map(|rect| image.crop(rect)).collect()
    }

    /// Where [`Preprocessor::crops`] cuts a picture of this size.
    pub fn crop_rects(&self, width: usize, height: usize) -> Vec<Rect> {
        let PanAndScan { min_crop_size, max_crops, min_ratio } = self.pan_and_scan;
        let (long, short) = (width.max(height), width.min(height));
        let ratio = long as f64 / short as f64;
        if short == 0 || ratio < min_ratio {
            return vec![];
        }
        let count = ((ratio + 0.5).floor() as usize).min(long / min_crop_size).max(2).min(max_crops);
        let size = long.div_ceil(count);
        if size.min(short) < min_crop_size {
            return vec![];
        }
        // Rounding up may leave the last piece smaller, or nothing of it.
        (0..long)
            .step_by(size)
            .map(|start| {
                let length = size.min(long - start);
                if width >= height {
                    Rect { x: start, y: 0, width: length, height }
                } else {
                    Rect { x: 0, y: start, width, height: length }
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medgemma_formats::GgufWriter;

    fn problem(json: &str) -> String {
        Preprocessor::from_json("preprocessor_config.json", json.as_bytes(), 14).unwrap_err().to_string()
    }

    #[test]
    fn settings_that_ask_for_something_else_are_errors() {
        for (json, word) in [
            ("", "not JSON"),
            ("[]", "preprocessor_config.json"),
            ("{}", "size: missing"),
            (r#"{"size": {"shortest_edge": 896}}"#, "equal height and width"),
            (r#"{"size": {"height": 896, "width": 448}}"#, "equal height and width"),
            (r#"{"size": {"height": 900, "width": 900}}"#, "whole number of patches"),
            (r#"{"size": {"height": 0, "width": 0}}"#, "whole number of patches"),
            (r#"{"size": {"height": 14000000, "width": 14000000}}"#, "whole number of patches"),
            (r#"{"size": {"height": 896, "width": 896}, "resample": 3}"#, "resample"),
            (r#"{"size": {"height": 896, "width": 896}, "do_resize": false}"#, "do_resize"),
            (r#"{"size": {"height": 896, "width": 896}, "image_std": [0, 1, 1]}"#, "finite"),
            (r#"{"size": {"height": 896, "width": 896}, "image_mean": [1]}"#, "preprocessor_config.json"),
            (r#"{"size": {"height": 896, "width": 896}, "pan_and_scan_min_crop_size": 0}"#, "at least 1"),
        ] {
            let problem = problem(json);
            assert!(problem.contains(word), "{json}: {problem}");
        }
    }

    #[test]
    fn settings_of_a_whole_processor_are_found() {
        let json = br#"{"image_processor": {"size": {"height": 28, "width": 28}, "do_pan_and_scan": true}}"#;
        let preprocessor = Preprocessor::from_json("processor_config.json", json, 14).unwrap();
        assert_eq!(preprocessor.side(), 28);
        assert!(preprocessor.default_pan_and_scan());
    }

    #[test]
    fn an_mmproj_has_the_settings_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mmproj.gguf");
        let made = |std: Vec<f32>| {
            let mut writer = GgufWriter::new(&path);
            writer.set("clip.vision.image_size", 28_u32).unwrap();
            writer.set("clip.vision.image_std", std).unwrap();
            writer.create().unwrap().finish().unwrap().commit().unwrap();
            Preprocessor::from_gguf(&Gguf::open(&path).unwrap())
        };
        let read = made(vec![0.25, 0.5, 0.5]).unwrap();
        let want = Preprocessor::new(28, 14, 1.0 / 255.0, [0.5; 3], [0.25, 0.5, 0.5]).unwrap();
        assert_eq!((read.side, read.patch, read.levels), (want.side, want.patch, want.levels));
        assert!(made(vec![0.5]).unwrap_err().to_string().contains("1 values instead of 3"));
        assert!(made(vec![0.0; 3]).unwrap_err().to_string().contains("finite"));
    }

    #[test]
    fn values_lie_patch_after_patch_and_channel_after_channel() {
        // Each pixel is its own column, row and a constant, on the scale of 8-bit levels.
        let pixels = (0..4).flat_map(|y| (0..4).flat_map(move |x| [x, 10 + y, 100])).collect();
        let image = RgbImage::from_raw(4, 4, pixels).unwrap();
        let preprocessor = Preprocessor::new(4, 2, 1.0, [0.0; 3], [1.0; 3]).unwrap();
        let values = preprocessor.pixel_values(&image);
        let patch = |i: usize| &values[i * 12..(i + 1) * 12];
        assert_eq!(patch(0), [0., 1., 0., 1., 10., 10., 11., 11., 100., 100., 100., 100.]);
        assert_eq!(patch(1), [2., 3., 2., 3., 10., 10., 11., 11., 100., 100., 100., 100.]);
        assert_eq!(patch(2), [0., 1., 0., 1., 12., 12., 13., 13., 100., 100., 100., 100.]);
    }

    #[test]
    fn crops_are_parts_of_the_picture() {
        let preprocessor = Preprocessor::new(896, 14, 1.0, [0.0; 3], [1.0; 3]).unwrap();
        let pixels =
            (0..300).flat_map(|_| (0..601_usize).flat_map(|x| [(x / 256) as u8, (x % 256) as u8, 7])).collect();
        let image = RgbImage::from_raw(601, 300, pixels).unwrap();
        let crops = preprocessor.crops(&image);
        assert_eq!(crops.iter().map(|c| (c.width(), c.height())).collect::<Vec<_>>(), [(301, 300), (300, 300)]);
        assert_eq!(crops[1].pixels()[..3], [1, 45, 7]);
    }
}
