//! JPEG, equal to the bit to libjpeg-turbo, which is what Pillow decodes with.
//!
//! The decoders of the Rust ecosystem round otherwise (by up to 5 levels where colours are subsampled), and what the
//! model answers should not depend on that. Baseline, extended sequential and progressive Huffman-coded files of 8 bits
//! are read, in one or several scans: what cameras, scanners and programs write.
//!
//! Stricter than libjpeg on purpose: data that is cut off or contradicts itself is an error, not a grey area.

mod bits;
mod idct;
mod output;
mod scan;

use bits::Codes;
use scan::{Part, Scan};
use std::rc::Rc;

/// The end of the file, or a marker, came too early.
const SHORT: &str = "the JPEG file is cut off: it holds less than its header says";

/// The file contradicts itself.
const DAMAGED: &str = "the JPEG file is damaged";

/// More scans than this only keep the processor busy: encoders write about ten.
const MOST_SCANS: usize = 200;

/// What the components mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colors {
    Grey,
    Rgb,
    YCbCr,
    Cmyk,
    Ycck,
}

/// A file whose headers have been read, up to its first scan.
pub(super) struct Jpeg<'a> {
    file: &'a [u8],
    /// Where the first scan's marker is.
    at: usize,
    tables: Tables,
    frame: Frame,
    colors: Colors,
    /// The TIFF structure of the EXIF metadata.
    pub(super) exif: Option<&'a [u8]>,
    pub(super) xmp: Option<&'a [u8]>,
}

/// The tables that scans choose from.
#[derive(Default)]
struct Tables {
    quantization: [Option<Rc<[u16; 64]>>; 4],
    dc: [Option<Rc<Codes>>; 4],
    ac: [Option<Rc<Codes>>; 4],
    restart_interval: usize,
}

/// The picture's size and components.
struct Frame {
    width: usize,
    height: usize,
    progressive: bool,
    /// MCUs across and down.
    mcus: (usize, usize),
    /// The components' largest sampling factors, across and down.
    max: (usize, usize),
    components: Vec<Component>,
}

/// One colour of the picture.
struct Component {
    id: u8,
    /// Blocks of an MCU, across and down: the sampling factors.
    across: usize,
    down: usize,
    /// Samples that the picture needs.
    width: usize,
    height: usize,
    /// Which quantization table.
    table: usize,
    /// That table as it was at the component's first scan.
    quantization: Option<Rc<[u16; 64]>>,
    /// Samples of whole MCUs, `stride` a row.
    samples: Vec<u8>,
    stride: usize,
    /// Coefficients of whole MCUs, when they come in several scans.
    blocks: Vec<[i16; 64]>,
}

impl Component {
    /// Blocks across and down that the picture needs.
    fn needed_blocks(&self) -> (usize, usize) {
        (self.width.div_ceil(8), self.height.div_ceil(8))
    }

    /// The coefficients of a block at a column and row of blocks.
    fn coefficients(&mut self, (column, row): (usize, usize)) -> &mut [i16; 64] {
        &mut self.blocks[row * (self.stride / 8) + column]
    }
}

/// The segment at or after `at`: its marker, its content and where it ends. Restart markers and the like have none.
fn segment(file: &[u8], at: usize) -> Result<(u8, &[u8], usize), String> {
    let rest = file.get(at..).unwrap_or(&[]);
    let distance = rest.windows(2).position(|two| two[0] == 0xff && !matches!(two[1], 0 | 0xff)).ok_or(SHORT)?;
    let (marker, start) = (rest[distance + 1], at + distance + 2);
    if matches!(marker, 0x01 | 0xd0..=0xd9) {
        return Ok((marker, &[], start));
    }
    let length = file.get(start..start + 2).ok_or(SHORT)?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    if length < 2 {
        return Err(DAMAGED.to_owned());
    }
    Ok((marker, file.get(start + 2..start + length).ok_or(SHORT)?, start + length))
}

impl<'a> Jpeg<'a> {
    /// Reads the headers.
    pub(super) fn open(file: &'a [u8]) -> Result<Self, String> {
        let mut tables = Tables::default();
        let (mut frame, mut exif, mut xmp) = (None, None, None);
        let (mut jfif, mut adobe) = (false, None);
        let mut at = 2;
        loop {
            let (marker, content, end) = segment(file, at)?;
            match marker {
                0xc0..=0xc2 if frame.is_none() => frame = Some(Frame::parse(content, marker == 0xc2)?),
                0xc0..=0xc2 => return Err(DAMAGED.to_owned()),
                0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf | 0xf7 => return Err(unsupported(marker)),
                0xda => break,
                0xd9 => return Err(DAMAGED.to_owned()),
                0xe0 if content.starts_with(b"JFIF\0") => jfif = true,
                0xe1 => {
                    exif = exif.or_else(|| content.strip_prefix(b"Exif\0\0"));
                    xmp = xmp.or_else(|| content.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0"));
                }
                0xee if content.starts_with(b"Adobe") => adobe = content.get(11).copied(),
                _ => tables.update(marker, content)?,
            }
            at = end;
        }
        let frame: Frame = frame.ok_or(DAMAGED)?;
        let colors = frame.colors(jfif, adobe)?;
        Ok(Self { file, at, tables, frame, colors, exif, xmp })
    }

    /// Columns and rows.
    pub(super) fn dimensions(&self) -> (u32, u32) {
        (self.frame.width as u32, self.frame.height as u32)
    }

    /// What a person would call the samples.
    pub(super) fn samples(&self) -> &'static str {
        match self.colors {
            Colors::Grey => "8-bit grey",
            Colors::Rgb => "8-bit RGB",
            Colors::YCbCr => "8-bit YCbCr",
            Colors::Cmyk | Colors::Ycck => "8-bit CMYK",
        }
    }

