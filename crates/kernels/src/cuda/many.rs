//! Products of a step by many90.cu: what it takes, and how k is shared.

use super::driver::{Shape, param};
use super::matrix::{CudaMatrix, Kind};
use super::product::FEW;
use super::weight::{CudaWeight, Layout, Part};
use super::{CudaBackend, Scratch};

/// Warps of a block, chunks of 64 k of x that each holds, and all of them.
const WARPS: usize = 8;
const EACH: usize = 5;
const HELD: usize = WARPS * EACH;
/// Most parts of k whose sums stay apart (`residual_norm` adds them).
const PARTS: usize = 4;
/// Fewer rows of 4-bit weights, and smaller weights (bf16, quantized), are multiplied faster by other kernels.
const FOUR_BITS: usize = 9;
const SMALLEST: [usize; 2] = [1 << 23, 1 << 24];

/// Bytes of shared memory that a kernel of many90.cu takes: for each warp its ring, and twice its sums.
pub(super) fn shared(kernel: &str) -> usize {
    // Bytes of a chunk, and tiles of EACH of them.
    let (chunk, depth) = match kernel {
        _ if kernel.contains("bf16") => (2048, 2),
        _ if kernel.contains("q8") => (1280, 3),
        _ if kernel.contains("f8") => (1024, 4),
        _ => (768, 4),
    };
    let tiles = kernel.rsplit('_').next().and_then(|tiles| tiles.parse().ok()).unwrap_or(4);
    WARPS * (depth * EACH * chunk + 2 * tiles * 512)
}

/// Rounds in which `units` of work are done by `at_once` blocks.
fn rounds(units: usize, at_once: usize) -> usize {
    units.div_ceil(at_once.max(1))
}

/// Tiles of eight rows of x that a block takes.
fn tiles(rows: usize) -> usize {
    match rows {
        ..=8 => 1,
        9..=16 => 2,
        _ => 4,
    }
}

impl CudaBackend {
    /// Into how many parts k is best cut where their sums may stay apart: so that all multiprocessors have as much to do.
    fn parts(&self, w: &Part) -> usize {
        let work = |parts: usize| {
            // Summing a tile over the warps takes as long as some chunks of it, and so does each part for the one who adds them.
            let chunks = (w.k / 64).div_ceil(parts) + 6;
            rounds(w.n / 16, self.device.processors() / parts) * chunks + 2 * parts
        };
        (1..=PARTS).min_by_key(|parts| work(*parts)).unwrap_or(1)
    }

    /// `x · wᵀ` as the sum of so many matrices, one after another in [`Scratch::Quarters`]; none where many90.cu isn't for it.
    pub(super) fn product_in_parts(&self, x: &CudaMatrix, w: &CudaWeight) -> Option<usize> {
        let [part] = &w.parts[..] else { return None };
        let parts = self.parts(part);
        self.many_kernel("f32", x, part, parts)?;
        let sums = self.scratch(Scratch::Quarters, parts * x.rows() * w.n * 4);
        let to = sums.as_ref()?.at();
        drop(sums);
        self.many_product("f32", x, part, parts, to).then_some(parts)
    }

    /// The kernel for a product of these rows and so many parts of k, if there is one; `form` is how outputs are finished.
    fn many_kernel(&self, form: &str, x: &CudaMatrix, w: &Part, parts: usize) -> Option<String> {
        // Expanding quantized weights leaves no time for passes and for warps without work.
        let evenly = w.k == parts * HELD * 64;
        let (layout, better) = match w.layout {
            Layout::BF16 => ("bf16", w.n * w.k >= SMALLEST[0]),
            Layout::Q4 => ("q4", evenly && x.rows() >= FOUR_BITS && w.n * w.k >= SMALLEST[1]),
            Layout::Q8 => ("q8", evenly && w.n * w.k >= SMALLEST[1]),
            Layout::F8 => ("f8", evenly && w.n * w.k >= SMALLEST[1]),
            _ => return None,
        };
        let whole = w.k.is_multiple_of(64) && w.n.is_multiple_of(if form == "geglu" { 32 } else { 16 });
        let takes = better && whole && (1..=FEW).contains(&x.rows()) && x.kind() == Kind::BF16 && !self.exact;
        let kernel = format!("many90_{layout}_{form}_{}", tiles(x.rows()));
        (takes && self.kernels.has(&kernel)).then_some(kernel)
    }

    /// False where many90.cu has no kernel for it, or another is better.
    pub(super) fn many_product(&self, form: &str, x: &CudaMatrix, w: &Part, parts: usize, to: u64) -> bool {
        let Some(kernel) = self.many_kernel(form, x, w, parts) else { return false };
        let units = w.n / if form == "geglu" { 32 } else { 16 };
        let at_once = (self.device.processors() / parts).max(1);
        let blocks = units.div_ceil(rounds(units, at_once));
        let shape = Shape::new((blocks, x.rows().div_ceil(8 * tiles(x.rows()))), WARPS * 32)
            .deep(parts)
            .shared(shared(&kernel));
        // Sums of gate and up wait here between passes over k.
        let waiting = (form == "geglu" && w.k > HELD * 64).then(|| self.scratch(Scratch::Passes, x.rows() * w.n * 4));
        let room = waiting.as_ref().and_then(|buffer| buffer.as_ref()).map_or(0, |buffer| buffer.at());
        let view = w.view();
        let (at, m) = (x.at(), x.rows() as i32);
        let mut params = [
            param(&view.data),
            param(&view.scales),
            param(&at),
            param(&to),
            param(&room),
            param(&m),
            param(&view.n),
            param(&view.k),
        ];
        // SAFETY: the parameters are the kernel's; the caller checked the shapes and has room for all parts.
        unsafe { self.launch(&kernel, shape, &mut params) };
        true
    }
}
