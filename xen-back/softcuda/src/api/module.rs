//! Modules and functions.

use super::options::Options;
use super::{Out, call};
use crate::context::{Context, current};
use crate::driver::Driver;
use crate::exec::{KernelInfo, WARP_SIZE};
use crate::image::{self, Text};
use crate::library;
use crate::module::{self, Function, LoadFailure, Module};
use cuda_abi::{CuResult, Handle};
use std::ffi::{CStr, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Loads an image's texts for the calling thread's context, tells the options how it went, and gives out
/// the module.
fn load(
    driver: &Driver,
    context: Arc<Context>,
    texts: Result<Vec<Text>, LoadFailure>,
    options: &Options,
    out: &Out<Handle>,
) -> Result<(), CuResult> {
    let loaded = options.time(|| {
        let program = Arc::new(module::compile(&texts?)?);
        Module::load(driver, context, program)
    });
    options.tell(loaded.as_ref().map(|module| &**module.program()))?;
    if let Ok(module) = loaded {
        out.set(module.handle());
    }
    Ok(())
}

pub unsafe fn cuModuleLoadData(module: *mut Handle, image: *const c_void) -> CuResult {
    // SAFETY: the same contract.
    unsafe { cuModuleLoadDataEx(module, image, 0, std::ptr::null_mut(), std::ptr::null_mut()) }
}

pub unsafe fn cuModuleLoadDataEx(
    module: *mut Handle,
    image: *const c_void,
    count: u32,
    names: *mut i32,
    values: *mut *mut c_void,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let (out, options) = unsafe { (Out::new(module)?, Options::new(count, names, values)?) };
        if image.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        let context = current()?;
        // SAFETY: the C function's contract.
        let texts = unsafe { image::texts_at(image) };
        load(driver, context, texts, &options, &out)
    })
}

pub unsafe fn cuModuleLoadFatBinary(module: *mut Handle, image: *const c_void) -> CuResult {
    // SAFETY: the same contract.
    unsafe { cuModuleLoadData(module, image) }
}

/// The bytes of a file that a program named.
///
/// # Errors
/// CUDA_ERROR_INVALID_VALUE for null, CUDA_ERROR_FILE_NOT_FOUND.
///
/// # Safety
/// `name` is null or a C string.
pub(super) unsafe fn file(name: *const c_char) -> Result<Vec<u8>, CuResult> {
    if name.is_null() {
        return Err(CuResult::INVALID_VALUE);
    }
    // SAFETY: not null, so a C string.
    let name = OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes());
    std::fs::read(name).map_err(|error| {
        tracing::error!(?name, %error, "cannot read the module's file");
        CuResult::FILE_NOT_FOUND
    })
}

pub unsafe fn cuModuleLoad(module: *mut Handle, name: *const c_char) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(module) }?;
        let context = current()?;
        // SAFETY: the C function's contract.
        let texts = image::texts_in(&unsafe { file(name) }?);
        load(driver, context, texts, &Options::none(), &out)
    })
}

pub unsafe fn cuModuleUnload(module: Handle) -> CuResult {
    call(|driver| {
        let gone = driver
            .modules
            .remove(module)
            .ok_or(CuResult::INVALID_HANDLE)?;
        driver.engines.wait_context(driver, gone.context.id);
        gone.context.print();
        Module::unload(driver, &gone);
        gone.context.check()
    })
}

/// A name that a program gave.
///
/// # Safety
/// `name` is null or a C string, for as long as the result is used.
pub(super) unsafe fn name<'a>(name: *const c_char) -> Result<&'a str, CuResult> {
    if name.is_null() {
        return Err(CuResult::INVALID_VALUE);
    }
    // SAFETY: not null, so a C string. PTX has no names that are not ASCII.
    let name = unsafe { CStr::from_ptr(name) };
    name.to_str().map_err(|_| CuResult::NOT_FOUND)
}

/// The live module of a handle, in a context that has not failed.
fn module(driver: &Driver, module: Handle) -> Result<Arc<Module>, CuResult> {
    current()?;
    let found = driver.modules.get(module).ok_or(CuResult::INVALID_HANDLE)?;
    found.context.check()?;
    Ok(found)
}

/// The live function of a handle, or that of a library's kernel in the calling thread's context.
fn function(driver: &Driver, function: Handle) -> Result<Arc<Function>, CuResult> {
    library::function(driver, function)
}

