//! The handles that programs hold: what the guest names itself, and what it knows of it.
//!
//! A handle is a kind and an index, packed into a pointer that points nowhere. Must never accept a
//! handle of another kind or one that is no more.

use cuda_abi::{Context, CuResult, Event, Function, Handle, Kind, Module, Stream};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use vgpu_protocol::codec::Id;

/// Marks our handles: an address that no x86-64 program can have, so that one who follows it faults.
const MARK: u64 = 0x5647_0000_0000_0000;

/// The handle of an index.
pub fn to_c<K: Kind>(id: Id<K>) -> Handle {
    (MARK | u64::from(K::TAG) << 32 | u64::from(id.0)) as usize as Handle
}

/// The index of a handle, if it is of this kind.
pub fn from_c<K: Kind>(handle: Handle) -> Result<Id<K>, CuResult> {
    let value = handle as usize as u64;
    let index = value as u32;
    if value == MARK | u64::from(K::TAG) << 32 | u64::from(index) {
        Ok(Id::new(index))
    } else {
        Err(CuResult::INVALID_HANDLE)
    }
}

/// Locks what a panic cannot leave half-changed.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct Indices {
    /// Live indices, each with the context it belongs to.
    live: HashMap<u32, u32>,
    free: Vec<u32>,
    next: u32,
}

/// The live indices of each kind of handle that the guest names.
#[derive(Debug, Default)]
pub struct Handles {
    streams: Mutex<Indices>,
    events: Mutex<Indices>,
    modules: Mutex<Indices>,
    functions: Mutex<Indices>,
    contexts: Mutex<Indices>,
}

/// First index that is given out: below it are the driver's own streams and the primary contexts.
pub const FIRST_INDEX: u32 = 256;

/// A kind of handle that the guest names.
pub trait Named: Kind + Sized {
    #[doc(hidden)]
    fn indices(handles: &Handles) -> &Mutex<impl IndexTable>;
    /// The index of a handle that is live.
    fn open(handles: &Handles, handle: Handle) -> Result<Id<Self>, CuResult> {
        let id = from_c::<Self>(handle)?;
        if lock(Self::indices(handles)).is_live(id.0) {
            Ok(id)
        } else {
            Err(CuResult::INVALID_HANDLE)
        }
    }
    /// A new index in a context.
    fn reserve(handles: &Handles, context: u32) -> Id<Self> {
        Id::new(lock(Self::indices(handles)).reserve(context))
    }
    /// Takes an index back.
    fn release(handles: &Handles, id: Id<Self>) {
        lock(Self::indices(handles)).release(id.0);
    }
    /// The context that a live index belongs to.
    fn context(handles: &Handles, id: Id<Self>) -> Option<u32> {
        lock(Self::indices(handles)).context(id.0)
    }
}

/// What [`Named`] needs of the indices of a kind.
pub trait IndexTable {
    /// Whether an index is in use.
    fn is_live(&self, index: u32) -> bool;
    /// Takes an index.
    fn reserve(&mut self, context: u32) -> u32;
    /// Gives it back.
    fn release(&mut self, index: u32);
    /// Whose it is.
    fn context(&self, index: u32) -> Option<u32>;
}

impl IndexTable for Indices {
    fn is_live(&self, index: u32) -> bool {
        self.live.contains_key(&index)
    }
    fn reserve(&mut self, context: u32) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = self.next.max(FIRST_INDEX);
            self.next = index.saturating_add(1);
            index
        });
        self.live.insert(index, context);
        index
    }
    fn release(&mut self, index: u32) {
        if self.live.remove(&index).is_some() {
            self.free.push(index);
        }
    }
    fn context(&self, index: u32) -> Option<u32> {
        self.live.get(&index).copied()
    }
}

macro_rules! named {
    ($($kind:ident: $table:ident),*) => {$(
        impl Named for $kind {
            fn indices(handles: &Handles) -> &Mutex<impl IndexTable> {
                &handles.$table
            }
        }
    )*};
}
named!(Stream: streams, Event: events, Module: modules, Function: functions, Context: contexts);

impl Handles {
    /// Forgets everything that lived in a context.
    pub fn forget_context(&self, context: u32) {
        for table in [&self.streams, &self.events, &self.modules, &self.functions] {
            let mut indices = lock(table);
            let gone: Vec<u32> = indices
                .live
                .iter()
                .filter(|(_, owner)| **owner == context)
                .map(|(index, _)| *index)
                .collect();
            for index in gone {
                indices.release(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_good_for_its_kind_and_while_it_lives() {
        let handles = Handles::default();
        let id = Stream::reserve(&handles, 1);
        let handle = to_c(id);
        assert_eq!(Stream::open(&handles, handle), Ok(id));
        assert_eq!(Event::open(&handles, handle), Err(CuResult::INVALID_HANDLE));
        for garbage in [1usize, 3, 0xdead_beef, usize::MAX, MARK as usize] {
            assert!(Stream::open(&handles, garbage as Handle).is_err());
        }
        Stream::release(&handles, id);
        assert_eq!(
            Stream::open(&handles, handle),
            Err(CuResult::INVALID_HANDLE)
        );
    }

    #[test]
    fn indices_come_back_and_contexts_take_theirs_along() {
        let handles = Handles::default();
        let first = Event::reserve(&handles, 1);
        Event::release(&handles, first);
        Event::release(&handles, first);
        assert_eq!(Event::reserve(&handles, 1), first);
        let second = Event::reserve(&handles, 2);
        assert_ne!(first, second);
        handles.forget_context(1);
        assert!(Event::open(&handles, to_c(first)).is_err());
        assert!(Event::open(&handles, to_c(second)).is_ok());
    }
}
