//! The one declaration of the CUDA functions and of what travels for them.
//!
//! Four lists: `auto`, functions whose parameters say everything, carried by generated code on both
//! ends; `wire`, messages that serve functions which need more than that; `guest`, those functions,
//! written by hand in the frontend over the messages they name, or over none; `driver`, functions that
//! only a driver library offers: the split driver does not carry them, so a guest must not find them.
//! Must never hold two entries for one function.

/// When a call's result is known to the guest.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Posted: not waited for; an error surfaces at the next waiting call.
    Post,
    /// Waited for; the worker answers at once.
    Wait,
    /// Waited for; may block on the device, so the worker answers later and goes on meanwhile.
    Sync,
    /// Waited for the first time, then answered in the guest: it never changes.
    Once,
    /// Answered in the guest, with or without messages of its own.
    Guest,
    /// Never: the call is not carried, only a driver library offers it.
    Driver,
}

/// One entry of the list, for tables and checks.
#[derive(Copy, Clone, Debug)]
pub struct CallInfo {
    /// The exported symbol (`cuMemAlloc_v2`), or the message's name.
    pub name: &'static str,
    /// Number on the wire; 0 for a function that has no message of its own or is not carried.
    pub number: u16,
    /// When the result is known.
    pub mode: Mode,
    /// For `guest` functions: the messages that serve it.
    pub via: &'static [&'static str],
    /// What it does, in a line.
    pub doc: &'static str,
}

/// An exported symbol and what `cuGetProcAddress` calls it.
#[derive(Copy, Clone, Debug)]
pub struct Names {
    /// The exported symbol.
    pub symbol: &'static str,
    /// The name without suffixes.
    pub base: &'static str,
    /// The first CUDA version (1000 × major + 10 × minor) whose `base` means this symbol.
    pub since: i32,
}

