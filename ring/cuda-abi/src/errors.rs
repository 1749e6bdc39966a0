//! `CUresult` as an integer, with the names of the codes that CUDA's header has.
//!
//! Must never turn a code into an enum: a driver may return one that is newer than this list.

use cudarc::driver::sys::CUresult;
use std::ffi::CStr;
use std::fmt;

/// A result of a CUDA driver function. 0 is success; any other value passes through unchanged.
#[derive(Copy, Clone, Eq, PartialEq, Hash)]
#[repr(transparent)]
#[must_use]
pub struct CuResult(pub u32);

macro_rules! errors {
    ($($name:ident $code:ident $text:literal;)*) => {
        impl CuResult {
            $(#[doc = concat!("`", stringify!($code), "`: ", $text)]
              pub const $name: CuResult = CuResult(CUresult::$code as u32);)*
        }
        /// The C name of a code (`CUDA_ERROR_INVALID_VALUE`), if this list has it.
        pub fn error_name(result: CuResult) -> Option<&'static CStr> {
            $(if result == CuResult::$name {
                const NAME: &[u8] = concat!(stringify!($code), "\0").as_bytes();
                return CStr::from_bytes_with_nul(NAME).ok();
            })*
            None
        }
        /// A code in words, if this list has it.
        pub fn error_description(result: CuResult) -> Option<&'static CStr> {
            $(if result == CuResult::$name {
                const TEXT: &[u8] = concat!($text, "\0").as_bytes();
                return CStr::from_bytes_with_nul(TEXT).ok();
            })*
            None
        }
        #[cfg(test)]
        const ALL: &[CuResult] = &[$(CuResult::$name),*];
    };
}
errors! {
    SUCCESS CUDA_SUCCESS "no error";
    INVALID_VALUE CUDA_ERROR_INVALID_VALUE "invalid argument";
    OUT_OF_MEMORY CUDA_ERROR_OUT_OF_MEMORY "out of memory";
    NOT_INITIALIZED CUDA_ERROR_NOT_INITIALIZED "cuInit has not been called";
    DEINITIALIZED CUDA_ERROR_DEINITIALIZED "the driver is shutting down";
    PROFILER_DISABLED CUDA_ERROR_PROFILER_DISABLED "the profiler is disabled";
    PROFILER_NOT_INITIALIZED CUDA_ERROR_PROFILER_NOT_INITIALIZED "the profiler is not initialised";
    PROFILER_ALREADY_STARTED CUDA_ERROR_PROFILER_ALREADY_STARTED "the profiler is started already";
    PROFILER_ALREADY_STOPPED CUDA_ERROR_PROFILER_ALREADY_STOPPED "the profiler is stopped already";
    STUB_LIBRARY CUDA_ERROR_STUB_LIBRARY "this libcuda is a stub";
    DEVICE_UNAVAILABLE CUDA_ERROR_DEVICE_UNAVAILABLE "the device is unavailable";
    NO_DEVICE CUDA_ERROR_NO_DEVICE "no CUDA device was found";
    INVALID_DEVICE CUDA_ERROR_INVALID_DEVICE "no such device";
    DEVICE_NOT_LICENSED CUDA_ERROR_DEVICE_NOT_LICENSED "the device has no licence for this";
    INVALID_IMAGE CUDA_ERROR_INVALID_IMAGE "the module's image is invalid";
    INVALID_CONTEXT CUDA_ERROR_INVALID_CONTEXT "no current context, or an invalid one";
    CONTEXT_ALREADY_CURRENT CUDA_ERROR_CONTEXT_ALREADY_CURRENT "the context is current already";
    MAP_FAILED CUDA_ERROR_MAP_FAILED "mapping failed";
    UNMAP_FAILED CUDA_ERROR_UNMAP_FAILED "unmapping failed";
    ARRAY_IS_MAPPED CUDA_ERROR_ARRAY_IS_MAPPED "the array is mapped";
    ALREADY_MAPPED CUDA_ERROR_ALREADY_MAPPED "the resource is mapped already";
    NO_BINARY_FOR_GPU CUDA_ERROR_NO_BINARY_FOR_GPU "the image holds no code that this device can run";
    ALREADY_ACQUIRED CUDA_ERROR_ALREADY_ACQUIRED "the resource is taken already";
    NOT_MAPPED CUDA_ERROR_NOT_MAPPED "the resource is not mapped";
    NOT_MAPPED_AS_ARRAY CUDA_ERROR_NOT_MAPPED_AS_ARRAY "the resource is not mapped as an array";
    NOT_MAPPED_AS_POINTER CUDA_ERROR_NOT_MAPPED_AS_POINTER "the resource is not mapped as a pointer";
    ECC_UNCORRECTABLE CUDA_ERROR_ECC_UNCORRECTABLE "an uncorrectable memory error occurred";
    UNSUPPORTED_LIMIT CUDA_ERROR_UNSUPPORTED_LIMIT "the device does not know this limit";
    CONTEXT_ALREADY_IN_USE CUDA_ERROR_CONTEXT_ALREADY_IN_USE "the context is in use by another thread";
    PEER_ACCESS_UNSUPPORTED CUDA_ERROR_PEER_ACCESS_UNSUPPORTED "these devices cannot reach each other's memory";
    INVALID_PTX CUDA_ERROR_INVALID_PTX "the PTX could not be compiled";
    INVALID_GRAPHICS_CONTEXT CUDA_ERROR_INVALID_GRAPHICS_CONTEXT "the graphics context is invalid";
    NVLINK_UNCORRECTABLE CUDA_ERROR_NVLINK_UNCORRECTABLE "an uncorrectable NVLink error occurred";
    JIT_COMPILER_NOT_FOUND CUDA_ERROR_JIT_COMPILER_NOT_FOUND "the PTX compiler library was not found";
    UNSUPPORTED_PTX_VERSION CUDA_ERROR_UNSUPPORTED_PTX_VERSION "the PTX is newer than the driver";
    JIT_COMPILATION_DISABLED CUDA_ERROR_JIT_COMPILATION_DISABLED "compiling PTX is disabled";
    UNSUPPORTED_EXEC_AFFINITY CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY "the device does not know this execution affinity";
    INVALID_SOURCE CUDA_ERROR_INVALID_SOURCE "the kernel's source is invalid";
    FILE_NOT_FOUND CUDA_ERROR_FILE_NOT_FOUND "file not found";
    SHARED_OBJECT_SYMBOL_NOT_FOUND CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND "a shared object lacks a symbol";
    SHARED_OBJECT_INIT_FAILED CUDA_ERROR_SHARED_OBJECT_INIT_FAILED "a shared object could not be initialised";
    OPERATING_SYSTEM CUDA_ERROR_OPERATING_SYSTEM "an operating system call failed";
    INVALID_HANDLE CUDA_ERROR_INVALID_HANDLE "invalid handle";
    ILLEGAL_STATE CUDA_ERROR_ILLEGAL_STATE "a resource is not in a state for this";
    NOT_FOUND CUDA_ERROR_NOT_FOUND "no such name";
    NOT_READY CUDA_ERROR_NOT_READY "the work has not ended yet";
    ILLEGAL_ADDRESS CUDA_ERROR_ILLEGAL_ADDRESS "a kernel used an address outside any allocation";
    LAUNCH_OUT_OF_RESOURCES CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES "the launch asks for more than the device has";
    LAUNCH_TIMEOUT CUDA_ERROR_LAUNCH_TIMEOUT "the kernel ran too long";
    LAUNCH_INCOMPATIBLE_TEXTURING CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING "the launch uses an incompatible texturing mode";
    PEER_ACCESS_ALREADY_ENABLED CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED "peer access is enabled already";
    PEER_ACCESS_NOT_ENABLED CUDA_ERROR_PEER_ACCESS_NOT_ENABLED "peer access is not enabled";
    PRIMARY_CONTEXT_ACTIVE CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE "the primary context is active already";
    CONTEXT_IS_DESTROYED CUDA_ERROR_CONTEXT_IS_DESTROYED "the context has been destroyed";
    ASSERT CUDA_ERROR_ASSERT "an assertion in a kernel failed";
    TOO_MANY_PEERS CUDA_ERROR_TOO_MANY_PEERS "too many peers";
    HOST_MEMORY_ALREADY_REGISTERED CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED "the host memory is registered already";
    HOST_MEMORY_NOT_REGISTERED CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED "the host memory is not registered";
    HARDWARE_STACK_ERROR CUDA_ERROR_HARDWARE_STACK_ERROR "a kernel corrupted or overran its stack";
    ILLEGAL_INSTRUCTION CUDA_ERROR_ILLEGAL_INSTRUCTION "a kernel met an illegal instruction";
    MISALIGNED_ADDRESS CUDA_ERROR_MISALIGNED_ADDRESS "a kernel used a misaligned address";
    INVALID_ADDRESS_SPACE CUDA_ERROR_INVALID_ADDRESS_SPACE "a kernel used an address of the wrong space";
    INVALID_PC CUDA_ERROR_INVALID_PC "a kernel jumped to an invalid place";
    LAUNCH_FAILED CUDA_ERROR_LAUNCH_FAILED "a kernel failed";
    COOPERATIVE_LAUNCH_TOO_LARGE CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE "the cooperative launch does not fit on the device at once";
    NOT_PERMITTED CUDA_ERROR_NOT_PERMITTED "not permitted";
    NOT_SUPPORTED CUDA_ERROR_NOT_SUPPORTED "not supported";
    SYSTEM_NOT_READY CUDA_ERROR_SYSTEM_NOT_READY "the system is not ready for CUDA work";
    SYSTEM_DRIVER_MISMATCH CUDA_ERROR_SYSTEM_DRIVER_MISMATCH "the versions of the two ends of the driver differ";
    COMPAT_NOT_SUPPORTED_ON_DEVICE CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE "forward compatibility is not offered on this device";
    MPS_CONNECTION_FAILED CUDA_ERROR_MPS_CONNECTION_FAILED "no connection to the MPS server";
    MPS_RPC_FAILURE CUDA_ERROR_MPS_RPC_FAILURE "a call to the MPS server failed";
    MPS_SERVER_NOT_READY CUDA_ERROR_MPS_SERVER_NOT_READY "the MPS server is not ready";
    MPS_MAX_CLIENTS_REACHED CUDA_ERROR_MPS_MAX_CLIENTS_REACHED "the MPS server has all clients it can have";
    MPS_MAX_CONNECTIONS_REACHED CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED "the MPS client has all connections it can have";
    STREAM_CAPTURE_UNSUPPORTED CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED "this cannot be captured";
    STREAM_CAPTURE_INVALIDATED CUDA_ERROR_STREAM_CAPTURE_INVALIDATED "the capture was invalidated";
    STREAM_CAPTURE_MERGE CUDA_ERROR_STREAM_CAPTURE_MERGE "this would make one of two captures";
    STREAM_CAPTURE_UNMATCHED CUDA_ERROR_STREAM_CAPTURE_UNMATCHED "the capture did not begin in this stream";
    STREAM_CAPTURE_UNJOINED CUDA_ERROR_STREAM_CAPTURE_UNJOINED "a stream that the capture forked into was not joined back";
    STREAM_CAPTURE_ISOLATION CUDA_ERROR_STREAM_CAPTURE_ISOLATION "captured work would wait for work that is not captured";
    STREAM_CAPTURE_IMPLICIT CUDA_ERROR_STREAM_CAPTURE_IMPLICIT "the legacy stream would wait for a stream that is being captured";
    CAPTURED_EVENT CUDA_ERROR_CAPTURED_EVENT "the event was last recorded in a stream that was being captured";
    STREAM_CAPTURE_WRONG_THREAD CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD "the capture was begun by another thread";
    TIMEOUT CUDA_ERROR_TIMEOUT "timed out";
    GRAPH_EXEC_UPDATE_FAILURE CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE "the executable graph differs in more than parameters";
    EXTERNAL_DEVICE CUDA_ERROR_EXTERNAL_DEVICE "an external device failed";
    UNKNOWN CUDA_ERROR_UNKNOWN "unknown error";
}

