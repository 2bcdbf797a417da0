//! A card through the driver's own interface: memory, kernels, launches, graphs.

use crate::Error;
use cudarc::driver::sys;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::ptr;
use std::sync::Arc;

/// Turns the driver's answer into an error.
pub(super) fn check(call: &'static str, result: sys::CUresult) -> Result<(), Error> {
    if result == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text = ptr::null();
    // SAFETY: the driver gives a pointer to a constant of its own, or leaves it null.
    let problem = unsafe {
        let _ = sys::cuGetErrorString(result, &mut text);
        if text.is_null() { format!("{result:?}") } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    };
    Err(Error::Device { call, problem })
}

/// What is known of a card without using it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// What the driver calls it.
    pub name: String,
    /// Bytes of its memory.
    pub memory: usize,
    /// Compute capability.
    pub capability: (i32, i32),
    processors: usize,
    ordinal: sys::CUdevice,
}

impl Card {
    /// Card `index`.
    ///
    /// # Errors
    /// When there is no driver or no such card, or it is older than the kernels need.
    pub(crate) fn find(index: usize) -> Result<Self, Error> {
        // SAFETY: only looks for the library.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::NoDevice("no NVIDIA driver was found".into()));
        }
        // SAFETY: called before any other call of the driver; places to write to are valid.
        unsafe {
            check("cuInit", sys::cuInit(0))
                .map_err(|error| Error::NoDevice(format!("no usable NVIDIA GPU: {error}")))?;
            let mut count = 0;
            check("cuDeviceGetCount", sys::cuDeviceGetCount(&mut count))?;
            let wanted = i32::try_from(index).ok().filter(|index| *index < count);
            let Some(index) = wanted else {
                return Err(Error::NoDevice(format!("there is no NVIDIA GPU {index}: the driver lists {count}")));
            };
            let mut ordinal = 0;
            check("cuDeviceGet", sys::cuDeviceGet(&mut ordinal, index))?;
            let mut name = [0; 128];
            check("cuDeviceGetName", sys::cuDeviceGetName(name.as_mut_ptr(), 127, ordinal))?;
            let attribute = |which| {
                let mut value = 0;
                check("cuDeviceGetAttribute", sys::cuDeviceGetAttribute(&mut value, which, ordinal)).map(|()| value)
            };
            use sys::CUdevice_attribute as A;
            let capability = (
                attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            );
            let processors = attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
            let mut memory = 0;
            check("cuDeviceTotalMem", sys::cuDeviceTotalMem_v2(&mut memory, ordinal))?;
            let name = CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned();
            if capability < (8, 0) {
                return Err(Error::NoDevice(format!("{name} is older than what the kernels need (Ampere, 2020)")));
            }
            Ok(Self { name, memory, capability, processors, ordinal })
        }
    }
}

/// One card: its primary context, and the stream that everything is done on.
#[derive(Debug)]
pub(crate) struct Device {
    card: Card,
    context: sys::CUcontext,
    stream: sys::CUstream,
}

// SAFETY: the driver's handles may be used from any thread in which the context is current; every use makes it so.
unsafe impl Send for Device {}
// SAFETY: the driver locks its own structures.
unsafe impl Sync for Device {}