pub unsafe fn cuModuleGetFunction(
    place: *mut Handle,
    handle: Handle,
    kernel: *const c_char,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let (out, kernel) = unsafe { (Out::new(place)?, name(kernel)?) };
        let found = module(driver, handle)?.function(driver, kernel);
        out.set(found.ok_or(CuResult::NOT_FOUND)? as Handle);
        Ok(())
    })
}

pub unsafe fn cuModuleGetGlobal_v2(
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
        unsafe { super::give_range(address, bytes, start, size) };
        Ok(())
    })
}

/// Modules are compiled when they are loaded.
pub unsafe fn cuModuleGetLoadingMode(mode: *mut i32) -> CuResult {
    call(|_| {
        // SAFETY: the C function's contract.
        unsafe { Out::new(mode) }?.set(1); // CU_MODULE_EAGER_LOADING
        Ok(())
    })
}

pub unsafe fn cuModuleGetFunctionCount(count: *mut u32, handle: Handle) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(count) }?;
        out.set(module(driver, handle)?.program().kernels().len() as u32);
        Ok(())
    })
}

pub unsafe fn cuModuleEnumerateFunctions(
    functions: *mut Handle,
    count: u32,
    handle: Handle,
) -> CuResult {
    call(|driver| {
        let module = module(driver, handle)?;
        if functions.is_null() || count == 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let kernels = module.program().kernels();
        for (at, kernel) in kernels.iter().enumerate().take(count as usize) {
            let function = module.function_at(driver, at, || module::Settings::new(kernel));
            // SAFETY: the program says that `count` handles fit.
            unsafe { functions.add(at).write(function as Handle) };
        }
        Ok(())
    })
}

/// Answers where a parameter of a kernel lies.
///
/// # Safety
/// Each place is null or can be written.
pub(super) unsafe fn param_info(
    info: &KernelInfo,
    index: usize,
    offset: *mut usize,
    bytes: *mut usize,
) -> Result<(), CuResult> {
    // SAFETY: the caller's.
    let out = unsafe { Out::new(offset) }?;
    let param = info.params.get(index).ok_or(CuResult::INVALID_VALUE)?;
    out.set(param.offset as usize);
    // SAFETY: the caller's; this output is optional.
    if let Ok(out) = unsafe { Out::new(bytes) } {
        out.set(param.size as usize);
    }
    Ok(())
}

pub unsafe fn cuFuncGetParamInfo(
    handle: Handle,
    index: usize,
    offset: *mut usize,
    bytes: *mut usize,
) -> CuResult {
    call(|driver| {
        let function = function(driver, handle)?;
        // SAFETY: the C function's contract.
        unsafe { param_info(function.info(), index, offset, bytes) }
    })
}

pub unsafe fn cuFuncGetName(name: *mut *const c_char, handle: Handle) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(name) }?;
        // The text lives as long as the function, which its module holds.
        out.set(function(driver, handle)?.name.as_ptr());
        Ok(())
    })
}

/// Functions are loaded with their modules.
pub unsafe fn cuFuncIsLoaded(state: *mut i32, handle: Handle) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(state) }?;
        function(driver, handle)?;
        out.set(1); // CU_FUNCTION_LOADING_STATE_LOADED
        Ok(())
    })
}

pub unsafe fn cuFuncLoad(handle: Handle) -> CuResult {
    call(|driver| function(driver, handle).map(drop))
}

/// Shared memory has no banks here, so the preference changes nothing.
pub unsafe fn cuFuncSetSharedMemConfig(handle: Handle, config: i32) -> CuResult {
    call(|driver| {
        function(driver, handle)?;
        if !(0..=2).contains(&config) {
            return Err(CuResult::INVALID_VALUE);
        }
        Ok(())
    })
}

pub unsafe fn cuFuncGetModule(place: *mut Handle, handle: Handle) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(place) }?;
        out.set(function(driver, handle)?.module as Handle);
        Ok(())
    })
}

pub unsafe fn cuFuncGetAttribute(value: *mut i32, attribute: i32, handle: Handle) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(value) }?;
        out.set(function(driver, handle)?.attribute(attribute)?);
        Ok(())
    })
}

pub unsafe fn cuFuncSetAttribute(handle: Handle, attribute: i32, value: i32) -> CuResult {
    call(|driver| function(driver, handle)?.set_attribute(attribute, value))
}

/// The device has no such choice, so the preference changes nothing.
pub unsafe fn cuFuncSetCacheConfig(handle: Handle, config: i32) -> CuResult {
    call(|driver| {
        function(driver, handle)?;
        if !(0..=3).contains(&config) {
            return Err(CuResult::INVALID_VALUE);
        }
        Ok(())
    })
}

