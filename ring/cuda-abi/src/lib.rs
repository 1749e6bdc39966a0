//! What any `libcuda.so.1` of this project offers, declared once.
//!
//! [`with_calls!`] is the one list of CUDA driver functions: C signatures, versions, and how each
//! travels between guest and backend. The exports of both libraries, the table behind
//! `cuGetProcAddress`, the worker's driver table, the wire encoding and the documentation table are
//! expansions of it. This crate must never call a driver itself, nor know how calls are carried.

mod calls;
mod driver;
mod errors;
mod exports;

pub use calls::{CallInfo, Mode, Names, Wire, proc_address};
pub use driver::{Driver, LoadError};
pub use errors::{CuResult, error_description, error_name};
pub use exports::guard;

use std::ffi::c_void;
use std::marker::PhantomData;

/// The CUDA version that this project's libraries report and resolve names for: 12.8. Never more
/// than what is implemented, for callers resolve the whole surface of the version they are told.
pub const CUDA_VERSION: i32 = 12080;

/// An opaque handle as C sees it (`CUstream`, `CUevent`, `CUmodule`, `CUfunction`, `CUcontext`):
/// a value the caller never dereferences.
pub type Handle = *mut c_void;

/// `CUdeviceptr`: an address in the device's own space.
pub type DevicePtr = u64;

/// `CUdevice`: an ordinal.
pub type Device = i32;

/// `CUuuid`, by bytes.
pub type Uuid = [u8; 16];

/// A UUID as tools print it, without what they put before it (`GPU-`): five groups of hexadecimal digits.
pub fn uuid_text(uuid: &Uuid) -> String {
    let mut text = String::new();
    for (at, byte) in uuid.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// `CUmemLocation`: a place of memory, its type and its number within the type.
#[repr(C)]
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct MemLocation {
    /// `CUmemLocationType`: 1 for a device, 2 for the host, 3 for a node of the host's memory.
    pub kind: i32,
    /// Which device or node.
    pub id: i32,
}

/// A function of the program's that a stream calls (`CUhostFn`); null is `None`.
pub type HostFn = Option<unsafe extern "C" fn(*mut c_void)>;

/// The same with the stream and its error (`CUstreamCallback`).
pub type StreamCallback = Option<unsafe extern "C" fn(Handle, CuResult, *mut c_void)>;

/// `CUipcMemHandle` and `CUipcEventHandle`.
#[repr(C)]
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct IpcHandle(pub [u8; 64]);

/// A kind of handle. The number is what distinguishes kinds on the wire and in a guest's table.
pub trait Kind: 'static {
    /// Distinguishes the kinds; at most 15.
    const TAG: u8;
    /// The C type's name, for messages and documentation.
    const NAME: &'static str;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $tag:literal, $name:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Copy, Clone, Debug, Eq, PartialEq)]
        pub enum $kind {}
        impl Kind for $kind {
            const TAG: u8 = $tag;
            const NAME: &'static str = $name;
        }
    )*};
}
kinds! {
    /// `CUcontext`.
    Context = 1, "CUcontext";
    /// `CUstream`; 0, 1 and 2 are the driver's own (null, legacy, per thread).
    Stream = 2, "CUstream";
    /// `CUevent`.
    Event = 3, "CUevent";
    /// `CUmodule`.
    Module = 4, "CUmodule";
    /// `CUfunction`.
    Function = 5, "CUfunction";
}

/// A parameter of a function whose carriage follows wholly from its declaration.
pub trait Param {
    /// The parameter's type in C.
    type C: Copy;
}

/// A value that the caller passes in.
pub struct Val<T>(PhantomData<T>);
/// How many values of so many bytes the function writes to device memory, or one factor of it: a function
/// with such a parameter gives the device work.
pub struct Span<const BYTES: usize>;
/// A place that the function fills.
pub struct Out<T>(PhantomData<T>);
/// A place that the function fills unless it is null.
pub struct Opt<T>(PhantomData<T>);
/// A handle that the caller uses.
pub struct Use<K>(PhantomData<K>);
/// A place for a new handle, which the guest names itself.
pub struct New<K>(PhantomData<K>);
/// A handle that the call destroys.
pub struct End<K>(PhantomData<K>);

impl<T: Copy> Param for Val<T> {
    type C = T;
}
impl<const BYTES: usize> Param for Span<BYTES> {
    type C = usize;
}
impl<T> Param for Out<T> {
    type C = *mut T;
}
impl<T> Param for Opt<T> {
    type C = *mut T;
}
impl<K: Kind> Param for Use<K> {
    type C = Handle;
}
impl<K: Kind> Param for New<K> {
    type C = *mut Handle;
}
impl<K: Kind> Param for End<K> {
    type C = Handle;
}

/// The C type of a declared parameter.
pub type C<P> = <P as Param>::C;

/// Struct layouts and constants of the CUDA headers. Its enums are not used in any signature: a
/// value that such an enum does not know would be undefined behaviour.
pub use cudarc::driver::sys;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_as_tools_print_them() {
        let uuid: Uuid = std::array::from_fn(|n| n as u8 * 17);
        assert_eq!(uuid_text(&uuid), "00112233-4455-6677-8899-aabbccddeeff");
    }
}
