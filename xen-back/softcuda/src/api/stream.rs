//! Streams and launches.

use super::{Out, call};
use crate::context::{self, current};
use crate::driver::Driver;
use crate::engine::Lane;
use crate::graph::Operation;
use crate::launch;
use crate::memory::Purpose;
use crate::module::Function;
use crate::stream::{AttributeValue, NON_BLOCKING, PRIORITIES, Stream, Target};
use crate::work::{Condition, Host, Kernel, Word, Work};
use cuda_abi::{CuResult, Handle, HostFn, StreamCallback};
use std::ffi::c_void;
use std::sync::Arc;

/// `CU_EVENT_WAIT_EXTERNAL`.
const EXTERNAL: u32 = 1;

pub unsafe fn cuStreamCreate(stream: *mut Handle, flags: u32) -> CuResult {
    // SAFETY: the same contract.
    unsafe { cuStreamCreateWithPriority(stream, flags, 0) }
}

/// A priority outside the range counts as the nearest one in it.
pub unsafe fn cuStreamCreateWithPriority(
    stream: *mut Handle,
    flags: u32,
    priority: i32,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(stream) }?;
        if flags & !NON_BLOCKING != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let context = current()?;
        let number = driver.streams.number();
        let blocking = flags & NON_BLOCKING == 0;
        let priority = priority.clamp(PRIORITIES.1, PRIORITIES.0);
        driver
            .engines
            .add_stream(context.id, number, blocking, priority);
        let stream = Stream {
            context,
            number,
            flags,
        };
        driver.streams.insert(number, Arc::new(stream));
        out.set(number as Handle);
        Ok(())
    })
}

pub unsafe fn cuStreamDestroy_v2(stream: Handle) -> CuResult {
    call(|driver| {
        let gone = driver
            .streams
            .remove(stream)
            .ok_or(CuResult::INVALID_HANDLE)?;
        let lane = Some(Lane::Stream(gone.number));
        driver.captures.forget(gone.context.id, lane);
        driver.stream_attributes.forget(gone.context.id, lane);
        driver.engines.remove_stream(gone.context.id, gone.number);
        gone.context.check()
    })
}

pub unsafe fn cuStreamSynchronize(stream: Handle) -> CuResult {
    call(|driver| {
        let target = Target::of(driver, stream)?;
        driver.captures.check_wait(&target.context, target.lane)?;
        driver
            .engines
            .wait_lane(driver, target.context.id, target.lane);
        target.context.print();
        target.context.check()
    })
}

pub unsafe fn cuStreamQuery(stream: Handle) -> CuResult {
    call(|driver| {
        let target = Target::of(driver, stream)?;
        driver.captures.check_wait(&target.context, target.lane)?;
        if driver.engines.lane_ended(target.context.id, target.lane) {
            target.context.check()
        } else {
            Err(CuResult::NOT_READY)
        }
    })
}

/// The only flag makes a node of a capture's graph that waits for the event each time it is launched.
pub unsafe fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) -> CuResult {
    call(|driver| {
        let external = match flags {
            0 => false,
            EXTERNAL => true,
            _ => return Err(CuResult::INVALID_VALUE),
        };
        let handle = event as u64;
        let target = Target::of(driver, stream)?;
        let event = driver.events.get(event).ok_or(CuResult::INVALID_HANDLE)?;
        let (context, lane) = (&target.context, target.lane);
        let place = (context.id, lane);
        if external {
            let node = Operation::WaitEvent(event, handle);
            return match driver.captures.add(driver, place, node)? {
                true => Ok(()),
                false => Err(CuResult::INVALID_VALUE),
            };
        }
        if let Some(point) = event.captured() {
            let blocking = target.flags & NON_BLOCKING == 0;
            return driver.captures.join(place, blocking, &point);
        }
        if driver.captures.has(place) {
            let error = CuResult::STREAM_CAPTURE_ISOLATION;
            return Err(driver.captures.refuse(place, error));
        }
        driver
            .engines
            .submit(driver, context, lane, Work::Mark, event.task())?;
        Ok(())
    })
}

pub unsafe fn cuStreamGetPriority(stream: Handle, priority: *mut i32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(priority) }?;
        let target = Target::of(driver, stream)?;
        out.set(driver.engines.priority(target.context.id, target.lane));
        Ok(())
    })
}

