//! Contexts: what a program's handles and memory belong to, the error that ended it, and each thread's
//! stack of current ones. Must never give out a context that was destroyed.

use crate::api::Described;
use crate::driver::{self, Driver};
use crate::exec::texture::TextureTable;
use crate::exec::{GRANULE, Runtime, WORKSPACE_BYTES};
use crate::memory::{Allocation, Charge, Home, Owner, Purpose};
use cuda_abi::CuResult;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Flags of cuCtxCreate that have a meaning in CUDA 12.8.
pub const FLAGS: u32 = 0xff;
/// `CU_CTX_SCHED_MASK`.
const SCHED_MASK: u32 = 7;
/// Limits that can be read and set, by their `CUlimit` number: initial value and highest value.
const LIMITS: [(usize, usize); 7] = [
    (1024, 512 << 10),          // stack of a GPU thread, bytes
    (1 << 20, usize::MAX >> 1), // printf buffer, bytes
    (8 << 20, usize::MAX >> 1), // device malloc heap, bytes
    (2, 24),                    // synchronisation depth of device-side launches
    (2048, 1 << 20),            // pending device-side launches
    (64, 128),                  // L2 fetch granularity, bytes
    (0, 0),                     // L2 cache set aside for persisting accesses, bytes
];

/// Numbers of the limits that mean something here.
const STACK_LIMIT: usize = 0;
const PRINTF_LIMIT: usize = 1;
const HEAP_LIMIT: usize = 2;

/// A context.
#[derive(Debug)]
pub struct Context {
    /// Never used for another one.
    pub id: u64,
    /// What programs call it. A device's primary context bears the same one each time it is made.
    pub handle: u64,
    /// Index of its device.
    pub device: usize,
    /// As given at creation, or to the primary context since.
    pub flags: AtomicU32,
    /// Whether it is its device's primary context.
    pub primary: bool,
    /// `CUfunc_cache` preference; it changes nothing on this device.
    pub cache_config: AtomicI32,
    /// `CUsharedconfig` preference; shared memory has no banks here.
    pub shared_config: AtomicI32,
    /// How often cuCtxAttach was called more than cuCtxDetach.
    pub attached: AtomicU32,
    /// What handles of textures and surfaces mean to its kernels.
    pub textures: TextureTable,
    /// What programs said of those, by handle.
    described: Mutex<HashMap<u64, Described>>,
    /// What its kernels share with the program: what they print, and their heap.
    pub runtime: Runtime,
    /// Address of the memory through which the blocks of cooperative launches wait for each other.
    workspace: Mutex<Option<u64>>,
    /// What it takes itself of its device's memory.
    charge: Mutex<Option<Charge>>,
    limits: [AtomicUsize; LIMITS.len()],
    /// The first asynchronous error, 0 if there was none.
    fault: AtomicU32,
    alive: AtomicBool,
}

impl Context {
    /// A new context.
    pub fn new(
        id: u64,
        handle: u64,
        device: usize,
        flags: u32,
        primary: bool,
        timeout: Option<Duration>,
    ) -> Arc<Context> {
        Arc::new(Context {
            runtime: Runtime::new(timeout),
            workspace: Mutex::new(None),
            charge: Mutex::new(None),
            id,
            handle,
            device,
            flags: AtomicU32::new(flags),
            primary,
            cache_config: AtomicI32::new(0),
            shared_config: AtomicI32::new(1), // four bytes
            attached: AtomicU32::new(0),
            textures: TextureTable::new(),
            described: Mutex::default(),
            limits: LIMITS.map(|(initial, _)| AtomicUsize::new(initial)),
            fault: AtomicU32::new(0),
            alive: AtomicBool::new(true),
        })
    }

    /// Takes what contexts take of its device's memory.
    ///
    /// # Errors
    /// CUDA_ERROR_OUT_OF_MEMORY if the device has not that much.
    pub fn take_memory(&self, driver: &Driver) -> Result<(), CuResult> {
        let charge = driver.memory.charge(self.device, driver.context_memory)?;
        *self.charge() = Some(charge);
        Ok(())
    }

    /// Gives it back.
    pub fn give_memory(&self) {
        *self.charge() = None;
    }

    fn charge(&self) -> MutexGuard<'_, Option<Charge>> {
        self.charge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what the program said of a texture or surface object.
    pub fn describe(&self, object: u64, described: Described) {
        self.descriptions().insert(object, described);
    }

    /// What the program said of an object.
    pub fn described(&self, object: u64) -> Option<Described> {
        self.descriptions().get(&object).copied()
    }

    /// Forgets an object.
    pub fn forget(&self, object: u64) {
        self.descriptions().remove(&object);
    }

