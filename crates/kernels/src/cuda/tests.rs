//! The operations on a card against the scalar twins. Without a card they are skipped, which is said.
//!
//! Outputs are poisoned before: what a kernel leaves out isn't a number. An exact backend shows that a kernel computes the
//! right thing, the other one that it does so with rounded operands.

mod steps;

use super::{CudaBackend, CudaMatrix, CudaStaged};
use crate::backend::{BLOCK, Backend, Behind, CacheSpec, CacheType, Greedy, Rows, Step, WeightFormat};
use crate::cpu::testing::{DTYPES, noise, tensor};
use crate::reference;
use medgemma_formats::DType;

/// How far results may be off: in f32, and with operands in bf16.
const EXACT: f32 = 2e-5;
const ROUNDED: f32 = 2e-2;

/// The first card, exact and as it is, and how far off each may be.
fn cards() -> Vec<(CudaBackend, f32)> {
    match (CudaBackend::exact(0), CudaBackend::new(0)) {
        (Ok(exact), Ok(usual)) => vec![(exact, EXACT), (usual, ROUNDED)],
        (Err(error), _) | (_, Err(error)) => {
            println!("skipped: {error}");
            Vec::new()
        }
    }
}

/// A matrix of given values.
fn matrix(b: &CudaBackend, values: &[f32], cols: usize) -> CudaMatrix {
    let mut out = b.matrix(values.len() / cols, cols).unwrap();
    b.upload(values, &mut out);
    out
}

/// A matrix that holds what isn't a number.
fn poisoned(b: &CudaBackend, rows: usize, cols: usize) -> CudaMatrix {
    matrix(b, &vec![f32::NAN; rows * cols], cols)
}

fn staged(b: &CudaBackend, ids: &[u32], step: &Step) -> CudaStaged {
    let mut staged = b.staged().unwrap();
    b.stage(ids, step, &mut staged);
    staged
}

/// The step of the first rows of one text.
fn text(rows: usize) -> Step {
    Step {
        positions: (0..rows as u32).collect(),
        ends: (1..=rows as u32).collect(),
        sequences: vec![Rows { rows: 0..rows, table: (0..rows.div_ceil(BLOCK) as u32).collect() }],
    }
}

/// Holds a matrix to expected values, relative to the largest of their row.
#[track_caller]
fn close(b: &CudaBackend, found: &CudaMatrix, expected: &[f32], tolerance: f32, what: &str) {
    let mut values = vec![f32::NAN; expected.len()];
    b.download(found, &mut values);
    let cols = found.cols();
    let mut worst = (0.0, 0);
    for (i, (f, e)) in values.iter().zip(expected).enumerate() {
        let row = &expected[i / cols * cols..][..cols];
        let size = row.iter().fold(1e-3f32, |max, v| max.max(v.abs()));
        let off = (f - e).abs() / size;
        if off.is_nan() || off > worst.0 {
            worst = (off, i);
        }
    }
    let (off, at) = worst;
    assert!(off <= tolerance, "{what}: element {at} of rows of {cols} is {} for {} ({off})", values[at], expected[at]);
}

