//! The scalar twin of each operation, on slices: what the kernels compute, as plainly as it can be said.
//!
//! Sums run in double precision, so that a kernel is held to the exact value rather than to another rounding. Shapes
//! are row-major; lengths that don't fit each other panic.

use half::bf16;
use medgemma_formats::{f8_scale, f8_to_f32, f32_to_f8};

/// `x · wᵀ`: x `[m, k]`, w `[n, k]`; the result is `[m, n]`.
pub fn matmul(x: &[f32], w: &[f32], k: usize) -> Vec<f32> {
    x.chunks_exact(k).flat_map(|x| w.chunks_exact(k).map(move |w| dot(x, w) as f32)).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// Rounds activations as the integer kernels do: each `span` elements of a row (32, or 128 for weights whose groups'
/// scales are integers) share the scale max|x| / 127, and become the nearest multiple of it (ties to even). A last span
/// may be shorter.
pub fn quantize_activations(x: &[f32], k: usize, span: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for group in x.chunks_exact(k).flat_map(|row| row.chunks(span)) {
        let max = group.iter().fold(0f32, |max, v| max.max(v.abs()));
        let scale = max / 127.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        out.extend(group.iter().map(|v| (v * inverse).round_ties_even().clamp(-127.0, 127.0) * scale));
    }
    out
}

/// Adds `bias` to each row.
pub fn add_bias(x: &mut [f32], bias: &[f32]) {
    for row in x.chunks_exact_mut(bias.len()) {
        row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
    }
}

/// `0.5 · x · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))`.
pub fn gelu_tanh(x: f32) -> f32 {
    let x = f64::from(x);
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    (0.5 * x * (1.0 + inner.tanh())) as f32
}

/// `gelu_tanh(gate) · up` for rows of n columns of gate, then n of up.
pub fn geglu(gate_up: &[f32], n: usize) -> Vec<f32> {
    gate_up
        .chunks_exact(2 * n)
        .flat_map(|row| (0..n).map(move |i| (f64::from(gelu_tanh(row[i])) * f64::from(row[n + i])) as f32))
        .collect()
}

/// `x / √(mean(x²) + eps) · w` over each row of `w.len()` elements.
pub fn rms_norm(x: &[f32], w: &[f32], eps: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(w.len()) {
        let inverse = 1.0 / (dot(row, row) / row.len() as f64 + f64::from(eps)).sqrt();
        out.extend(row.iter().zip(w).map(|(&x, &w)| (f64::from(x) * inverse * f64::from(w)) as f32));
    }
    out
}

/// `(x - mean) / √(var + eps) · w + b` over each row of `w.len()` elements.
pub fn layer_norm(x: &[f32], w: &[f32], b: &[f32], eps: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(w.len()) {
        let len = row.len() as f64;
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / len;
        let var = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / len;
        let inverse = 1.0 / (var + f64::from(eps)).sqrt();
        let norm = |i: usize| (f64::from(row[i]) - mean) * inverse * f64::from(w[i]) + f64::from(b[i]);
        out.extend((0..row.len()).map(|i| norm(i) as f32));
    }
    out
}

/// Cosines, then sines, of `position · inv_freq`, the product rounded to f32; one row a position.
pub fn rope_table(inv_freq: &[f32], positions: &[u32]) -> Vec<f32> {
    let mut out = Vec::new();
    for &position in positions {
        let angle = |f: &f32| f64::from(position as f32 * f);
        out.extend(inv_freq.iter().map(|f| angle(f).cos() as f32));
        out.extend(inv_freq.iter().map(|f| angle(f).sin() as f32));
    }
    out
}

/// Rotates the pairs (`i`, `i + len/2`) of a head by a row of [`rope_table`].
pub fn rotate(head: &mut [f32], table: &[f32]) {
    let half = head.len() / 2;
    let (cos, sin) = table.split_at(half);
    for i in 0..half {
        let (a, b) = (head[i], head[i + half]);
        head[i] = a * cos[i] - b * sin[i];
        head[i + half] = b * cos[i] + a * sin[i];
    }
}

/// The keys `lo..end` that the token at `position` sees.
pub fn visible(position: u32, end: u32, window: Option<usize>) -> (usize, usize) {
    let lo = window.map_or(0, |window| (position as usize + 1).saturating_sub(window));
    (lo, end as usize)
}

/// Softmax attention of the queries of one sequence.
///
/// q is `[rows, heads · head_dim]`; `keys` and `values` are `[positions, kv_heads · head_dim]`; `visible[r]` are the
/// keys `lo..hi` that row r sees, at least one.
pub fn attention(
    q: &[f32],
    heads: usize,
    keys: &[f32],
    values: &[f32],
    kv_heads: usize,
    head_dim: usize,
    visible: &[(usize, usize)],
    scale: f32,
) -> Vec<f32> {
    let mut out = vec![0f32; q.len()];
    let kv = |side: &[f32], key: usize, head: usize| side[(key * kv_heads + head) * head_dim..][..head_dim].to_vec();
    for (r, &(lo, hi)) in visible.iter().enumerate() {
        for head in 0..heads {
            let at = (r * heads + head) * head_dim;
            let kv_head = head / (heads / kv_heads);
            let score = |key| dot(&q[at..][..head_dim], &kv(keys, key, kv_head)) * f64::from(scale);
            let scores: Vec<f64> = (lo..hi).map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            for d in 0..head_dim {
                let weigh = |(i, s): (usize, &f64)| (s - max).exp() * f64::from(kv(values, lo + i, kv_head)[d]);
                out[at + d] = (scores.iter().enumerate().map(weigh).sum::<f64>() / sum) as f32;
            }
        }
    }
    out
}

/// Rounds to bf16, as a cache of that type does.
pub fn round_bf16(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&v| bf16::from_f32(v).to_f32()).collect()
}