pub unsafe fn cuStreamGetFlags(stream: Handle, flags: *mut u32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(flags) }?;
        out.set(Target::of(driver, stream)?.flags);
        Ok(())
    })
}

pub unsafe fn cuStreamGetCtx(stream: Handle, context: *mut Handle) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(context) }?;
        out.set(Target::of(driver, stream)?.context.handle as Handle);
        Ok(())
    })
}

pub unsafe fn cuStreamGetCtx_v2(
    stream: Handle,
    context: *mut Handle,
    green_context: *mut Handle,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let (out, green) = unsafe { (Out::new(context)?, Out::new(green_context)?) };
        out.set(Target::of(driver, stream)?.context.handle as Handle);
        green.set(std::ptr::null_mut());
        Ok(())
    })
}

pub unsafe fn cuStreamGetId(stream: Handle, id: *mut u64) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(id) }?;
        out.set(Target::of(driver, stream)?.id());
        Ok(())
    })
}

pub unsafe fn cuStreamGetDevice(stream: Handle, device: *mut i32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(device) }?;
        out.set(Target::of(driver, stream)?.context.device as i32);
        Ok(())
    })
}

/// `CU_LAUNCH_ATTRIBUTE_PRIORITY`.
const PRIORITY: i32 = 8;

/// What an attribute is before it is set; `None` for one that streams do not have.
fn initial_attribute(id: i32) -> Option<AttributeValue> {
    let mut value = [0; 64];
    match id {
        // The window of the cache policy, the waiting policy, the priority, the memory domain.
        1 | PRIORITY | 10 => {}
        3 => value[0] = 1, // automatic
        9 => value[1] = 1, // the remote domain
        _ => return None,
    }
    Some(value)
}

pub unsafe fn cuStreamGetAttribute(stream: Handle, id: i32, value: *mut c_void) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract: the attribute's type is this large.
        let out = unsafe { Out::new(value.cast::<AttributeValue>()) }?;
        let target = Target::of(driver, stream)?;
        let initial = initial_attribute(id).ok_or(CuResult::INVALID_VALUE)?;
        let mut value = driver.stream_attributes.get(&target, id).unwrap_or(initial);
        if id == PRIORITY {
            let priority = driver.engines.priority(target.context.id, target.lane);
            value[..4].copy_from_slice(&priority.to_ne_bytes());
        }
        out.set(value);
        Ok(())
    })
}

pub unsafe fn cuStreamSetAttribute(stream: Handle, id: i32, value: *const c_void) -> CuResult {
    call(|driver| {
        let target = Target::of(driver, stream)?;
        if value.is_null() || initial_attribute(id).is_none() {
            return Err(CuResult::INVALID_VALUE);
        }
        // SAFETY: not null, so the attribute's type, which is this large.
        let value = unsafe { value.cast::<AttributeValue>().read_unaligned() };
        if id == PRIORITY {
            let priority = i32::from_ne_bytes([value[0], value[1], value[2], value[3]]);
            let Lane::Stream(number) = target.lane else {
                return Err(CuResult::INVALID_VALUE);
            };
            let priority = priority.clamp(PRIORITIES.1, PRIORITIES.0);
            driver
                .engines
                .set_priority(target.context.id, number, priority);
            return Ok(());
        }
        driver.stream_attributes.set(&target, id, value);
        Ok(())
    })
}

pub unsafe fn cuStreamCopyAttributes(to: Handle, from: Handle) -> CuResult {
    call(|driver| {
        let (to, from) = (Target::of(driver, to)?, Target::of(driver, from)?);
        if to.context.id != from.context.id {
            return Err(CuResult::INVALID_VALUE);
        }
        driver.stream_attributes.copy(&to, &from);
        Ok(())
    })
}

pub unsafe fn cuLaunchHostFunc(stream: Handle, function: HostFn, data: *mut c_void) -> CuResult {
    call(|driver| {
        let Target { context, lane, .. } = Target::of(driver, stream)?;
        let function = function.ok_or(CuResult::INVALID_VALUE)?;
        let work = Work::Host(Host::Function(function, data as usize));
        driver.engines.submit(driver, &context, lane, work, 0)?;
        Ok(())
    })
}

