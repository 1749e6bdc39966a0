//! What the driver API's tests share: the built library through its exported functions, fresh contexts,
//! and kernels whose end a test decides.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on panics"
)]

use cuda_abi::{CuResult, Driver, Handle};
use std::ffi::{CString, c_void};
use std::path::PathBuf;
use std::process::Command;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Calls a driver function by name; its result.
#[macro_export]
macro_rules! cu {
    ($name:ident($($arg:expr),* $(,)?)) => {{
        #[allow(
            clippy::macro_metavars_in_unsafe,
            reason = "the arguments are places and values, and calling the driver is what is unsafe"
        )]
        // SAFETY: the tests pass live places of the right types, or values that the driver must refuse.
        let result = unsafe { $crate::api_common::library().$name($($arg),*) };
        result
    }};
}

/// Calls a driver function that must succeed.
#[macro_export]
macro_rules! ok {
    ($name:ident($($arg:expr),* $(,)?)) => {
        assert_eq!($crate::cu!($name($($arg),*)), cuda_abi::CuResult::SUCCESS, stringify!($name))
    };
}

/// The shared library that cargo built beside this test.
pub fn library_path() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folders = [test.parent(), test.parent().and_then(|deps| deps.parent())];
    folders
        .into_iter()
        .flatten()
        .map(|folder| folder.join("libsoftcuda.so"))
        .find(|path| path.exists())
        .expect("cargo builds libsoftcuda.so beside the tests")
}

/// The library, not initialised.
pub fn library() -> &'static Driver {
    static LIBRARY: OnceLock<Driver> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        // Kernels whose end a test decides must not hold up other processes of the machine.
        if std::env::var_os("SOFTCUDA_ENGINE").is_none() {
            // SAFETY: nothing in a test reads the environment but Rust's library, which locks it.
            unsafe { std::env::set_var("SOFTCUDA_ENGINE", "off") };
        }
        // SAFETY: it is the library under test.
        unsafe { Driver::load(&library_path()) }.unwrap()
    })
}

/// Runs the rest of a test in a process of its own, with these variables set: `true` there.
///
/// The test's body belongs into `if in_child(…) { … }`.
pub fn in_child(test: &str, variables: &[(&str, &str)]) -> bool {
    const CHILD: &str = "SOFTCUDA_TEST_CHILD";
    if std::env::var(CHILD).is_ok_and(|child| child == test) {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, test)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{test}: {}\n{text}\n{errors}",
        output.status
    );
    false
}

/// A context of its own, current to the thread that made it, destroyed at the end.
pub struct Fresh(pub Handle);

impl Fresh {
    pub fn new() -> Fresh {
        ok!(cuInit(0));
        let mut context = null_mut();
        ok!(cuCtxCreate_v2(&mut context, 0, 0));
        Fresh(context)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let result = cu!(cuCtxDestroy_v2(self.0));
        if !std::thread::panicking() {
            assert_eq!(result, CuResult::SUCCESS);
        }
    }
}

/// Kernels for the tests: `gate` runs until the word at its parameter is not 0; `stamp` counts a word up
/// and stores what it was.
pub const PTX: &str = r#"
.version 6.3
.target sm_75
.address_size 64

.visible .global .align 4 .u32 counter = 42;
.visible .global .align 256 .b8 table[1000];
.visible .const .align 8 .u64 limit = 7;

.visible .entry empty()
{
    ret;
}

.visible .entry gate(.param .u64 gate_flag)
{
    .reg .pred %p<2>;
    .reg .b32 %r<2>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [gate_flag];
    cvta.to.global.u64 %rd2, %rd1;
    mov.u32 %r1, 1;
    st.volatile.global.u32 [%rd2+4], %r1;
AGAIN:
    ld.volatile.global.u32 %r1, [%rd2];
    setp.eq.u32 %p1, %r1, 0;
    @%p1 bra AGAIN;
    ret;
}

.visible .entry add(.param .u64 add_place, .param .u32 add_value)
{
    .reg .b32 %r<4>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [add_place];
    ld.param.u32 %r1, [add_value];
    cvta.to.global.u64 %rd2, %rd1;
    atom.global.add.u32 %r2, [%rd2], %r1;
    ret;
}

.visible .entry stamp(.param .u64 stamp_counter, .param .u64 stamp_out)
{
    .reg .b32 %r<3>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [stamp_counter];
    ld.param.u64 %rd2, [stamp_out];
    cvta.to.global.u64 %rd3, %rd1;
    cvta.to.global.u64 %rd4, %rd2;
    atom.global.add.u32 %r1, [%rd3], 1;
    st.global.u32 [%rd4], %r1;
    ret;
}

.visible .entry count()
{
    .reg .b32 %r<3>;
    .reg .b64 %rd<2>;
    ld.global.u32 %r1, [counter];
    add.u32 %r2, %r1, 1;
    st.global.u32 [counter], %r2;
    ret;
}

