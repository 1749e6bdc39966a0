//! Every function once more, for programs that ask cuGetProcAddress for the variants (`_ptds`, `_ptsz`)
//! in which no stream means the calling thread's own default stream. What has
//! no such variant is one function. Must never be exported by the plain names.

use std::cell::Cell;

thread_local! {
    static OWN: Cell<bool> = const { Cell::new(false) };
}

/// Whether a function has such a variant: those about streams and what is submitted to them.
pub fn has_variant(symbol: &str) -> bool {
    const ABOUT: [&str; 7] = [
        "cuMemcpy",
        "cuMemset",
        "cuStream",
        "cuEvent",
        "cuLaunch",
        "cuGraphLaunch",
        "cuGraphUpload",
    ];
    symbol.contains("Async") || ABOUT.iter().any(|about| symbol.starts_with(about))
}

/// Whether the call under way takes the null stream for the calling thread's own.
pub fn default_is_own() -> bool {
    OWN.get()
}

macro_rules! per_thread {
    (
        auto { $($(#[$adoc:meta])+ $anum:literal $aname:ident ($abase:literal, $asince:literal) $amode:ident ($($ap:ident: $at:ty),*);)* }
        wire { $($wire:tt)* }
        guest { $($(#[$gdoc:meta])+ $gname:ident ($gbase:literal, $gsince:literal) ($($gp:ident: $gt:ty),*) [$($via:ident),*];)* }
        driver { $($(#[$ddoc:meta])+ $dname:ident ($dbase:literal, $dsince:literal) ($($dp:ident: $dt:ty),*);)* }
    ) => {
        per_thread! { plain { $($aname($($ap: C<$at>),*);)* $($gname($($gp: $gt),*);)* $($dname($($dp: $dt),*);)* } }
    };
    (plain { $($name:ident($($parameter:ident: $type:ty),*);)* }) => {
        #[allow(unused_imports, reason = "not every signature needs every type")]
        mod functions {
            use crate::api;
            use cuda_abi::*;
            use std::ffi::{c_char, c_void};
            $(
                pub unsafe extern "C" fn $name($($parameter: $type),*) -> CuResult {
                    super::OWN.set(true);
                    // SAFETY: the caller of this C function vouches for its pointers, as CUDA's contract asks.
                    let result = guard(|| unsafe { api::$name($($parameter),*) });
                    super::OWN.set(false);
                    result
                }
            )*
        }

        /// The address of a function's variant, by the symbol of the function.
        pub fn address(symbol: &str) -> Option<*mut std::ffi::c_void> {
            match symbol {
                $(stringify!($name) => Some(functions::$name as *mut std::ffi::c_void),)*
                _ => None,
            }
        }
    };
}
cuda_abi::with_calls!(per_thread);
