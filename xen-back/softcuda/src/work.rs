//! One piece of device work and how it is carried out: kernels, copies, fills, and the marks between
//! them. Everything in it was checked when it was submitted; it must never look at a program's handle,
//! nor decide when it runs: that is `engine`'s business.

use crate::context::Context;
use crate::driver::Driver;
use crate::event::Event;
use crate::exec::texture::ArrayMemory;
use crate::exec::{Fault, Lasted, Launch};
use crate::module::Function;
use crate::rounding::with_default_modes;
use cuda_abi::CuResult;
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

/// What is to be done.
#[derive(Debug, Clone)]
pub enum Work {
    /// Nothing: a point to wait for.
    Mark,
    /// Notes the time in an event.
    Record(Arc<Event>),
    /// Frees an allocation that the program gave up in stream order.
    Release(u64),
    /// Runs a kernel.
    Kernel(Box<Kernel>),
    /// Copies bytes.
    Copy(Copy),
    /// Fills memory with a repeated value.
    Fill(Fill),
    /// Copies rows of bytes.
    CopyRows(Box<CopyRows>),
    /// Fills rows of memory with a repeated value.
    FillRows(FillRows),
    /// Calls a function of the program's.
    Host(Host),
    /// Writes a value that others wait for.
    Write(Word),
    /// Waits until memory holds a value; no engine is busy with it.
    Await(Word, Condition),
}

/// A function of the program's.
#[derive(Debug, Clone, Copy)]
pub enum Host {
    /// cuLaunchHostFunc's: not called in a context that failed.
    Function(unsafe extern "C" fn(*mut c_void), usize),
    /// cuStreamAddCallback's: told the stream's handle and the context's error.
    Callback(
        unsafe extern "C" fn(*mut c_void, CuResult, *mut c_void),
        u64,
        usize,
    ),
}

/// A value and its place in memory of the process's devices, aligned for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Address and value of 4 bytes.
    Short(u64, u32),
    /// Address and value of 8 bytes.
    Long(u64, u64),
}

/// What a wait compares the memory's value and its own by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The difference, as a signed number, is not negative.
    GreaterOrEqual,
    /// Both are equal.
    Equal,
    /// They have a bit in common.
    And,
    /// There is a bit that neither has.
    Nor,
}

/// A kernel with its launch.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Which kernel.
    pub function: Arc<Function>,
    /// Blocks per dimension.
    pub grid: [u32; 3],
    /// Threads of a block per dimension.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// The parameter buffer.
    pub params: Vec<u8>,
    /// Of a cooperative launch, the address of the context's workspace.
    pub workspace: Option<u64>,
}

/// A copy between any two places of the process.
#[derive(Debug, Clone)]
pub struct Copy {
    /// First address written.
    pub to: u64,
    /// Where the bytes come from.
    pub from: Source,
    /// How many.
    pub bytes: u64,
    /// Whether it ends outside device memory, which is what the second copy engine is for.
    pub download: bool,
}

/// Where a copy's bytes come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// An address.
    Address(u64),
    /// A copy of the program's bytes, taken when the call was made.
    Staged(Box<[u8]>),
}

/// A value repeated over a range.
#[derive(Debug, Clone)]
pub struct Fill {
    /// First address written, a multiple of the value's width.
    pub to: u64,
    /// The value.
    pub value: Pattern,
    /// How many of it.
    pub count: u64,
}

/// Where rows of slices lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// The first byte.
    pub address: u64,
    /// Bytes from row to row.
    pub pitch: u64,
    /// Bytes from slice to slice.
    pub slice: u64,
}

impl Rows {
    fn row(&self, y: u64, z: u64) -> u64 {
        self.address + y * self.pitch + z * self.slice
    }
}

/// A copy of a box of bytes between any two places of the process.
#[derive(Debug, Clone)]
pub struct CopyRows {
    /// Where it goes.
    pub to: Rows,
    /// Where it comes from.
    pub from: Rows,
    /// Bytes of a row, rows of a slice, slices.
    pub extent: [u64; 3],
    /// Whether it ends outside device memory, which is what the second copy engine is for.
    pub download: bool,
    /// Keeps arrays that it touches.
    pub _arrays: [Option<Arc<ArrayMemory>>; 2],
}

/// A value repeated over rows.
#[derive(Debug, Clone, Copy)]
pub struct FillRows {
    /// First address written, a multiple of the value's width.
    pub to: u64,
    /// Bytes from row to row, a multiple of the value's width.
    pub pitch: u64,
    /// The value.
    pub value: Pattern,
    /// How many of it in a row.
    pub width: u64,
    /// Rows.
    pub height: u64,
}

/// A value of one of the widths that CUDA fills memory with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// One byte.
    Byte(u8),
    /// Two bytes.
    Half(u16),
    /// Four bytes.
    Word(u32),
}

impl Pattern {
    /// Bytes of the value.
    pub fn width(self) -> u64 {
        match self {
            Pattern::Byte(_) => 1,
            Pattern::Half(_) => 2,
            Pattern::Word(_) => 4,
        }
    }
}