    fn descriptions(&self) -> MutexGuard<'_, HashMap<u64, Described>> {
        self.described
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether these are flags that a context can have.
    pub fn flags_valid(flags: u32) -> bool {
        flags & !FLAGS == 0 && matches!(flags & SCHED_MASK, 0 | 1 | 2 | 4)
    }

    /// Notes an asynchronous error; the first one stays.
    pub fn fail(&self, error: CuResult) {
        let _ = self
            .fault
            .compare_exchange(0, error.0, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Whether its work is still carried out: neither destroyed nor failed.
    pub fn goes_on(&self) -> bool {
        self.alive.load(Ordering::Acquire) && self.fault.load(Ordering::Acquire) == 0
    }

    /// Whether it was not destroyed.
    pub fn alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Ends it: what has not started never will. Whether this call did it.
    pub fn end(&self) -> bool {
        self.alive.swap(false, Ordering::AcqRel)
    }

    /// Its asynchronous error, if there was one.
    ///
    /// # Errors
    /// That error, or CUDA_ERROR_CONTEXT_IS_DESTROYED.
    pub fn check(&self) -> Result<(), CuResult> {
        if !self.alive() {
            return Err(CuResult::CONTEXT_IS_DESTROYED);
        }
        CuResult(self.fault.load(Ordering::Acquire)).ok()
    }

    /// The value of a `CUlimit`.
    ///
    /// # Errors
    /// CUDA_ERROR_UNSUPPORTED_LIMIT.
    pub fn limit(&self, limit: i32) -> Result<usize, CuResult> {
        let at = usize::try_from(limit).unwrap_or(usize::MAX);
        let value = self.limits.get(at).ok_or(CuResult::UNSUPPORTED_LIMIT)?;
        Ok(value.load(Ordering::Relaxed))
    }

    /// Sets a `CUlimit`; a value above what the device can have is lowered to it.
    ///
    /// # Errors
    /// CUDA_ERROR_UNSUPPORTED_LIMIT; CUDA_ERROR_INVALID_VALUE for the size of a heap that is there.
    pub fn set_limit(&self, limit: i32, value: usize) -> Result<(), CuResult> {
        let at = usize::try_from(limit).unwrap_or(usize::MAX);
        let (Some(place), Some((_, highest))) = (self.limits.get(at), LIMITS.get(at)) else {
            return Err(CuResult::UNSUPPORTED_LIMIT);
        };
        let value = value.min(*highest);
        match at {
            STACK_LIMIT => self.runtime.set_stack_bytes(value),
            PRINTF_LIMIT => self.runtime.set_output_bytes(value),
            HEAP_LIMIT if self.runtime.has_heap() => return Err(CuResult::INVALID_VALUE),
            _ => {}
        }
        place.store(value, Ordering::Relaxed);
        Ok(())
    }

    /// Gives its kernels a heap, if they have none.
    ///
    /// # Errors
    /// CUDA_ERROR_OUT_OF_MEMORY if the device has no room for it.
    pub fn need_heap(&self, driver: &Driver) -> Result<(), CuResult> {
        // The lock keeps two threads from making it.
        let _making = self
            .workspace
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !self.runtime.has_heap() {
            let bytes = self.limits[HEAP_LIMIT].load(Ordering::Relaxed) as u64;
            let heap = self.allocate(driver, bytes.max(1))?;
            self.runtime.set_heap(driver.memory.heap(self.device, heap));
        }
        Ok(())
    }

    /// Address of the memory through which the blocks of cooperative launches wait for each other.
    ///
    /// # Errors
    /// CUDA_ERROR_OUT_OF_MEMORY if the device has no room for it.
    pub fn workspace(&self, driver: &Driver) -> Result<u64, CuResult> {
        let mut workspace = self
            .workspace
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(address) = *workspace {
            return Ok(address);
        }
        let address = self.allocate(driver, WORKSPACE_BYTES)?.start;
        *workspace = Some(address);
        Ok(address)
    }

    /// Device memory that lives as long as the context.
    fn allocate(&self, driver: &Driver, bytes: u64) -> Result<Allocation, CuResult> {
        let owner = Owner {
            context: self.handle,
            flags: 0,
            purpose: Purpose::Variable,
        };
        driver
            .memory
            .allocate(Home::Device(self.device), bytes, GRANULE, owner)
    }

    /// Writes what its kernels printed to the program's standard output, behind what the program itself
    /// wrote there through C's functions.
    pub fn print(&self) {
        let text = self.runtime.take_output();
        if text.is_empty() {
            return;
        }
        unsafe extern "C" {
            static stdout: *mut libc::FILE;
        }
        // SAFETY: the C library's own stream, which it locks; the text is as long as said.
        unsafe {
            libc::fwrite(text.as_ptr().cast(), 1, text.len(), stdout);
            libc::fflush(stdout);
        }
    }
}

/// A device's primary context: made when the first user retains it, destroyed when the last one
/// releases it.
#[derive(Debug)]
pub struct Primary {
    device: usize,
    handle: u64,
    state: Mutex<PrimaryState>,
}

#[derive(Debug, Default)]
struct PrimaryState {
    users: u64,
    flags: u32,
    context: Option<Arc<Context>>,
}

impl Primary {
    /// The primary context of a device, not made yet.
    pub fn new(device: usize, handle: u64) -> Primary {
        Primary {
            device,
            handle,
            state: Mutex::default(),
        }
    }

    /// Counts a user; the context's handle.
    ///
    /// # Errors
    /// CUDA_ERROR_OUT_OF_MEMORY if the device has no room for the context.
    pub fn retain(&self, driver: &Driver) -> Result<u64, CuResult> {
        let mut state = self.state();
        if state.context.is_none() {
            let id = driver.contexts.number();
            let context = Context::new(
                id,
                self.handle,
                self.device,
                state.flags,
                true,
                driver.timeout,
            );
            context.take_memory(driver)?;
            driver.contexts.insert(self.handle, Arc::clone(&context));
            state.context = Some(context);
        }
        state.users += 1;
        Ok(self.handle)
    }

    /// Counts a user less.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_CONTEXT if it has none.
    pub fn release(&self, driver: &'static Driver) -> Result<(), CuResult> {
        let mut state = self.state();
        state.users = state
            .users
            .checked_sub(1)
            .ok_or(CuResult::INVALID_CONTEXT)?;
        if state.users == 0
            && let Some(context) = state.context.take()
        {
            driver.destroy_context(&context);
        }
        Ok(())
    }

    /// Destroys the context, whoever uses it; the next to retain it gets a new one.
    pub fn reset(&self, driver: &'static Driver) {
        if let Some(context) = self.state().context.take() {
            driver.destroy_context(&context);
        }
    }

    /// Its flags, and whether it is there.
    pub fn status(&self) -> (u32, bool) {
        let state = self.state();
        (state.flags, state.context.is_some())
    }

    /// Sets its flags, now and for when it is made.
    pub fn set_flags(&self, flags: u32) {
        let mut state = self.state();
        state.flags = flags;
        if let Some(context) = &state.context {
            context.flags.store(flags, Ordering::Relaxed);
        }
    }

    fn state(&self) -> MutexGuard<'_, PrimaryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    /// The calling thread's contexts; the last one is current.
    static STACK: RefCell<Vec<Arc<Context>>> = const { RefCell::new(Vec::new()) };
    /// The calling thread's default streams.
    static OWN_STREAMS: RefCell<OwnStreams> = const { RefCell::new(OwnStreams(Vec::new())) };
}

/// A thread's streams behind `CU_STREAM_PER_THREAD`: ids of contexts, numbers of streams.
struct OwnStreams(Vec<(u64, u64)>);

impl Drop for OwnStreams {
    fn drop(&mut self) {
        if let Ok(driver) = driver::get() {
            for (context, stream) in &self.0 {
                driver.engines.remove_stream(*context, *stream);
            }
        }
    }
}

/// Works on the calling thread's stack of contexts.
///
/// # Errors
/// CUDA_ERROR_DEINITIALIZED if the thread is so far in ending that it has none.
pub fn with_stack<R>(body: impl FnOnce(&mut Vec<Arc<Context>>) -> R) -> Result<R, CuResult> {
    STACK
        .try_with(|stack| body(&mut stack.borrow_mut()))
        .map_err(|_| CuResult::DEINITIALIZED)
}

/// The calling thread's context.
///
/// # Errors
/// CUDA_ERROR_INVALID_CONTEXT if there is none, CUDA_ERROR_CONTEXT_IS_DESTROYED, or the asynchronous
/// error that ended it.
pub fn current() -> Result<Arc<Context>, CuResult> {
    let context = with_stack(|stack| stack.last().cloned())?.ok_or(CuResult::INVALID_CONTEXT)?;
    context.check()?;
    Ok(context)
}

/// The number of the calling thread's default stream in a context.
///
/// # Errors
/// CUDA_ERROR_DEINITIALIZED if the thread is so far in ending that it has none.
pub fn own_stream(driver: &Driver, context: &Context) -> Result<u64, CuResult> {
    OWN_STREAMS
        .try_with(|own| {
            let own = &mut own.borrow_mut().0;
            if let Some((_, stream)) = own.iter().find(|(id, _)| *id == context.id) {
                return *stream;
            }
            let stream = driver.streams.number();
            driver.engines.add_stream(context.id, stream, true, 0);
            own.push((context.id, stream));
            stream
        })
        .map_err(|_| CuResult::DEINITIALIZED)
}
