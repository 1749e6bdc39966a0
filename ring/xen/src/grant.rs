//! Pages shared between domains: those we granted, those we mapped, and their memory.
//!
//! The values here own what they stand for and give it back when dropped. Nothing here ever makes
//! a reference to shared bytes: the peer writes to them at any time.

use std::fmt;
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{MapFlags, ProtFlags};
use serde::{Deserialize, Serialize};

use crate::PAGE_SIZE;
use crate::event::EventChannel;
use crate::platform::{Error, Result};

/// A grant reference: the number by which a granted page is known to the domain it is granted to.
#[derive(
    Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Gref(pub u32);

impl fmt::Display for Gref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Gref {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Gref, Self::Err> {
        text.parse().map(Gref)
    }
}

/// What a peer may do with granted pages, or what a mapping is for.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Reading alone.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::ReadOnly => "reading",
            Access::ReadWrite => "reading and writing",
        })
    }
}

/// A run of pages that any process holding it can map: how a daemon hands shared memory to another
/// process.
#[derive(Clone, Debug)]
pub struct Extent {
    /// What to map.
    pub fd: Arc<OwnedFd>,
    /// Where in it, in bytes.
    pub offset: u64,
    /// How many pages of [`PAGE_SIZE`] bytes.
    pub pages: u32,
}

/// The platform's hold on a run of granted or mapped pages; dropping it gives them back.
pub(crate) trait Hold: Send + Sync + fmt::Debug {
    /// See [`Granted::set_unmap_notify`]. `offset` is within the pages.
    fn set_unmap_notify(&self, offset: u64, event: Option<&EventChannel>) -> Result<()>;
}

fn pages_of(extents: &[Extent]) -> u32 {
    extents
        .iter()
        .fold(0, |sum, extent| sum.saturating_add(extent.pages))
}

fn offset_within(extents: &[Extent], offset: usize) -> Result<u64> {
    let len = pages_of(extents) as usize * PAGE_SIZE;
    if offset < len {
        Ok(offset as u64)
    } else {
        Err(Error::Invalid(format!(
            "unmap notification at byte {offset}: the pages end at byte {len}"
        )))
    }
}

/// Pages this process granted to a peer.
///
/// Dropping it takes the grant back. The memory itself is freed once no process maps it any more
/// and the peer has unmapped it; until then it may count towards the domain's limit.
#[derive(Debug)]
pub struct Granted {
    // Before `extents`: the hold uses the descriptor that they keep open.
    hold: Box<dyn Hold>,
    grefs: Vec<Gref>,
    extents: Vec<Extent>,
}

impl Granted {
    pub(crate) fn new(hold: Box<dyn Hold>, grefs: Vec<Gref>, extents: Vec<Extent>) -> Granted {
        Granted {
            hold,
            grefs,
            extents,
        }
    }

    /// The grant references, one a page, in the order of the pages.
    pub fn grefs(&self) -> &[Gref] {
        &self.grefs
    }

    /// The memory, to be mapped by another process of this domain.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// How many pages these are.
    pub fn pages(&self) -> u32 {
        pages_of(&self.extents)
    }

    /// Maps the pages into this process, for reading and writing, as often as wanted.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn mmap(&self) -> Result<Mapping> {
        Mapping::from_extents(&self.extents, Access::ReadWrite)
    }

    /// When this end goes away, by being dropped or by this process dying, and no process of this
    /// domain maps the pages any more: the byte at `offset` becomes 0, then `event`'s peer is
    /// signalled. A second call replaces the first.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `offset` is not within the pages.
    pub fn set_unmap_notify(&self, offset: usize, event: Option<&EventChannel>) -> Result<()> {
        self.hold
            .set_unmap_notify(offset_within(&self.extents, offset)?, event)
    }
}

/// Pages that a peer granted, held by this process.
///
/// Linux maps a batch of grants once, whether that goes well or not: either [`GrantMap::mmap`] here
/// or [`Mapping::from_extents`] in the process that was handed the extents, then never again. Keep
/// the value as long as another process uses its extents; drop the mapping before it.
#[derive(Debug)]
pub struct GrantMap {
    hold: Box<dyn Hold>,
    access: Access,
    extents: Vec<Extent>,
    mapped: AtomicBool,
}

