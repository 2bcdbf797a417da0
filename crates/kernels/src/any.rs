//! A backend that is chosen at run time.

use crate::backend::{Backend, Behind, CacheSpec, Greedy, Part, Step, WeightFormat};
use crate::{CpuBackend, CudaBackend, Error};
use medgemma_formats::Tensor;

/// What belongs to the processor, or to a card.
#[derive(Debug)]
pub enum Either<C, G> {
    /// Of [`CpuBackend`].
    Cpu(C),
    /// Of [`CudaBackend`].
    Cuda(G),
}

/// Why two things that don't belong together never meet: a backend is given only what it made.
const STRANGE: &str = "made by another backend";

impl<C, G> Either<C, G> {
    fn cpu(&self) -> &C {
        match self {
            Self::Cpu(inner) => inner,
            Self::Cuda(_) => panic!("{STRANGE}"),
        }
    }

    fn cpu_mut(&mut self) -> &mut C {
        match self {
            Self::Cpu(inner) => inner,
            Self::Cuda(_) => panic!("{STRANGE}"),
        }
    }

    fn cuda(&self) -> &G {
        match self {
            Self::Cuda(inner) => inner,
            Self::Cpu(_) => panic!("{STRANGE}"),
        }
    }

    fn cuda_mut(&mut self) -> &mut G {
        match self {
            Self::Cuda(inner) => inner,
            Self::Cpu(_) => panic!("{STRANGE}"),
        }
    }
}

/// What was recorded; nothing before there is something.
#[derive(Debug, Default)]
pub struct AnyRecordings(<CudaBackend as Backend>::Recordings);

/// The processor or a card.
pub type AnyBackend = Either<CpuBackend, CudaBackend>;

/// Calls an operation of whichever backend this is. What is behind `&` or `&mut` in brackets is the backend's.
macro_rules! call {
    ($self:ident.$op:ident($($args:tt)*)) => {
        match $self {
            Self::Cpu(b) => call!(@ b $op cpu cpu_mut [] $($args)*),
            Self::Cuda(b) => call!(@ b $op cuda cuda_mut [] $($args)*),
        }
    };
    (@ $b:ident $op:ident $get:ident $get_mut:ident [$($done:tt)*]) => { $b.$op($($done)*) };
    (@ $b:ident $op:ident $get:ident $get_mut:ident [$($done:tt)*] [&mut $arg:ident] $(, $($rest:tt)*)?) => {
        call!(@ $b $op $get $get_mut [$($done)* $arg.$get_mut(),] $($($rest)*)?)
    };
    (@ $b:ident $op:ident $get:ident $get_mut:ident [$($done:tt)*] [& $arg:ident] $(, $($rest:tt)*)?) => {
        call!(@ $b $op $get $get_mut [$($done)* $arg.$get(),] $($($rest)*)?)
    };
    (@ $b:ident $op:ident $get:ident $get_mut:ident [$($done:tt)*] $arg:ident $(, $($rest:tt)*)?) => {
        call!(@ $b $op $get $get_mut [$($done)* $arg,] $($($rest)*)?)
    };
}

/// As [`call`], for what makes something.
macro_rules! make {
    ($self:ident.$op:ident($($args:ident),*)) => {
        match $self {
            Self::Cpu(b) => b.$op($($args),*).map(Either::Cpu),
            Self::Cuda(b) => b.$op($($args),*).map(Either::Cuda),
        }
    };
}

/// Operations, each passed on: parameters in brackets are the backend's own.
macro_rules! pass {
    ($(fn $op:ident($($args:tt)*);)*) => { $(pass!(@ $op [] [] $($args)*);)* };
    (@ $op:ident [$($params:tt)*] [$($args:tt)*]) => {
        fn $op(&self, $($params)*) {
            call!(self.$op($($args)*))
        }
    };
    (@ $op:ident [$($params:tt)*] [$($args:tt)*] [&mut $arg:ident: $kind:ident] $(, $($rest:tt)*)?) => {
        pass!(@ $op [$($params)* $arg: &mut Self::$kind,] [$($args)* [&mut $arg],] $($($rest)*)?);
    };
    (@ $op:ident [$($params:tt)*] [$($args:tt)*] [$arg:ident: $kind:ident] $(, $($rest:tt)*)?) => {
        pass!(@ $op [$($params)* $arg: &Self::$kind,] [$($args)* [& $arg],] $($($rest)*)?);
    };
    (@ $op:ident [$($params:tt)*] [$($args:tt)*] $arg:ident: $kind:ty $(, $($rest:tt)*)?) => {
        pass!(@ $op [$($params)* $arg: $kind,] [$($args)* $arg,] $($($rest)*)?);
    };
}

impl Backend for AnyBackend {
    type Error = Error;
    type Matrix = Either<<CpuBackend as Backend>::Matrix, <CudaBackend as Backend>::Matrix>;
    type Weight = Either<<CpuBackend as Backend>::Weight, <CudaBackend as Backend>::Weight>;
    type Vector = Either<<CpuBackend as Backend>::Vector, <CudaBackend as Backend>::Vector>;
    type Cache = Either<<CpuBackend as Backend>::Cache, <CudaBackend as Backend>::Cache>;
    type Staged = Either<<CpuBackend as Backend>::Staged, <CudaBackend as Backend>::Staged>;
    type Recordings = AnyRecordings;

    fn name(&self) -> String {
        call!(self.name())
    }

    fn weight(&self, tensors: &[&Tensor], format: WeightFormat) -> Result<Self::Weight, Error> {
        make!(self.weight(tensors, format))
    }