pub unsafe fn cuStreamAddCallback(
    stream: Handle,
    function: StreamCallback,
    data: *mut c_void,
    flags: u32,
) -> CuResult {
    call(|driver| {
        let Target { context, lane, .. } = Target::of(driver, stream)?;
        let function = function.ok_or(CuResult::INVALID_VALUE)?;
        if flags != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let work = Work::Host(Host::Callback(function, stream as u64, data as usize));
        driver.engines.submit(driver, &context, lane, work, 0)?;
        Ok(())
    })
}

/// Operations that cuStreamBatchMemOp takes at a time.
const MAX_BATCH: usize = 256;
/// `CUstreamBatchMemOpParams` as words: the operation, the address, the value, the flags.
pub(super) type BatchEntry = [u64; 6];

/// The work of a write; `short` has 4 bytes.
fn write(
    driver: &Driver,
    address: u64,
    value: u64,
    short: bool,
    flags: u32,
) -> Result<Work, CuResult> {
    // The flag says that no barrier is needed before it.
    if flags & !1 != 0 {
        return Err(CuResult::INVALID_VALUE);
    }
    Ok(Work::Write(word(driver, address, value, short)?))
}

/// The work of a wait; `short` compares 4 bytes.
fn await_value(
    driver: &Driver,
    address: u64,
    value: u64,
    short: bool,
    flags: u32,
) -> Result<Work, CuResult> {
    /// `CU_STREAM_WAIT_VALUE_FLUSH`: remote writes are always seen here.
    const FLUSH: u32 = 1 << 30;
    let condition = match flags & !FLUSH {
        0 => Condition::GreaterOrEqual,
        1 => Condition::Equal,
        2 => Condition::And,
        3 => Condition::Nor,
        _ => return Err(CuResult::INVALID_VALUE),
    };
    Ok(Work::Await(word(driver, address, value, short)?, condition))
}

/// A word of memory that stays mapped whatever the program does.
fn word(driver: &Driver, address: u64, value: u64, short: bool) -> Result<Word, CuResult> {
    let word = match short {
        true => Word::Short(address, value as u32),
        false => Word::Long(address, value),
    };
    let found = driver.memory.find(address, word.bytes());
    let usable = found.is_some_and(|found| {
        // The program can unmap these while a stream waits.
        !found.registered && found.owner.purpose != Purpose::Mapping
    });
    match usable && address.is_multiple_of(word.bytes()) {
        true => Ok(word),
        false => Err(CuResult::INVALID_VALUE),
    }
}

/// The works of a batch.
///
/// # Safety
/// `entries` has `count` of them, or is null.
pub(super) unsafe fn batch(
    driver: &Driver,
    count: u32,
    entries: *const c_void,
) -> Result<Vec<Work>, CuResult> {
    if entries.is_null() || count as usize > MAX_BATCH {
        return Err(CuResult::INVALID_VALUE);
    }
    let mut works = Vec::new();
    for at in 0..count as usize {
        // SAFETY: within the caller's array.
        let entry = unsafe { entries.cast::<BatchEntry>().add(at).read_unaligned() };
        let [operation, address, value, flags, ..] = entry;
        let flags = flags as u32;
        works.push(match operation as u32 {
            1 | 4 => await_value(driver, address, value, operation as u32 == 1, flags)?,
            2 | 5 => write(driver, address, value, operation as u32 == 2, flags)?,
            // Barriers and flushes: what comes before is seen by what comes after in any case.
            3 | 6 => Work::Mark,
            _ => return Err(CuResult::INVALID_VALUE),
        });
    }
    Ok(works)
}

/// Submits such works to a stream, one after the other.
fn submit_words(
    stream: Handle,
    works: impl FnOnce(&Driver) -> Result<Vec<Work>, CuResult>,
) -> CuResult {
    call(|driver| {
        let Target { context, lane, .. } = Target::of(driver, stream)?;
        for work in works(driver)? {
            driver.engines.submit(driver, &context, lane, work, 0)?;
        }
        Ok(())
    })
}

pub unsafe fn cuStreamWriteValue32_v2(
    stream: Handle,
    address: u64,
    value: u32,
    flags: u32,
) -> CuResult {
    submit_words(stream, |driver| {
        Ok(vec![write(driver, address, value.into(), true, flags)?])
    })
}