#[test]
fn cuda_products_match_their_twin() {
    for (b, tolerance) in cards() {
        for (m, n, k) in [
            (1, 1, 1),
            (1, 40, 48),
            (2, 128, 256),
            (3, 16, 72),
            (7, 33, 20),
            (17, 96, 320),
            (64, 130, 64),
            (65, 64, 128),
            (200, 100, 192),
        ] {
            let (x, w, bias) = (noise(1, m * k), noise(2, n * k), noise(3, n));
            let weight = b.weight_f32(&w, n, k, WeightFormat::Stored).unwrap();
            let (input, bias_vector) = (matrix(&b, &x, k), b.vector(&bias).unwrap());
            // Operands as norms leave them.
            let ones = b.vector(&vec![1.0; k]).unwrap();
            let mut normed = poisoned(&b, m, k);
            b.rms_norm(&input, &ones, 1e-6, &mut normed);
            let x = reference::rms_norm(&x, &vec![1.0; k], 1e-6);
            let mut out = poisoned(&b, m, n);
            b.matmul(&normed, &weight, &mut out);
            let mut expected = reference::matmul(&x, &w, k);
            let what = format!("{m} x {n} x {k}");
            close(&b, &out, &expected, tolerance, &what);
            let mut out = poisoned(&b, m, n);
            b.matmul_bias(&normed, &weight, &bias_vector, &mut out);
            reference::add_bias(&mut expected, &bias);
            close(&b, &out, &expected, tolerance, &format!("{what} with a bias"));
            let (mut room, mut sum) = (poisoned(&b, m, n), matrix(&b, &noise(4, m * n), n));
            b.matmul_bias_add(&normed, &weight, &bias_vector, &mut room, &mut sum);
            let added: Vec<f32> = expected.iter().zip(noise(4, m * n)).map(|(v, was)| v + was).collect();
            close(&b, &sum, &added, tolerance, &format!("{what} added"));
            let mut out = poisoned(&b, m, n);
            b.matmul_bias_gelu(&normed, &weight, &bias_vector, &mut out);
            let gelu: Vec<f32> = expected.iter().map(|&v| reference::gelu_tanh(v)).collect();
            close(&b, &out, &gelu, tolerance, &format!("{what} with GELU"));
            if n % 2 == 0 {
                let (mut wide, mut half) = (poisoned(&b, m, n), poisoned(&b, m, n / 2));
                b.matmul_geglu(&normed, &weight, &mut wide, &mut half);
                let expected = reference::geglu(&reference::matmul(&x, &w, k), n / 2);
                close(&b, &half, &expected, 2.0 * tolerance, &format!("{what} gated"));
            }
        }
    }
}

#[test]
fn cuda_weights_are_those_of_the_file() {
    for (b, tolerance) in cards() {
        for dtype in DTYPES {
            // Whole tiles, rows that don't fill one, and a width that isn't whole tiles.
            for (rows, cols) in [(48, 512), (37, 256), (20, 768)] {
                let stored = tensor(7, dtype, rows, cols);
                let values = stored.to_f32().unwrap();
                let weight = b.weight(&[&stored], WeightFormat::Stored).unwrap();
                let ids: Vec<u32> = (0..rows as u32).rev().collect();
                let mut out = poisoned(&b, rows, cols);
                b.embed(&weight, &staged(&b, &ids, &text(rows)), 1.0, &mut out);
                let expected: Vec<f32> =
                    ids.iter().flat_map(|id| values[*id as usize * cols..][..cols].to_vec()).collect();
                // Floats are rounded to bf16 unless all is exact; blocks are what they are.
                let near = if tolerance == EXACT { 1e-6 } else { 4e-3 };
                close(&b, &out, &expected, near, &format!("{dtype} {rows} x {cols}"));
                for m in [1, 5, 40, 100] {
                    let x = reference::round_bf16(&noise(9, m * cols));
                    let mut out = poisoned(&b, m, rows);
                    b.matmul(&matrix(&b, &x, cols), &weight, &mut out);
                    let expected = reference::matmul(&x, &values, cols);
                    close(&b, &out, &expected, tolerance, &format!("{m} rows by {dtype} {rows} x {cols}"));
                }
            }
        }
    }
}

#[test]
fn cuda_weights_of_several_types_stand_side_by_side() {
    for (b, tolerance) in cards() {
        let parts: Vec<_> = [(DTYPES[10], 32), (DTYPES[10], 16), (DTYPES[12], 48), (DTYPES[2], 16)]
            .iter()
            .enumerate()
            .map(|(i, (dtype, rows))| tensor(i as u64, *dtype, *rows, 512))
            .collect();
        let weight = b.weight(&parts.iter().collect::<Vec<_>>(), WeightFormat::Stored).unwrap();
        let values: Vec<f32> = parts.iter().flat_map(|t| t.to_f32().unwrap()).collect();
        for m in [3, 80] {
            let x = reference::round_bf16(&noise(4, m * 512));
            let mut out = poisoned(&b, m, 112);
            b.matmul(&matrix(&b, &x, 512), &weight, &mut out);
            close(&b, &out, &reference::matmul(&x, &values, 512), tolerance, "four tensors");
        }
    }
}