    /// Bytes that decoding takes.
    pub(super) fn memory(&self) -> u64 {
        let Frame { width, height, progressive, mcus, .. } = &self.frame;
        let blocks: usize = self.frame.components.iter().map(|c| c.across * c.down).sum();
        let block_bytes = if *progressive { 64 * 3 } else { 64 };
        (mcus.0 as u64 * mcus.1 as u64 * blocks as u64 * block_bytes) + (*width as u64 * *height as u64 * 3)
    }

    /// Decodes the picture to RGB.
    pub(super) fn decode(mut self) -> Result<Vec<u8>, String> {
        self.frame.allocate();
        let mut at = self.at;
        let mut scans = 0;
        loop {
            let (marker, content, end) = match segment(self.file, at) {
                // Nothing but the end marker is missing.
                Err(_) if self.frame.is_complete() => break,
                found => found?,
            };
            at = match marker {
                0xda => {
                    scans += 1;
                    if scans > MOST_SCANS {
                        return Err(format!("{DAMAGED}: more than {MOST_SCANS} scans"));
                    }
                    let scan = self.frame.scan(content, &self.tables)?;
                    scan::decode(&mut self.frame, scan, self.file, end)?
                }
                0xd9 => break,
                0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcf => return Err(DAMAGED.to_owned()),
                _ => {
                    self.tables.update(marker, content)?;
                    end
                }
            };
        }
        self.frame.finish()?;
        Ok(output::rgb(&self.frame, self.colors))
    }
}

fn unsupported(marker: u8) -> String {
    let kind = match marker {
        0xc3 | 0xcb => "lossless",
        0xf7 => "lossless (JPEG-LS)",
        0xc9 | 0xca => "arithmetic-coded",
        _ => "hierarchical",
    };
    format!("{kind} JPEG isn't read: save it as PNG")
}

impl Tables {
    /// Takes the tables of a segment, if it holds any.
    fn update(&mut self, marker: u8, mut content: &[u8]) -> Result<(), String> {
        match marker {
            0xc4 => {
                while !content.is_empty() {
                    let (head, rest) = content.split_first_chunk::<17>().ok_or(DAMAGED)?;
                    let counts: &[u8; 16] = head[1..].first_chunk().ok_or(DAMAGED)?;
                    let codes = Rc::new(Codes::new(counts, rest)?);
                    let kind = if head[0] >> 4 == 0 { &mut self.dc } else { &mut self.ac };
                    *kind.get_mut(usize::from(head[0] & 15)).ok_or(DAMAGED)? = Some(codes);
                    content = &rest[counts.iter().map(|&count| usize::from(count)).sum()..];
                }
            }
            0xdb => {
                while let Some((&head, rest)) = content.split_first() {
                    let wide = head >> 4 != 0;
                    let values = rest.get(..if wide { 128 } else { 64 }).ok_or(DAMAGED)?;
                    let mut table = [0; 64];
                    for (k, &at) in idct::ZIGZAG.iter().enumerate() {
                        table[usize::from(at)] = match wide {
                            true => u16::from_be_bytes([values[2 * k], values[2 * k + 1]]),
                            false => u16::from(values[k]),
                        };
                    }
                    *self.quantization.get_mut(usize::from(head & 15)).ok_or(DAMAGED)? = Some(Rc::new(table));
                    content = &rest[values.len()..];
                }
            }
            0xdd => match content {
                &[high, low] => self.restart_interval = usize::from(u16::from_be_bytes([high, low])),
                _ => return Err(DAMAGED.to_owned()),
            },
            _ => {}
        }
        Ok(())
    }
}

