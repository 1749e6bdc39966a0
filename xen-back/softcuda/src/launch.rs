//! What a launch may ask for, and how its parameters reach the kernel. Checks what a GPU checks before
//! anything runs; it must never read more of the program's parameters than the kernel has.

use crate::device::{MAX_BLOCK, MAX_GRID, MAX_PARAM_BYTES};
use crate::exec::{KernelInfo, MAX_BLOCK_THREADS, MAX_SHARED_BYTES};
use crate::module::Function;
use cuda_abi::CuResult;
use std::ffi::c_void;
use std::sync::atomic::Ordering;

/// `CU_LAUNCH_PARAM_END`.
const PARAM_END: usize = 0;
/// `CU_LAUNCH_PARAM_BUFFER_POINTER`.
const PARAM_BUFFER_POINTER: usize = 1;
/// `CU_LAUNCH_PARAM_BUFFER_SIZE`.
const PARAM_BUFFER_SIZE: usize = 2;
/// Entries of `extra` that are looked at: each name comes once.
const MAX_EXTRA: usize = 4;

/// Checks the shape of a launch.
///
/// # Errors
/// CUDA_ERROR_INVALID_VALUE for what no kernel can have, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES for more
/// threads than this one can have.
pub fn check(
    function: &Function,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
) -> Result<(), CuResult> {
    let within = |sizes: [u32; 3], limits: [u32; 3]| {
        sizes
            .iter()
            .zip(limits)
            .all(|(size, limit)| (1..=limit).contains(size))
    };
    let threads: u32 = block.iter().fold(1, |all, size| all.saturating_mul(*size));
    if !within(grid, MAX_GRID) || !within(block, MAX_BLOCK) || threads > MAX_BLOCK_THREADS {
        return Err(CuResult::INVALID_VALUE);
    }
    let info = function.info();
    let allowed = function
        .settings
        .max_dynamic_shared
        .load(Ordering::Relaxed)
        .max(0) as u32;
    if shared > allowed || shared.saturating_add(info.shared_bytes) > MAX_SHARED_BYTES {
        return Err(CuResult::INVALID_VALUE);
    }
    if info
        .required_threads
        .is_some_and(|required| required != block)
    {
        return Err(CuResult::INVALID_VALUE);
    }
    if threads > function.max_threads() {
        return Err(CuResult::LAUNCH_OUT_OF_RESOURCES);
    }
    Ok(())
}

/// Checks that all blocks of a launch run at once on a device with so many multiprocessors.
///
/// # Errors
/// CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE.
pub fn check_cooperative(
    function: &Function,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    multiprocessors: u32,
) -> Result<(), CuResult> {
    let product = |sizes: [u32; 3]| {
        let sizes = sizes.iter().map(|size| u64::from(*size));
        sizes.fold(1_u64, u64::saturating_mul)
    };
    let threads = u32::try_from(product(block)).unwrap_or(u32::MAX);
    let resident = function.resident_blocks(threads, u64::from(shared));
    if product(grid) > u64::from(resident) * u64::from(multiprocessors) {
        return Err(CuResult::COOPERATIVE_LAUNCH_TOO_LARGE);
    }
    Ok(())
}

/// The parameter buffer of a launch, from an array of pointers to the parameters or from `extra`.
///
/// # Errors
/// CUDA_ERROR_INVALID_VALUE if both or neither are given, or one lacks what the kernel takes.
///
/// # Safety
/// `params` is null or has a pointer per parameter, each null or to that parameter's bytes; `extra` is
/// null or as cuLaunchKernel documents it.
pub unsafe fn params(
    info: &KernelInfo,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<Vec<u8>, CuResult> {
    let mut buffer = vec![0; info.param_bytes as usize];
    if !extra.is_null() {
        if !params.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        // SAFETY: the caller's.
        let (from, bytes) = unsafe { packed(extra) }?;
        if bytes < buffer.len() || bytes > MAX_PARAM_BYTES {
            return Err(CuResult::INVALID_VALUE);
        }
        // SAFETY: the program says that so many bytes are there; `buffer` has no more.
        unsafe { from.copy_to_nonoverlapping(buffer.as_mut_ptr(), buffer.len()) };
        return Ok(buffer);
    }
    if info.params.is_empty() {
        return Ok(buffer);
    }
    if params.is_null() {
        return Err(CuResult::INVALID_VALUE);
    }
    for (at, param) in info.params.iter().enumerate() {
        // SAFETY: the array has an entry per parameter.
        let from = unsafe { params.add(at).read() }.cast::<u8>();
        let end = param.offset.saturating_add(param.size) as usize;
        let to = buffer
            .get_mut(param.offset as usize..end)
            .filter(|_| !from.is_null())
            .ok_or(CuResult::INVALID_VALUE)?;
        // SAFETY: the entry points to the parameter's bytes.
        unsafe { from.copy_to_nonoverlapping(to.as_mut_ptr(), to.len()) };
    }
    Ok(buffer)
}

/// Address and size of the packed parameters that `extra` names.
///
/// # Safety
/// `extra` is as cuLaunchKernel documents it.
unsafe fn packed(extra: *mut *mut c_void) -> Result<(*const u8, usize), CuResult> {
    let (mut from, mut bytes) = (std::ptr::null::<u8>(), None);
    let mut at = 0;
    for _ in 0..MAX_EXTRA {
        // SAFETY: the array goes on until its end marker, a value behind each name.
        let name = unsafe { extra.add(at).read() } as usize;
        if name == PARAM_END {
            let bytes = bytes.ok_or(CuResult::INVALID_VALUE)?;
            if from.is_null() && bytes > 0 {
                return Err(CuResult::INVALID_VALUE);
            }
            return Ok((from, bytes));
        }
        // SAFETY: as above.
        let value = unsafe { extra.add(at + 1).read() };
        match name {
            PARAM_BUFFER_POINTER => from = value.cast(),
            PARAM_BUFFER_SIZE if !value.is_null() => {
                // SAFETY: the value of this name points to a size.
                bytes = Some(unsafe { value.cast::<usize>().read() });
            }
            _ => return Err(CuResult::INVALID_VALUE),
        }
        at += 2;
    }
    Err(CuResult::INVALID_VALUE)
}
