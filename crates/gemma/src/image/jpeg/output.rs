//! From the planes of a frame to RGB, equal to the bit to libjpeg-turbo with its defaults ("fancy upsampling").

use super::{Colors, Component, Frame};

/// Fractional bits of the colour conversion.
const FRACTION: i32 = 16;

/// The picture as RGB, row after row.
pub(super) fn rgb(frame: &Frame, colors: Colors) -> Vec<u8> {
    let mut pixels = vec![0; frame.width * frame.height * 3];
    // A row of each component at full width, and some room for the last pair of a subsampled one.
    let mut rows = vec![vec![0; frame.width + frame.max.0]; frame.components.len()];
    for (y, out) in pixels.chunks_exact_mut(frame.width * 3).enumerate() {
        for (component, row) in frame.components.iter().zip(&mut rows) {
            let ratio = (frame.max.0 / component.across, frame.max.1 / component.down);
            upsample(component, y, ratio, row);
        }
        let at = |component: usize, x: usize| -> i32 { i32::from(rows[component][x]) };
        let out = out.as_chunks_mut::<3>().0.iter_mut().enumerate();
        match colors {
            Colors::Grey => out.for_each(|(x, out)| *out = [rows[0][x]; 3]),
            Colors::Rgb => out.for_each(|(x, out)| *out = [rows[0][x], rows[1][x], rows[2][x]]),
            Colors::YCbCr => out.for_each(|(x, out)| *out = ycc_to_rgb(at(0, x), at(1, x), at(2, x))),
            // Adobe's files hold inverted inks, so these are what is left of the light.
            Colors::Cmyk => out.for_each(|(x, out)| *out = [0, 1, 2].map(|c| scale(at(c, x), at(3, x)))),
            Colors::Ycck => out.for_each(|(x, out)| {
                let inks = ycc_to_rgb(at(0, x), at(1, x), at(2, x)).map(|value| 255 - i32::from(value));
                *out = inks.map(|ink| scale(ink, at(3, x)));
            }),
        }
    }
    pixels
}

/// `light` under a black of `light` `black`, as Pillow's CMYK conversion rounds it.
fn scale(light: i32, black: i32) -> u8 {
    let product = (255 - light) * black + 128;
    (black - ((product + (product >> 8)) >> 8)).clamp(0, 255) as u8
}

fn ycc_to_rgb(y: i32, cb: i32, cr: i32) -> [u8; 3] {
    const fn fix(value: f64) -> i32 {
        (value * (1 << FRACTION) as f64 + 0.5) as i32
    }
    const HALF: i32 = 1 << (FRACTION - 1);
    let (cb, cr) = (cb - 128, cr - 128);
    let red = (fix(1.402) * cr + HALF) >> FRACTION;
    let green = (-fix(0.34414) * cb - fix(0.71414) * cr + HALF) >> FRACTION;
    let blue = (fix(1.772) * cb + HALF) >> FRACTION;
    [red, green, blue].map(|difference| (y + difference).clamp(0, 255) as u8)
}

/// Row `y` of the picture in one component, which is `ratio` times smaller across and down.
///
/// Halved directions are interpolated: 3 parts of the nearer sample and 1 of the farther one; other ratios repeat
/// samples.
fn upsample(component: &Component, y: usize, ratio: (usize, usize), out: &mut [u8]) {
    let row = |y: usize| &component.samples[y * component.stride..][..component.width];
    let near = y / ratio.1;
    let far = if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(component.height - 1) };
    match ratio {
        (1, 1) => out[..component.width].copy_from_slice(row(y)),
        (1, 2) => {
            let bias = if y.is_multiple_of(2) { 1 } else { 2 };
            for ((out, &a), &b) in out.iter_mut().zip(row(near)).zip(row(far)) {
                *out = ((u16::from(a) * 3 + u16::from(b) + bias) >> 2) as u8;
            }
        }
        (2, 1) if component.width > 2 => across(|x| u32::from(row(y)[x]), component.width, (2, 1, 2), out),
        (2, 2) if component.width > 2 => {
            let (near, far) = (row(near), row(far));
            across(|x| u32::from(near[x]) * 3 + u32::from(far[x]), component.width, (4, 8, 7), out);
        }
        (horizontal, _) => {
            for (out, &sample) in out.chunks_mut(horizontal).zip(row(near)) {
                out.fill(sample);
            }
        }
    }
}

/// Doubles a row: `shift` bits are dropped after adding `left` or `right` for the pixel on that side of a sample. The
/// first and the last sample count as their own neighbours.
fn across(sample: impl Fn(usize) -> u32, width: usize, (shift, left, right): (u32, u32, u32), out: &mut [u8]) {
    for (x, out) in out.as_chunks_mut::<2>().0.iter_mut().take(width).enumerate() {
        let three = sample(x) * 3;
        *out = [
            ((three + sample(x.saturating_sub(1)) + left) >> shift) as u8,
            ((three + sample((x + 1).min(width - 1)) + right) >> shift) as u8,
        ];
    }
}