    fn weight_f32(&self, values: &[f32], n: usize, k: usize, format: WeightFormat) -> Result<Self::Weight, Error> {
        make!(self.weight_f32(values, n, k, format))
    }

    fn weight_bytes(&self, weight: &Self::Weight) -> usize {
        call!(self.weight_bytes([&weight]))
    }

    fn vector(&self, values: &[f32]) -> Result<Self::Vector, Error> {
        make!(self.vector(values))
    }

    fn matrix(&self, capacity: usize, cols: usize) -> Result<Self::Matrix, Error> {
        make!(self.matrix(capacity, cols))
    }

    fn cache(&self, spec: CacheSpec) -> Result<Self::Cache, Error> {
        make!(self.cache(spec))
    }

    fn staged(&self) -> Result<Self::Staged, Error> {
        make!(self.staged())
    }

    fn recording_key(&self, step: &Self::Staged, cache: &Self::Cache) -> Option<u64> {
        call!(self.recording_key([&step], [&cache]))
    }

    fn recorded(&self, key: [u64; 2], recordings: &mut AnyRecordings, work: &mut dyn FnMut()) {
        match self {
            Self::Cpu(_) => work(),
            Self::Cuda(b) => b.recorded(key, &mut recordings.0, work),
        }
    }

    fn behind_attention(
        &self,
        behind: &Behind<'_, Self>,
        attention: &Self::Matrix,
        x: &mut Self::Matrix,
        normed: &mut Self::Matrix,
        activated: &mut Self::Matrix,
        qkv: &mut Self::Matrix,
    ) -> bool {
        /// The same of the backend's own.
        macro_rules! own {
            ($b:ident, $get:ident, $get_mut:ident) => {{
                let behind = Behind {
                    attn_output: behind.attn_output.$get(),
                    post_attention_norm: behind.post_attention_norm.$get(),
                    ffn_norm: behind.ffn_norm.$get(),
                    gate_up: behind.gate_up.$get(),
                    down: behind.down.$get(),
                    post_ffw_norm: behind.post_ffw_norm.$get(),
                    next: behind.next.map(|(norm, qkv)| (norm.$get(), qkv.$get())),
                    eps: behind.eps,
                };
                let (x, normed, activated) = (x.$get_mut(), normed.$get_mut(), activated.$get_mut());
                $b.behind_attention(&behind, attention.$get(), x, normed, activated, qkv.$get_mut())
            }};
        }
        match self {
            Self::Cpu(b) => own!(b, cpu, cpu_mut),
            Self::Cuda(b) => own!(b, cuda, cuda_mut),
        }
    }

    pass! {
        fn begin(part: &Part<'_>);
        fn finish(whole: bool);
        fn stage(ids: &[u32], step: &Step, [&mut out: Staged]);
        fn upload(values: &[f32], [&mut out: Matrix]);
        fn download([x: Matrix], out: &mut [f32]);
        fn gather([x: Matrix], rows: &[u32], [&mut out: Matrix]);
        fn overwrite([rows: Matrix], first: usize, [&mut x: Matrix]);
        fn matmul([x: Matrix], [w: Weight], [&mut out: Matrix]);
        fn add([y: Matrix], [&mut x: Matrix]);
        fn attention([q: Matrix], heads: usize, [cache: Cache], layer: usize, [step: Staged], window: Option<usize>, scale: f32, [&mut out: Matrix]);
        fn embed([w: Weight], [step: Staged], scale: f32, [&mut out: Matrix]);
        fn rms_norm([x: Matrix], [w: Vector], eps: f32, [&mut out: Matrix]);
        fn add_rms_norm([y: Matrix], [w: Vector], eps: f32, [&mut x: Matrix]);
        fn residual_norm([y: Matrix], [post: Vector], [next: Vector], eps: f32, [&mut x: Matrix], [&mut out: Matrix]);
        fn geglu([gate_up: Matrix], [&mut out: Matrix]);
        fn matmul_geglu([x: Matrix], [w: Weight], [&mut gate_up: Matrix], [&mut out: Matrix]);
        fn greedy([logits: Matrix], out: &mut [Greedy]);
        fn rope_table([inv_freq: Vector], [step: Staged], [&mut out: Matrix]);
        fn qkv_rope_store([qkv: Matrix], heads: usize, [q_norm: Vector], [k_norm: Vector], eps: f32, [rope: Matrix], [step: Staged], [&mut cache: Cache], layer: usize, [&mut q: Matrix]);
        fn qkv_attention([qkv: Matrix], heads: usize, [q_norm: Vector], [k_norm: Vector], eps: f32, [rope: Matrix], [step: Staged], [&mut cache: Cache], layer: usize, window: Option<usize>, scale: f32, [&mut q: Matrix], [&mut out: Matrix]);
        fn matmul_bias([x: Matrix], [w: Weight], [bias: Vector], [&mut out: Matrix]);
        fn matmul_bias_gelu([x: Matrix], [w: Weight], [bias: Vector], [&mut out: Matrix]);
        fn matmul_bias_add([x: Matrix], [w: Weight], [bias: Vector], [&mut out: Matrix], [&mut sum: Matrix]);
        fn layer_norm([x: Matrix], [w: Vector], [b: Vector], eps: f32, [&mut out: Matrix]);
        fn qkv_store([qkv: Matrix], [step: Staged], [&mut cache: Cache], layer: usize, [&mut q: Matrix]);
        fn avg_pool([x: Matrix], side: usize, kernel: usize, [&mut out: Matrix]);
    }
}