impl Device {
    /// Opens card `index`.
    pub(crate) fn open(index: usize) -> Result<Arc<Self>, Error> {
        let card = Card::find(index)?;
        let mut context = ptr::null_mut();
        // SAFETY: the card was found; the place to write to is valid.
        check("cuDevicePrimaryCtxRetain", unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, card.ordinal) })?;
        let mut device = Self { card, context, stream: ptr::null_mut() };
        device.enter()?;
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the context is current; the place to write to is valid.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&mut device.stream, flags) })?;
        Ok(Arc::new(device))
    }

    /// What the driver calls the card.
    pub(crate) fn name(&self) -> &str {
        &self.card.name
    }

    /// Compute capability.
    pub(crate) fn capability(&self) -> (i32, i32) {
        self.card.capability
    }

    /// Streaming multiprocessors.
    pub(crate) fn processors(&self) -> usize {
        self.card.processors
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        self.card.memory
    }

    pub(crate) fn stream(&self) -> sys::CUstream {
        self.stream
    }

    /// Makes the context current in this thread.
    pub(crate) fn enter(&self) -> Result<(), Error> {
        // SAFETY: the context was retained and is released when this is dropped.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    /// Waits until all that was begun is done.
    pub(crate) fn wait(&self) -> Result<(), Error> {
        self.enter()?;
        // SAFETY: the stream lives as long as this.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.stream) })
    }

    /// Bytes that are free, of all.
    pub(crate) fn free_memory(&self) -> Result<usize, Error> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are places to write to.
        check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) })?;
        Ok(free)
    }

    /// Begins to record what is launched instead of doing it.
    pub(crate) fn begin_capture(&self) -> Result<(), Error> {
        self.enter()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as this.
        check("cuStreamBeginCapture", unsafe { sys::cuStreamBeginCapture_v2(self.stream, mode) })
    }

    /// Ends recording; what was recorded, ready to be launched.
    pub(crate) fn end_capture(self: &Arc<Self>) -> Result<Graph, Error> {
        let (mut graph, mut exec) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the stream is being captured; the graph isn't needed once it is instantiated.
        unsafe {
            check("cuStreamEndCapture", sys::cuStreamEndCapture(self.stream, &mut graph))?;
            let made = check("cuGraphInstantiate", sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0));
            let _ = sys::cuGraphDestroy(graph);
            made?;
        }
        Ok(Graph { exec, device: Arc::clone(self) })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: nothing that uses the context is left: all of it holds this device.
        unsafe {
            if self.enter().is_ok() && !self.stream.is_null() {
                let _ = sys::cuStreamDestroy_v2(self.stream);
            }
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.card.ordinal);
        }
    }
}

/// Recorded launches.
#[derive(Debug)]
pub(crate) struct Graph {
    exec: sys::CUgraphExec,
    device: Arc<Device>,
}

// SAFETY: as for the device.
unsafe impl Send for Graph {}

impl Graph {
    /// Does what was recorded.
    pub(crate) fn launch(&self) -> Result<(), Error> {
        self.device.enter()?;
        // SAFETY: the graph was instantiated; the memory it names is held by whoever holds the recording.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(self.exec, self.device.stream) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: it isn't used again.
            unsafe {
                let _ = sys::cuGraphExecDestroy(self.exec);
            }
        }
    }
}

/// Memory of a card.
#[derive(Debug)]
pub(crate) struct Buffer {
    at: sys::CUdeviceptr,
    bytes: usize,
    device: Arc<Device>,
}

impl Buffer {
    /// `bytes` bytes that hold anything.
    pub(crate) fn new(device: &Arc<Device>, bytes: usize) -> Result<Self, Error> {
        device.enter()?;
        let mut at = 0;
        // SAFETY: `at` is a place to write to; a buffer of none is one byte.
        let result = unsafe { sys::cuMemAlloc_v2(&mut at, bytes.max(1)) };
        if result == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return Err(Error::OutOfDeviceMemory { bytes });
        }
        check("cuMemAlloc", result)?;
        Ok(Self { at, bytes, device: Arc::clone(device) })
    }

    /// As [`Buffer::new`], zeroed.
    pub(crate) fn zeroed(device: &Arc<Device>, bytes: usize) -> Result<Self, Error> {
        let buffer = Self::new(device, bytes)?;
        // SAFETY: the buffer has so many bytes.
        check("cuMemsetD8Async", unsafe { sys::cuMemsetD8Async(buffer.at, 0, bytes, device.stream) })?;
        Ok(buffer)
    }

    /// Copies from the host; the bytes may be changed as soon as this returns.
    pub(crate) fn write(&self, at: usize, bytes: &[u8]) -> Result<(), Error> {
        assert!(at + bytes.len() <= self.bytes, "a copy beyond a buffer");
        self.device.enter()?;
        // SAFETY: the range lies within the buffer; from pageable memory the call returns once the bytes are taken.
        check("cuMemcpyHtoDAsync", unsafe {
            sys::cuMemcpyHtoDAsync_v2(self.at + at as u64, bytes.as_ptr().cast(), bytes.len(), self.device.stream)
        })
    }

    /// Its address on the card.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Work that was begun may still use it.
        if self.device.wait().is_ok() {
            // SAFETY: it isn't used again.
            unsafe {
                let _ = sys::cuMemFree_v2(self.at);
            }
        }
    }
}