#[test]
fn cuda_quantizes_as_the_files_do() {
    for (b, _) in cards() {
        for (format, dtype) in
            [(WeightFormat::Q4, medgemma_formats::DType::Q4_0), (WeightFormat::Q8, medgemma_formats::DType::Q8_0)]
        {
            let values = noise(5, 48 * 256);
            let mut bytes = Vec::new();
            medgemma_formats::quantize(dtype, &values, &mut bytes).unwrap();
            let mut expected = vec![0.0; values.len()];
            medgemma_formats::dequantize(dtype, &bytes, &mut expected).unwrap();
            let weight = b.weight_f32(&values, 48, 256, format).unwrap();
            let ids: Vec<u32> = (0..48).collect();
            let mut out = poisoned(&b, 48, 256);
            b.embed(&weight, &staged(&b, &ids, &text(48)), 1.0, &mut out);
            close(&b, &out, &expected, 1e-6, &format!("{dtype}"));
        }
    }
}

#[test]
fn cuda_norms_and_activations_match_their_twins() {
    for (b, tolerance) in cards() {
        let rounded = if tolerance == EXACT { 1e-5 } else { 5e-3 };
        for (m, cols) in [(1, 2560), (3, 1), (5, 100), (70, 1152), (2, 5376)] {
            let (x, y, w, bias) = (noise(1, m * cols), noise(2, m * cols), noise(3, cols), noise(4, cols));
            let big: Vec<f32> = x.iter().map(|v| v * 300.0).collect();
            let (weight, next, shift) = (b.vector(&w).unwrap(), b.vector(&bias).unwrap(), b.vector(&bias).unwrap());
            let input = matrix(&b, &big, cols);
            let mut out = poisoned(&b, m, cols);
            b.rms_norm(&input, &weight, 1e-6, &mut out);
            close(&b, &out, &reference::rms_norm(&big, &w, 1e-6), rounded, "rms_norm");
            if cols > 1 {
                let mut out = poisoned(&b, m, cols);
                b.layer_norm(&input, &weight, &shift, 1e-6, &mut out);
                close(&b, &out, &reference::layer_norm(&big, &w, &bias, 1e-6), rounded, "layer_norm");
            }
            let mut stream = matrix(&b, &big, cols);
            let sum: Vec<f32> = reference::rms_norm(&y, &w, 1e-6).iter().zip(&big).map(|(a, b)| a + b).collect();
            b.add_rms_norm(&matrix(&b, &y, cols), &weight, 1e-6, &mut stream);
            close(&b, &stream, &sum, 1e-5, "add_rms_norm");
            let (mut stream, mut out) = (matrix(&b, &big, cols), poisoned(&b, m, cols));
            b.residual_norm(&matrix(&b, &y, cols), &weight, &next, 1e-6, &mut stream, &mut out);
            close(&b, &stream, &sum, 1e-5, "residual_norm: the stream");
            close(&b, &out, &reference::rms_norm(&sum, &bias, 1e-6), rounded, "residual_norm");
            b.add(&matrix(&b, &y, cols), &mut stream);
            close(&b, &stream, &sum.iter().zip(&y).map(|(a, b)| a + b).collect::<Vec<_>>(), 1e-5, "add");
            let gates: Vec<f32> = noise(6, m * cols * 2).iter().map(|v| v * 6.0).collect();
            let mut half = poisoned(&b, m, cols);
            b.geglu(&matrix(&b, &gates, 2 * cols), &mut half);
            close(&b, &half, &reference::geglu(&gates, cols), 10.0 * rounded, "geglu");
        }
    }
}

