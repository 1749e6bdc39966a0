//! The shared memory of a channel as loom sees it: the same words under the same names, each one a
//! modelled atomic. It has no arena and no addresses, and must offer what `memory` offers.

use std::{ptr::NonNull, sync::Arc};

use crate::{
    Error, Layout, Side,
    layout::{RingId, Word},
    sync::{AtomicU8, AtomicU32, AtomicU64, Ordering},
};

/// Memory that two modelled threads share.
#[derive(Clone, Debug)]
pub struct SharedMemory(Arc<Model>);

#[derive(Debug)]
struct Model {
    header: Vec<AtomicU32>,
    retired: AtomicU64,
    live: [AtomicU8; 2],
    submission: Vec<AtomicU64>,
    completion: Vec<AtomicU64>,
}

impl SharedMemory {
    /// Zeroed memory for a channel of this layout.
    pub fn model(layout: Layout) -> Self {
        let ring = |bytes: u32| (0..bytes / 8).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Model {
            header: Word::ALL.iter().map(|_| AtomicU32::new(0)).collect(),
            retired: AtomicU64::new(0),
            live: [AtomicU8::new(0), AtomicU8::new(0)],
            submission: ring(layout.sq_bytes),
            completion: ring(layout.cq_bytes),
        }))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Pages {
    memory: SharedMemory,
    layout: Layout,
}

impl Pages {
    pub(crate) fn new(memory: SharedMemory, layout: Layout) -> Result<Self, Error> {
        layout.check()?;
        Ok(Self { memory, layout })
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn word(&self, word: Word) -> &AtomicU32 {
        &self.memory.0.header[word as usize]
    }

    pub(crate) fn retired(&self) -> &AtomicU64 {
        &self.memory.0.retired
    }

    pub(crate) fn live(&self, side: Side) -> &AtomicU8 {
        &self.memory.0.live[side as usize]
    }

    pub(crate) fn track(&self, ring: RingId) -> Track {
        Track {
            memory: self.memory.clone(),
            ring,
        }
    }

    pub(crate) fn arena(&self) -> Arena {
        Arena(())
    }
}

#[derive(Debug)]
pub(crate) struct Track {
    memory: SharedMemory,
    ring: RingId,
}

impl Track {
    pub(crate) fn load(&self, position: u32) -> u64 {
        self.word(position).load(Ordering::Relaxed)
    }

    pub(crate) fn store(&self, position: u32, value: u64) {
        self.word(position).store(value, Ordering::Relaxed);
    }

    fn word(&self, position: u32) -> &AtomicU64 {
        let words = match self.ring {
            RingId::Submission => &self.memory.0.submission,
            RingId::Completion => &self.memory.0.completion,
        };
        &words[(position as usize / 8) % words.len()]
    }
}

/// The arena: the model has none.
#[derive(Clone, Debug)]
pub struct Arena(());

impl Arena {
    /// Never in range.
    pub fn check(&self, _offset: u64, _len: u64) -> Option<NonNull<u8>> {
        None
    }

    pub(crate) fn as_ptr(&self) -> NonNull<u8> {
        NonNull::dangling()
    }
}

/// # Safety
/// As in `memory`.
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller vouches for both ranges.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) }
}
