//! What a guest may name: the driver's handles behind the indices that the guest chose.
//!
//! An index is good for one kind only and belongs to one context. Must never hand out a handle for an
//! index that the guest did not create, nor grow beyond a bound.

use crate::meter::Usual;
use cuda_abi::{Context, CuResult, Event, Function, Handle, Module, Stream};
use std::sync::Arc;
use vgpu_protocol::codec::Id;

/// Highest index of each kind. A CUDA program has thousands of events at most.
pub const INDEX_LIMIT: u32 = 1 << 20;

/// A driver's handle. It is a number here: nothing dereferences it but the driver.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub struct Native(usize);

impl Native {
    /// As the driver wants it.
    pub fn handle(self) -> Handle {
        self.0 as Handle
    }

    /// Of a stream: the default stream of a context under its first name, whatever its name.
    pub fn lane(self) -> Native {
        match self.0 {
            LEGACY => Native(0),
            _ => self,
        }
    }
}

/// `CU_STREAM_LEGACY`: another name of stream 0.
const LEGACY: usize = 1;

impl From<Handle> for Native {
    fn from(handle: Handle) -> Self {
        Native(handle as usize)
    }
}

#[derive(Clone, Debug)]
struct Entry<T> {
    context: u32,
    value: T,
}

/// The live handles of one kind.
#[derive(Debug)]
pub struct Table<T> {
    entries: Vec<Option<Entry<T>>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table {
            entries: Vec::new(),
        }
    }
}

impl<T> Table<T> {
    /// What stands behind an index.
    pub fn get(&self, index: u32) -> Result<&T, CuResult> {
        match self.entries.get(index as usize) {
            Some(Some(entry)) => Ok(&entry.value),
            _ => Err(CuResult::INVALID_HANDLE),
        }
    }

    /// Whether the guest may give this index to something new.
    pub fn check_free(&self, index: u32) -> Result<(), CuResult> {
        if index >= INDEX_LIMIT || self.get(index).is_ok() {
            return Err(CuResult::INVALID_HANDLE);
        }
        Ok(())
    }

    /// Gives an index, which [`Table::check_free`] allowed, to a value that lives in a context.
    pub fn insert(&mut self, index: u32, context: u32, value: T) -> Result<(), CuResult> {
        self.check_free(index)?;
        let position = index as usize;
        if self.entries.len() <= position {
            self.entries
                .resize_with(position.saturating_add(1), || None);
        }
        if let Some(place) = self.entries.get_mut(position) {
            *place = Some(Entry { context, value });
        }
        Ok(())
    }

    /// Takes an index back.
    pub fn remove(&mut self, index: u32) -> Result<T, CuResult> {
        let place = self
            .entries
            .get_mut(index as usize)
            .ok_or(CuResult::INVALID_HANDLE)?;
        place
            .take()
            .map(|entry| entry.value)
            .ok_or(CuResult::INVALID_HANDLE)
    }

    /// Takes all indices back whose values a condition holds for.
    pub fn remove_where(&mut self, mut condition: impl FnMut(u32, &T) -> bool) {
        for place in &mut self.entries {
            if place
                .as_ref()
                .is_some_and(|entry| condition(entry.context, &entry.value))
            {
                *place = None;
            }
        }
    }
}

/// A kernel and the layout of its parameters.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The driver's handle.
    pub native: Native,
    /// The module it is in.
    pub module: u32,
    /// Offset and size of each parameter, in bytes.
    pub params: Vec<(u32, u32)>,
    /// What a launch of it usually takes.
    pub usual: Arc<Usual>,
}

/// All that a guest process may name.
#[derive(Debug, Default)]
pub struct Tables {
    /// Contexts.
    pub contexts: Table<Native>,
    /// Streams.
    pub streams: Table<Native>,
    /// Events.
    pub events: Table<Native>,
    /// Modules.
    pub modules: Table<Native>,
    /// Kernels.
    pub functions: Table<Kernel>,
}

impl Tables {
    /// Forgets everything that lived in a context.
    pub fn forget_context(&mut self, context: u32) {
        self.streams.remove_where(|owner, _| owner == context);
        self.events.remove_where(|owner, _| owner == context);
        self.modules.remove_where(|owner, _| owner == context);
        self.functions.remove_where(|owner, _| owner == context);
    }
}

/// A kind of handle that has a table, or that has none for a value of its own.
pub trait Named: cuda_abi::Kind + Sized {
    /// The driver's handle behind an index.
    fn find(tables: &Tables, id: Id<Self>) -> Result<Native, CuResult>;
    /// Whether an index may be given to something new.
    fn check_free(tables: &Tables, id: Id<Self>) -> Result<(), CuResult>;
    /// Gives an index to a new handle.
    fn insert(
        tables: &mut Tables,
        id: Id<Self>,
        context: u32,
        native: Native,
    ) -> Result<(), CuResult>;
    /// Takes an index back.
    fn remove(tables: &mut Tables, id: Id<Self>) -> Result<Native, CuResult>;
}