/// All that follows attention in a layer, by one kernel where there is one; and a row has the same bits alone.
#[test]
fn cuda_layers_match_their_twin() {
    for (b, tolerance) in cards() {
        let expected_done = tolerance != EXACT && b.device.capability() == (9, 0);
        for (rows, h, q, f, qkv_cols, last) in [
            (1, 640, 512, 2048, 1536, false),
            (3, 640, 512, 2048, 1536, true),
            (8, 2560, 2048, 10240, 4096, false),
            (5, 1152, 1024, 6912, 1536, false),
            (1, 5376, 4096, 2048, 8192, false),
        ] {
            let weight = |seed, n, k| {
                let stored = tensor(seed, DType::Q4_0, n, k);
                (b.weight(&[&stored], WeightFormat::Stored).unwrap(), stored.to_f32().unwrap())
            };
            let (output, gate_up) = (weight(1, h, q), weight(2, 2 * f, h));
            let (down, qkv) = (weight(3, h, f), weight(4, qkv_cols, h));
            let norms: Vec<Vec<f32>> = (0..4).map(|seed| noise(10 + seed, h)).collect();
            let vectors: Vec<_> = norms.iter().map(|norm| b.vector(norm).unwrap()).collect();
            let behind = Behind {
                attn_output: &output.0,
                post_attention_norm: &vectors[0],
                ffn_norm: &vectors[1],
                gate_up: &gate_up.0,
                down: &down.0,
                post_ffw_norm: &vectors[2],
                next: (!last).then_some((&vectors[3], &qkv.0)),
                eps: 1e-6,
            };
            // What attention leaves: operands of a product.
            let (noisy, ones) = (noise(20, rows * q), vec![1.0; q]);
            let mut attention = poisoned(&b, rows, q);
            b.rms_norm(&matrix(&b, &noisy, q), &b.vector(&ones).unwrap(), 1e-6, &mut attention);
            let stream = noise(21, rows * h);
            let run = |attention: &CudaMatrix, stream: &[f32]| {
                let rows = stream.len() / h;
                let (mut x, mut out) = (matrix(&b, stream, h), poisoned(&b, rows, qkv_cols));
                let (mut normed, mut activated) = (poisoned(&b, rows, h), poisoned(&b, rows, f));
                let done = b.behind_attention(&behind, attention, &mut x, &mut normed, &mut activated, &mut out);
                assert_eq!(done, expected_done, "{rows} rows of {h}");
                (x, out)
            };
            let (x, out) = run(&attention, &stream);
            if !expected_done {
                continue;
            }
            let rounded = |values: Vec<f32>| reference::round_bf16(&values);
            let normed = |x: &[f32], norm: &[f32]| reference::rms_norm(x, norm, 1e-6);
            let plus = |x: Vec<f32>, y: Vec<f32>| x.iter().zip(y).map(|(x, y)| x + y).collect::<Vec<f32>>();
            let product = reference::matmul(&rounded(normed(&noisy, &ones)), &output.1, q);
            let first = plus(stream.clone(), normed(&product, &norms[0]));
            let wide = reference::matmul(&rounded(normed(&first, &norms[1])), &gate_up.1, h);
            let product = reference::matmul(&rounded(reference::geglu(&wide, f)), &down.1, f);
            let expected = plus(first, normed(&product, &norms[2]));
            let what = format!("a layer of {rows} rows of {h}");
            close(&b, &x, &expected, tolerance, &what);
            let mut found = vec![f32::NAN; rows * h];
            b.download(&x, &mut found);
            let mut alone = b.matrix(1, q).unwrap();
            b.gather(&attention, &[rows as u32 - 1], &mut alone);
            let (x, row) = run(&alone, &stream[(rows - 1) * h..]);
            let mut same = vec![f32::NAN; h];
            b.download(&x, &mut same);
            assert_eq!(same, found[(rows - 1) * h..], "{what}: its last row alone");
            if !last {
                let expected = reference::matmul(&rounded(normed(&expected, &norms[3])), &qkv.1, h);
                close(&b, &out, &expected, tolerance, &format!("{what}: q, k and v"));
                let (mut found, mut same) = (vec![f32::NAN; rows * qkv_cols], vec![f32::NAN; qkv_cols]);
                b.download(&out, &mut found);
                b.download(&row, &mut same);
                assert_eq!(same, found[(rows - 1) * qkv_cols..], "{what}: q, k and v of its last row alone");
            }
        }
    }
}

#[test]
fn cuda_rows_move() {
    for (b, _) in cards() {
        let values = noise(1, 200 * 48);
        let mut x = matrix(&b, &values, 48);
        let rows: Vec<u32> = (0..150).map(|i| i * 7 % 200).collect();
        let mut out = poisoned(&b, 150, 48);
        b.gather(&x, &rows, &mut out);
        let picked: Vec<f32> = rows.iter().flat_map(|row| values[*row as usize * 48..][..48].to_vec()).collect();
        close(&b, &out, &picked, 0.0, "gather");
        b.overwrite(&out, 20, &mut x);
        let mut expected = values.clone();
        expected[20 * 48..170 * 48].copy_from_slice(&picked);
        close(&b, &x, &expected, 0.0, "overwrite");
        let mut fresh = b.matrix(200, 48).unwrap();
        b.overwrite(&out, 0, &mut fresh);
        close(&b, &fresh, &picked, 0.0, "overwrite of a matrix without rows");
    }
}

