//! Products of many rows by cuBLASLt, where the library is there.

use super::driver::{Buffer, Device};
use crate::Error;
use cudarc::cublaslt::{result, sys};
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

/// Scratch memory that its kernels may use.
const WORKSPACE: usize = 64 << 20;

/// The library, and how it computes each shape.
#[derive(Debug)]
pub(super) struct Lt {
    handle: sys::cublasLtHandle_t,
    workspace: Buffer,
    plans: HashMap<Product, Option<Plan>>,
    device: Arc<Device>,
}

// SAFETY: the handle and what is made with it may be used from any thread, by one at a time.
unsafe impl Send for Lt {}

/// The shape of a product `out [m, n] = x [m, k] · w [n, k]ᵀ`, operands in bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Product {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    /// Elements from a row of the output to the next.
    pub(super) stride: usize,
    /// The output is bf16, else f32.
    pub(super) bf16: bool,
    /// A bias, in bf16, is added; the output is bf16.
    pub(super) bias: bool,
    /// GELU follows the bias.
    pub(super) gelu: bool,
    /// Whether it is added to what stands in the output.
    pub(super) onto: bool,
}

#[derive(Debug)]
struct Plan {
    operation: sys::cublasLtMatmulDesc_t,
    w: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: made in `Plan::new`, not used again.
        unsafe {
            for layout in [self.w, self.x, self.out] {
                let _ = result::destroy_matrix_layout(layout);
            }
            let _ = result::destroy_matmul_desc(self.operation);
        }
    }
}

impl Plan {
    /// Asks the library how to compute a shape; none when it can't.
    fn new(handle: sys::cublasLtHandle_t, shape: &Product) -> Result<Self, result::CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as A;
        use sys::cudaDataType_t as T;
        let out = if shape.bf16 { T::CUDA_R_16BF } else { T::CUDA_R_32F };
        let (m, n, k) = (shape.m as u64, shape.n as u64, shape.k as u64);
        // The library's matrices are column-major: ours, transposed.
        let mut plan = Self {
            operation: result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, T::CUDA_R_32F)?,
            w: result::create_matrix_layout(T::CUDA_R_16BF, k, n, shape.k as i64)?,
            x: result::create_matrix_layout(T::CUDA_R_16BF, k, m, shape.k as i64)?,
            out: result::create_matrix_layout(out, n, m, shape.stride as i64)?,
            // SAFETY: plain numbers; filled below.
            algorithm: unsafe { std::mem::zeroed() },
        };
        let epilogue = match (shape.bias, shape.gelu) {
            (false, false) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
            (false, true) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU,
            (true, false) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            (true, true) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_BIAS,
        };
        // CUBLAS_OP_T.
        let transposed = 1i32;
        let preference = result::create_matmul_pref()?;
        // SAFETY: attributes are given as the types they have; the workspace is as large as is said.
        let found = unsafe {
            let set = |which, value: *const c_void, size| {
                result::set_matmul_desc_attribute(plan.operation, which, value, size)
            };
            set(A::CUBLASLT_MATMUL_DESC_TRANSA, ptr::from_ref(&transposed).cast(), size_of_val(&transposed))
                .and_then(|()| {
                    set(A::CUBLASLT_MATMUL_DESC_EPILOGUE, ptr::from_ref(&epilogue).cast(), size_of_val(&epilogue))
                })
                .and_then(|()| {
                    result::set_matmul_pref_attribute(
                        preference,
                        sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                        ptr::from_ref(&WORKSPACE).cast(),
                        size_of::<usize>(),
                    )
                })
                .and_then(|()| {
                    let (w, x, out) = (plan.w, plan.x, plan.out);
                    result::get_matmul_algo_heuristic(handle, plan.operation, w, x, out, out, preference)
                })
        };
        // SAFETY: made above, not used again.
        unsafe {
            let _ = result::destroy_matmul_pref(preference);
        }
        plan.algorithm = found?.algo;
        Ok(plan)
    }
}

impl Lt {
    /// The library; `None` where it isn't found or can't be used.
    pub(super) fn new(device: &Arc<Device>) -> Result<Option<Self>, Error> {
        // SAFETY: only looks for the library.
        if !unsafe { sys::is_culib_present() } {
            return Ok(None);
        }
        device.enter()?;
        let Ok(handle) = result::create_handle() else { return Ok(None) };
        let workspace = match Buffer::new(device, WORKSPACE) {
            Ok(workspace) => workspace,
            Err(error) => {
                // SAFETY: made above, not used again.
                unsafe {
                    let _ = result::destroy_handle(handle);
                }
                return Err(error);
            }
        };
        Ok(Some(Self { handle, workspace, plans: HashMap::new(), device: Arc::clone(device) }))
    }

    /// Computes a product of matrices at these addresses; false when the library can't.
    pub(super) fn product(&mut self, shape: Product, x: u64, w: u64, bias: u64, out: u64) -> Result<bool, Error> {
        self.device.enter()?;
        let plan = self.plans.entry(shape).or_insert_with(|| Plan::new(self.handle, &shape).ok());
        let Some(plan) = plan else { return Ok(false) };
        let failed = |error: result::CublasError| Error::Device { call: "cublasLtMatmul", problem: format!("{error}") };
        let (one, kept) = (1f32, if shape.onto { 1f32 } else { 0f32 });
        // SAFETY: the addresses are those of matrices of the shape; the stream is this device's, on which all that
        // follows waits. The driver's stream and the runtime's are the same pointer.
        unsafe {
            if shape.bias {
                let which = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
                let value = ptr::from_ref(&bias).cast();
                result::set_matmul_desc_attribute(plan.operation, which, value, size_of::<u64>()).map_err(failed)?;
            }
            result::matmul(
                self.handle,
                plan.operation,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&kept).cast(),
                w as *const c_void,
                plan.w,
                x as *const c_void,
                plan.x,
                out as *const c_void,
                plan.out,
                out as *mut c_void,
                plan.out,
                &plan.algorithm,
                self.workspace.at() as *mut c_void,
                WORKSPACE,
                self.device.stream().cast(),
            )
            .map_err(failed)?;
        }
        Ok(true)
    }
}

impl Drop for Lt {
    fn drop(&mut self) {
        self.plans.clear();
        if self.device.wait().is_ok() {
            // SAFETY: not used again.
            unsafe {
                let _ = result::destroy_handle(self.handle);
            }
        }
    }
}
