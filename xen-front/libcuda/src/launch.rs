//! Launches: the parameters packed, the shape checked, the call posted.
//!
//! A launch is never waited for. Must never read more of a program's parameters than the kernel has.

use crate::auto::used;
use crate::context::{answer, current_info};
use crate::device::attribute;
use crate::handles::Named;
use crate::module::Kernel;
use crate::session::Session;
use cuda_abi::{CuResult, Function, Handle, Stream, sys};
use std::ffi::c_void;
use vgpu_protocol::calls::request;
use vgpu_protocol::codec::Bytes;

use sys::CUdevice_attribute as A;
const MAX_THREADS: i32 = A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK as i32;

/// What is to be launched, and how.
struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    cooperative: bool,
}

/// CUDA's markers in the `extra` array.
const EXTRA_END: usize = 0;
const EXTRA_BUFFER: usize = 1;
const EXTRA_SIZE: usize = 2;

/// The parameter buffer of a launch.
///
/// # Safety
/// `params` or `extra` is what CUDA asks for this kernel.
unsafe fn pack(
    kernel: &Kernel,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<Vec<u8>, CuResult> {
    let mut packed = vec![0u8; kernel.bytes];
    if !params.is_null() {
        for (n, (offset, size)) in kernel.params.iter().enumerate() {
            // SAFETY: the array has an entry for each parameter.
            let source = unsafe { params.add(n).read() };
            let target = packed
                .get_mut(*offset as usize..)
                .ok_or(CuResult::INVALID_VALUE)?;
            if source.is_null() || target.len() < *size as usize {
                return Err(CuResult::INVALID_VALUE);
            }
            // SAFETY: the entry points to as many bytes as the parameter has, and so many are left.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    source.cast::<u8>(),
                    target.as_mut_ptr(),
                    *size as usize,
                )
            };
        }
        return Ok(packed);
    }
    if extra.is_null() {
        return if kernel.params.is_empty() {
            Ok(packed)
        } else {
            Err(CuResult::INVALID_VALUE)
        };
    }
    let (mut buffer, mut size, mut entry) = (std::ptr::null::<u8>(), 0usize, extra);
    loop {
        // SAFETY: the array goes on until its end marker, in pairs.
        let marker = unsafe { entry.read() } as usize;
        if marker == EXTRA_END {
            break;
        }
        // SAFETY: a marker that is not the end is followed by its value.
        let value = unsafe { entry.add(1).read() };
        match marker {
            EXTRA_BUFFER => buffer = value.cast(),
            EXTRA_SIZE if !value.is_null() => {
                // SAFETY: the value of this marker points to the size.
                size = unsafe { value.cast::<usize>().read_unaligned() }
            }
            _ => return Err(CuResult::INVALID_VALUE),
        }
        // SAFETY: the pair has been read; the next one or the end follows.
        entry = unsafe { entry.add(2) };
    }
    if size < kernel.bytes || (buffer.is_null() && kernel.bytes != 0) {
        return Err(CuResult::INVALID_VALUE);
    }
    if kernel.bytes != 0 {
        // SAFETY: the program says that the buffer has `size` bytes, no fewer than these.
        unsafe { std::ptr::copy_nonoverlapping(buffer, packed.as_mut_ptr(), kernel.bytes) };
    }
    Ok(packed)
}