impl CuResult {
    /// Whether this is `CUDA_SUCCESS`.
    pub fn is_ok(self) -> bool {
        self == CuResult::SUCCESS
    }

    /// `Ok` for success, the code itself otherwise.
    pub fn ok(self) -> Result<(), CuResult> {
        if self.is_ok() { Ok(()) } else { Err(self) }
    }
}

impl From<Result<(), CuResult>> for CuResult {
    fn from(result: Result<(), CuResult>) -> CuResult {
        result.err().unwrap_or(CuResult::SUCCESS)
    }
}

impl fmt::Display for CuResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match error_name(*self) {
            Some(name) => write!(f, "{} ({})", name.to_string_lossy(), self.0),
            None => write!(f, "CUDA error {}", self.0),
        }
    }
}

impl fmt::Debug for CuResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for CuResult {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_name_and_a_description() {
        for code in ALL {
            assert!(error_name(*code).is_some_and(|n| n.to_bytes().starts_with(b"CUDA_")));
            assert!(error_description(*code).is_some_and(|t| !t.to_bytes().is_empty()));
        }
        assert_eq!(error_name(CuResult(424_242)), None);
        assert_eq!(CuResult::INVALID_VALUE.0, 1);
        assert_eq!(CuResult::ILLEGAL_ADDRESS.0, 700);
    }
}
