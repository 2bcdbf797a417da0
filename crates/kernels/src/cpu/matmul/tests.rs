//! Products against their twin: every format, every instruction set, ragged shapes; and the same bits for any number
//! of rows and threads.

use crate::backend::{Backend, WeightFormat};
use crate::cpu::testing::{DTYPES, isas, matrix, noise, span, tensor};
use crate::cpu::{CpuBackend, CpuWeight, Isa};
use crate::reference;
use medgemma_formats::{Bytes, DType, Tensor};
use proptest::prelude::*;

/// What the backend computes for the rows of `x`.
fn product(backend: &CpuBackend, x: &[f32], w: &CpuWeight) -> Vec<f32> {
    let input = matrix(backend, x, w.k());
    let mut out = backend.matrix(input.rows(), w.n()).unwrap();
    backend.matmul(&input, w, &mut out);
    out.as_slice().to_vec()
}

/// Holds a product to its twin: rounding may cost a few units in the last place of the sum of magnitudes.
fn check(isa: Isa, tensor: &Tensor, x: &[f32], ours: &[f32]) {
    let k = tensor.cols();
    let x = span(tensor.dtype).map_or(x.to_vec(), |span| reference::quantize_activations(x, k, span));
    let w = tensor.to_f32().unwrap();
    let exact = reference::matmul(&x, &w, k);
    let magnitude = |v: &[f32]| v.iter().map(|v| v.abs()).collect::<Vec<_>>();
    let bounds = reference::matmul(&magnitude(&x), &magnitude(&w), k);
    for (i, ((ours, exact), bound)) in ours.iter().zip(exact).zip(bounds).enumerate() {
        let dtype = tensor.dtype;
        assert!((ours - exact).abs() <= 2e-6 * bound + 1e-30, "{isa:?}, {dtype:?}, output {i}: {ours} for {exact}");
    }
}