impl GrantMap {
    pub(crate) fn new(hold: Box<dyn Hold>, access: Access, extents: Vec<Extent>) -> GrantMap {
        GrantMap {
            hold,
            access,
            extents,
            mapped: AtomicBool::new(false),
        }
    }

    /// The memory, to be mapped by a worker process instead of this one.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// How many pages these are.
    pub fn pages(&self) -> u32 {
        pages_of(&self.extents)
    }

    /// Maps the pages into this process, for the access that they were asked for.
    ///
    /// # Errors
    /// [`Error::NotGranted`] if the peer did not grant one of them; [`Error::Invalid`] the second
    /// time.
    pub fn mmap(&self) -> Result<Mapping> {
        if self.mapped.swap(true, Ordering::Relaxed) {
            return Err(Error::Invalid(
                "a batch of grants is mapped only once; ask the platform for another map of it"
                    .into(),
            ));
        }
        Mapping::from_extents(&self.extents, self.access)
    }

    /// When the pages are unmapped here, because everything that holds them was dropped or died:
    /// the byte at `offset` becomes 0, then `event`'s peer is signalled. A second call replaces the
    /// first.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `offset` is not within the pages, or they are held for reading.
    pub fn set_unmap_notify(&self, offset: usize, event: Option<&EventChannel>) -> Result<()> {
        if self.access == Access::ReadOnly {
            return Err(Error::Invalid(
                "unmap notification: a byte of pages held for reading cannot be cleared".into(),
            ));
        }
        self.hold
            .set_unmap_notify(offset_within(&self.extents, offset)?, event)
    }
}

/// Extents mapped one after the other in our address space, unmapped on drop.
///
/// It knows a pointer and a length. Whoever reads or writes through the pointer does so without
/// references and expects the peer to change the bytes at any time.
#[derive(Debug)]
pub struct Mapping {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: a Mapping is an address range that it alone unmaps; the range is valid in every thread.
unsafe impl Send for Mapping {}
// SAFETY: its methods only return the address and the length.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps extents, contiguous and in their order.
    ///
    /// # Errors
    /// [`Error::NotGranted`] where real Xen finds that a page is not granted or not for this
    /// access; [`Error::Invalid`] for no pages; [`Error::Io`] if the system refuses.
    pub fn from_extents(extents: &[Extent], access: Access) -> Result<Mapping> {
        let pages = extents
            .iter()
            .try_fold(0u32, |sum, extent| sum.checked_add(extent.pages))
            .filter(|&pages| pages > 0 && extents.iter().all(|extent| extent.pages > 0))
            .ok_or_else(|| Error::Invalid("mapping: extents with no pages, or too many".into()))?;
        let len = pages as usize * PAGE_SIZE;
        let protection = match access {
            Access::ReadOnly => ProtFlags::READ,
            Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };

        if let [extent] = extents {
            // SAFETY: the kernel chooses an unused address range, so nothing of ours is replaced.
            let at = unsafe {
                rustix::mm::mmap(
                    ptr::null_mut(),
                    len,
                    protection,
                    MapFlags::SHARED,
                    &*extent.fd,
                    extent.offset,
                )
            }
            .map_err(|errno| refused(extent, access, errno))?;
            return Mapping::over(at.cast(), len);
        }

        // Reserve the whole range first, so that the pieces laid into it replace nothing else.
        // SAFETY: the kernel chooses an unused address range.
        let reserved = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                len,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(|errno| Error::io(format!("reserving {len} bytes of addresses"), errno))?;
        // From here on the range is unmapped whatever happens, pieces included.
        let mapping = Mapping::over(reserved.cast(), len)?;
        let mut done = 0;
        for extent in extents {
            let piece = extent.pages as usize * PAGE_SIZE;
            // SAFETY: [done, done + piece) lies within the range reserved above, which is ours and
            // holds no object, as the pieces add up to `len`.
            unsafe {
                rustix::mm::mmap(
                    mapping.at.as_ptr().add(done).cast(),
                    piece,
                    protection,
                    MapFlags::SHARED | MapFlags::FIXED,
                    &*extent.fd,
                    extent.offset,
                )
            }
            .map_err(|errno| refused(extent, access, errno))?;
            done += piece;
        }
        Ok(mapping)
    }

