//! How a declared parameter becomes an argument of the driver's function, and its result an answer.
//!
//! One implementation for each kind of parameter serves every `auto` call. Must never pass a guest's
//! number on as a handle or a pointer.

use crate::tables::{Named, Native, Tables};
use cuda_abi::{CuResult, End, Handle, Kind, New, Opt, Out, Span, Stream, Use, Val};
use vgpu_protocol::calls::Travel;
use vgpu_protocol::codec::{Codec, Id};

/// A parameter's way through the worker: `open` checks the request's field, `argument` is what the
/// driver gets, `close` makes the answer's field once the driver has succeeded.
pub trait Argument: Travel {
    /// What is kept between the steps.
    type Slot: Send;
    /// Checks what the guest sent.
    fn open(request: Self::Req, tables: &Tables) -> Result<Self::Slot, CuResult>;
    /// The C argument; points into the slot where the driver is to fill it.
    fn argument(slot: &mut Self::Slot) -> Self::C;
    /// The stream that the call is about, where this parameter names it.
    fn stream(_slot: &Self::Slot) -> Option<Native> {
        None
    }
    /// The stream that the call destroys, where this parameter names it.
    fn ended(_slot: &Self::Slot) -> Option<Native> {
        None
    }
    /// A factor of the bytes that the call writes to device memory, where this parameter is one.
    fn span(_slot: &Self::Slot) -> Option<u64> {
        None
    }
    /// The answer; new handles enter the tables here and ended ones leave.
    fn close(slot: Self::Slot, tables: &mut Tables, context: u32) -> Result<Self::Rep, CuResult>;
}

impl<T: Copy + Codec + std::fmt::Debug + PartialEq + Send> Argument for Val<T> {
    type Slot = T;
    fn open(request: T, _: &Tables) -> Result<T, CuResult> {
        Ok(request)
    }
    fn argument(slot: &mut T) -> T {
        *slot
    }
    fn close(_: T, _: &mut Tables, _: u32) -> Result<(), CuResult> {
        Ok(())
    }
}

impl<const BYTES: usize> Argument for Span<BYTES> {
    type Slot = usize;
    fn open(request: usize, _: &Tables) -> Result<usize, CuResult> {
        Ok(request)
    }
    fn argument(slot: &mut usize) -> usize {
        *slot
    }
    fn span(slot: &usize) -> Option<u64> {
        Some((*slot as u64).saturating_mul(BYTES as u64))
    }
    fn close(_: usize, _: &mut Tables, _: u32) -> Result<(), CuResult> {
        Ok(())
    }
}

impl<T: Copy + Codec + std::fmt::Debug + PartialEq + Send + Default> Argument for Out<T> {
    type Slot = T;
    fn open(_: (), _: &Tables) -> Result<T, CuResult> {
        Ok(T::default())
    }
    fn argument(slot: &mut T) -> *mut T {
        slot
    }
    fn close(slot: T, _: &mut Tables, _: u32) -> Result<T, CuResult> {
        Ok(slot)
    }
}

impl<T: Copy + Codec + std::fmt::Debug + PartialEq + Send + Default> Argument for Opt<T> {
    type Slot = T;
    fn open(_: (), _: &Tables) -> Result<T, CuResult> {
        Ok(T::default())
    }
    fn argument(slot: &mut T) -> *mut T {
        slot
    }
    fn close(slot: T, _: &mut Tables, _: u32) -> Result<T, CuResult> {
        Ok(slot)
    }
}

impl<K: Named> Argument for Use<K> {
    type Slot = Native;
    fn open(request: Id<K>, tables: &Tables) -> Result<Native, CuResult> {
        K::find(tables, request)
    }
    fn argument(slot: &mut Native) -> Handle {
        slot.handle()
    }
    fn stream(slot: &Native) -> Option<Native> {
        (K::TAG == Stream::TAG).then_some(*slot)
    }
    fn close(_: Native, _: &mut Tables, _: u32) -> Result<(), CuResult> {
        Ok(())
    }
}

/// A handle that is about to be.
pub struct Fresh {
    index: u32,
    /// Where the driver writes it: a number, so that the slot may cross threads.
    native: usize,
}

impl<K: Named> Argument for New<K> {
    type Slot = Fresh;
    fn open(request: Id<K>, tables: &Tables) -> Result<Fresh, CuResult> {
        K::check_free(tables, request)?;
        Ok(Fresh {
            index: request.0,
            native: 0,
        })
    }
    fn argument(slot: &mut Fresh) -> *mut Handle {
        (&raw mut slot.native).cast()
    }
    fn close(slot: Fresh, tables: &mut Tables, context: u32) -> Result<(), CuResult> {
        let native = Native::from(slot.native as Handle);
        K::insert(tables, Id::new(slot.index), context, native)
    }
}

impl<K: Named> Argument for End<K> {
    type Slot = (u32, Native);
    fn open(request: Id<K>, tables: &Tables) -> Result<(u32, Native), CuResult> {
        Ok((request.0, K::find(tables, request)?))
    }
    fn argument(slot: &mut (u32, Native)) -> Handle {
        slot.1.handle()
    }
    fn ended(slot: &(u32, Native)) -> Option<Native> {
        (K::TAG == Stream::TAG).then_some(slot.1)
    }
    fn close(slot: (u32, Native), tables: &mut Tables, _: u32) -> Result<(), CuResult> {
        K::remove(tables, Id::new(slot.0)).map(|_| ())
    }
}
