//! Handles: numbers that a program holds for our objects. A table of the live ones decides what a
//! number means, and a number is never used twice; so a stale or made-up handle is an error, never a
//! crash. Must never turn a handle into a pointer.

use cuda_abi::{Handle, Kind};
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// The live objects of one kind.
pub struct Table<K, T> {
    next: AtomicU64,
    live: RwLock<HashMap<u64, Arc<T>>>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind, T> Table<K, T> {
    /// A table without objects.
    pub fn new() -> Self {
        Table {
            next: AtomicU64::new(1),
            live: RwLock::new(HashMap::new()),
            kind: PhantomData,
        }
    }

    /// A number for a new object. It looks like an aligned pointer outside what a process can map,
    /// with the kind in its upper part, for people who read traces.
    pub fn number(&self) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (u64::from(K::TAG) << 56) | (number << 4)
    }

    /// Makes the number mean the object.
    pub fn insert(&self, number: u64, object: Arc<T>) {
        self.live
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(number, object);
    }

    /// The object of a handle, if it is live.
    pub fn get(&self, handle: Handle) -> Option<Arc<T>> {
        self.live
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(handle as u64))
            .cloned()
    }

    /// A live object, and its number.
    pub fn find(&self, wanted: impl Fn(&T) -> bool) -> Option<(u64, Arc<T>)> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let found = live.iter().find(|(_, object)| wanted(object));
        found.map(|(number, object)| (*number, Arc::clone(object)))
    }

    /// Ends a handle; its object, if it was live.
    pub fn remove(&self, handle: Handle) -> Option<Arc<T>> {
        self.live
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(handle as u64))
    }

    /// Ends all handles whose object is `doomed`; the objects.
    pub fn remove_if(&self, doomed: impl Fn(&T) -> bool) -> Vec<Arc<T>> {
        self.live
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .extract_if(|_, object| doomed(object))
            .map(|(_, object)| object)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cuda_abi::{Event, Stream};

    #[test]
    fn numbers_are_not_reused_and_kinds_do_not_mix() {
        let streams: Table<Stream, u8> = Table::new();
        let events: Table<Event, u8> = Table::new();
        let number = streams.number();
        assert_ne!(number, events.number());
        streams.insert(number, Arc::new(7));
        let handle = number as Handle;
        assert_eq!(streams.get(handle).as_deref(), Some(&7));
        assert!(events.get(handle).is_none());
        assert_eq!(streams.remove(handle).as_deref(), Some(&7));
        assert!(streams.get(handle).is_none() && streams.remove(handle).is_none());
        assert_ne!(streams.number(), number);
        assert!(streams.get(std::ptr::null_mut()).is_none());
    }
}
