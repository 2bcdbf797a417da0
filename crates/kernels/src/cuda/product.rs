//! Products: which kernel takes which.

use super::CudaBackend;
use super::driver::{Param, Shape, param};
use super::matrix::{CudaMatrix, CudaVector, Kind};
use super::weight::{CudaWeight, Part};

/// Most rows for which a product is bound by reading the weights.
pub(super) const FEW: usize = 64;
/// Outputs as wide as a vocabulary are logits: they are f32 however many rows there are.
const LOGITS: usize = 65_536;
/// Rows of x that a warp of `product_few` meets at once.
const AT_ONCE: usize = 8;

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
                self.large_product(x, part, finish, out);
            }
        }
    }

    /// A product of few rows, bound by reading the weights once.
    fn small_product(&self, x: &CudaMatrix, w: &Part, finish: Finish, out: &CudaMatrix) {
        if x.rows() == 0 {
            return;
        }
        let shape = Shape::new((w.n.div_ceil(8), x.rows().div_ceil(AT_ONCE)), 256);
        self.plain_product("product_few", shape, x, w, finish, out);
    }

    /// A product of many rows, bound by arithmetic.
    fn large_product(&self, x: &CudaMatrix, w: &Part, finish: Finish, out: &CudaMatrix) {
        let shape = Shape::new((w.n.div_ceil(64), x.rows().div_ceil(64)), 256);
        self.plain_product("product_many", shape, x, w, finish, out);
    }

    fn plain_product(&self, kernel: &str, shape: Shape, x: &CudaMatrix, w: &Part, finish: Finish, out: &CudaMatrix) {
        let (at, kind, view, to, rows) = (x.at(), x.kind() as i32, w.view(), out.at(), x.rows() as i32);
        let mut params = [param(&at), param(&kind), param(&view), param(&to), param(&finish), param(&rows)];
        // SAFETY: the parameters are those of both kernels; the caller checked the shapes.
        unsafe { self.launch(kernel, shape, &mut params) };
    }
}
