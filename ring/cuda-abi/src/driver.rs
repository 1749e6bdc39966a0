//! A `libcuda.so.1` opened at run time: its functions by the declared signatures.
//!
//! Results are integers, so that a code which no header of ours knows passes through unchanged. Must
//! never decide what a missing function means to a guest: it answers `CUDA_ERROR_NOT_SUPPORTED`.

use crate::{
    C, CuResult, End, Event, Function, Handle, HostFn, IpcHandle, MemLocation, Module, New, Opt,
    Out, Span, Stream, StreamCallback, Use, Uuid, Val,
};
use std::ffi::{c_char, c_void};
use std::path::{Path, PathBuf};

/// Why a driver library could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The loader refused it.
    #[error(
        "cannot load {path}: {reason}; name a libcuda.so.1 that exists on this machine, or install the NVIDIA driver"
    )]
    Open {
        /// What was asked for.
        path: PathBuf,
        /// The loader's words.
        reason: String,
    },
    /// It is no CUDA driver.
    #[error("{path} is not a CUDA driver: it has no {symbol}")]
    NotCuda {
        /// What was asked for.
        path: PathBuf,
        /// The symbol it lacks.
        symbol: &'static str,
    },
}

macro_rules! driver {
    (
        auto { $($(#[$adoc:meta])+ $anum:literal $aname:ident ($abase:literal, $asince:literal) $amode:ident ($($ap:ident: $at:ty),*);)* }
        wire { $($wire:tt)* }
        guest { $($(#[$gdoc:meta])+ $gname:ident ($gbase:literal, $gsince:literal) ($($gp:ident: $gt:ty),*) [$($via:ident),*];)* }
        driver { $($(#[$ddoc:meta])+ $dname:ident ($dbase:literal, $dsince:literal) ($($dp:ident: $dt:ty),*);)* }
    ) => {
        /// The functions of one driver library. Each method is the C function of that name, or
        /// `CUDA_ERROR_NOT_SUPPORTED` where the library lacks it.
        #[allow(non_snake_case, reason = "the names are CUDA's own")]
        pub struct Driver {
            $($aname: Option<unsafe extern "C" fn($(C<$at>),*) -> CuResult>,)*
            $($gname: Option<unsafe extern "C" fn($($gt),*) -> CuResult>,)*
            $($dname: Option<unsafe extern "C" fn($($dt),*) -> CuResult>,)*
            /// Keeps the code mapped: the pointers above point into it.
            _library: libloading::Library,
        }

        #[allow(
            non_snake_case,
            clippy::missing_safety_doc,
            clippy::too_many_arguments,
            reason = "the methods are CUDA's own functions, and CUDA documents their contracts"
        )]
        impl Driver {
            /// Opens a library by path, or by name as the loader searches for it.
            ///
            /// # Safety
            /// The library's constructors run, and its symbols are taken to have CUDA's signatures:
            /// name a library you would link a CUDA program with.
            pub unsafe fn load(path: &Path) -> Result<Driver, LoadError> {
                // SAFETY: the caller vouches for the library.
                let library = unsafe { libloading::Library::new(path) }
                    .map_err(|e| LoadError::Open { path: path.to_owned(), reason: e.to_string() })?;
                // SAFETY: each symbol is read as a function of its declared C signature, and the
                // pointers live no longer than `_library`, which the same structure owns.
                let driver = unsafe { Driver {
                    $($aname: library.get(concat!(stringify!($aname), "\0").as_bytes()).ok().map(|s| *s),)*
                    $($gname: library.get(concat!(stringify!($gname), "\0").as_bytes()).ok().map(|s| *s),)*
                    $($dname: library.get(concat!(stringify!($dname), "\0").as_bytes()).ok().map(|s| *s),)*
                    _library: library,
                } };
                if driver.cuInit.is_none() {
                    return Err(LoadError::NotCuda { path: path.to_owned(), symbol: "cuInit" });
                }
                Ok(driver)
            }
            $(
                $(#[$adoc])+
                pub unsafe fn $aname(&self, $($ap: C<$at>),*) -> CuResult {
                    match self.$aname {
                        // SAFETY: the caller keeps the C function's contract.
                        Some(function) => unsafe { function($($ap),*) },
                        None => CuResult::NOT_SUPPORTED,
                    }
                }
            )*
            $(
                $(#[$gdoc])+
                pub unsafe fn $gname(&self, $($gp: $gt),*) -> CuResult {
                    match self.$gname {
                        // SAFETY: the caller keeps the C function's contract.
                        Some(function) => unsafe { function($($gp),*) },
                        None => CuResult::NOT_SUPPORTED,
                    }
                }
            )*
            $(
                $(#[$ddoc])+
                pub unsafe fn $dname(&self, $($dp: $dt),*) -> CuResult {
                    match self.$dname {
                        // SAFETY: the caller keeps the C function's contract.
                        Some(function) => unsafe { function($($dp),*) },
                        None => CuResult::NOT_SUPPORTED,
                    }
                }
            )*
        }
    };
}
crate::with_calls!(driver);