/// A device's engines: each does one thing at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Kernels.
    Compute,
    /// Copies and fills that end in device memory.
    Upload,
    /// Copies that end in host memory.
    Download,
    /// Functions of the program's.
    Host,
}

impl Engine {
    /// All of a device's engines.
    pub const ALL: [Engine; 4] = [
        Engine::Compute,
        Engine::Upload,
        Engine::Download,
        Engine::Host,
    ];
    /// Those that all processes of the machine share.
    pub const SHARED: [Engine; 3] = [Engine::Compute, Engine::Upload, Engine::Download];
}

impl Work {
    /// The engine that does it; `None` for what takes no time.
    pub fn engine(&self) -> Option<Engine> {
        match self {
            Work::Mark | Work::Record(_) | Work::Release(_) => None,
            Work::Write(_) | Work::Await(..) => None,
            Work::Host(_) => Some(Engine::Host),
            Work::Kernel(_) => Some(Engine::Compute),
            Work::Copy(copy) if copy.download => Some(Engine::Download),
            Work::CopyRows(copy) if copy.download => Some(Engine::Download),
            Work::Copy(_) | Work::Fill(_) | Work::CopyRows(_) | Work::FillRows(_) => {
                Some(Engine::Upload)
            }
        }
    }

    /// Does what takes no time. `task` is the work's own number; `at` when what it follows had ended.
    pub fn pass(self, driver: &Driver, task: u64, at: Instant) {
        match self {
            Work::Record(event) => event.reached(task, at),
            Work::Release(start) => {
                driver.pools.released(start);
                driver.memory.release(start);
            }
            Work::Write(word) => word.write(),
            Work::Mark | Work::Await(..) | Work::Host(_) => {}
            Work::Kernel(_) | Work::Copy(_) | Work::Fill(_) => {}
            Work::CopyRows(_) | Work::FillRows(_) => {}
        }
    }

    /// Whether what must hold before it may pass does.
    pub fn may_pass(&self) -> bool {
        match self {
            Work::Await(word, condition) => word.holds(*condition),
            _ => true,
        }
    }

    /// Whether it is done even after its context failed.
    pub fn outlives_failure(&self) -> bool {
        matches!(self, Work::Host(Host::Callback(..)))
    }

    /// Does what an engine does. A failure is the context's from then on. Says when the device was at it, where that
    /// was not all the while.
    pub fn run(self, driver: &Driver, context: &Context) -> Option<Lasted> {
        match self {
            Work::Kernel(kernel) => return kernel.run(driver, context),
            Work::Copy(copy) => copy.run(),
            Work::Fill(fill) => fill.run(),
            Work::CopyRows(copy) => copy.run(),
            Work::FillRows(fill) => fill.run(),
            Work::Host(host) => host.run(context),
            Work::Mark | Work::Record(_) | Work::Release(_) => {}
            Work::Write(_) | Work::Await(..) => {}
        }
        None
    }
}

