//! Operations on rows that stand by themselves: norms, activations, tables.

/// `gelu` in its tanh form, `0.5 · x · (1 + tanh(u))`, written as `x / (1 + exp(-2u))`, which doesn't cancel.
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    let u = 0.797_884_6 * (x + 0.044715 * x * x * x);
    x / (1.0 + (-2.0 * u).exp())
}

/// `out = x · inverse root mean square · w`.
pub(crate) fn rms_norm(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
    let inverse = inverse_rms(x, eps);
    for ((out, &x), &w) in out.iter_mut().zip(x).zip(w) {
        *out = x * inverse * w;
    }
}

/// `x += rms_norm(y)`.
pub(crate) fn add_rms_norm(y: &[f32], w: &[f32], eps: f32, x: &mut [f32]) {
    let inverse = inverse_rms(y, eps);
    for ((x, &y), &w) in x.iter_mut().zip(y).zip(w) {
        *x += y * inverse * w;
    }
}

/// `1 / √(mean(x²) + eps)`.
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let squares: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    (1.0 / (squares / x.len() as f64 + f64::from(eps)).sqrt()) as f32
}

/// `out = (x - mean) / √(var + eps) · w + b`.
pub(crate) fn layer_norm(x: &[f32], w: &[f32], b: &[f32], eps: f32, out: &mut [f32]) {
    let len = x.len() as f64;
    let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / len;
    let var = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / len;
    let inverse = (1.0 / (var + f64::from(eps)).sqrt()) as f32;
    let mean = mean as f32;
    for (i, out) in out.iter_mut().enumerate() {
        *out = (x[i] - mean) * inverse * w[i] + b[i];
    }
}

/// `out = gelu_tanh(gate) · up`; `gate_up` holds the gates, then as many ups.
pub(crate) fn geglu(gate_up: &[f32], out: &mut [f32]) {
    let (gate, up) = gate_up.split_at(out.len());
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = gelu_tanh(gate) * up;
    }
}

/// One row of the table of cosines and sines.
pub(crate) fn rope_row(inv_freq: &[f32], position: u32, out: &mut [f32]) {
    let (cos, sin) = out.split_at_mut(inv_freq.len());
    for (i, &f) in inv_freq.iter().enumerate() {
        // The reference multiplies in f32; the functions of that f32 angle are then taken exactly.
        let (s, c) = f64::from(position as f32 * f).sin_cos();
        cos[i] = c as f32;
        sin[i] = s as f32;
    }
}

/// Rotates the pairs (`i`, `i + len/2`) of a head by a row of the table.
pub(crate) fn rotate(head: &mut [f32], table: &[f32]) {
    let (low, high) = head.split_at_mut(table.len() / 2);
    let (cos, sin) = table.split_at(low.len());
    for i in 0..low.len() {
        let (a, b) = (low[i], high[i]);
        low[i] = a * cos[i] - b * sin[i];
        high[i] = b * cos[i] + a * sin[i];
    }
}
