//! 8-bit floats, OCP's E4M3: a sign, four bits of exponent with a bias of 7, three of mantissa. There are no infinities; the
//! largest number is 448, the smallest normal one 2⁻⁶, the smallest of all 2⁻⁹.

/// The largest number of E4M3.
pub(crate) const LARGEST: f32 = 448.0;
/// Exponents of the scales of rows: so that each number times its row's scale is a normal bf16 number.
const EXPONENTS: std::ops::RangeInclusive<i32> = -100..=100;

pub(super) fn f8(bytes: &[u8], out: &mut [f32]) {
    for (value, &bits) in out.iter_mut().zip(bytes) {
        *value = f8_to_f32(bits);
    }
}

/// An E4M3 number as f32, exactly; the two codes that aren't numbers (0x7f, 0xff) as such.
///
/// ```
/// use medgemma_formats::f8_to_f32;
/// assert_eq!((f8_to_f32(0x38), f8_to_f32(0xfe), f8_to_f32(0x01)), (1.0, -448.0, 1.0 / 512.0));
/// ```
pub fn f8_to_f32(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let magnitude = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The nearest E4M3 number, ties to even. What is larger than the largest becomes it, and so does what isn't a number: there
/// is always a number.
///
/// ```
/// use medgemma_formats::f32_to_f8;
/// assert_eq!([1.0, 1.0625, 1.1875, -1e9, f32::NAN].map(f32_to_f8), [0x38, 0x38, 0x3a, 0xfe, 0x7e]);
/// ```
#[inline]
pub fn f32_to_f8(value: f32) -> u8 {
    let sign = (value.to_bits() >> 24) as u8 & 0x80;
    // The smaller of a number and what isn't one is the number.
    let magnitude = value.abs().min(LARGEST);
    let code = if magnitude < 1.0 / 64.0 {
        // In steps of the smallest; the eighth is the smallest normal number, whose code is 8.
        (magnitude * 512.0).round_ties_even() as u8
    } else {
        let bits = magnitude.to_bits();
        // f32 has 20 bits of mantissa more, and a bias that is larger by 120.
        ((bits + 0x7_ffff + (bits >> 20 & 1)) >> 20).wrapping_sub(120 << 3) as u8
    };
    sign | code
}

/// The scale of a row in E4M3: the smallest power of two that leaves the row's largest magnitude within the type; 1 for a
/// row of zeros. Numbers times it are numbers of bf16, too.
///
/// ```
/// use medgemma_formats::f8_scale;
/// assert_eq!([f8_scale(&[0.5, -448.0]), f8_scale(&[449.0]), f8_scale(&[0.0])], [1.0, 2.0, 1.0]);
/// ```
pub fn f8_scale(row: &[f32]) -> f32 {
    let largest = row.iter().fold(0f32, |most, v| most.max(v.abs()));
    if largest == 0.0 {
        return 1.0;
    }
    // By the bits: 448 is 1.75 · 2⁸.
    let (exponent, mantissa) = ((largest.to_bits() >> 23) as i32 - 127, largest.to_bits() & 0x7f_ffff);
    let exponent = exponent - 8 + i32::from(mantissa > 0x60_0000);
    f32::from_bits(((exponent.clamp(*EXPONENTS.start(), *EXPONENTS.end()) + 127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers() -> impl Iterator<Item = u8> {
        (0..=255u8).filter(|bits| bits & 0x7f != 0x7f)
    }

    #[test]
    fn every_number_comes_back() {
        for bits in numbers() {
            assert_eq!(f32_to_f8(f8_to_f32(bits)), bits, "{bits:#04x}");
            // It is one of bf16.
            assert_eq!(f8_to_f32(bits).to_bits() & 0xffff, 0, "{bits:#04x}");
        }
        assert!(f8_to_f32(0x7f).is_nan() && f8_to_f32(0xff).is_nan());
    }

    /// Between neighbours the nearer one is taken, in the middle the one whose last bit is 0.
    #[test]
    fn numbers_round_to_nearest_even() {
        for bits in 0..0x7eu8 {
            let (low, high) = (f8_to_f32(bits), f8_to_f32(bits + 1));
            let middle = (low + high) / 2.0;
            assert!(low < high && middle > low);
            let (below, above) = (f32::from_bits(middle.to_bits() - 1), f32::from_bits(middle.to_bits() + 1));
            let even = if bits % 2 == 0 { bits } else { bits + 1 };
            for (value, expected) in [(below, bits), (middle, even), (above, bits + 1)] {
                assert_eq!(f32_to_f8(value), expected, "{value} beside {bits:#04x}");
                assert_eq!(f32_to_f8(-value), expected | 0x80, "-{value} beside {bits:#04x}");
            }
        }
    }

    #[test]
    fn there_is_always_a_number() {
        for value in [448.0, 449.0, 464.0, 1e30, f32::MAX, f32::INFINITY, f32::NAN] {
            assert_eq!(f32_to_f8(value), 0x7e, "{value}");
        }
        assert_eq!([f32::NEG_INFINITY, -1e9].map(f32_to_f8), [0xfe; 2]);
        assert_eq!([0.0, 1e-30, f32::MIN_POSITIVE / 2.0, 1.0 / 1024.0].map(f32_to_f8), [0; 4]);
        assert_eq!([-0.0, -1e-30].map(f32_to_f8), [0x80; 2]);
    }

    #[test]
    fn scales_are_the_smallest_that_hold_a_row() {
        for exponent in -90..90 {
            let unit = 2f32.powi(exponent);
            assert_eq!(f8_scale(&[unit * 448.0, -unit]), unit);
            assert_eq!(f8_scale(&[-unit * 448.1]), 2.0 * unit);
            assert_eq!(f8_scale(&[unit * 224.0]), unit / 2.0);
            assert_eq!(f8_scale(&[unit * 256.0]), unit);
        }
        assert_eq!(f8_scale(&[]), 1.0);
        assert_eq!(f8_scale(&[f32::NAN, 2.0]), f8_scale(&[2.0]));
        // Far out they end, and numbers times them are still of bf16.
        let (least, most) = (f8_scale(&[f32::MIN_POSITIVE / 4.0]), f8_scale(&[f32::INFINITY]));
        assert_eq!((least, most), (2f32.powi(-100), 2f32.powi(100)));
        assert!(f8_to_f32(1) * least >= f32::MIN_POSITIVE && (LARGEST * most).is_finite());
    }
}
