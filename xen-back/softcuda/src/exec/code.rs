//! Memory that machine code is put in: written once, then readable and executable, never both writable
//! and executable.

use std::ffi::c_void;
use std::io;
use std::ptr;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// A multiple of every host's page size.
const PAGES: usize = 1 << 16;

/// Machine code of a module, ready to run.
#[derive(Debug)]
pub(super) struct CodeMemory {
    start: *mut c_void,
    bytes: usize,
}

// SAFETY: the memory is constant once made, and freed by its one owner.
unsafe impl Send for CodeMemory {}
// SAFETY: as for Send.
unsafe impl Sync for CodeMemory {}

impl CodeMemory {
    /// Copies code to executable memory.
    pub(super) fn new(code: &[u8]) -> io::Result<Self> {
        let bytes = code.len().max(1).next_multiple_of(PAGES);
        // SAFETY: a new private mapping at a place of the kernel's choice.
        let start = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        let memory = Self { start, bytes };
        // SAFETY: the mapping is at least as long as the code, writable, and nobody else knows it.
        unsafe {
            start
                .cast::<u8>()
                .copy_from_nonoverlapping(code.as_ptr(), code.len())
        };
        // SAFETY: the mapping is ours alone.
        unsafe { mprotect(start, bytes, MprotectFlags::READ | MprotectFlags::EXEC) }?;
        flush_instructions(start, bytes);
        Ok(memory)
    }

    /// The address of a place in the code.
    pub(super) fn at(&self, offset: usize) -> *const c_void {
        debug_assert!(offset < self.bytes);
        self.start
            .cast::<u8>()
            .wrapping_add(offset)
            .cast::<c_void>()
            .cast_const()
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours; whoever ran its code borrowed `self`.
        let unmapped = unsafe { munmap(self.start, self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Makes new code visible to instruction fetch; x86 does it by itself.
#[cfg(target_arch = "x86_64")]
fn flush_instructions(_: *mut c_void, _: usize) {}

#[cfg(target_arch = "aarch64")]
fn flush_instructions(start: *mut c_void, bytes: usize) {
    // The least line size that the architecture allows.
    const LINE: usize = 16;
    for offset in (0..bytes).step_by(LINE) {
        let line = start.cast::<u8>().wrapping_add(offset);
        // SAFETY: cache maintenance on a mapped address.
        unsafe { std::arch::asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", in(reg) line) };
    }
    // SAFETY: barriers only.
    unsafe { std::arch::asm!("dsb ish", "isb") };
}