/// Calls the macro named with every declaration. See the module's head for the four lists.
///
/// An `auto` entry: number, symbol, (base name, since), mode, parameters as [`Param`](crate::Param) types.
/// A `wire` entry: number, name, mode, request fields, reply fields.
/// A `guest` entry: symbol, (base name, since), C parameters, the messages it uses.
/// A `driver` entry: symbol, (base name, since), C parameters.
///
/// Numbers are the protocol: never reuse one.
#[macro_export]
macro_rules! with_calls {
    ($($callback:tt)+) => { $($callback)+! {
auto {
    /// Number of devices.
    2 cuDeviceGetCount ("cuDeviceGetCount", 2000) Once (count: Out<i32>);
    /// Bytes of memory on a device.
    4 cuDeviceTotalMem_v2 ("cuDeviceTotalMem", 3020) Once (bytes: Out<usize>, dev: Val<i32>);
    /// A device's UUID.
    5 cuDeviceGetUuid ("cuDeviceGetUuid", 9020) Once (uuid: Out<Uuid>, dev: Val<i32>);
    /// A device's UUID, of the MIG instance where there is one.
    6 cuDeviceGetUuid_v2 ("cuDeviceGetUuid", 11040) Once (uuid: Out<Uuid>, dev: Val<i32>);
    /// Compute capability of a device (deprecated by CUDA, still asked for).
    7 cuDeviceComputeCapability ("cuDeviceComputeCapability", 2000) Once (major: Out<i32>, minor: Out<i32>, dev: Val<i32>);

    /// Waits for everything submitted in the current context.
    10 cuCtxSynchronize ("cuCtxSynchronize", 2000) Sync ();
    /// The range of stream priorities.
    11 cuCtxGetStreamPriorityRange ("cuCtxGetStreamPriorityRange", 5050) Wait (leastPriority: Opt<i32>, greatestPriority: Opt<i32>);
    /// One of the context's limits.
    12 cuCtxGetLimit ("cuCtxGetLimit", 3010) Wait (pvalue: Out<usize>, limit: Val<i32>);
    /// Sets one of the context's limits.
    13 cuCtxSetLimit ("cuCtxSetLimit", 3010) Wait (limit: Val<i32>, value: Val<usize>);
    /// The preference between cache and shared memory.
    14 cuCtxGetCacheConfig ("cuCtxGetCacheConfig", 3020) Wait (pconfig: Out<i32>);
    /// Sets the preference between cache and shared memory.
    15 cuCtxSetCacheConfig ("cuCtxSetCacheConfig", 3020) Wait (config: Val<i32>);

    /// Free and total bytes of device memory.
    20 cuMemGetInfo_v2 ("cuMemGetInfo", 3020) Wait (free: Out<usize>, total: Out<usize>);
    /// Fills device memory with a byte.
    21 cuMemsetD8_v2 ("cuMemsetD8", 3020) Post (dstDevice: Val<u64>, uc: Val<u8>, N: Span<1>);
    /// Fills device memory with a 16-bit value.
    22 cuMemsetD16_v2 ("cuMemsetD16", 3020) Post (dstDevice: Val<u64>, us: Val<u16>, N: Span<2>);
    /// Fills device memory with a 32-bit value.
    23 cuMemsetD32_v2 ("cuMemsetD32", 3020) Post (dstDevice: Val<u64>, ui: Val<u32>, N: Span<4>);
    /// Fills device memory with a byte, in a stream.
    24 cuMemsetD8Async ("cuMemsetD8Async", 3020) Post (dstDevice: Val<u64>, uc: Val<u8>, N: Span<1>, hStream: Use<Stream>);
    /// Fills device memory with a 16-bit value, in a stream.
    25 cuMemsetD16Async ("cuMemsetD16Async", 3020) Post (dstDevice: Val<u64>, us: Val<u16>, N: Span<2>, hStream: Use<Stream>);
    /// Fills device memory with a 32-bit value, in a stream.
    26 cuMemsetD32Async ("cuMemsetD32Async", 3020) Post (dstDevice: Val<u64>, ui: Val<u32>, N: Span<4>, hStream: Use<Stream>);
    /// Copies between two places of device memory.
    27 cuMemcpyDtoD_v2 ("cuMemcpyDtoD", 3020) Post (dstDevice: Val<u64>, srcDevice: Val<u64>, ByteCount: Span<1>);
    /// Copies between two places of device memory, in a stream.
    28 cuMemcpyDtoDAsync_v2 ("cuMemcpyDtoDAsync", 3020) Post (dstDevice: Val<u64>, srcDevice: Val<u64>, ByteCount: Span<1>, hStream: Use<Stream>);

    /// Creates a stream.
    40 cuStreamCreate ("cuStreamCreate", 2000) Post (phStream: New<Stream>, Flags: Val<u32>);
    /// Creates a stream with a priority.
    41 cuStreamCreateWithPriority ("cuStreamCreateWithPriority", 5050) Post (phStream: New<Stream>, flags: Val<u32>, priority: Val<i32>);
    /// Destroys a stream; its work still ends.
    42 cuStreamDestroy_v2 ("cuStreamDestroy", 4000) Post (hStream: End<Stream>);
    /// Waits for a stream's work.
    43 cuStreamSynchronize ("cuStreamSynchronize", 2000) Sync (hStream: Use<Stream>);
    /// Tells whether a stream's work has ended.
    44 cuStreamQuery ("cuStreamQuery", 2000) Wait (hStream: Use<Stream>);
    /// Makes a stream wait for an event.
    45 cuStreamWaitEvent ("cuStreamWaitEvent", 3020) Post (hStream: Use<Stream>, hEvent: Use<Event>, Flags: Val<u32>);
    /// A stream's priority.
    46 cuStreamGetPriority ("cuStreamGetPriority", 5050) Wait (hStream: Use<Stream>, priority: Out<i32>);
    /// A stream's flags.
    47 cuStreamGetFlags ("cuStreamGetFlags", 5050) Wait (hStream: Use<Stream>, flags: Out<u32>);
    /// Whether a stream is being captured.
    48 cuStreamIsCapturing ("cuStreamIsCapturing", 10000) Wait (hStream: Use<Stream>, captureStatus: Out<i32>);

    /// A number that no other stream has.
    300 cuStreamGetId ("cuStreamGetId", 12000) Wait (hStream: Use<Stream>, streamId: Out<u64>);
    /// Gives a stream another one's attributes.
    301 cuStreamCopyAttributes ("cuStreamCopyAttributes", 11000) Post (dst: Use<Stream>, src: Use<Stream>);

    /// Creates an event.
    60 cuEventCreate ("cuEventCreate", 2000) Post (phEvent: New<Event>, Flags: Val<u32>);
    /// Records an event in a stream.
    61 cuEventRecord ("cuEventRecord", 2000) Post (hEvent: Use<Event>, hStream: Use<Stream>);
    /// Records an event in a stream, with flags.
    62 cuEventRecordWithFlags ("cuEventRecordWithFlags", 11010) Post (hEvent: Use<Event>, hStream: Use<Stream>, flags: Val<u32>);
    /// Tells whether an event has happened.
    63 cuEventQuery ("cuEventQuery", 2000) Wait (hEvent: Use<Event>);
    /// Waits for an event.
    64 cuEventSynchronize ("cuEventSynchronize", 2000) Sync (hEvent: Use<Event>);
    /// Destroys an event.
    65 cuEventDestroy_v2 ("cuEventDestroy", 4000) Post (hEvent: End<Event>);
    /// Milliseconds between two events.
    66 cuEventElapsedTime ("cuEventElapsedTime", 2000) Wait (pMilliseconds: Out<f32>, hStart: Use<Event>, hEnd: Use<Event>);
    /// Milliseconds between two events.
    67 cuEventElapsedTime_v2 ("cuEventElapsedTime", 12080) Wait (pMilliseconds: Out<f32>, hStart: Use<Event>, hEnd: Use<Event>);

    /// One attribute of a function.
    80 cuFuncGetAttribute ("cuFuncGetAttribute", 2020) Wait (pi: Out<i32>, attrib: Val<i32>, hfunc: Use<Function>);
    /// Sets an attribute of a function.
    81 cuFuncSetAttribute ("cuFuncSetAttribute", 9000) Wait (hfunc: Use<Function>, attrib: Val<i32>, value: Val<i32>);
    /// Sets a function's preference between cache and shared memory.
    82 cuFuncSetCacheConfig ("cuFuncSetCacheConfig", 3000) Wait (hfunc: Use<Function>, config: Val<i32>);
    /// Blocks of a function that fit on a multiprocessor.
    83 cuOccupancyMaxActiveBlocksPerMultiprocessor ("cuOccupancyMaxActiveBlocksPerMultiprocessor", 6050) Wait (numBlocks: Out<i32>, func: Use<Function>, blockSize: Val<i32>, dynamicSMemSize: Val<usize>);
    /// Blocks of a function that fit on a multiprocessor, with flags.
    84 cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags ("cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", 7000) Wait (numBlocks: Out<i32>, func: Use<Function>, blockSize: Val<i32>, dynamicSMemSize: Val<usize>, flags: Val<u32>);

    /// Texels that a texture of linear memory can have.
    400 cuDeviceGetTexture1DLinearMaxWidth ("cuDeviceGetTexture1DLinearMaxWidth", 11010) Once (maxWidthInElements: Out<usize>, format: Val<i32>, numChannels: Val<u32>, dev: Val<i32>);
    /// Whether contexts can be confined to a part of a device.
    401 cuDeviceGetExecAffinitySupport ("cuDeviceGetExecAffinitySupport", 11040) Once (pi: Out<i32>, kind: Val<i32>, dev: Val<i32>);

    /// When modules' code is loaded.
    410 cuModuleGetLoadingMode ("cuModuleGetLoadingMode", 11070) Wait (mode: Out<i32>);
    /// Number of kernels of a module.
    411 cuModuleGetFunctionCount ("cuModuleGetFunctionCount", 12040) Wait (count: Out<u32>, hmod: Use<Module>);
    /// Whether a function's code is loaded.
    412 cuFuncIsLoaded ("cuFuncIsLoaded", 12040) Wait (state: Out<i32>, function: Use<Function>);
    /// Loads a function's code.
    413 cuFuncLoad ("cuFuncLoad", 12040) Wait (function: Use<Function>);
    /// Sets a function's width of shared memory banks.
    414 cuFuncSetSharedMemConfig ("cuFuncSetSharedMemConfig", 4020) Wait (hfunc: Use<Function>, config: Val<i32>);
    /// Dynamic shared memory that blocks of a function can have if so many are to fit.
    415 cuOccupancyAvailableDynamicSMemPerBlock ("cuOccupancyAvailableDynamicSMemPerBlock", 10020) Wait (dynamicSmemSize: Out<usize>, func: Use<Function>, numBlocks: Val<i32>, blockSize: Val<i32>);
    /// The width of shared memory banks.
    416 cuCtxGetSharedMemConfig ("cuCtxGetSharedMemConfig", 4020) Wait (pConfig: Out<i32>);
    /// Sets the width of shared memory banks.
    417 cuCtxSetSharedMemConfig ("cuCtxSetSharedMemConfig", 4020) Wait (config: Val<i32>);
    /// Makes the whole cache everybody's again.
    418 cuCtxResetPersistingL2Cache ("cuCtxResetPersistingL2Cache", 11000) Wait ();

    /// Fills rows of device memory with a byte.
    420 cuMemsetD2D8_v2 ("cuMemsetD2D8", 3020) Post (dstDevice: Val<u64>, dstPitch: Val<usize>, uc: Val<u8>, Width: Span<1>, Height: Span<1>);
    /// Fills rows of device memory with a 16-bit value.
    421 cuMemsetD2D16_v2 ("cuMemsetD2D16", 3020) Post (dstDevice: Val<u64>, dstPitch: Val<usize>, us: Val<u16>, Width: Span<2>, Height: Span<1>);
    /// Fills rows of device memory with a 32-bit value.
    422 cuMemsetD2D32_v2 ("cuMemsetD2D32", 3020) Post (dstDevice: Val<u64>, dstPitch: Val<usize>, ui: Val<u32>, Width: Span<4>, Height: Span<1>);
    /// Fills rows of device memory with a byte, in a stream.
    423 cuMemsetD2D8Async ("cuMemsetD2D8Async", 3020) Post (dstDevice: Val<u64>, dstPitch: Val<usize>, uc: Val<u8>, Width: Span<1>, Height: Span<1>, hStream: Use<Stream>);
    /// Fills rows of device memory with a 16-bit value, in a stream.
    424 cuMemsetD2D16Async ("cuMemsetD2D16Async", 3020) Post (dstDevice: Val<u64>, dstPitch: Val<usize>, us: Val<u16>, Width: Span<2>, Height: Span<1>, hStream: Use<Stream>);
    /// Fills rows of device memory with a 32-bit value, in a stream.
    425 cuMemsetD2D32Async ("cuMemsetD2D32Async", 3020) Post (dstDevice: Val<u64>, dstPitch: Val<usize>, ui: Val<u32>, Width: Span<4>, Height: Span<1>, hStream: Use<Stream>);
}
wire {
    /// The version of CUDA that the backend's driver implements.
    126 DriverVersion Once {} -> { version: i32 };
    /// One attribute of a device.
    127 DeviceAttribute Once { attribute: i32, device: i32 } -> { value: i32 };
    /// A device's name.
    128 DeviceName Once { device: i32 } -> { name: Bytes };
    /// Takes the device's primary context and names it.
    129 PrimaryRetain Wait { context: Id<Context>, device: i32 } -> {};
    /// Gives the primary context back.
    130 PrimaryRelease Wait { device: i32 } -> {};
    /// Destroys all that the primary context holds.
    131 PrimaryReset Wait { device: i32 } -> {};
    /// Flags of the primary context and whether it is active.
    132 PrimaryState Wait { device: i32 } -> { flags: u32, active: i32 };
    /// Sets the flags of the primary context.
    133 PrimarySetFlags Wait { device: i32, flags: u32 } -> {};
    /// Creates a context.
    134 ContextCreate Wait { context: Id<Context>, flags: u32, device: i32 } -> {};
    /// Destroys a context and all that it holds.
    135 ContextDestroy Wait { context: Id<Context> } -> {};
    /// What the domain may have of a device's memory, what it has, and the difference, in bytes; without a context.
    136 DeviceMemory Wait { device: i32 } -> { total: u64, free: u64, used: u64 };
    /// What part of a device's time the domain has had in the last second, in thousandths: for kernels, for copies.
    137 DeviceShare Wait { device: i32 } -> { kernels: u32, copies: u32 };

    /// Appends to the image of a module that is about to be loaded.
    140 ImageData Post { image: u32, data: Payload } -> {};
    /// Loads the image collected under this number. The answer is the driver's `result` with its
    /// compiler's log, which is there for a failure above all.
    141 ModuleLoad Wait { image: u32, module: Id<Module> } -> { result: u32, log: Bytes };
    /// Unloads a module and forgets its functions.
    142 ModuleUnload Wait { module: Id<Module> } -> {};
    /// Finds a kernel; `params` lists each parameter's offset and size in bytes (two u32 each).
    143 ModuleGetFunction Wait { module: Id<Module>, function: Id<Function>, name: Bytes } -> { params: Bytes };
    /// Finds a module's variable.
    144 ModuleGetGlobal Wait { module: Id<Module>, name: Bytes } -> { address: u64, bytes: u64 };

    /// Allocates device memory.
    150 MemAlloc Wait { bytes: u64 } -> { address: u64 };
    /// Frees device memory.
    151 MemFree Post { address: u64 } -> {};
    /// Allocates device memory in stream order.
    152 MemAllocAsync Wait { bytes: u64, stream: Id<Stream> } -> { address: u64 };
    /// Frees device memory in stream order.
    153 MemFreeAsync Post { address: u64, stream: Id<Stream> } -> {};
    /// Copies from the guest to the device. `stream` counts where `ordered` is not 0.
    154 CopyIn Post { address: u64, ordered: u8, stream: Id<Stream>, data: Payload } -> {};
    /// Copies from the device to the guest: into `into`, or into the answer where that is empty.
    155 CopyOut Sync { address: u64, bytes: u64, ordered: u8, stream: Id<Stream>, into: Range } -> { data: Bytes };
    /// Copies from the device into a region without waiting: the guest synchronises with the stream.
    156 CopyOutAsync Post { address: u64, stream: Id<Stream>, into: Range } -> {};
    /// Registers a region with the driver, so that copies from and to it are direct.
    157 RegionPin Wait { region: u32 } -> { device: u64 };
    /// Undoes `RegionPin`, once nothing uses the region any more.
    158 RegionUnpin Sync { region: u32 } -> {};

    /// Answers once everything posted before it has been carried out or handed to the driver.
    160 Fence Wait {} -> {};

    /// Launches a kernel. `params` is the parameter buffer as the function's layout has it.
    170 Launch Post { function: Id<Function>, stream: Id<Stream>, grid: [u32; 3], block: [u32; 3], shared: u32, cooperative: u8, params: Bytes } -> {};
}
guest {
    /// Connects to the backend.
    cuInit ("cuInit", 2000) (Flags: u32) [];
    /// The version of CUDA that is offered: the backend driver's, but no newer than this project's.
    cuDriverGetVersion ("cuDriverGetVersion", 2020) (driverVersion: *mut i32) [DriverVersion];
    /// One attribute of a device, as this driver offers it.
    cuDeviceGetAttribute ("cuDeviceGetAttribute", 2000) (pi: *mut i32, attrib: i32, dev: i32) [DeviceAttribute];
    /// The handle of a device: its ordinal.
    cuDeviceGet ("cuDeviceGet", 2000) (device: *mut i32, ordinal: i32) [cuDeviceGetCount];
    /// A device's name.
    cuDeviceGetName ("cuDeviceGetName", 2000) (name: *mut c_char, len: i32, dev: i32) [DeviceName];
    /// A device's PCI address, in the machine that has it, as text (`0000:01:00.0`).
    cuDeviceGetPCIBusId ("cuDeviceGetPCIBusId", 4010) (pciBusId: *mut c_char, len: i32, dev: i32) [cuDeviceGetCount, DeviceAttribute];
    /// The device at a PCI address.
    cuDeviceGetByPCIBusId ("cuDeviceGetByPCIBusId", 4010) (dev: *mut i32, pciBusId: *const c_char) [cuDeviceGetCount, DeviceAttribute];
    /// Takes a device's primary context.
    cuDevicePrimaryCtxRetain ("cuDevicePrimaryCtxRetain", 7000) (pctx: *mut Handle, dev: i32) [PrimaryRetain];
    /// Gives a device's primary context back.
    cuDevicePrimaryCtxRelease_v2 ("cuDevicePrimaryCtxRelease", 11000) (dev: i32) [PrimaryRelease];
    /// Destroys all that a primary context holds.
    cuDevicePrimaryCtxReset_v2 ("cuDevicePrimaryCtxReset", 11000) (dev: i32) [PrimaryReset];
    /// Flags of a primary context and whether it is active.
    cuDevicePrimaryCtxGetState ("cuDevicePrimaryCtxGetState", 7000) (dev: i32, flags: *mut u32, active: *mut i32) [PrimaryState];
    /// Sets the flags of a primary context.
    cuDevicePrimaryCtxSetFlags_v2 ("cuDevicePrimaryCtxSetFlags", 11000) (dev: i32, flags: u32) [PrimarySetFlags];

    /// Creates a context and makes it current.
    cuCtxCreate_v2 ("cuCtxCreate", 3020) (pctx: *mut Handle, flags: u32, dev: i32) [ContextCreate];
    /// Creates a context and makes it current; execution affinity is not offered.
    cuCtxCreate_v3 ("cuCtxCreate", 11040) (pctx: *mut Handle, paramsArray: *mut c_void, numParams: i32, flags: u32, dev: i32) [ContextCreate];
    /// Creates a context and makes it current; creation parameters are not offered.
    cuCtxCreate_v4 ("cuCtxCreate", 12050) (pctx: *mut Handle, ctxCreateParams: *mut c_void, flags: u32, dev: i32) [ContextCreate];
    /// Destroys a context.
    cuCtxDestroy_v2 ("cuCtxDestroy", 4000) (ctx: Handle) [ContextDestroy];
    /// The calling thread's context.
    cuCtxGetCurrent ("cuCtxGetCurrent", 4000) (pctx: *mut Handle) [];
    /// Sets the calling thread's context.
    cuCtxSetCurrent ("cuCtxSetCurrent", 4000) (ctx: Handle) [];
    /// Pushes a context on the calling thread's stack.
    cuCtxPushCurrent_v2 ("cuCtxPushCurrent", 4000) (ctx: Handle) [];
    /// Pops the calling thread's context.
    cuCtxPopCurrent_v2 ("cuCtxPopCurrent", 4000) (pctx: *mut Handle) [];
    /// The device of the calling thread's context.
    cuCtxGetDevice ("cuCtxGetDevice", 2000) (device: *mut i32) [];
    /// The flags of the calling thread's context.
    cuCtxGetFlags ("cuCtxGetFlags", 7000) (flags: *mut u32) [];
    /// The API version of a context.
    cuCtxGetApiVersion ("cuCtxGetApiVersion", 3020) (ctx: Handle, version: *mut u32) [];

    /// Loads a module from PTX, a fat binary or a cubin in memory.
    cuModuleLoadData ("cuModuleLoadData", 2000) (module: *mut Handle, image: *const c_void) [ImageData, ModuleLoad];
    /// Loads a module, with compiler options and logs.
    cuModuleLoadDataEx ("cuModuleLoadDataEx", 2010) (module: *mut Handle, image: *const c_void, numOptions: u32, options: *mut i32, optionValues: *mut *mut c_void) [ImageData, ModuleLoad];
    /// Loads a module from a file of the guest.
    cuModuleLoad ("cuModuleLoad", 2000) (module: *mut Handle, fname: *const c_char) [ImageData, ModuleLoad];
    /// Loads a module from a fat binary in memory.
    cuModuleLoadFatBinary ("cuModuleLoadFatBinary", 2000) (module: *mut Handle, fatCubin: *const c_void) [ImageData, ModuleLoad];
    /// Unloads a module.
    cuModuleUnload ("cuModuleUnload", 2000) (hmod: Handle) [ModuleUnload];
    /// Finds a kernel in a module.
    cuModuleGetFunction ("cuModuleGetFunction", 2000) (hfunc: *mut Handle, hmod: Handle, name: *const c_char) [ModuleGetFunction];
    /// Finds a variable in a module.
    cuModuleGetGlobal_v2 ("cuModuleGetGlobal", 3020) (dptr: *mut u64, bytes: *mut usize, hmod: Handle, name: *const c_char) [ModuleGetGlobal];
    /// Offset and size of a kernel's parameter.
    cuFuncGetParamInfo ("cuFuncGetParamInfo", 12040) (func: Handle, paramIndex: usize, paramOffset: *mut usize, paramSize: *mut usize) [];
    /// The module of a function.
    cuFuncGetModule ("cuFuncGetModule", 11000) (hmod: *mut Handle, hfunc: Handle) [];

    /// Allocates device memory.
    cuMemAlloc_v2 ("cuMemAlloc", 3020) (dptr: *mut u64, bytesize: usize) [MemAlloc];
    /// Frees device memory.
    cuMemFree_v2 ("cuMemFree", 3020) (dptr: u64) [MemFree];
    /// Allocates device memory in stream order.
    cuMemAllocAsync ("cuMemAllocAsync", 11020) (dptr: *mut u64, bytesize: usize, hStream: Handle) [MemAllocAsync];
    /// Frees device memory in stream order.
    cuMemFreeAsync ("cuMemFreeAsync", 11020) (dptr: u64, hStream: Handle) [MemFreeAsync];
    /// The allocation that an address lies in.
    cuMemGetAddressRange_v2 ("cuMemGetAddressRange", 3020) (pbase: *mut u64, psize: *mut usize, dptr: u64) [];
    /// What is known of a pointer.
    cuPointerGetAttribute ("cuPointerGetAttribute", 4000) (data: *mut c_void, attribute: i32, ptr: u64) [];
    /// Allocates host memory that copies go from and to directly.
    cuMemHostAlloc ("cuMemHostAlloc", 2020) (pp: *mut *mut c_void, bytesize: usize, Flags: u32) [RegionPin];
    /// Allocates host memory that copies go from and to directly.
    cuMemAllocHost_v2 ("cuMemAllocHost", 3020) (pp: *mut *mut c_void, bytesize: usize) [RegionPin];
    /// Frees such host memory.
    cuMemFreeHost ("cuMemFreeHost", 2000) (p: *mut c_void) [RegionUnpin];
    /// The device address of such host memory.
    cuMemHostGetDevicePointer_v2 ("cuMemHostGetDevicePointer", 3020) (pdptr: *mut u64, p: *mut c_void, Flags: u32) [];
    /// The flags such host memory was allocated with.
    cuMemHostGetFlags ("cuMemHostGetFlags", 2030) (pFlags: *mut u32, p: *mut c_void) [];
    /// Page-locks memory of the program's own.
    cuMemHostRegister_v2 ("cuMemHostRegister", 6050) (p: *mut c_void, bytesize: usize, Flags: u32) [];
    /// Undoes that.
    cuMemHostUnregister ("cuMemHostUnregister", 4000) (p: *mut c_void) [];
    /// Copies from host to device memory.
    cuMemcpyHtoD_v2 ("cuMemcpyHtoD", 3020) (dstDevice: u64, srcHost: *const c_void, ByteCount: usize) [CopyIn];
    /// Copies from device to host memory.
    cuMemcpyDtoH_v2 ("cuMemcpyDtoH", 3020) (dstHost: *mut c_void, srcDevice: u64, ByteCount: usize) [CopyOut];
    /// Copies from host to device memory, in a stream.
    cuMemcpyHtoDAsync_v2 ("cuMemcpyHtoDAsync", 3020) (dstDevice: u64, srcHost: *const c_void, ByteCount: usize, hStream: Handle) [CopyIn];
    /// Copies from device to host memory, in a stream.
    cuMemcpyDtoHAsync_v2 ("cuMemcpyDtoHAsync", 3020) (dstHost: *mut c_void, srcDevice: u64, ByteCount: usize, hStream: Handle) [CopyOut, CopyOutAsync];
    /// Copies between any two places, told by their addresses.
    cuMemcpy ("cuMemcpy", 4000) (dst: u64, src: u64, ByteCount: usize) [CopyIn, CopyOut, cuMemcpyDtoD_v2];
    /// Copies between any two places, told by their addresses, in a stream.
    cuMemcpyAsync ("cuMemcpyAsync", 4000) (dst: u64, src: u64, ByteCount: usize, hStream: Handle) [CopyIn, CopyOut, CopyOutAsync, cuMemcpyDtoDAsync_v2];

    /// The context of a stream.
    cuStreamGetCtx ("cuStreamGetCtx", 9020) (hStream: Handle, pctx: *mut Handle) [];
    /// Launches a kernel.
    cuLaunchKernel ("cuLaunchKernel", 4000) (f: Handle, gridDimX: u32, gridDimY: u32, gridDimZ: u32, blockDimX: u32, blockDimY: u32, blockDimZ: u32, sharedMemBytes: u32, hStream: Handle, kernelParams: *mut *mut c_void, extra: *mut *mut c_void) [Launch];
    /// Launches a kernel whose blocks may synchronise with each other.
    cuLaunchCooperativeKernel ("cuLaunchCooperativeKernel", 9000) (f: Handle, gridDimX: u32, gridDimY: u32, gridDimZ: u32, blockDimX: u32, blockDimY: u32, blockDimZ: u32, sharedMemBytes: u32, hStream: Handle, kernelParams: *mut *mut c_void) [Launch];
    /// Launches a kernel described by a structure.
    cuLaunchKernelEx ("cuLaunchKernelEx", 11060) (config: *const c_void, f: Handle, kernelParams: *mut *mut c_void, extra: *mut *mut c_void) [Launch];

    /// The name of a result.
    cuGetErrorName ("cuGetErrorName", 6000) (error: u32, pStr: *mut *const c_char) [];
    /// What a result means.
    cuGetErrorString ("cuGetErrorString", 6000) (error: u32, pStr: *mut *const c_char) [];
    /// The address of a function, by name and version.
    cuGetProcAddress ("cuGetProcAddress", 11030) (symbol: *const c_char, pfn: *mut *mut c_void, cudaVersion: i32, flags: u64) [];
    /// The address of a function, by name and version, and why there is none.
    cuGetProcAddress_v2 ("cuGetProcAddress", 12000) (symbol: *const c_char, pfn: *mut *mut c_void, cudaVersion: i32, flags: u64, symbolStatus: *mut i32) [];
    /// NVIDIA's private tables, which this project does not offer: CUDA_ERROR_NOT_FOUND.
    cuGetExportTable ("cuGetExportTable", 3000) (ppExportTable: *mut *const c_void, pExportTableId: *const Uuid) [];
}
driver {
    /// Some of a device's attributes.
    cuDeviceGetProperties ("cuDeviceGetProperties", 2000) (prop: *mut c_void, dev: i32);
    /// A device's number for Windows' display drivers: there is none.
    cuDeviceGetLuid ("cuDeviceGetLuid", 10000) (luid: *mut c_char, deviceNodeMask: *mut u32, dev: i32);
    /// A context's number, never used for another one.
    cuCtxGetId ("cuCtxGetId", 12000) (ctx: Handle, ctxId: *mut u64);
    /// Sets the flags of the calling thread's context.
    cuCtxSetFlags ("cuCtxSetFlags", 12010) (flags: u32);
    /// Counts a user of the calling thread's context.
    cuCtxAttach ("cuCtxAttach", 2000) (pctx: *mut Handle, flags: u32);
    /// Counts a user of a context less.
    cuCtxDetach ("cuCtxDetach", 2000) (ctx: Handle);
    /// Whether kernels of one device can reach the memory of another.
    cuDeviceCanAccessPeer ("cuDeviceCanAccessPeer", 4000) (canAccessPeer: *mut i32, dev: i32, peerDev: i32);
    /// One attribute of a pair of devices.
    cuDeviceGetP2PAttribute ("cuDeviceGetP2PAttribute", 8000) (value: *mut i32, attrib: i32, srcDevice: i32, dstDevice: i32);
    /// Lets kernels reach the memory of another context's device.
    cuCtxEnablePeerAccess ("cuCtxEnablePeerAccess", 4000) (peerContext: Handle, Flags: u32);
    /// Undoes that.
    cuCtxDisablePeerAccess ("cuCtxDisablePeerAccess", 4000) (peerContext: Handle);
    /// Tells a profiler to begin.
    cuProfilerStart ("cuProfilerStart", 4000) ();
    /// Tells a profiler to end.
    cuProfilerStop ("cuProfilerStop", 4000) ();

    /// What is known of a pointer, of several attributes at once.
    cuPointerGetAttributes ("cuPointerGetAttributes", 7000) (numAttributes: u32, attributes: *mut i32, data: *mut *mut c_void, ptr: u64);
    /// Sets an attribute of the allocation that an address lies in.
    cuPointerSetAttribute ("cuPointerSetAttribute", 6000) (value: *const c_void, attribute: i32, ptr: u64);

    /// Allocates rows of device memory that are aligned for textures.
    cuMemAllocPitch_v2 ("cuMemAllocPitch", 3020) (dptr: *mut u64, pPitch: *mut usize, WidthInBytes: usize, Height: usize, ElementSizeBytes: u32);
    /// Copies between two devices' memory.
    cuMemcpyPeer ("cuMemcpyPeer", 4000) (dstDevice: u64, dstContext: Handle, srcDevice: u64, srcContext: Handle, ByteCount: usize);
    /// Copies between two devices' memory, in a stream.
    cuMemcpyPeerAsync ("cuMemcpyPeerAsync", 4000) (dstDevice: u64, dstContext: Handle, srcDevice: u64, srcContext: Handle, ByteCount: usize, hStream: Handle);
    /// Copies rows.
    cuMemcpy2D_v2 ("cuMemcpy2D", 3020) (pCopy: *const c_void);
    /// Copies rows of any pitch.
    cuMemcpy2DUnaligned_v2 ("cuMemcpy2DUnaligned", 3020) (pCopy: *const c_void);
    /// Copies rows, in a stream.
    cuMemcpy2DAsync_v2 ("cuMemcpy2DAsync", 3020) (pCopy: *const c_void, hStream: Handle);
    /// Copies slices of rows.
    cuMemcpy3D_v2 ("cuMemcpy3D", 3020) (pCopy: *const c_void);
    /// Copies slices of rows, in a stream.
    cuMemcpy3DAsync_v2 ("cuMemcpy3DAsync", 3020) (pCopy: *const c_void, hStream: Handle);
    /// Copies slices of rows between devices.
    cuMemcpy3DPeer ("cuMemcpy3DPeer", 4000) (pCopy: *const c_void);
    /// Copies slices of rows between devices, in a stream.
    cuMemcpy3DPeerAsync ("cuMemcpy3DPeerAsync", 4000) (pCopy: *const c_void, hStream: Handle);
    /// Copies from an array to device memory.
    cuMemcpyAtoD_v2 ("cuMemcpyAtoD", 3020) (dstDevice: u64, srcArray: Handle, srcOffset: usize, ByteCount: usize);
    /// Copies from device memory to an array.
    cuMemcpyDtoA_v2 ("cuMemcpyDtoA", 3020) (dstArray: Handle, dstOffset: usize, srcDevice: u64, ByteCount: usize);
    /// Copies from host memory to an array.
    cuMemcpyHtoA_v2 ("cuMemcpyHtoA", 3020) (dstArray: Handle, dstOffset: usize, srcHost: *const c_void, ByteCount: usize);
    /// Copies from an array to host memory.
    cuMemcpyAtoH_v2 ("cuMemcpyAtoH", 3020) (dstHost: *mut c_void, srcArray: Handle, srcOffset: usize, ByteCount: usize);
    /// Copies from an array to an array.
    cuMemcpyAtoA_v2 ("cuMemcpyAtoA", 3020) (dstArray: Handle, dstOffset: usize, srcArray: Handle, srcOffset: usize, ByteCount: usize);
    /// Copies from host memory to an array, in a stream.
    cuMemcpyHtoAAsync_v2 ("cuMemcpyHtoAAsync", 3020) (dstArray: Handle, dstOffset: usize, srcHost: *const c_void, ByteCount: usize, hStream: Handle);
    /// Copies from an array to host memory, in a stream.
    cuMemcpyAtoHAsync_v2 ("cuMemcpyAtoHAsync", 3020) (dstHost: *mut c_void, srcArray: Handle, srcOffset: usize, ByteCount: usize, hStream: Handle);
    /// A handle for another process to open: there is none.
    cuIpcGetMemHandle ("cuIpcGetMemHandle", 4010) (pHandle: *mut IpcHandle, dptr: u64);
    /// Opens such a handle.
    cuIpcOpenMemHandle_v2 ("cuIpcOpenMemHandle", 11000) (pdptr: *mut u64, handle: IpcHandle, Flags: u32);
    /// Closes what such a handle opened.
    cuIpcCloseMemHandle ("cuIpcCloseMemHandle", 4010) (dptr: u64);
    /// A handle of an event for another process to open: there is none.
    cuIpcGetEventHandle ("cuIpcGetEventHandle", 4010) (pHandle: *mut IpcHandle, event: Handle);
    /// Opens such a handle.
    cuIpcOpenEventHandle ("cuIpcOpenEventHandle", 4010) (phEvent: *mut Handle, handle: IpcHandle);

    /// Allocates memory that host and devices use at one address.
    cuMemAllocManaged ("cuMemAllocManaged", 6000) (dptr: *mut u64, bytesize: usize, flags: u32);
    /// Attaches managed memory to a stream.
    cuStreamAttachMemAsync ("cuStreamAttachMemAsync", 6000) (hStream: Handle, dptr: u64, length: usize, flags: u32);
    /// Brings managed memory near a device.
    cuMemPrefetchAsync ("cuMemPrefetchAsync", 8000) (devPtr: u64, count: usize, dstDevice: i32, hStream: Handle);
    /// Brings managed memory near a place.
    cuMemPrefetchAsync_v2 ("cuMemPrefetchAsync", 12020) (devPtr: u64, count: usize, location: MemLocation, flags: u32, hStream: Handle);
    /// Says how managed memory is used.
    cuMemAdvise ("cuMemAdvise", 8000) (devPtr: u64, count: usize, advice: i32, device: i32);
    /// Says how managed memory is used, and near where.
    cuMemAdvise_v2 ("cuMemAdvise", 12020) (devPtr: u64, count: usize, advice: i32, location: MemLocation);
    /// What was said of managed memory.
    cuMemRangeGetAttribute ("cuMemRangeGetAttribute", 8000) (data: *mut c_void, dataSize: usize, attribute: i32, devPtr: u64, count: usize);
    /// What was said of managed memory, of several attributes at once.
    cuMemRangeGetAttributes ("cuMemRangeGetAttributes", 8000) (data: *mut *mut c_void, dataSizes: *mut usize, attributes: *mut i32, numAttributes: usize, devPtr: u64, count: usize);

    /// What sizes of memory and addresses must be multiples of.
    cuMemGetAllocationGranularity ("cuMemGetAllocationGranularity", 10020) (granularity: *mut usize, prop: *const c_void, option: i32);
    /// Reserves addresses.
    cuMemAddressReserve ("cuMemAddressReserve", 10020) (ptr: *mut u64, size: usize, alignment: usize, addr: u64, flags: u64);
    /// Gives reserved addresses back.
    cuMemAddressFree ("cuMemAddressFree", 10020) (ptr: u64, size: usize);
    /// Takes memory without an address.
    cuMemCreate ("cuMemCreate", 10020) (handle: *mut u64, size: usize, prop: *const c_void, flags: u64);
    /// Gives such memory back.
    cuMemRelease ("cuMemRelease", 10020) (handle: u64);
    /// The handle of the memory behind an address.
    cuMemRetainAllocationHandle ("cuMemRetainAllocationHandle", 11000) (handle: *mut u64, addr: *mut c_void);
    /// Puts memory at reserved addresses.
    cuMemMap ("cuMemMap", 10020) (ptr: u64, size: usize, offset: usize, handle: u64, flags: u64);
    /// Takes it from there.
    cuMemUnmap ("cuMemUnmap", 10020) (ptr: u64, size: usize);
    /// Lets devices use mapped memory.
    cuMemSetAccess ("cuMemSetAccess", 10020) (ptr: u64, size: usize, desc: *const c_void, count: usize);
    /// Whether a device may use mapped memory.
    cuMemGetAccess ("cuMemGetAccess", 10020) (flags: *mut u64, location: *const c_void, ptr: u64);
    /// How memory was created.
    cuMemGetAllocationPropertiesFromHandle ("cuMemGetAllocationPropertiesFromHandle", 10020) (prop: *mut c_void, handle: u64);
    /// A handle for another process to import: there is none.
    cuMemExportToShareableHandle ("cuMemExportToShareableHandle", 10020) (shareableHandle: *mut c_void, handle: u64, handleType: i32, flags: u64);
    /// Imports such a handle.
    cuMemImportFromShareableHandle ("cuMemImportFromShareableHandle", 10020) (handle: *mut u64, osHandle: *mut c_void, shHandleType: i32);

    /// Creates an array of one or two dimensions.
    cuArrayCreate_v2 ("cuArrayCreate", 3020) (pHandle: *mut Handle, pAllocateArray: *const c_void);
    /// Creates an array.
    cuArray3DCreate_v2 ("cuArray3DCreate", 3020) (pHandle: *mut Handle, pAllocateArray: *const c_void);
    /// How an array was created, without depth and flags.
    cuArrayGetDescriptor_v2 ("cuArrayGetDescriptor", 3020) (pArrayDescriptor: *mut c_void, hArray: Handle);
    /// How an array was created.
    cuArray3DGetDescriptor_v2 ("cuArray3DGetDescriptor", 3020) (pArrayDescriptor: *mut c_void, hArray: Handle);
    /// Destroys an array.
    cuArrayDestroy ("cuArrayDestroy", 2000) (hArray: Handle);
    /// Creates an array with smaller versions of itself.
    cuMipmappedArrayCreate ("cuMipmappedArrayCreate", 5000) (pHandle: *mut Handle, pMipmappedArrayDesc: *const c_void, numMipmapLevels: u32);
    /// A level of a mipmapped array.
    cuMipmappedArrayGetLevel ("cuMipmappedArrayGetLevel", 5000) (pLevelArray: *mut Handle, hMipmappedArray: Handle, level: u32);
    /// Destroys a mipmapped array and its levels.
    cuMipmappedArrayDestroy ("cuMipmappedArrayDestroy", 5000) (hMipmappedArray: Handle);
    /// Creates a texture object.
    cuTexObjectCreate ("cuTexObjectCreate", 5000) (pTexObject: *mut u64, pResDesc: *const c_void, pTexDesc: *const c_void, pResViewDesc: *const c_void);
    /// Destroys a texture object.
    cuTexObjectDestroy ("cuTexObjectDestroy", 5000) (texObject: u64);
    /// What a texture object reads.
    cuTexObjectGetResourceDesc ("cuTexObjectGetResourceDesc", 5000) (pResDesc: *mut c_void, texObject: u64);
    /// How a texture object reads.
    cuTexObjectGetTextureDesc ("cuTexObjectGetTextureDesc", 5000) (pTexDesc: *mut c_void, texObject: u64);
    /// The part that a texture object reads.
    cuTexObjectGetResourceViewDesc ("cuTexObjectGetResourceViewDesc", 5000) (pResViewDesc: *mut c_void, texObject: u64);
    /// Creates a surface object.
    cuSurfObjectCreate ("cuSurfObjectCreate", 5000) (pSurfObject: *mut u64, pResDesc: *const c_void);
    /// Destroys a surface object.
    cuSurfObjectDestroy ("cuSurfObjectDestroy", 5000) (surfObject: u64);
    /// What a surface object is of.
    cuSurfObjectGetResourceDesc ("cuSurfObjectGetResourceDesc", 5000) (pResDesc: *mut c_void, surfObject: u64);
    /// Finds a texture reference in a module.
    cuModuleGetTexRef ("cuModuleGetTexRef", 2000) (pTexRef: *mut Handle, hmod: Handle, name: *const c_char);
    /// Finds a surface reference in a module.
    cuModuleGetSurfRef ("cuModuleGetSurfRef", 3000) (pSurfRef: *mut Handle, hmod: Handle, name: *const c_char);
    /// Binds an array to a texture reference.
    cuTexRefSetArray ("cuTexRefSetArray", 2000) (hTexRef: Handle, hArray: Handle, Flags: u32);
    /// Binds a mipmapped array to a texture reference.
    cuTexRefSetMipmappedArray ("cuTexRefSetMipmappedArray", 5000) (hTexRef: Handle, hMipmappedArray: Handle, Flags: u32);
    /// Binds an array to a surface reference.
    cuSurfRefSetArray ("cuSurfRefSetArray", 3000) (hSurfRef: Handle, hArray: Handle, Flags: u32);
    /// Binds device memory to a texture reference.
    cuTexRefSetAddress_v2 ("cuTexRefSetAddress", 3020) (ByteOffset: *mut usize, hTexRef: Handle, dptr: u64, bytes: usize);
    /// Binds rows of device memory to a texture reference.
    cuTexRefSetAddress2D_v3 ("cuTexRefSetAddress2D", 4010) (hTexRef: Handle, desc: *const c_void, dptr: u64, Pitch: usize);
    /// Sets the format that a texture reference reads device memory in.
    cuTexRefSetFormat ("cuTexRefSetFormat", 2000) (hTexRef: Handle, fmt: u32, NumPackedComponents: i32);
    /// Sets what a texture reference does with coordinates outside.
    cuTexRefSetAddressMode ("cuTexRefSetAddressMode", 2000) (hTexRef: Handle, dim: i32, am: u32);
    /// Sets a texture reference's filter.
    cuTexRefSetFilterMode ("cuTexRefSetFilterMode", 2000) (hTexRef: Handle, fm: u32);
    /// Sets a texture reference's filter between levels.
    cuTexRefSetMipmapFilterMode ("cuTexRefSetMipmapFilterMode", 5000) (hTexRef: Handle, fm: u32);
    /// Sets what a texture reference adds to the level.
    cuTexRefSetMipmapLevelBias ("cuTexRefSetMipmapLevelBias", 5000) (hTexRef: Handle, bias: f32);
    /// Sets the levels that a texture reference reads.
    cuTexRefSetMipmapLevelClamp ("cuTexRefSetMipmapLevelClamp", 5000) (hTexRef: Handle, minMipmapLevelClamp: f32, maxMipmapLevelClamp: f32);
    /// Sets a texture reference's anisotropy.
    cuTexRefSetMaxAnisotropy ("cuTexRefSetMaxAnisotropy", 5000) (hTexRef: Handle, maxAniso: u32);
    /// Sets a texture reference's colour outside.
    cuTexRefSetBorderColor ("cuTexRefSetBorderColor", 8000) (hTexRef: Handle, pBorderColor: *mut f32);
    /// Sets a texture reference's flags.
    cuTexRefSetFlags ("cuTexRefSetFlags", 2000) (hTexRef: Handle, Flags: u32);
    /// The address bound to a texture reference.
    cuTexRefGetAddress_v2 ("cuTexRefGetAddress", 3020) (pdptr: *mut u64, hTexRef: Handle);
    /// What a texture reference does with coordinates outside.
    cuTexRefGetAddressMode ("cuTexRefGetAddressMode", 2000) (pam: *mut u32, hTexRef: Handle, dim: i32);
    /// A texture reference's filter.
    cuTexRefGetFilterMode ("cuTexRefGetFilterMode", 2000) (pfm: *mut u32, hTexRef: Handle);
    /// A texture reference's flags.
    cuTexRefGetFlags ("cuTexRefGetFlags", 2000) (pFlags: *mut u32, hTexRef: Handle);
    /// The format that a texture reference reads.
    cuTexRefGetFormat ("cuTexRefGetFormat", 2000) (pFormat: *mut u32, pNumChannels: *mut i32, hTexRef: Handle);
    /// A texture reference's colour outside.
    cuTexRefGetBorderColor ("cuTexRefGetBorderColor", 8000) (pBorderColor: *mut f32, hTexRef: Handle);

    /// The kernels of a module.
    cuModuleEnumerateFunctions ("cuModuleEnumerateFunctions", 12040) (functions: *mut Handle, numFunctions: u32, hmod: Handle);
    /// A function's name.
    cuFuncGetName ("cuFuncGetName", 12030) (name: *mut *const c_char, hfunc: Handle);
    /// Begins a link.
    cuLinkCreate_v2 ("cuLinkCreate", 6050) (numOptions: u32, options: *mut i32, optionValues: *mut *mut c_void, stateOut: *mut Handle);
    /// Adds code in memory to a link.
    cuLinkAddData_v2 ("cuLinkAddData", 6050) (state: Handle, kind: i32, data: *mut c_void, size: usize, name: *const c_char, numOptions: u32, options: *mut i32, optionValues: *mut *mut c_void);
    /// Adds a file to a link.
    cuLinkAddFile_v2 ("cuLinkAddFile", 6050) (state: Handle, kind: i32, path: *const c_char, numOptions: u32, options: *mut i32, optionValues: *mut *mut c_void);
    /// Links what was added; the image lives as long as the link.
    cuLinkComplete ("cuLinkComplete", 5050) (state: Handle, cubinOut: *mut *mut c_void, sizeOut: *mut usize);
    /// Ends a link and its image.
    cuLinkDestroy ("cuLinkDestroy", 5050) (state: Handle);
    /// Loads code that belongs to no context.
    cuLibraryLoadData ("cuLibraryLoadData", 12000) (library: *mut Handle, code: *const c_void, jitOptions: *mut i32, jitOptionsValues: *mut *mut c_void, numJitOptions: u32, libraryOptions: *mut i32, libraryOptionValues: *mut *mut c_void, numLibraryOptions: u32);
    /// Loads such code from a file.
    cuLibraryLoadFromFile ("cuLibraryLoadFromFile", 12000) (library: *mut Handle, fileName: *const c_char, jitOptions: *mut i32, jitOptionsValues: *mut *mut c_void, numJitOptions: u32, libraryOptions: *mut i32, libraryOptionValues: *mut *mut c_void, numLibraryOptions: u32);
    /// Unloads a library.
    cuLibraryUnload ("cuLibraryUnload", 12000) (library: Handle);
    /// Finds a kernel in a library.
    cuLibraryGetKernel ("cuLibraryGetKernel", 12000) (pKernel: *mut Handle, library: Handle, name: *const c_char);
    /// Number of kernels of a library.
    cuLibraryGetKernelCount ("cuLibraryGetKernelCount", 12040) (count: *mut u32, lib: Handle);
    /// The kernels of a library.
    cuLibraryEnumerateKernels ("cuLibraryEnumerateKernels", 12040) (kernels: *mut Handle, numKernels: u32, lib: Handle);
    /// A library's module in the current context.
    cuLibraryGetModule ("cuLibraryGetModule", 12000) (pMod: *mut Handle, library: Handle);
    /// Finds a variable in a library, for the current context.
    cuLibraryGetGlobal ("cuLibraryGetGlobal", 12000) (dptr: *mut u64, bytes: *mut usize, library: Handle, name: *const c_char);
    /// Finds a managed variable in a library.
    cuLibraryGetManaged ("cuLibraryGetManaged", 12000) (dptr: *mut u64, bytes: *mut usize, library: Handle, name: *const c_char);
    /// Finds a function that host and device can call: there is none.
    cuLibraryGetUnifiedFunction ("cuLibraryGetUnifiedFunction", 12000) (fptr: *mut *mut c_void, library: Handle, symbol: *const c_char);
    /// A library's kernel as a function of the current context.
    cuKernelGetFunction ("cuKernelGetFunction", 12000) (pFunc: *mut Handle, kernel: Handle);
    /// A kernel's library.
    cuKernelGetLibrary ("cuKernelGetLibrary", 12050) (pLib: *mut Handle, kernel: Handle);
    /// A kernel's name.
    cuKernelGetName ("cuKernelGetName", 12030) (name: *mut *const c_char, hfunc: Handle);
    /// Offset and size of a kernel's parameter.
    cuKernelGetParamInfo ("cuKernelGetParamInfo", 12040) (kernel: Handle, paramIndex: usize, paramOffset: *mut usize, paramSize: *mut usize);
    /// One attribute of a kernel on a device.
    cuKernelGetAttribute ("cuKernelGetAttribute", 12000) (pi: *mut i32, attrib: i32, kernel: Handle, dev: i32);
    /// Sets an attribute of a kernel on a device.
    cuKernelSetAttribute ("cuKernelSetAttribute", 12000) (attrib: i32, val: i32, kernel: Handle, dev: i32);
    /// Sets a kernel's preference between cache and shared memory on a device.
    cuKernelSetCacheConfig ("cuKernelSetCacheConfig", 12000) (kernel: Handle, config: i32, dev: i32);
    /// The block size that fills the device best.
    cuOccupancyMaxPotentialBlockSize ("cuOccupancyMaxPotentialBlockSize", 6050) (minGridSize: *mut i32, blockSize: *mut i32, func: Handle, blockSizeToDynamicSMemSize: *const c_void, dynamicSMemSize: usize, blockSizeLimit: i32);
    /// The block size that fills the device best, with flags.
    cuOccupancyMaxPotentialBlockSizeWithFlags ("cuOccupancyMaxPotentialBlockSizeWithFlags", 7000) (minGridSize: *mut i32, blockSize: *mut i32, func: Handle, blockSizeToDynamicSMemSize: *const c_void, dynamicSMemSize: usize, blockSizeLimit: i32, flags: u32);
    /// The largest cluster of blocks.
    cuOccupancyMaxPotentialClusterSize ("cuOccupancyMaxPotentialClusterSize", 11070) (clusterSize: *mut i32, func: Handle, config: *const c_void);
    /// Clusters that fit on the device.
    cuOccupancyMaxActiveClusters ("cuOccupancyMaxActiveClusters", 11070) (numClusters: *mut i32, func: Handle, config: *const c_void);
    /// The context of a stream, and its green context: there is none.
    cuStreamGetCtx_v2 ("cuStreamGetCtx", 12050) (hStream: Handle, pctx: *mut Handle, pGreenCtx: *mut Handle);
    /// The device of a stream.
    cuStreamGetDevice ("cuStreamGetDevice", 12080) (hStream: Handle, device: *mut i32);
    /// One attribute of a stream.
    cuStreamGetAttribute ("cuStreamGetAttribute", 11000) (hStream: Handle, attr: i32, value_out: *mut c_void);
    /// Sets an attribute of a stream.
    cuStreamSetAttribute ("cuStreamSetAttribute", 11000) (hStream: Handle, attr: i32, value: *const c_void);
    /// Calls a function of the program's in a stream.
    cuLaunchHostFunc ("cuLaunchHostFunc", 10000) (hStream: Handle, func: HostFn, userData: *mut c_void);
    /// Calls a function of the program's in a stream, and tells it the stream's error.
    cuStreamAddCallback ("cuStreamAddCallback", 5000) (hStream: Handle, callback: StreamCallback, userData: *mut c_void, flags: u32);
    /// Writes a 32-bit value in a stream.
    cuStreamWriteValue32 ("cuStreamWriteValue32", 8000) (hStream: Handle, addr: u64, value: u32, flags: u32);
    /// Writes a 32-bit value in a stream.
    cuStreamWriteValue32_v2 ("cuStreamWriteValue32", 11070) (hStream: Handle, addr: u64, value: u32, flags: u32);
    /// Writes a 64-bit value in a stream.
    cuStreamWriteValue64 ("cuStreamWriteValue64", 9000) (hStream: Handle, addr: u64, value: u64, flags: u32);
    /// Writes a 64-bit value in a stream.
    cuStreamWriteValue64_v2 ("cuStreamWriteValue64", 11070) (hStream: Handle, addr: u64, value: u64, flags: u32);
    /// Makes a stream wait for a 32-bit value in memory.
    cuStreamWaitValue32 ("cuStreamWaitValue32", 8000) (hStream: Handle, addr: u64, value: u32, flags: u32);
    /// Makes a stream wait for a 32-bit value in memory.
    cuStreamWaitValue32_v2 ("cuStreamWaitValue32", 11070) (hStream: Handle, addr: u64, value: u32, flags: u32);
    /// Makes a stream wait for a 64-bit value in memory.
    cuStreamWaitValue64 ("cuStreamWaitValue64", 9000) (hStream: Handle, addr: u64, value: u64, flags: u32);
    /// Makes a stream wait for a 64-bit value in memory.
    cuStreamWaitValue64_v2 ("cuStreamWaitValue64", 11070) (hStream: Handle, addr: u64, value: u64, flags: u32);
    /// Writes and waits for several values in a stream.
    cuStreamBatchMemOp ("cuStreamBatchMemOp", 8000) (hStream: Handle, count: u32, paramArray: *mut c_void, flags: u32);
    /// Writes and waits for several values in a stream.
    cuStreamBatchMemOp_v2 ("cuStreamBatchMemOp", 11070) (hStream: Handle, count: u32, paramArray: *mut c_void, flags: u32);

    /// Allocates from a memory pool in stream order.
    cuMemAllocFromPoolAsync ("cuMemAllocFromPoolAsync", 11020) (dptr: *mut u64, bytesize: usize, pool: Handle, hStream: Handle);
    /// A device's default memory pool.
    cuDeviceGetDefaultMemPool ("cuDeviceGetDefaultMemPool", 11020) (pool_out: *mut Handle, dev: i32);
    /// The memory pool that a device's allocations come from.
    cuDeviceGetMemPool ("cuDeviceGetMemPool", 11020) (pool: *mut Handle, dev: i32);
    /// Sets the memory pool that a device's allocations come from.
    cuDeviceSetMemPool ("cuDeviceSetMemPool", 11020) (dev: i32, pool: Handle);
    /// Creates a memory pool.
    cuMemPoolCreate ("cuMemPoolCreate", 11020) (pool: *mut Handle, poolProps: *const c_void);
    /// Destroys a memory pool; what was allocated from it stays.
    cuMemPoolDestroy ("cuMemPoolDestroy", 11020) (pool: Handle);
    /// Gives memory back that a pool keeps.
    cuMemPoolTrimTo ("cuMemPoolTrimTo", 11020) (pool: Handle, minBytesToKeep: usize);
    /// One attribute of a memory pool.
    cuMemPoolGetAttribute ("cuMemPoolGetAttribute", 11020) (pool: Handle, attr: i32, value: *mut c_void);
    /// Sets an attribute of a memory pool.
    cuMemPoolSetAttribute ("cuMemPoolSetAttribute", 11020) (pool: Handle, attr: i32, value: *mut c_void);
    /// Which devices reach a pool's memory.
    cuMemPoolGetAccess ("cuMemPoolGetAccess", 11020) (flags: *mut i32, memPool: Handle, location: *const c_void);
    /// Sets which devices reach a pool's memory.
    cuMemPoolSetAccess ("cuMemPoolSetAccess", 11020) (pool: Handle, map: *const c_void, count: usize);
    /// Gives memory back that graphs keep.
    cuDeviceGraphMemTrim ("cuDeviceGraphMemTrim", 11040) (dev: i32);

    /// Begins to capture a stream.
    cuStreamBeginCapture_v2 ("cuStreamBeginCapture", 10010) (hStream: Handle, mode: i32);
    /// Begins to capture a stream into a graph that is there.
    cuStreamBeginCaptureToGraph ("cuStreamBeginCaptureToGraph", 12030) (hStream: Handle, hGraph: Handle, dependencies: *const Handle, dependencyData: *const c_void, numDependencies: usize, mode: i32);
    /// Ends a stream's capture and gives the graph.
    cuStreamEndCapture ("cuStreamEndCapture", 10000) (hStream: Handle, phGraph: *mut Handle);
    /// What a stream's capture is like.
    cuStreamGetCaptureInfo ("cuStreamGetCaptureInfo", 10010) (hStream: Handle, captureStatus_out: *mut i32, id_out: *mut u64);
    /// What a stream's capture is like, with its graph and what the next node follows.
    cuStreamGetCaptureInfo_v2 ("cuStreamGetCaptureInfo", 11030) (hStream: Handle, captureStatus_out: *mut i32, id_out: *mut u64, graph_out: *mut Handle, dependencies_out: *mut *const Handle, numDependencies_out: *mut usize);
    /// What a stream's capture is like, with its graph, what the next node follows and by which edges.
    cuStreamGetCaptureInfo_v3 ("cuStreamGetCaptureInfo", 12030) (hStream: Handle, captureStatus_out: *mut i32, id_out: *mut u64, graph_out: *mut Handle, dependencies_out: *mut *const Handle, edgeData_out: *mut *const c_void, numDependencies_out: *mut usize);
    /// Changes what a captured stream's next node follows.
    cuStreamUpdateCaptureDependencies ("cuStreamUpdateCaptureDependencies", 11030) (hStream: Handle, dependencies: *mut Handle, numDependencies: usize, flags: u32);
    /// Changes what a captured stream's next node follows.
    cuStreamUpdateCaptureDependencies_v2 ("cuStreamUpdateCaptureDependencies", 12030) (hStream: Handle, dependencies: *mut Handle, dependencyData: *const c_void, numDependencies: usize, flags: u32);
    /// Exchanges which captures forbid the calling thread unsafe calls.
    cuThreadExchangeStreamCaptureMode ("cuThreadExchangeStreamCaptureMode", 10010) (mode: *mut i32);

    /// Creates a graph.
    cuGraphCreate ("cuGraphCreate", 10000) (phGraph: *mut Handle, flags: u32);
    /// Destroys a graph and its nodes.
    cuGraphDestroy ("cuGraphDestroy", 10000) (hGraph: Handle);
    /// Copies a graph.
    cuGraphClone ("cuGraphClone", 10000) (phGraphClone: *mut Handle, originalGraph: Handle);
    /// The copy of a node in a copy of its graph.
    cuGraphNodeFindInClone ("cuGraphNodeFindInClone", 10000) (phNode: *mut Handle, hOriginalNode: Handle, hClonedGraph: Handle);
    /// Adds a node that does nothing.
    cuGraphAddEmptyNode ("cuGraphAddEmptyNode", 10000) (phGraphNode: *mut Handle, hGraph: Handle, dependencies: *const Handle, numDependencies: usize);
    /// Adds a node that runs a kernel.
    cuGraphAddKernelNode ("cuGraphAddKernelNode", 10000) (phGraphNode: *mut Handle, hGraph: Handle, dependencies: *const Handle, numDependencies: usize, nodeParams: *const c_void);
    /// A kernel node's parameters.
    cuGraphKernelNodeGetParams ("cuGraphKernelNodeGetParams", 10000) (hNode: Handle, nodeParams: *mut c_void);
    /// Sets a kernel node's parameters.
    cuGraphKernelNodeSetParams ("cuGraphKernelNodeSetParams", 10000) (hNode: Handle, nodeParams: *const c_void);
    /// Sets a kernel node's parameters in an executable graph.
    cuGraphExecKernelNodeSetParams ("cuGraphExecKernelNodeSetParams", 10010) (hGraphExec: Handle, hNode: Handle, nodeParams: *const c_void);
    /// Adds a node that runs a kernel.
    cuGraphAddKernelNode_v2 ("cuGraphAddKernelNode", 12000) (phGraphNode: *mut Handle, hGraph: Handle, dependencies: *const Handle, numDependencies: usize, nodeParams: *const c_void);
    /// A kernel node's parameters.
    cuGraphKernelNodeGetParams_v2 ("cuGraphKernelNodeGetParams", 12000) (hNode: Handle, nodeParams: *mut c_void);
    /// Sets a kernel node's parameters.
    cuGraphKernelNodeSetParams_v2 ("cuGraphKernelNodeSetParams", 12000) (hNode: Handle, nodeParams: *const c_void);
    /// Sets a kernel node's parameters in an executable graph.
    cuGraphExecKernelNodeSetParams_v2 ("cuGraphExecKernelNodeSetParams", 12000) (hGraphExec: Handle, hNode: Handle, nodeParams: *const c_void);
    /// Adds a node that copies.
    cuGraphAddMemcpyNode ("cuGraphAddMemcpyNode", 10000) (phGraphNode: *mut Handle, hGraph: Handle, dependencies: *const Handle, numDependencies: usize, copyParams: *const c_void, ctx: Handle);
    /// Such a node's parameters.
    cuGraphMemcpyNodeGetParams ("cuGraphMemcpyNodeGetParams", 10000) (hNode: Handle, nodeParams: *mut c_void);
    /// Sets such a node's parameters.
    cuGraphMemcpyNodeSetParams ("cuGraphMemcpyNodeSetParams", 10000) (hNode: Handle, nodeParams: *const c_void);
    /// Sets such a node's parameters in an executable graph.
    cuGraphExecMemcpyNodeSetParams ("cuGraphExecMemcpyNodeSetParams", 10020) (hGraphExec: Handle, hNode: Handle, copyParams: *const c_void, ctx: Handle);
    /// Adds a node that fills memory.
    cuGraphAddMemsetNode ("cuGraphAddMemsetNode", 10000) (phGraphNode: *mut Handle, hGraph: Handle, dependencies: *const Handle, numDependencies: usize, memsetParams: *const c_void, ctx: Handle);
    /// Such a node's parameters.
    cuGraphMemsetNodeGetParams ("cuGraphMemsetNodeGetParams", 10000) (hNode: Handle, nodeParams: *mut c_void);
    /// Sets such a node's parameters.
    cuGraphMemsetNodeSetParams ("cuGraphMemsetNodeSetParams", 10000) (hNode: Handle, nodeParams: *const c_void);
    /// Sets such a node's parameters in an executable graph.
    cuGraphExecMemsetNodeSetParams ("cuGraphExecMemsetNodeSetParams", 10020) (hGraphExec: Handle, hNode: Handle, memsetParams: *const c_void, ctx: Handle);
    /// Adds a node that calls a function of the program's.
    cuGraphAddHostNode ("cuGraphAddHostNode", 10000) (phGraphNode: *mut Handle, hGraph: Handle, dependencies: *const Handle, numDependencies: usize, nodeParams: *const c_void);
    /// Such a node's parameters.
    cuGraphHostNodeGetParams ("cuGraphHostNodeGetParams", 10000) (hNode: Handle, nodeParams: *mut c_void);
    /// Sets such a node's parameters.
    cuGraphHostNodeSetParams ("cuGraphHostNodeSetParams", 10000) (hNode: Handle, nodeParams: *const c_void);
    /// Sets such a node's parameters in an executable graph.
    cuGraphExecHostNodeSetParams ("cuGraphExecHostNodeSetParams", 10020) (hGraphExec: Handle, hNode: Handle, nodeParams: *const c_void);
    /// Adds a node that stands for a copy of a graph.
    cuGraphAddChildGraphNode ("cuGraphAddChildGraphNode", 10000) (phGraphNode: *mut Handle, hGraph: Handle, dependencies: *const Handle, numDependencies: usize, childGraph: Handle);
    /// The graph that such a node stands for.
    cuGraphChildGraphNodeGetGraph ("cuGraphChildGraphNodeGetGraph", 10000) (hNode: Handle, phGraph: *mut Handle);
    /// Sets the parameters of a graph in an executable graph.
    cuGraphExecChildGraphNodeSetParams ("cuGraphExecChildGraphNodeSetParams", 11010) (hGraphExec: Handle, hNode: Handle, childGraph: Handle);
    /// Adds a node that records an event.
    cuGraphAddEventRecordNode ("cuGraphAddEventRecordNode", 11010) (phGraphNode: *mut Handle, hGraph: Handle, dependencies: *const Handle, numDependencies: usize, event: Handle);
    /// Such a node's event.
    cuGraphEventRecordNodeGetEvent ("cuGraphEventRecordNodeGetEvent", 11010) (hNode: Handle, event_out: *mut Handle);
    /// Sets such a node's event.
    cuGraphEventRecordNodeSetEvent ("cuGraphEventRecordNodeSetEvent", 11010) (hNode: Handle, event: Handle);
    /// Sets such a node's event in an executable graph.
    cuGraphExecEventRecordNodeSetEvent ("cuGraphExecEventRecordNodeSetEvent", 11010) (hGraphExec: Handle, hNode: Handle, event: Handle);
    /// Adds a node that waits for an event.
    cuGraphAddEventWaitNode ("cuGraphAddEventWaitNode", 11010) (phGraphNode: *mut Handle, hGraph: Handle, dependencies: *const Handle, numDependencies: usize, event: Handle);
    /// Such a node's event.
    cuGraphEventWaitNodeGetEvent ("cuGraphEventWaitNodeGetEvent", 11010) (hNode: Handle, event_out: *mut Handle);
    /// Sets such a node's event.
    cuGraphEventWaitNodeSetEvent ("cuGraphEventWaitNodeSetEvent", 11010) (hNode: Handle, event: Handle);
    /// Sets such a node's event in an executable graph.
    cuGraphExecEventWaitNodeSetEvent ("cuGraphExecEventWaitNodeSetEvent", 11010) (hGraphExec: Handle, hNode: Handle, event: Handle);
    /// Adds a node that allocates memory for the graph.
    cuGraphAddMemAllocNode ("cuGraphAddMemAllocNode", 11040) (phGraphNode: *mut Handle, hGraph: Handle, dependencies: *const Handle, numDependencies: usize, nodeParams: *mut c_void);
    /// The parameters of such a node.
    cuGraphMemAllocNodeGetParams ("cuGraphMemAllocNodeGetParams", 11040) (hNode: Handle, params_out: *mut c_void);
    /// Adds a node that frees such memory.
    cuGraphAddMemFreeNode ("cuGraphAddMemFreeNode", 11040) (phGraphNode: *mut Handle, hGraph: Handle, dependencies: *const Handle, numDependencies: usize, dptr: u64);
    /// The address that such a node frees.
    cuGraphMemFreeNodeGetParams ("cuGraphMemFreeNodeGetParams", 11040) (hNode: Handle, dptr_out: *mut u64);
    /// Adds a node that writes and waits for values.
    cuGraphAddBatchMemOpNode ("cuGraphAddBatchMemOpNode", 11070) (phGraphNode: *mut Handle, hGraph: Handle, dependencies: *const Handle, numDependencies: usize, nodeParams: *const c_void);
    /// Sets such a node's parameters.
    cuGraphBatchMemOpNodeSetParams ("cuGraphBatchMemOpNodeSetParams", 11070) (hNode: Handle, nodeParams: *const c_void);
    /// Sets such a node's parameters in an executable graph.
    cuGraphExecBatchMemOpNodeSetParams ("cuGraphExecBatchMemOpNodeSetParams", 11070) (hGraphExec: Handle, hNode: Handle, nodeParams: *const c_void);
    /// Adds a node of any kind.
    cuGraphAddNode ("cuGraphAddNode", 12020) (phGraphNode: *mut Handle, hGraph: Handle, dependencies: *const Handle, numDependencies: usize, nodeParams: *mut c_void);
    /// Adds a node of any kind.
    cuGraphAddNode_v2 ("cuGraphAddNode", 12030) (phGraphNode: *mut Handle, hGraph: Handle, dependencies: *const Handle, dependencyData: *const c_void, numDependencies: usize, nodeParams: *mut c_void);
    /// Sets a node's parameters.
    cuGraphNodeSetParams ("cuGraphNodeSetParams", 12020) (hNode: Handle, nodeParams: *mut c_void);
    /// Sets a node's parameters in an executable graph.
    cuGraphExecNodeSetParams ("cuGraphExecNodeSetParams", 12020) (hGraphExec: Handle, hNode: Handle, nodeParams: *mut c_void);
    /// A node's kind.
    cuGraphNodeGetType ("cuGraphNodeGetType", 10000) (hNode: Handle, kind: *mut i32);
    /// A graph's nodes.
    cuGraphGetNodes ("cuGraphGetNodes", 10000) (hGraph: Handle, nodes: *mut Handle, numNodes: *mut usize);
    /// A graph's nodes that wait for none.
    cuGraphGetRootNodes ("cuGraphGetRootNodes", 10000) (hGraph: Handle, rootNodes: *mut Handle, numRootNodes: *mut usize);
    /// A graph's edges.
    cuGraphGetEdges ("cuGraphGetEdges", 10000) (hGraph: Handle, from: *mut Handle, to: *mut Handle, numEdges: *mut usize);
    /// A graph's edges.
    cuGraphGetEdges_v2 ("cuGraphGetEdges", 12030) (hGraph: Handle, from: *mut Handle, to: *mut Handle, edgeData: *mut c_void, numEdges: *mut usize);
    /// The nodes that a node waits for.
    cuGraphNodeGetDependencies ("cuGraphNodeGetDependencies", 10000) (hNode: Handle, dependencies: *mut Handle, count: *mut usize);
    /// The nodes that a node waits for.
    cuGraphNodeGetDependencies_v2 ("cuGraphNodeGetDependencies", 12030) (hNode: Handle, dependencies: *mut Handle, edgeData: *mut c_void, count: *mut usize);
    /// The nodes that wait for a node.
    cuGraphNodeGetDependentNodes ("cuGraphNodeGetDependentNodes", 10000) (hNode: Handle, dependentNodes: *mut Handle, count: *mut usize);
    /// The nodes that wait for a node.
    cuGraphNodeGetDependentNodes_v2 ("cuGraphNodeGetDependentNodes", 12030) (hNode: Handle, dependentNodes: *mut Handle, edgeData: *mut c_void, count: *mut usize);
    /// Makes nodes wait for others.
    cuGraphAddDependencies ("cuGraphAddDependencies", 10000) (hGraph: Handle, from: *const Handle, to: *const Handle, numDependencies: usize);
    /// Makes nodes wait for others.
    cuGraphAddDependencies_v2 ("cuGraphAddDependencies", 12030) (hGraph: Handle, from: *const Handle, to: *const Handle, edgeData: *const c_void, numDependencies: usize);
    /// Makes nodes not wait for others.
    cuGraphRemoveDependencies ("cuGraphRemoveDependencies", 10000) (hGraph: Handle, from: *const Handle, to: *const Handle, numDependencies: usize);
    /// Makes nodes not wait for others.
    cuGraphRemoveDependencies_v2 ("cuGraphRemoveDependencies", 12030) (hGraph: Handle, from: *const Handle, to: *const Handle, edgeData: *const c_void, numDependencies: usize);
    /// Takes a node out of its graph.
    cuGraphDestroyNode ("cuGraphDestroyNode", 10000) (hNode: Handle);
    /// Makes a graph executable.
    cuGraphInstantiate ("cuGraphInstantiate", 10000) (phGraphExec: *mut Handle, hGraph: Handle, phErrorNode: *mut Handle, logBuffer: *mut c_char, bufferSize: usize);
    /// Makes a graph executable.
    cuGraphInstantiate_v2 ("cuGraphInstantiate", 11000) (phGraphExec: *mut Handle, hGraph: Handle, phErrorNode: *mut Handle, logBuffer: *mut c_char, bufferSize: usize);
    /// Makes a graph executable.
    cuGraphInstantiateWithFlags ("cuGraphInstantiateWithFlags", 11040) (phGraphExec: *mut Handle, hGraph: Handle, flags: u64);
    /// Makes a graph executable.
    cuGraphInstantiateWithParams ("cuGraphInstantiateWithParams", 12000) (phGraphExec: *mut Handle, hGraph: Handle, instantiateParams: *mut c_void);
    /// How an executable graph was made.
    cuGraphExecGetFlags ("cuGraphExecGetFlags", 12000) (hGraphExec: Handle, flags: *mut u64);
    /// Makes an executable graph ready.
    cuGraphUpload ("cuGraphUpload", 11010) (hGraphExec: Handle, hStream: Handle);
    /// Launches an executable graph in a stream.
    cuGraphLaunch ("cuGraphLaunch", 10000) (hGraphExec: Handle, hStream: Handle);
    /// Destroys an executable graph; its launches still end.
    cuGraphExecDestroy ("cuGraphExecDestroy", 10000) (hGraphExec: Handle);
    /// Gives an executable graph a graph's parameters.
    cuGraphExecUpdate ("cuGraphExecUpdate", 10020) (hGraphExec: Handle, hGraph: Handle, hErrorNode_out: *mut Handle, updateResult_out: *mut i32);
    /// Gives an executable graph a graph's parameters.
    cuGraphExecUpdate_v2 ("cuGraphExecUpdate", 12000) (hGraphExec: Handle, hGraph: Handle, resultInfo: *mut c_void);
    /// Whether a node of an executable graph is carried out.
    cuGraphNodeGetEnabled ("cuGraphNodeGetEnabled", 11060) (hGraphExec: Handle, hNode: Handle, isEnabled: *mut u32);
    /// Sets whether a node of an executable graph is carried out.
    cuGraphNodeSetEnabled ("cuGraphNodeSetEnabled", 11060) (hGraphExec: Handle, hNode: Handle, isEnabled: u32);
}
    } };
}

