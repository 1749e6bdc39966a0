//! Libraries and their kernels.

use super::module::{file, name, param_info};
use super::options::Options;
use super::{Out, call, device_index, give_range};
use crate::context::current;
use crate::driver::Driver;
use crate::exec::KernelInfo;
use crate::image::{self, Text};
use crate::library::{Kernel, Library};
use crate::module::{LoadFailure, Module, kernel_attribute};
use cuda_abi::{CuResult, Handle};
use std::ffi::{c_char, c_void};
use std::sync::Arc;

/// The first `CUlibraryOption` number that CUDA 12.8 does not define.
const LIBRARY_OPTIONS: i32 = 2;

/// Loads a library and gives it out.
fn load(
    driver: &Driver,
    texts: Result<Vec<Text>, LoadFailure>,
    options: &Options,
    out: &Out<Handle>,
) -> Result<(), CuResult> {
    let loaded = options.time(|| Library::load(driver, texts?));
    options.tell(loaded.as_ref().map(|library| library.program()))?;
    if let Ok(library) = loaded {
        out.set(library.handle as Handle);
    }
    Ok(())
}

/// Checks the names of library options; what they say changes nothing here.
///
/// # Safety
/// `names` is null or has `count` entries.
unsafe fn check_library_options(names: *mut i32, count: u32) -> Result<(), CuResult> {
    if count > 0 && names.is_null() {
        return Err(CuResult::INVALID_VALUE);
    }
    // SAFETY: the caller's.
    let name = |at| unsafe { names.add(at).read() };
    if (0..count as usize).all(|at| (0..LIBRARY_OPTIONS).contains(&name(at))) {
        Ok(())
    } else {
        Err(CuResult::INVALID_VALUE)
    }
}

#[allow(clippy::too_many_arguments, reason = "the C function's")]
pub unsafe fn cuLibraryLoadData(
    library: *mut Handle,
    image: *const c_void,
    names: *mut i32,
    values: *mut *mut c_void,
    count: u32,
    library_names: *mut i32,
    _library_values: *mut *mut c_void,
    library_count: u32,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let (out, options) = unsafe {
            check_library_options(library_names, library_count)?;
            (Out::new(library)?, Options::new(count, names, values)?)
        };
        if image.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        // SAFETY: the C function's contract.
        load(driver, unsafe { image::texts_at(image) }, &options, &out)
    })
}

#[allow(clippy::too_many_arguments, reason = "the C function's")]
pub unsafe fn cuLibraryLoadFromFile(
    library: *mut Handle,
    path: *const c_char,
    names: *mut i32,
    values: *mut *mut c_void,
    count: u32,
    library_names: *mut i32,
    _library_values: *mut *mut c_void,
    library_count: u32,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let (out, options) = unsafe {
            check_library_options(library_names, library_count)?;
            (Out::new(library)?, Options::new(count, names, values)?)
        };
        // SAFETY: the C function's contract.
        let bytes = unsafe { file(path) }?;
        load(driver, image::texts_in(&bytes), &options, &out)
    })
}

/// The live library of a handle.
fn library(driver: &Driver, handle: Handle) -> Result<Arc<Library>, CuResult> {
    driver.libraries.get(handle).ok_or(CuResult::INVALID_HANDLE)
}

/// The live kernel of a handle.
fn kernel(driver: &Driver, handle: Handle) -> Result<Arc<Kernel>, CuResult> {
    driver.kernels.get(handle).ok_or(CuResult::INVALID_HANDLE)
}

impl Kernel {
    fn info(&self) -> &KernelInfo {
        &self.owner.program().kernels()[self.index]
    }
}

/// A library's module in the calling thread's context.
fn module(driver: &Driver, handle: Handle) -> Result<Arc<Module>, CuResult> {
    let library = library(driver, handle)?;
    library.module(driver, &current()?).map_err(|failure| {
        tracing::error!(code = %failure.code, "library not loaded: {}", failure.log);
        failure.code
    })
}

pub unsafe fn cuLibraryUnload(handle: Handle) -> CuResult {
    call(|driver| {
        let gone = driver.libraries.remove(handle);
        gone.ok_or(CuResult::INVALID_HANDLE)?.unload(driver);
        Ok(())
    })
}

pub unsafe fn cuLibraryGetKernel(
    place: *mut Handle,
    handle: Handle,
    kernel: *const c_char,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let (out, kernel) = unsafe { (Out::new(place)?, name(kernel)?) };
        let found = library(driver, handle)?.kernel(kernel);
        out.set(found.ok_or(CuResult::NOT_FOUND)? as Handle);
        Ok(())
    })
}

