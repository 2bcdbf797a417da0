//! Encoding and decoding together: how far values may move.

use medgemma_formats::{Bytes, DType, Nf4, Tensor, dequantize, quantize, quantize_nf4};
use proptest::prelude::*;

const K: [DType; 3] = [DType::Q4K, DType::Q5K, DType::Q6K];
const WRITTEN: [DType; 11] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q4K,
    DType::Q5K,
    DType::Q6K,
];

fn encode(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    quantize(dtype, values, &mut bytes).unwrap();
    bytes
}

fn there_and_back(dtype: DType, values: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    dequantize(dtype, &encode(dtype, values), &mut out).unwrap();
    out
}

/// Root mean square of the error over that of the values.
fn relative_error(values: &[f32], other: &[f32]) -> f64 {
    let square = |v: f32| f64::from(v) * f64::from(v);
    let error: f64 = values.iter().zip(other).map(|(a, b)| square(a - b)).sum();
    (error / values.iter().map(|v| square(*v)).sum::<f64>()).sqrt()
}

/// Normally distributed values, always the same.
fn normals(count: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut normal = || (-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    (0..count).map(|_| 0.02 * normal() as f32).collect()
}

/// Blocks of any magnitude that halves can express, alike or wildly unlike, some zeros.
fn block(len: usize) -> impl Strategy<Value = Vec<f32>> {
    let element = prop_oneof![
        8 => -1.0f32..1.0,
        2 => (-1.0f32..1.0, -12i32..1).prop_map(|(v, e)| v * 10f32.powi(e)),
        1 => Just(0.0),
    ];
    (prop::collection::vec(element, len), -30i32..5, -1.0f32..1.0, any::<bool>()).prop_map(
        |(values, e, shift, shifted)| {
            let shift = if shifted { shift } else { 0.0 };
            values.into_iter().map(|v| ((v + shift) * 10f32.powi(e)).clamp(-65504.0, 65504.0)).collect()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn blocks_of_32_stay_within_a_step(values in block(64)) {
        // The part of a step an element may move: types without a minimum cut the far side of their largest element.
        for (dtype, levels, part) in [
            (DType::Q8_0, 254.0, 0.5), (DType::Q4_0, 16.0, 1.0), (DType::Q5_0, 32.0, 1.0),
            (DType::Q4_1, 15.0, 0.5), (DType::Q5_1, 31.0, 0.5),
        ] {
            let back = there_and_back(dtype, &values);
            for (block, back) in values.chunks(32).zip(back.chunks(32)) {
                let most = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                let range = match dtype {
                    DType::Q4_1 | DType::Q5_1 => {
                        block.iter().fold(f32::MIN, |m, v| m.max(*v)) - block.iter().fold(f32::MAX, |m, v| m.min(*v))
                    }
                    _ => 2.0 * most,
                };
                // Scale and minimum are rounded to halves: relatively while normal, absolutely when subnormal.
                let rounding = 3.0 * most * 2f32.powi(-11) + levels * 2f32.powi(-24);
                for (a, b) in block.iter().zip(back) {
                    prop_assert!((a - b).abs() <= part * range / levels + rounding, "{dtype}: {a} became {b}");
                }
            }
        }
    }

    #[test]
    fn k_types_take_anything(values in block(512)) {
        for dtype in K {
            let back = there_and_back(dtype, &values);
            prop_assert!(back.iter().all(|v| v.is_finite()));
            let most = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            // Below, scales (a 63rd of a 31st of an element) sink among the subnormal halves.
            if most > 0.1 {
                for (block, back) in values.chunks(256).zip(back.chunks(256)) {
                    let error = relative_error(block, back);
                    prop_assert!(block.iter().all(|v| v.abs() < 0.1) || error < 0.1, "{dtype}: {error}");
                }
            }
        }
    }

    #[test]
    fn encoding_twice_changes_nothing(values in block(64)) {
        for dtype in [DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q5_0] {
            // Scales among the subnormal halves lose too many bits to come back.
            if dtype.block_len() > 1 && values.chunks(32).any(|b| b.iter().all(|v| v.abs() < 0.1)) {
                continue;
            }
            let once = there_and_back(dtype, &values);
            prop_assert_eq!(encode(dtype, &once), encode(dtype, &values), "{}", dtype);
        }
    }

    #[test]
    fn nf4_stays_within_half_a_gap(values in block(200)) {
        let (bytes, nf4) = quantize_nf4(&values);
        let scales = nf4.absmax.clone();
        let tensor = Tensor::from_parts("t", DType::Nf4, vec![200], Bytes::from(bytes), Some(nf4.into())).unwrap();
        let widest = Nf4::VALUES.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f32::max);
        for (j, (a, b)) in values.iter().zip(tensor.to_f32().unwrap()).enumerate() {
            prop_assert!((a - b).abs() <= scales[j / 64] * widest * 0.5001, "{a} became {b}");
        }
    }
}

#[test]
fn k_types_lose_no_more_than_ggml() {
    let values = normals(256 * 400);
    // What `ggml_quantize_chunk` of llama.cpp (ggml 0.25) loses on normally distributed values, without an
    // importance matrix.
    for (dtype, ggml) in [(DType::Q4K, 0.0714), (DType::Q5K, 0.0362), (DType::Q6K, 0.0178)] {
        let error = relative_error(&values, &there_and_back(dtype, &values));
        assert!(error < ggml, "{dtype}: {error}");
    }
}

#[test]
fn zeros_and_constants_survive() {
    for dtype in WRITTEN {
        for constant in [0.0f32, 1.0, -1.0, 0.037, -65504.0, 1e-30] {
            let back = there_and_back(dtype, &[constant; 512]);
            for value in back {
                assert!((value - constant).abs() <= constant.abs() * 4e-3 + 1e-7, "{dtype}: {constant} became {value}");
            }
        }
    }
    let (bytes, nf4) = quantize_nf4(&[0.0; 64]);
    assert_eq!((bytes, nf4.absmax), (vec![0x77; 32], vec![0.0]));
}

#[test]
fn what_does_not_fit_is_refused() {
    for dtype in WRITTEN.into_iter().filter(|dtype| !matches!(dtype, DType::F32 | DType::BF16)) {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 65536.0, -1e20] {
            let mut values = [0.5; 256];
            values[200] = bad;
            let mut out = vec![7];
            let error = quantize(dtype, &values, &mut out).unwrap_err().to_string();
            assert!(error.contains("element 200") && error.contains(dtype.name()), "{error}");
            assert_eq!(out, [7], "left as it was");
        }
    }
    for (dtype, len) in [(DType::Q8_0, 31), (DType::Q4K, 128), (DType::Q6K, 257), (DType::Nf4, 64), (DType::Q2K, 256)] {
        assert!(quantize(dtype, &vec![0.0; len], &mut Vec::new()).is_err(), "{dtype} {len}");
    }
    for (dtype, bytes, len) in
        [(DType::F32, 7, 2), (DType::Q8_0, 34, 31), (DType::Q8_0, 35, 32), (DType::Q4K, 0, 256), (DType::Nf4, 32, 64)]
    {
        assert!(dequantize(dtype, &vec![0; bytes], &mut vec![0.0; len]).is_err(), "{dtype} {bytes} {len}");
    }
}

#[test]
fn floats_round_to_nearest_even() {
    assert_eq!(there_and_back(DType::BF16, &[1.0 + 2f32.powi(-8)]), [1.0]);
    assert_eq!(there_and_back(DType::BF16, &[1.0 + 3.0 * 2f32.powi(-8)]), [1.0 + 2f32.powi(-6)]);
    assert_eq!(there_and_back(DType::F16, &[1.0 + 2f32.powi(-11)]), [1.0]);
    assert_eq!(there_and_back(DType::F16, &[65504.0, 2f32.powi(-24), -0.0]), [65504.0, 2f32.powi(-24), -0.0]);
    assert!(there_and_back(DType::BF16, &[f32::NAN])[0].is_nan());
}