#[test]
fn cuda_tables_pools_and_choices_match_their_twins() {
    for (b, _) in cards() {
        let freq: Vec<f32> = (0..64).map(|i| 10_000f32.powf(-(i as f32) / 64.0)).collect();
        let positions: Vec<u32> = (0..20).map(|i| i * i * 300).collect();
        let ends: Vec<u32> = positions.iter().map(|p| p + 1).collect();
        let blocks = *ends.last().unwrap() as usize / BLOCK + 1;
        let step =
            Step { positions: positions.clone(), ends, sequences: vec![Rows { rows: 0..20, table: vec![0; blocks] }] };
        let mut table = poisoned(&b, 20, 128);
        b.rope_table(&b.vector(&freq).unwrap(), &staged(&b, &[], &step), &mut table);
        close(&b, &table, &reference::rope_table(&freq, &positions), 1e-6, "rope_table");
        let x = noise(8, 64 * 72);
        let mut out = poisoned(&b, 4, 72);
        b.avg_pool(&matrix(&b, &x, 72), 8, 4, &mut out);
        close(&b, &out, &reference::avg_pool(&x, 8, 4, 72), 1e-6, "avg_pool");
        for vocab in [3, 1000, 262_208] {
            let mut logits = noise(9, 3 * vocab);
            // Equals: the first is taken.
            logits[vocab + vocab / 2] = 5.0;
            logits[2 * vocab - 1] = 5.0;
            logits[2 * vocab..].fill(f32::NAN);
            let mut found = [Greedy::default(); 3];
            b.greedy(&matrix(&b, &logits, vocab), &mut found);
            let (best, logit) =
                (0..vocab).map(|i| (i, logits[i])).fold((0, -2.0), |a, c| if c.1 > a.1 { c } else { a });
            assert_eq!(found[0], Greedy { id: best as u32, logit });
            assert_eq!(found[1], Greedy { id: (vocab / 2) as u32, logit: 5.0 });
            assert!(found[2].logit.is_nan());
        }
    }
}

/// Rows of different sizes in 8-bit floats are the numbers that the twin says, to the bit, whatever their width and type; and so
/// are products with them.
#[test]
fn cuda_rounds_rows_to_8_bit_floats() {
    for (b, tolerance) in cards() {
        for (dtype, rows, cols) in [
            (DType::F32, 37, 256),
            (DType::BF16, 48, 128),
            (DType::F16, 20, 77),
            (DType::Nf4, 5, 192),
            (DType::F32, 3, 50),
        ] {
            let stored = match dtype {
                DType::F32 => {
                    // The last row is of zeros, others beyond what the type holds by itself.
                    let sized = |(i, v): (usize, f32)| match i / cols {
                        row if row + 1 == rows => 0.0,
                        row => v * 2f32.powi(row as i32 * 11 % 60 - 30),
                    };
                    let values: Vec<f32> = noise(5, rows * cols).into_iter().enumerate().map(sized).collect();
                    medgemma_formats::Tensor::from_f32("w", &[rows, cols], &values).unwrap()
                }
                _ => tensor(5, dtype, rows, cols),
            };
            let expected = reference::round_rows_f8(&stored.to_f32().unwrap(), cols);
            let weight = b.weight(&[&stored], WeightFormat::F8).unwrap();
            let ids: Vec<u32> = (0..rows as u32).collect();
            let mut out = poisoned(&b, rows, cols);
            b.embed(&weight, &staged(&b, &ids, &text(rows)), 1.0, &mut out);
            let mut found = vec![f32::NAN; rows * cols];
            b.download(&out, &mut found);
            assert_eq!(found, expected, "{dtype} {rows} x {cols}");
            for m in [1, 5, 40, 100] {
                let x = reference::round_bf16(&noise(9, m * cols));
                let mut out = poisoned(&b, m, rows);
                b.matmul(&matrix(&b, &x, cols), &weight, &mut out);
                let what = format!("{m} rows by 8-bit floats of {rows} x {cols}");
                close(&b, &out, &reference::matmul(&x, &expected, cols), tolerance, &what);
            }
        }
        // What a file holds in blocks stays so.
        let blocks = tensor(3, DType::Q4_0, 32, 64);
        let weight = b.weight(&[&blocks], WeightFormat::F8).unwrap();
        let mut out = poisoned(&b, 32, 64);
        b.embed(&weight, &staged(&b, &(0..32).collect::<Vec<_>>(), &text(32)), 1.0, &mut out);
        close(&b, &out, &blocks.to_f32().unwrap(), 1e-6, "blocks");
    }
}

