//! Names: of results, and of functions.
//!
//! Must never resolve a name to what this library does not do, and must answer `cuGetExportTable` with
//! "not found" whatever is asked.

use crate::context::give;
use cuda_abi::{CuResult, Names, Uuid, error_description, error_name};
use std::ffi::{CStr, c_char, c_void};

pub unsafe fn cuGetErrorName(error: u32, pStr: *mut *const c_char) -> CuResult {
    text(error_name(CuResult(error)), pStr)
}

pub unsafe fn cuGetErrorString(error: u32, pStr: *mut *const c_char) -> CuResult {
    text(error_description(CuResult(error)), pStr)
}

fn text(found: Option<&'static CStr>, place: *mut *const c_char) -> CuResult {
    let given = give(place, found.map_or(std::ptr::null(), CStr::as_ptr));
    given
        .and(if found.is_some() {
            Ok(())
        } else {
            Err(CuResult::INVALID_VALUE)
        })
        .into()
}

/// What `cuGetProcAddress_v2` says of a symbol: `CUdriverProcAddressQueryResult`.
mod query {
    pub const FOUND: i32 = 0;
    pub const NOT_FOUND: i32 = 1;
    pub const VERSION_NOT_SUFFICIENT: i32 = 2;
}

/// The address for a name at a version, and what to say of it. Streams are per program order here, so
/// the per-thread variants (`flags` 2) are the same functions.
fn find(symbol: *const c_char, version: i32) -> Result<(*mut c_void, i32), CuResult> {
    if symbol.is_null() || version > cuda_abi::CUDA_VERSION {
        return Err(CuResult::INVALID_VALUE);
    }
    // SAFETY: not null, and the program vouches for its string.
    let name = unsafe { CStr::from_ptr(symbol) }.to_string_lossy();
    let carried = |version| cuda_abi::proc_address(Names::CARRIED, &name, version);
    if let Some(address) = carried(version).and_then(crate::export_address) {
        return Ok((address, query::FOUND));
    }
    let newer = carried(i32::MAX).is_some();
    Ok((
        std::ptr::null_mut(),
        if newer {
            query::VERSION_NOT_SUFFICIENT
        } else {
            query::NOT_FOUND
        },
    ))
}

pub unsafe fn cuGetProcAddress(
    symbol: *const c_char,
    pfn: *mut *mut c_void,
    cudaVersion: i32,
    _flags: u64,
) -> CuResult {
    match find(symbol, cudaVersion) {
        Ok((address, query::FOUND)) => give(pfn, address).into(),
        // The place is left as it was.
        Ok(_) => CuResult::NOT_FOUND,
        Err(error) => error,
    }
}

pub unsafe fn cuGetProcAddress_v2(
    symbol: *const c_char,
    pfn: *mut *mut c_void,
    cudaVersion: i32,
    _flags: u64,
    symbolStatus: *mut i32,
) -> CuResult {
    let given = find(symbol, cudaVersion).and_then(|(address, status)| {
        if !symbolStatus.is_null() {
            give(symbolStatus, status)?;
        }
        give(pfn, address)
    });
    given.into()
}

pub unsafe fn cuGetExportTable(
    _ppExportTable: *mut *const c_void,
    _pExportTableId: *const Uuid,
) -> CuResult {
    CuResult::NOT_FOUND
}
