//! The shared memory of a channel and the only code that touches it. Every access is an atomic of
//! the width the location always has, or a copy through a raw pointer; no `&[u8]` or `&T` of plain
//! data into it may ever exist, since the peer may write anything there at any moment.

use std::{
    any::Any,
    ptr::NonNull,
    sync::{Arc, atomic::Ordering},
};

use crate::{
    Error, Layout, Side,
    layout::{RETIRED_OFFSET, RingId, Word},
    sync::{AtomicU8, AtomicU32, AtomicU64},
};

/// Memory that the peer shares and may write at any time. Cloning it clones the handle.
#[derive(Clone)]
pub struct SharedMemory {
    base: NonNull<u8>,
    len: usize,
    _keep: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the memory is reached through atomics and raw copies only, which any thread may perform;
// `_keep` is Send and Sync and keeps the mapping alive wherever the handle goes.
unsafe impl Send for SharedMemory {}
// SAFETY: as for Send: nothing behind the handle is thread-bound or needs exclusive access.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Takes `len` bytes of shared memory at `base`.
    ///
    /// # Safety
    /// `base` is page-aligned. For as long as `keep` lives, the `len` bytes there are mapped
    /// readable and writable, and no reference to them exists anywhere in this process: others
    /// reach them only from other processes, through atomics or through another `SharedMemory`.
    pub unsafe fn new(base: NonNull<u8>, len: usize, keep: Arc<dyn Any + Send + Sync>) -> Self {
        Self {
            base,
            len,
            _keep: keep,
        }
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it starts in this process.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.base
    }
}

impl std::fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedMemory({} bytes at {:p})", self.len, self.base)
    }
}

/// Shared memory that is known to be large enough for its layout.
#[derive(Clone, Debug)]
pub(crate) struct Pages {
    memory: SharedMemory,
    layout: Layout,
}

impl Pages {
    pub(crate) fn new(memory: SharedMemory, layout: Layout) -> Result<Self, Error> {
        layout.check()?;
        if memory.len < layout.total_bytes() {
            return Err(Error::Mismatch {
                what: "the size of the shared memory",
                found: memory.len as u64,
                expected: layout.total_bytes() as u64,
            });
        }
        Ok(Self { memory, layout })
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn word(&self, word: Word) -> &AtomicU32 {
        // SAFETY: every Word's offset is a multiple of 4 inside the header page (tested), which
        // `new` found to be mapped; the location is only ever accessed as an atomic u32.
        unsafe { AtomicU32::from_ptr(self.memory.base.as_ptr().add(word.offset()).cast()) }
    }

    pub(crate) fn retired(&self) -> &AtomicU64 {
        // SAFETY: as in `word`, with 8 bytes at a multiple of 8.
        unsafe { AtomicU64::from_ptr(self.memory.base.as_ptr().add(RETIRED_OFFSET).cast()) }
    }

    pub(crate) fn live(&self, side: Side) -> &AtomicU8 {
        let offset = Layout::live_offset(side);
        // SAFETY: as in `word`, with one byte.
        unsafe { AtomicU8::from_ptr(self.memory.base.as_ptr().add(offset)) }
    }

    /// The words of one ring.
    pub(crate) fn track(&self, ring: RingId) -> Track {
        let offset = match ring {
            RingId::Submission => self.layout.sq_offset(),
            RingId::Completion => self.layout.cq_offset(),
        };
        Track {
            // SAFETY: the offset is inside the memory, by `new`.
            base: unsafe { self.memory.base.add(offset) }.cast(),
            mask: ring.bytes(&self.layout) - 1,
            _memory: self.memory.clone(),
        }
    }

    /// The arena, for whoever checks ranges in it.
    pub(crate) fn arena(&self) -> Arena {
        Arena {
            // SAFETY: the arena lies inside the memory, by `new`.
            base: unsafe { self.memory.base.add(self.layout.arena_offset()) },
            len: self.layout.arena_bytes as usize,
            _memory: self.memory.clone(),
        }
    }
}

/// The words of one ring, addressed by free-running byte position.
#[derive(Debug)]
pub(crate) struct Track {
    base: NonNull<AtomicU64>,
    mask: u32,
    _memory: SharedMemory,
}

// SAFETY: it is a SharedMemory with an address inside it, and hands out atomics only.
unsafe impl Send for Track {}

impl Track {
    pub(crate) fn load(&self, position: u32) -> u64 {
        self.word(position).load(Ordering::Relaxed)
    }

    pub(crate) fn store(&self, position: u32, value: u64) {
        self.word(position).store(value, Ordering::Relaxed);
    }

    fn word(&self, position: u32) -> &AtomicU64 {
        let index = ((position & self.mask) >> 3) as usize;
        // SAFETY: the mask keeps the index inside the ring, whose words are 8-byte aligned, mapped
        // as long as `_memory` lives and only ever accessed as atomic u64.
        unsafe { self.base.add(index).as_ref() }
    }
}

/// The arena of a channel as the back sees it: memory the front fills and reads at will.
#[derive(Clone, Debug)]
pub struct Arena {
    base: NonNull<u8>,
    len: usize,
    _memory: SharedMemory,
}

// SAFETY: it is a SharedMemory with an address inside it.
unsafe impl Send for Arena {}
// SAFETY: as for Send.
unsafe impl Sync for Arena {}

impl Arena {
    /// The address of `len` bytes at `offset`, or `None` if they do not all lie in the arena or are
    /// none. The front may change them at any time: copy first, then judge the copy; make no
    /// reference to them. The address is good while this arena (or a clone of it) lives.
    pub fn check(&self, offset: u64, len: u64) -> Option<NonNull<u8>> {
        let end = offset.checked_add(len)?;
        if len == 0 || end > self.len as u64 {
            return None;
        }
        // SAFETY: offset < end <= len, so the address lies in the arena.
        Some(unsafe { self.base.add(usize::try_from(offset).ok()?) })
    }

    /// Where the arena starts in this process: to register it with a driver.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the channel has no arena.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Copies `len` bytes from `from` to `to`, one of which is shared memory.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes, and the two do not overlap.
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the caller vouches for both ranges; the direction flag is clear on entry to asm. The
    // copy is one opaque machine operation, so a peer that writes meanwhile changes the bytes that
    // arrive and nothing else.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    for at in 0..len {
        // SAFETY: the caller vouches for both ranges; a volatile access is made exactly once.
        unsafe {
            to.add(at).write_volatile(from.add(at).read_volatile());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Layout, inproc, memory::Pages};

    #[test]
    fn the_arena_checks_ranges() {
        let layout = Layout::new(4096, 4096, 8192).unwrap();
        let pages = Pages::new(inproc::memory(layout.total_bytes()), layout).unwrap();
        let arena = pages.arena();
        assert_eq!(arena.check(0, 8192), Some(arena.as_ptr()));
        assert!(arena.check(8191, 1).is_some());
        for (offset, len) in [
            (0, 0),
            (8192, 0),
            (8192, 1),
            (0, 8193),
            (8191, 2),
            (1, u64::MAX),
            (u64::MAX, 1),
            (u64::MAX, u64::MAX),
        ] {
            assert!(arena.check(offset, len).is_none(), "{offset} {len}");
        }
    }

    #[test]
    fn memory_that_is_too_small_is_refused() {
        let layout = Layout::new(4096, 4096, 8192).unwrap();
        assert!(Pages::new(inproc::memory(layout.total_bytes() - 4096), layout).is_err());
    }
}