/// # Safety
/// As [`pack`].
unsafe fn launch(
    session: &Session,
    f: Handle,
    stream: Handle,
    shape: Shape,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<(), CuResult> {
    let function = Function::open(&session.handles, f)?;
    let kernel = session.modules.kernel(function)?;
    let stream = used::<Stream>(stream, session)?;
    check(session, &shape)?;
    // SAFETY: the caller vouches for the parameters.
    let packed = unsafe { pack(&kernel, params, extra) }?;
    let posted = session.post(&request::Launch {
        function,
        stream,
        grid: shape.grid,
        block: shape.block,
        shared: shape.shared,
        cooperative: shape.cooperative.into(),
        params: Bytes(packed),
    });
    posted.map(|_| ())
}

/// Refuses at once what no device takes; the rest is the driver's to judge.
fn check(session: &Session, shape: &Shape) -> Result<(), CuResult> {
    if shape.grid.contains(&0) || shape.block.contains(&0) {
        return Err(CuResult::INVALID_VALUE);
    }
    let (_, info) = current_info(session)?;
    let threads = shape
        .block
        .iter()
        .try_fold(1u32, |product, n| product.checked_mul(*n));
    let most = attribute(session, MAX_THREADS, info.device)?;
    if threads.is_none_or(|threads| i64::from(threads) > i64::from(most)) {
        return Err(CuResult::INVALID_VALUE);
    }
    Ok(())
}

#[allow(clippy::too_many_arguments, reason = "the C function's")]
pub unsafe fn cuLaunchKernel(
    f: Handle,
    gridDimX: u32,
    gridDimY: u32,
    gridDimZ: u32,
    blockDimX: u32,
    blockDimY: u32,
    blockDimZ: u32,
    sharedMemBytes: u32,
    hStream: Handle,
    kernelParams: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CuResult {
    let shape = Shape {
        grid: [gridDimX, gridDimY, gridDimZ],
        block: [blockDimX, blockDimY, blockDimZ],
        shared: sharedMemBytes,
        cooperative: false,
    };
    if !kernelParams.is_null() && !extra.is_null() {
        return CuResult::INVALID_VALUE;
    }
    // SAFETY: the program vouches for its parameters.
    answer(|session| unsafe { launch(session, f, hStream, shape, kernelParams, extra) })
}

#[allow(clippy::too_many_arguments, reason = "the C function's")]
pub unsafe fn cuLaunchCooperativeKernel(
    f: Handle,
    gridDimX: u32,
    gridDimY: u32,
    gridDimZ: u32,
    blockDimX: u32,
    blockDimY: u32,
    blockDimZ: u32,
    sharedMemBytes: u32,
    hStream: Handle,
    kernelParams: *mut *mut c_void,
) -> CuResult {
    let shape = Shape {
        grid: [gridDimX, gridDimY, gridDimZ],
        block: [blockDimX, blockDimY, blockDimZ],
        shared: sharedMemBytes,
        cooperative: true,
    };
    // SAFETY: the program vouches for its parameters.
    answer(|session| unsafe {
        launch(
            session,
            f,
            hStream,
            shape,
            kernelParams,
            std::ptr::null_mut(),
        )
    })
}

use sys::CUlaunchAttributeID as L;
const IGNORE: u32 = L::CU_LAUNCH_ATTRIBUTE_IGNORE as u32;
const COOPERATIVE: u32 = L::CU_LAUNCH_ATTRIBUTE_COOPERATIVE as u32;
const PRIORITY: u32 = L::CU_LAUNCH_ATTRIBUTE_PRIORITY as u32;

/// `CUlaunchConfig`, with integers where CUDA's header has enums.
#[repr(C)]
#[derive(Copy, Clone)]
struct LaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: Handle,
    attributes: *const LaunchAttribute,
    count: u32,
}

/// `CUlaunchAttribute`: 64 bytes of value behind the id.
#[repr(C)]
#[derive(Copy, Clone)]
struct LaunchAttribute {
    id: u32,
    pad: [u8; 4],
    value: [u8; 64],
}

const _: () = assert!(size_of::<LaunchConfig>() == size_of::<sys::CUlaunchConfig>());
const _: () = assert!(size_of::<LaunchAttribute>() == size_of::<sys::CUlaunchAttribute>());

pub unsafe fn cuLaunchKernelEx(
    config: *const c_void,
    f: Handle,
    kernelParams: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CuResult {
    answer(|session| {
        if config.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        // SAFETY: the program vouches for the structure that it passes.
        let config = unsafe { config.cast::<LaunchConfig>().read_unaligned() };
        if config.count != 0 && config.attributes.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        let mut cooperative = false;
        for n in 0..config.count as usize {
            // SAFETY: the array has `count` entries.
            let attribute = unsafe { config.attributes.add(n).read_unaligned() };
            match attribute.id {
                // The stream's own priority is what counts.
                IGNORE | PRIORITY => {}
                COOPERATIVE => {
                    cooperative = attribute
                        .value
                        .first_chunk()
                        .is_some_and(|v| i32::from_ne_bytes(*v) != 0)
                }
                _ => return Err(CuResult::NOT_SUPPORTED),
            }
        }
        let shape = Shape {
            grid: config.grid,
            block: config.block,
            shared: config.shared,
            cooperative,
        };
        // SAFETY: the program vouches for its parameters.
        unsafe { launch(session, f, config.stream, shape, kernelParams, extra) }
    })
}
