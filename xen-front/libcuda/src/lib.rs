//! `libcuda.so.1` for programs in a Xen guest: CUDA's driver API, carried to the backend domain.
//!
//! [`session`] connects to vgpu-frontd and carries calls; [`auto`] is the functions that follow wholly
//! from their declaration; the other modules are those that need more. This library loads into
//! arbitrary programs: it must never end the process, touch Xen's devices, print to standard output or
//! trust what comes back.

#![allow(non_snake_case, reason = "CUDA's names")]

mod auto;
mod context;
mod copy;
mod device;
mod handles;
mod launch;
mod lookup;
mod memory;
mod module;
mod session;

/// What the exports call: one function for each.
mod api {
    pub use crate::auto::functions::*;
    pub use crate::context::*;
    pub use crate::copy::*;
    pub use crate::device::*;
    pub use crate::launch::*;
    pub use crate::lookup::*;
    pub use crate::memory::*;
    pub use crate::module::*;
}

cuda_abi::with_calls!(cuda_abi::export_carried_calls);
