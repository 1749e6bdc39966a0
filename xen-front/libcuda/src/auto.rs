//! The functions whose declaration says everything: checked, carried and answered by generated code.
//!
//! Must never hold what only one function needs.

use crate::context;
use crate::handles::{Named, to_c};
use crate::session::{Session, session};
use cuda_abi::{C, CuResult, End, Handle, Kind, New, Opt, Out, Span, Stream, Use, Val};
use vgpu_protocol::calls::{Travel, reply, request};
use vgpu_protocol::codec::{Codec, Id};

/// A parameter's way through the frontend: `open` checks what the program passed, `request` is what
/// travels, `close` gives the program the answer. A call that fails in between is `undone`.
trait Passed: Travel {
    type Slot;
    fn open(c: Self::C, session: &Session) -> Result<Self::Slot, CuResult>;
    fn request(slot: &Self::Slot) -> Self::Req;
    /// # Safety
    /// The pointers that the program passed are valid, as the C function asks.
    unsafe fn close(slot: Self::Slot, reply: Self::Rep, session: &Session);
    fn undo(_slot: &Self::Slot, _session: &Session) {}
}

impl<T: Copy + Codec + std::fmt::Debug + PartialEq> Passed for Val<T> {
    type Slot = T;
    fn open(c: T, _: &Session) -> Result<T, CuResult> {
        Ok(c)
    }
    fn request(slot: &T) -> T {
        *slot
    }
    unsafe fn close(_: T, _: (), _: &Session) {}
}

impl<const BYTES: usize> Passed for Span<BYTES> {
    type Slot = usize;
    fn open(c: usize, _: &Session) -> Result<usize, CuResult> {
        Ok(c)
    }
    fn request(slot: &usize) -> usize {
        *slot
    }
    unsafe fn close(_: usize, _: (), _: &Session) {}
}

impl<T: Copy + Codec + std::fmt::Debug + PartialEq> Passed for Out<T> {
    type Slot = *mut T;
    fn open(c: *mut T, _: &Session) -> Result<*mut T, CuResult> {
        if c.is_null() {
            Err(CuResult::INVALID_VALUE)
        } else {
            Ok(c)
        }
    }
    fn request(_: &*mut T) {}
    unsafe fn close(slot: *mut T, reply: T, _: &Session) {
        // SAFETY: not null, and the caller vouches for the program's pointers.
        unsafe { slot.write_unaligned(reply) }
    }
}

impl<T: Copy + Codec + std::fmt::Debug + PartialEq> Passed for Opt<T> {
    type Slot = *mut T;
    fn open(c: *mut T, _: &Session) -> Result<*mut T, CuResult> {
        Ok(c)
    }
    fn request(_: &*mut T) {}
    unsafe fn close(slot: *mut T, reply: T, _: &Session) {
        if !slot.is_null() {
            // SAFETY: not null, and the caller vouches for the program's pointers.
            unsafe { slot.write_unaligned(reply) }
        }
    }
}

/// The index of a handle that the program uses; streams 0, 1 and 2 are the driver's own.
pub fn used<K: Named>(handle: Handle, session: &Session) -> Result<Id<K>, CuResult> {
    if K::TAG == Stream::TAG && (handle as usize) < 3 {
        return Ok(Id::new(handle as usize as u32));
    }
    K::open(&session.handles, handle)
}

impl<K: Named> Passed for Use<K> {
    type Slot = Id<K>;
    fn open(c: Handle, session: &Session) -> Result<Id<K>, CuResult> {
        used(c, session)
    }
    fn request(slot: &Id<K>) -> Id<K> {
        *slot
    }
    unsafe fn close(_: Id<K>, _: (), _: &Session) {}
}

impl<K: Named> Passed for New<K> {
    type Slot = (*mut Handle, Id<K>);
    fn open(c: *mut Handle, session: &Session) -> Result<Self::Slot, CuResult> {
        if c.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        Ok((c, K::reserve(&session.handles, context::current())))
    }
    fn request(slot: &Self::Slot) -> Id<K> {
        slot.1
    }
    unsafe fn close(slot: Self::Slot, _: (), _: &Session) {
        // SAFETY: not null, and the caller vouches for the program's pointers.
        unsafe { slot.0.write_unaligned(to_c(slot.1)) }
    }
    fn undo(slot: &Self::Slot, session: &Session) {
        K::release(&session.handles, slot.1);
    }
}

impl<K: Named> Passed for End<K> {
    type Slot = Id<K>;
    fn open(c: Handle, session: &Session) -> Result<Id<K>, CuResult> {
        K::open(&session.handles, c)
    }
    fn request(slot: &Id<K>) -> Id<K> {
        *slot
    }
    unsafe fn close(slot: Id<K>, _: (), session: &Session) {
        // Only now may another thread give the index away: the call that ends it is in the queue.
        K::release(&session.handles, slot);
    }
}

macro_rules! carry {
    (Post $session:ident $request:ident $name:ident) => {
        // A posted call has no outputs: nothing has to come back.
        $session
            .post(&$request)
            .and_then(|_| reply::$name::decode(&[]).map_err(|_| CuResult::UNKNOWN))
    };
    (Once $session:ident $request:ident $name:ident) => {
        $session.once(&$request)
    };
    ($mode:ident $session:ident $request:ident $name:ident) => {
        $session.call(&$request)
    };
}

macro_rules! functions {
    (
        auto { $($(#[$adoc:meta])+ $anum:literal $aname:ident ($abase:literal, $asince:literal) $amode:ident ($($ap:ident: $at:ty),*);)* }
        wire { $($wire:tt)* }
        guest { $($guest:tt)* }
        driver { $($driver:tt)* }
    ) => {
        /// One function for each `auto` entry.
        #[allow(non_snake_case, unused_variables, clippy::missing_safety_doc, reason = "names and contracts are CUDA's; a call without parameters uses none")]
        pub mod functions {
            use super::*;
            use cuda_abi::{Event, Function, Module, Uuid};
            $(
                $(#[$adoc])+
                pub unsafe fn $aname($($ap: C<$at>),*) -> CuResult {
                    let session = match session() {
                        Ok(session) => session,
                        Err(error) => return error,
                    };
                    $(let $ap = match <$at as Passed>::open($ap, session) {
                        Ok(slot) => slot,
                        Err(error) => return error,
                    };)*
                    let request = request::$aname { $($ap: <$at as Passed>::request(&$ap)),* };
                    match carry!($amode session request $aname) {
                        Ok(reply) => {
                            // SAFETY: the program vouches for its pointers.
                            $(unsafe { <$at as Passed>::close($ap, reply.$ap, session) };)*
                            CuResult::SUCCESS
                        }
                        Err(error) => {
                            $(<$at as Passed>::undo(&$ap, session);)*
                            error
                        }
                    }
                }
            )*
        }
    };
}
cuda_abi::with_calls!(functions);
