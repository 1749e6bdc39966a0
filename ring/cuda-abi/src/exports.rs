//! How a crate becomes a `libcuda.so.1`: the exported functions, generated from the declaration.
//!
//! Each export hands its arguments to a function of the same name in the crate's `api` module and
//! never lets a panic cross into C. Must never hold logic of any one function.

use crate::CuResult;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs an exported function's body; a panic inside becomes `CUDA_ERROR_UNKNOWN`.
pub fn guard(body: impl FnOnce() -> CuResult) -> CuResult {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(CuResult::UNKNOWN)
}

/// Exports the functions that the split driver carries from this crate, which is a guest's library.
///
/// Use it as `cuda_abi::with_calls!(cuda_abi::export_carried_calls)` beside a module `api` which has,
/// for each `auto` and `guest` function, an `unsafe fn NAME(args…) -> CuResult` of the C signature. It
/// also defines `fn export_address(symbol: &str) -> Option<*mut c_void>`.
#[macro_export]
macro_rules! export_carried_calls {
    (auto { $($auto:tt)* } wire { $($wire:tt)* } guest { $($guest:tt)* } driver { $($driver:tt)* }) => {
        $crate::export_functions! { auto { $($auto)* } plain { $($guest)* } }
    };
}

/// Exports every declared function from this crate, which is a driver: as
/// [`export_carried_calls!`](crate::export_carried_calls), and the `driver` functions too.
#[macro_export]
macro_rules! export_all_calls {
    (auto { $($auto:tt)* } wire { $($wire:tt)* } guest { $($guest:tt)* } driver { $($driver:tt)* }) => {
        $crate::export_functions! { auto { $($auto)* } plain { $($guest)* $($driver)* } }
    };
}

/// What the two macros above share: the exports of `auto` functions and of those with C parameters.
#[doc(hidden)]
#[macro_export]
macro_rules! export_functions {
    (
        auto { $($(#[$adoc:meta])+ $anum:literal $aname:ident ($abase:literal, $asince:literal) $amode:ident ($($ap:ident: $at:ty),*);)* }
        plain { $($(#[$pdoc:meta])+ $pname:ident ($pbase:literal, $psince:literal) ($($pp:ident: $pt:ty),*) $([$($via:ident),*])?;)* }
    ) => {
        #[allow(non_snake_case, unused_imports, clippy::missing_safety_doc, reason = "names and contracts are CUDA's; not every signature needs every type")]
        mod exports {
            use super::api;
            use std::ffi::{c_char, c_void};
            use $crate::{C, Context, CuResult, End, Event, Function, Handle, HostFn, IpcHandle, MemLocation, Module, New, Opt, Out, Span, Stream, StreamCallback, Use, Uuid, Val};
            $(
                $(#[$adoc])+
                #[unsafe(no_mangle)]
                pub unsafe extern "C" fn $aname($($ap: C<$at>),*) -> CuResult {
                    // SAFETY: the caller of this C function vouches for its pointers, as CUDA's contract asks.
                    $crate::guard(|| unsafe { api::$aname($($ap),*) })
                }
            )*
            $(
                $(#[$pdoc])+
                #[unsafe(no_mangle)]
                pub unsafe extern "C" fn $pname($($pp: $pt),*) -> CuResult {
                    // SAFETY: the caller of this C function vouches for its pointers, as CUDA's contract asks.
                    $crate::guard(|| unsafe { api::$pname($($pp),*) })
                }
            )*
        }

        /// The address of an exported function, by its symbol.
        fn export_address(symbol: &str) -> Option<*mut ::std::ffi::c_void> {
            match symbol {
                $(stringify!($aname) => Some(exports::$aname as *mut ::std::ffi::c_void),)*
                $(stringify!($pname) => Some(exports::$pname as *mut ::std::ffi::c_void),)*
                _ => None,
            }
        }
    };
}
