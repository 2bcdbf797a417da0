//! Packed weights hold what their tensors hold.

use super::*;
use crate::cpu::testing::{DTYPES, noise, tensor};
use crate::reference::{round_bf16, round_rows_f8};
use std::sync::Arc;

fn pool() -> Pool {
    Pool::new(2)
}

/// All rows of a weight.
fn rows(w: &CpuWeight) -> Vec<f32> {
    let mut out = vec![0f32; w.n() * w.k()];
    for (i, row) in out.chunks_exact_mut(w.k()).enumerate() {
        w.row(i, 1.0, row);
    }
    out
}

#[test]
fn stored_formats_keep_every_value() {
    for dtype in DTYPES {
        // Ragged panels, and records that end early where blocks allow it.
        for (n, k) in [(1usize, 256usize), (16, 512), (37, 256), (5, 320), (18, 352), (3, 1152)] {
            if !k.is_multiple_of(dtype.block_len()) {
                continue;
            }
            let tensor = tensor(n as u64, dtype, n, k);
            let w = CpuWeight::from_tensors(&pool(), &mut Store::Off, &[&tensor], WeightFormat::Stored).unwrap();
            assert_eq!((w.n(), w.k()), (n, k));
            assert_eq!(rows(&w), tensor.to_f32().unwrap(), "{dtype:?} of {n} × {k}");
            let f32 = CpuWeight::from_tensors(&pool(), &mut Store::Off, &[&tensor], WeightFormat::F32).unwrap();
            assert_eq!(rows(&f32), tensor.to_f32().unwrap());
        }
    }
}

#[test]
fn floats_of_any_width_are_kept() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::Nf4] {
        for (n, k) in [(1, 1), (17, 48), (33, 20), (2, 77)] {
            let tensor = tensor(3, dtype, n, k);
            let w = CpuWeight::from_tensors(&pool(), &mut Store::Off, &[&tensor], WeightFormat::Stored).unwrap();
            assert_eq!(rows(&w), tensor.to_f32().unwrap(), "{dtype:?} of {n} × {k}");
        }
    }
}

#[test]
fn requested_formats_are_those_of_the_files() {
    let (n, k) = (19, 192);
    let values = noise(5, n * k);
    let through = |dtype: DType| {
        let mut bytes = Vec::new();
        quantize(dtype, &values, &mut bytes).unwrap();
        Tensor::from_parts("w", dtype, vec![n, k], Bytes::from(bytes), None).unwrap()
    };
    let (bytes, nf4) = quantize_nf4(&values);
    let nf4 = Tensor::from_parts("w", DType::Nf4, vec![n, k], Bytes::from(bytes), Some(Arc::new(nf4))).unwrap();
    let brain = through(DType::BF16);
    for (format, stored, bits) in [
        (WeightFormat::BF16, &brain, 16.0),
        (WeightFormat::Q8, &through(DType::Q8_0), 8.5),
        (WeightFormat::Q4, &through(DType::Q4_0), 4.5),
        (WeightFormat::Nf4, &nf4, 4.5),
    ] {
        let w = CpuWeight::from_values(&pool(), &mut Store::Off, &values, n, k, format).unwrap();
        assert_eq!(rows(&w), stored.to_f32().unwrap(), "{format:?}");
        let held = w.bytes() as f64 * 8.0 / (32 * k) as f64;
        assert!((held - bits).abs() < 0.2, "{format:?}: {held} bits");
        // What is in the format already isn't rounded again; what isn't, is.
        let again = CpuWeight::from_tensors(&pool(), &mut Store::Off, &[stored], format).unwrap();
        assert_eq!(rows(&again), rows(&w));
        let wide = Tensor::from_f32("w", &[n, k], &values).unwrap();
        let other = CpuWeight::from_tensors(&pool(), &mut Store::Off, &[&wide], format).unwrap();
        assert_eq!(rows(&other), rows(&w));
    }
    // 8-bit floats have a scale for each row, whatever its width; blocks stay blocks.
    for (n, k) in [(n, k), (5, 77)] {
        let values = &values[..n * k];
        let w = CpuWeight::from_values(&pool(), &mut Store::Off, values, n, k, WeightFormat::F8).unwrap();
        assert_eq!(rows(&w), round_rows_f8(values, k));
        let again = Tensor::from_f32("w", &[n, k], &rows(&w)).unwrap();
        let again = CpuWeight::from_tensors(&pool(), &mut Store::Off, &[&again], WeightFormat::F8).unwrap();
        assert_eq!(rows(&again), rows(&w));
    }
    let blocks = through(DType::Q4_0);
    let kept = CpuWeight::from_tensors(&pool(), &mut Store::Off, &[&blocks], WeightFormat::F8).unwrap();
    assert_eq!(rows(&kept), blocks.to_f32().unwrap());
    // Groups don't divide 48 + 2: held as stored.
    let odd = CpuWeight::from_values(&pool(), &mut Store::Off, &values[..100], 2, 50, WeightFormat::Q4).unwrap();
    assert_eq!(rows(&odd), &values[..100]);
}