pub unsafe fn cuStreamWriteValue64_v2(
    stream: Handle,
    address: u64,
    value: u64,
    flags: u32,
) -> CuResult {
    submit_words(stream, |driver| {
        Ok(vec![write(driver, address, value, false, flags)?])
    })
}

pub unsafe fn cuStreamWaitValue32_v2(
    stream: Handle,
    address: u64,
    value: u32,
    flags: u32,
) -> CuResult {
    submit_words(stream, |driver| {
        let value = value.into();
        Ok(vec![await_value(driver, address, value, true, flags)?])
    })
}

pub unsafe fn cuStreamWaitValue64_v2(
    stream: Handle,
    address: u64,
    value: u64,
    flags: u32,
) -> CuResult {
    submit_words(stream, |driver| {
        Ok(vec![await_value(driver, address, value, false, flags)?])
    })
}

pub unsafe fn cuStreamBatchMemOp_v2(
    stream: Handle,
    count: u32,
    entries: *mut c_void,
    flags: u32,
) -> CuResult {
    submit_words(stream, |driver| match flags {
        // SAFETY: the C function's contract.
        0 => unsafe { batch(driver, count, entries) },
        _ => Err(CuResult::INVALID_VALUE),
    })
}

/// The first version of a function, which needed to be enabled on the host, does the same.
macro_rules! first_versions {
    ($($name:ident = $newer:ident($($parameter:ident: $type:ty),*);)*) => {$(
        pub unsafe fn $name($($parameter: $type),*) -> CuResult {
            // SAFETY: the same contract.
            unsafe { $newer($($parameter),*) }
        }
    )*};
}
first_versions! {
    cuStreamWriteValue32 = cuStreamWriteValue32_v2(stream: Handle, address: u64, value: u32, flags: u32);
    cuStreamWriteValue64 = cuStreamWriteValue64_v2(stream: Handle, address: u64, value: u64, flags: u32);
    cuStreamWaitValue32 = cuStreamWaitValue32_v2(stream: Handle, address: u64, value: u32, flags: u32);
    cuStreamWaitValue64 = cuStreamWaitValue64_v2(stream: Handle, address: u64, value: u64, flags: u32);
    cuStreamBatchMemOp = cuStreamBatchMemOp_v2(stream: Handle, count: u32, entries: *mut c_void, flags: u32);
}

/// A launch's shape as the program gave it.
pub(super) struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    /// Whether blocks may wait for each other.
    pub cooperative: bool,
}

