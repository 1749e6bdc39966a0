//! The front's side of the arena: who holds which piece, and the copies in and out. The books are
//! private memory; nothing the back writes can change them, except that it retires tickets.

use std::collections::BTreeMap;

use crate::{Error, Front, Ticket, memory};

/// Pieces start and end at cache lines.
const GRANULE: u32 = 64;

/// Which parts of the arena are free, and which become free when the back retires a ticket.
#[derive(Debug)]
pub(crate) struct Allocator {
    /// Offset to length; no two touch.
    free: BTreeMap<u32, u32>,
    leaving: BTreeMap<(Ticket, u32), u32>,
    /// Pieces that some thread holds.
    pub(crate) held: usize,
    /// Threads that wait for a piece.
    pub(crate) waiting: usize,
}

impl Allocator {
    pub(crate) fn new(bytes: u32) -> Self {
        Self {
            free: (bytes > 0).then_some((0, bytes)).into_iter().collect(),
            leaving: BTreeMap::new(),
            held: 0,
            waiting: 0,
        }
    }

    /// The first free piece of `len` bytes, after everything is taken back that left with tickets up
    /// to `retired`. `len` is more than 0 and at most a quarter of the arena.
    pub(crate) fn take(&mut self, len: u32, retired: Ticket) -> Option<u32> {
        while let Some(entry) = self.leaving.first_entry()
            && entry.key().0 <= retired
        {
            let ((_, offset), len) = entry.remove_entry();
            self.give(offset, len);
        }
        let len = len.next_multiple_of(GRANULE);
        let (&offset, &room) = self.free.iter().find(|&(_, &room)| room >= len)?;
        self.free.remove(&offset);
        if room > len {
            self.free.insert(offset + len, room - len);
        }
        self.held += 1;
        Some(offset)
    }

    /// The holder is done with a piece: free now, or when `after` retires.
    fn leave(&mut self, offset: u32, len: u32, after: Option<Ticket>) {
        let len = len.next_multiple_of(GRANULE);
        self.held -= 1;
        match after {
            None => self.give(offset, len),
            Some(ticket) => {
                self.leaving.insert((ticket, offset), len);
            }
        }
    }

    fn give(&mut self, mut offset: u32, mut len: u32) {
        if let Some((&before, &room)) = self.free.range(..offset).next_back()
            && before + room == offset
        {
            self.free.remove(&before);
            (offset, len) = (before, room + len);
        }
        if let Some(room) = self.free.remove(&(offset + len)) {
            len += room;
        }
        self.free.insert(offset, len);
    }
}

/// A piece of the arena that belongs to one transfer. Dropping it frees it at once: right after an
/// answer that says the back is done with it, or when it was never submitted. After a submission
/// that nobody waits for, use [`Staged::release_at`].
#[derive(Debug)]
pub struct Staged<'a> {
    front: &'a Front,
    offset: u32,
    len: u32,
    after: Option<Ticket>,
}

impl<'a> Staged<'a> {
    pub(crate) fn new(front: &'a Front, offset: u32, len: u32) -> Self {
        Self {
            front,
            offset,
            len,
            after: None,
        }
    }

    /// Where it starts, in bytes from the start of the arena: what a submission carries.
    pub fn offset(&self) -> u64 {
        self.offset.into()
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Never: nothing of no length is staged.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies `data` to the start of it.
    ///
    /// # Errors
    /// [`Error::TooLong`] if it does not fit.
    pub fn write(&self, data: &[u8]) -> Result<(), Error> {
        // SAFETY: a slice is readable for its length.
        unsafe { self.write_from(0, data.as_ptr(), data.len()) }
    }

    /// Copies from the start of it into all of `out`.
    ///
    /// # Errors
    /// [`Error::TooLong`] if it holds fewer bytes.
    pub fn read(&self, out: &mut [u8]) -> Result<(), Error> {
        // SAFETY: a mutable slice is writable for its length.
        unsafe { self.read_into(0, out.as_mut_ptr(), out.len()) }
    }

    /// Copies `len` bytes from the program's memory to `at` bytes into it.
    ///
    /// # Errors
    /// [`Error::TooLong`] if they do not fit.
    ///
    /// # Safety
    /// `from` is readable for `len` bytes. Other threads may write there meanwhile: then which bytes
    /// arrive is undefined, and nothing else.
    pub unsafe fn write_from(&self, at: usize, from: *const u8, len: usize) -> Result<(), Error> {
        let to = self.place(at, len)?;
        // SAFETY: `place` found room for `len` bytes; the caller vouches for `from`, which cannot
        // overlap shared memory that only this crate knows.
        unsafe { memory::copy(from, to, len) };
        Ok(())
    }

    /// Copies `len` bytes from `at` bytes into it to the program's memory.
    ///
    /// # Errors
    /// [`Error::TooLong`] if it holds fewer bytes.
    ///
    /// # Safety
    /// `to` is writable for `len` bytes.
    pub unsafe fn read_into(&self, at: usize, to: *mut u8, len: usize) -> Result<(), Error> {
        let from = self.place(at, len)?;
        // SAFETY: as in `write_from`, the other way round.
        unsafe { memory::copy(from, to, len) };
        Ok(())
    }

    /// Gives it back when the back has retired `ticket`: the submission that uses it.
    pub fn release_at(mut self, ticket: Ticket) {
        self.after = Some(ticket);
    }

    fn place(&self, at: usize, len: usize) -> Result<*mut u8, Error> {
        if at.checked_add(len).is_none_or(|end| end > self.len()) {
            return Err(Error::TooLong {
                len,
                max: self.len().saturating_sub(at),
            });
        }
        // SAFETY: the allocator gave out offset..offset + len inside the arena, and at <= len.
        Ok(unsafe {
            self.front
                .arena_base()
                .add(self.offset as usize + at)
                .as_ptr()
        })
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        let (offset, len, after) = (self.offset, self.len, self.after);
        self.front
            .with_arena(|arena| arena.leave(offset, len, after));
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Pieces never overlap, never leave the arena, and all of it comes back.
        #[test]
        fn pieces_are_disjoint_and_come_back(
            steps in prop::collection::vec((1u32..2048, 0usize..8, prop::option::of(1u64..20)), 1..200),
        ) {
            let mut arena = Allocator::new(8192);
            let mut held: Vec<(u32, u32)> = Vec::new();
            let mut leaving: Vec<(u32, u32, u64)> = Vec::new();
            for (step, (len, victim, after)) in steps.into_iter().enumerate() {
                let retired = step as u64 / 10;
                leaving.retain(|&(_, _, ticket)| ticket > retired);
                match arena.take(len, retired) {
                    Some(offset) => {
                        prop_assert!(offset + len <= 8192);
                        let taken = held.iter().copied().chain(leaving.iter().map(|l| (l.0, l.1)));
                        for (other, room) in taken {
                            prop_assert!(offset + len <= other || other + room <= offset);
                        }
                        held.push((offset, len));
                    }
                    None => prop_assert!(!held.is_empty() || !leaving.is_empty()),
                }
                prop_assert_eq!(arena.held, held.len());
                if victim < held.len() {
                    let (offset, len) = held.swap_remove(victim);
                    arena.leave(offset, len, after);
                    if let Some(ticket) = after {
                        leaving.push((offset, len, ticket));
                    }
                }
            }
            for (offset, len) in held.drain(..) {
                arena.leave(offset, len, None);
            }
            let whole = arena.take(8192, u64::MAX);
            prop_assert_eq!(whole, Some(0));
        }
    }
}
