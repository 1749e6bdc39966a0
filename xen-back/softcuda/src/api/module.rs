//! Modules and functions.

use super::{Out, call};
use crate::context::{Context, current};
use crate::driver::Driver;
use crate::module::{Format, Function, LoadFailure, Module};
use cuda_abi::{CuResult, Handle};
use std::ffi::{CStr, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Options of cuModuleLoadDataEx that mean something here, by their `CUjit_option` number: where the
/// logs go and how long they may be. The others tune a compiler that this is not.
mod option {
    pub const WALL_TIME: i32 = 2;
    pub const INFO_LOG_BUFFER: i32 = 3;
    pub const INFO_LOG_BYTES: i32 = 4;
    pub const ERROR_LOG_BUFFER: i32 = 5;
    pub const ERROR_LOG_BYTES: i32 = 6;
    /// The first number that CUDA 12.8 does not define.
    pub const END: i32 = 36;
}

/// The options of one load.
struct Options {
    names: *mut i32,
    values: *mut *mut c_void,
    count: usize,
}

impl Options {
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE if the arrays are missing or name an option that does not exist.
    ///
    /// # Safety
    /// The arrays are null or have `count` entries, of the types that CUDA documents.
    unsafe fn new(
        count: u32,
        names: *mut i32,
        values: *mut *mut c_void,
    ) -> Result<Options, CuResult> {
        let options = Options {
            names,
            values,
            count: count as usize,
        };
        if count > 0 && (names.is_null() || values.is_null()) {
            return Err(CuResult::INVALID_VALUE);
        }
        for at in 0..options.count {
            // SAFETY: within the array.
            let name = unsafe { names.add(at).read() };
            if !(0..option::END).contains(&name) {
                return Err(CuResult::INVALID_VALUE);
            }
        }
        Ok(options)
    }

    /// The place of an option's value.
    fn place(&self, name: i32) -> Option<*mut *mut c_void> {
        // SAFETY: within the arrays that `new`'s caller vouches for.
        (0..self.count)
            .find(|at| unsafe { self.names.add(*at).read() } == name)
            .map(|at| unsafe { self.values.add(at) })
    }

    /// Writes a log into the program's buffer, as much as fits with a NUL byte, and says how much.
    fn log(&self, buffer: i32, bytes: i32, text: &str) {
        let (Some(buffer), Some(bytes)) = (self.place(buffer), self.place(bytes)) else {
            return;
        };
        // SAFETY: the program says that the buffer holds so many bytes: the size is a 32-bit number in
        // the value itself, which is also where the answer goes.
        unsafe {
            let to = buffer.read().cast::<u8>();
            let room = bytes.read() as usize as u32 as usize;
            let mut written = 0;
            if room > 0 && !to.is_null() {
                written = text.len().min(room - 1);
                to.copy_from_nonoverlapping(text.as_ptr(), written);
                to.add(written).write(0);
            }
            bytes.write(written as *mut c_void);
        }
    }

    /// Tells the program how a load went.
    fn answer(&self, started: std::time::Instant, failure: Option<&LoadFailure>) {
        let errors = failure.map_or("", |failure| &failure.log);
        self.log(option::ERROR_LOG_BUFFER, option::ERROR_LOG_BYTES, errors);
        self.log(option::INFO_LOG_BUFFER, option::INFO_LOG_BYTES, "");
        if let Some(place) = self.place(option::WALL_TIME) {
            let milliseconds = started.elapsed().as_secs_f32() * 1e3;
            // SAFETY: the option's value itself is the place for a float.
            unsafe { place.cast::<f32>().write(milliseconds) };
        }
    }
}

/// Loads an image for the calling thread's context, tells the options how it went, and gives out the
/// module.
fn load(
    driver: &Driver,
    context: Arc<Context>,
    text: Result<&[u8], Format>,
    options: &Options,
    out: &Out<Handle>,
) -> Result<(), CuResult> {
    let started = std::time::Instant::now();
    let loaded = match text {
        Ok(text) => Module::load(driver, context, text),
        Err(format) => Err(Module::refuse(format)),
    };
    options.answer(started, loaded.as_ref().err());
    match loaded {
        Ok(module) => {
            out.set(module as Handle);
            Ok(())
        }
        Err(failure) => {
            tracing::error!(code = %failure.code, "module not loaded: {}", failure.log);
            Err(failure.code)
        }
    }
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
        // SAFETY: a byte of the image: `Format::of` asks for none behind a text's NUL byte.
        let format = Format::of(|at| Some(unsafe { image.cast::<u8>().add(at).read() }));
        let text = match format {
            // SAFETY: an image of this format ends with a NUL byte.
            Format::Text => Ok(unsafe { CStr::from_ptr(image.cast()) }.to_bytes()),
            other => Err(other),
        };
        load(driver, context, text, &options, &out)
    })
}

pub unsafe fn cuModuleLoadFatBinary(module: *mut Handle, image: *const c_void) -> CuResult {
    // SAFETY: the same contract.
    unsafe { cuModuleLoadData(module, image) }
}

pub unsafe fn cuModuleLoad(module: *mut Handle, name: *const c_char) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(module) }?;
        if name.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        // SAFETY: a C string by contract.
        let name = OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes());
        let context = current()?;
        let bytes = std::fs::read(name).map_err(|error| {
            tracing::error!(?name, %error, "cannot read the module's file");
            CuResult::FILE_NOT_FOUND
        })?;
        let text = match Format::of(|at| bytes.get(at).copied()) {
            // What follows a NUL byte is no part of the text, as in memory.
            Format::Text => Ok(bytes.split(|byte| *byte == 0).next().unwrap_or_default()),
            other => Err(other),
        };
        let options = Options {
            names: std::ptr::null_mut(),
            values: std::ptr::null_mut(),
            count: 0,
        };
        load(driver, context, text, &options, &out)
    })
}

pub unsafe fn cuModuleUnload(module: Handle) -> CuResult {
    call(|driver| {
        let gone = driver
            .modules
            .remove(module)
            .ok_or(CuResult::INVALID_HANDLE)?;
        driver.engines.wait_context(driver, gone.context.id);
        Module::unload(driver, &gone);
        gone.context.check()
    })
}

/// A name that a program gave.
///
/// # Safety
/// `name` is null or a C string, for as long as the result is used.
unsafe fn name<'a>(name: *const c_char) -> Result<&'a str, CuResult> {
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

/// The live function of a handle.
fn function(driver: &Driver, function: Handle) -> Result<Arc<Function>, CuResult> {
    driver
        .functions
        .get(function)
        .ok_or(CuResult::INVALID_HANDLE)
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
        let (start, size) = found.ok_or(CuResult::NOT_FOUND)?;
        // SAFETY: the C function's contract; each output is optional.
        unsafe {
            if let Ok(out) = Out::new(address) {
                out.set(start);
            }
            if let Ok(out) = Out::new(bytes) {
                out.set(size as usize);
            }
        }
        Ok(())
    })
}

pub unsafe fn cuFuncGetParamInfo(
    handle: Handle,
    index: usize,
    offset: *mut usize,
    bytes: *mut usize,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(offset) }?;
        let function = function(driver, handle)?;
        let param = function
            .info()
            .params
            .get(index)
            .ok_or(CuResult::INVALID_VALUE)?;
        out.set(param.offset as usize);
        // SAFETY: the C function's contract; this output is optional.
        if let Ok(out) = unsafe { Out::new(bytes) } {
            out.set(param.size as usize);
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
