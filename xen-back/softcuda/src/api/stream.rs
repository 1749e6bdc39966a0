//! Streams and launches.

use super::{Out, call};
use crate::context::{self, current};
use crate::driver::Driver;
use crate::engine::Lane;
use crate::launch;
use crate::stream::{NON_BLOCKING, Stream, Target};
use crate::work::{Kernel, Work};
use cuda_abi::{CuResult, Handle};
use std::ffi::c_void;
use std::sync::Arc;

pub unsafe fn cuStreamCreate(stream: *mut Handle, flags: u32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(stream) }?;
        if flags & !NON_BLOCKING != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let context = current()?;
        let number = driver.streams.number();
        let blocking = flags & NON_BLOCKING == 0;
        driver.engines.add_stream(context.id, number, blocking);
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

/// All priorities are one: the device has no others.
pub unsafe fn cuStreamCreateWithPriority(
    stream: *mut Handle,
    flags: u32,
    _priority: i32,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe { cuStreamCreate(stream, flags) }
}

pub unsafe fn cuStreamDestroy_v2(stream: Handle) -> CuResult {
    call(|driver| {
        let gone = driver
            .streams
            .remove(stream)
            .ok_or(CuResult::INVALID_HANDLE)?;
        driver.engines.remove_stream(gone.context.id, gone.number);
        gone.context.check()
    })
}

pub unsafe fn cuStreamSynchronize(stream: Handle) -> CuResult {
    call(|driver| {
        let target = Target::of(driver, stream)?;
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
        if driver.engines.lane_ended(target.context.id, target.lane) {
            target.context.check()
        } else {
            Err(CuResult::NOT_READY)
        }
    })
}

pub unsafe fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) -> CuResult {
    call(|driver| {
        if flags != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let target = Target::of(driver, stream)?;
        let event = driver.events.get(event).ok_or(CuResult::INVALID_HANDLE)?;
        let (context, lane) = (&target.context, target.lane);
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
        Target::of(driver, stream)?;
        out.set(0);
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

pub unsafe fn cuStreamIsCapturing(stream: Handle, status: *mut i32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(status) }?;
        Target::of(driver, stream)?;
        out.set(0); // CU_STREAM_CAPTURE_STATUS_NONE
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

/// A launch's shape as the program gave it.
struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    /// Whether blocks may wait for each other.
    cooperative: bool,
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
    launch::check(&function, shape.grid, shape.block, shape.shared)?;
    // SAFETY: the caller's.
    let params = unsafe { launch::params(function.info(), params, extra) }?;
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
    let kernel = Kernel {
        workspace,
        function,
        grid: shape.grid,
        block: shape.block,
        shared: shape.shared,
        params,
    };
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