pub unsafe fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut i32,
    handle: Handle,
    block_size: i32,
    dynamic_shared: usize,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe {
        cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
            blocks,
            handle,
            block_size,
            dynamic_shared,
            0,
        )
    }
}

pub unsafe fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: *mut i32,
    handle: Handle,
    block_size: i32,
    dynamic_shared: usize,
    flags: u32,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(blocks) }?;
        let threads = u32::try_from(block_size)
            .ok()
            .filter(|threads| *threads > 0);
        let threads = threads.ok_or(CuResult::INVALID_VALUE)?;
        if flags & !1 != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let function = function(driver, handle)?;
        out.set(function.resident_blocks(threads, dynamic_shared as u64) as i32);
        Ok(())
    })
}

/// How many bytes of dynamic shared memory a block of so many threads takes.
///
/// # Safety
/// `callback` is null or a `CUoccupancyB2DSize`.
unsafe fn dynamic_shared(callback: *const c_void, fixed: usize, threads: u32) -> u64 {
    if callback.is_null() {
        return fixed as u64;
    }
    // SAFETY: the caller's: a C function from int to size_t.
    let callback: extern "C" fn(i32) -> usize = unsafe { std::mem::transmute(callback) };
    callback(threads as i32) as u64
}

pub unsafe fn cuOccupancyMaxPotentialBlockSize(
    grid: *mut i32,
    block: *mut i32,
    handle: Handle,
    callback: *const c_void,
    shared: usize,
    limit: i32,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe {
        cuOccupancyMaxPotentialBlockSizeWithFlags(grid, block, handle, callback, shared, limit, 0)
    }
}

pub unsafe fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    grid: *mut i32,
    block: *mut i32,
    handle: Handle,
    callback: *const c_void,
    shared: usize,
    limit: i32,
    flags: u32,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let (grid, block) = unsafe { (Out::new(grid)?, Out::new(block)?) };
        if flags & !1 != 0 || limit < 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let function = function(driver, handle)?;
        let most = match limit as u32 {
            0 => function.max_threads(),
            limit => limit.min(function.max_threads()),
        };
        let (mut best, mut blocks, mut most_threads) = (most, 0, 0);
        // From the largest down, by whole warps: of two that fill the device alike, the larger.
        let sizes =
            std::iter::once(most).chain((1..=most / WARP_SIZE).rev().map(|w| w * WARP_SIZE));
        for threads in sizes {
            // SAFETY: the C function's contract.
            let shared = unsafe { dynamic_shared(callback, shared, threads) };
            let resident = function.resident_blocks(threads, shared);
            if resident * threads > most_threads {
                (best, blocks, most_threads) = (threads, resident, resident * threads);
            }
        }
        if blocks == 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let cores = driver.devices[function.context.device].cores;
        block.set(best as i32);
        grid.set((blocks * cores) as i32);
        Ok(())
    })
}

pub unsafe fn cuOccupancyAvailableDynamicSMemPerBlock(
    bytes: *mut usize,
    handle: Handle,
    blocks: i32,
    block_size: i32,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(bytes) }?;
        let function = function(driver, handle)?;
        let (Ok(blocks), Ok(threads @ 1..)) = (u32::try_from(blocks), u32::try_from(block_size))
        else {
            return Err(CuResult::INVALID_VALUE);
        };
        out.set(function.available_shared(blocks, threads)? as usize);
        Ok(())
    })
}

/// The device has no clusters of several blocks: every block is one.
pub unsafe fn cuOccupancyMaxPotentialClusterSize(
    size: *mut i32,
    handle: Handle,
    config: *const c_void,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(size) }?;
        function(driver, handle)?;
        if config.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        out.set(1);
        Ok(())
    })
}

pub unsafe fn cuOccupancyMaxActiveClusters(
    clusters: *mut i32,
    handle: Handle,
    config: *const c_void,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let (out, config) = unsafe {
            let config = config.cast::<cuda_abi::sys::CUlaunchConfig>().as_ref();
            (Out::new(clusters)?, config.ok_or(CuResult::INVALID_VALUE)?)
        };
        let function = function(driver, handle)?;
        let threads = [config.blockDimX, config.blockDimY, config.blockDimZ]
            .iter()
            .fold(1_u32, |all, size| all.saturating_mul(*size));
        if threads == 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let blocks = function.resident_blocks(threads, config.sharedMemBytes.into());
        out.set((blocks * driver.devices[function.context.device].cores) as i32);
        Ok(())
    })
}
