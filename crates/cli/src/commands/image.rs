//! `medgemma image`: what the model would see of a picture, and what was done to it.

use super::{print_json, print_lines};
use crate::args;
use crate::private;
use crate::terminal::show_picture;
use anyhow::{Context, Result};
use medgemma_gemma::image::{Info, Limits, Preprocessor, Rect, RgbImage, open};
use serde::Serialize;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Tokens of one picture or piece: 64×64 patches pooled 4×4.
const TOKENS: usize = 256;

#[derive(Serialize)]
struct Report {
    images: Vec<Seen>,
    /// Image tokens of all pictures together.
    tokens: usize,
}

/// A picture's way to the model: enough to repeat it, and to map a box back to the stored pixels.
#[derive(Serialize)]
struct Seen {
    file: PathBuf,
    format: &'static str,
    samples: &'static str,
    stored: Size,
    /// As EXIF counts them: 1 is upright.
    orientation: u8,
    upright: Size,
    /// The black square and where the picture lies in it.
    padded: Option<Padded>,
    /// Where pan and scan cuts the picture (after padding).
    crops: Vec<Area>,
    /// What each picture and crop is resized to.
    resized: Size,
    filter: &'static str,
    tokens: usize,
    /// The PNG files of what the model sees: the whole picture, then the crops.
    written: Vec<PathBuf>,
}

#[derive(Clone, Copy, Serialize)]
struct Size {
    width: usize,
    height: usize,
}

#[derive(Serialize)]
struct Padded {
    side: usize,
    picture: Area,
}

#[derive(Serialize)]
struct Area {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
}

pub(crate) fn run(args: &args::Image, quiet: bool) -> Result<()> {
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    }
    let mut names = HashSet::new();
    let mut report = Report { images: Vec::new(), tokens: 0 };
    for file in &args.files {
        let (image, info) = open(file, &Limits::default())?;
        let (seen, views) = see(file, image, info, args)?;
        if !quiet && !args.json {
            show_picture(&views[0]);
        }
        let written = match &args.out {
            Some(out) => write(&views, out, file, &mut names)?,
            None => vec![],
        };
        report.tokens += seen.tokens;
        report.images.push(Seen { written, ..seen });
    }
    if args.json { print_json(&report) } else { print_lines(report.images.iter().flat_map(lines)) }
}

/// The picture and its crops as the model gets them.
fn see(file: &Path, image: RgbImage, info: Info, args: &args::Image) -> Result<(Seen, Vec<RgbImage>)> {
    let preprocessor = Preprocessor::gemma3();
    let upright = size(&image);
    let (image, padded) = if args.pad {
        let (square, picture) = image.pad_to_square()?;
        let side = square.width();
        (square, Some(Padded { side, picture: area(picture) }))
    } else {
        (image, None)
    };
    let rects = if args.pan_and_scan { preprocessor.crop_rects(image.width(), image.height()) } else { vec![] };
    let crops = rects.iter().filter_map(|&rect| image.crop(rect));
    let views: Vec<RgbImage> =
        std::iter::once(preprocessor.resize(&image)).chain(crops.map(|crop| preprocessor.resize(&crop))).collect();
    let seen = Seen {
        file: file.to_owned(),
        format: info.format.name(),
        samples: info.samples,
        stored: Size { width: info.width, height: info.height },
        orientation: info.orientation,
        upright,
        padded,
        crops: rects.into_iter().map(area).collect(),
        resized: size(&views[0]),
        filter: "bilinear, antialiased",
        tokens: views.len() * TOKENS,
        written: vec![],
    };
    Ok((seen, views))
}

fn size(image: &RgbImage) -> Size {
    Size { width: image.width(), height: image.height() }
}

fn area(rect: Rect) -> Area {
    Area { x: rect.x, y: rect.y, width: rect.width, height: rect.height }
}

/// Writes `NAME.seen.png` and, for crops, `NAME.seen-1.png` and so on; a name that another picture took gets a number.
fn write(views: &[RgbImage], out: &Path, file: &Path, names: &mut HashSet<String>) -> Result<Vec<PathBuf>> {
    let stem = file.file_stem().map_or_else(|| "picture".into(), |stem| stem.to_string_lossy().into_owned());
    let mut name = stem.clone();
    let mut count = 1;
    while !names.insert(name.clone()) {
        count += 1;
        name = format!("{stem}.{count}");
    }
    let mut written = Vec::new();
    for (i, view) in views.iter().enumerate() {
        let suffix = if i == 0 { String::new() } else { format!("-{i}") };
        let path = out.join(format!("{name}.seen{suffix}.png"));
        private::write(&path, &view.to_png())?;
        written.push(path);
    }
    Ok(written)
}

fn lines(seen: &Seen) -> Vec<String> {
    let Size { width, height } = seen.stored;
    let mut lines = vec![format!("{}: {} of {width}×{height}, {}", seen.file.display(), seen.format, seen.samples)];
    if seen.orientation != 1 {
        let Size { width, height } = seen.upright;
        lines.push(format!("  turned upright (EXIF orientation {}) to {width}×{height}", seen.orientation));
    }
    if seen.samples.contains("alpha") {
        lines.push("  alpha dropped".to_owned());
    }
    if seen.samples.contains("16-bit") {
        lines.push("  cut to the high 8 bits".to_owned());
    }
    if let Some(Padded { side, picture }) = &seen.padded {
        lines.push(format!("  padded to a black square of {side}×{side}, the picture at {}, {}", picture.x, picture.y));
    }
    for Area { x, y, width, height } in &seen.crops {
        lines.push(format!("  piece of {width}×{height} at {x}, {y}"));
    }
    let Size { width, height } = seen.resized;
    lines.push(format!("  resized to {width}×{height}: {} tokens", seen.tokens));
    lines.extend(seen.written.iter().map(|path| format!("  wrote {}", path.display())));
    lines
}