/// Compiled kernels by name.
#[derive(Debug)]
pub(crate) struct Kernels {
    modules: Vec<sys::CUmodule>,
    functions: HashMap<String, sys::CUfunction>,
    /// Whether they wait for the kernels before them, so that they may be launched early.
    early: bool,
    device: Arc<Device>,
}

// SAFETY: as for the device.
unsafe impl Send for Kernels {}
// SAFETY: as for the device.
unsafe impl Sync for Kernels {}

impl Kernels {
    /// Loads binaries for this card, or intermediate code that the driver compiles for it; all functions in them.
    pub(crate) fn load(device: &Arc<Device>, images: &[&[u8]], early: bool) -> Result<Self, Error> {
        let mut kernels = Self { modules: Vec::new(), functions: HashMap::new(), early, device: Arc::clone(device) };
        device.enter()?;
        for image in images {
            // The driver reads text up to a zero byte.
            let mut bytes = image.to_vec();
            bytes.push(0);
            let mut module = ptr::null_mut();
            // SAFETY: the image is a whole binary, or text that ends with a zero.
            check("cuModuleLoadData", unsafe { sys::cuModuleLoadData(&mut module, bytes.as_ptr().cast()) })?;
            kernels.modules.push(module);
            let mut count = 0;
            // SAFETY: the module is loaded; the vector has room for as many functions as it is said to have.
            let functions = unsafe {
                check("cuModuleGetFunctionCount", sys::cuModuleGetFunctionCount(&mut count, module))?;
                let mut functions = vec![ptr::null_mut(); count as usize];
                let listed = sys::cuModuleEnumerateFunctions(functions.as_mut_ptr(), count, module);
                check("cuModuleEnumerateFunctions", listed)?;
                functions
            };
            for function in functions {
                let mut name = ptr::null();
                // SAFETY: the function is of a loaded module, which keeps its name.
                let name = unsafe {
                    check("cuFuncGetName", sys::cuFuncGetName(&mut name, function))?;
                    CString::from(CStr::from_ptr(name))
                };
                kernels.functions.insert(name.to_string_lossy().into_owned(), function);
            }
        }
        Ok(kernels)
    }

