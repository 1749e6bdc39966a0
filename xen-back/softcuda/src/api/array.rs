//! Arrays and mipmapped arrays.

use super::{Out, call};
use crate::array::{Array, Mipmap, Wanted};
use crate::context::current;
use crate::driver::Driver;
use cuda_abi::{CuResult, Handle};
use std::ffi::c_void;
use std::sync::Arc;

/// `CUDA_ARRAY_DESCRIPTOR`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ArrayDescriptor {
    width: usize,
    height: usize,
    format: u32,
    channels: u32,
}

/// `CUDA_ARRAY3D_DESCRIPTOR`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Array3DDescriptor {
    width: usize,
    height: usize,
    depth: usize,
    format: u32,
    channels: u32,
    flags: u32,
}

impl From<Array3DDescriptor> for Wanted {
    fn from(descriptor: Array3DDescriptor) -> Wanted {
        Wanted {
            width: descriptor.width as u64,
            height: descriptor.height as u64,
            depth: descriptor.depth as u64,
            format: descriptor.format,
            channels: descriptor.channels,
            flags: descriptor.flags,
        }
    }
}

/// The live array of a handle.
///
/// # Errors
/// CUDA_ERROR_INVALID_HANDLE.
pub(super) fn find(driver: &Driver, array: Handle) -> Result<Arc<Array>, CuResult> {
    driver.arrays.get(array).ok_or(CuResult::INVALID_HANDLE)
}

/// Makes an array and gives it out.
fn create(driver: &Driver, out: &Out<Handle>, wanted: Wanted) -> Result<(), CuResult> {
    let array = Array::new(driver, &current()?, wanted)?;
    let handle = driver.arrays.number();
    driver.arrays.insert(handle, Arc::new(array));
    out.set(handle as Handle);
    Ok(())
}

/// The structure that a program gave.
///
/// # Safety
/// `place` is null or can be read.
pub(super) unsafe fn given<T: Copy>(place: *const c_void) -> Result<T, CuResult> {
    if place.is_null() {
        return Err(CuResult::INVALID_VALUE);
    }
    // SAFETY: the caller's.
    Ok(unsafe { place.cast::<T>().read_unaligned() })
}

pub unsafe fn cuArrayCreate_v2(array: *mut Handle, descriptor: *const c_void) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let (out, flat) = unsafe { (Out::new(array)?, given::<ArrayDescriptor>(descriptor)?) };
        let descriptor = Array3DDescriptor {
            width: flat.width,
            height: flat.height,
            depth: 0,
            format: flat.format,
            channels: flat.channels,
            flags: 0,
        };
        create(driver, &out, descriptor.into())
    })
}

pub unsafe fn cuArray3DCreate_v2(array: *mut Handle, descriptor: *const c_void) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let (out, descriptor) =
            unsafe { (Out::new(array)?, given::<Array3DDescriptor>(descriptor)?) };
        create(driver, &out, descriptor.into())
    })
}

pub unsafe fn cuArrayGetDescriptor_v2(place: *mut c_void, array: Handle) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(place.cast::<ArrayDescriptor>()) }?;
        let wanted = find(driver, array)?.wanted;
        out.set(ArrayDescriptor {
            width: wanted.width as usize,
            height: wanted.height as usize,
            format: wanted.format,
            channels: wanted.channels,
        });
        Ok(())
    })
}

pub unsafe fn cuArray3DGetDescriptor_v2(place: *mut c_void, array: Handle) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(place.cast::<Array3DDescriptor>()) }?;
        let wanted = find(driver, array)?.wanted;
        out.set(Array3DDescriptor {
            width: wanted.width as usize,
            height: wanted.height as usize,
            depth: wanted.depth as usize,
            format: wanted.format,
            channels: wanted.channels,
            flags: wanted.flags,
        });
        Ok(())
    })
}

/// Work under way and objects that were made of it keep the memory.
pub unsafe fn cuArrayDestroy(array: Handle) -> CuResult {
    call(|driver| {
        if find(driver, array)?.is_level {
            return Err(CuResult::INVALID_HANDLE);
        }
        let gone = driver
            .arrays
            .remove(array)
            .ok_or(CuResult::INVALID_HANDLE)?;
        driver.engines.wait_context(driver, gone.context().id);
        gone.context().check()
    })
}

pub unsafe fn cuMipmappedArrayCreate(
    mipmap: *mut Handle,
    descriptor: *const c_void,
    levels: u32,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let (out, descriptor) =
            unsafe { (Out::new(mipmap)?, given::<Array3DDescriptor>(descriptor)?) };
        if levels == 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let made = Array::levels(driver, &current()?, descriptor.into(), levels)?;
        let arrays: Vec<Arc<Array>> = made.into_iter().map(Arc::new).collect();
        let handles: Vec<u64> = arrays
            .iter()
            .map(|array| {
                let handle = driver.arrays.number();
                driver.arrays.insert(handle, Arc::clone(array));
                handle
            })
            .collect();
        let handle = driver.mipmaps.number();
        let levels = Mipmap {
            levels: handles,
            arrays,
        };
        driver.mipmaps.insert(handle, Arc::new(levels));
        out.set(handle as Handle);
        Ok(())
    })
}

/// The live mipmapped array of a handle.
///
/// # Errors
/// CUDA_ERROR_INVALID_HANDLE.
pub(super) fn find_mipmap(driver: &Driver, mipmap: Handle) -> Result<Arc<Mipmap>, CuResult> {
    driver.mipmaps.get(mipmap).ok_or(CuResult::INVALID_HANDLE)
}

pub unsafe fn cuMipmappedArrayGetLevel(place: *mut Handle, mipmap: Handle, level: u32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(place) }?;
        let mipmap = find_mipmap(driver, mipmap)?;
        let level = mipmap.levels.get(level as usize);
        out.set(*level.ok_or(CuResult::INVALID_VALUE)? as Handle);
        Ok(())
    })
}

pub unsafe fn cuMipmappedArrayDestroy(mipmap: Handle) -> CuResult {
    call(|driver| {
        let gone = driver.mipmaps.remove(mipmap);
        let gone = gone.ok_or(CuResult::INVALID_HANDLE)?;
        for level in &gone.levels {
            driver.arrays.remove(*level as Handle);
        }
        let Some(array) = gone.arrays.first() else {
            return Ok(());
        };
        driver.engines.wait_context(driver, array.context().id);
        array.context().check()
    })
}
