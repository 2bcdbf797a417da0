//! Products of a step's rows by weights large enough for the kernels that keep x in registers.

use super::{EXACT, cards, close, matrix, poisoned};
use crate::backend::{Backend, WeightFormat};
use crate::cpu::testing::{noise, tensor};
use crate::reference;
use medgemma_formats::DType;

/// Widths where all warps hold as much, where k is shared unevenly, and where it takes several passes or parts.
const SHAPES: [(usize, usize); 4] = [(3296, 2560), (1056, 16_384), (2080, 8256), (2560, 10_240)];

/// Alone, gated, and with the norms that follow; and a row has the same bits beside others.
#[test]
fn cuda_products_of_steps_match_their_twins() {
    for (b, tolerance) in cards() {
        for (dtype, rows) in [
            (DType::BF16, &[1, 8, 13, 32, 40][..]),
            (DType::Q4_0, &[9, 16, 32, 45]),
            (DType::Q8_0, &[1, 9, 32]),
            (DType::F8, &[1, 8, 9, 32, 40]),
        ] {
            for (n, k) in SHAPES {
                // 8-bit floats are in no file.
                let (source, format) =
                    if dtype == DType::F8 { (DType::BF16, WeightFormat::F8) } else { (dtype, WeightFormat::Stored) };
                let stored = tensor(3, source, n, k);
                let (weight, mut values) = (b.weight(&[&stored], format).unwrap(), stored.to_f32().unwrap());
                if dtype == DType::F8 {
                    values = reference::round_rows_f8(&values, k);
                }
                // The rows of the largest step; the others are its first.
                let x = reference::round_bf16(&noise(5, rows[rows.len() - 1] * k));
                let (post, next, stream) = (noise(6, n), noise(7, n), noise(8, rows[rows.len() - 1] * n));
                let norms = [b.vector(&post).unwrap(), b.vector(&next).unwrap()];
                let all = reference::matmul(&x, &values, k);
                let mut former: Option<Vec<f32>> = None;
                for &m in rows {
                    let what = format!("{m} rows by {dtype} {n} x {k}");
                    let (input, expected) = (matrix(&b, &x[..m * k], k), &all[..m * n]);
                    // In the kind that products read.
                    let mut operand = b.matrix(m, k).unwrap();
                    operand.set(m, b.operand_kind());
                    b.convert(&input, operand.at(), b.operand_kind());
                    let mut out = poisoned(&b, m, n);
                    b.matmul(&operand, &weight, &mut out);
                    close(&b, &out, expected, tolerance, &what);
                    let mut found = vec![f32::NAN; m * n];
                    b.download(&out, &mut found);
                    if let Some(former) = &former
                        && tolerance != EXACT
                    {
                        assert!(found[..former.len()] == former[..], "{what}: its first rows beside fewer");
                    }
                    former = Some(found);
                    let (mut wide, mut half) = (poisoned(&b, m, n), poisoned(&b, m, n / 2));
                    b.matmul_geglu(&operand, &weight, &mut wide, &mut half);
                    close(&b, &half, &reference::geglu(expected, n / 2), 2.0 * tolerance, &format!("{what} gated"));
                    let (mut room, mut normed) = (poisoned(&b, m, n), poisoned(&b, m, n));
                    let mut x = matrix(&b, &stream[..m * n], n);
                    let after = Some((&norms[1], &mut normed));
                    b.matmul_residual((&operand, &weight), &mut room, &norms[0], 1e-6, &mut x, after);
                    let added = reference::rms_norm(expected, &post, 1e-6);
                    let added: Vec<f32> = added.iter().zip(&stream).map(|(a, s)| a + s).collect();
                    close(&b, &x, &added, tolerance, &format!("{what} and the stream"));
                    let normed_twin = reference::rms_norm(&added, &next, 1e-6);
                    close(&b, &normed, &normed_twin, tolerance.max(1e-4), &format!("{what} and its norm"));
                }
            }
        }
    }
}