impl Frame {
    /// Reads a frame's header.
    fn parse(content: &[u8], progressive: bool) -> Result<Self, String> {
        let (head, rest) = content.split_first_chunk::<6>().ok_or(DAMAGED)?;
        if head[0] != 8 {
            return Err(format!("JPEG of {} bits isn't read: save it as PNG", head[0]));
        }
        let size = |i: usize| usize::from(u16::from_be_bytes([head[i], head[i + 1]]));
        let (height, width) = (size(1), size(3));
        let (parts, after) = rest.as_chunks::<3>();
        if parts.len() != usize::from(head[5]) || !matches!(parts.len(), 1 | 3 | 4) || !after.is_empty() {
            return Err(DAMAGED.to_owned());
        }
        let factors = || parts.iter().map(|part| (usize::from(part[1] >> 4), usize::from(part[1] & 15)));
        let max = factors().fold((1, 1), |max, (across, down)| (max.0.max(across), max.1.max(down)));
        let whole = |(across, down): (usize, usize)| {
            (1..=4).contains(&across) && (1..=4).contains(&down) && max.0 % across == 0 && max.1 % down == 0
        };
        if !factors().all(whole) {
            return Err("JPEG with these sampling factors isn't read: save it as PNG".to_owned());
        }
        let mcus = (width.div_ceil(8 * max.0), height.div_ceil(8 * max.1));
        let components = parts.iter().zip(factors()).map(|(&[id, _, table], (across, down))| Component {
            id,
            across,
            down,
            width: (width * across).div_ceil(max.0),
            height: (height * down).div_ceil(max.1),
            table: usize::from(table),
            quantization: None,
            samples: vec![],
            stride: mcus.0 * across * 8,
            blocks: vec![],
        });
        Ok(Self { width, height, progressive, mcus, max, components: components.collect() })
    }

    /// What the components mean: by the application markers, else by their names.
    fn colors(&self, jfif: bool, adobe: Option<u8>) -> Result<Colors, String> {
        let names: Vec<u8> = self.components.iter().map(|component| component.id).collect();
        Ok(match (names.len(), adobe) {
            (1, _) => Colors::Grey,
            (3, Some(0)) if !jfif => Colors::Rgb,
            (3, None) if !jfif && names == *b"RGB" => Colors::Rgb,
            (3, _) => Colors::YCbCr,
            (_, None | Some(0)) => Colors::Cmyk,
            _ => Colors::Ycck,
        })
    }

    /// Whether all samples are there: a sequential frame holds each component in one scan.
    fn is_complete(&self) -> bool {
        !self.progressive && self.components.iter().all(|component| component.quantization.is_some())
    }

    /// Makes room for the samples, and the coefficients that come in several scans.
    fn allocate(&mut self) {
        for component in &mut self.components {
            let blocks = self.mcus.0 * component.across * self.mcus.1 * component.down;
            component.samples = vec![0; blocks * 64];
            if self.progressive {
                component.blocks = vec![[0; 64]; blocks];
            }
        }
    }

    /// Reads a scan's header.
    fn scan(&mut self, content: &[u8], tables: &Tables) -> Result<Scan, String> {
        let (&count, rest) = content.split_first().ok_or(DAMAGED)?;
        let (chosen, band) = rest.split_at_checked(2 * usize::from(count)).ok_or(DAMAGED)?;
        let &[start, end, bits] = band else { return Err(DAMAGED.to_owned()) };
        let mut parts: Vec<Part> = Vec::new();
        for &[id, choice] in chosen.as_chunks::<2>().0 {
            let component = self.components.iter().position(|component| component.id == id).ok_or(DAMAGED)?;
            if parts.iter().any(|part| part.component == component) {
                return Err(DAMAGED.to_owned());
            }
            let of = |codes: &[Option<Rc<Codes>>; 4], slot: u8| codes.get(usize::from(slot)).cloned().flatten();
            let (dc, ac) = (of(&tables.dc, choice >> 4), of(&tables.ac, choice & 15));
            parts.push(Part { component, dc, ac, prediction: 0 });
            let component = &mut self.components[component];
            if component.quantization.is_none() {
                component.quantization = tables.quantization.get(component.table).cloned().flatten();
                if component.quantization.is_none() {
                    return Err(DAMAGED.to_owned());
                }
            }
        }
        let (band, bits) = ((usize::from(start), usize::from(end)), (u32::from(bits >> 4), u32::from(bits & 15)));
        let one_bit = bits.0 == 0 || bits.0 == bits.1 + 1;
        let progressive = match band {
            (0, 0) => one_bit && bits.1 < 14,
            (start, end) => (1..=end).contains(&start) && end < 64 && parts.len() == 1 && one_bit && bits.1 < 14,
        };
        if parts.is_empty() || (self.progressive && !progressive) {
            return Err(DAMAGED.to_owned());
        }
        Ok(Scan { parts, band, bits, restart_interval: tables.restart_interval })
    }

    /// Turns the coefficients that came in several scans into samples.
    fn finish(&mut self) -> Result<(), String> {
        for component in &mut self.components {
            // No scan has held this component.
            let quantization = component.quantization.as_deref().ok_or(SHORT)?;
            let across = component.stride / 8;
            for (at, block) in component.blocks.iter().enumerate() {
                let start = (at / across * component.stride + at % across) * 8;
                idct::block(block, quantization, &mut component.samples[start..], component.stride);
            }
        }
        Ok(())
    }
}