    fn over(at: *mut u8, len: usize) -> Result<Mapping> {
        match NonNull::new(at) {
            Some(at) => Ok(Mapping { at, len }),
            None => Err(Error::Invalid("mapping: the system mapped page 0".into())),
        }
    }

    /// Where the memory begins, page-aligned.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.at
    }

    /// Its length in bytes, a multiple of [`PAGE_SIZE`] and never 0.
    #[allow(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `from_extents` and nothing else unmaps it; users of the
        // pointer keep this value alive.
        let result = unsafe { rustix::mm::munmap(self.at.as_ptr().cast(), self.len) };
        if let Err(errno) = result {
            tracing::error!(address = ?self.at, bytes = self.len, %errno, "cannot unmap shared pages");
        }
    }
}

/// gntdev asks Xen for the pages only in mmap, and reports a refusal as EINVAL; a descriptor that
/// is for reading reports EACCES.
fn refused(extent: &Extent, access: Access, errno: rustix::io::Errno) -> Error {
    use rustix::io::Errno;
    let what = format!(
        "{} pages at offset {:#x} cannot be mapped for {access}: {errno}",
        extent.pages, extent.offset,
    );
    match errno {
        Errno::INVAL | Errno::ACCESS | Errno::PERM => Error::NotGranted { what },
        _ => Error::io(what, errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    fn memory(pages: u32) -> Arc<OwnedFd> {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, u64::from(pages) * PAGE_SIZE as u64).unwrap();
        Arc::new(fd)
    }

    fn extent(fd: &Arc<OwnedFd>, page: u64, pages: u32) -> Extent {
        Extent {
            fd: fd.clone(),
            offset: page * PAGE_SIZE as u64,
            pages,
        }
    }

    #[test]
    fn extents_are_contiguous_in_their_order() {
        let (a, b) = (memory(3), memory(2));
        let mapping = Mapping::from_extents(
            &[extent(&a, 2, 1), extent(&b, 0, 2), extent(&a, 0, 1)],
            Access::ReadWrite,
        )
        .unwrap();
        assert_eq!(mapping.len(), 4 * PAGE_SIZE);
        for page in 0..4u8 {
            // SAFETY: four pages are mapped and nobody else uses them.
            unsafe {
                mapping
                    .as_ptr()
                    .add(usize::from(page) * PAGE_SIZE)
                    .write_volatile(page + 1)
            };
        }
        let mut byte = [0];
        for (fd, page, expected) in [(&a, 2, 1), (&b, 0, 2), (&b, 1, 3), (&a, 0, 4)] {
            rustix::io::pread(&**fd, &mut byte, page * PAGE_SIZE as u64).unwrap();
            assert_eq!(byte[0], expected);
        }
    }

    #[test]
    fn no_pages_and_too_many_are_refused() {
        let fd = memory(1);
        for extents in [
            vec![],
            vec![extent(&fd, 0, 0)],
            vec![extent(&fd, 0, 1), extent(&fd, 0, 0)],
            vec![extent(&fd, 0, u32::MAX), extent(&fd, 0, 1)],
        ] {
            let result = Mapping::from_extents(&extents, Access::ReadOnly);
            assert!(matches!(result, Err(Error::Invalid(_))), "{extents:?}");
        }
    }

    #[test]
    fn a_descriptor_for_reading_cannot_be_mapped_for_writing() {
        let fd = memory(1);
        let path = format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(fd.as_ref())
        );
        let reading: OwnedFd = std::fs::File::open(path).unwrap().into();
        let extents = [extent(&Arc::new(reading), 0, 1)];
        assert!(Mapping::from_extents(&extents, Access::ReadOnly).is_ok());
        let error = Mapping::from_extents(&extents, Access::ReadWrite).unwrap_err();
        assert!(matches!(error, Error::NotGranted { .. }), "{error:?}");
    }
}
