//! The inverse cosine transform of 8×8 blocks, equal to the bit to libjpeg's accurate integer one ("islow").
//!
//! It is the algorithm of Loeffler, Ligtenberg and Moschytz (1989) with 11 multiplications, first down the columns,
//! then along the rows, with 13 fractional bits in the constants and 2 more kept between the passes.

/// Fractional bits of the constants.
const CONST_BITS: i32 = 13;

/// Extra bits kept between the passes.
const PASS_BITS: i32 = 2;

/// A constant with its fractional bits, rounded.
const fn fix(value: f64) -> i32 {
    (value * (1 << CONST_BITS) as f64 + 0.5) as i32
}

/// Where the coefficients of the file's order lie in the block, row after row.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];

/// One dimension: eight inputs to eight outputs, descaled by `shift` bits with rounding.
///
/// Wrapping, as the processor's vector instructions do in libjpeg-turbo: only damaged files get there.
fn transform(x: [i32; 8], shift: i32) -> [i32; 8] {
    let add = i32::wrapping_add;
    let sub = i32::wrapping_sub;
    let mul = i32::wrapping_mul;

    // Even part.
    let z1 = mul(add(x[2], x[6]), fix(0.541196100));
    let even2 = sub(z1, mul(x[6], fix(1.847759065)));
    let even3 = add(z1, mul(x[2], fix(0.765366865)));
    let even0 = add(x[0], x[4]).wrapping_shl(CONST_BITS as u32);
    let even1 = sub(x[0], x[4]).wrapping_shl(CONST_BITS as u32);
    let even = [add(even0, even3), add(even1, even2), sub(even1, even2), sub(even0, even3)];

    // Odd part.
    let [a, b, c, d] = [x[7], x[5], x[3], x[1]];
    let z5 = mul(add(add(a, c), add(b, d)), fix(1.175875602));
    let z1 = mul(add(a, d), -fix(0.899976223));
    let z2 = mul(add(b, c), -fix(2.562915447));
    let z3 = add(mul(add(a, c), -fix(1.961570560)), z5);
    let z4 = add(mul(add(b, d), -fix(0.390180644)), z5);
    let odd = [
        add(mul(d, fix(1.501321110)), add(z1, z4)),
        add(mul(c, fix(3.072711026)), add(z2, z3)),
        add(mul(b, fix(2.053119869)), add(z2, z4)),
        add(mul(a, fix(0.298631336)), add(z1, z3)),
    ];

    let descale = |value: i32| add(value, 1 << (shift - 1)) >> shift;
    let mut out = [0; 8];
    for i in 0..4 {
        out[i] = descale(add(even[i], odd[i]));
        out[7 - i] = descale(sub(even[i], odd[i]));
    }
    out
}

/// Turns a block of coefficients (row after row) and its quantization table into samples at `out`, rows `stride` apart.
pub(super) fn block(coefficients: &[i16; 64], quantization: &[u16; 64], out: &mut [u8], stride: usize) {
    let mut work = [0_i32; 64];
    for column in 0..8 {
        let mut x = [0; 8];
        for (row, x) in x.iter_mut().enumerate() {
            let at = row * 8 + column;
            *x = i32::from(coefficients[at].wrapping_mul(quantization[at] as i16));
        }
        let y = transform(x, CONST_BITS - PASS_BITS);
        for (row, y) in y.into_iter().enumerate() {
            work[row * 8 + column] = y;
        }
    }
    for (row, work) in work.as_chunks::<8>().0.iter().enumerate() {
        let y = transform(*work, CONST_BITS + PASS_BITS + 3);
        for (out, y) in out[row * stride..row * stride + 8].iter_mut().zip(y) {
            *out = (y + 128).clamp(0, 255) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_cosine_transform() {
        use std::f64::consts::{FRAC_1_SQRT_2, PI};
        let mut seed = 1_u32;
        for _ in 0..200 {
            let mut coefficients = [0_i16; 64];
            for value in coefficients.iter_mut().take(20) {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *value = (seed >> 24) as i16 - 128;
            }
            let mut samples = [0; 64];
            block(&coefficients, &[1; 64], &mut samples, 8);
            for (at, &sample) in samples.iter().enumerate() {
                let (y, x) = (at / 8, at % 8);
                let mut exact = 128.0;
                for (k, &value) in coefficients.iter().enumerate() {
                    let (v, u) = (k / 8, k % 8);
                    let scale = |k: usize| if k == 0 { FRAC_1_SQRT_2 } else { 1.0 };
                    let wave = |k: usize, at: usize| ((2 * at + 1) as f64 * k as f64 * PI / 16.0).cos();
                    exact += f64::from(value) / 4.0 * scale(u) * scale(v) * wave(u, x) * wave(v, y);
                }
                assert!((f64::from(sample) - exact.clamp(0.0, 255.0)).abs() < 0.6, "{sample} {exact}");
            }
        }
    }
}
