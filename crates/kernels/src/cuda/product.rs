//! Products: which kernel takes which.

use super::driver::{Param, Shape, param};
use super::lt::Product;
use super::matrix::{CudaMatrix, CudaVector, Kind};
use super::weight::{CudaWeight, Layout, Part};
use super::{CudaBackend, Scratch, done, lock, record};

/// Most rows for which a product is bound by reading the weights.
pub(super) const FEW: usize = 64;
/// Outputs as wide as a vocabulary are logits: they are f32 however many rows there are.
const LOGITS: usize = 65_536;
/// Bytes of bf16 that quantized weights become at once.
const STRIP: usize = 512 << 20;
/// Rows of x that a warp of `product_few` meets at once.
const AT_ONCE: usize = 8;

/// Bytes of shared memory that a kernel of mm.cu takes.
pub(super) fn shared(kernel: &str) -> usize {
    if kernel.ends_with("_1") { 102_400 } else { 204_800 }
}

/// What is done with each output (`Finish` in product.cuh).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Finish {
    /// Null without.
    bias: u64,
    gelu: i32,
    /// Of the output.
    kind: i32,
    /// The column that the part's first row goes to.
    first: i32,
    stride: i32,
}
// SAFETY: as `Finish` in product.cuh.
unsafe impl Param for Finish {}

impl CudaBackend {
    /// How an operation writes what a product will read.
    pub(super) fn operand_kind(&self) -> Kind {
        if self.exact { Kind::F32 } else { Kind::BF16 }
    }

    /// How a product's output is held: many rows are bound by arithmetic and then by moving them.
    fn output_kind(&self, rows: usize, n: usize) -> Kind {
        if self.exact || rows <= FEW || n >= LOGITS { Kind::F32 } else { Kind::BF16 }
    }

    /// `out = x · wᵀ`, with a bias and GELU.
    pub(super) fn product(
        &self,
        x: &CudaMatrix,
        w: &CudaWeight,
        bias: Option<&CudaVector>,
        gelu: bool,
        out: &mut CudaMatrix,
    ) {
        assert_eq!((x.cols(), out.cols()), (w.k, w.n), "matmul: shapes differ");
        assert!(bias.is_none_or(|bias| bias.len == w.n), "matmul: bias");
        let kind = self.output_kind(x.rows(), w.n);
        out.set(x.rows(), kind);
        for part in &w.parts {
            let finish = Finish {
                bias: bias.map_or(0, |bias| bias.buffer.at() + (part.first * 4) as u64),
                gelu: i32::from(gelu),
                kind: kind as i32,
                first: part.first as i32,
                stride: w.n as i32,
            };
            if x.rows() <= FEW {
                self.small_product(x, part, finish, out);
            } else {
                let bias = bias.map(|bias| bias.rounded.at() + (part.first * 2) as u64);
                self.large_product(x, part, bias, finish, out);
            }
        }
    }

    /// `sum += x · wᵀ + bias` of many rows by cuBLASLt; false where it isn't there or can't.
    pub(super) fn product_onto(&self, x: &CudaMatrix, w: &CudaWeight, bias: &CudaVector, sum: &CudaMatrix) -> bool {
        let [part] = &w.parts[..] else { return false };
        assert_eq!((x.cols(), sum.cols(), bias.len), (w.k, w.n, w.n), "matmul_bias_add: shapes differ");
        assert_eq!(x.rows(), sum.rows(), "matmul_bias_add: rows differ");
        // A quantized weight is multiplied in strips, and all of them can or none.
        if x.rows() <= FEW || sum.kind() != Kind::F32 || part.bf16().is_none() || record::playing() {
            return false;
        }
        let finish = Finish { bias: 0, gelu: 0, kind: Kind::F32 as i32, first: 0, stride: w.n as i32 };
        self.lt_product(x, part, Some(bias.buffer.at()), finish, true, sum)
    }

    /// A product of few rows, bound by reading the weights once.
    fn small_product(&self, x: &CudaMatrix, w: &Part, finish: Finish, out: &CudaMatrix) {
        if x.rows() == 0 {
            return;
        }
        if finish.bias == 0 && finish.gelu == 0 {
            // The kernels write rows that follow one another.
            let alone = w.n == finish.stride as usize || x.rows() == 1;
            let form = if finish.kind == Kind::BF16 as i32 { "bf16" } else { "f32" };
            let to = out.at() + (finish.first * if form == "bf16" { 2 } else { 4 }) as u64;
            if alone && self.fast_product(form, x, w, to) {
                return;
            }
        }
        let shape = Shape::new((w.n.div_ceil(8), x.rows().div_ceil(AT_ONCE)), 256);
        self.plain_product("product_few", shape, x, w, finish, out);
    }

