//! Memory that vgpu-backd and workers map at once and read and write word by word: a memfd of a fixed size
//! that begins with a magic number and a version.
//!
//! What the words mean is each [`Layout`]'s affair. Must never hand out memory that is not wholly there, or
//! that could become shorter: the other process could kill this one by it.

use crate::packet::{self, PacketError, WireExtent};
use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create,
};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use xen::{Access, Extent, Mapping, PAGE_SIZE};

/// What every such memory begins with.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) magic: AtomicU32,
    pub(crate) version: AtomicU32,
}

/// What such memory holds.
///
/// # Safety
/// The type is `#[repr(C)]` and made of atomics alone, so that any bytes are a value of it and references to it
/// are sound whatever other processes write. Its alignment is that of a page at most.
pub(crate) unsafe trait Layout {
    /// What it is, with its article, for errors.
    const WHAT: &'static str;
    /// The memfd's name, for those who look at what a process has open.
    const NAME: &'static str;
    /// Its first word.
    const MAGIC: u32;
    /// Its second word.
    const VERSION: u32;

    /// Its first field.
    fn header(&self) -> &Header;
}

/// Pages of 4096 bytes of such memory.
pub(crate) const fn pages<L: Layout>() -> u32 {
    size_of::<L>().div_ceil(PAGE_SIZE) as u32
}

fn unfit<L: Layout>(why: &'static str) -> PacketError {
    let what = L::WHAT;
    PacketError::Shared { what, why }
}

/// Such memory, mapped.
pub(crate) struct SharedPage<L> {
    mapping: Mapping,
    layout: PhantomData<L>,
}

impl<L: Layout> SharedPage<L> {
    /// New memory, all zeros behind its header, and what others map it by.
    ///
    /// # Errors
    /// If the system has no memory or no descriptor for it.
    pub(crate) fn create() -> Result<(Self, Extent), PacketError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = memfd_create(L::NAME, flags).map_err(io::Error::from)?;
        let bytes = u64::from(pages::<L>()).saturating_mul(PAGE_SIZE as u64);
        ftruncate(&fd, bytes).map_err(io::Error::from)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&fd, seals).map_err(io::Error::from)?;
        let memory = Extent {
            fd: Arc::new(fd),
            offset: 0,
            pages: pages::<L>(),
        };
        let page = Self::map(&memory)?;
        page.header().magic.store(L::MAGIC, Ordering::Relaxed);
        page.header().version.store(L::VERSION, Ordering::Relaxed);
        Ok((page, memory))
    }

    /// The memory that a message names.
    ///
    /// # Errors
    /// If the message lacks the descriptor, or it is not such memory of this version.
    pub(crate) fn take(wire: &WireExtent, fds: &[Arc<OwnedFd>]) -> Result<Self, PacketError> {
        let page = Self::map(&packet::take_extent(wire, fds)?)?;
        if page.header().magic.load(Ordering::Relaxed) != L::MAGIC {
            return Err(unfit::<L>("does not begin as one"));
        }
        if page.header().version.load(Ordering::Relaxed) != L::VERSION {
            return Err(unfit::<L>(
                "has another version: vgpu-backd and vgpu-worker do not fit",
            ));
        }
        Ok(page)
    }

    fn map(memory: &Extent) -> Result<Self, PacketError> {
        const {
            assert!(size_of::<L>() > 0 && align_of::<L>() <= PAGE_SIZE);
        }
        if memory.pages != pages::<L>() || !memory.offset.is_multiple_of(PAGE_SIZE as u64) {
            return Err(unfit::<L>("has another size"));
        }
        // Sealed first, measured then: what is there now stays.
        let sealed = fcntl_get_seals(&*memory.fd);
        if !sealed.is_ok_and(|seals| seals.contains(SealFlags::SHRINK)) {
            return Err(unfit::<L>("can shrink"));
        }
        let held = fstat(&*memory.fd).map_err(io::Error::from)?.st_size;
        let bytes = u64::from(memory.pages).saturating_mul(PAGE_SIZE as u64);
        let end = memory.offset.checked_add(bytes);
        if end.is_none_or(|end| end > u64::try_from(held).unwrap_or(0)) {
            return Err(unfit::<L>("is not all there"));
        }
        Ok(SharedPage {
            mapping: Mapping::from_extents(std::slice::from_ref(memory), Access::ReadWrite)?,
            layout: PhantomData,
        })
    }
}

impl<L: Layout> fmt::Debug for SharedPage<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple(L::NAME).field(&self.mapping).finish()
    }
}

impl<L: Layout> Deref for SharedPage<L> {
    type Target = L;