/// What attention is asked: sequences of (first position, rows), heads, key/value heads, width, window.
struct Case {
    parts: Vec<(usize, usize)>,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    window: Option<usize>,
    /// Rows see to the end of their sequence, as in an image.
    image: bool,
    /// How keys and values are held.
    cache: CacheType,
}

/// Reads each sequence from its beginning, its last rows together in one step, and holds what they see to the twin, by
/// one operation and by two.
fn attend(b: &CudaBackend, case: &Case, tolerance: f32) {
    let &Case { heads, kv_heads, dim, window, image, .. } = case;
    let width = (heads + 2 * kv_heads) * dim;
    let total = |part: &(usize, usize)| part.0 + part.1;
    let needed: usize = case.parts.iter().map(|part| total(part).div_ceil(BLOCK)).sum();
    let spec = CacheSpec { layers: 2, blocks: needed + 1, kv_heads, head_dim: dim, dtype: case.cache };
    let mut cache = b.cache(spec).unwrap();
    // Blocks in no order.
    let mut free = (0..needed as u32).map(|i| if needed.is_multiple_of(7) { i } else { i * 7 % needed as u32 });
    let tables: Vec<Vec<u32>> =
        case.parts.iter().map(|part| free.by_ref().take(total(part).div_ceil(BLOCK)).collect()).collect();
    let values: Vec<Vec<f32>> = case.parts.iter().enumerate().map(|(i, p)| noise(i as u64, total(p) * width)).collect();
    let (norm, freq) = (vec![1.0; dim], noise(3, dim / 2));
    let (ones, frequencies) = (b.vector(&norm).unwrap(), b.vector(&freq).unwrap());
    let rounds = !b.exact;
    let mut run = |ranges: &[std::ops::Range<usize>]| {
        let (mut qkv, mut step) = (Vec::new(), Step::default());
        for (i, range) in ranges.iter().enumerate() {
            let first = step.positions.len();
            qkv.extend_from_slice(&values[i][range.start * width..range.end * width]);
            step.positions.extend(range.clone().map(|p| p as u32));
            step.ends.extend(range.clone().map(|p| if image { range.end as u32 } else { p as u32 + 1 }));
            step.sequences.push(Rows { rows: first..first + range.len(), table: tables[i].clone() });
        }
        let rows = step.positions.len();
        let step = staged(b, &[], &step);
        let mut rope = poisoned(b, rows, dim);
        let (mut q, mut out) = (poisoned(b, rows, heads * dim), poisoned(b, rows, heads * dim));
        b.rope_table(&frequencies, &step, &mut rope);
        let (qkv, mut at_once) = (matrix(b, &qkv, width), poisoned(b, rows, heads * dim));
        let (norms, cache) = ((&ones, &ones), &mut cache);
        b.qkv_attention(&qkv, heads, norms.0, norms.1, 1e-6, &rope, &step, cache, 1, window, 0.5, &mut q, &mut at_once);
        // Whatever the first one stored is stored again.
        b.qkv_rope_store(&qkv, heads, &ones, &ones, 1e-6, &rope, &step, cache, 1, &mut q);
        b.attention(&q, heads, cache, 1, &step, window, 0.5, &mut out);
        (at_once, out)
    };
    if case.parts.iter().any(|part| part.0 > 0) {
        run(&case.parts.iter().map(|part| 0..part.0).collect::<Vec<_>>());
    }
    let found = run(&case.parts.iter().map(|part| part.0..total(part)).collect::<Vec<_>>());
    let mut expected = Vec::new();
    for (part, values) in case.parts.iter().zip(&values) {
        let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
        for (position, row) in values.chunks_exact(width).enumerate() {
            let table = reference::rope_table(&freq, &[position as u32]);
            for (head, x) in row.chunks_exact(dim).enumerate() {
                let mut x = if head < heads + kv_heads { reference::rms_norm(x, &norm, 1e-6) } else { x.to_vec() };
                if head < heads + kv_heads {
                    reference::rotate(&mut x, &table);
                }
                let x = match case.cache {
                    CacheType::F8 if head >= heads => reference::round_f8(&x),
                    _ if rounds => reference::round_bf16(&x),
                    _ => x,
                };
                (if head < heads {
                    &mut q
                } else if head < heads + kv_heads {
                    &mut k
                } else {
                    &mut v
                })
                .extend(x);
            }
        }
        let end = |p: usize| if image { total(part) } else { p + 1 };
        let seen: Vec<_> = (part.0..total(part)).map(|p| reference::visible(p as u32, end(p) as u32, window)).collect();
        let q = &q[part.0 * heads * dim..];
        expected.extend(reference::attention(q, heads, &k, &v, kv_heads, dim, &seen, 0.5));
    }
    let held = case.cache;
    let what = format!("{:?}, {heads} heads over {kv_heads} of {dim} in {held:?}, window {window:?}", case.parts);
    close(b, &found.0, &expected, tolerance, &format!("{what}, at once"));
    close(b, &found.1, &expected, tolerance, &what);
}

