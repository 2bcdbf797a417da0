//! A model on one of two devices, or on both: its first layers in front, the others behind.
//!
//! The embedding table lies in front, as rows of it are all that is needed; the output matrix and the image encoder lie
//! behind, where the faster device is. A table that is both lies on both. Vectors are small: both devices have all of them.
//! Each matrix has room on both, and holds what the last operation on it wrote, on one of them; operations are done where
//! what they read lies. Between the devices goes what [`Backend::cross`] moves: one matrix a step, through the host, and
//! images once.

use crate::backend::{Backend, Behind, CacheSpec, Greedy, Part, Place, Step, WeightFormat};
use crate::{CpuBackend, CudaBackend, Error};
use medgemma_formats::Tensor;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One of the devices, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Front,
    Back,
    Both,
}

/// Why what belongs to one device is never asked for at another: a model does what [`Backend::boundary`] says.
const STRANGE: &str = "of another device";

/// What one of the devices has, or each of them.
#[derive(Debug)]
pub struct Two<F, B> {
    front: Option<F>,
    back: Option<B>,
}

impl<F, B> Two<F, B> {
    fn front(&self) -> &F {
        self.front.as_ref().expect(STRANGE)
    }

    fn back(&self) -> &B {
        self.back.as_ref().expect(STRANGE)
    }

    fn front_mut(&mut self) -> &mut F {
        self.front.as_mut().expect(STRANGE)
    }

    fn back_mut(&mut self) -> &mut B {
        self.back.as_mut().expect(STRANGE)
    }
}

/// Activations: room on each device, and where they are.
#[derive(Debug)]
pub struct SplitMatrix<F, B> {
    room: Two<F, B>,
    cols: usize,
    /// None before anything was written.
    side: Option<Side>,
}

impl<F, B> SplitMatrix<F, B> {
    fn side(&self) -> Side {
        self.side.expect("read before it was written")
    }

    /// To read in front.
    fn front(&self) -> &F {
        assert_ne!(self.side(), Side::Back, "{STRANGE}");
        self.room.front()
    }

    /// To read behind.
    fn back(&self) -> &B {
        assert_ne!(self.side(), Side::Front, "{STRANGE}");
        self.room.back()
    }

    /// To overwrite in front.
    fn front_mut(&mut self) -> &mut F {
        self.side = Some(Side::Front);
        self.room.front_mut()
    }

    /// To overwrite behind.
    fn back_mut(&mut self) -> &mut B {
        self.side = Some(Side::Back);
        self.room.back_mut()
    }

    /// To change in front what is there.
    fn front_kept(&mut self) -> &mut F {
        assert_eq!(self.side(), Side::Front, "{STRANGE}");
        self.room.front_mut()
    }

    /// To change behind what is there.
    fn back_kept(&mut self) -> &mut B {
        assert_eq!(self.side(), Side::Back, "{STRANGE}");
        self.room.back_mut()
    }
}

/// What was recorded on either device.
#[derive(Debug, Default)]
pub struct SplitRecordings<F, B>(F, B);

/// Two devices, or one of them.
pub struct Split<F, B> {
    front: Option<F>,
    back: Option<B>,
    /// The first layer of the device behind, where there are both.
    boundary: Option<usize>,
    /// Nothing is recorded.
    eager: bool,
    /// Where weights go.
    place: Mutex<Side>,
    /// What is on its way from one device to the other.
    moving: Mutex<Vec<f32>>,
}

/// The processor, a card, or a model's first layers on the processor and the others on a card.
pub type AnyBackend = Split<CpuBackend, CudaBackend>;

impl<F, B> Split<F, B> {
    fn of(front: Option<F>, back: Option<B>, boundary: Option<usize>) -> Self {
        Self { front, back, boundary, eager: false, place: Mutex::new(Side::Both), moving: Mutex::default() }
    }

    /// The layers before `boundary` in front, the others behind.
    pub fn new(front: F, back: B, boundary: usize) -> Self {
        Self::of(Some(front), Some(back), Some(boundary))
    }