/// A checked launch, in the function's context.
///
/// # Safety
/// `params` and `extra` are as cuLaunchKernel documents them.
pub(super) unsafe fn kernel(
    driver: &Driver,
    function: Arc<Function>,
    shape: Shape,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<Kernel, CuResult> {
    launch::check(&function, shape.grid, shape.block, shape.shared)?;
    // SAFETY: the caller's.
    let params = unsafe { launch::params(function.info(), params, extra) }?;
    let context = &function.context;
    let workspace = if shape.cooperative {
        let cores = driver.devices[context.device].cores;
        launch::check_cooperative(&function, shape.grid, shape.block, shape.shared, cores)?;
        Some(context.workspace(driver)?)
    } else {
        None
    };
    if function.program.uses_heap() {
        context.need_heap(driver)?;
    }
    Ok(Kernel {
        workspace,
        function,
        grid: shape.grid,
        block: shape.block,
        shared: shape.shared,
        params,
    })
}

/// Checks a launch and submits it.
///
/// # Safety
/// `params` and `extra` are as cuLaunchKernel documents them.
unsafe fn submit(
    driver: &'static Driver,
    function: Handle,
    shape: Shape,
    stream: Handle,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<(), CuResult> {
    context::current()?;
    let function = crate::library::function(driver, function)?;
    let Target { context, lane, .. } = Target::of(driver, stream)?;
    if function.context.id != context.id {
        return Err(match lane {
            Lane::Null => CuResult::INVALID_CONTEXT,
            Lane::Stream(_) => CuResult::INVALID_HANDLE,
        });
    }
    // SAFETY: the caller's.
    let kernel = unsafe { kernel(driver, function, shape, params, extra) }?;
    let work = Work::Kernel(Box::new(kernel));
    driver.engines.submit(driver, &context, lane, work, 0)?;
    Ok(())
}

#[allow(clippy::too_many_arguments, reason = "the C function's")]
pub unsafe fn cuLaunchKernel(
    function: Handle,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared: u32,
    stream: Handle,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CuResult {
    let shape = Shape {
        grid: [grid_x, grid_y, grid_z],
        block: [block_x, block_y, block_z],
        shared,
        cooperative: false,
    };
    // SAFETY: the C function's contract.
    call(|driver| unsafe { submit(driver, function, shape, stream, params, extra) })
}

#[allow(clippy::too_many_arguments, reason = "the C function's")]
pub unsafe fn cuLaunchCooperativeKernel(
    function: Handle,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared: u32,
    stream: Handle,
    params: *mut *mut c_void,
) -> CuResult {
    let shape = Shape {
        grid: [grid_x, grid_y, grid_z],
        block: [block_x, block_y, block_z],
        shared,
        cooperative: true,
    };
    let extra = std::ptr::null_mut();
    // SAFETY: the C function's contract.
    call(|driver| unsafe { submit(driver, function, shape, stream, params, extra) })
}

pub unsafe fn cuLaunchKernelEx(
    config: *const c_void,
    function: Handle,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CuResult {
    call(|driver| {
        // SAFETY: null, or the structure that this function takes. Its attributes are only counted,
        // and looked at by their number, which is an integer here whatever the header's enum knows.
        let (config, attributes) = unsafe {
            let config = config
                .cast::<cuda_abi::sys::CUlaunchConfig>()
                .as_ref()
                .ok_or(CuResult::INVALID_VALUE)?;
            (config, attributes(config)?)
        };
        check_attributes(&attributes)?;
        let shape = Shape {
            grid: [config.gridDimX, config.gridDimY, config.gridDimZ],
            block: [config.blockDimX, config.blockDimY, config.blockDimZ],
            shared: config.sharedMemBytes,
            cooperative: attributes
                .iter()
                .any(|attribute| attribute.0 == COOPERATIVE && attribute.1[0] != 0),
        };
        // SAFETY: the C function's contract.
        unsafe {
            submit(
                driver,
                function,
                shape,
                config.hStream.cast(),
                params,
                extra,
            )
        }
    })
}

/// `CU_LAUNCH_ATTRIBUTE_COOPERATIVE`.
const COOPERATIVE: u32 = 2;

/// An attribute's `CUlaunchAttributeID` and the first integers of its value.
type Attribute = (u32, [u32; 3]);

/// The attributes of a launch.
///
/// # Safety
/// `config.attrs` has as many entries as the structure says.
unsafe fn attributes(config: &cuda_abi::sys::CUlaunchConfig) -> Result<Vec<Attribute>, CuResult> {
    /// Attributes that CUDA 12.8 defines: no launch can have more.
    const MOST: usize = 32;
    /// Bytes of an entry: the number, padding, and a value of 64 bytes.
    const BYTES: usize = 72;
    let count = config.numAttrs as usize;
    if count > MOST || count > 0 && config.attrs.is_null() {
        return Err(CuResult::INVALID_VALUE);
    }
    let first = config.attrs.cast::<u8>().cast_const();
    let read = |at: usize| {
        // SAFETY: within entry `at / BYTES` of the caller's.
        unsafe { first.add(at).cast::<u32>().read_unaligned() }
    };
    Ok((0..count)
        .map(|at| at * BYTES)
        .map(|at| (read(at), [read(at + 8), read(at + 12), read(at + 16)]))
        .collect())
}

/// Lets through what changes nothing on this device.
fn check_attributes(attributes: &[Attribute]) -> Result<(), CuResult> {
    for (id, value) in attributes {
        match (id, value) {
            (4, [0 | 1, 0 | 1, 0 | 1]) => {} // clusters of one block
            (4, _) => return Err(CuResult::NOT_SUPPORTED),
            // Hints: cache windows, waiting, cluster scheduling, priority, memory domains, carve-out.
            (&COOPERATIVE, _) => {}
            (0 | 1 | 3 | 5 | 8 | 9 | 10 | 14, _) => {}
            _ => return Err(CuResult::NOT_SUPPORTED),
        }
    }
    Ok(())
}