#[test]
fn cuda_attention_matches_its_twin() {
    for (b, tolerance) in cards() {
        let tolerance = if tolerance == EXACT { 5e-5 } else { 1.5e-2 };
        let case = |parts: &[(usize, usize)], heads, kv_heads, dim, window, image| Case {
            parts: parts.to_vec(),
            heads,
            kv_heads,
            dim,
            window,
            image,
            cache: CacheType::F32,
        };
        for case in [
            case(&[(0, 1)], 1, 1, 12, None, false),
            case(&[(70, 1)], 4, 2, 16, None, false),
            case(&[(200, 1), (5, 1), (330, 1)], 8, 4, 256, None, false),
            case(&[(300, 4), (31, 2)], 4, 1, 128, Some(100), false),
            case(&[(0, 150)], 8, 4, 256, None, false),
            case(&[(129, 90), (3, 20)], 4, 2, 128, Some(64), false),
            case(&[(100, 80)], 4, 4, 72, None, true),
            case(&[(9000, 1), (100, 1)], 2, 1, 64, None, false),
            case(&[(9000, 2)], 4, 1, 64, Some(1024), false),
            case(&[(0, 200)], 4, 4, 64, None, false),
            case(&[(4000, 1), (31, 1), (32, 1)], 8, 4, 256, Some(1024), false),
            case(&[(60, 80)], 2, 1, 256, Some(70), true),
            case(&[(1500, 1), (63, 1), (64, 1), (0, 1)], 8, 4, 256, None, false),
            case(&[(2500, 1), (1100, 1)], 4, 1, 128, None, false),
            case(&[(700, 1), (2047, 1)], 4, 4, 128, Some(1024), false),
            case(&[(90, 1), (600, 1)], 4, 1, 256, Some(512), false),
        ] {
            attend(&b, &case, tolerance);
            // A key or value on the edge of two numbers may be rounded to the other one.
            attend(&b, &Case { cache: CacheType::F8, ..case }, tolerance.max(1.5e-2));
        }
    }
}

#[test]
fn cuda_images_attend_within_themselves() {
    for (b, tolerance) in cards() {
        let (heads, dim, patches) = (3, 72, 100);
        let width = heads * dim;
        let mut qkv = noise(11, patches * 3 * width);
        if tolerance != EXACT {
            qkv = reference::round_bf16(&qkv);
        }
        let spec = CacheSpec { layers: 1, blocks: 4, kv_heads: heads, head_dim: dim, dtype: CacheType::BF16 };
        let mut cache = b.cache(spec).unwrap();
        let step = staged(&b, &[], &Step { ends: vec![patches as u32; patches], ..text(patches) });
        let (mut q, mut out) = (poisoned(&b, patches, width), poisoned(&b, patches, width));
        b.qkv_store(&matrix(&b, &qkv, 3 * width), &step, &mut cache, 0, &mut q);
        b.attention(&q, heads, &cache, 0, &step, None, 0.5, &mut out);
        let side = |i: usize| qkv.chunks_exact(3 * width).flat_map(move |r| r[i * width..][..width].to_vec()).collect();
        let (q, k, v): (Vec<f32>, Vec<f32>, Vec<f32>) = (side(0), side(1), side(2));
        let expected = reference::attention(&q, heads, &k, &v, heads, dim, &vec![(0, patches); patches], 0.5);
        close(&b, &out, &expected, if tolerance == EXACT { 5e-5 } else { 1.5e-2 }, "patches");
    }
}