    /// All in front.
    pub fn only_front(front: F) -> Self {
        Self::of(Some(front), None, None)
    }

    /// All behind.
    pub fn only_back(back: B) -> Self {
        Self::of(None, Some(back), None)
    }

    /// The same without recordings: each operation is launched by itself. Slower, for tests.
    #[must_use]
    pub fn eager(self) -> Self {
        Self { eager: true, ..self }
    }

    /// The device in front, if there is one.
    pub fn front(&self) -> Option<&F> {
        self.front.as_ref()
    }

    /// The device behind, if there is one.
    pub fn back(&self) -> Option<&B> {
        self.back.as_ref()
    }

    /// Where weights belong; where there is one device, `Both` means that one.
    fn side(&self, place: Place) -> Side {
        match (self.boundary, place) {
            (None, _) | (_, Place::Embedding { tied: true }) => Side::Both,
            (_, Place::Embedding { tied: false }) => Side::Front,
            (Some(boundary), Place::Layer(layer)) if layer < boundary => Side::Front,
            (_, Place::Layer(_) | Place::Output | Place::Vision) => Side::Back,
        }
    }

    /// Makes something on each device of a side.
    fn make<X, Y>(
        &self,
        side: Side,
        front: impl FnOnce(&F) -> Result<X, Error>,
        back: impl FnOnce(&B) -> Result<Y, Error>,
    ) -> Result<Two<X, Y>, Error> {
        Ok(Two {
            front: self.front.as_ref().filter(|_| side != Side::Back).map(front).transpose()?,
            back: self.back.as_ref().filter(|_| side != Side::Front).map(back).transpose()?,
        })
    }

    fn on_front(&self) -> &F {
        self.front.as_ref().expect(STRANGE)
    }

    fn on_back(&self) -> &B {
        self.back.as_ref().expect(STRANGE)
    }
}

/// Nothing behind these locks can be left half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Operations that are done where the first matrix lies. In brackets are what the devices have: `+` stands before a matrix
/// that is changed, `&mut` before one that is overwritten.
macro_rules! pass {
    ($(fn $op:ident([$x:ident: Matrix], $($rest:tt)*);)*) => {
        $(pass!(@ $op $x [$x: &Self::Matrix,] [$x.front(),] [$x.back(),] $($rest)*);)*
    };
    (@ $op:ident $x:ident [$($params:tt)*] [$($front:tt)*] [$($back:tt)*]) => {
        fn $op(&self, $($params)*) {
            match $x.side() {
                Side::Front | Side::Both => self.on_front().$op($($front)*),
                Side::Back => self.on_back().$op($($back)*),
            }
        }
    };
    (@ $op:ident $x:ident [$($p:tt)*] [$($f:tt)*] [$($b:tt)*] [+ $arg:ident: Matrix] $(, $($rest:tt)*)?) => {
        pass!(@ $op $x [$($p)* $arg: &mut Self::Matrix,] [$($f)* $arg.front_kept(),] [$($b)* $arg.back_kept(),] $($($rest)*)?);
    };
    (@ $op:ident $x:ident [$($p:tt)*] [$($f:tt)*] [$($b:tt)*] [&mut $arg:ident: $kind:ident] $(, $($rest:tt)*)?) => {
        pass!(@ $op $x [$($p)* $arg: &mut Self::$kind,] [$($f)* $arg.front_mut(),] [$($b)* $arg.back_mut(),] $($($rest)*)?);
    };
    (@ $op:ident $x:ident [$($p:tt)*] [$($f:tt)*] [$($b:tt)*] [$arg:ident: $kind:ident] $(, $($rest:tt)*)?) => {
        pass!(@ $op $x [$($p)* $arg: &Self::$kind,] [$($f)* $arg.front(),] [$($b)* $arg.back(),] $($($rest)*)?);
    };
    (@ $op:ident $x:ident [$($p:tt)*] [$($f:tt)*] [$($b:tt)*] $arg:ident: $kind:ty $(, $($rest:tt)*)?) => {
        pass!(@ $op $x [$($p)* $arg: $kind,] [$($f)* $arg,] [$($b)* $arg,] $($($rest)*)?);
    };
}

