//! The backend against the scalar twins.

use super::testing::{close, isas, matrix, noise, staged};
use super::*;
use crate::backend::{CacheType, Rows};
use crate::reference;
use proptest::prelude::*;

#[test]
fn products_match_their_twin() {
    let backend = CpuBackend::new(Some(2));
    for (m, n, k) in [(1, 1, 1), (1, 40, 48), (3, 16, 72), (7, 33, 20), (40, 100, 64)] {
        let (x, w, bias) = (noise(1, m * k), noise(2, n * k), noise(3, n));
        let weight = backend.weight_f32(&w, n, k, WeightFormat::Stored).unwrap();
        assert!(backend.weight_bytes(&weight) >= n * k * 4);
        let (input, mut out) = (matrix(&backend, &x, k), backend.matrix(m, n).unwrap());
        backend.matmul(&input, &weight, &mut out);
        let mut expected = reference::matmul(&x, &w, k);
        close(out.as_slice(), &expected, 1e-5);
        let bias_vector = backend.vector(&bias).unwrap();
        backend.matmul_bias(&input, &weight, &bias_vector, &mut out);
        reference::add_bias(&mut expected, &bias);
        close(out.as_slice(), &expected, 1e-5);
        backend.matmul_bias_gelu(&input, &weight, &bias_vector, &mut out);
        close(out.as_slice(), &expected.iter().map(|&v| reference::gelu_tanh(v)).collect::<Vec<_>>(), 1e-5);
        let ids: Vec<u32> = (0..m).map(|i| (i * 7 % n) as u32).collect();
        let mut embedded = backend.matrix(m, k).unwrap();
        backend.embed(&weight, &staged(&backend, &ids, &Step::default()), 3.0, &mut embedded);
        for (i, &id) in ids.iter().enumerate() {
            let row: Vec<f32> = w[id as usize * k..][..k].iter().map(|v| v * 3.0).collect();
            assert_eq!(embedded.row(i), row);
        }
    }
}