/// A type and a width that its blocks divide; floats of any width.
fn shape() -> impl Strategy<Value = (DType, usize)> {
    (0..DTYPES.len(), 1usize..700).prop_map(|(i, k)| {
        let dtype = DTYPES[i];
        // NF4 that crosses rows is held as f32, so that it has any width too.
        let unit = if dtype == DType::Nf4 && k % 3 == 0 { 1 } else { dtype.block_len() };
        (dtype, k.next_multiple_of(unit))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn products_match_their_twin((dtype, k) in shape(), n in 1usize..70, m in 1usize..41, seed in 0u64..1000) {
        let (x, w) = (noise(seed, m * k), tensor(seed + 1, dtype, n, k));
        for isa in isas() {
            let backend = CpuBackend::with_isa(Some(2), isa);
            let weight = backend.weight(&[&w], WeightFormat::Stored).unwrap();
            check(isa, &w, &x, &product(&backend, &x, &weight));
        }
    }

    #[test]
    fn rows_and_threads_do_not_change_a_bit((dtype, k) in shape(), n in 1usize..300, seed in 0u64..1000) {
        let m = 40;
        let (x, w) = (noise(seed, m * k), tensor(seed + 1, dtype, n, k));
        let mut fused: Option<Vec<f32>> = None;
        for isa in isas() {
            let mut all: Option<Vec<f32>> = None;
            for threads in 1..=3 {
                let backend = CpuBackend::with_isa(Some(threads), isa);
                let weight = backend.weight(&[&w], WeightFormat::Stored).unwrap();
                let all = all.get_or_insert_with(|| product(&backend, &x, &weight));
                // 1 row, 2, 3, …, each time the next ones.
                let (mut from, mut rows) = (0, threads);
                while from < m {
                    let to = m.min(from + rows);
                    let some = product(&backend, &x[from * k..to * k], &weight);
                    prop_assert_eq!(&some[..], &all[from * n..to * n], "{:?} with {} rows", isa, to - from);
                    (from, rows) = (to, rows + 1);
                }
            }
            // Instruction sets that round a · b + c once agree with each other too.
            if isa > Isa::Scalar {
                let all = all.expect("made by the first number of threads");
                prop_assert_eq!(fused.get_or_insert_with(|| all.clone()), &all);
            }
        }
    }
}

/// Products with 8-bit floats are those of the numbers they stand for, to the bit those of these numbers in bf16; and rows and
/// threads don't change a bit.
#[test]
fn products_of_8_bit_floats() {
    for isa in isas() {
        for (m, n, k) in [(1, 5, 2), (13, 40, 66), (40, 33, 850), (30, 70, 256), (7, 16, 75)] {
            // Rows of different sizes, the last all zeros.
            let mut w = noise(10, n * k);
            for (row, values) in w.chunks_exact_mut(k).enumerate() {
                let size = if row + 1 == n { 0.0 } else { 2f32.powi(row as i32 * 7 % 60 - 30) };
                values.iter_mut().for_each(|v| *v *= size);
            }
            let x = noise(9, m * k);
            let rounded = Tensor::from_f32("w", &[n, k], &reference::round_rows_f8(&w, k)).unwrap();
            let backend = CpuBackend::with_isa(Some(2), isa);
            let weight = backend.weight_f32(&w, n, k, WeightFormat::F8).unwrap();
            assert!(matches!(weight.segments()[0].layout, crate::cpu::pack::Layout::F8));
            let all = product(&backend, &x, &weight);
            check(isa, &rounded, &x, &all);
            let wide = backend.weight(&[&rounded], WeightFormat::BF16).unwrap();
            assert_eq!(product(&backend, &x, &wide), all);
            let alone = CpuBackend::with_isa(Some(1), isa);
            let one = product(&alone, &x[..k], &alone.weight_f32(&w, n, k, WeightFormat::F8).unwrap());
            assert_eq!(one, &all[..n], "rows change bits");
        }
    }
}

/// Products in bf16 are those of activations rounded to it.
#[test]
fn products_in_bf16() {
    for isa in isas() {
        for (m, n, k) in [(1, 5, 2), (13, 40, 66), (40, 33, 850), (300, 70, 256), (7, 16, 75)] {
            let (x, w) = (noise(9, m * k), tensor(10, DType::BF16, n, k));
            let backend = CpuBackend::with_isa(Some(2), isa);
            let weight = backend.weight(&[&w], WeightFormat::BF16Products).unwrap();
            let rounded = matches!(weight.segments()[0].layout, crate::cpu::pack::Layout::Pairs);
            let x_seen = if rounded { reference::round_bf16(&x) } else { x.clone() };
            let all = product(&backend, &x, &weight);
            check(isa, &w, &x_seen, &all);
            let alone = CpuBackend::with_isa(Some(1), isa);
            let one = product(&alone, &x[..k], &alone.weight(&[&w], WeightFormat::BF16Products).unwrap());
            assert_eq!(one, &all[..n], "rows change bits");
        }
    }
}

/// More rows than are taken in one go, a stack of two types, and what follows a sum.
#[test]
fn many_rows_of_mixed_types_with_bias_and_gelu() {
    let (m, k) = (500, 256);
    let x = noise(1, m * k);
    let parts = [tensor(2, DType::Q4K, 50, k), tensor(3, DType::BF16, 21, k), tensor(4, DType::Q6K, 40, k)];
    let bias = noise(5, 111);
    for isa in isas() {
        let backend = CpuBackend::with_isa(Some(3), isa);
        let weight = backend.weight(&[&parts[0], &parts[1], &parts[2]], WeightFormat::Stored).unwrap();
        let all = product(&backend, &x, &weight);
        let mut first = 0;
        for part in &parts {
            let columns: Vec<f32> =
                all.chunks_exact(111).flat_map(|r| r[first..first + part.rows()].to_vec()).collect();
            check(isa, part, &x, &columns);
            first += part.rows();
        }
        let bias_vector = backend.vector(&bias).unwrap();
        let (input, mut out) = (matrix(&backend, &x, k), backend.matrix(m, 111).unwrap());
        backend.matmul_bias(&input, &weight, &bias_vector, &mut out);
        let mut expected = all;
        reference::add_bias(&mut expected, &bias);
        assert_eq!(out.as_slice(), expected);
        backend.matmul_bias_gelu(&input, &weight, &bias_vector, &mut out);
        for (ours, sum) in out.as_slice().iter().zip(&expected) {
            assert!((ours - reference::gelu_tanh(*sum)).abs() <= 2e-7 * sum.abs());
        }
    }
}

/// Sums of whole records at their largest: all weights, scales and activations at their ends.
#[test]
fn largest_records() {
    let k = 512;
    for dtype in DTYPES.into_iter().filter(|dtype| span(*dtype) == Some(128)) {
        let mut w = tensor(1, dtype, 3, k);
        for (row, fill) in [0xFFu8, 0x00, 0x80].into_iter().enumerate() {
            let mut bytes = w.bytes.to_vec();
            let size = bytes.len() / 3;
            let halves = crate::cpu::testing::halves(dtype);
            for (i, byte) in bytes[row * size..(row + 1) * size].iter_mut().enumerate() {
                if !halves.contains(&(i % dtype.block_bytes() / 2 * 2)) {
                    *byte = fill;
                }
            }
            w = Tensor::from_parts("w", dtype, vec![3, k], Bytes::from(bytes), None).unwrap();
        }
        let x: Vec<f32> = (0..9 * k).map(|i| if i / k % 2 == 0 { 1.0 } else { -1.0 }).collect();
        for isa in isas() {
            let backend = CpuBackend::with_isa(Some(1), isa);
            let weight = backend.weight(&[&w], WeightFormat::Stored).unwrap();
            check(isa, &w, &x, &product(&backend, &x, &weight));
        }
    }
}

/// Activations at the edges of rounding: zeros, steps too small for a number, one huge value.
#[test]
fn odd_activations() {
    let k = 64;
    let w = tensor(1, DType::Q8_0, 20, k);
    let mut rows = vec![0f32; 4 * k];
    rows[k..2 * k].fill(1e-44);
    rows[2 * k] = 3e38;
    rows[3 * k..].fill(-1.0);
    for isa in isas() {
        let backend = CpuBackend::with_isa(Some(1), isa);
        let weight = backend.weight(&[&w], WeightFormat::Stored).unwrap();
        check(isa, &w, &rows, &product(&backend, &rows, &weight));
    }
}

#[test]
fn nothing_times_something() {
    let backend = CpuBackend::new(Some(2));
    let w = backend.weight_f32(&noise(1, 64), 2, 32, WeightFormat::Q8).unwrap();
    assert!(product(&backend, &[], &w).is_empty());
    let empty = backend.weight_f32(&[], 0, 32, WeightFormat::F32).unwrap();
    assert!(product(&backend, &noise(1, 64), &empty).is_empty());
}