.visible .entry wild(.param .u64 wild_address)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [wild_address];
    cvta.to.global.u64 %rd2, %rd1;
    mov.u32 %r1, 1;
    st.global.u32 [%rd2], %r1;
    ret;
}

.visible .entry trapped()
{
    trap;
    ret;
}

.visible .entry bounded()
.maxntid 64, 1, 1
{
    ret;
}

.visible .entry shared(.param .u64 shared_out)
{
    .shared .align 4 .b8 buffer[4096];
    .reg .b32 %r<3>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [shared_out];
    cvta.to.global.u64 %rd2, %rd1;
    mov.u32 %r1, 5;
    st.shared.u32 [buffer], %r1;
    ld.shared.u32 %r2, [buffer];
    st.global.u32 [%rd2], %r2;
    ret;
}
"#;

/// The test kernels, loaded into the current context.
pub fn load() -> Handle {
    load_text(PTX)
}

/// A PTX text, loaded into the current context.
pub fn load_text(text: &str) -> Handle {
    let text = CString::new(text).unwrap();
    let mut module = null_mut();
    ok!(cuModuleLoadData(&mut module, text.as_ptr().cast()));
    module
}

/// A kernel of a module.
pub fn kernel(module: Handle, name: &str) -> Handle {
    let name = CString::new(name).unwrap();
    let mut function = null_mut();
    ok!(cuModuleGetFunction(&mut function, module, name.as_ptr()));
    function
}

/// Launches one thread of a kernel; each parameter is the address of its value.
pub fn launch(function: Handle, stream: Handle, params: &mut [*mut c_void]) -> CuResult {
    let params = params.as_mut_ptr();
    cu!(cuLaunchKernel(
        function,
        1,
        1,
        1,
        1,
        1,
        1,
        0,
        stream,
        params,
        null_mut()
    ))
}

/// A word of page-locked memory on which a `gate` kernel waits.
pub struct Gate {
    flag: *mut c_void,
    gate: Handle,
}

impl Gate {
    pub fn new(module: Handle) -> Gate {
        let mut flag = null_mut();
        ok!(cuMemHostAlloc(&mut flag, 8, 2));
        let gate = Gate {
            flag,
            gate: kernel(module, "gate"),
        };
        gate.word(0).store(0, Ordering::SeqCst);
        gate.word(1).store(0, Ordering::SeqCst);
        gate
    }

    /// Launches the kernel.
    pub fn wait_in(&self, stream: Handle) {
        let mut address = 0u64;
        ok!(cuMemHostGetDevicePointer_v2(&mut address, self.flag, 0));
        let result = launch(self.gate, stream, &mut [(&raw mut address).cast()]);
        assert_eq!(result, CuResult::SUCCESS);
    }

    /// Waits until the kernel runs.
    pub fn entered(&self) {
        while self.word(1).load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
    }

    /// Lets the kernel end.
    pub fn open(&self) {
        self.word(0).store(1, Ordering::SeqCst);
    }

    /// The address of the word, for another thread to open it.
    pub fn address(&self) -> usize {
        self.flag as usize
    }

    /// The word that lets the kernel end, and the one in which it says that it runs.
    fn word(&self, index: usize) -> &AtomicU32 {
        // SAFETY: two words of aligned memory, live as long as the gate's context.
        unsafe { AtomicU32::from_ptr(self.flag.cast::<u32>().add(index)) }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open(); // a failed test must not wait for its kernel for ever
    }
}

/// Opens a gate by the address of its word.
pub fn open_gate(address: usize) {
    // SAFETY: the address is a live gate's.
    unsafe { AtomicU32::from_ptr(address as *mut u32) }.store(1, Ordering::SeqCst);
}

/// Allocates device memory filled with zero bytes.
pub fn alloc(bytes: usize) -> u64 {
    let mut address = 0;
    ok!(cuMemAlloc_v2(&mut address, bytes));
    ok!(cuMemsetD8_v2(address, 0, bytes));
    address
}

/// A stream: 0 for a blocking one, 1 for one that is not.
pub fn stream(flags: u32) -> Handle {
    let mut stream = null_mut();
    ok!(cuStreamCreate(&mut stream, flags));
    stream
}

/// An event.
pub fn event(flags: u32) -> Handle {
    let mut event = null_mut();
    ok!(cuEventCreate(&mut event, flags));
    event
}

/// The 32-bit word at a device address.
pub fn word(address: u64) -> u32 {
    let mut value = 0u32;
    ok!(cuMemcpyDtoH_v2((&raw mut value).cast(), address, 4));
    value
}

/// Launches `stamp`.
pub fn stamp(module: Handle, stream: Handle, mut counter: u64, mut out: u64) {
    let mut params = [(&raw mut counter).cast(), (&raw mut out).cast()];
    let result = launch(kernel(module, "stamp"), stream, &mut params);
    assert_eq!(result, CuResult::SUCCESS);
}
