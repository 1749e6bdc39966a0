//! api-probe: asks a `libcuda.so.1` the same questions in the same order and prints what it answers.
//!
//! Run on a driver itself and through the split driver, the two outputs must be the same, line by line.
//! It uses the C functions as any program would, right and wrong. Usage: `api-probe LIBCUDA [PART…]`.

use cuda_abi::{CuResult, DevicePtr, Driver, Handle};
use std::ffi::{CStr, CString, c_void};
use std::fmt::Debug;
use std::process::ExitCode;
use std::ptr::null_mut;
use std::sync::Arc;

/// Kernels for the probe, written by hand: the smallest that show what they should.
const PTX: &str = include_str!("../probe.ptx");

/// `CU_LAUNCH_PARAM_BUFFER_POINTER` and `CU_LAUNCH_PARAM_BUFFER_SIZE`.
const BUFFER_POINTER: usize = 1;
const BUFFER_SIZE: usize = 2;

/// Prints one answer.
fn say(what: &str, answer: impl Debug) {
    println!("{what}: {answer:?}");
}

struct Probe {
    cuda: Arc<Driver>,
}

/// Calls a C function of the probe's library. Every call in this program passes pointers to its own
/// variables, or values that are wrong on purpose where the function says that it checks them.
macro_rules! cu {
    ($probe:expr, $name:ident ( $($argument:expr),* )) => {
        // SAFETY: see the macro's description.
        unsafe { $probe.cuda.$name($($argument),*) }
    };
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else {
        eprintln!("usage: api-probe LIBCUDA [PART…]");
        return ExitCode::from(2);
    };
    // SAFETY: the caller names a CUDA driver.
    let cuda = match unsafe { Driver::load(path.as_ref()) } {
        Ok(cuda) => Arc::new(cuda),
        Err(error) => {
            eprintln!("api-probe: {error}");
            return ExitCode::FAILURE;
        }
    };
    let probe = Probe { cuda };
    let chosen: Vec<String> = arguments.collect();
    type Part = (&'static str, fn(&Probe));
    let parts: [Part; 10] = [
        ("names", Probe::names),
        ("devices", Probe::devices),
        ("contexts", Probe::contexts),
        ("memory", Probe::memory),
        ("modules", Probe::modules),
        ("streams", Probe::streams),
        ("pinned", Probe::pinned),
        ("fork", Probe::fork),
        ("threads", Probe::threads),
        ("fault", Probe::fault),
    ];
    probe.before_init();
    say("cuInit(1)", cu!(probe, cuInit(1)));
    say("cuInit(0)", cu!(probe, cuInit(0)));
    if chosen.iter().any(|c| c == "hang") {
        probe.hang();
        return ExitCode::SUCCESS;
    }
    for (name, part) in parts {
        if chosen.is_empty() || chosen.iter().any(|c| c == name) {
            println!("== {name}");
            part(&probe);
        }
    }
    ExitCode::SUCCESS
}

impl Probe {
    fn before_init(&self) {
        let mut count = -1;
        say(
            "count before init",
            (cu!(self, cuDeviceGetCount(&mut count)), count),
        );
        let mut address: DevicePtr = 0;
        say(
            "alloc before init",
            cu!(self, cuMemAlloc_v2(&mut address, 16)),
        );
    }

    fn names(&self) {
        for code in [0, 1, 700, 999] {
            let mut text = std::ptr::null();
            let status = cu!(self, cuGetErrorName(code, &mut text));
            // SAFETY: the library's own string.
            let name = (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) });
            say("error name", (code, status, name));
        }
        let mut text = std::ptr::null();
        say(
            "unknown error",
            (
                cu!(self, cuGetErrorName(424_242, &mut text)),
                text.is_null(),
            ),
        );
        for (name, version) in [
            (c"cuMemAlloc", 12000),
            (c"cuMemAlloc", 2000),
            (c"cuNoSuchFunction", 12000),
            (c"cuGetProcAddress", 11080),
            (c"cuLaunchKernel", 99_000),
        ] {
            let (mut address, mut found) = (null_mut(), -1);
            let status = cu!(
                self,
                cuGetProcAddress_v2(name.as_ptr(), &mut address, version, 0, &mut found)
            );
            say(
                "cuGetProcAddress_v2",
                (name, version, status, found, address.is_null()),
            );
            let mut address = 8 as *mut c_void;
            let status = cu!(
                self,
                cuGetProcAddress(name.as_ptr(), &mut address, version, 0)
            );
            say(
                "cuGetProcAddress",
                (name, version, status, address as usize == 8),
            );
        }
        let (mut table, id) = (std::ptr::null(), [0u8; 16]);
        say("export table", cu!(self, cuGetExportTable(&mut table, &id)));
    }

    fn devices(&self) {
        let mut count = -1;
        say("count", (cu!(self, cuDeviceGetCount(&mut count)), count));
        say("count into null", cu!(self, cuDeviceGetCount(null_mut())));
        let mut device = -1;
        say("device 0", (cu!(self, cuDeviceGet(&mut device, 0)), device));
        say("device 99", cu!(self, cuDeviceGet(&mut device, 99)));
        say("device -1", cu!(self, cuDeviceGet(&mut device, -1)));
        let mut name = [0u8; 64];
        say(
            "name",
            cu!(self, cuDeviceGetName(name.as_mut_ptr().cast(), 64, 0)),
        );
        say("name is", CStr::from_bytes_until_nul(&name).ok());
        let mut short = [1u8; 5];
        say(
            "short name",
            (
                cu!(self, cuDeviceGetName(short.as_mut_ptr().cast(), 5, 0)),
                short,
            ),
        );
        let (mut bytes, mut uuid) = (0, [0u8; 16]);
        say(
            "memory",
            (cu!(self, cuDeviceTotalMem_v2(&mut bytes, 0)), bytes),
        );
        say("uuid", (cu!(self, cuDeviceGetUuid_v2(&mut uuid, 0)), uuid));
        let mut place = [1u8; 32];
        for (len, dev) in [(32, 0), (5, 0), (0, 0), (32, 99)] {
            say(
                "PCI address",
                (
                    cu!(
                        self,
                        cuDeviceGetPCIBusId(place.as_mut_ptr().cast(), len, dev)
                    ),
                    place,
                ),
            );
        }
        for text in [c"0:0", c"0000:00:00.0", c"0000:ff:1f.0", c"0:0.1", c"here"] {
            say(
                "device at",
                (
                    text,
                    cu!(self, cuDeviceGetByPCIBusId(&mut device, text.as_ptr())),
                    device,
                ),
            );
        }
        for attribute in [1, 2, 5, 8, 9, 10, 12, 16, 75, 76, 81] {
            let mut value = -1;
            say(
                "attribute",
                (
                    attribute,
                    cu!(self, cuDeviceGetAttribute(&mut value, attribute, 0)),
                    value,
                ),
            );
        }
        let mut value = -1;
        say(
            "no such attribute",
            cu!(self, cuDeviceGetAttribute(&mut value, 100_000, 0)),
        );
        say(
            "attribute of no device",
            cu!(self, cuDeviceGetAttribute(&mut value, 1, 55)),
        );
    }

    fn contexts(&self) {
        let mut address = 0;
        say(
            "alloc without context",
            cu!(self, cuMemAlloc_v2(&mut address, 16)),
        );
        say("synchronise without context", cu!(self, cuCtxSynchronize()));
        let mut current: Handle = 8 as Handle;
        say(
            "current",
            (cu!(self, cuCtxGetCurrent(&mut current)), current.is_null()),
        );
        let mut own: Handle = null_mut();
        say(
            "create",
            (cu!(self, cuCtxCreate_v2(&mut own, 0, 0)), own.is_null()),
        );
        say(
            "create for no device",
            cu!(self, cuCtxCreate_v2(&mut current, 0, 77)),
        );
        let mut device = -1;
        say(
            "its device",
            (cu!(self, cuCtxGetDevice(&mut device)), device),
        );
        let mut popped: Handle = null_mut();
        say(
            "pop",
            (cu!(self, cuCtxPopCurrent_v2(&mut popped)), popped == own),
        );
        say("pop nothing", cu!(self, cuCtxPopCurrent_v2(&mut popped)));
        say("push", cu!(self, cuCtxPushCurrent_v2(own)));
        say("alloc in it", cu!(self, cuMemAlloc_v2(&mut address, 4096)));
        say("destroy", cu!(self, cuCtxDestroy_v2(own)));
        say("destroy again", cu!(self, cuCtxDestroy_v2(own)));
        say(
            "set a context that is no more",
            cu!(self, cuCtxSetCurrent(own)),
        );
        let (mut flags, mut active) = (9, 9);
        say(
            "primary",
            (
                cu!(self, cuDevicePrimaryCtxGetState(0, &mut flags, &mut active)),
                flags,
                active,
            ),
        );
        self.primary();
        say(
            "primary",
            (
                cu!(self, cuDevicePrimaryCtxGetState(0, &mut flags, &mut active)),
                flags,
                active,
            ),
        );
        let mut version = 0;
        say(
            "version",
            (
                cu!(self, cuCtxGetApiVersion(null_mut(), &mut version)),
                version,
            ),
        );
        let (mut least, mut greatest) = (9, 9);
        say(
            "priorities",
            (
                cu!(self, cuCtxGetStreamPriorityRange(&mut least, &mut greatest)),
                least,
                greatest,
            ),
        );
        say(
            "priorities into null",
            cu!(self, cuCtxGetStreamPriorityRange(null_mut(), null_mut())),
        );
        say("release", cu!(self, cuDevicePrimaryCtxRelease_v2(0)));
        say("retain and release unevenly", {
            self.primary();
            let first = cu!(self, cuDevicePrimaryCtxRelease_v2(0));
            (first, cu!(self, cuDevicePrimaryCtxRelease_v2(0)))
        });
    }

    /// Makes the primary context current in this thread.
    fn primary(&self) {
        let mut context: Handle = null_mut();
        let retained = cu!(self, cuDevicePrimaryCtxRetain(&mut context, 0));
        let current = cu!(self, cuCtxSetCurrent(context));
        if !retained.is_ok() || !current.is_ok() {
            say("no primary context", (retained, current));
        }
    }

    fn alloc(&self, bytes: usize) -> DevicePtr {
        let mut address = 0;
        let status = cu!(self, cuMemAlloc_v2(&mut address, bytes));
        if !status.is_ok() {
            say("no memory", (bytes, status));
        }
        address
    }

    fn memory(&self) {
        self.primary();
        let mut address = 0;
        say("alloc 0", cu!(self, cuMemAlloc_v2(&mut address, 0)));
        say("alloc into null", cu!(self, cuMemAlloc_v2(null_mut(), 16)));
        say(
            "alloc too much",
            cu!(self, cuMemAlloc_v2(&mut address, 1 << 60)),
        );
        let (mut free, mut total, mut after, mut again) = (0, 0, 0, 0);
        say("info", cu!(self, cuMemGetInfo_v2(&mut free, &mut total)));
        let block = self.alloc(8 << 20);
        say("aligned", block % 256);
        say("info", cu!(self, cuMemGetInfo_v2(&mut after, &mut total)));
        say("8 MiB less", free.saturating_sub(after) >= 8 << 20);
        let (mut start, mut len) = (0, 0);
        say(
            "range",
            (
                cu!(
                    self,
                    cuMemGetAddressRange_v2(&mut start, &mut len, block + 100)
                ),
                start == block,
                len,
            ),
        );
        let rows = self.alloc(512 * 4);
        let mut filled = vec![0u8; 512 * 4];
        say(
            "rows",
            (
                cu!(self, cuMemsetD8_v2(rows, 9, 512 * 4)),
                cu!(self, cuMemsetD2D8_v2(rows, 512, 1, 3, 4)),
                cu!(self, cuMemsetD2D16_v2(rows + 4, 512, 2, 3, 4)),
                cu!(self, cuMemsetD2D32_v2(rows + 12, 512, 3, 2, 2)),
                cu!(self, cuMemsetD2D8Async(rows + 32, 512, 4, 5, 3, null_mut())),
                cu!(
                    self,
                    cuMemsetD2D16Async(rows + 40, 512, 5, 5, 3, null_mut())
                ),
                cu!(
                    self,
                    cuMemsetD2D32Async(rows + 60, 512, 6, 5, 3, null_mut())
                ),
                cu!(
                    self,
                    cuMemcpyDtoH_v2(filled.as_mut_ptr().cast(), rows, filled.len())
                ),
                filled
                    .chunks(512)
                    .map(|row| row[..80].to_vec())
                    .collect::<Vec<_>>(),
            ),
        );
        say("free rows", cu!(self, cuMemFree_v2(rows)));
        say("free null", cu!(self, cuMemFree_v2(0)));
        say("free", cu!(self, cuMemFree_v2(block)));
        say("info", cu!(self, cuMemGetInfo_v2(&mut again, &mut total)));
        say("as before", free == again);
        say("free again", cu!(self, cuMemFree_v2(block)));
        say("free inside", {
            let block = self.alloc(4096);
            let inside = cu!(self, cuMemFree_v2(block + 256));
            (inside, cu!(self, cuMemFree_v2(block)))
        });
        let block = self.alloc((3 << 20) + 64);
        let other = self.alloc((3 << 20) + 64);
        for bytes in [1usize, 7, 2048, 2049, 65_536, (1 << 20) + 3, 3 << 20] {
            let data: Vec<u8> = (0..bytes).map(|n| (n * 7 + n / 251) as u8).collect();
            let mut back = vec![0u8; bytes];
            let copied = [
                cu!(
                    self,
                    cuMemcpyHtoD_v2(block + 1, data.as_ptr().cast(), bytes)
                ),
                cu!(self, cuMemcpyDtoD_v2(other + 3, block + 1, bytes)),
                cu!(
                    self,
                    cuMemcpyDtoH_v2(back.as_mut_ptr().cast(), other + 3, bytes)
                ),
            ];
            say("there and back", (bytes, copied, data == back));
            let mut unified = vec![0u8; bytes];
            let copied = [
                cu!(self, cuMemcpy(block, data.as_ptr() as u64, bytes)),
                cu!(self, cuMemcpy(unified.as_mut_ptr() as u64, block, bytes)),
            ];
            say("unified", (bytes, copied, data == unified));
        }
        say(
            "copy of nothing",
            cu!(self, cuMemcpyHtoD_v2(block, null_mut(), 0)),
        );
        say(
            "copy from null",
            cu!(self, cuMemcpyHtoD_v2(block, null_mut(), 5)),
        );
        let mut byte = 0u8;
        say(
            "copy beyond the end",
            cu!(
                self,
                cuMemcpyDtoH_v2((&raw mut byte).cast(), block + (1 << 40), 1)
            ),
        );
        say("after that", cu!(self, cuCtxSynchronize()));
        say(
            "copy to nowhere",
            cu!(self, cuMemcpyHtoD_v2(16, (&raw const byte).cast(), 1)),
        );
        for (what, status) in [
            ("8", cu!(self, cuMemsetD8_v2(block, 0x5a, 1000))),
            ("16", cu!(self, cuMemsetD16_v2(block + 1000, 0x1234, 500))),
            (
                "32",
                cu!(self, cuMemsetD32_v2(block + 2000, 0xdead_beef, 250)),
            ),
        ] {
            say("memset", (what, status));
        }
        let mut back = vec![0u8; 3000];
        say(
            "read",
            cu!(self, cuMemcpyDtoH_v2(back.as_mut_ptr().cast(), block, 3000)),
        );
        say(
            "bytes",
            (
                back[0],
                back[999],
                back[1000],
                back[1001],
                &back[2000..2004],
                &back[2996..3000],
            ),
        );
        say(
            "frees",
            (
                cu!(self, cuMemFree_v2(block)),
                cu!(self, cuMemFree_v2(other)),
            ),
        );
    }

    fn load(&self, ptx: &str) -> Result<Handle, CuResult> {
        let mut module = null_mut();
        let text = CString::new(ptx).map_err(|_| CuResult::INVALID_VALUE)?;
        cu!(self, cuModuleLoadData(&mut module, text.as_ptr().cast())).ok()?;
        Ok(module)
    }

    fn kernel(&self, module: Handle, name: &CStr) -> Handle {
        let mut function = null_mut();
        let status = cu!(
            self,
            cuModuleGetFunction(&mut function, module, name.as_ptr())
        );
        if !status.is_ok() {
            say("no kernel", (name, status));
        }
        function
    }

    /// Launches a kernel whose parameters are a pointer and a number.
    fn launch(
        &self,
        function: Handle,
        grid: u32,
        block: u32,
        stream: Handle,
        at: u64,
        n: u32,
    ) -> CuResult {
        let (mut at, mut n) = (at, n);
        let mut params = [(&raw mut at).cast::<c_void>(), (&raw mut n).cast()];
        cu!(
            self,
            cuLaunchKernel(
                function,
                grid,
                1,
                1,
                block,
                1,
                1,
                0,
                stream,
                params.as_mut_ptr(),
                null_mut()
            )
        )
    }

    fn modules(&self) {
        self.primary();
        say("garbage", self.load("this is no PTX").err());
        let broken = PTX.replacen("add.u32", "frobnicate.u32", 1);
        let mut log = vec![0u8; 4096];
        let (mut options, mut module) = ([5, 6], null_mut());
        let mut values = [log.as_mut_ptr().cast::<c_void>(), 4096 as *mut c_void];
        let text = CString::new(broken.clone()).unwrap_or_default();
        let status = cu!(
            self,
            cuModuleLoadDataEx(
                &mut module,
                text.as_ptr().cast(),
                2,
                options.as_mut_ptr(),
                values.as_mut_ptr()
            )
        );
        let line = broken
            .lines()
            .position(|l| l.contains("frobnicate"))
            .map_or(0, |n| n + 1);
        let log = CStr::from_bytes_until_nul(&log)
            .map(|l| l.to_string_lossy().into_owned())
            .unwrap_or_default();
        say("broken PTX", status);
        say("its log names the line", log.contains(&line.to_string()));
        say(
            "no image",
            cu!(self, cuModuleLoadData(&mut module, std::ptr::null())),
        );
        say(
            "no file",
            cu!(self, cuModuleLoad(&mut module, c"/no/such/file".as_ptr())),
        );
        let Ok(module) = self.load(PTX) else {
            say("the probe's own PTX", self.load(PTX).err());
            return;
        };
        let mut function = null_mut();
        say(
            "missing kernel",
            cu!(
                self,
                cuModuleGetFunction(&mut function, module, c"missing".as_ptr())
            ),
        );
        say(
            "kernel of no module",
            cu!(
                self,
                cuModuleGetFunction(&mut function, 16 as Handle, c"scale".as_ptr())
            ),
        );
        let scale = self.kernel(module, c"scale");
        for index in 0..3 {
            let (mut offset, mut size) = (99, 99);
            let status = cu!(
                self,
                cuFuncGetParamInfo(scale, index, &mut offset, &mut size)
            );
            say("parameter", (index, status, offset, size));
        }
        let (mut address, mut bytes) = (0, 0);
        let status = cu!(
            self,
            cuModuleGetGlobal_v2(&mut address, &mut bytes, module, c"factor".as_ptr())
        );
        say("variable", (status, bytes, address != 0));
        say(
            "missing variable",
            cu!(
                self,
                cuModuleGetGlobal_v2(&mut address, &mut bytes, module, c"gone".as_ptr())
            ),
        );
        let (mut factor, n) = (0u32, 1000u32);
        let status = cu!(
            self,
            cuModuleGetGlobal_v2(&mut address, &mut bytes, module, c"factor".as_ptr())
        );
        say(
            "variable's value",
            (
                status,
                cu!(self, cuMemcpyDtoH_v2((&raw mut factor).cast(), address, 4)),
                factor,
            ),
        );
        let data: Vec<u32> = (0..n).collect();
        let block = self.alloc(4000);
        say(
            "write",
            cu!(self, cuMemcpyHtoD_v2(block, data.as_ptr().cast(), 4000)),
        );
        say("launch", self.launch(scale, 8, 128, null_mut(), block, n));
        let mut back = vec![0u32; n as usize];
        say(
            "read",
            cu!(self, cuMemcpyDtoH_v2(back.as_mut_ptr().cast(), block, 4000)),
        );
        say(
            "scaled",
            back.iter().zip(&data).all(|(b, d)| *b == d * factor + 1),
        );
        say(
            "too many threads",
            self.launch(scale, 1, 4096, null_mut(), block, n),
        );
        say("no blocks", self.launch(scale, 0, 32, null_mut(), block, n));
        say(
            "no function",
            self.launch(24 as Handle, 1, 32, null_mut(), block, n),
        );
        say(
            "no parameters",
            cu!(
                self,
                cuLaunchKernel(
                    scale,
                    1,
                    1,
                    1,
                    1,
                    1,
                    1,
                    0,
                    null_mut(),
                    null_mut(),
                    null_mut()
                )
            ),
        );
        let mut buffer = [0u8; 12];
        buffer[..8].copy_from_slice(&block.to_ne_bytes());
        buffer[8..].copy_from_slice(&n.to_ne_bytes());
        let mut size = buffer.len();
        let mut extra = [
            BUFFER_POINTER as *mut c_void,
            buffer.as_mut_ptr().cast(),
            BUFFER_SIZE as *mut c_void,
            (&raw mut size).cast(),
            null_mut(),
        ];
        let status = cu!(
            self,
            cuLaunchKernel(
                scale,
                8,
                1,
                1,
                128,
                1,
                1,
                0,
                null_mut(),
                null_mut(),
                extra.as_mut_ptr()
            )
        );
        say(
            "launch with a buffer",
            (status, cu!(self, cuCtxSynchronize())),
        );
        let mut blocks = 0;
        say(
            "occupancy",
            cu!(
                self,
                cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, scale, 128, 0)
            ),
        );
        let (mut mode, mut count, mut bytes) = (-1, 0, 0);
        say(
            "loading",
            (
                cu!(self, cuModuleGetLoadingMode(&mut mode)),
                cu!(self, cuModuleGetFunctionCount(&mut count, module)),
                cu!(self, cuModuleGetFunctionCount(&mut count, 16 as Handle)),
                count,
            ),
        );
        say(
            "loaded",
            (
                cu!(self, cuFuncLoad(scale)),
                cu!(self, cuFuncIsLoaded(&mut mode, scale)),
                mode,
            ),
        );
        say(
            "banks",
            (
                cu!(self, cuFuncSetSharedMemConfig(scale, 1)),
                cu!(self, cuFuncSetSharedMemConfig(scale, 7)),
                cu!(self, cuCtxSetSharedMemConfig(2)),
                cu!(self, cuCtxGetSharedMemConfig(&mut mode)),
                cu!(self, cuCtxResetPersistingL2Cache()),
            ),
        );
        say(
            "shared memory for two blocks",
            (
                cu!(
                    self,
                    cuOccupancyAvailableDynamicSMemPerBlock(&mut bytes, scale, 2, 128)
                ),
                bytes,
            ),
        );
        let mut value = -1;
        say(
            "threads of the kernel",
            (cu!(self, cuFuncGetAttribute(&mut value, 0, scale)), value),
        );
        say("unload", cu!(self, cuModuleUnload(module)));
        say("unload again", cu!(self, cuModuleUnload(module)));
        say(
            "launch of an unloaded kernel",
            self.launch(scale, 1, 32, null_mut(), block, n),
        );
        say(
            "free",
            (
                cu!(self, cuMemFree_v2(block)),
                cu!(self, cuCtxSynchronize()),
            ),
        );
    }

    fn streams(&self) {
        self.primary();
        let mut stream = null_mut();
        say("create", cu!(self, cuStreamCreate(&mut stream, 1)));
        say("create into null", cu!(self, cuStreamCreate(null_mut(), 0)));
        let (mut flags, mut priority) = (9, 9);
        say(
            "flags",
            (cu!(self, cuStreamGetFlags(stream, &mut flags)), flags),
        );
        say(
            "priority",
            (
                cu!(self, cuStreamGetPriority(stream, &mut priority)),
                priority,
            ),
        );
        let (mut first, mut second) = (null_mut(), null_mut());
        say(
            "events",
            (
                cu!(self, cuEventCreate(&mut first, 0)),
                cu!(self, cuEventCreate(&mut second, 0)),
            ),
        );
        say(
            "query of an event that was never recorded",
            cu!(self, cuEventQuery(first)),
        );
        let block = self.alloc(4096);
        say("record", cu!(self, cuEventRecord(first, stream)));
        say("memset", cu!(self, cuMemsetD8Async(block, 7, 4096, stream)));
        say("record", cu!(self, cuEventRecord(second, stream)));
        say(
            "wait for an event",
            cu!(self, cuStreamWaitEvent(stream, second, 0)),
        );
        say("synchronise", cu!(self, cuEventSynchronize(second)));
        say(
            "query",
            (
                cu!(self, cuEventQuery(first)),
                cu!(self, cuEventQuery(second)),
            ),
        );
        let mut ms = -1.0f32;
        say(
            "elapsed",
            (
                cu!(self, cuEventElapsedTime(&mut ms, first, second)),
                ms >= 0.0,
            ),
        );
        let mut untimed = null_mut();
        say("untimed", cu!(self, cuEventCreate(&mut untimed, 2)));
        say(
            "record",
            (
                cu!(self, cuEventRecord(untimed, stream)),
                cu!(self, cuStreamSynchronize(stream)),
            ),
        );
        say(
            "elapsed to untimed",
            cu!(self, cuEventElapsedTime(&mut ms, first, untimed)),
        );
        let mut back = [0u8; 4096];
        let copied = cu!(
            self,
            cuMemcpyDtoHAsync_v2(back.as_mut_ptr().cast(), block, 4096, stream)
        );
        say(
            "copy",
            (
                copied,
                cu!(self, cuStreamSynchronize(stream)),
                back.iter().all(|b| *b == 7),
            ),
        );
        say("query", cu!(self, cuStreamQuery(stream)));
        let mut address = 0;
        say(
            "stream-ordered",
            cu!(self, cuMemAllocAsync(&mut address, 1000, stream)),
        );
        say(
            "free",
            (
                cu!(self, cuMemFreeAsync(address, stream)),
                cu!(self, cuStreamSynchronize(stream)),
            ),
        );
        say(
            "destroy",
            (
                cu!(self, cuEventDestroy_v2(first)),
                cu!(self, cuStreamDestroy_v2(stream)),
            ),
        );
        say(
            "a stream that is no more",
            cu!(self, cuStreamSynchronize(stream)),
        );
        say(
            "an event that is no more",
            cu!(self, cuEventSynchronize(first)),
        );
        say(
            "an event as a stream",
            cu!(self, cuStreamSynchronize(second)),
        );
        say("legacy and per-thread streams", {
            let legacy = cu!(self, cuStreamSynchronize(1 as Handle));
            (legacy, cu!(self, cuStreamSynchronize(2 as Handle)))
        });
        say("free", cu!(self, cuMemFree_v2(block)));
    }

    fn pinned(&self) {
        self.primary();
        let bytes = 100_000;
        let (mut host, mut stream) = (null_mut::<c_void>(), null_mut());
        say("nothing", cu!(self, cuMemHostAlloc(&mut host, 0, 0)));
        say("alloc", cu!(self, cuMemHostAlloc(&mut host, bytes, 1)));
        let mut flags = 9;
        say(
            "flags",
            (cu!(self, cuMemHostGetFlags(&mut flags, host)), flags & 1),
        );
        say("stream", cu!(self, cuStreamCreate(&mut stream, 0)));
        let block = self.alloc(bytes);
        // SAFETY: the library gave so many bytes, and nothing else uses them.
        let data = unsafe { std::slice::from_raw_parts_mut(host.cast::<u8>(), bytes) };
        for (n, byte) in data.iter_mut().enumerate() {
            *byte = (n % 251) as u8;
        }
        let sent = cu!(self, cuMemcpyHtoDAsync_v2(block, host, bytes, stream));
        say("send", (sent, cu!(self, cuStreamSynchronize(stream))));
        data.fill(0);
        let inside = host.wrapping_byte_add(1000);
        let fetched = cu!(
            self,
            cuMemcpyDtoHAsync_v2(inside, block + 1000, bytes - 1000, stream)
        );
        say("fetch", (fetched, cu!(self, cuStreamSynchronize(stream))));
        say(
            "same",
            data.iter()
                .enumerate()
                .all(|(n, b)| *b == if n < 1000 { 0 } else { (n % 251) as u8 }),
        );
        data.fill(9);
        say(
            "send at once",
            cu!(self, cuMemcpyHtoD_v2(block, host, bytes)),
        );
        data.fill(0);
        say(
            "fetch at once",
            cu!(self, cuMemcpyDtoH_v2(host, block, bytes)),
        );
        say("same", data.iter().all(|b| *b == 9));
        say("free", cu!(self, cuMemFreeHost(host)));
        say("free again", cu!(self, cuMemFreeHost(host)));
        say(
            "frees",
            (
                cu!(self, cuMemFree_v2(block)),
                cu!(self, cuStreamDestroy_v2(stream)),
            ),
        );
    }

    /// A forked child may not use the parent's connection, and the parent goes on.
    fn fork(&self) {
        self.primary();
        // SAFETY: the child makes one call, which the library answers without locks, and ends by _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let mut count = 0;
            let status = cu!(self, cuDeviceGetCount(&mut count));
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(status.0 as i32) };
        }
        let mut status = 0;
        // SAFETY: waits for the child just made.
        unsafe { libc::waitpid(child, &mut status, 0) };
        say(
            "count in a forked child",
            CuResult(libc::WEXITSTATUS(status) as u32),
        );
        say("the parent", cu!(self, cuCtxSynchronize()));
    }

    fn threads(&self) {
        self.primary();
        let Ok(module) = self.load(PTX) else {
            return say("no module", ());
        };
        let (module, function) = (module as usize, self.kernel(module, c"scale") as usize);
        let correct = std::thread::scope(|scope| {
            let work = |seed: u32| {
                let probe = Probe {
                    cuda: self.cuda.clone(),
                };
                probe.primary();
                let mut stream = null_mut();
                if !cu!(probe, cuStreamCreate(&mut stream, 1)).is_ok() {
                    return 0;
                }
                let (n, block) = (5000u32, probe.alloc(20_000));
                let mut correct = 0;
                for round in 0..20u32 {
                    let data: Vec<u32> = (0..n).map(|i| i ^ seed ^ round).collect();
                    let mut back = vec![0u32; n as usize];
                    let results = [
                        cu!(
                            probe,
                            cuMemcpyHtoDAsync_v2(block, data.as_ptr().cast(), 20_000, stream)
                        ),
                        probe.launch(function as Handle, 40, 128, stream, block, n),
                        cu!(
                            probe,
                            cuMemcpyDtoHAsync_v2(back.as_mut_ptr().cast(), block, 20_000, stream)
                        ),
                        cu!(probe, cuStreamSynchronize(stream)),
                    ];
                    let same = back
                        .iter()
                        .zip(&data)
                        .all(|(b, d)| *b == d.wrapping_mul(3).wrapping_add(1));
                    correct += u32::from(same && results.iter().all(|r| r.is_ok()));
                }
                let _ = cu!(probe, cuMemFree_v2(block));
                let _ = cu!(probe, cuStreamDestroy_v2(stream));
                correct
            };
            let running: Vec<_> = (0..8)
                .map(|n| scope.spawn(move || work(n * 7919)))
                .collect();
            running
                .into_iter()
                .map(|thread| thread.join().unwrap_or(0))
                .collect::<Vec<_>>()
        });
        say("rounds of each thread", correct);
        say("unload", cu!(self, cuModuleUnload(module as Handle)));
    }

    /// Not among the parts: a kernel that never ends, waited for.
    fn hang(&self) {
        self.primary();
        let Ok(module) = self.load(PTX) else {
            return say("no module", ());
        };
        let (forever, block) = (self.kernel(module, c"forever"), self.alloc(1 << 20));
        let launched = cu!(
            self,
            cuLaunchKernel(
                forever,
                1,
                1,
                1,
                32,
                1,
                1,
                0,
                null_mut(),
                null_mut(),
                null_mut()
            )
        );
        say("hanging", (launched, block != 0));
        say("synchronise", cu!(self, cuCtxSynchronize()));
    }

    /// Last: a fault sticks to the context.
    fn fault(&self) {
        self.primary();
        let Ok(module) = self.load(PTX) else {
            return say("no module", ());
        };
        let scale = self.kernel(module, c"scale");
        let launched = self.launch(scale, 1, 32, null_mut(), 0x10, 32);
        say("launch with a wrong address", launched);
        say("synchronise", cu!(self, cuCtxSynchronize()));
        say("synchronise again", cu!(self, cuCtxSynchronize()));
        let mut address = 0;
        say("alloc", cu!(self, cuMemAlloc_v2(&mut address, 16)));
    }
}