    /// Products of few rows by the kernels of many90.cu and mm.cu; false where they don't take the weight. `form` is how outputs are
    /// finished.
    pub(super) fn fast_product(&self, form: &str, x: &CudaMatrix, w: &Part, to: u64) -> bool {
        if self.many_product(form, x, w, 1, to) {
            return true;
        }
        let layout = match w.layout {
            Layout::BF16 => "bf16",
            Layout::Q4 => "q4",
            Layout::Q4Min => "q4m",
            Layout::Q8 => "q8",
            Layout::Q8Half => "q8h",
            Layout::F8 => "f8",
            Layout::F32 | Layout::Q8Min | Layout::Q8HalfMin => return false,
        };
        // Tiles of eight rows of x.
        let tiles = match x.rows() {
            ..=8 => 1,
            9..=16 => 2,
            _ => 4,
        };
        let kernel = format!("mm_{layout}_{form}_{tiles}");
        let gated = form == "geglu";
        let whole = w.k.is_multiple_of(64) && (!gated || w.n.is_multiple_of(32));
        if x.kind() != Kind::BF16 || !whole || !self.kernels.has(&kernel) {
            return false;
        }
        let steps = w.n.div_ceil(if tiles == 1 && !gated { 16 } else { 32 });
        let at_once = self.device.processors() * if tiles == 1 { 2 } else { 1 };
        let blocks = steps.div_ceil(steps.div_ceil(at_once));
        let shape = Shape::new((blocks, x.rows().div_ceil(8 * tiles)), 256).shared(shared(&kernel));
        let view = w.view();
        let (at, m) = (x.at(), x.rows() as i32);
        let mut params = [
            param(&view.data),
            param(&view.scales),
            param(&view.mins),
            param(&at),
            param(&to),
            param(&m),
            param(&view.n),
            param(&view.k),
        ];
        // SAFETY: the parameters are the kernel's; the caller checked the shapes.
        unsafe { self.launch(&kernel, shape, &mut params) };
        true
    }

    /// `out = geglu(x · wᵀ)` by one kernel; false where none takes the shapes.
    pub(super) fn gated_product(&self, x: &CudaMatrix, w: &CudaWeight, out: &mut CudaMatrix) -> bool {
        let [part] = &w.parts[..] else { return false };
        assert_eq!((x.cols(), 2 * out.cols()), (w.k, w.n), "matmul_geglu: shapes differ");
        if x.rows() == 0 || x.rows() > FEW || !self.fast_product("geglu", x, part, out.at()) {
            return false;
        }
        out.set(x.rows(), Kind::BF16);
        true
    }

    /// A product of many rows, bound by arithmetic: by cuBLASLt where it can.
    fn large_product(&self, x: &CudaMatrix, w: &Part, bias: Option<u64>, finish: Finish, out: &CudaMatrix) {
        if !record::playing() && self.lt_product(x, w, bias, finish, false, out) {
            return;
        }
        let shape = Shape::new((w.n.div_ceil(64), x.rows().div_ceil(64)), 256);
        self.plain_product("product_many", shape, x, w, finish, out);
    }

    /// False where cuBLASLt isn't there or can't; then another kernel makes all of the output. With `onto` it is added to what
    /// stands there.
    fn lt_product(
        &self,
        x: &CudaMatrix,
        w: &Part,
        bias: Option<u64>,
        finish: Finish,
        onto: bool,
        out: &CudaMatrix,
    ) -> bool {
        let Some(lt) = &self.lt else { return false };
        let bf16 = finish.kind == Kind::BF16 as i32;
        let dense = w.bf16();
        // Its biases are of the output's type: theirs of f32 are given with `onto` alone.
        let apart = (bias.is_some() || finish.gelu != 0) && !bf16 && !onto;
        if self.exact || w.layout == Layout::F32 || apart {
            return false;
        }
        let operand = (x.kind() == Kind::F32).then(|| self.scratch(Scratch::Operand, x.len() * 2));
        let from = match operand.as_ref().and_then(|buffer| buffer.as_ref()) {
            Some(buffer) => {
                self.convert(x, buffer.at(), Kind::BF16);
                buffer.at()
            }
            None => x.at(),
        };
        let strip = if dense.is_some() { w.n } else { (STRIP / (2 * w.k)).next_multiple_of(16).min(w.n) };
        let weights = dense.is_none().then(|| self.scratch(Scratch::Weights, strip * w.k * 2));
        for first in (0..w.n).step_by(strip) {
            let n = strip.min(w.n - first);
            let at = match (dense, weights.as_ref().and_then(|buffer| buffer.as_ref())) {
                (Some(at), _) => at,
                (None, Some(buffer)) => {
                    self.dequantize(w, first, n, buffer.at());
                    buffer.at()
                }
                (None, None) => return false,
            };
            let shape = Product {
                m: x.rows(),
                n,
                k: w.k,
                stride: finish.stride as usize,
                bf16,
                bias: bias.is_some(),
                gelu: finish.gelu != 0,
                onto,
            };
            let kind = if bf16 { Kind::BF16 } else { Kind::F32 };
            let to = out.at() + ((finish.first as usize + first) * kind.bytes()) as u64;
            let bias = bias.map_or(0, |bias| bias + (first * 2) as u64);
            if !done(lock(lt).product(shape, from, at, bias, to)) {
                return false;
            }
        }
        true
    }

    /// Writes rows of a quantized weight as bf16.
    fn dequantize(&self, w: &Part, first: usize, rows: usize, to: u64) {
        let shape = Shape::new(((rows * w.k / 8).div_ceil(256).clamp(1, 1 << 16), 1), 256);
        let (view, first, rows) = (w.view(), first as i32, rows as i32);
        let mut params = [param(&view), param(&first), param(&rows), param(&to)];
        // SAFETY: the parameters are the kernel's; the rows are the part's, and there is room for them.
        unsafe { self.launch("dequantize", shape, &mut params) };
    }

    fn plain_product(&self, kernel: &str, shape: Shape, x: &CudaMatrix, w: &Part, finish: Finish, out: &CudaMatrix) {
        let (at, kind, view, to, rows) = (x.at(), x.kind() as i32, w.view(), out.at(), x.rows() as i32);
        let mut params = [param(&at), param(&kind), param(&view), param(&to), param(&finish), param(&rows)];
        // SAFETY: the parameters are those of both kernels; the caller checked the shapes.
        unsafe { self.launch(kernel, shape, &mut params) };
    }
}