impl<F: Backend<Error = Error>, B: Backend<Error = Error>> Split<F, B> {
    /// Writes the rows in use of `x` to `out`, row after row.
    fn fetch(&self, x: &SplitMatrix<F::Matrix, B::Matrix>, out: &mut Vec<f32>) {
        out.resize(self.rows(x) * x.cols, 0.0);
        self.download(x, out);
    }
}

impl<F: Backend<Error = Error>, B: Backend<Error = Error>> Backend for Split<F, B> {
    type Error = Error;
    type Matrix = SplitMatrix<F::Matrix, B::Matrix>;
    type Weight = Two<F::Weight, B::Weight>;
    type Vector = Two<F::Vector, B::Vector>;
    type Cache = Two<F::Cache, B::Cache>;
    type Staged = Two<F::Staged, B::Staged>;
    type Recordings = SplitRecordings<F::Recordings, B::Recordings>;

    fn name(&self) -> String {
        match (&self.front, &self.back, self.boundary) {
            (Some(front), Some(back), Some(layer)) => {
                format!("{} from layer {layer} on, {} before it", back.name(), front.name())
            }
            (Some(front), ..) => front.name(),
            (None, back, _) => back.as_ref().map(B::name).unwrap_or_default(),
        }
    }

    /// Nothing is kept of a model on two devices: it might be cut elsewhere the next time.
    fn begin(&self, part: &Part<'_>) {
        match (&self.front, &self.back) {
            (Some(front), None) => front.begin(part),
            (None, Some(back)) => back.begin(part),
            _ => {}
        }
    }

    fn finish(&self, whole: bool) {
        match (&self.front, &self.back) {
            (Some(front), None) => front.finish(whole),
            (None, Some(back)) => back.finish(whole),
            _ => {}
        }
    }

    fn weight(&self, tensors: &[&Tensor], format: WeightFormat) -> Result<Self::Weight, Error> {
        let side = *lock(&self.place);
        self.make(side, |front| front.weight(tensors, format), |back| back.weight(tensors, format))
    }

    fn weight_f32(&self, values: &[f32], n: usize, k: usize, format: WeightFormat) -> Result<Self::Weight, Error> {
        let side = *lock(&self.place);
        self.make(side, |front| front.weight_f32(values, n, k, format), |back| back.weight_f32(values, n, k, format))
    }

    /// On both devices together.
    fn weight_bytes(&self, weight: &Self::Weight) -> usize {
        let front = self.front.as_ref().zip(weight.front.as_ref()).map_or(0, |(b, w)| b.weight_bytes(w));
        front + self.back.as_ref().zip(weight.back.as_ref()).map_or(0, |(b, w)| b.weight_bytes(w))
    }

    fn vector(&self, values: &[f32]) -> Result<Self::Vector, Error> {
        self.make(Side::Both, |front| front.vector(values), |back| back.vector(values))
    }

    fn matrix(&self, capacity: usize, cols: usize) -> Result<Self::Matrix, Error> {
        let room = self.make(Side::Both, |front| front.matrix(capacity, cols), |back| back.matrix(capacity, cols))?;
        Ok(SplitMatrix { room, cols, side: None })
    }

    /// For an image encoder: where it lies.
    fn cache(&self, spec: CacheSpec) -> Result<Self::Cache, Error> {
        self.make(self.side(Place::Vision), |front| front.cache(spec), |back| back.cache(spec))
    }

    fn boundary(&self) -> Option<usize> {
        self.boundary
    }

    fn place(&self, place: Place) {
        *lock(&self.place) = self.side(place);
    }

    fn split_cache(&self, spec: CacheSpec, behind: usize) -> Result<Self::Cache, Error> {
        let (before, behind) = match self.boundary {
            Some(_) => (spec.layers - behind, behind),
            None => (spec.layers, spec.layers),
        };
        // A card refuses to give no memory.
        let side = match (self.boundary, before, behind) {
            (Some(_), 0, _) => Side::Back,
            (Some(_), _, 0) => Side::Front,
            _ => Side::Both,
        };
        let spec = |layers| CacheSpec { layers, ..spec };
        self.make(side, |front| front.cache(spec(before)), |back| back.cache(spec(behind)))
    }