/// Played back, steps that go on in a text write to where they belong and see what they should.
#[test]
fn cuda_recordings_follow_a_text() {
    for (b, _) in cards() {
        let (heads, kv_heads, dim) = (8, 4, 256);
        let width = (heads + 2 * kv_heads) * dim;
        let spec = CacheSpec { layers: 1, blocks: 5, kv_heads, head_dim: dim, dtype: CacheType::F32 };
        let (ones, freq) = (b.vector(&vec![1.0; dim]).unwrap(), b.vector(&noise(3, dim / 2)).unwrap());
        let run = |record: bool| {
            let mut cache = b.cache(spec).unwrap();
            let mut qkv = poisoned(&b, 2, width);
            let (mut q, mut out) = (poisoned(&b, 2, heads * dim), poisoned(&b, 2, heads * dim));
            let (mut rope, mut step) = (poisoned(&b, 2, dim), b.staged().unwrap());
            let (mut recordings, mut seen) = (Default::default(), Vec::new());
            for position in 0..70 {
                let rows = |table: &[u32], rows| Rows { rows, table: table[..position / BLOCK + 1].to_vec() };
                let at = Step {
                    positions: vec![position as u32; 2],
                    ends: vec![position as u32 + 1; 2],
                    sequences: vec![rows(&[3, 0, 2], 0..1), rows(&[1, 4, 0], 1..2)],
                };
                // The third block of the second text is the first's second: only their ends are written here.
                let at = if position < 64 {
                    at
                } else {
                    Step {
                        sequences: vec![at.sequences[0].clone()],
                        positions: vec![position as u32],
                        ends: vec![position as u32 + 1],
                    }
                };
                let count = at.positions.len();
                b.stage(&[], &at, &mut step);
                b.upload(&noise(position as u64, count * width), &mut qkv);
                let key = b.recording_key(&step, &cache).expect("few rows");
                let mut work = || {
                    b.rope_table(&freq, &step, &mut rope);
                    let (norms, cache) = ((&ones, &ones), &mut cache);
                    b.qkv_attention(
                        &qkv,
                        heads,
                        norms.0,
                        norms.1,
                        1e-6,
                        &rope,
                        &step,
                        cache,
                        0,
                        Some(40),
                        0.5,
                        &mut q,
                        &mut out,
                    );
                };
                match record {
                    true => b.recorded([key; 2], &mut recordings, &mut work),
                    false => work(),
                }
                let mut values = vec![f32::NAN; count * heads * dim];
                b.download(&out, &mut values);
                seen.extend(values);
            }
            seen
        };
        let (played, done) = (run(true), run(false));
        assert!(played.iter().all(|v| v.is_finite()) && played == done);
    }
}

/// Played back, a step computes what it would have computed, of whatever stands in its matrices.
#[test]
fn cuda_recordings_play_the_same() {
    for (b, tolerance) in cards() {
        let (rows, cols) = (3, 256);
        let spec = CacheSpec { layers: 1, blocks: 1, kv_heads: 1, head_dim: 32, dtype: CacheType::F32 };
        let cache = b.cache(spec).unwrap();
        let w = noise(1, 64 * cols);
        let weight = b.weight_f32(&w, 64, cols, WeightFormat::Stored).unwrap();
        let ones = b.vector(&vec![1.0; cols]).unwrap();
        let (mut x, mut normed, mut out) = (poisoned(&b, rows, cols), poisoned(&b, rows, cols), poisoned(&b, rows, 64));
        let (mut step, mut recordings) = (b.staged().unwrap(), Default::default());
        b.stage(&[0; 3], &text(rows), &mut step);
        let key = b.recording_key(&step, &cache).expect("three rows are few");
        for round in 0..5 {
            let values = noise(round, rows * cols);
            b.upload(&values, &mut x);
            b.upload(&vec![f32::NAN; rows * 64], &mut out);
            b.recorded([key; 2], &mut recordings, &mut || {
                b.rms_norm(&x, &ones, 1e-6, &mut normed);
                b.matmul(&normed, &weight, &mut out);
            });
            let expected = reference::matmul(&reference::rms_norm(&values, &vec![1.0; cols], 1e-6), &w, cols);
            close(&b, &out, &expected, tolerance, &format!("round {round}"));
        }
    }
}