macro_rules! named {
    ($kind:ident, $table:ident) => {
        impl Named for $kind {
            fn find(tables: &Tables, id: Id<Self>) -> Result<Native, CuResult> {
                tables.$table.get(id.0).copied()
            }
            fn check_free(tables: &Tables, id: Id<Self>) -> Result<(), CuResult> {
                tables.$table.check_free(id.0)
            }
            fn insert(
                tables: &mut Tables,
                id: Id<Self>,
                context: u32,
                native: Native,
            ) -> Result<(), CuResult> {
                tables.$table.insert(id.0, context, native)
            }
            fn remove(tables: &mut Tables, id: Id<Self>) -> Result<Native, CuResult> {
                tables.$table.remove(id.0)
            }
        }
    };
}
named!(Context, contexts);
named!(Event, events);
named!(Module, modules);

/// Streams 0, 1 and 2 are the driver's own: null, legacy and per thread.
const DRIVER_STREAMS: u32 = 3;

impl Named for Stream {
    fn find(tables: &Tables, id: Id<Self>) -> Result<Native, CuResult> {
        if id.0 < DRIVER_STREAMS {
            return Ok(Native(id.0 as usize));
        }
        tables.streams.get(id.0).copied()
    }
    fn check_free(tables: &Tables, id: Id<Self>) -> Result<(), CuResult> {
        if id.0 < DRIVER_STREAMS {
            return Err(CuResult::INVALID_HANDLE);
        }
        tables.streams.check_free(id.0)
    }
    fn insert(
        tables: &mut Tables,
        id: Id<Self>,
        context: u32,
        native: Native,
    ) -> Result<(), CuResult> {
        tables.streams.insert(id.0, context, native)
    }
    fn remove(tables: &mut Tables, id: Id<Self>) -> Result<Native, CuResult> {
        tables.streams.remove(id.0)
    }
}

impl Named for Function {
    fn find(tables: &Tables, id: Id<Self>) -> Result<Native, CuResult> {
        tables.functions.get(id.0).map(|kernel| kernel.native)
    }
    fn check_free(tables: &Tables, id: Id<Self>) -> Result<(), CuResult> {
        tables.functions.check_free(id.0)
    }
    fn insert(
        tables: &mut Tables,
        id: Id<Self>,
        context: u32,
        native: Native,
    ) -> Result<(), CuResult> {
        tables.functions.insert(
            id.0,
            context,
            Kernel {
                native,
                module: 0,
                params: Vec::new(),
                usual: Arc::default(),
            },
        )
    }
    fn remove(tables: &mut Tables, id: Id<Self>) -> Result<Native, CuResult> {
        tables.functions.remove(id.0).map(|kernel| kernel.native)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native(n: usize) -> Native {
        Native(n)
    }

    #[test]
    fn an_index_is_good_while_it_lives_and_for_its_kind_only() {
        let mut tables = Tables::default();
        let stream = Id::<Stream>::new(7);
        assert_eq!(Stream::find(&tables, stream), Err(CuResult::INVALID_HANDLE));
        Stream::insert(&mut tables, stream, 1, native(70)).unwrap();
        assert_eq!(Stream::find(&tables, stream), Ok(native(70)));
        assert_eq!(
            Event::find(&tables, Id::new(7)),
            Err(CuResult::INVALID_HANDLE)
        );
        assert_eq!(
            Stream::insert(&mut tables, stream, 1, native(71)),
            Err(CuResult::INVALID_HANDLE)
        );
        assert_eq!(Stream::remove(&mut tables, stream), Ok(native(70)));
        assert_eq!(
            Stream::remove(&mut tables, stream),
            Err(CuResult::INVALID_HANDLE)
        );
    }

    #[test]
    fn indices_are_bounded_and_the_drivers_own_streams_are_kept() {
        let mut tables = Tables::default();
        assert!(Event::insert(&mut tables, Id::new(INDEX_LIMIT), 1, native(1)).is_err());
        assert!(Event::insert(&mut tables, Id::new(u32::MAX), 1, native(1)).is_err());
        assert!(Event::insert(&mut tables, Id::new(INDEX_LIMIT - 1), 1, native(1)).is_ok());
        for own in 0..DRIVER_STREAMS {
            assert!(Stream::check_free(&tables, Id::new(own)).is_err());
            assert_eq!(
                Stream::find(&tables, Id::new(own)),
                Ok(native(own as usize))
            );
            assert!(Stream::remove(&mut tables, Id::new(own)).is_err());
        }
    }

    #[test]
    fn what_lived_in_a_context_goes_with_it() {
        let mut tables = Tables::default();
        Event::insert(&mut tables, Id::new(3), 1, native(30)).unwrap();
        Event::insert(&mut tables, Id::new(4), 2, native(40)).unwrap();
        tables.forget_context(1);
        assert!(Event::find(&tables, Id::new(3)).is_err());
        assert!(Event::find(&tables, Id::new(4)).is_ok());
    }
}