    fn cross(&self, x: &mut Self::Matrix) {
        let mut moving = lock(&self.moving);
        self.fetch(x, &mut moving);
        self.on_back().upload(&moving, x.back_mut());
    }

    fn staged(&self) -> Result<Self::Staged, Error> {
        self.make(Side::Both, F::staged, B::staged)
    }

    fn stage(&self, ids: &[u32], step: &Step, out: &mut Self::Staged) {
        if let Some(front) = &self.front {
            front.stage(ids, step, out.front_mut());
        }
        if let Some(back) = &self.back {
            back.stage(ids, step, out.back_mut());
        }
    }

    fn rows(&self, x: &Self::Matrix) -> usize {
        match x.side {
            None => 0,
            Some(Side::Back) => self.on_back().rows(x.back()),
            Some(Side::Front | Side::Both) => self.on_front().rows(x.front()),
        }
    }

    /// To the device of the image encoder, which is all that takes what is uploaded.
    fn upload(&self, values: &[f32], out: &mut Self::Matrix) {
        match &self.back {
            Some(back) => back.upload(values, out.back_mut()),
            None => self.on_front().upload(values, out.front_mut()),
        }
    }

    fn overwrite(&self, rows: &Self::Matrix, first: usize, x: &mut Self::Matrix) {
        match (rows.side(), x.side) {
            (Side::Back, None) => self.on_back().overwrite(rows.back(), first, x.back_mut()),
            (_, None) => self.on_front().overwrite(rows.front(), first, x.front_mut()),
            (Side::Back, Some(Side::Back)) => self.on_back().overwrite(rows.back(), first, x.back_kept()),
            (Side::Front, Some(Side::Front)) => self.on_front().overwrite(rows.front(), first, x.front_kept()),
            (_, Some(side)) => {
                // Images of an encoder behind: what is in front is taken up, changed and put back.
                let (mut new, mut all) = (Vec::new(), lock(&self.moving));
                self.fetch(rows, &mut new);
                self.fetch(x, &mut all);
                let at = first * x.cols;
                if all.len() < at + new.len() {
                    all.resize(at + new.len(), 0.0);
                }
                all[at..at + new.len()].copy_from_slice(&new);
                match side {
                    Side::Back => self.on_back().upload(&all, x.back_mut()),
                    Side::Front | Side::Both => self.on_front().upload(&all, x.front_mut()),
                }
            }
        }
    }

    /// Steps on two devices are not recorded.
    fn recording_key(&self, step: &Self::Staged, cache: &Self::Cache) -> Option<u64> {
        match (&self.front, &self.back) {
            _ if self.eager => None,
            (Some(front), None) => front.recording_key(step.front(), cache.front()),
            (None, Some(back)) => back.recording_key(step.back(), cache.back()),
            _ => None,
        }
    }

    fn recorded(&self, key: [u64; 2], recordings: &mut Self::Recordings, work: &mut dyn FnMut()) {
        match (&self.front, &self.back) {
            (Some(front), None) => front.recorded(key, &mut recordings.0, work),
            (None, Some(back)) => back.recorded(key, &mut recordings.1, work),
            _ => work(),
        }
    }

    fn embed(&self, w: &Self::Weight, step: &Self::Staged, scale: f32, out: &mut Self::Matrix) {
        match &self.front {
            Some(front) => front.embed(w.front(), step.front(), scale, out.front_mut()),
            None => self.on_back().embed(w.back(), step.back(), scale, out.back_mut()),
        }
    }