#[test]
fn types_may_be_mixed_in_a_stack() {
    let parts = [
        tensor(1, DType::Q4K, 20, 256),
        tensor(2, DType::Q6K, 7, 256),
        tensor(3, DType::Q3K, 9, 256),
        tensor(4, DType::BF16, 1, 256),
        tensor(5, DType::Q4K, 18, 256),
    ];
    let stack: Vec<&Tensor> = parts.iter().collect();
    let w = CpuWeight::from_tensors(&pool(), &mut Store::Off, &stack, WeightFormat::Stored).unwrap();
    let all: Vec<f32> = parts.iter().flat_map(|t| t.to_f32().unwrap()).collect();
    assert_eq!(rows(&w), all);
    // Q6_K and Q3_K share a layout.
    assert_eq!(w.segments().len(), 4);
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let (a, b) = (tensor(1, DType::F32, 2, 32), tensor(1, DType::F32, 2, 64));
    let error = CpuWeight::from_tensors(&pool(), &mut Store::Off, &[&a, &b], WeightFormat::Stored).unwrap_err();
    assert!(error.to_string().contains("64 columns"), "{error}");
    assert!(CpuWeight::from_values(&pool(), &mut Store::Off, &[0.0; 6], 2, 4, WeightFormat::Stored).is_err());
    assert!(CpuWeight::from_values(&pool(), &mut Store::Off, &[], usize::MAX, 2, WeightFormat::Stored).is_err());
    assert!(CpuWeight::from_values(&pool(), &mut Store::Off, &[], 3, 0, WeightFormat::Stored).is_err());
    assert!(CpuWeight::from_tensors(&pool(), &mut Store::Off, &[], WeightFormat::Stored).is_err());
    let nan = CpuWeight::from_values(&pool(), &mut Store::Off, &[f32::NAN; 64], 2, 32, WeightFormat::Q8);
    assert!(matches!(nan, Err(Error::Format(_))));
}

/// Packed weights are kept on disk: whoever changes their bytes raises the version, so that old files aren't used.
#[cfg(target_endian = "little")]
#[test]
fn layouts_are_those_of_the_version() {
    let tags = DTYPES.into_iter().map(|dtype| {
        let w = CpuWeight::from_tensors(&pool(), &mut Store::Off, &[&tensor(1, dtype, 17, 512)], WeightFormat::Stored);
        let packed: String =
            w.unwrap().segments().iter().flat_map(|s| s.data.iter()).map(|b| format!("{b:02x}")).collect();
        tag(|to| write!(to, "{dtype:?} {packed}"))
    });
    let all = tags.fold(0, |all: u64, tag| all.rotate_left(1) ^ tag);
    assert_eq!(
        (crate::cpu::store::VERSION, all),
        (2, 9_563_008_880_971_223_463),
        "raise VERSION in store/mod.rs, and set this sum"
    );
}

/// Weights for products in bf16 are rounded to it, and only those of 16 bits are.
#[test]
fn weights_for_products_in_bf16() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0] {
        for (n, k) in [(1, 2usize), (17, 96), (33, 320), (5, 77)] {
            if !k.is_multiple_of(dtype.block_len()) {
                continue;
            }
            let tensor = tensor(6, dtype, n, k);
            let format = WeightFormat::BF16Products;
            let w = CpuWeight::from_tensors(&pool(), &mut Store::Off, &[&tensor], format).unwrap();
            let stored = tensor.to_f32().unwrap();
            let rounded = dtype == DType::F16 && k % 2 == 0;
            assert_eq!(rows(&w), if rounded { round_bf16(&stored) } else { stored }, "{dtype:?} of {n} × {k}");
        }
    }
}
