//! Versions, names and addresses: what works before cuInit, and cuInit.

use super::{Out, per_thread};
use crate::driver;
use cuda_abi::{CuResult, Names, Uuid};
use std::ffi::{CStr, c_char, c_void};

/// The highest bit that cuGetProcAddress's flags have: legacy (1) and per-thread (2) default streams.
const PROC_ADDRESS_FLAGS: u64 = 3;
/// `CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM`.
const PER_THREAD: u64 = 2;
/// `CU_GET_PROC_ADDRESS_SUCCESS`.
const FOUND: i32 = 0;
/// `CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND`.
const NO_SYMBOL: i32 = 1;
/// `CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT`.
const TOO_OLD: i32 = 2;

pub unsafe fn cuInit(flags: u32) -> CuResult {
    if flags != 0 {
        return CuResult::INVALID_VALUE;
    }
    driver::init().into()
}

pub unsafe fn cuDriverGetVersion(version: *mut i32) -> CuResult {
    // SAFETY: the C function's contract.
    let out = unsafe { Out::new(version) };
    out.map(|out| out.set(cuda_abi::CUDA_VERSION)).into()
}

pub unsafe fn cuGetErrorName(error: u32, name: *mut *const c_char) -> CuResult {
    // SAFETY: the C function's contract.
    unsafe { describe(cuda_abi::error_name(CuResult(error)), name) }
}

pub unsafe fn cuGetErrorString(error: u32, text: *mut *const c_char) -> CuResult {
    // SAFETY: the C function's contract.
    unsafe { describe(cuda_abi::error_description(CuResult(error)), text) }
}

/// # Safety
/// `place` is null or can be written.
unsafe fn describe(text: Option<&'static CStr>, place: *mut *const c_char) -> CuResult {
    // SAFETY: the caller's.
    let out = match unsafe { Out::new(place) } {
        Ok(out) => out,
        Err(error) => return error,
    };
    out.set(text.map_or(std::ptr::null(), CStr::as_ptr));
    match text {
        Some(_) => CuResult::SUCCESS,
        None => CuResult::INVALID_VALUE,
    }
}

pub unsafe fn cuGetProcAddress(
    symbol: *const c_char,
    function: *mut *mut c_void,
    version: i32,
    flags: u64,
) -> CuResult {
    // SAFETY: the C function's contract.
    let body = || unsafe {
        let out = Out::new(function)?;
        let found = find(symbol, version, flags)?.map_err(|_| CuResult::NOT_FOUND)?;
        out.set(found);
        Ok(())
    };
    body().into()
}

pub unsafe fn cuGetProcAddress_v2(
    symbol: *const c_char,
    function: *mut *mut c_void,
    version: i32,
    flags: u64,
    status: *mut i32,
) -> CuResult {
    // SAFETY: the C function's contract; the status is optional.
    let body = || unsafe {
        let out = Out::new(function)?;
        let found = find(symbol, version, flags)?;
        out.set(found.unwrap_or(std::ptr::null_mut()));
        if let Ok(status) = Out::new(status) {
            status.set(found.err().unwrap_or(FOUND));
        }
        Ok(())
    };
    body().into()
}

/// The function's address, or why there is none.
///
/// # Safety
/// `symbol` is null or a C string.
unsafe fn find(
    symbol: *const c_char,
    version: i32,
    flags: u64,
) -> Result<Result<*mut c_void, i32>, CuResult> {
    if symbol.is_null() || flags & !PROC_ADDRESS_FLAGS != 0 || version > cuda_abi::CUDA_VERSION {
        return Err(CuResult::INVALID_VALUE);
    }
    // SAFETY: not null, so a C string.
    let name = unsafe { CStr::from_ptr(symbol) };
    let Ok(name) = name.to_str() else {
        return Ok(Err(NO_SYMBOL));
    };
    let offered = |version| cuda_abi::proc_address(Names::ALL, name, version);
    Ok(match offered(version) {
        Some(symbol) if flags & PER_THREAD != 0 && per_thread::has_variant(symbol) => {
            per_thread::address(symbol).ok_or(NO_SYMBOL)
        }
        Some(symbol) => crate::export_address(symbol).ok_or(NO_SYMBOL),
        None if offered(i32::MAX).is_some() => Err(TOO_OLD),
        None => Err(NO_SYMBOL),
    })
}

pub unsafe fn cuGetExportTable(_table: *mut *const c_void, _id: *const Uuid) -> CuResult {
    CuResult::NOT_FOUND
}
