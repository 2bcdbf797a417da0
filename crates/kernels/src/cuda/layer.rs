//! What follows attention in a layer, in one kernel.

use super::attention::{SHARED, decode_shared};
use super::driver::{Param, Shape, param};
use super::matrix::{CudaMatrix, Kind};
use super::weight::{CudaWeight, Layout, Part};
use super::{CudaBackend, Scratch};
use crate::backend::Behind;

/// Most rows of a step, and columns of the residual stream, that it takes.
pub(super) const ROWS: usize = 8;
const WIDEST: usize = 6144;
/// Threads of a block: sixteen warps that multiply and one that copies.
const THREADS: usize = 17 * 32;
/// Addends of down.
const QUARTERS: usize = 4;
/// Bytes of sums that wait to be joined and of barriers, of a stage of a ring, and between rows of x.
const SUMS: usize = 17_536;
const STAGE: usize = 23_040;
const PAD: usize = 64;
/// Bytes of shared memory that each block takes besides what it asks for.
const FIXED: usize = 1 << 10;
/// Most stages of a ring.
const STAGES: usize = 32;

/// As `Product` in layer90.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Product {
    data: u64,
    scales: u64,
    n: i32,
    k: i32,
}

impl Product {
    fn new(part: &Part) -> Self {
        let view = part.view();
        Self { data: view.data, scales: view.scales, n: view.n, k: view.k }
    }
}

/// As `Layer` in layer90.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Layer {
    products: [Product; 4],
    norms: [u64; 4],
    attention: u64,
    x: u64,
    quarters: u64,
    normed: u64,
    activated: u64,
    out: u64,
    arrived: u64,
    eps: f32,
    rows: i32,
    stages: i32,
}
// SAFETY: as `Layer` in layer90.cu.
unsafe impl Param for Layer {}

/// The one part of a weight, if the kernel takes it.
fn whole(weight: &CudaWeight) -> Option<&Part> {
    match &weight.parts[..] {
        [part] if part.layout == Layout::Q4 => Some(part),
        _ => None,
    }
}

/// Stages of each of a block's two rings, and its bytes of shared memory; `room` is what it needs besides. It leaves room for
/// attention beside it, of 256 or 128 elements a head, where it can have two stages then.
fn rings(room: usize) -> Option<(usize, usize)> {
    let fits = |least: usize, beside: usize| {
        let all = SHARED.checked_sub(room + FIXED + beside)?;
        let stages = (all / (2 * STAGE)).min(STAGES);
        (stages >= least).then(|| (stages, 2 * stages * STAGE + room))
    };
    fits(2, decode_shared(256, 2, 2) + 1024).or_else(|| fits(2, decode_shared(128, 2, 2) + 1024)).or_else(|| fits(1, 0))
}

impl CudaBackend {
    /// False, and nothing is done, where the kernel doesn't take the shapes.
    pub(super) fn layer(
        &self,
        behind: &Behind<'_, Self>,
        attention: &CudaMatrix,
        x: &mut CudaMatrix,
        normed: &mut CudaMatrix,
        activated: &mut CudaMatrix,
        qkv: &mut CudaMatrix,
    ) -> bool {
        let rows = attention.rows();
        let kernel = "layer90";
        let kinds = [attention.kind(), x.kind()] == [Kind::BF16, Kind::F32];
        if !kinds || !(1..=ROWS).contains(&rows) || !self.kernels.has(kernel) || self.exact {
            return false;
        }
        let parts = (whole(behind.attn_output), whole(behind.gate_up), whole(behind.down));
        let (Some(output), Some(gate_up), Some(down)) = parts else { return false };
        let next = match behind.next {
            None => None,
            Some((norm, weight)) => match whole(weight) {
                None => return false,
                Some(part) => Some((norm, part)),
            },
        };
        let (h, f) = (output.n, down.k);
        let tiled = h.is_multiple_of(64)
            && output.k.is_multiple_of(64)
            && gate_up.n.is_multiple_of(32)
            && down.k.is_multiple_of(64 * QUARTERS)
            && next.is_none_or(|(_, qkv)| qkv.n.is_multiple_of(16));
        let grid = self.device.processors() / QUARTERS * QUARTERS;
        let widest = h.max(output.k).max(f / QUARTERS);
        let room = SUMS + 8 * h + rows * (2 * widest + PAD);
        let Some((stages, shared)) = rings(room).filter(|_| tiled && h <= WIDEST && grid > 0) else {
            return false;
        };
        assert_eq!((attention.cols(), x.rows(), x.cols()), (output.k, rows, h), "behind_attention: attention or x");
        assert_eq!((gate_up.n, gate_up.k, down.n), (2 * f, h, h), "behind_attention: gate, up or down");
        assert_eq!((normed.cols(), activated.cols()), (h, f), "behind_attention: room");
        let norms = [behind.post_attention_norm, behind.ffn_norm, behind.post_ffw_norm];
        assert!(norms.iter().all(|norm| norm.len == h), "behind_attention: norms");
        assert!(next.is_none_or(|(norm, w)| (norm.len, w.n, w.k) == (h, qkv.cols(), h)), "behind_attention: qkv");
        normed.set(rows, Kind::BF16);
        activated.set(rows, Kind::BF16);
        if next.is_some() {
            qkv.set(rows, Kind::F32);
        }
        let quarters = self.scratch(Scratch::Quarters, QUARTERS * ROWS * h * 4);
        let arrived = self.scratch(Scratch::Meeting, 256);
        let [Some(quarters), Some(arrived)] = [&*quarters, &*arrived].map(Option::as_ref) else { return false };
        let nothing = Product { data: 0, scales: 0, n: 0, k: 0 };
        let [post_attention, ffn, post_ffw] = norms.map(|norm| norm.buffer.at());
        let layer = Layer {
            products: [
                Product::new(output),
                Product::new(gate_up),
                Product::new(down),
                next.map_or(nothing, |(_, part)| Product::new(part)),
            ],
            norms: [post_attention, ffn, post_ffw, next.map_or(0, |(norm, _)| norm.buffer.at())],
            attention: attention.at(),
            x: x.at(),
            quarters: quarters.at(),
            normed: normed.at(),
            activated: activated.at(),
            out: qkv.at(),
            arrived: arrived.at(),
            eps: behind.eps,
            rows: rows as i32,
            stages: stages as i32,
        };
        // SAFETY: the parameter is the kernel's, of the shapes that were checked; a block for each multiprocessor fits on the
        // card at once, as the kernel needs, since everything before it on the stream ends without it.
        unsafe { self.launch(kernel, Shape::new((grid, 1), THREADS).shared(shared), &mut [param(&layer)]) };
        true
    }
}