#[test]
fn rows_move_and_add() {
    let backend = CpuBackend::new(Some(2));
    let mut x = matrix(&backend, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2);
    let mut picked = backend.matrix(4, 2).unwrap();
    backend.gather(&x, &[2, 0], &mut picked);
    assert_eq!(picked.as_slice(), [5.0, 6.0, 1.0, 2.0]);
    backend.overwrite(&picked, 1, &mut x);
    let mut host = [0f32; 6];
    backend.download(&x, &mut host);
    assert_eq!(host, [1.0, 2.0, 5.0, 6.0, 1.0, 2.0]);
    let y = matrix(&backend, &[10.0; 6], 2);
    backend.add(&y, &mut x);
    assert_eq!(x.as_slice(), [11.0, 12.0, 15.0, 16.0, 11.0, 12.0]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Rows of any width: whole vectors, and what is left over.
    #[test]
    fn norms_and_activations_match_their_twins(m in 1usize..40, cols in 1usize..400, big in 1f32..1e4, seed in 0u64..1000) {
        let scaled = |seed, by: f32| noise(seed, m * cols).iter().map(|v| v * by).collect::<Vec<f32>>();
        let (x, y, w, b) = (scaled(seed, big), scaled(seed + 1, 1.0), noise(seed + 2, cols), noise(seed + 3, cols));
        // Gates where GELU bends.
        let (gates, even) = (scaled(seed + 4, 6.0), cols / 2 * 2);
        for isa in isas() {
            let backend = CpuBackend::with_isa(Some(2), isa);
            let (weight, bias) = (backend.vector(&w).unwrap(), backend.vector(&b).unwrap());
            let mut input = matrix(&backend, &x, cols);
            let mut out = backend.matrix(m, cols).unwrap();
            backend.rms_norm(&input, &weight, 1e-6, &mut out);
            close(out.as_slice(), &reference::rms_norm(&x, &w, 1e-6), 1e-6);
            backend.layer_norm(&input, &weight, &bias, 1e-6, &mut out);
            // One value is its own mean: there is nothing but what rounding leaves.
            if cols > 1 {
                close(out.as_slice(), &reference::layer_norm(&x, &w, &b, 1e-6), 2e-5);
            }
            backend.add_rms_norm(&matrix(&backend, &y, cols), &weight, 1e-6, &mut input);
            let sum: Vec<f32> = reference::rms_norm(&y, &w, 1e-6).iter().zip(&x).map(|(a, b)| a + b).collect();
            close(input.as_slice(), &sum, 1e-6);
            backend.add(&matrix(&backend, &y, cols), &mut input);
            let before = sum.iter().zip(&y).map(|(a, b)| a + b).collect::<Vec<_>>();
            close(input.as_slice(), &before, 2e-6);
            if even > 0 {
                let gates = &gates[..m * even];
                let mut half = backend.matrix(m, even / 2).unwrap();
                backend.geglu(&matrix(&backend, gates, even), &mut half);
                close(half.as_slice(), &reference::geglu(gates, even / 2), 1e-6);
            }
        }
    }

    #[test]
    fn tables_and_pools_match_their_twins(half in 1usize..70, kernel in 1usize..5, small in 1usize..5, seed in 0u64..1000) {
        let backend = CpuBackend::new(Some(2));
        let freq = noise(seed, half);
        let positions: Vec<u32> = (0..20).map(|i| i * i * 300).collect();
        let step = staged(&backend, &[], &Step { positions: positions.clone(), ..Step::default() });
        let mut table = backend.matrix(20, 2 * half).unwrap();
        backend.rope_table(&backend.vector(&freq).unwrap(), &step, &mut table);
        close(table.as_slice(), &reference::rope_table(&freq, &positions), 1e-7);

        let side = kernel * small;
        let x = noise(seed, side * side * half);
        let mut out = backend.matrix(small * small, half).unwrap();
        backend.avg_pool(&matrix(&backend, &x, half), side, kernel, &mut out);
        close(out.as_slice(), &reference::avg_pool(&x, side, kernel, half), 1e-6);
    }
}

#[test]
fn images_attend_within_themselves() {
    let (heads, dim, patches) = (2, 12, 40);
    let backend = CpuBackend::new(Some(2));
    let qkv = noise(11, 2 * patches * 3 * heads * dim);
    let spec = CacheSpec { layers: 1, blocks: 4, kv_heads: heads, head_dim: dim, dtype: CacheType::BF16 };
    let mut cache = backend.cache(spec).unwrap();
    let step = Step {
        positions: (0..patches as u32).chain(0..patches as u32).collect(),
        ends: vec![patches as u32; 2 * patches],
        sequences: vec![
            Rows { rows: 0..patches, table: vec![0, 3] },
            Rows { rows: patches..2 * patches, table: vec![2, 1] },
        ],
    };
    let step = staged(&backend, &[], &step);
    let (mut q, mut out) = (backend.matrix(80, heads * dim).unwrap(), backend.matrix(80, heads * dim).unwrap());
    backend.qkv_store(&matrix(&backend, &qkv, 3 * heads * dim), &step, &mut cache, 0, &mut q);
    backend.attention(&q, heads, &cache, 0, &step, None, 0.5, &mut out);
    let width = heads * dim;
    for image in 0..2 {
        let rows = &qkv[image * patches * 3 * width..][..patches * 3 * width];
        let side =
            |i: usize| rows.chunks_exact(3 * width).flat_map(move |r| r[i * width..][..width].to_vec()).collect();
        let (q, k, v): (Vec<f32>, Vec<f32>, Vec<f32>) = (side(0), side(1), side(2));
        let (k, v) = (reference::round_bf16(&k), reference::round_bf16(&v));
        let expected = reference::attention(&q, heads, &k, &v, heads, dim, &vec![(0, patches); patches], 0.5);
        close(&out.as_slice()[image * patches * width..][..patches * width], &expected, 1e-5);
    }
}
