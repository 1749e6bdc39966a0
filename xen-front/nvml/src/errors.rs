//! `nvmlReturn_t` as an integer, with a text for each code that NVML's header has.
//!
//! Must never be an enum: callers pass any number to `nvmlErrorString`.

use cuda_abi::CuResult;
use nvml_wrapper_sys::bindings as nvml;
use std::ffi::CStr;

/// Why a function fails: a code other than `NVML_SUCCESS`.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Failure(pub nvml::nvmlReturn_t);

macro_rules! failures {
    ($($name:ident $code:ident $text:literal;)*) => {
        impl Failure {
            $(#[doc = concat!("`", stringify!($code), "`: ", $text)]
              #[allow(dead_code, reason = "the list is whole; not every code has a cause here")]
              pub const $name: Failure = Failure(nvml::$code);)*
        }
        /// A code in words.
        pub fn text(code: nvml::nvmlReturn_t) -> &'static CStr {
            match Failure(code) {
                Failure(nvml::nvmlReturn_enum_NVML_SUCCESS) => c"success",
                $(Failure::$name => {
                    const TEXT: &[u8] = concat!($text, "\0").as_bytes();
                    CStr::from_bytes_with_nul(TEXT).unwrap_or(c"")
                })*
                _ => c"not a code of NVML",
            }
        }
        #[cfg(test)]
        const ALL: &[Failure] = &[$(Failure::$name),*];
    };
}
failures! {
    UNINITIALIZED nvmlReturn_enum_NVML_ERROR_UNINITIALIZED "nvmlInit has not been called";
    INVALID_ARGUMENT nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT "invalid argument";
    NOT_SUPPORTED nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED "not supported on a domain's share of a GPU";
    NO_PERMISSION nvmlReturn_enum_NVML_ERROR_NO_PERMISSION "not permitted";
    ALREADY_INITIALIZED nvmlReturn_enum_NVML_ERROR_ALREADY_INITIALIZED "initialised already";
    NOT_FOUND nvmlReturn_enum_NVML_ERROR_NOT_FOUND "not found";
    INSUFFICIENT_SIZE nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE "the buffer is too small";
    INSUFFICIENT_POWER nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_POWER "a device's power cables are not attached";
    DRIVER_NOT_LOADED nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED "there is no GPU for this guest";
    TIMEOUT nvmlReturn_enum_NVML_ERROR_TIMEOUT "timed out";
    IRQ_ISSUE nvmlReturn_enum_NVML_ERROR_IRQ_ISSUE "a device's interrupts do not arrive";
    LIBRARY_NOT_FOUND nvmlReturn_enum_NVML_ERROR_LIBRARY_NOT_FOUND "a library was not found";
    FUNCTION_NOT_FOUND nvmlReturn_enum_NVML_ERROR_FUNCTION_NOT_FOUND "a library lacks a function";
    CORRUPTED_INFOROM nvmlReturn_enum_NVML_ERROR_CORRUPTED_INFOROM "a device's infoROM is corrupt";
    GPU_IS_LOST nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST "the connection to the GPU has ended";
    RESET_REQUIRED nvmlReturn_enum_NVML_ERROR_RESET_REQUIRED "a device has to be reset first";
    OPERATING_SYSTEM nvmlReturn_enum_NVML_ERROR_OPERATING_SYSTEM "an operating system call failed";
    LIB_RM_VERSION_MISMATCH nvmlReturn_enum_NVML_ERROR_LIB_RM_VERSION_MISMATCH "the versions of the two ends of the driver differ";
    IN_USE nvmlReturn_enum_NVML_ERROR_IN_USE "a device is in use";
    MEMORY nvmlReturn_enum_NVML_ERROR_MEMORY "out of memory";
    NO_DATA nvmlReturn_enum_NVML_ERROR_NO_DATA "no data";
    VGPU_ECC_NOT_SUPPORTED nvmlReturn_enum_NVML_ERROR_VGPU_ECC_NOT_SUPPORTED "not supported while ECC is on";
    INSUFFICIENT_RESOURCES nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_RESOURCES "a limit has been reached";
    FREQ_NOT_SUPPORTED nvmlReturn_enum_NVML_ERROR_FREQ_NOT_SUPPORTED "no such frequency";
    ARGUMENT_VERSION_MISMATCH nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH "a structure's version is not one that this library knows";
    DEPRECATED nvmlReturn_enum_NVML_ERROR_DEPRECATED "offered no more";
    NOT_READY nvmlReturn_enum_NVML_ERROR_NOT_READY "not ready";
    GPU_NOT_FOUND nvmlReturn_enum_NVML_ERROR_GPU_NOT_FOUND "no GPU was found";
    INVALID_STATE nvmlReturn_enum_NVML_ERROR_INVALID_STATE "not in a state for this";
    RESET_TYPE_NOT_SUPPORTED nvmlReturn_enum_NVML_ERROR_RESET_TYPE_NOT_SUPPORTED "no such kind of reset";
    UNKNOWN nvmlReturn_enum_NVML_ERROR_UNKNOWN "unknown error";
}

impl From<CuResult> for Failure {
    /// What the backend said, or why there is no connection to it, in NVML's terms.
    fn from(result: CuResult) -> Failure {
        match result {
            CuResult::INVALID_VALUE | CuResult::INVALID_DEVICE => Failure::INVALID_ARGUMENT,
            CuResult::NO_DEVICE | CuResult::SYSTEM_NOT_READY => Failure::DRIVER_NOT_LOADED,
            CuResult::DEVICE_UNAVAILABLE => Failure::GPU_IS_LOST,
            CuResult::OUT_OF_MEMORY => Failure::INSUFFICIENT_RESOURCES,
            CuResult::SYSTEM_DRIVER_MISMATCH => Failure::LIB_RM_VERSION_MISMATCH,
            CuResult::NOT_SUPPORTED | CuResult::NOT_FOUND => Failure::NOT_SUPPORTED,
            CuResult::NOT_PERMITTED => Failure::NO_PERMISSION,
            CuResult::OPERATING_SYSTEM => Failure::OPERATING_SYSTEM,
            _ => Failure::UNKNOWN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_code_has_a_text_of_its_own() {
        let texts: HashSet<_> = ALL.iter().map(|failure| text(failure.0)).collect();
        assert_eq!(texts.len(), ALL.len());
        assert!(texts.iter().all(|text| !text.is_empty()));
        // NVML 12 has 1 to 30 and 999.
        assert_eq!(ALL.len(), 31);
        assert!(ALL.iter().all(|f| (1..=30).contains(&f.0) || f.0 == 999));
        assert_eq!(text(0), c"success");
        for unknown in [31, 998, u32::MAX] {
            assert_eq!(text(unknown), c"not a code of NVML");
        }
    }

    #[test]
    fn no_result_of_cuda_becomes_success() {
        for result in 1..1000 {
            assert_ne!(Failure::from(CuResult(result)).0, 0);
        }
        assert_eq!(
            Failure::from(CuResult::DEVICE_UNAVAILABLE),
            Failure::GPU_IS_LOST
        );
    }
}
