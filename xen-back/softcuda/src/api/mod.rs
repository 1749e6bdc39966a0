//! The driver's functions, as the exports call them. Each checks its arguments, finds what its handles
//! mean, and leaves the rest to the modules that know. None may trust a handle, or write an output
//! before everything is checked.

mod array;
mod context;
mod copy;
mod device;
mod event;
mod graph;
mod library;
mod link;
mod managed;
mod mapping;
mod memory;
mod module;
mod options;
mod per_thread;
mod pool;
mod stream;
mod texture;
mod version;

pub use array::*;
pub use context::*;
pub use copy::*;
pub use device::*;
pub use event::*;
pub use graph::*;
pub use library::*;
pub use link::*;
pub use managed::*;
pub use mapping::*;
pub use memory::*;
pub use module::*;
pub use per_thread::default_is_own;
pub use pool::*;
pub use stream::*;
pub use texture::*;
pub use version::*;

use crate::driver::{self, Driver};
use crate::work::in_host_function;
use cuda_abi::CuResult;
use std::ptr::NonNull;

/// Runs a function that needs cuInit, and that functions which a stream calls may not use.
fn call(body: impl FnOnce(&'static Driver) -> Result<(), CuResult>) -> CuResult {
    if in_host_function() {
        return CuResult::NOT_PERMITTED;
    }
    driver::get().and_then(body).into()
}

/// A place that the program gave for an output.
struct Out<T>(NonNull<T>);

impl<T> Out<T> {
    /// The place, if it is one.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for null.
    ///
    /// # Safety
    /// `place` is null or can be written, until the call that got it returns.
    unsafe fn new(place: *mut T) -> Result<Out<T>, CuResult> {
        NonNull::new(place).map(Out).ok_or(CuResult::INVALID_VALUE)
    }

    fn set(&self, value: T) {
        // SAFETY: `new`'s caller vouches for the place.
        unsafe { self.0.write(value) };
    }
}

/// Answers an address and its number of bytes, each if it is asked for.
///
/// # Safety
/// Each place is null or can be written.
unsafe fn give_range(address: *mut u64, bytes: *mut usize, start: u64, size: u64) {
    // SAFETY: the caller's.
    unsafe {
        if let Ok(out) = Out::new(address) {
            out.set(start);
        }
        if let Ok(out) = Out::new(bytes) {
            out.set(size as usize);
        }
    }
}

/// Index of the device that a program's ordinal means.
///
/// # Errors
/// CUDA_ERROR_INVALID_DEVICE.
fn device_index(driver: &Driver, ordinal: i32) -> Result<usize, CuResult> {
    usize::try_from(ordinal)
        .ok()
        .filter(|index| *index < driver.devices.len())
        .ok_or(CuResult::INVALID_DEVICE)
}