macro_rules! tables {
    (
        auto { $($(#[doc = $adoc:literal])+ $anum:literal $aname:ident ($abase:literal, $asince:literal) $amode:ident ($($p:tt)*);)* }
        wire { $($(#[doc = $wdoc:literal])+ $wnum:literal $wname:ident $wmode:ident {$($req:tt)*} -> {$($rep:tt)*};)* }
        guest { $($(#[doc = $gdoc:literal])+ $gname:ident ($gbase:literal, $gsince:literal) ($($gp:tt)*) [$($via:ident),*];)* }
        driver { $($(#[doc = $ddoc:literal])+ $dname:ident ($dbase:literal, $dsince:literal) ($($dp:tt)*);)* }
    ) => {
        impl CallInfo {
            /// Every function and message, in the order of the declaration.
            pub const ALL: &'static [CallInfo] = &[
                $(CallInfo { name: stringify!($aname), number: $anum, mode: Mode::$amode, via: &[], doc: concat!($($adoc),+) },)*
                $(CallInfo { name: stringify!($wname), number: $wnum, mode: Mode::$wmode, via: &[], doc: concat!($($wdoc),+) },)*
                $(CallInfo { name: stringify!($gname), number: 0, mode: Mode::Guest, via: &[$(stringify!($via)),*], doc: concat!($($gdoc),+) },)*
                $(CallInfo { name: stringify!($dname), number: 0, mode: Mode::Driver, via: &[], doc: concat!($($ddoc),+) },)*
            ];
        }
        impl Names {
            /// Every function that the split driver carries: what the guest's library exports.
            pub const CARRIED: &'static [Names] = &[
                $(Names { symbol: stringify!($aname), base: $abase, since: $asince },)*
                $(Names { symbol: stringify!($gname), base: $gbase, since: $gsince },)*
            ];
            /// Every function: what a driver library exports.
            pub const ALL: &'static [Names] = &[
                $(Names { symbol: stringify!($aname), base: $abase, since: $asince },)*
                $(Names { symbol: stringify!($gname), base: $gbase, since: $gsince },)*
                $(Names { symbol: stringify!($dname), base: $dbase, since: $dsince },)*
            ];
        }
        /// Numbers of the calls that travel.
        #[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
        #[allow(non_camel_case_types, reason = "the names are CUDA's own")]
        #[repr(u16)]
        pub enum Wire {
            $(#[doc = concat!($($adoc),+)] $aname = $anum,)*
            $(#[doc = concat!($($wdoc),+)] $wname = $wnum,)*
        }
        impl Wire {
            /// Whether it is a message of its own and not a function: one of the `wire` list.
            pub const fn is_message(self) -> bool {
                matches!(self, $(Wire::$wname)|*)
            }

            /// When this call's result is known.
            pub const fn mode(self) -> Mode {
                match self {
                    $(Wire::$aname => Mode::$amode,)*
                    $(Wire::$wname => Mode::$wmode,)*
                }
            }
        }
        impl TryFrom<u16> for Wire {
            type Error = u16;
            /// Refuses a number that no call has.
            fn try_from(number: u16) -> Result<Self, u16> {
                match number {
                    $($anum => Ok(Wire::$aname),)*
                    $($wnum => Ok(Wire::$wname),)*
                    other => Err(other),
                }
            }
        }
    };
}
with_calls!(tables);

impl Wire {
    /// Whether the call is about the calling thread's context. Devices are asked about without one, and
    /// contexts made and ended.
    pub fn needs_context(self) -> bool {
        !matches!(self as u16, 1..=9 | 126..=139 | 400..=409)
    }
}

/// The symbol that `cuGetProcAddress` gives for a base name at a version: of all that a library offers
/// under the name ([`Names::ALL`] or [`Names::CARRIED`]), the newest that is not newer than the version
/// asked for.
pub fn proc_address(offered: &'static [Names], base: &str, version: i32) -> Option<&'static str> {
    // Two bases mean one symbol here: the third version of the one bears the other's name.
    let base = match base {
        "cuGraphInstantiate" if version >= 12000 => "cuGraphInstantiateWithFlags",
        other => other,
    };
    offered
        .iter()
        .filter(|n| n.base == base && n.since <= version)
        .max_by_key(|n| n.since)
        .map(|n| n.symbol)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_and_numbers_are_unique() {
        let mut names = HashSet::new();
        let mut numbers = HashSet::new();
        for call in CallInfo::ALL {
            assert!(names.insert(call.name), "{} is declared twice", call.name);
            if call.number != 0 {
                assert!(numbers.insert(call.number), "{} is used twice", call.number);
            }
            let travels = !matches!(call.mode, Mode::Guest | Mode::Driver);
            assert_eq!(call.number != 0, travels, "{}", call.name);
            for via in call.via {
                assert!(
                    CallInfo::ALL
                        .iter()
                        .any(|c| c.name == *via && c.number != 0),
                    "{} names {via}, which does not travel",
                    call.name
                );
            }
        }
    }

    #[test]
    fn proc_address_follows_versions() {
        assert_eq!(
            proc_address(Names::ALL, "cuMemAlloc", 12000),
            Some("cuMemAlloc_v2")
        );
        assert_eq!(proc_address(Names::ALL, "cuMemAlloc", 2000), None);
        assert_eq!(
            proc_address(Names::ALL, "cuGetProcAddress", 11080),
            Some("cuGetProcAddress")
        );
        assert_eq!(
            proc_address(Names::ALL, "cuGetProcAddress", 12000),
            Some("cuGetProcAddress_v2")
        );
        assert_eq!(
            proc_address(Names::ALL, "cuCtxCreate", 12040),
            Some("cuCtxCreate_v3")
        );
        assert_eq!(
            proc_address(Names::ALL, "cuEventElapsedTime", 12080),
            Some("cuEventElapsedTime_v2")
        );
        for (version, symbol) in [
            (10000, "cuGraphInstantiate"),
            (11080, "cuGraphInstantiate_v2"),
            (12000, "cuGraphInstantiateWithFlags"),
        ] {
            let found = proc_address(Names::ALL, "cuGraphInstantiate", version);
            assert_eq!(found, Some(symbol));
        }
        assert_eq!(proc_address(Names::ALL, "cuNothing", 12080), None);
    }

    #[test]
    fn a_guest_finds_only_what_is_carried() {
        let name = "cuDeviceGetProperties";
        assert_eq!(proc_address(Names::ALL, name, 12000), Some(name));
        assert_eq!(proc_address(Names::CARRIED, name, 12000), None);
        let carried = proc_address(Names::CARRIED, "cuMemAlloc", 12000);
        assert_eq!(carried, Some("cuMemAlloc_v2"));
    }

    #[test]
    fn wire_numbers_round_trip() {
        for number in 0..=u16::MAX {
            if let Ok(call) = Wire::try_from(number) {
                assert_eq!(call as u16, number);
                assert!(!matches!(call.mode(), Mode::Guest | Mode::Driver));
            }
        }
    }
}
