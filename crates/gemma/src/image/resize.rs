//! Bilinear resizing, equal to the bit to Pillow's `Image.resize((width, height), Image.BILINEAR)` of RGB pictures.
//!
//! The filter is separable: a pass along the rows and a pass along the columns, each with weights of 22 fractional
//! bits and a result of 8 bits. Where the picture shrinks the filter widens with it, so that every source pixel
//! counts. The order of the passes shows in the last bit; see [`rows_first`].

use super::RgbImage;

/// Fractional bits of a weight: 8 bits of pixel and 22 of weight fit 31.
const FRACTION: u32 = 22;

/// Half a unit, for rounding.
const HALF: u32 = 1 << (FRACTION - 1);

/// For each pixel of the result: where its source pixels begin, and their weights.
struct Filter {
    starts: Vec<usize>,
    /// Where each pixel's weights end in `weights`; they begin where those before end.
    ends: Vec<usize>,
    weights: Vec<u32>,
}

impl Filter {
    /// The triangle filter from `source` to `target` pixels.
    ///
    /// The arithmetic is Pillow's, in the same order: the weights must round alike.
    fn bilinear(source: usize, target: usize) -> Self {
        let scale = source as f64 / target as f64;
        let support = scale.max(1.0);
        let step = 1.0 / support;
        let mut filter = Self { starts: Vec::with_capacity(target), ends: Vec::with_capacity(target), weights: vec![] };
        let mut taps = Vec::new();
        for i in 0..target {
            let center = (i as f64 + 0.5) * scale;
            // Conversion to an integer cuts off the fraction, and a negative start becomes 0.
            let start = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(source);
            taps.clear();
            taps.extend((start..end).map(|x| (1.0 - ((x as f64 - center + 0.5) * step).abs()).max(0.0)));
            let sum: f64 = taps.iter().sum();
            let unit = f64::from(1 << FRACTION);
            filter.weights.extend(taps.iter().map(|tap| (0.5 + tap / sum * unit) as u32));
            filter.starts.push(start);
            filter.ends.push(filter.weights.len());
        }
        filter
    }

    /// For each pixel of the result, the first source pixel and the weights.
    fn taps(&self) -> impl Iterator<Item = (usize, &[u32])> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        self.starts.iter().zip(begins.zip(&self.ends)).map(|(&start, (begin, &end))| (start, &self.weights[begin..end]))
    }
}

/// Resizes to `width × height`; a picture that has this size already is copied.
///
/// # Panics
/// When `width` or `height` is 0.
pub fn resize_bilinear(image: &RgbImage, width: usize, height: usize) -> RgbImage {
    assert!(width > 0 && height > 0, "a picture has at least one pixel");
    match (image.width != width, image.height != height) {
        (false, false) => image.clone(),
        (true, false) => resize_width(image, width),
        (false, true) => resize_height(image, height),
        (true, true) if rows_first(image, width, height) => resize_height(&resize_width(image, width), height),
        (true, true) => resize_width(&resize_height(image, height), width),
    }
}

/// Whether the pass along the rows (which changes the width) comes first.
///
/// It does in Pillow up to 12.1. Pillow 13 changes the height first when it shrinks by more than twice what the width
/// shrinks by (always, when the width grows), which is found by experiment: 1500 random sizes and the neighbourhood of
/// the boundary.
fn rows_first(image: &RgbImage, width: usize, height: usize) -> bool {
    let shrinks = |from: usize, to: usize| from as i128 - to as i128;
    let rows = shrinks(image.height, height);
    rows <= 0 || rows <= 2 * shrinks(image.width, width)
}

/// The pass along the rows.
fn resize_width(image: &RgbImage, width: usize) -> RgbImage {
    let filter = Filter::bilinear(image.width, width);
    let mut pixels = vec![0; width * image.height * 3];
    for (row, out) in image.pixels.chunks_exact(image.width * 3).zip(pixels.chunks_exact_mut(width * 3)) {
        for ((start, weights), out) in filter.taps().zip(out.chunks_exact_mut(3)) {
            let mut sums = [HALF; 3];
            for (pixel, &weight) in row[start * 3..].chunks_exact(3).zip(weights) {
                for c in 0..3 {
                    sums[c] += u32::from(pixel[c]) * weight;
                }
            }
            for c in 0..3 {
                out[c] = to_8_bits(sums[c]);
            }
        }
    }
    RgbImage { width, height: image.height, pixels }
}

/// The pass along the columns.
fn resize_height(image: &RgbImage, height: usize) -> RgbImage {
    let filter = Filter::bilinear(image.height, height);
    let stride = image.width * 3;
    let mut pixels = vec![0; stride * height];
    let mut sums = vec![0; stride];
    for ((start, weights), out) in filter.taps().zip(pixels.chunks_exact_mut(stride)) {
        sums.fill(HALF);
        for (row, &weight) in image.pixels[start * stride..].chunks_exact(stride).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += u32::from(value) * weight;
            }
        }
        for (out, &sum) in out.iter_mut().zip(&sums) {
            *out = to_8_bits(sum);
        }
    }
    RgbImage { width: image.width, height, pixels }
}

/// The integer part; weights that were all rounded up may sum to a little more than 1.
fn to_8_bits(sum: u32) -> u8 {
    (sum >> FRACTION).min(255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn constant(width: usize, height: usize, rgb: [u8; 3]) -> RgbImage {
        RgbImage::from_raw(width, height, rgb.repeat(width * height)).unwrap()
    }

    proptest! {
        #[test]
        fn a_picture_of_one_colour_keeps_it(
            (width, height) in (1..150_usize, 1..150_usize),
            (to_width, to_height) in (1..150_usize, 1..150_usize),
            rgb in any::<[u8; 3]>(),
        ) {
            let resized = resize_bilinear(&constant(width, height, rgb), to_width, to_height);
            prop_assert_eq!(resized, constant(to_width, to_height, rgb));
        }

        #[test]
        fn weights_sum_to_one(source in 1..20_000_usize, target in 1..900_usize) {
            let filter = Filter::bilinear(source, target);
            for (start, weights) in filter.taps() {
                prop_assert!(start + weights.len() <= source);
                let sum: u32 = weights.iter().sum();
                prop_assert!(sum.abs_diff(1 << FRACTION) as usize <= weights.len());
            }
        }

        #[test]
        fn mirroring_before_or_after_is_the_same_in_one_pass(
            pixels in proptest::collection::vec(any::<[u8; 3]>(), 1..60),
            to_width in 1..100_usize,
        ) {
            let mirror = |image: RgbImage| image.upright(2);
            let image = RgbImage::from_raw(pixels.len(), 1, pixels.concat()).unwrap();
            let one = mirror(resize_bilinear(&image, to_width, 1));
            let other = resize_bilinear(&mirror(image), to_width, 1);
            prop_assert!(one.pixels().iter().zip(other.pixels()).all(|(a, b)| a.abs_diff(*b) <= 1));
        }
    }

    #[test]
    fn the_same_size_is_a_copy() {
        let image = RgbImage::from_raw(2, 1, vec![1, 2, 3, 250, 251, 252]).unwrap();
        assert_eq!(resize_bilinear(&image, 2, 1), image);
    }
}