    fn deref(&self) -> &L {
        // SAFETY: the mapping is page-aligned, which is enough for an L, as long as one (`map` checked both), can
        // be read and written, and is unmapped only when `self` goes. An L is atomics alone, for which any bytes are a
        // value, and which may change at any time. The memfd behind it was long enough when it was mapped and
        // cannot shrink, so that all of it is there.
        unsafe { self.mapping.as_ptr().cast::<L>().as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    /// Two pages and a little.
    #[derive(Debug)]
    #[repr(C)]
    struct Words {
        header: Header,
        each: [AtomicU64; 1030],
    }

    // SAFETY: atomics alone, in the order of C, aligned to 8 bytes.
    unsafe impl Layout for Words {
        const WHAT: &'static str = "a test";
        const NAME: &'static str = "vgpu-test";
        const MAGIC: u32 = 0x1234;
        const VERSION: u32 = 7;

        fn header(&self) -> &Header {
            &self.header
        }
    }

    fn named() -> (SharedPage<Words>, WireExtent, Vec<Arc<OwnedFd>>) {
        let (page, memory) = SharedPage::create().unwrap();
        let mut fds = Vec::new();
        let wire = packet::put_extent(&memory, &mut fds);
        (page, wire, fds)
    }

    fn refused(wire: &WireExtent, fds: &[Arc<OwnedFd>]) -> String {
        SharedPage::<Words>::take(wire, fds)
            .unwrap_err()
            .to_string()
    }

    /// A memfd of so many bytes.
    fn memfd(bytes: u64, seals: SealFlags) -> Vec<Arc<OwnedFd>> {
        let fd = memfd_create("vgpu-test", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&fd, bytes).unwrap();
        fcntl_add_seals(&fd, seals).unwrap();
        vec![Arc::new(fd)]
    }

    #[test]
    fn both_ends_see_the_same_words_and_zeros_at_first() {
        let (a, wire, fds) = named();
        let b = SharedPage::<Words>::take(&wire, &fds).unwrap();
        assert!(b.each.iter().all(|word| word.load(Ordering::Relaxed) == 0));
        a.each[1029].store(5, Ordering::Relaxed);
        assert_eq!(b.each[1029].load(Ordering::Relaxed), 5);
        assert_eq!((wire.offset, wire.pages), (0, 3));
    }

    #[test]
    fn another_size_or_place_is_refused() {
        let (_page, wire, fds) = named();
        for (offset, pages) in [(0, 2), (0, 4), (0, 0), (1, 3), (0, u32::MAX)] {
            let wire = WireExtent {
                fd: 0,
                offset,
                pages,
            };
            assert!(refused(&wire, &fds).contains("a test has another size"));
        }
        for offset in [4096, u64::MAX - 4095] {
            let wire = WireExtent {
                offset,
                ..wire.clone()
            };
            assert!(refused(&wire, &fds).contains("a test is not all there"));
        }
        let lacking = WireExtent { fd: 1, ..wire };
        assert!(refused(&lacking, &fds).contains("descriptor"));
    }

    #[test]
    fn another_magic_or_version_is_refused() {
        let (page, wire, fds) = named();
        page.header.version.store(8, Ordering::Relaxed);
        assert!(refused(&wire, &fds).contains("a test has another version"));
        page.header.version.store(7, Ordering::Relaxed);
        page.header.magic.store(0x1235, Ordering::Relaxed);
        assert!(refused(&wire, &fds).contains("a test does not begin as one"));
        page.header.magic.store(0x1234, Ordering::Relaxed);
        assert!(SharedPage::<Words>::take(&wire, &fds).is_ok());
    }

    #[test]
    fn a_memfd_that_is_shorter_than_the_message_says_is_refused() {
        let (_page, wire, _) = named();
        for bytes in [0, 4096, 3 * 4096 - 1] {
            let short = memfd(bytes, SealFlags::SHRINK);
            assert!(refused(&wire, &short).contains("a test is not all there"));
        }
        // Long enough, it is looked at.
        let zeros = memfd(3 * 4096, SealFlags::SHRINK);
        assert!(refused(&wire, &zeros).contains("does not begin"));
    }

    #[test]
    fn memory_that_can_shrink_is_refused_and_ours_cannot() {
        let (_page, wire, fds) = named();
        assert!(ftruncate(&*fds[0], 0).is_err());
        assert!(refused(&wire, &memfd(3 * 4096, SealFlags::GROW)).contains("can shrink"));
        // What is no memfd has no seals.
        let file = std::fs::File::open("/dev/zero").unwrap();
        assert!(refused(&wire, &[Arc::new(file.into())]).contains("can shrink"));
    }
}