pub unsafe fn cuLibraryGetKernelCount(count: *mut u32, handle: Handle) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(count) }?;
        out.set(library(driver, handle)?.kernels().len() as u32);
        Ok(())
    })
}

pub unsafe fn cuLibraryEnumerateKernels(
    kernels: *mut Handle,
    count: u32,
    handle: Handle,
) -> CuResult {
    call(|driver| {
        let library = library(driver, handle)?;
        if kernels.is_null() || count == 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        for (at, kernel) in library.kernels().iter().enumerate().take(count as usize) {
            // SAFETY: the program says that `count` handles fit.
            unsafe { kernels.add(at).write(*kernel as Handle) };
        }
        Ok(())
    })
}

pub unsafe fn cuLibraryGetModule(place: *mut Handle, handle: Handle) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(place) }?;
        out.set(module(driver, handle)?.handle());
        Ok(())
    })
}

pub unsafe fn cuLibraryGetGlobal(
    address: *mut u64,
    bytes: *mut usize,
    handle: Handle,
    variable: *const c_char,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let variable = unsafe { name(variable) }?;
        let found = module(driver, handle)?.variable(variable);
        let (start, size, _) = found.ok_or(CuResult::NOT_FOUND)?;
        // SAFETY: the C function's contract.
        unsafe { give_range(address, bytes, start, size) };
        Ok(())
    })
}

pub unsafe fn cuLibraryGetManaged(
    address: *mut u64,
    bytes: *mut usize,
    handle: Handle,
    variable: *const c_char,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let variable = unsafe { name(variable) }?;
        let found = module(driver, handle)?.variable(variable);
        let managed = found.filter(|(.., managed)| *managed);
        let (start, size, _) = managed.ok_or(CuResult::NOT_FOUND)?;
        // SAFETY: the C function's contract.
        unsafe { give_range(address, bytes, start, size) };
        Ok(())
    })
}

/// Unified functions, which the host could call too, do not exist here.
pub unsafe fn cuLibraryGetUnifiedFunction(
    place: *mut *mut c_void,
    handle: Handle,
    symbol: *const c_char,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        unsafe { (Out::new(place)?, name(symbol)?) };
        library(driver, handle)?;
        Err(CuResult::NOT_FOUND)
    })
}

pub unsafe fn cuKernelGetFunction(place: *mut Handle, handle: Handle) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(place) }?;
        let kernel = kernel(driver, handle)?;
        out.set(kernel.function(driver, &current()?)? as Handle);
        Ok(())
    })
}

pub unsafe fn cuKernelGetLibrary(place: *mut Handle, handle: Handle) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(place) }?;
        out.set(kernel(driver, handle)?.owner.handle as Handle);
        Ok(())
    })
}

pub unsafe fn cuKernelGetName(name: *mut *const c_char, handle: Handle) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(name) }?;
        // The text lives as long as the kernel, which its library holds.
        out.set(kernel(driver, handle)?.name.as_ptr());
        Ok(())
    })
}

pub unsafe fn cuKernelGetParamInfo(
    handle: Handle,
    index: usize,
    offset: *mut usize,
    bytes: *mut usize,
) -> CuResult {
    call(|driver| {
        let kernel = kernel(driver, handle)?;
        // SAFETY: the C function's contract.
        unsafe { param_info(kernel.info(), index, offset, bytes) }
    })
}

pub unsafe fn cuKernelGetAttribute(
    value: *mut i32,
    attribute: i32,
    handle: Handle,
    device: i32,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(value) }?;
        let kernel = kernel(driver, handle)?;
        let settings = kernel.settings(device)?;
        let program = kernel.owner.program();
        out.set(kernel_attribute(
            program,
            kernel.index,
            settings,
            attribute,
        )?);
        Ok(())
    })
}

pub unsafe fn cuKernelSetAttribute(
    attribute: i32,
    value: i32,
    handle: Handle,
    device: i32,
) -> CuResult {
    call(|driver| {
        let kernel = kernel(driver, handle)?;
        kernel
            .settings(device)?
            .set(kernel.info(), attribute, value)
    })
}

/// The device has no such choice, so the preference changes nothing.
pub unsafe fn cuKernelSetCacheConfig(handle: Handle, config: i32, device: i32) -> CuResult {
    call(|driver| {
        kernel(driver, handle)?;
        device_index(driver, device)?;
        if !(0..=3).contains(&config) {
            return Err(CuResult::INVALID_VALUE);
        }
        Ok(())
    })
}