thread_local! {
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is in a function that a stream called: such may not call CUDA.
pub fn in_host_function() -> bool {
    IN_HOST_FUNCTION.get()
}

impl Host {
    fn run(self, context: &Context) {
        IN_HOST_FUNCTION.set(true);
        // SAFETY: the program gave the function and its argument to be called like this.
        unsafe {
            match self {
                Host::Function(function, data) => function(data as *mut c_void),
                Host::Callback(function, stream, data) => {
                    let status = context.check().into();
                    function(stream as *mut c_void, status, data as *mut c_void);
                }
            }
        }
        IN_HOST_FUNCTION.set(false);
    }
}

impl Word {
    /// Bytes of the value.
    pub fn bytes(self) -> u64 {
        match self {
            Word::Short(..) => 4,
            Word::Long(..) => 8,
        }
    }

    fn write(self) {
        // SAFETY: the address was found allocated and aligned when this was submitted; allocated
        // addresses stay mapped for the process's life, and kernels may use them at the same time.
        unsafe {
            match self {
                Word::Short(at, value) => {
                    AtomicU32::from_ptr(at as *mut u32).store(value, Ordering::SeqCst);
                }
                Word::Long(at, value) => {
                    AtomicU64::from_ptr(at as *mut u64).store(value, Ordering::SeqCst);
                }
            }
        }
    }

    fn holds(self, condition: Condition) -> bool {
        // SAFETY: as in `write`.
        unsafe {
            match self {
                Word::Short(at, value) => {
                    let found = AtomicU32::from_ptr(at as *mut u32).load(Ordering::SeqCst);
                    condition.holds_32(found, value)
                }
                Word::Long(at, value) => {
                    let found = AtomicU64::from_ptr(at as *mut u64).load(Ordering::SeqCst);
                    condition.holds_64(found, value)
                }
            }
        }
    }
}

impl Condition {
    fn holds_32(self, found: u32, value: u32) -> bool {
        match self {
            Condition::GreaterOrEqual => found.wrapping_sub(value) as i32 >= 0,
            Condition::Equal => found == value,
            Condition::And => found & value != 0,
            Condition::Nor => !(found | value) != 0,
        }
    }

    fn holds_64(self, found: u64, value: u64) -> bool {
        match self {
            Condition::GreaterOrEqual => found.wrapping_sub(value) as i64 >= 0,
            Condition::Equal => found == value,
            Condition::And => found & value != 0,
            Condition::Nor => !(found | value) != 0,
        }
    }
}

impl Kernel {
    fn run(&self, driver: &Driver, context: &Context) -> Option<Lasted> {
        // Both stay as they are until the launch has ended.
        let ranges = driver.memory.host_ranges();
        // SAFETY: `ranges` outlives the launch; what is registered was found mapped, and is the
        // program's to keep so, as CUDA's contract has it; a range's end was computed without overflow.
        let memory = unsafe { driver.memory.view(context.device).with_ranges(&ranges) };
        let launch = Launch {
            kernel: self.function.index,
            grid: self.grid,
            block: self.block,
            dynamic_shared: self.shared,
            params: &self.params,
            memory,
            textures: Some(&context.textures),
            cooperative: self.workspace,
            runtime: Some(&context.runtime),
        };
        let fault = match with_default_modes(|| self.function.program.launch_timed(&launch)) {
            Ok(lasted) => return Some(lasted),
            Err(fault) => fault,
        };
        tracing::error!(%fault, "kernel failed");
        if let Fault::Assert { message, .. } = &fault {
            // As CUDA has it: whoever debugs the kernel looks there.
            eprintln!("{message}");
        }
        context.fail(fault_code(&fault));
        None
    }
}

/// The driver's code for a fault.
pub fn fault_code(fault: &Fault) -> CuResult {
    match fault {
        Fault::InvalidLaunch(_) => CuResult::LAUNCH_OUT_OF_RESOURCES,
        Fault::IllegalAddress { .. } => CuResult::ILLEGAL_ADDRESS,
        Fault::MisalignedAddress { .. } => CuResult::MISALIGNED_ADDRESS,
        Fault::Assert { .. } => CuResult::ASSERT,
        Fault::Timeout { .. } => CuResult::LAUNCH_TIMEOUT,
        Fault::Trap(_) | Fault::BarrierDeadlock { .. } | Fault::StackOverflow(_) => {
            CuResult::LAUNCH_FAILED
        }
    }
}

impl Copy {
    fn run(&self) {
        let from = match &self.from {
            Source::Address(address) => *address as *const u8,
            Source::Staged(bytes) => bytes.as_ptr(),
        };
        // SAFETY: device ranges were found allocated when the copy was submitted, and their addresses
        // stay mapped for the process's life; host ranges are the program's to vouch for, as CUDA's
        // contract has it; staged bytes are as many as the copy's. The ranges may overlap.
        unsafe { std::ptr::copy(from, self.to as *mut u8, self.bytes as usize) };
    }
}

impl CopyRows {
    fn run(&self) {
        let [width, height, depth] = self.extent;
        let whole = |rows: &Rows| {
            (height == 1 || rows.pitch == width) && (depth == 1 || rows.slice == width * height)
        };
        let copy = |y, z, bytes: u64| {
            // SAFETY: device ranges, from the first byte to the last, were found allocated when the copy
            // was submitted, and their addresses stay mapped for the process's life; arrays are kept by
            // the work itself; host ranges are the program's to vouch for, as CUDA's contract has it.
            // The ranges may overlap.
            unsafe {
                std::ptr::copy(
                    self.from.row(y, z) as *const u8,
                    self.to.row(y, z) as *mut u8,
                    bytes as usize,
                );
            }
        };
        if whole(&self.to) && whole(&self.from) {
            return copy(0, 0, width * height * depth);
        }
        for z in 0..depth {
            for y in 0..height {
                copy(y, z, width);
            }
        }
    }
}

impl FillRows {
    fn run(&self) {
        for row in 0..self.height {
            let row = Fill {
                to: self.to + row * self.pitch,
                value: self.value,
                count: self.width,
            };
            row.run();
        }
    }
}

impl Fill {
    fn run(&self) {
        let count = self.count as usize;
        // SAFETY: the range was found allocated, and the address aligned, when the fill was
        // submitted; allocated addresses stay mapped for the process's life.
        unsafe {
            match self.value {
                Pattern::Byte(value) => (self.to as *mut u8).write_bytes(value, count),
                Pattern::Half(value) => fill(self.to as *mut u16, value, count),
                Pattern::Word(value) => fill(self.to as *mut u32, value, count),
            }
        }
    }
}

/// Writes `count` values.
///
/// # Safety
/// They must fit at `to`, which is aligned for them.
unsafe fn fill<T: std::marker::Copy>(to: *mut T, value: T, count: usize) {
    for at in 0..count {
        // SAFETY: within the caller's range.
        unsafe { to.add(at).write(value) };
    }
}