    /// Whether there is a kernel of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.functions.contains_key(name)
    }

    /// Lets kernels whose names begin so have as much shared memory as `bytes` says, and forgets those for which the card
    /// has too little. All of a multiprocessor's is then given to shared memory, so that the next kernel finds room beside.
    pub(crate) fn share(&mut self, prefix: &str, bytes: impl Fn(&str) -> usize) -> Result<(), Error> {
        self.device.enter()?;
        let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let carveout = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
        self.functions.retain(|name, function| {
            // SAFETY: the function is of a loaded module.
            !name.starts_with(prefix)
                || unsafe {
                    let _ = sys::cuFuncSetAttribute(*function, carveout, 100);
                    sys::cuFuncSetAttribute(*function, which, bytes(name) as i32)
                } == sys::CUresult::CUDA_SUCCESS
        });
        Ok(())
    }

    /// Lets kernels whose names begin so have clusters of sixteen blocks, and forgets those that the card can't give them.
    pub(crate) fn cluster(&mut self, prefix: &str) -> Result<(), Error> {
        self.device.enter()?;
        let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
        self.functions.retain(|name, function| {
            // SAFETY: the function is of a loaded module.
            !name.starts_with(prefix)
                || unsafe { sys::cuFuncSetAttribute(*function, which, 1) } == sys::CUresult::CUDA_SUCCESS
        });
        Ok(())
    }

    fn function(&self, name: &str) -> sys::CUfunction {
        *self.functions.get(name).unwrap_or_else(|| panic!("no kernel {name}: the committed binaries are stale"))
    }

    /// Launches a kernel with parameters of the types that it declares.
    ///
    /// # Safety
    /// The parameters are the kernel's, and what they point to has the size it expects.
    pub(crate) unsafe fn launch(&self, name: &str, shape: &Shape, params: &mut [*mut c_void]) -> Result<(), Error> {
        let attribute = |id, value| sys::CUlaunchAttribute { id, pad: [0; 4], value };
        use sys::CUlaunchAttributeID_enum as Id;
        let nothing = sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 0 };
        let (mut attributes, mut count) = ([attribute(Id::CU_LAUNCH_ATTRIBUTE_IGNORE, nothing); 2], 0);
        let mut ask = |id, value| {
            attributes[count] = attribute(id, value);
            count += 1;
        };
        if self.early && shape.early {
            let value = sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 };
            ask(Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, value);
        }
        if shape.cluster > 1 {
            let size = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: shape.cluster, y: 1, z: 1 };
            let value = sys::CUlaunchAttributeValue { clusterDim: size };
            ask(Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, value);
        }
        let config = sys::CUlaunchConfig {
            gridDimX: shape.grid.0,
            gridDimY: shape.grid.1,
            gridDimZ: shape.grid.2,
            blockDimX: shape.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shape.shared,
            hStream: self.device.stream,
            attrs: attributes.as_mut_ptr(),
            numAttrs: count as u32,
        };
        self.device.enter()?;
        // SAFETY: the caller's promise.
        check("cuLaunchKernelEx", unsafe {
            sys::cuLaunchKernelEx(&config, self.function(name), params.as_mut_ptr(), ptr::null_mut())
        })
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        if self.device.wait().is_ok() {
            for module in &self.modules {
                // SAFETY: nothing runs any more.
                unsafe {
                    let _ = sys::cuModuleUnload(*module);
                }
            }
        }
    }
}

/// How a kernel is launched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) grid: (u32, u32, u32),
    pub(crate) block: u32,
    /// Bytes of dynamic shared memory.
    pub(crate) shared: u32,
    /// Blocks of a cluster, along the first dimension.
    pub(crate) cluster: u32,
    /// Whether it waits for the kernels before it by itself (`wait_for_former`), so that it may be launched before they
    /// end.
    pub(crate) early: bool,
}

impl Shape {
    pub(crate) fn new(grid: (usize, usize), block: usize) -> Self {
        let size = |n: usize| u32::try_from(n).expect("grids are bounded by matrices that fit a card");
        Self { grid: (size(grid.0), size(grid.1), 1), block: size(block), shared: 0, cluster: 1, early: true }
    }

    pub(crate) fn shared(self, bytes: usize) -> Self {
        Self { shared: bytes as u32, ..self }
    }

    /// In clusters of so many blocks.
    pub(crate) fn clusters(self, blocks: usize) -> Self {
        Self { cluster: blocks as u32, ..self }
    }

    /// Waits for the end of the kernels before, whatever the kernel does.
    pub(crate) fn in_turn(self) -> Self {
        Self { early: false, ..self }
    }

    /// Blocks along the third dimension.
    pub(crate) fn deep(self, blocks: usize) -> Self {
        Self { grid: (self.grid.0, self.grid.1, blocks as u32), ..self }
    }
}

/// A value that a kernel takes, laid out as it expects.
///
/// # Safety
/// The type has the layout of the kernel's parameter type.
pub(crate) unsafe trait Param: Copy {}
// SAFETY: C's float, int, unsigned, long long and pointers.
unsafe impl Param for f32 {}
// SAFETY: as above.
unsafe impl Param for i32 {}
// SAFETY: as above.
unsafe impl Param for u32 {}
// SAFETY: as above.
unsafe impl Param for i64 {}
// SAFETY: as above.
unsafe impl Param for u64 {}

/// The place of a parameter.
pub(crate) fn param<T: Param>(value: &T) -> *mut c_void {
    ptr::from_ref(value).cast_mut().cast()
}