    fn rope_table(&self, inv_freq: &Self::Vector, step: &Self::Staged, out: &mut Self::Matrix) {
        if let Some(front) = &self.front {
            front.rope_table(inv_freq.front(), step.front(), out.front_mut());
        }
        if let Some(back) = &self.back {
            back.rope_table(inv_freq.back(), step.back(), out.back_mut());
        }
        if self.boundary.is_some() {
            out.side = Some(Side::Both);
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
        /// The same of a device's own.
        macro_rules! own {
            ($on:ident, $get:ident, $get_mut:ident, $kept:ident) => {{
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
                let (normed, activated) = (normed.$get_mut(), activated.$get_mut());
                self.$on().behind_attention(&behind, attention.$get(), x.$kept(), normed, activated, qkv.$get_mut())
            }};
        }
        match attention.side() {
            Side::Front | Side::Both => own!(on_front, front, front_mut, front_kept),
            Side::Back => own!(on_back, back, back_mut, back_kept),
        }
    }

    fn matmul_residual(
        &self,
        product: (&Self::Matrix, &Self::Weight),
        y: &mut Self::Matrix,
        post: &Self::Vector,
        eps: f32,
        x: &mut Self::Matrix,
        next: Option<(&Self::Vector, &mut Self::Matrix)>,
    ) {
        let (from, w) = product;
        match from.side() {
            Side::Front | Side::Both => {
                let next = next.map(|(next, out)| (next.front(), out.front_mut()));
                let product = (from.front(), w.front());
                self.on_front().matmul_residual(product, y.front_mut(), post.front(), eps, x.front_kept(), next);
            }
            Side::Back => {
                let next = next.map(|(next, out)| (next.back(), out.back_mut()));
                let product = (from.back(), w.back());
                self.on_back().matmul_residual(product, y.back_mut(), post.back(), eps, x.back_kept(), next);
            }
        }
    }

    pass! {
        fn download([x: Matrix], out: &mut [f32]);
        fn gather([x: Matrix], rows: &[u32], [&mut out: Matrix]);
        fn matmul([x: Matrix], [w: Weight], [&mut out: Matrix]);
        fn add([y: Matrix], [+ x: Matrix]);
        fn attention([q: Matrix], heads: usize, [cache: Cache], layer: usize, [step: Staged], window: Option<usize>, scale: f32, [&mut out: Matrix]);
        fn rms_norm([x: Matrix], [w: Vector], eps: f32, [&mut out: Matrix]);
        fn add_rms_norm([y: Matrix], [w: Vector], eps: f32, [+ x: Matrix]);
        fn residual_norm([y: Matrix], [post: Vector], [next: Vector], eps: f32, [+ x: Matrix], [&mut out: Matrix]);
        fn geglu([gate_up: Matrix], [&mut out: Matrix]);
        fn matmul_geglu([x: Matrix], [w: Weight], [&mut gate_up: Matrix], [&mut out: Matrix]);
        fn greedy([logits: Matrix], out: &mut [Greedy]);
        fn qkv_rope_store([qkv: Matrix], heads: usize, [q_norm: Vector], [k_norm: Vector], eps: f32, [rope: Matrix], [step: Staged], [&mut cache: Cache], layer: usize, [&mut q: Matrix]);
        fn qkv_attention([qkv: Matrix], heads: usize, [q_norm: Vector], [k_norm: Vector], eps: f32, [rope: Matrix], [step: Staged], [&mut cache: Cache], layer: usize, window: Option<usize>, scale: f32, [&mut q: Matrix], [&mut out: Matrix]);
        fn matmul_bias([x: Matrix], [w: Weight], [bias: Vector], [&mut out: Matrix]);
        fn matmul_bias_gelu([x: Matrix], [w: Weight], [bias: Vector], [&mut out: Matrix]);
        fn matmul_bias_add([x: Matrix], [w: Weight], [bias: Vector], [&mut out: Matrix], [+ sum: Matrix]);
        fn layer_norm([x: Matrix], [w: Vector], [b: Vector], eps: f32, [&mut out: Matrix]);
        fn qkv_store([qkv: Matrix], [step: Staged], [&mut cache: Cache], layer: usize, [&mut q: Matrix]);
        fn avg_pool([x: Matrix], side: usize, kernel: usize, [&mut out: Matrix]);
    }
}