/// Rounds to 8-bit floats (E4M3), as a cache of that type does.
pub fn round_f8(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&v| f8_to_f32(f32_to_f8(v))).collect()
}

/// Rounds the rows of a matrix of k columns to 8-bit floats, each with the power of two that it needs.
pub fn round_rows_f8(w: &[f32], k: usize) -> Vec<f32> {
    let row = |row: &[f32]| {
        let scale = f8_scale(row);
        row.iter().map(|v| f8_to_f32(f32_to_f8(v / scale)) * scale).collect::<Vec<f32>>()
    };
    w.chunks(k).flat_map(row).collect()
}

/// Mean over squares of `kernel × kernel`: x `[side², cols]` in raster order.
pub fn avg_pool(x: &[f32], side: usize, kernel: usize, cols: usize) -> Vec<f32> {
    let small = side / kernel;
    let mut out = Vec::with_capacity(small * small * cols);
    for (py, px) in (0..small).flat_map(|y| (0..small).map(move |x| (y, x))) {
        for c in 0..cols {
            let pixel = |i: usize| x[((py * kernel + i / kernel) * side + px * kernel + i % kernel) * cols + c];
            let sum: f64 = (0..kernel * kernel).map(|i| f64::from(pixel(i))).sum();
            out.push((sum / (kernel * kernel) as f64) as f32);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() <= 1e-6 * (1.0 + b.abs()), "{a} for {b}");
        }
    }

    #[test]
    fn products_and_biases() {
        let mut out = matmul(&[1.0, 2.0, 3.0, 4.0], &[1.0, 0.0, 0.0, 1.0, 2.0, -1.0], 2);
        assert_eq!(out, [1.0, 2.0, 0.0, 3.0, 4.0, 2.0]);
        add_bias(&mut out, &[10.0, 20.0, 30.0]);
        assert_eq!(out, [11.0, 22.0, 30.0, 13.0, 24.0, 32.0]);
    }

    #[test]
    fn activations_round_to_127_steps() {
        assert_eq!(quantize_activations(&[127.0, 2.5, 3.5, -63.2], 4, 32), [127.0, 2.0, 4.0, -63.0]);
        assert_eq!(quantize_activations(&[0.0; 3], 3, 32), [0.0; 3]);
        // Each span has a scale of its own.
        let mut x = [1.0; 34];
        x[32] = 254.0;
        x[33] = 5.0;
        let rounded = quantize_activations(&x, 34, 32);
        close(&rounded[..32], &[1.0; 32]);
        assert_eq!(rounded[32..], [254.0, 4.0]);
        assert_eq!(quantize_activations(&x, 34, 256)[..], [[0.0; 32].as_slice(), &[254.0, 4.0]].concat());
    }

    #[test]
    fn gelu_at_known_points() {
        // torch.nn.functional.gelu(x, approximate="tanh") in double precision.
        for (x, y) in [(0.0, 0.0), (1.0, 0.841_192), (-1.0, -0.158_808), (3.0, 2.996_362_7), (-10.0, 0.0)] {
            assert!((gelu_tanh(x) - y).abs() < 1e-6, "gelu({x}) = {}", gelu_tanh(x));
        }
        close(&geglu(&[1.0, 0.0, 2.0, 5.0], 2), &[2.0 * 0.841_192, 0.0]);
    }

    #[test]
    fn norms_of_small_rows() {
        close(&rms_norm(&[3.0, 4.0], &[1.0, 2.0], 0.0), &[3.0 / 12.5f32.sqrt(), 8.0 / 12.5f32.sqrt()]);
        close(&layer_norm(&[1.0, 3.0], &[1.0, 2.0], &[0.5, 0.0], 0.0), &[-0.5, 2.0]);
        close(&rms_norm(&[0.0, 0.0], &[1.0, 1.0], 1e-6), &[0.0, 0.0]);
    }

    #[test]
    fn rotation_by_a_quarter_turn() {
        let mut head = [1.0, 2.0, 3.0, 4.0];
        rotate(&mut head, &[0.0, 1.0, 1.0, 0.0]);
        assert_eq!(head, [-3.0, 2.0, 1.0, 4.0]);
        let table = rope_table(&[1.0, 0.5], &[0, 2]);
        close(&table[..4], &[1.0, 1.0, 0.0, 0.0]);
        close(&table[4..], &[2f32.cos(), 1f32.cos(), 2f32.sin(), 1f32.sin()]);
    }

    #[test]
    fn visibility_of_text_windows_and_spans() {
        assert_eq!(visible(9, 10, None), (0, 10));
        // Key k is seen by query q when k > q - window.
        assert_eq!(visible(9, 10, Some(4)), (6, 10));
        assert_eq!(visible(2, 3, Some(4)), (0, 3));
        // An image at 5..9: its first token sees to its end; its last one no further back than the window.
        assert_eq!(visible(5, 9, Some(4)), (2, 9));
        assert_eq!(visible(8, 9, Some(2)), (7, 9));
    }

    #[test]
    fn attention_weighs_values() {
        // Two query heads share one key/value head; scores ln 1 and ln 3 give weights 1/4 and 3/4.
        let ln3 = 3f32.ln();
        let out = attention(&[1.0, 0.0], 2, &[0.0, ln3], &[4.0, 8.0], 1, 1, &[(0, 2)], 1.0);
        close(&out, &[7.0, 6.0]);
        close(&attention(&[1.0], 1, &[0.0, ln3], &[4.0, 8.0], 1, 1, &[(1, 2)], 1.0), &[8.0]);
    }

    #[test]
    fn pooling_a_square() {
        let x: Vec<f32> = (0..16).map(|v| v as f32).collect();
        assert_eq!(avg_pool(&x, 4, 2, 1), [2.5, 4.5, 10.5, 12.5]);
        assert_eq!(avg_pool(&[1.0, 10.0, 3.0, 30.0, 5.0, 50.0, 7.0, 70.0], 2, 2, 2), [4.0, 40.0]);
        assert_eq!(round_bf16(&[1.0, 1.003_906_3]), [1.0, 1.0]);
    }
}
